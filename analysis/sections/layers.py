"""Show what runs recorded of each layer's activation during training.

The statistics are read from stats.jsonl, and drawn as maps of depth against time.
"""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import QuadMesh
from matplotlib.colorbar import Colorbar
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from analysis.document import Document, plain
from analysis.drawing import WIDTH, plain_log, short
from analysis.findings import GroupFindings
from analysis.grouping import Group
from analysis.section import Section, omission_note
from analysis.variants import Variant
from analysis.wording import ABSENT
from run_folder.folder import RunFolder

FILE = RunFolder.STATS
# The numbers that a line of the file has for a site, besides the counts of channels.
RECORDED = (
    "std", "tail_index", "gaussian_tail_index", "flat_share", "gradient_norm", "sigma", "alpha",
)  # fmt: skip
SYMBOLS = {"sigma": "σ", "alpha": "α"}
METHOD = (
    "**Layers.** Means over the seeds at equal steps. The colours of a figure mean the same for "
    "every setting in it; a hundredth of the values at each end may lie beyond the scale. Grey: no "
    "value."
)


class Layers(Section):
    def write_group(self, document: Document, group: GroupFindings) -> None:
        found = self.statistics[group.number]
        if not (found.means or found.problems):
            return
        document.heading(3, "Layers")
        document.items([plain(text) for text in found.problems])
        if not found.means:
            return
        document.table(f"layers-{group.number}", readable_layers(found))
        document.paragraph("At the last step recorded: medians over the layers, means over seeds.")
        for quantity in QUANTITIES:
            _write_map(document, group, found, quantity)
        learned = [variant for variant in found.frames("sigma") if variant.learned]
        _write_trained(document, group, found, "sigma", learned)
        _write_trained(document, group, found, "alpha", list(found.frames("alpha")))

    def methods(self) -> list[str]:
        return [METHOD] if any(found.means for found in self.statistics.values()) else []

    def csv_tables(self) -> dict[str, pandas.DataFrame]:
        return self.csv_of_groups("layers", lambda g: layers_table(self.statistics[g.number]))

    @cached_property
    def statistics(self) -> dict[int, "LayerStatistics"]:
        """Return the statistics of each group, by its number."""
        return {group.number: layer_statistics(group.group) for group in self.findings.groups}


def _write_map(
    document: Document, group: GroupFindings, found: "LayerStatistics", quantity: "Quantity"
) -> None:
    known = found.frames(quantity.name)
    if known and not any(frame.any(axis=None) for frame in known.values()):
        document.paragraph(f"{quantity.caption} It is 0 everywhere, at all times.")
    elif known:
        shown = group.main_variants(list(known))
        document.figure(
            f"{quantity.name}-{group.number}",
            quantity.caption + omission_note(known, shown, "layers"),
            lambda: heat_maps(found, quantity, shown),
        )


def _write_trained(
    document: Document,
    group: GroupFindings,
    found: "LayerStatistics",
    name: str,
    trained: list[Variant],
) -> None:
    """Draw the numbers that each layer's activation has trained, sigma or alpha."""
    if trained:
        shown = group.main_variants(trained)
        document.figure(
            f"{name}-{group.number}",
            f"Trained {SYMBOLS[name]} of each layer." + omission_note(trained, shown, "layers"),
            lambda: trained_lines(found, name, shown),
        )


# --- reading ---


