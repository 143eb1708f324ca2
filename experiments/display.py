"""Show how a sweep goes on: a bar on a terminal, else a line for every run that ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from run_folder.folder import RunFolder


class Shown(Protocol):
    """Name a run and its folder."""

    @property
    def name(self) -> str: ...

    @property
    def folder(self) -> Path: ...


class Display:
    """Show the runs of a sweep.

    Args:
        total: how many there are.
        tells_left: say with each run that ends how long the others will take.
    """

    def __init__(self, total: int, tells_left: bool = False):
        self.total, self.done = total, 0
        self.tells_left, self.made, self.began = tells_left, 0, time.monotonic()
        self.started: dict[str, float] = {}
        self.width = len(str(total))
        self.bar = tqdm(
            total=total, unit="run", dynamic_ncols=True, disable=not sys.stderr.isatty(),
            bar_format="{n:.0f}/{total} runs |{bar}| {elapsed}<{remaining}{postfix}",
        )  # fmt: skip

    def show(self, running: Sequence[Shown]) -> None:
        """Show the runs that are on their way."""
        for job in running:
            self.started.setdefault(job.name, time.monotonic())
        if not self.bar.disable:
            texts = [f"{job.name} {epochs(job.folder)}" for job in running]
            self.bar.set_postfix_str("; ".join(texts), refresh=False)
            self.bar.refresh()

    def ended(self, job: Shown, kind: str, reason: str, was_there: bool) -> None:
        """Print how a run ended, or that it had ended before."""
        self.done += 1
        self.made += not was_there
        self.bar.update()
        took = time.monotonic() - self.started.get(job.name, time.monotonic())
        how = f"{kind} before" if was_there else f"{kind} in {took:.0f} s"
        line = f"[{self.done:{self.width}}/{self.total}] {job.name}: {how}"
        line += f": {reason}" if reason else ""
        if self.tells_left and self.made and self.done < self.total:
            left = (time.monotonic() - self.began) / self.made * (self.total - self.done)
            line += f" (about {duration(left)} left)"
        self.bar.write(line, file=sys.stdout)
        sys.stdout.flush()

    def expect(self, total: int) -> None:
        """Change how many runs there are in all."""
        self.total = self.bar.total = total
        self.bar.refresh()

    def close(self) -> None:
        self.bar.close()


def epochs(folder: Path) -> str:
    """Return how far a run has come."""
    path = folder / RunFolder.RESULTS
    if not path.exists():
        return "starting"
    return f"epoch {path.read_text(encoding='utf-8').count('[Epoch ') + 1}"


def duration(seconds: float) -> str:
    """Return a time in one or two units: "2 h 5 min", "12 min", "40 s"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
