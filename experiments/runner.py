"""Run a sweep's programs, several at a time, each in a process of its own.

The folder of a run alone says whether it is finished, or interrupted and to be resumed: what this
process knows may die with it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cli.errors import TRY_AGAIN, USER_ERROR
from experiments.display import Display
from run_folder.lock import HELD
from run_folder.status import ENDED, status_of
from training.signals import StopSignals
from utils import UserError, usable_cpus

ROOT = Path(__file__).parent.parent
LOG = "sweep.log"  # in the run's folder: what the program printed
FAILED = "failed"
POLL = 0.2  # seconds
BUSY = 5.0  # seconds until another look at a folder that another process writes to
MPS = "mps"


@dataclass(frozen=True)
class Job:
    """Describe a run to be made.

    Attributes:
        others: returns in what a run that is in the folder already differs from this one.
    """

    name: str
    folder: Path
    command: list[str]
    others: Callable[[], list[str]] = list


@dataclass(frozen=True)
class Running:
    """Hold a job on its way; `start` is the size of its log before, in bytes."""

    job: Job
    process: subprocess.Popen
    start: int

    def said(self) -> str:
        """Return what the program has printed."""
        with open(self.job.folder / LOG, encoding="utf-8", errors="replace") as log:
            log.seek(self.start)
            return log.read()


@dataclass(frozen=True)
class Outcome:
    """Say how a run ended: finished, diverged or failed, and in the last two cases why."""

    name: str
    kind: str
    reason: str = ""


def places(jobs: int | None, runs: int, use_gpus: bool) -> list[dict[str, str]]:
    """Return the places where one run at a time can be, as their environment variables.

    There is one for each GPU, else for each CPU, and no more than there are runs.

    Args:
        jobs: as many places as this, which share GPUs and CPUs.
        runs: how many runs there are.
        use_gpus: look for GPUs.
    """
    gpus, cpus = visible_gpus() if use_gpus else [], usable_cpus()
    count = min(jobs or len(gpus) or cpus, runs)
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cpus // count))
    found = [{"OMP_NUM_THREADS": threads} for _ in range(count)]
    if gpus and gpus != [MPS]:
        for number, place in enumerate(found):
            place["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    return found


def visible_gpus() -> list[str]:
    """Return the CUDA devices that torch sees, as CUDA_VISIBLE_DEVICES names them; or MPS alone."""
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
    """Run jobs in places; after a signal, stop them, saved, and start no more."""

    def __init__(self, places: list[dict[str, str]], display: Display, stopped: Callable[[], bool]):
        self.places, self.display, self.stopped = places, display, stopped
        self.running: dict[int, Running] = {}
        self.outcomes: list[Outcome] = []
        self.waiting: deque[tuple[float, Job]] = deque()  # not before that time

    def run(self, jobs: list[Job]) -> list[Outcome]:
        """Run `jobs` until all have ended, and return how; fewer of them if it was stopped."""
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
        """End the running programs at once."""
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

    def _started(self, job: Job, place: dict[str, str]) -> Running:
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
                # Another sweep, or a program left behind by an earlier one, is making this run.
                self.waiting.append((time.monotonic() + BUSY, job))
            elif not interrupted:
                self._end(job, FAILED, failure(said, code, job.folder / LOG))

    def _end(self, job: Job, kind: str, reason: str, was_there: bool = False) -> None:
        self.outcomes.append(Outcome(job.name, kind, reason))
        self.display.ended(job, kind, reason, was_there)


@contextmanager
def running(
    display: Display, jobs: int | None, count: int, use_gpus: bool, env: Mapping[str, str]
) -> Iterator[Runner]:
    """Yield a runner that signals stop, and end its programs where an error ends the block.

    Args:
        display: shows how the jobs go on; it is closed at the end.
        jobs, count, use_gpus: as `places` takes them.
        env: environment variables of every program, beside its place's.
    """
    with StopSignals() as signals, signals.deferred():
        where = [place | {**env} for place in places(jobs, count, use_gpus)]
        runner = Runner(where, display, lambda: signals.requested)
        try:
            yield runner
        except KeyboardInterrupt:
            runner.kill()
            raise
        except BaseException:
            runner.terminate()
            raise
        finally:
            display.close()


def end_with_parent() -> None:
    """Ask Linux for SIGTERM when the parent dies, so that a killed sweep leaves no programs."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def failure(said: str, code: int, log: Path) -> str:
    """Return why a program ended: the last error that it printed, else its last line."""
    lines = [line for line in said.splitlines() if line]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    last = errors[-1:] or ([] if code < 0 else lines[-1:])
    ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return " ".join([*last, f"({ended}; {log})"])
