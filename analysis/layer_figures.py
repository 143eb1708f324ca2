"""Depth against time: what went on in each layer's activation, a map for each setting."""

from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import WIDTH, plain_log, short
from analysis.layers import Layers, sites_of
from analysis.settings import Setting

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
    """`scale`: share (from 0), log, or ratio (around 1). `factor` makes the label's unit."""

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


def heat_maps(layers: Layers, quantity: Quantity, settings: list[Setting]) -> Figure:
    """Sites by depth against steps, means over seeds; one colour scale for all settings."""
    known = layers.of(quantity.name)
    frames = {setting: quantity.factor * known[setting] for setting in settings}
    values = np.concatenate([frame.to_numpy().ravel() for frame in frames.values()])
    norm, colors = _scale(quantity.scale, values[np.isfinite(values)])
    sites = sites_of([{"": frame} for frame in frames.values()])
    figure, grid = _grid(len(frames), max(1.5, SITE * min(len(sites), MOST_SITES)))
    for axes, (setting, frame) in zip(grid.flat, frames.items(), strict=False):
        mesh = _map(axes, frame.reindex(columns=sites))
        mesh.set(cmap=colors, norm=norm)
        axes.set_title(_title(setting))
    for axes in grid[:, 0]:
        _name_sites(axes, sites)
    bar = _color_bar(figure, grid, mesh, extend=_beyond(values, norm), extendfrac=0.02)
    bar.set_label(quantity.label)
    if quantity.scale == "log":
        plain_log(bar.ax)
    return figure


def _grid(maps: int, height: float) -> tuple[Figure, np.ndarray]:
    """A figure with axes, `height` inches high, for so many settings."""
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


def _map(axes: Axes, frame: pandas.DataFrame):
    steps = frame.index.to_numpy(dtype=float)
    # A cell ends at its step: it tells of what came before.
    first = 2 * steps[0] - steps[1] if len(steps) > 1 else 0.0
    edges = [np.concatenate([[first], steps]), np.arange(len(frame.columns) + 1) + 0.5]
    axes.set(facecolor=NO_VALUE, ylim=(len(frame.columns) + 0.5, 0.5))
    axes.grid(False)
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    return axes.pcolormesh(*edges, frame.to_numpy().T, rasterized=True)


def _color_bar(figure: Figure, grid: np.ndarray, mappable, **look) -> Colorbar:
    """As high as the figure, and as wide in every one."""
    aspect = figure.get_figheight() / BAR
    return figure.colorbar(mappable, ax=grid, pad=0.01, aspect=aspect, **look)


def _scale(scale: str, values: np.ndarray) -> tuple[Normalize, str]:
    """Norm and colours. A hundredth of the values at each end may lie beyond the scale, so that
    a single one does not take it all."""
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


def _beyond(values: np.ndarray, norm: Normalize) -> str:
    below, above = np.nanmin(values) < norm.vmin, np.nanmax(values) > norm.vmax
    return {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[below, above]


def _name_sites(axes: Axes, sites: list[str]) -> None:
    every = -(-len(sites) // MOST_SITES)
    places = range(1, len(sites) + 1, every)
    axes.set_yticks(places, [_end(sites[place - 1]) for place in places], fontsize=6)


def _end(site: str) -> str:
    """What there is room for of a path, the end of which tells more."""
    return site if len(site) <= LONGEST_SITE else "…" + site[1 - LONGEST_SITE :]


def _title(setting: Setting) -> str:
    label = short(setting.label)
    return label if len(label) <= NARROW else label.replace(" (", "\n(", 1)


def sigmas(layers: Layers, settings: list[Setting]) -> Figure:
    """Learned sigmas against steps, a line for each site, means over seeds."""
    frames = {setting: layers.of("sigma")[setting] for setting in settings}
    sites = sites_of([{"": frame} for frame in frames.values()])
    figure, grid = _grid(len(frames), 2.2)
    # Without the lightest end of it, which no line would show on white.
    colors = matplotlib.colormaps["cividis"](np.linspace(0, 0.85, len(sites)))
    for axes, (setting, frame) in zip(grid.flat, frames.items(), strict=False):
        for site, values in frame.items():
            axes.plot(frame.index, values, color=colors[sites.index(site)], linewidth=1)
        axes.set_title(_title(setting))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    for axes in grid[:, 0]:
        axes.set_ylabel("σ (no unit)")
    _depth_bar(figure, grid, colors, sites)
    return figure


def _depth_bar(figure: Figure, grid: np.ndarray, colors: np.ndarray, sites: list[str]) -> None:
    """What colour which site has, by name where there is room."""
    norm = Normalize(0.5, len(sites) + 0.5)
    mappable = matplotlib.cm.ScalarMappable(norm, ListedColormap(colors))
    every = -(-len(sites) // NAMES)
    places = list(range(1, len(sites) + 1, every))
    bar = _color_bar(figure, grid, mappable, ticks=places)
    bar.ax.set_yticklabels([_end(sites[place - 1]) for place in places], fontsize=6)
    bar.ax.invert_yaxis()
