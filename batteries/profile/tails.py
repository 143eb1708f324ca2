"""Find what a function tends to far from 0, and how fast.

The function is looked at from |x| = 1 to a million, in float64. Limits are extrapolated by Aitken's
formula from values at three points, evenly spaced in log |x|, which is exact for a single power.
"""

import math

import torch
from torch import Tensor

from batteries.profile.found import (
    BETWEEN,
    LINE,
    OVERFLOW,
    POWER,
    SLOW,
    SWINGS,
    UNDEFINED,
    Tail,
    TailCurves,
)
from batteries.profile.subject import Function

FIRST, LAST, PER_DECADE = 0, 6, 100  # powers of ten
PER_STEP, STEP = PER_DECADE // 2, math.log(10) / 2  # of the extrapolation
SETTLED = 4  # the power of ten where what tends faster than a power has arrived
ROUNDING = 16 * torch.finfo(torch.float64).eps
REACHED = 1e-12  # of |x| or of 1, which a line is reached within
FASTEST = 12  # a power above it counts as faster than every power
CURVE_FROM, CURVE_TO, CURVE_POINTS = -1, 4, 126


def tail(f: Function, side: int) -> Tail:
    """Return what f does for x to infinity (side 1) or to minus infinity (side −1)."""
    count = (LAST - FIRST) * PER_DECADE + 1
    t = torch.logspace(FIRST, LAST, count, dtype=torch.float64)
    y = f(side * t)
    broken = (~y.isfinite()).nonzero().flatten()
    if len(broken):
        first = int(broken[0])
        at = side * t[first].item()
        if y[first].isnan():
            return Tail(UNDEFINED, reached=at)
        return Tail(OVERFLOW, reached=at, sign=int(y[first].sign()))
    power = _power(y)
    sign = int(y[-1].sign())
    if power is not None and power > 1.02:
        return Tail(POWER, power=power, sign=sign)
    slope = _slope(t, y, side)
    if slope is None:
        return Tail(SWINGS)
    rest = y - slope * side * t
    spreads = _spreads(rest)
    settles = spreads[-1] <= max(0.7 * spreads[-2], _rounding(t[-1], slope, rest[-1]))
    if settles:
        return _line(f, side, slope, rest, t)
    steps = rest[-PER_DECADE:].diff()
    if (steps > 0).all() or (steps < 0).all():
        if power is not None and power > 0.02:
            return Tail(POWER, power=power, sign=sign)
        return Tail(SLOW, slope=slope, sign=int(steps[0].sign()))
    # Swings move a chord's slope by their size over its length; further in that matters little.
    slope = round(slope, 5)
    near = (y - slope * side * t)[: 2 * PER_DECADE]
    return Tail(BETWEEN, slope=slope, low=near.min().item(), high=near.max().item())


def _power(y: Tensor) -> float | None:
    """Return q where |f| grows like |x|^q over the last decades; None where it does not."""
    sizes = [part.abs().max().item() for part in _decades(y)]
    if min(sizes[-3:]) == 0:
        return None
    powers = [math.log10(b / a) for a, b in zip(sizes[-3:], sizes[-2:], strict=False)]
    swings = len(_decades(y)[-1].sign().unique()) > 1
    return round(powers[-1], 2) if abs(powers[0] - powers[1]) < 0.005 and not swings else None


def _decades(y: Tensor) -> list[Tensor]:
    return [
        y[number * PER_DECADE : (number + 1) * PER_DECADE + 1] for number in range(LAST - FIRST)
    ]


def _spreads(rest: Tensor) -> list[float]:
    return [(part.max() - part.min()).item() for part in _decades(rest)]


def _slope(t: Tensor, y: Tensor, side: int) -> float | None:
    """Return the limit of f(x)/x; None where there is none."""
    t, y = t[::PER_DECADE], y[::PER_DECADE]
    chords = (y.diff() / (side * t.diff())).tolist()
    limit = _aitken(*chords[-3:])
    if abs(chords[-1] - chords[-2]) > 0.01 * (1 + abs(chords[-1])):
        return None
    if abs(limit - chords[-1]) > abs(chords[-1] - chords[-2]):
        limit = chords[-1]  # they do not fall like a power
    return 0.0 if abs(limit) < 1e-13 else limit


