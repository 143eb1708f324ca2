"""Start a node's processes as torchrun does: `python -m training.launch TORCHRUN'S FLAGS`.

SLURM sends SIGTERM to every process of a job that it preempts, and twice to some. torchrun ends at
the second one, perhaps before its processes have saved, with 45 lines of traceback. Here it waits
for them: they have their own SIGTERM. What a process says of its failure stands in the log anyway.
"""

import importlib
import signal
import sys


def main(argv: list[str] | None = None) -> int:
    """Run the processes to their end, and return 1 if one failed, as torchrun does.

    Args:
        argv: torchrun's arguments.
    """
    # A signal is blocked whatever handler torchrun has for it. The processes it starts inherit
    # that, and training/signals.py ends it; so do threads of torch's, which is loaded afterwards.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    torchrun = importlib.import_module("torch.distributed.run")
    errors = importlib.import_module("torch.distributed.elastic.multiprocessing.errors")
    try:
        torchrun.main(argv)
    except errors.ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        how = f"exit code {code}" if code >= 0 else f"signal {-code}"
        print(f"torchrun: process {rank} ended with {how}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
