# What the job scripts share: run folder and log, signals, going on after an interruption.
# A program that is interrupted saves, leaves the file CONTINUE in its run folder, and ends.
# shellcheck shell=bash

# In which second to heed a signal. From now on one only ends a `wait`; SIGTERM goes to all
# processes of the job, the commands below included.
stop_at=""
trap 'trap "" USR1; stop_at=$(when_to_stop)' USR1
trap 'trap "" USR1 TERM; stop_at=0' TERM

# SIGUSR1: at once, but not before the half of a time limit that is shorter than --signal's time.
# There SLURM sends it with the start, and nothing would be done.
when_to_stop() {
  local end left
  end=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%e)
  left=$(($(date --date="$end" +%s 2>/dev/null || echo 0) - $(date +%s)))
  if ((left > 0 && left <= 180)); then echo $(((SECONDS + left) / 2)); else echo 0; fi
}

set +u # other people's activation scripts
source bash/env.sh
set -u

processes=${SLURM_GPUS_ON_NODE:-0}
if ((processes == 0)); then processes=${PROCESSES_PER_NODE:-1}; fi
# Also keeps a program to its share of a node whose other CPUs are visible.
threads=$((SLURM_CPUS_ON_NODE / processes))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}

torchrun=(python -m torch.distributed.run "--nproc_per_node=$processes")

# expanded PATH: prints the path as the programs read it, where no shell has replaced its `~`, as in
# --output_dir=~/runs.
expanded() {
  case $1 in
    '~' | '~/'*) echo "$HOME${1#'~'}" ;;
    '~'* | *'$'*)
      echo "error: write the path out, no shell has replaced a part of it: $1" >&2
      return 2
      ;;
    *) echo "$1" ;;
  esac
}

# set_up_run FLAGS...: sets `run`, the run folder, and `flags`, those given with --output_dir and
# --resume; sends all further output to the log.
set_up_run() {
  local word previous="" resume=""
  run="" flags=("$@")
  for word in "$@" ""; do
    case $previous in
      --output_dir) run=$word ;;
      --output_dir=*) run=${previous#*=} ;;
      --resume) [[ $word == --* ]] || resume=$word ;;
      --resume=*) resume=${previous#*=} ;;
    esac
    previous=$word
  done
  run=$(expanded "$run") || exit
  resume=$(expanded "$resume") || exit
  if [ -z "$run" ]; then
    # `--resume FOLDER`, or a checkpoint in it, alone: the program goes on there.
    if [ -d "$resume" ]; then
      run=$resume
    elif [ -f "$resume" ]; then
      run=$(dirname "$resume")
    else
      run=Output/slurm/$SLURM_JOB_NAME-$SLURM_JOB_ID
    fi
    flags+=(--output_dir "$run")
  fi
  # The last --resume counts: every start goes on where the one before has ended.
  if [ -z "$resume" ]; then
    flags+=(--resume)
  elif [ -e "$run/checkpoint.pt" ]; then
    flags+=(--resume "$run")
  fi

  mkdir -p "$run"
  echo "Log: $run/slurm-$SLURM_JOB_ID.log"
  exec >>"$run/slurm-$SLURM_JOB_ID.log" 2>&1
  echo "--- job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, $(date), ${SLURM_RESTART_COUNT:-0} restarts"
  rm -f "$run/CONTINUE" # of an earlier start: the next failure would be taken for an interruption
  saved_before=$(saved)
}

# When the last checkpoint was saved.
saved() { stat --format=%y "$run/checkpoint.pt" 2>/dev/null || true; }

# watch COMMAND...: runs it to its end, and hands on a signal that asks it to save and end. Sets
# `code`, its exit code.
watch() {
  local pid
  # The program has a handler of its own, but not at once; torchrun has none, and would die.
  (
    trap '' USR1
    exec "$@"
  ) &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    if [ -z "$stop_at" ]; then
      wait "$pid" || true
      continue
    fi
    # Again and again, as a program that is starting does not listen yet.
    if ((SECONDS >= stop_at)); then
      kill -USR1 "$pid" 2>/dev/null || true
      if [[ $* == "${torchrun[*]}"* ]]; then pkill -USR1 -P "$pid" || true; fi
    fi
    sleep 1 || true
  done
  code=0
  wait "$pid" || code=$?
}

# Ends the job: back into the queue if the run wants to be continued, else with the exit code.
finish() {
  local stalls="$run/slurm-$SLURM_JOB_ID.stalls" state
  if [ "$(saved)" != "$saved_before" ] || [ ! -e "$run/CONTINUE" ]; then rm -f "$stalls"; fi
  if [ ! -e "$run/CONTINUE" ]; then exit "$code"; fi
  # scontrol and squeue fail now and then on a busy cluster.
  for _ in 1 2 3 4 5; do
    state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format='%T %r') && break
    sleep 10
  done
  case $state in
    RUNNING* | *TimeLimit) ;;
    *)
      echo "Interrupted; cancelled, or SLURM requeues the job by itself"
      exit "$code"
      ;;
  esac
  if [ "$(saved)" = "$saved_before" ]; then echo stalled >>"$stalls"; fi
  if [ -e "$stalls" ] && (($(wc -l <"$stalls") >= 3)); then
    rm "$stalls"
    echo "error: interrupted three times before a checkpoint was saved; give more --time" >&2
    exit 1
  fi
  echo "Interrupted; the job goes back into the queue"
  for _ in 1 2 3 4 5; do
    scontrol requeue "$SLURM_JOB_ID" && exit "$code"
    sleep 10
  done
  echo "error: the job cannot be requeued; submit it again with --output_dir $run" >&2
  exit "$code"
}
