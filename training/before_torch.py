"""Set up a process before torch is loaded: what is read from the environment once, then."""

import os
import sys

from utils import is_main, world_size

# How long a thread that waits for the others asks again and again before it sleeps. By default that
# is some milliseconds (GNU's OpenMP) or 200 ms (LLVM's and Intel's), in which it keeps a processor
# from the thread that all wait for, wherever the machine has other work too. docs/speed.md has the
# measurement, benchmarks/spinning.py makes it.
SPINS = {
    "GOMP_SPINCOUNT": "1000",  # of GNU's, in torch's wheels for Linux: looks
    "KMP_BLOCKTIME": "1",  # of LLVM's and Intel's, in conda's and others' builds: milliseconds
}
CHOSEN_BY = (*SPINS, "OMP_WAIT_POLICY")


def shorten_spins() -> None:
    """Let OpenMP's waiting threads sleep sooner, unless the user's environment says how."""
    if not any(name in os.environ for name in CHOSEN_BY):
        os.environ.update(SPINS)


def speak_once() -> None:
    """Let one of a run's processes speak for all; errors are everyone's."""
    if world_size() > 1:
        # DistributedDataParallel warns of a choice that training/processes.py makes.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if not is_main():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
