"""The figures of a report, each as PNG, SVG and PDF.

Colours are Okabe and Ito's, which the colour-blind tell apart; line styles and markers say the same
to those who print in grey.
"""

import math
import multiprocessing
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from analysis.comparisons import Comparison
from analysis.metrics import SPLIT_WORDS, final_value
from analysis.run_folders import split_of
from analysis.settings import BUILT_IN, Group, Setting
from analysis.statistics import Estimate, estimate
from analysis.tables import step_ms
from run_folder.metrics import Metric
from utils import usable_cpus

FORMATS = ("png", "svg", "pdf")
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
WIDTH = 6.8  # inches: a page between its margins
MOST_BANDS = 8  # more of them cover each other
FEW_SEEDS = 10  # up to here every seed is drawn as well
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
    """How a setting looks, in every figure of a group."""

    color: str
    dash: str
    marker: str

    @property
    def line(self) -> dict:
        return {"color": self.color, "linestyle": self.dash}

    @property
    def point(self) -> dict:
        return {"color": self.color, "marker": self.marker}


def styles(settings: list[Setting]) -> dict[Setting, Style]:
    """As many that differ as there are pairs of a colour and a dash."""
    found = {}
    for number, setting in enumerate(settings):
        rounds, color = divmod(number, len(COLORS))
        dash = DASHES[(color + rounds) % len(DASHES)]
        found[setting] = Style(COLORS[color], dash, MARKERS[(color + 2 * rounds) % len(MARKERS)])
    return found


def save(drawings: dict[str, Callable[[], Figure]], folder: Path) -> None:
    """Draw figures, and write each in every format; on several processors where there are some."""
    items = list(drawings.items())
    workers = min(usable_cpus(), len(items)) if sys.platform == "linux" else 1
    if workers < 2:
        return _save_some(items, folder)
    # By forks, which need not be sent the runs.
    fork = multiprocessing.get_context("fork")
    parts = [items[number::workers] for number in range(workers)]
    processes = [fork.Process(target=_save_or_exit, args=(part, folder)) for part in parts]
    for process in processes:
        process.start()
    for process, part in zip(processes, parts, strict=True):
        process.join()
        if process.exitcode:
            _save_some(part, folder)  # to have the error here


def _save_or_exit(items: list, folder: Path) -> None:
    try:
        _save_some(items, folder)
    except Exception:
        sys.exit(1)


def _save_some(items: list, folder: Path) -> None:
    with matplotlib.rc_context(STYLE):
        for name, draw in items:
            figure = draw()
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # it is laid out: not once more for every format
            for ending in FORMATS:
                # Without the time of day, so that the same runs give the same files.
                metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(ending)
                figure.savefig(folder / f"{name}.{ending}", metadata=metadata)


def short(label: str) -> str:
    """What a legend or an axis has room for."""
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"


