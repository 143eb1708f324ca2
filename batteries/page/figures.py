"""Draw the pictures of a task: what each seed came to, and how the runs learned."""

import math
import statistics

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.drawing import Style, plain_log, short, styles
from analysis.statistics import estimate
from analysis.variants import Variant
from batteries.findings import ArmFindings, TaskFindings
from batteries.page.tables import finite
from batteries.page.words import unit_gain
from run_folder.metrics import Metric

WIDTH = 4.3  # inches: small enough for a telephone, where two stand below each other
ROW, MARGIN = 0.48, 0.75
LEGEND_LINE = 0.17
SHORT = 16  # letters of labels that stand in two columns
SPREAD = 0.22  # of the seeds' points across their row


def looks(task: TaskFindings) -> list[Style]:
    """Return a look for each arm of a task, the same in all its pictures."""
    names = [Variant(f"{number}") for number, _ in enumerate(task.arms)]
    return list(styles(names).values())


def label_of(arm: ArmFindings) -> str:
    return short(arm.label + unit_gain(arm))


def seeds(task: TaskFindings) -> Figure:
    """Draw the value of each seed, and the mean with its interval, a row for each arm."""
    figure = Figure(figsize=(WIDTH, MARGIN + ROW * len(task.arms)), layout="constrained")
    axes = figure.subplots()
    for row, (arm, look) in enumerate(zip(task.arms, looks(task), strict=True)):
        kept = [s.value for s in arm.seeds if not s.diverged and math.isfinite(s.value)]
        places = [row + SPREAD * (k / max(1, len(kept) - 1) - 0.5) for k in range(len(kept))]
        axes.scatter(kept, places, s=14, alpha=0.65, linewidths=0, **look.point)
        found = estimate(finite(arm))
        # Where some diverged, they are no sample that a mean describes.
        if not (arm.diverged or math.isnan(found.low)):
            ends = [[found.mean - found.low], [found.high - found.mean]]
            axes.errorbar([found.mean], [row + 0.24], xerr=ends, capsize=3, markersize=5,
                          linewidth=1.6, **look.point)  # fmt: skip
        axes.text(0.0, row - 0.28, row_text(arm), transform=axes.get_yaxis_transform(), fontsize=8)
    axes.set(ylim=(len(task.arms) - 0.4, -0.75), yticks=[], xlabel=task.metric.axis("test"))
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return figure


def row_text(arm: ArmFindings) -> str:
    """Return what stands above an arm's row."""
    name = label_of(arm)
    if not arm.seeds:
        return f"{name}: no results"
    return f"{name}: {arm.diverged} of {len(arm.seeds)} diverged" if arm.diverged else name


def seeds_in_words(task: TaskFindings) -> str:
    """Return what the picture of the seeds shows."""
    metric = task.metric
    parts = [f"{arm.label}{unit_gain(arm)}: {in_words(arm, metric)}" for arm in task.arms]
    return f"{metric.axis('test')} of each seed. {'; '.join(parts)}."


def in_words(arm: ArmFindings, metric: Metric) -> str:
    if not arm.seeds:
        return "no results"
    found = estimate(finite(arm))
    interval = "" if math.isnan(found.low) else (
        f" ({metric.number(found.low)} to {metric.number(found.high)})"
    )  # fmt: skip
    diverged = f", {arm.diverged} diverged" if arm.diverged else ""
    return f"n = {found.n}, mean {metric.number(found.mean)}{interval}{diverged}"


Points = dict[float, float]


def means_by_epoch(arm: ArmFindings) -> Points:
    """Return the mean of the metric on test at each epoch, over the seeds that went on so far."""
    by_epoch: dict[float, list[float]] = {}
    for each in arm.seeds:
        for point in each.curve:
            if point.test is not None and math.isfinite(point.test):
                by_epoch.setdefault(point.epoch, []).append(point.test)
    return {epoch: statistics.fmean(values) for epoch, values in sorted(by_epoch.items())}


def has_curves(task: TaskFindings) -> bool:
    """Return whether there are enough evaluations to draw a line."""
    return any(len(means_by_epoch(arm)) > 1 for arm in task.arms)


def curves(task: TaskFindings) -> Figure:
    """Draw the means of the metric on test by epoch, a line for each arm."""
    shown = [
        (arm, look, means_by_epoch(arm)) for arm, look in zip(task.arms, looks(task), strict=True)
    ]
    shown = [each for each in shown if len(each[2]) > 1]
    labels = [label_of(arm) for arm, _, _ in shown]
    columns = 2 if max(map(len, labels)) <= SHORT and len(labels) > 1 else 1
    lines = -(-len(labels) // columns)
    figure = Figure(figsize=(WIDTH, 2.6 + LEGEND_LINE * lines), layout="constrained")
    axes = figure.subplots()
    for (_, look, points), label in zip(shown, labels, strict=True):
        axes.plot(list(points), list(points.values()), label=label, linewidth=1.5, **look.line)
    axes.set(xlabel="epoch", ylabel=task.metric.axis("test"))
    if not task.metric.higher_is_better:  # it falls by orders of magnitude
        axes.set_yscale("log")
        plain_log(axes)
    figure.legend(loc="outside lower center", ncols=columns)
    return figure


def curves_in_words(task: TaskFindings) -> str:
    """Return what the learning curves show."""
    parts = []
    for arm in task.arms:
        values = list(means_by_epoch(arm).values())
        if len(values) > 1:
            ends = [task.metric.number(each) for each in (values[0], values[-1])]
            parts.append(f"{arm.label}{unit_gain(arm)} from {ends[0]} to {ends[1]}")
    return f"{task.metric.axis('test')} by epoch, means over seeds: {'; '.join(parts)}."
