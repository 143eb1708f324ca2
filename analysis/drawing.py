"""Set the look of a report's figures, and save each as PNG, SVG and PDF.

Colours are Okabe and Ito's, which the colour-blind tell apart; line styles and markers say the same
to those who print in grey.
"""

import math
import multiprocessing
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from analysis.statistics import Estimate
from analysis.variants import Variant
from utils import usable_cpus

FORMATS = ("png", "svg", "pdf")
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
WIDTH = 6.8  # inches: a page between its margins
INSIDE_LEGEND, INSIDE_LABEL = 5, 20  # larger legends, by lines or letters, stand below
LEGEND_LETTERS = 105  # of a legend's line across the page
LONGEST_LABEL = 36
STYLE = {
    "font.size": 9, "axes.titlesize": 9, "legend.fontsize": 8, "axes.grid": True,
    "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False,
    "text.parse_math": False, "svg.hashsalt": "zilu", "svg.fonttype": "path", "pdf.fonttype": 42,
    "savefig.dpi": 150,
}  # fmt: skip


@dataclass(frozen=True)
class Style:
    """Hold the look of a variant, which is the same in every figure of a group."""

    color: str
    dash: str
    marker: str

    @property
    def line(self) -> dict[str, str]:
        return {"color": self.color, "linestyle": self.dash}

    @property
    def point(self) -> dict[str, str]:
        return {"color": self.color, "marker": self.marker}


def styles(variants: list[Variant]) -> dict[Variant, Style]:
    """Return a look for each variant; as many differ as there are pairs of a colour and a dash."""
    found = {}
    for number, variant in enumerate(variants):
        rounds, color = divmod(number, len(COLORS))
        dash = DASHES[(color + rounds) % len(DASHES)]
        found[variant] = Style(COLORS[color], dash, MARKERS[(color + 2 * rounds) % len(MARKERS)])
    return found


def save(drawings: dict[str, Callable[[], Figure]], folder: Path) -> None:
    """Draw figures and write each in every format, on several processors where there are some.

    Args:
        drawings: What draws each figure, by the name of its file without ending.
        folder: Where the files are written.
    """
    items = list(drawings.items())
    workers = min(usable_cpus(), len(items)) if sys.platform == "linux" else 1
    if workers < 2:
        _save_some(items, folder)
        return
    # A forked process has the runs already; nothing has to be sent to it.
    fork = multiprocessing.get_context("fork")
    parts = [items[number::workers] for number in range(workers)]
    processes = [fork.Process(target=_save_or_exit, args=(part, folder)) for part in parts]
    for process in processes:
        process.start()
    for process, part in zip(processes, parts, strict=True):
        process.join()
        if process.exitcode:
            _save_some(part, folder)  # which raises the error in this process


Drawings = list[tuple[str, Callable[[], Figure]]]


def _save_or_exit(items: Drawings, folder: Path) -> None:
    try:
        _save_some(items, folder)
    except Exception:
        sys.exit(1)


def _save_some(items: Drawings, folder: Path) -> None:
    with matplotlib.rc_context(STYLE):
        for name, draw in items:
            figure = draw()
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # the layout is done: not again for every format
            for ending in FORMATS:
                # The time of day is left out, so that the same runs give the same files.
                metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(ending)
                figure.savefig(folder / f"{name}.{ending}", metadata=metadata)


def short(label: str) -> str:
    """Return as much of a label as a legend or an axis has room for."""
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"


def new_figure(height: float, labels: list[str]) -> Figure:
    """Return a figure of this height in inches, and higher if the legend must stand below it."""
    if not _fits_inside(labels):
        height += 0.2 * -(-len(labels) // _legend_columns(labels))
    return Figure(figsize=(WIDTH, height), layout="constrained")


def add_legend(figure: Figure, axes: Axes) -> None:
    """Add a legend: in the axes if it is small, else below, where `new_figure` left room for it."""
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    if _fits_inside(labels):
        axes.legend(loc="best")
    else:
        columns = _legend_columns(labels)
        figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _fits_inside(labels: list[str]) -> bool:
    return len(labels) <= INSIDE_LEGEND and max(map(len, labels), default=0) <= INSIDE_LABEL


def _legend_columns(labels: list[str]) -> int:
    return max(1, min(4, LEGEND_LETTERS // (max(map(len, labels)) + 8)))


def labels_of(variants: list[Variant]) -> list[str]:
    return [short(variant.label) for variant in variants]


def plain_log(axes: Axes) -> None:
    """Label a logarithmic y axis with plain numbers (1, 0.5, 0.2), not powers."""
    low, high = axes.get_ylim()
    low = max(low, 1e-12)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 1000 else (1,)
    ticks = [k * 10.0**d for d in decades for k in steps]
    ticks = [tick for tick in ticks if low <= tick <= high]
    few = len(ticks) < 2  # such a narrow range is as good as linear
    axes.yaxis.set_major_locator(MaxNLocator(5) if few else FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def half_width(found: Estimate) -> float:
    """Return half the width of an interval; 0 where there is none."""
    return 0.0 if math.isnan(found.high) else found.high - found.mean
