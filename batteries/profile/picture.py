"""Draw a function, its slope, its second derivative, and its tails."""

import math

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from analysis.drawing import COLORS
from batteries.profile.found import Curve, TailCurves

SIZE = (4.3, 3.0)  # inches: small enough for a telephone
LINES = (("f(x)", "-"), ("f′(x)", "--"), ("f″(x)", ":"))
LARGEST = 4.0  # shown of any value, so that a wall does not flatten all else


SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power_of_ten(x: float, _: int) -> str:
    """Return a power of ten as an axis has it."""
    return f"10{str(round(math.log10(x))).translate(SUPERSCRIPTS)}"


def functions(curve: Curve) -> Figure:
    """Draw f, its slope and its second derivative from −6 to 6."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    for (label, dash), color, values in zip(
        LINES, COLORS, (curve.f, curve.slope, curve.second), strict=False
    ):
        y = [math.nan if value is None else value for value in values]
        axes.plot(curve.x, y, linestyle=dash, color=color, label=label, linewidth=1.6)
    low, high = _limits(curve)
    axes.set(xlabel="x", xlim=(curve.x[0], curve.x[-1]), ylim=(low, high))
    axes.legend(loc="best")
    return figure


def _limits(curve: Curve) -> tuple[float, float]:
    """Return the ends of the axis: all values, as far as they lie within ±LARGEST."""
    values = [v for each in (curve.f, curve.slope, curve.second) for v in each if v is not None]
    low = max(min(values, default=0.0), -LARGEST)
    high = min(max(values, default=1.0), LARGEST)
    room = 0.05 * (high - low or 1.0)
    return low - room, high + room


def tails(found: TailCurves) -> Figure:
    """Draw the distances from the lines that f tends to, on logarithmic axes."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    names = (("x → −∞", "-"), ("x → ∞", "--"))
    for (label, dash), color, values in zip(names, COLORS, (found.left, found.right), strict=False):
        shown = [value or math.nan for value in values]
        if any(not math.isnan(value) for value in shown):
            axes.plot(found.size, shown, linestyle=dash, color=color, label=label, linewidth=1.6)
    axes.set(xlabel="|x|", ylabel="distance from the line", xscale="log", yscale="log")
    axes.set_xlim(found.size[0], found.size[-1])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(power_of_ten))
        axis.set_minor_locator(NullLocator())
    if axes.get_lines():
        axes.legend(loc="best")
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, 1e-18), high)
    else:
        axes.set(ylim=(1e-16, 1))
        axes.text(0.5, 0.5, "0 on both sides", transform=axes.transAxes, ha="center")
    return figure