def new_figure(height: float, labels: list[str]) -> Figure:
    """With room below for the legend of `labels`, where it is too large to stand in the axes."""
    if not _fits_inside(labels):
        height += 0.2 * -(-len(labels) // _legend_columns(labels))
    return Figure(figsize=(WIDTH, height), layout="constrained")


def add_legend(figure: Figure, axes: Axes) -> None:
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


def labels_of(settings: list[Setting]) -> list[str]:
    return [short(setting.label) for setting in settings]


# --- learning curves ---


def learning_curves(group: Group, metric: Metric) -> Figure:
    """Training loss and the metric by epoch: the mean over seeds, and a band of one sd."""
    figure = new_figure(2.9, labels_of(group.settings))
    left, right = figure.subplots(1, 2)
    look = styles(group.settings)
    split = curve_split(group)
    for setting in group.settings:
        runs = list(group.runs[setting].values())
        for axes, part, name in ((left, "train", "loss"), (right, split, metric.name)):
            band = len(group.settings) <= MOST_BANDS
            _curve(axes, runs, part, name, look[setting], short(setting.label), band)
    left.set(xlabel="epoch", ylabel="training loss (nats)", yscale="log")
    right.set(xlabel="epoch", ylabel=metric.axis(f"{SPLIT_WORDS[split]}"))
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain_log(left)
    _zoom(right, metric)
    add_legend(figure, right)
    return figure


def judged_axis(group: Group, metric: Metric) -> str:
    return metric.axis(f"{SPLIT_WORDS[split_of(group.any_run())]}")


def curve_split(group: Group) -> str:
    """The split that has a value at more than the end: test, or validation."""
    records = group.any_run().records
    return next(
        (s for s in ("test", "val") if sum(s in r for r in records) > len(records) / 2),
        split_of(group.any_run()),
    )


def _curve(
    axes: Axes, runs: list, part: str, name: str, look: Style, label: str, band: bool
) -> None:
    by_epoch: dict[float, list[float]] = {}
    for run in runs:
        for record in run.records:
            value = record.get(part, {}).get(name)
            if value is not None and math.isfinite(value) and not record.get("partial"):
                by_epoch.setdefault(record.get("epoch", 0), []).append(value)
    epochs = sorted(by_epoch)
    if not epochs:
        return
    means = [statistics.fmean(by_epoch[epoch]) for epoch in epochs]
    axes.plot(
        epochs,
        means,
        label=label,
        **look.line,
        **({"marker": look.marker} if len(epochs) < 3 else {}),
    )
    if band and len(runs) > 1:
        spread = [statistics.stdev(v) if len(v := by_epoch[epoch]) > 1 else 0.0 for epoch in epochs]
        low = [m - s for m, s in zip(means, spread, strict=True)]
        high = [m + s for m, s in zip(means, spread, strict=True)]
        axes.fill_between(epochs, low, high, color=look.color, alpha=0.15, linewidth=0)


def _zoom(axes: Axes, metric: Metric) -> None:
    """Away from the first epochs, whose values would flatten all that follows."""
    values = sorted(y for line in axes.get_lines() for y in line.get_ydata())
    if len(values) < 8:
        return
    worst, best = values[len(values) // 8], values[-1]
    if not metric.higher_is_better:
        worst, best = values[-len(values) // 8], values[0]
    margin = 0.12 * abs(best - worst) or abs(best) * 0.01
    low, high = min(worst, best) - margin, max(worst, best) + margin
    axes.set_ylim(low, min(high, 100.5) if metric.unit == "%" else high)


def plain_log(axes: Axes) -> None:
    """1, 0.5, 0.2 on a logarithmic axis, not powers."""
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


# --- differences ---


def differences(comparisons: list[Comparison], margin: float | None) -> Figure:
    """Of each setting against the baseline: every pair, the mean, the 95 % interval."""
    metric, baseline = comparisons[0].metric, comparisons[0].baseline
    figure = Figure(figsize=(WIDTH, 1.1 + 0.42 * len(comparisons)), layout="constrained")
    axes = figure.subplots()
    look = styles(comparisons[0].group.settings)
    for row, each in enumerate(comparisons):
        low, high = each.interval
        runs, others = each.group.runs[each.setting], each.group.runs[each.baseline]
        pairs = [
            final_value(runs[s], metric) - final_value(others[s], metric)
            for s in runs
            if s in others
        ]
        if len(pairs) <= FEW_SEEDS:
            axes.plot(
                pairs,
                [row + 0.2] * len(pairs),
                "|",
                color=look[each.setting].color,
                markersize=7,
                alpha=0.8,
            )
        if not math.isnan(low):
            axes.plot([low, high], [row, row], color=look[each.setting].color, linewidth=2)
        axes.plot(each.difference, row, markersize=6, **look[each.setting].point)
    axes.axvline(0, color="black", linewidth=0.8)
    if margin:
        axes.axvspan(-margin, margin, color="#999999", alpha=0.2, linewidth=0)
    labels = [short(each.setting.label) + (" *" if each.primary else "") for each in comparisons]
    axes.set_yticks(range(len(comparisons)), labels)
    axes.set_ylim(len(comparisons) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    unit = f" ({metric.difference_unit})" if metric.difference_unit else ""
    better = "right" if metric.higher_is_better else "left"
    other = short(baseline.label)
    axes.set_xlabel(f"{metric.words}, less that of {other}{unit}; better to the {better}")
    return figure


# --- sigma scans ---


def sigma_scan(group: Group, metric: Metric, activations: list[str]) -> Figure:
    """The metric against sigma, with the built-in activations as lines, learned sigmas as stars,
    and the rescaled controls where the sigma is that they stand for."""
    rivals = [s for s in group.settings if s.activation in BUILT_IN]
    series = [each for name in activations for each in _series_of(group, name)]
    labels = [*(label for label, *_ in series), *labels_of(rivals)]
    figure = new_figure(3.2, labels)
    axes = figure.subplots()
    for label, settings, look in series:
        # Those of one sigma stand a little apart.
        shift = 1.03 ** activations.index(settings[0].activation)
        _points(axes, group, metric, settings, shift, label=label, **look)
    for setting, dash in zip(rivals, DASHES, strict=False):
        mean = final_estimate(group, setting, metric).mean
        axes.axhline(mean, label=setting.label, color="#555555", linewidth=1.2, linestyle=dash)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(_apart([s for _, each, _ in series for s in each])))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set(xlabel="σ (no unit)", ylabel=judged_axis(group, metric))
    add_legend(figure, axes)
    return figure


def _series_of(group: Group, name: str) -> list[tuple[str, list[Setting], dict]]:
    """(label, settings, look) of what a scan has of one activation."""
    mine = [s for s in group.settings if s.activation == name and s.sigma is not None]
    number = sorted({s.activation for s in group.settings}).index(name)
    look = {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number % len(MARKERS)]}
    kinds = (
        (name, [s for s in mine if not s.learned and not s.rescaled], {"linestyle": "-"}),
        (f"{name}, weights rescaled instead", [s for s in mine if s.rescaled and not s.learned],
         {"linestyle": ":", "markerfacecolor": "white"}),
        (f"{name}, σ learned from here", [s for s in mine if s.learned],
         {"linestyle": "none", "marker": "*", "markersize": 9}),
    )  # fmt: skip
    return [(label, settings, look | own) for label, settings, own in kinds if settings]


def stands_for(setting: Setting) -> float:
    """The sigma with which the network starts as the same function."""
    return setting.sigma * (setting.rescaled or 1)


def _points(
    axes: Axes, group: Group, metric: Metric, settings: list[Setting], shift: float, **look
) -> None:
    ordered = sorted(settings, key=stands_for)
    finals = [final_estimate(group, setting, metric) for setting in ordered]
    axes.errorbar(
        [shift * stands_for(setting) for setting in ordered],
        [final.mean for final in finals],
        yerr=[half_width(final) for final in finals],
        **{"capsize": 2, "elinewidth": 0.9, "linewidth": 1.2, **look},
    )


def final_estimate(group: Group, setting: Setting, metric: Metric) -> Estimate:
    return estimate([final_value(run, metric) for run in group.runs[setting].values()])


def half_width(found: Estimate) -> float:
    """Of an interval; nothing where there is none."""
    return 0.0 if math.isnan(found.high) else found.high - found.mean


def _apart(settings: list[Setting], ratio: float = 1.6) -> list[float]:
    """Their sigmas, but those whose labels would meet on a logarithmic axis; 1 comes first."""
    kept: list[float] = []
    for sigma in sorted({stands_for(s) for s in settings}, key=lambda s: abs(math.log(s))):
        if all(max(sigma / other, other / sigma) >= ratio for other in kept):
            kept.append(sigma)
    return kept


# --- time ---


def accuracy_and_time(group: Group, metric: Metric) -> Figure:
    """The metric against the time of a training step: means over seeds, with 95 % intervals."""
    figure = new_figure(3.2, labels_of(group.settings))
    axes = figure.subplots()
    look = styles(group.settings)
    for setting in group.settings:
        final = final_estimate(group, setting, metric)
        time = estimate([step_ms(run) for run in group.runs[setting].values()])
        axes.errorbar(
            time.mean,
            final.mean,
            xerr=half_width(time),
            yerr=half_width(final),
            label=short(setting.label),
            capsize=2,
            elinewidth=0.9,
            linestyle="none",
            **look[setting].point,
        )
    if metric.unit == "%":
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, 0), min(high, 100.5))
    axes.set(xlabel="time of a training step (ms)", ylabel=judged_axis(group, metric))
    add_legend(figure, axes)
    return figure


# --- the functions ---


def activation_functions(settings: list[Setting]) -> Figure:
    """The activations compared, and their derivatives."""
    import torch

    from zilu import create_activation

    figure = new_figure(3.0, labels_of(settings))
    left, right = figure.subplots(1, 2)
    x = torch.linspace(-5, 3, 801, requires_grad=True)
    for setting, look in styles(settings).items():
        y = create_activation(setting.activation, setting.sigma or 1.0)(x)
        (slope,) = torch.autograd.grad(y.sum(), x)
        for axes, values in ((left, y), (right, slope)):
            axes.plot(x.detach(), values.detach(), label=setting.label, **look.line)
    left.set(xlabel="x (no unit)", ylabel="f(x)", ylim=(-0.8, 3))
    right.set(xlabel="x (no unit)", ylabel="f′(x)")
    add_legend(figure, left)
    return figure
