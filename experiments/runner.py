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
from run_folder.lock import HELD
from run_folder.status import ENDED, status_of
from training.signals import TRY_AGAIN
from utils import UserError, usable_cpus

ROOT = Path(__file__).parent.parent
LOG = "sweep.log"  # in the run's folder: what the program printed
FAILED = "failed"
POLL = 0.2  # seconds
BUSY = 5.0  # seconds until another look at a folder that another process writes to
USER_ERROR = 2  # exit code
MPS = "mps"


@dataclass(frozen=True)
class Job:
    """One run to be done: its name, folder and command; `others` tells in what a run that is
    there already differs from it."""

    name: str
    folder: Path
    command: list[str]
    others: Callable[[], list[str]] = list


@dataclass(frozen=True)
class Running:
    """A job on its way. `start`: what the log held before, in bytes."""

    job: Job
    process: subprocess.Popen
    start: int

    def said(self) -> str:
        """What the program has printed."""
        with open(self.job.folder / LOG, encoding="utf-8", errors="replace") as log:
            log.seek(self.start)
            return log.read()


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
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=False,
        start_new_session=True,  # Ctrl-C is for the sweep
    )  # fmt: skip
    if done.returncode:
        raise UserError(f"torch cannot be loaded ({done.stderr.strip().splitlines()[-1]})")
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
        self.running: dict[int, Running] = {}
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
            self.display.show([running.job for running in self.running.values()])
            time.sleep(POLL)
        self.waiting.clear()
        return self.outcomes

    def terminate(self) -> None:
        """Ask the running programs to save and end."""
        for running in self.running.values():
            running.process.terminate()

    def kill(self) -> None:
        for running in self.running.values():
            running.process.kill()

    def _fill(self) -> None:
        for number in range(len(self.places)):
            while number not in self.running and (job := self._next()):
                try:
                    self._begin(job, number)
                except OSError as error:
                    self._end(job, FAILED, str(error))

    def _next(self) -> Job | None:
        now = time.monotonic()
        for position, (not_before, job) in enumerate(self.waiting):
            if not_before <= now:
                del self.waiting[position]
                return job
        return None

    def _begin(self, job: Job, number: int) -> None:
        """Start a job in a place, unless it has ended before."""
        status = status_of(job.folder)
        if status.kind not in ENDED:
            self.running[number] = self._started(job, self.places[number])
        elif others := job.others():
            reason = f"{job.folder} holds another run ({', '.join(others)}); move it away"
            self._end(job, FAILED, reason)
        else:
            self._end(job, status.kind, status.reason, was_there=True)

    def _started(self, job: Job, place: dict[str, str]) -> "Running":
        job.folder.mkdir(parents=True, exist_ok=True)
        with open(job.folder / LOG, "a", encoding="utf-8") as log:
            process = subprocess.Popen(
                job.command,
                env=os.environ | place | {"PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the sweep, which stops its programs by itself.
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
            return Running(job, process, log.tell())

    def _reap(self) -> None:
        for number, running in list(self.running.items()):
            job, code = running.job, running.process.poll()
            if code is None:
                continue
            del self.running[number]
            status, said = status_of(job.folder), running.said()
            interrupted = self.stopped() and code in (TRY_AGAIN, -signal.SIGTERM)
            if status.kind in ENDED:
                self._end(job, status.kind, status.reason)
            elif code == USER_ERROR and HELD in said:
                # Another sweep, or a program that an earlier one has left behind, is at it.
                self.waiting.append((time.monotonic() + BUSY, job))
            elif not interrupted:
                self._end(job, FAILED, failure(said, code, job.folder / LOG))

    def _end(self, job: Job, kind: str, reason: str, was_there: bool = False) -> None:
        self.outcomes.append(Outcome(job.name, kind, reason))
        self.display.ended(job, kind, reason, was_there)


def end_with_parent() -> None:
    """In a child: ask the kernel, where it is Linux's, for SIGTERM when the parent dies. A sweep
    that is killed leaves no programs behind."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def failure(said: str, code: int, log: Path) -> str:
    """Why a program ended: the last error that it printed, else its last line."""
    lines = [line for line in said.splitlines() if line]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    last = errors[-1:] or ([] if code < 0 else lines[-1:])
    ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return " ".join([*last, f"({ended}; {log})"])
