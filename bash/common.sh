# What the job scripts share: run folder and log, signals, going on after an interruption.
# A program that is interrupted saves, writes the file that ZILU_CONTINUE names while it still has
# the run folder to itself, and ends.
# shellcheck shell=bash

# What squeue and scontrol call this job. SLURM_JOB_ID is not enough: the last task of an array has
# the array's own, which means all of its tasks there.
job=$SLURM_JOB_ID
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi

# In which second to heed a signal. From now on one only ends a `wait`; SIGTERM goes to all
# processes of the job, the commands below included.
stop_at=""
trap 'trap "" USR1; stop_at=$(when_to_stop)' USR1
trap 'trap "" USR1 TERM; stop_at=0' TERM

# SIGUSR1: at once, but not before the half of a time limit that is shorter than --signal's time.
# There SLURM sends it with the start, and nothing would be done.
when_to_stop() {
  local end left
  end=$(squeue --noheader --jobs="$job" --format=%e | head -n 1)
  left=$(($(date --date="$end" +%s 2>/dev/null || echo 0) - $(date +%s)))
  if ((left > 0 && left <= 180)); then echo $(((SECONDS + left) / 2)); else echo 0; fi
}

# Other people's activation scripts are written for a login shell, which goes on when a command
# fails. So does the job; a line of env.sh that fails is named, as what follows may be its fault.
line_failed() {
  if [ "${BASH_SOURCE[1]}" = bash/env.sh ]; then
    echo "warning: bash/env.sh, line ${BASH_LINENO[0]}, ended with code $1, the job goes on: $2" >&2
  fi
}
set +euo pipefail
trap 'line_failed $? "$BASH_COMMAND"' ERR
trap 'echo "error: bash/env.sh, or what it sources, ended the job with exit code $?" >&2' EXIT
source bash/env.sh
trap - ERR EXIT
set -euo pipefail

processes=${SLURM_GPUS_ON_NODE:-0}
if ((processes == 0)); then processes=${PROCESSES_PER_NODE:-1}; fi
# Also keeps a program to its share of a node whose other CPUs are visible.
threads=$((SLURM_CPUS_ON_NODE / processes))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}

torchrun=(python -m training.launch "--nproc_per_node=$processes")

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
  local word previous="" resume="" first reason
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

  log=$run/slurm-$SLURM_JOB_ID.log
  first="--- job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, $(date), ${SLURM_RESTART_COUNT:-0} restarts"
  # Into a full or read-only folder nothing can be written, its own error neither.
  reason=$(mkdir -p "$run" 2>&1 && { echo "$first" && sync "$log"; } 2>&1 >>"$log") || {
    echo "error: $log cannot be written (${reason##*: }); make room there and submit again" >&2
    exit 1
  }
  echo "Log: $log"
  exec 3>&1 >>"$log" 2>&1
  # The job's own, unlike CONTINUE, which the next program to go on with the run removes.
  export ZILU_CONTINUE=$run/slurm-$SLURM_JOB_ID.continue
  rm -f "$ZILU_CONTINUE"
  saved_before=$(saved)
}

# say LINE: writes it to the log, or, if that is impossible, to what SLURM has opened.
say() { { echo "$1" && sync "$log"; } 2>/dev/null || echo "$1 ($log cannot be written)" >&3; }

# When the last checkpoint was saved.
saved() { stat --format=%y "$run/checkpoint.pt" 2>/dev/null || true; }

# watch COMMAND...: runs it to its end, and hands on a signal that asks it to save and end. Sets
# `code`, its exit code.
watch() {
  local pid
  # The program has a handler of its own, but not at once; torchrun has none, and would die.
  (
    trap '' USR1
    exec "$@" 3>&-
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

# Ends the job: back into the queue if the run wants to be continued, else with the exit code. What
# has happened stands last in the log.
finish() {
  local stalls="$run/slurm-$SLURM_JOB_ID.stalls" interrupted="" state
  if [ -e "$ZILU_CONTINUE" ]; then interrupted=yes; fi
  rm -f "$ZILU_CONTINUE"
  if [ "$(saved)" != "$saved_before" ] || [ -z "$interrupted" ]; then rm -f "$stalls"; fi
  if [ -z "$interrupted" ]; then
    if ((code > 0)); then say "error: the program ended with exit code $code"; fi
    exit "$code"
  fi
  # scontrol and squeue fail now and then on a busy cluster.
  for _ in 1 2 3 4 5; do
    state=$(squeue --noheader --jobs="$job" --format='%T %r') && break
    sleep 10
  done
  case $state in
    RUNNING* | *TimeLimit) ;;
    *)
      say "Interrupted; cancelled, or SLURM requeues the job by itself"
      exit "$code"
      ;;
  esac
  if [ "$(saved)" = "$saved_before" ]; then echo stalled >>"$stalls"; fi
  if [ -e "$stalls" ] && (($(wc -l <"$stalls") >= 3)); then
    rm "$stalls"
    say "error: interrupted three times before a checkpoint was saved; give more --time"
    exit 1
  fi
  say "Interrupted; the job goes back into the queue"
  for _ in 1 2 3 4 5; do
    scontrol requeue "$job" && exit "$code"
    sleep 10
  done
  say "error: the job cannot be requeued; submit it again with --output_dir $run"
  exit "$code"
}