@dataclass
class LayerStatistics:
    """Hold the statistics of the variants of a group whose runs recorded some.

    Attributes:
        means: A frame (steps, sites) for each variant and quantity, with the sites in order of
            depth, and the mean over the runs that have a value there. Besides RECORDED there are
            tail_ratio (tail_index over the Gaussian's), dead and channels (counts), and dead_share.
        runs: How many runs of a variant recorded statistics.
        problems: Sentences on the files that cannot be used.
    """

    means: dict[Variant, dict[str, pandas.DataFrame]] = field(default_factory=dict)
    runs: dict[Variant, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def frames(self, quantity: str) -> dict[Variant, pandas.DataFrame]:
        """Return the frames of one quantity, for the variants that have a value of it anywhere."""
        frames = {variant: mine[quantity] for variant, mine in self.means.items()}
        return {v: frame for v, frame in frames.items() if frame.notna().any(axis=None)}


def layer_statistics(group: Group) -> LayerStatistics:
    """Read the statistics of all runs of a group that left some."""
    found = LayerStatistics()
    for variant in group.variants:
        of_runs = []
        for run in group.runs_of(variant):
            if (run.path / FILE).exists():
                try:
                    of_runs.append(read_layers(run.path / FILE))
                except ValueError as error:
                    found.problems.append(f"{error}; left out")
        of_runs = [mine for mine in of_runs if any(frame.size for frame in mine.values())]
        if of_runs:
            found.runs[variant] = len(of_runs)
            found.means[variant] = {
                name: _mean([mine[name] for mine in of_runs]) for name in of_runs[0]
            }
    return found


def _mean(frames: list[pandas.DataFrame]) -> pandas.DataFrame:
    """Return the mean at equal steps, over the frames that have a value."""
    if len(frames) == 1:
        return frames[0]
    return pandas.concat(frames, sort=False).groupby(level=0).mean()


SitesByStep = dict[int, dict[str, dict[str, Any]]]


def read_layers(path: Path) -> dict[str, pandas.DataFrame]:
    """Return one run's frames (steps, sites) by quantity, as in `LayerStatistics.means`.

    A last line without an end is not read: it may have been cut.

    Raises:
        ValueError: A line is damaged; the message names it.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ValueError(f"{path}: it cannot be read ({error.strerror})") from None
    sites: SitesByStep = {}
    channels: SitesByStep = {}
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            break
        try:
            content = json.loads(line)
            step = int(content["step"])
            for kind, kept in (("sites", sites), ("channels", channels)):
                if kind in content:
                    kept[step] = {str(site): dict(each) for site, each in content[kind].items()}
        except Exception as error:  # a foreign or damaged line may raise anything
            raise ValueError(f"{path}: line {number} is damaged ({error!r})") from None
    try:
        found = {name: _frame(sites, name) for name in RECORDED}
        found |= {"dead": _frame(channels, "dead"), "channels": _frame(channels, "total")}
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{path}: it holds what is no number ({error})") from None
    found["tail_ratio"] = found["tail_index"] / found["gaussian_tail_index"]
    found["dead_share"] = found["dead"] / found["channels"]
    return {name: frame.replace([np.inf, -np.inf], np.nan) for name, frame in found.items()}


def _frame(by_step: SitesByStep, name: str) -> pandas.DataFrame:
    """Return (steps, sites) of one quantity; null and missing values are NaN."""
    rows = [{site: each.get(name) for site, each in sites.items()} for sites in by_step.values()]
    frame = pandas.DataFrame(rows, index=list(by_step), dtype=float)
    return frame.sort_index()


# --- tables ---


def layers_table(found: LayerStatistics) -> pandas.DataFrame:
    """Return a row for each variant, step and site, means over seeds; depth counts from 1."""
    frames = []
    for variant, mine in found.means.items():
        columns = {name: frame.unstack() for name, frame in mine.items() if frame.size}
        frame = pandas.DataFrame(columns).rename_axis(["site", "step"]).reset_index()
        depth = {site: place for place, site in enumerate(sites_of([mine]), 1)}
        frame.insert(0, "setting", variant.label)
        frame.insert(1, "depth", frame["site"].map(depth))
        frames.append(frame.sort_values(["step", "depth"]))
    return pandas.concat(frames) if frames else pandas.DataFrame()


def sites_of(means: list[dict[str, pandas.DataFrame]]) -> list[str]:
    """Return all sites of these, in order of depth."""
    return list(dict.fromkeys(s for mine in means for frame in mine.values() for s in frame))


def readable_layers(found: LayerStatistics) -> pandas.DataFrame:
    """Return a row for each variant: the median over its sites at the last step.

    Dead channels are counted over all sites.
    """
    rows = []
    for variant, mine in found.means.items():
        row = {"setting": variant.label, "n": str(found.runs[variant])}
        for name, heading, form in (
            ("std", "input sd", "{:.3g}"),
            ("tail_ratio", "tail index / Gaussian's", "{:.2f}"),
            ("flat_share", "flat units (%)", "{:.2f}"),
            ("gradient_norm", "gradient norm", "{:.3g}"),
        ):
            last = mine[name].iloc[-1].median() if len(mine[name]) else float("nan")
            value = 100 * last if name == "flat_share" else last
            row[heading] = ABSENT if pandas.isna(value) else form.format(value)
        if len(mine["dead"]):
            dead, channels = (mine[name].iloc[-1].sum() for name in ("dead", "channels"))
            row["dead channels"] = f"{dead:.1f} of {channels:.0f}"
        rows.append(row)
    return pandas.DataFrame(rows).fillna(ABSENT)


# --- figures ---

COLUMNS = 3  # maps beside each other
MOST_SITES = 60  # with more, not every one has its name
SITE = 0.095  # inches of a site's row, which is what its name takes
BAR = 0.13  # inches across a colour bar
NO_VALUE = "#CCCCCC"
LONGEST_SITE = 24  # letters beside a map
NARROW = 22  # letters above a map
NAMES = 20  # beside the colours of the lines


@dataclass(frozen=True)
class Quantity:
    """Describe a quantity that has a figure of maps.

    Attributes:
        name: Its name in `LayerStatistics.means`.
        label: The label of the colours.
        caption: The caption of the figure.
        scale: The kind of the colour scale: share (from 0), log, or ratio (around 1).
        factor: The factor from the recorded values to the label's unit.
    """

    name: str
    label: str
    caption: str
    scale: str
    factor: float = 1


QUANTITIES = (
    Quantity("std", "sd (no unit)",
             "Standard deviation of what enters each activation.", "log"),
    Quantity("tail_ratio", "tail index / Gaussian's",
             "Tail index of what enters each activation, over the value that the same estimate "
             "has for a Gaussian: below 1 (orange) the tails are heavier than Gaussian, above 1 "
             "(purple) lighter.", "ratio"),
    Quantity("flat_share", "flat units (%)",
             "Share of the units where the activation is flat: |f′| < 0.01.", "share", 100),
    Quantity("gradient_norm", "gradient norm (no unit)",
             "Norm of the loss's gradient with respect to each activation's input.", "log"),
    Quantity("dead_share", "dead channels (%)",
             "Share of the channels that had no positive input in a whole evaluation pass.",
             "share", 100),
)  # fmt: skip


def heat_maps(found: LayerStatistics, quantity: Quantity, variants: list[Variant]) -> Figure:
    """Draw sites by depth against steps, means over seeds; one colour scale for all variants."""
    known = found.frames(quantity.name)
    frames = {variant: quantity.factor * known[variant] for variant in variants}
    values = np.concatenate([frame.to_numpy().ravel() for frame in frames.values()])
    norm, colors = _scale(quantity.scale, values[np.isfinite(values)])
    sites = sites_of([{"": frame} for frame in frames.values()])
    figure, grid = _grid(len(frames), max(1.5, SITE * min(len(sites), MOST_SITES)))
    for axes, (variant, frame) in zip(grid.flat, frames.items(), strict=False):
        mesh = _map(axes, frame.reindex(columns=sites))
        mesh.set(cmap=colors, norm=norm)
        axes.set_title(_title(variant))
    for axes in grid[:, 0]:
        _name_sites(axes, sites)
    bar = _color_bar(figure, grid, mesh, extend=_beyond(values, norm), extendfrac=0.02)
    bar.set_label(quantity.label)
    if quantity.scale == "log":
        plain_log(bar.ax)
    return figure


def _grid(maps: int, height: float) -> tuple[Figure, NDArray[Any]]:
    """Return a figure with axes, each `height` inches high, for so many variants."""
    columns = min(COLUMNS, maps)
    rows = -(-maps // columns)
    figure = Figure(figsize=(WIDTH, 0.4 + rows * (height + 0.4)), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[maps:]:
        axes.set_axis_off()
    for axes in grid.flat[max(0, maps - columns) : maps]:  # nothing stands below these
        axes.xaxis.set_tick_params(labelbottom=True)
    figure.supxlabel("training step", fontsize="medium")
    return figure, grid


def _map(axes: Axes, frame: pandas.DataFrame) -> QuadMesh:
    steps = frame.index.to_numpy(dtype=float)
    # A cell ends at its step: it tells of what came before.
    first = 2 * steps[0] - steps[1] if len(steps) > 1 else 0.0
    edges = [np.concatenate([[first], steps]), np.arange(len(frame.columns) + 1) + 0.5]
    axes.set(facecolor=NO_VALUE, ylim=(len(frame.columns) + 0.5, 0.5))
    axes.grid(False)
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    return axes.pcolormesh(*edges, frame.to_numpy().T, rasterized=True)


def _color_bar(
    figure: Figure, grid: NDArray[Any], mappable: ScalarMappable, **look: Any
) -> Colorbar:
    """Add a colour bar as high as the figure, and as wide in every figure."""
    aspect = figure.get_figheight() / BAR
    return figure.colorbar(mappable, ax=grid, pad=0.01, aspect=aspect, **look)


def _scale(scale: str, values: NDArray[np.float64]) -> tuple[Normalize, str]:
    """Return norm and colour map of a kind of scale.

    A hundredth of the values at each end may lie beyond it, so that a single one does not take all
    the colours.
    """
    positive = values[values > 0]
    if scale == "log" and not positive.size:
        return Normalize(0, 1), "cividis"
    low, high = np.percentile(positive if scale == "log" else values, [1, 99])
    if scale == "ratio":
        reach = max(abs(low - 1), abs(high - 1), 0.05)
        return Normalize(1 - reach, 1 + reach), "PuOr"
    if scale == "share":
        return Normalize(0, max(high, 1)), "cividis"
    return LogNorm(low, max(high, 1.01 * low)), "cividis"


def _beyond(values: NDArray[np.float64], norm: Normalize) -> str:
    """Return the ends of the scale that values lie beyond, as matplotlib names them."""
    below, above = np.nanmin(values) < norm.vmin, np.nanmax(values) > norm.vmax
    return {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[below, above]


def _name_sites(axes: Axes, sites: list[str]) -> None:
    """Label the rows of a map, every second or third one where there are too many."""
    every = -(-len(sites) // MOST_SITES)
    places = range(1, len(sites) + 1, every)
    axes.set_yticks(places, [_end(sites[place - 1]) for place in places], fontsize=6)


def _end(site: str) -> str:
    """Return as much of a path as there is room for; its end tells more than its start."""
    return site if len(site) <= LONGEST_SITE else "…" + site[1 - LONGEST_SITE :]


def _title(variant: Variant) -> str:
    label = short(variant.label)
    return label if len(label) <= NARROW else label.replace(" (", "\n(", 1)


def trained_lines(found: LayerStatistics, name: str, variants: list[Variant]) -> Figure:
    """Draw trained sigmas or alphas against steps, a line for each site, means over seeds."""
    known = found.frames(name)
    frames = {variant: known[variant] for variant in variants}
    sites = sites_of([{"": frame} for frame in frames.values()])
    figure, grid = _grid(len(frames), 2.2)
    # Without the lightest end of the map: on white such a line would not be seen.
    colors = matplotlib.colormaps["cividis"](np.linspace(0, 0.85, len(sites)))
    for axes, (variant, frame) in zip(grid.flat, frames.items(), strict=False):
        for site, values in frame.items():
            axes.plot(frame.index, values, color=colors[sites.index(site)], linewidth=1)
        axes.set_title(_title(variant))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    for axes in grid[:, 0]:
        axes.set_ylabel(f"{SYMBOLS[name]} (no unit)")
    _depth_bar(figure, grid, colors, sites)
    return figure


def _depth_bar(
    figure: Figure, grid: NDArray[Any], colors: NDArray[np.float64], sites: list[str]
) -> None:
    """Add a bar of the sites' colours, with their names where there is room."""
    norm = Normalize(0.5, len(sites) + 0.5)
    mappable = ScalarMappable(norm, ListedColormap(colors))
    every = -(-len(sites) // NAMES)
    places = list(range(1, len(sites) + 1, every))
    bar = _color_bar(figure, grid, mappable, ticks=places)
    bar.ax.set_yticklabels([_end(sites[place - 1]) for place in places], fontsize=6)
    bar.ax.invert_yaxis()
