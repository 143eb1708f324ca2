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

from evidence.comparisons import Comparison
from evidence.metrics import Metric, final_value, split_of
from evidence.settings import BUILT_IN, Group, Setting
from evidence.statistics import Estimate, estimate
from evidence.tables import step_ms
from utils import usable_cpus

FORMATS = ("png", "svg", "pdf")
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
WIDTH = 6.8  # inches: a page between its margins
FEW_SEEDS = 10  # up to here every seed is drawn as well
INSIDE_LEGEND = 5  # longer ones stand beside the axes
STYLE = {
    "font.size": 9, "axes.titlesize": 9, "legend.fontsize": 8, "axes.grid": True,
    "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False,
    "svg.hashsalt": "zilu", "svg.fonttype": "path", "pdf.fonttype": 42, "savefig.dpi": 150,
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
    found = {}
    for number, setting in enumerate(settings):
        color = number % len(COLORS)
        dash = DASHES[(number + number // len(COLORS)) % len(DASHES)]
        found[setting] = Style(
            COLORS[color], dash, MARKERS[(number + number // len(COLORS)) % len(MARKERS)]
        )
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


def _legend(axes: Axes, count: int) -> None:
    if count <= INSIDE_LEGEND:
        axes.legend(loc="best")
    else:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0)


# --- learning curves ---


def learning_curves(group: Group, metric: Metric) -> Figure:
    """Training loss and the metric by epoch: the mean over seeds, and a band of one sd."""
    figure = Figure(
        figsize=(WIDTH, 2.9 if len(group.settings) <= INSIDE_LEGEND else 3.4), layout="constrained"
    )
    left, right = figure.subplots(1, 2)
    look = styles(group.settings)
    split = curve_split(group)
    for setting in group.settings:
        runs = list(group.runs[setting].values())
        for axes, part, name in ((left, "train", "loss"), (right, split, metric.name)):
            _curve(axes, runs, part, name, look[setting], setting.label)
    left.set(xlabel="epoch", ylabel="training loss (nats)", yscale="log")
    right.set(xlabel="epoch", ylabel=metric.axis(f"{SPLIT_WORDS[split]} "))
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _plain_log(left)
    _zoom(right, metric)
    if len(group.settings) <= INSIDE_LEGEND:
        right.legend(loc="best")
    else:
        figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


SPLIT_WORDS = {"test": "test", "val": "validation", "train": "training"}


def curve_split(group: Group) -> str:
    """The split that has a value at more than the end: test, or validation."""
    records = group.any_run().records
    return next(
        (s for s in ("test", "val") if sum(s in r for r in records) > len(records) / 2),
        split_of(group.any_run()),
    )


def _curve(axes: Axes, runs: list, part: str, name: str, look: Style, label: str) -> None:
    by_epoch: dict[float, list[float]] = {}
    for run in runs:
        for record in run.records:
            value = record.get(part, {}).get(name)
            if value is not None and "epoch" in record and not record.get("partial"):
                by_epoch.setdefault(record["epoch"], []).append(value)
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
    if len(runs) > 1:
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


def _plain_log(axes: Axes) -> None:
    """1, 0.5, 0.2 on a logarithmic axis, not powers."""
    low, high = axes.get_ylim()
    low = max(low, 1e-12)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 1000 else (1,)
    ticks = [k * 10.0**d for d in decades for k in steps]
    axes.yaxis.set_major_locator(FixedLocator([t for t in ticks if low <= t <= high]))
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
    labels = [each.setting.label + (" *" if each.primary else "") for each in comparisons]
    axes.set_yticks(range(len(comparisons)), labels)
    axes.set_ylim(len(comparisons) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    unit = f" ({metric.difference_unit})" if metric.difference_unit else ""
    better = "right" if metric.higher_is_better else "left"
    axes.set_xlabel(f"{metric.words}, less that of {baseline.label}{unit}; better to the {better}")
    return figure


# --- sigma scans ---


def sigma_scan(group: Group, metric: Metric, activations: list[str]) -> Figure:
    """The metric against sigma, with the built-in activations as lines, learned sigmas as stars,
    and the rescaled controls where the sigma is that they stand for."""
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    look = styles(group.settings)
    for number, name in enumerate(activations):
        color, marker = COLORS[number], MARKERS[number]
        mine = [s for s in group.settings if s.activation == name]
        fixed = [s for s in mine if not s.learned and s.rescaled is None]
        controls = [s for s in mine if not s.learned and s.rescaled is not None]
        learned = [s for s in mine if s.learned and s.rescaled is None]
        _points(axes, group, metric, fixed, name, color=color, marker=marker, linestyle="-")
        _points(axes, group, metric, controls, f"{name} (σ = 1), weights rescaled", color=color,
                marker=marker, linestyle=":", markerfacecolor="white")  # fmt: skip
        _points(axes, group, metric, learned, f"{name}, σ learned (from here)", color=color,
                marker="*", markersize=9, linestyle="none")  # fmt: skip
    for setting in group.settings:
        if setting.activation in BUILT_IN:
            final = final_estimate(group, setting, metric)
            axes.axhline(
                final.mean,
                label=setting.label,
                linewidth=1.2,
                **look[setting].line | {"color": "#555555"},
            )
    axes.set_xscale("log")
    sigmas = sorted(
        {s.sigma * (s.rescaled or 1) for s in group.settings if s.activation in activations}
    )
    axes.xaxis.set_major_locator(FixedLocator(_apart(sigmas)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set(xlabel="σ (no unit)", ylabel=metric.axis("test "))
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0)
    return figure


def _points(
    axes: Axes, group: Group, metric: Metric, settings: list[Setting], label: str, **look
) -> None:
    if not settings:
        return
    stands_for = {s: s.sigma * (s.rescaled or 1) for s in settings}
    ordered = sorted(settings, key=stands_for.get)
    finals = [final_estimate(group, setting, metric) for setting in ordered]
    axes.errorbar(
        [stands_for[setting] for setting in ordered],
        [final.mean for final in finals],
        yerr=[half_width(final) for final in finals],
        **{"label": label, "capsize": 2, "elinewidth": 0.9, "linewidth": 1.2, **look},
    )


def final_estimate(group: Group, setting: Setting, metric: Metric) -> Estimate:
    return estimate([final_value(run, metric) for run in group.runs[setting].values()])


def half_width(found: Estimate) -> float:
    """Of an interval; nothing where there is none."""
    return 0.0 if math.isnan(found.high) else found.high - found.mean


def _apart(ticks: list[float], ratio: float = 1.28) -> list[float]:
    """Those of a logarithmic axis whose labels do not meet."""
    kept: list[float] = []
    for tick in ticks:
        if not kept or tick / kept[-1] >= ratio:
            kept.append(tick)
    return kept


# --- time ---


def accuracy_and_time(group: Group, metric: Metric) -> Figure:
    """The metric against the time of a training step: means over seeds, with 95 % intervals."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
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
            label=setting.label,
            capsize=2,
            elinewidth=0.9,
            linestyle="none",
            **look[setting].point,
        )
    if metric.unit == "%":
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, 0), min(high, 100.5))
    axes.set(
        xlabel="time of a training step (ms)", ylabel=metric.axis(f"{split_of(group.any_run())} ")
    )
    _legend(axes, len(group.settings))
    return figure


# --- the functions ---


def activation_functions(settings: list[Setting]) -> Figure:
    """The activations compared, and their derivatives."""
    import torch

    from zilu import create_activation

    figure = Figure(
        figsize=(WIDTH, 3.0 if len(settings) <= INSIDE_LEGEND else 3.6), layout="constrained"
    )
    left, right = figure.subplots(1, 2)
    x = torch.linspace(-5, 3, 801, requires_grad=True)
    for setting, look in styles(settings).items():
        y = create_activation(setting.activation, setting.sigma or 1.0)(x)
        (slope,) = torch.autograd.grad(y.sum(), x)
        for axes, values in ((left, y), (right, slope)):
            axes.plot(x.detach().numpy(), values.detach().numpy(), label=setting.label, **look.line)
    left.set(xlabel="x (no unit)", ylabel="f(x)", ylim=(-0.8, 3))
    right.set(xlabel="x (no unit)", ylabel="f′(x)")
    if len(settings) <= INSIDE_LEGEND:
        left.legend(loc="upper left")
    else:
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
