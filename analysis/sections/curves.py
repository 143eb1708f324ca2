"""Draw the learning curves: training loss and the metric by epoch."""

import math
import statistics

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.document import Document
from analysis.drawing import Style, add_legend, labels_of, new_figure, plain_log, short, styles
from analysis.findings import GroupFindings
from analysis.grouping import Group
from analysis.measures import SPLIT_WORDS
from analysis.run_folders import RunResult
from analysis.section import Section
from run_folder.metrics import Metric
from run_folder.records import split_of

MOST_BANDS = 8  # more of them cover each other


class Curves(Section):
    def write_group(self, document: Document, group: GroupFindings) -> None:
        runs = group.group.all_runs()
        if any(not record.get("partial") for run in runs for record in run.records):
            document.figure(
                f"curves-{group.number}",
                "Means over seeds; bands, where they are not too many, are one standard deviation.",
                lambda: learning_curves(group.group, group.metric),
            )


def learning_curves(group: Group, metric: Metric) -> Figure:
    """Draw training loss and the metric by epoch: the mean over seeds, and a band of one sd."""
    figure = new_figure(2.9, labels_of(group.variants))
    left, right = figure.subplots(1, 2)
    split = _curve_split(group)
    bands = len(group.variants) <= MOST_BANDS
    for variant, look in styles(group.variants).items():
        for axes, part, name in ((left, "train", "loss"), (right, split, metric.name)):
            values = _values_by_epoch(group.runs_of(variant), part, name)
            _draw_curve(axes, values, look, short(variant.label), bands)
    unit = "" if metric.name == "psnr" else " (nats)"
    left.set(xlabel="epoch", ylabel=f"training loss{unit}", yscale="log")
    right.set(xlabel="epoch", ylabel=metric.axis(SPLIT_WORDS[split]))
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain_log(left)
    _zoom(right, metric)
    add_legend(figure, right)
    return figure


def _curve_split(group: Group) -> str:
    """Return the split that has a value at more than the end: test, or validation."""
    run = group.any_run()
    return next(
        (
            split
            for split in ("test", "val")
            if sum(split in record for record in run.records) > len(run.records) / 2
        ),
        split_of(run.final),
    )


def _values_by_epoch(runs: list[RunResult], split: str, name: str) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for run in runs:
        for record in run.records:
            value = record.get(split, {}).get(name)
            if value is not None and math.isfinite(value) and not record.get("partial"):
                found.setdefault(record.get("epoch", 0), []).append(value)
    return dict(sorted(found.items()))


def _draw_curve(
    axes: Axes, by_epoch: dict[int, list[float]], look: Style, label: str, band: bool
) -> None:
    if not by_epoch:
        return
    epochs, means = list(by_epoch), [statistics.fmean(values) for values in by_epoch.values()]
    markers = {"marker": look.marker} if len(epochs) < 3 else {}
    axes.plot(epochs, means, label=label, **look.line, **markers)
    if band and any(len(values) > 1 for values in by_epoch.values()):
        spread = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in by_epoch.values()]
        low = [m - s for m, s in zip(means, spread, strict=True)]
        high = [m + s for m, s in zip(means, spread, strict=True)]
        axes.fill_between(epochs, low, high, color=look.color, alpha=0.15, linewidth=0)


def _zoom(axes: Axes, metric: Metric) -> None:
    """Leave out the first epochs, whose values would flatten all that follows."""
    values = sorted(y for line in axes.get_lines() for y in line.get_ydata())
    if len(values) < 8:
        return
    worst, best = values[len(values) // 8], values[-1]
    if not metric.higher_is_better:
        worst, best = values[-len(values) // 8], values[0]
    margin = 0.12 * abs(best - worst) or abs(best) * 0.01
    low, high = min(worst, best) - margin, max(worst, best) + margin
    axes.set_ylim(low, min(high, 100.5) if metric.unit == "%" else high)