def _aitken(first: float, second: float, third: float) -> float:
    """Return the limit of a sequence whose steps shrink by one factor."""
    change = (third - second) - (second - first)
    if abs(change) <= ROUNDING * max(abs(first), abs(second), abs(third)):
        return third
    return third - (third - second) ** 2 / change


def _rounding(t: Tensor, slope: float, rest: Tensor) -> float:
    """Return the rounding of f(x) − slope·x."""
    return ROUNDING * (abs(slope) * t.item() + abs(rest.item()))


def _line(f: Function, side: int, slope: float, rest: Tensor, t: Tensor) -> Tail:
    """Return the tail of a function that tends to a line, from what it has beside slope·x."""
    found = _approach(t[::PER_STEP], rest[::PER_STEP], slope)
    if found is not None:
        offset, order, coefficient = found
        return Tail(LINE, slope=slope, offset=offset, order=order, coefficient=coefficient)
    far = (SETTLED - FIRST) * PER_DECADE
    offset = rest[far].item()
    if abs(offset) <= 10 * _rounding(t[far], slope, rest[far]):
        offset = 0.0
    return Tail(LINE, slope=slope, offset=offset, reached=_reached(f, side, slope, offset))


def _approach(t: Tensor, r: Tensor, slope: float) -> tuple[float, float, float] | None:
    """Return b, p and c where r is b + c·t^−p from some t on; None where it falls otherwise.

    The farthest four points count that differ by more than rounding: both halves must show the
    same p.
    """
    steps = -r.diff()
    for last in range(len(t) - 1, 2, -1):
        if abs(steps[last - 1].item()) > 100 * _rounding(t[last], slope, r[last]):
            first, second, third = steps[last - 3 : last].tolist()
            if not (first / second > 1 and second / third > 1):
                return None
            power, checked = (math.log(a / b) / STEP for a, b in ((first, second), (second, third)))
            if power > FASTEST or abs(power - checked) > 0.05 * max(1.0, power):
                return None
            start, end = t[last - 1].item(), t[last].item()
            coefficient = third / (start**-checked - end**-checked)
            return _aitken(*r[last - 2 : last + 1].tolist()), round(checked, 2), coefficient
    return None


def _reached(f: Function, side: int, slope: float, offset: float) -> float:
    """Return the x beyond which f is the line to within rounding."""
    t = torch.cat([torch.zeros(1, dtype=torch.float64),
                   torch.logspace(-2, 3, 2001, dtype=torch.float64)])  # fmt: skip
    differs = (f(side * t) - slope * side * t - offset).abs() > REACHED * t.clamp(min=1)
    places = differs.nonzero().flatten()
    return side * (t[min(int(places[-1]) + 1, len(t) - 1)].item() if len(places) else 0.0)


def tail_curves(f: Function, left: Tail, right: Tail) -> TailCurves:
    """Return the distances of f from the lines that it tends to."""
    t = torch.logspace(CURVE_FROM, CURVE_TO, CURVE_POINTS, dtype=torch.float64)

    def distances(found: Tail, side: int) -> tuple[float | None, ...]:
        if found.kind != LINE:
            return ()
        x = side * t
        y = f(x)
        size = (y - found.slope * x - found.offset).abs()
        # Below, it is the rounding of float64.
        seen = size > ROUNDING * (y.abs() + (found.slope * x).abs() + abs(found.offset))
        return tuple(
            float(f"{each:.4g}") if visible else None
            for each, visible in zip(size.tolist(), seen.tolist(), strict=True)
        )

    size = tuple(float(f"{each:.4g}") for each in t.tolist())
    return TailCurves(size, distances(left, -1), distances(right, 1))
