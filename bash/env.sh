# Your cluster and your environment: the one file to edit. `source bash/env.sh` before sbatch, which
# reads the SBATCH_ variables; the jobs source it as well, for the rest.
# shellcheck shell=bash

if [ -z "${SLURM_JOB_ID:-}" ]; then
  # --- what a job asks for ---
  # The options on sbatch's command line count more; `man sbatch` lists the variables.

  # export SBATCH_PARTITION=gpu
  # export SBATCH_ACCOUNT=my_project
  # export SBATCH_QOS=normal
  export SBATCH_TIMELIMIT=4:00:00 # of one start, not of the run; short jobs start sooner
  # export SBATCH_SIGNAL=B:USR1@600 # where saving takes longer than the 120 s of the scripts
  if [[ $(sinfo --noheader --format=%G 2>/dev/null) == *gpu* ]]; then
    export SBATCH_GPUS_PER_NODE=1
    # export SBATCH_CPUS_PER_GPU=8
  fi
else
  # --- the environment of the programs ---

  # module load cuda
  # source ~/miniconda3/bin/activate zilu
  if [ -f .venv/bin/activate ]; then source .venv/bin/activate; fi

  # Nodes without internet: nothing is to wait for it. docs/language.md says what to copy.
  export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TRANSFORMERS_OFFLINE=1
  # export HF_HOME=$PWD/Data/huggingface
  # export TORCH_EXTENSIONS_DIR=/scratch/$USER/torch_extensions # the kernels, built once
  # export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0 # the network between nodes
  export PYTHONUNBUFFERED=1 # the log is up to date
  # export PROCESSES_PER_NODE=2 # on nodes without GPUs; else one per GPU
fi
