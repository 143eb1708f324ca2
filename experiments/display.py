"""What a sweep shows while it runs: a bar on a terminal, else a line for every run that ends."""

import sys
import time
from pathlib import Path

from run_folder.folder import RunFolder


class Display:
    """Of `total` runs."""

    def __init__(self, total: int):
        from tqdm import tqdm

        self.total, self.done, self.started = total, 0, {}
        self.width = len(str(total))
        self.bar = tqdm(
            total=total, unit="run", dynamic_ncols=True, disable=not sys.stderr.isatty(),
            bar_format="{n:.0f}/{total} runs |{bar}| {elapsed}<{remaining}{postfix}",
        )  # fmt: skip

    def show(self, running: list) -> None:
        """The runs that are on their way."""
        for job in running:
            self.started.setdefault(job.name, time.monotonic())
        if not self.bar.disable:
            texts = [f"{job.name} {epochs(job.folder)}" for job in running]
            self.bar.set_postfix_str("; ".join(texts), refresh=False)
            self.bar.refresh()

    def ended(self, job, kind: str, reason: str, was_there: bool) -> None:
        self.done += 1
        self.bar.update()
        took = time.monotonic() - self.started.get(job.name, time.monotonic())
        how = f"{kind} before" if was_there else f"{kind} in {took:.0f} s"
        line = f"[{self.done:{self.width}}/{self.total}] {job.name}: {how}"
        self.bar.write(line + (f": {reason}" if reason else ""), file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        self.bar.close()


def epochs(folder: Path) -> str:
    """How far a run has come."""
    path = folder / RunFolder.RESULTS
    if not path.exists():
        return "starting"
    return f"epoch {path.read_text(encoding='utf-8').count('[Epoch ') + 1}"
