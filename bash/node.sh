#!/usr/bin/env bash
# One node's part of multinode.sbatch: starts its processes. Takes the program and its flags.
set -euo pipefail

source bash/common.sh
# shellcheck disable=SC2317 # `watch` calls it
when_to_stop() { echo 0; } # multinode.sbatch has waited

watch "${torchrun[@]}" --nnodes="$SLURM_NNODES" --node_rank="$SLURM_NODEID" \
  --rdzv_id="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" \
  --master_addr="$MASTER_ADDR" --master_port="$MASTER_PORT" "$@"
exit "$code"
