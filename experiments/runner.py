"""Runs of a sweep, several at a time, each a process of its own.

A run is finished, or interrupted and to be resumed, by its folder alone: what this process knows
may die with it.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from experiments.display import Display
from runs.signals import TRY_AGAIN
from runs.status import ENDED, status_of
from utils import usable_cpus

ROOT = Path(__file__).parent.parent
LOG = "sweep.log"  # in the run's folder: what the program printed
FAILED = "failed"
POLL = 0.2  # seconds
BUSY = 5.0  # seconds until another look at a folder that another process writes to
USER_ERROR = 2  # exit code
MPS = "mps"


@dataclass(frozen=True)
class Job:
    """One run to be done: its name, folder and command."""

    name: str
    folder: Path
    command: list[str]


@dataclass(frozen=True)
class Outcome:
    """How a run ended: finished, diverged or failed, and in the last two cases why."""

    name: str
    kind: str
    reason: str = ""


def places(jobs: int | None, runs: int, use_gpus: bool) -> list[dict[str, str]]:
    """Where one run at a time can be, each with the environment that it has there: a GPU, else a
    CPU; or as many as `jobs` says, which share GPUs and CPUs. No more than there are runs."""
    gpus, cpus = visible_gpus() if use_gpus else [], usable_cpus()
    count = min(jobs or len(gpus) or cpus, runs)
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cpus // count))
    found = [{"OMP_NUM_THREADS": threads} for _ in range(count)]
    if gpus and gpus != [MPS]:
        for number, place in enumerate(found):
            place["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    return found


def visible_gpus() -> list[str]:
    """The CUDA devices that torch sees, as CUDA_VISIBLE_DEVICES names them; or MPS alone."""
    # In a process of its own: a sweep needs no torch, and no memory on any GPU.
    code = "import torch; print(torch.cuda.device_count(), torch.backends.mps.is_available())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, has_mps = done.stdout.split()
    if has_mps == "True":
        return [MPS]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = chosen.split(",") if chosen else list(map(str, range(int(count))))
    return names[: int(count)]


class Runner:
    """Runs jobs in places. After a signal it stops them, saved, and starts no more."""

    def __init__(self, places: list[dict[str, str]], display: Display, stopped: Callable[[], bool]):
        self.places, self.display, self.stopped = places, display, stopped
        self.running: dict[int, tuple[Job, subprocess.Popen]] = {}
        self.outcomes: list[Outcome] = []
        self.waiting: deque[tuple[float, Job]] = deque()  # not before that time

    def run(self, jobs: list[Job]) -> list[Outcome]:
        """Do all that is left of `jobs`; how each has ended. Fewer of them if it was stopped."""
        self.outcomes = []
        self.waiting.extend((0.0, job) for job in jobs)
        terminated = False
        while self.running or (self.waiting and not self.stopped()):
            if self.stopped() and not terminated:
                terminated = True
                self.terminate()
            if not terminated:
                self._fill()
            self._reap()
            self.display.show([job for job, _ in self.running.values()])
            time.sleep(POLL)
        self.waiting.clear()
        return self.outcomes

    def terminate(self) -> None:
        """Ask the running programs to save and end."""
        for _, process in self.running.values():
            process.terminate()

    def kill(self) -> None:
        for _, process in self.running.values():
            process.kill()

    def _fill(self) -> None:
        for number in range(len(self.places)):
            while number not in self.running and (job := self._next()):
                status = status_of(job.folder)
                if status.kind in ENDED:
                    self._end(job, status.kind, status.reason, was_there=True)
                    continue
                self.running[number] = job, self._start(job, self.places[number])

    def _next(self) -> Job | None:
        now = time.monotonic()
        for position, (not_before, job) in enumerate(self.waiting):
            if not_before <= now:
                del self.waiting[position]
                return job
        return None

    def _start(self, job: Job, place: dict[str, str]) -> subprocess.Popen:
        job.folder.mkdir(parents=True, exist_ok=True)
        with open(job.folder / LOG, "a", encoding="utf-8") as log:
            return subprocess.Popen(
                job.command,
                env=os.environ | place | {"PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the sweep, which stops its programs by itself.
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def _reap(self) -> None:
        for number, (job, process) in list(self.running.items()):
            code = process.poll()
            if code is None:
                continue
            del self.running[number]
            status = status_of(job.folder)
            if status.kind in ENDED:
                self._end(job, status.kind, status.reason)
            elif code == USER_ERROR and (job.folder / "lock").exists():
                # Another sweep, or a program that an earlier one has left behind, is at it.
                self.waiting.append((time.monotonic() + BUSY, job))
            elif not (code == TRY_AGAIN and self.stopped()):
                self._end(job, FAILED, failure(job.folder / LOG, code))

    def _end(self, job: Job, kind: str, reason: str, was_there: bool = False) -> None:
        self.outcomes.append(Outcome(job.name, kind, reason))
        self.display.ended(job, kind, reason, was_there)


def end_with_parent() -> None:
    """In a child: ask the kernel, where it is Linux's, for SIGTERM when the parent dies. A sweep
    that is killed leaves no programs behind."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def failure(log: Path, code: int) -> str:
    """Why a program ended: the last error that it printed, else its last line."""
    lines = [
        line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line
    ]
    errors = [line for line in lines[-50:] if line.startswith("error: ")]
    said = (errors or lines or [""])[-1].removeprefix("error: ")
    ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"{said} ({ended}; {log})"
