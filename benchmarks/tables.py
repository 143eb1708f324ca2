"""Write what was measured as Markdown and CSV, with the machine it was measured on."""

import csv
import importlib.util
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.timing import quartiles, ratio
from training.environment import environment
from utils import UserError, replacing


def machine(device: torch.device) -> str:
    """Return hardware, threads and versions in a line."""
    facts = environment(device)
    names = ("device", "cpu", "cpu_capability", "threads", "torch", "torchvision", "python", "cuda")
    known = {name: facts[name] for name in names if name in facts}
    if device.type == "cpu":
        del known["cpu"]  # the device's own name
    return "; ".join(f"{name} {fact}" for name, fact in known.items())


def machine_columns(device: torch.device) -> dict[str, object]:
    """Return the machine for a row of a CSV file."""
    facts = environment(device)
    names = ("started", "git_commit", "cpu", "cpu_capability", "threads", "torch", "python")
    columns = {"hardware": facts["device"], **{name: facts[name] for name in names}}
    return columns | {"cuda": facts.get("cuda", "")}


def figure(x: float) -> str:
    """Return a number with three digits, or with all before the point."""
    if x and not 1e-3 <= abs(x) < 1e7:
        return f"{x:.2g}"
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def with_spread(low: float, middle: float, high: float) -> str:
    return f"{figure(middle)} ({figure(low)} to {figure(high)})"


def size(count: int) -> str:
    """Return a number of elements, 4096 as 2^12."""
    power = count.bit_length() - 1
    return f"2^{power}" if count == 2**power and power >= 10 else f"{count:,}"


def markdown(rows: list[dict[str, str]]) -> str:
    """Return a table whose header is the keys of the first row."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def print_rates(times: dict[str, list[float]], count: float, counted: str, baseline: str) -> None:
    """Print a table of rates, and their ratios to the baseline's in the same round.

    Args:
        times: by arm, the seconds in each round.
        count: what an arm gets done in that time: a number of images, tokens or MB.
        counted: which of these.
        baseline: the arm to compare with.
    """
    rows = [
        {
            "arm": name,
            f"{counted}/s: median (quartiles)": with_spread(
                *quartiles([count / s for s in seconds])
            ),
            f"{baseline} = 1": f"{ratio(times[baseline], seconds):.2f}",
            "n": str(len(seconds)),
        }
        for name, seconds in times.items()
    ]
    print(f"\n{markdown(rows)}")


def check_matplotlib() -> None:
    """Look for matplotlib, before minutes are spent on measuring.

    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("the figure needs matplotlib, which is not here: pip install matplotlib")


class Report:
    """Print a text as it grows, and keep it."""

    def __init__(self) -> None:
        self.text = ""

    def add(self, part: str) -> None:
        self.text += f"{part}\n"
        print(part, flush=True)


class ReportFolder:
    """Write NAME.md, NAME.csv and NAME.png into a folder.

    Args:
        path: the folder; it is made when something is written.

    Raises:
        UserError: it cannot be written, which is said before anything is measured.
    """

    def __init__(self, path: str):
        self.path = Path(path)
        existing = next(p for p in (self.path, *self.path.absolute().parents) if p.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(f"--output_dir {path}: {existing} is not a writable folder")

    def save(self, name: str, report: Report, rows: Sequence[Mapping[str, object]]) -> None:
        """Write the report, and the rows, which all have the same columns."""
        self.path.mkdir(parents=True, exist_ok=True)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        for ending, content in (("md", report.text), ("csv", text.getvalue())):
            with replacing(self.path / f"{name}.{ending}") as path:
                path.write_text(content, encoding="utf-8")
            print(f"Saved: {self.path / name}.{ending}")

    def draw(self, name: str, draw: Callable[[Path], None]) -> None:
        """Write a figure, which `draw` draws into the file it is given."""
        with replacing(self.path / f"{name}.png") as path:
            draw(path)
        print(f"Saved: {self.path / name}.png")
