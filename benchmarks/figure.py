"""Draw the time of activations relative to GELU's."""

import textwrap
from pathlib import Path
from typing import Any

from benchmarks import tables

LONGEST_BAR = 3  # times GELU's; longer ones are cut and say their length


def draw(rows: list[dict[str, Any]], text: str, path: Path) -> None:
    """Draw bars of the time of forward and backward relative to GELU's, a panel for each cell.

    Args:
        rows: those of activations.csv.
        text: the caption.
        path: the PNG file.
    """
    from matplotlib.figure import Figure  # optional: tables.check_matplotlib

    lines = list(dict.fromkeys((row["device"], row["dtype"]) for row in rows))
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    height = 0.26 * len(arms) + 0.75
    footnote = "\n".join(textwrap.wrap(text, int(15 * (2.6 * len(sizes) + 1.6))))
    foot = 0.17 * (footnote.count("\n") + 2)
    inches = 2.6 * len(sizes) + 1.6, height * len(lines) + foot
    figure = Figure(figsize=inches, layout="constrained")
    figure.get_layout_engine().set(rect=(0, foot / inches[1], 1, 1 - foot / inches[1]))
    panels = figure.subplots(len(lines), len(sizes), sharex=True, sharey=True, squeeze=False)
    for line, (device, dtype) in zip(panels, lines, strict=True):
        for panel, size in zip(line, sizes, strict=True):
            own = [r for r in rows if (r["device"], r["dtype"], r["size"]) == (device, dtype, size)]
            draw_panel(panel, own)
            panel.set_title(f"{device}, {dtype}, {tables.size(size)} elements", fontsize=9)
    longest = max(row["both_over_GELU"] for row in rows)
    cut = f", bars end at {LONGEST_BAR}" if longest > LONGEST_BAR else ""
    for panel in panels[-1]:
        panel.set_xlabel(f"time ÷ GELU's{cut}", fontsize=8)
    # The panels share their axes.
    panels[0][0].set_xlim(0, 1.2 * min(max(longest, 1.2), LONGEST_BAR))
    panels[0][0].set_ylim(len(arms) - 0.4, -0.6)
    figure.text(0.01, 0.08 / inches[1], footnote, fontsize=7, va="bottom")
    figure.savefig(path, dpi=160, format="png")


def draw_panel(panel: Any, rows: list[dict[str, Any]]) -> None:
    """Draw one cell's bars into matplotlib's Axes `panel`."""
    colours = {"": "#9a9a9a", "plain": "#d9b48f"}  # torch's own, plain; the rest stands out
    ratios = [row["both_over_GELU"] for row in rows]
    panel.axvline(1, color="black", linewidth=0.8, zorder=0)
    bars = panel.barh(
        [row["arm"] for row in rows],
        [min(ratio, LONGEST_BAR) for ratio in ratios],
        color=[colours.get(row["kernels"], "#2a6fb0") for row in rows],
    )
    texts = panel.bar_label(bars, [f"{ratio:.2f}" for ratio in ratios], padding=2, fontsize=7)
    for text in texts:  # legible on the line at 1
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.6})
    panel.tick_params(labelsize=7)
    panel.spines[["top", "right"]].set_visible(False)
