"""Find the properties of a function of one number from its values, and from backward's slopes.

The function is evaluated in float64 at every thousandth from −12 to 12, and from there to ±10,000
at 300 points on each side, spread evenly in log |x|. What changes by less than rounding counts as
no change. Extremes are then searched for between the points.
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
    Extreme,
    Interval,
    Intervals,
    Shape,
    Tail,
)
from batteries.profile.health import intervals
from batteries.profile.subject import Function, Subject
from batteries.profile.tails import tail

REACH, PER_UNIT = 12, 1000
FARTHEST, FAR_POINTS = 1e4, 300
ROUNDING = 16 * torch.finfo(torch.float64).eps
# Of the slope, from one step to the next. torch's Softplus jumps by 2e-9 where it becomes x.
SMALLEST_BEND = 1e-8
SHOWN = 4
ZOOM_POINTS, ZOOMS = 101, 4  # of the search for an extreme: steps of 2e-3 / 50^4
LIMIT_TOLERANCE = 1e-9  # of a limit, which is an extrapolation
# Jumps: a step between neighbouring points that does not shrink while their interval is halved.
VALUE_HALVINGS, SMALLEST_JUMP = 25, 1e-6
SLOPE_WIDTH, SLOPE_HALVINGS, SMALLEST_SLOPE_JUMP = 1e-7, 10, 1e-4
SECOND_WIDTH, SECOND_HALVINGS, SMALLEST_SECOND_JUMP = 1e-7, 8, 1e-3
SAME_PLACE = 1e-3


def shape(subject: Subject) -> Shape:
    """Return the properties of an elementwise activation."""
    f, slope_of = subject.exact(), subject.slopes()
    x = points()
    y, slopes = f(x), slope_of(x)
    known = y.isfinite()
    undefined = _nearest(intervals(x, ~known))
    x, y, slopes = x[known], y[known], slopes[known]
    left, right = tail(f, -1), tail(f, 1)
    steps = y.diff()
    rounding = ROUNDING * (x.abs() + y.abs())
    allowed = rounding[:-1] + rounding[1:]
    lengths = x.diff()
    bends = (steps / lengths).diff()
    uncertain = allowed / lengths
    allowed_bends = SMALLEST_BEND + uncertain[:-1] + uncertain[1:]
    smoothness, breaks = smoothness_of(f, slope_of)
    origin = torch.zeros(1, dtype=torch.float64)
    return Shape(
        at_zero=f(origin).item(),
        slope_at_zero=slope_of(origin).item(),
        rises=_stretches(x, steps > allowed, steps < -allowed, f),
        falls=_stretches(x, steps < -allowed, steps > allowed, f),
        largest_fall=(y.cummax(0).values - y).max().item(),
        bends_up=_stretches(x[1:-1], *_either(bends, allowed_bends)),
        bends_down=_stretches(x[1:-1], *_either(-bends, allowed_bends)),
        lowest=_extreme(f, x, y, left, right, -1),
        highest=_extreme(f, x, y, left, right, 1),
        slope_lowest=_slope_extreme(slope_of, x, slopes, left, right, -1),
        slope_highest=_slope_extreme(slope_of, x, slopes, left, right, 1),
        smoothness=smoothness,
        breaks=breaks,
        left=left,
        right=right,
        undefined=undefined,
    )


def points() -> Tensor:
    """Return the inputs that a function is judged by, in order; (n,), float64."""
    near = torch.arange(-REACH * PER_UNIT, REACH * PER_UNIT + 1, dtype=torch.float64) / PER_UNIT
    far = torch.logspace(
        math.log10(REACH), math.log10(FARTHEST), FAR_POINTS + 1, dtype=torch.float64
    )[1:]
    return torch.cat([-far.flip(0), near, far])


# --- stretches of inputs ---


def _either(up: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Return where something goes up and where it goes down, by more than rounding."""
    return up > allowed, up < -allowed


def _stretches(x: Tensor, here: Tensor, opposite: Tensor, f: Function | None = None) -> Intervals:
    """Return the stretches of x (n,) where a property holds for the steps to the next point.

    Args:
        here: where the property holds; (n − 1,) for steps, (n,) for points.
        opposite: where the opposite holds: what is neither joins two stretches.
        f: the function, whose turning points their ends then are.
    """
    # Without the neutral steps, stretches that only they divide are one.
    kept = (here | opposite).nonzero().flatten()
    found = []
    for each in intervals(kept.double(), here[kept]):
        first, last = int(each.low), int(each.high) + (len(x) - len(here))
        ends = [_turning(f, x, place) if f else x[place].item() for place in (first, last)]
        found.append(Interval(*ends))
    return _nearest(found)


def _nearest(found: list[Interval]) -> Intervals:
    def distance(each: Interval) -> float:
        return max(each.low, -each.high, 0.0)

    nearest = sorted(found, key=distance)[:SHOWN]
    return Intervals(
        tuple(sorted(nearest, key=lambda each: each.low)), len(found) - len(nearest)
    )  # fmt: skip


def _turning(f: Function, x: Tensor, place: int) -> float:
    """Return where f turns near a point, or that point where it does not turn."""
    if not 0 < place < len(x) - 1:
        return x[place].item()
    before, here, after = f(x[place - 1 : place + 2]).tolist()
    if before < here > after:
        return _searched(f, x, place, 1)[0]
    if before > here < after:
        return _searched(f, x, place, -1)[0]
    return x[place].item()


# --- extremes ---


def _searched(f: Function, x: Tensor, place: int, sign: int) -> tuple[float, float]:
    """Return the input near a point, and the value, where sign·f is largest."""
    low, high = x[max(place - 1, 0)].item(), x[min(place + 1, len(x) - 1)].item()
    best = x[place].item(), f(x[place : place + 1]).item()
    for _ in range(ZOOMS):
        inside = torch.linspace(low, high, ZOOM_POINTS, dtype=torch.float64)
        values = (sign * f(inside)).nan_to_num(nan=-math.inf)
        found = int(values.argmax())
        if values[found].item() > sign * best[1]:
            best = inside[found].item(), sign * values[found].item()
        low, high = inside[max(found - 1, 0)].item(), inside[min(found + 1, 100)].item()
    return best


def _extreme(f: Function, x: Tensor, y: Tensor, left: Tail, right: Tail, sign: int) -> Extreme:
    """Return the largest value (sign 1) or the smallest one (sign −1)."""
    limits = {"left": _limit(left, -1, sign), "right": _limit(right, 1, sign)}
    return _largest(f, x, y, limits, sign)


def _largest(f: Function, x: Tensor, y: Tensor, limits: dict[str, float], sign: int) -> Extreme:
    """Return the largest of sign·f, of its values and of what its tails tend to."""
    at, value = _searched(f, x, int((sign * y).argmax()), sign)
    side = max(limits, key=lambda name: sign * limits[name])
    limit = limits[side]
    if math.isinf(limit):
        return Extreme(None, None, side)
    if sign * limit >= sign * value - LIMIT_TOLERANCE * max(1, abs(value)):
        return Extreme(limit, None, side)
    return Extreme(value, at, "")


def _limit(found: Tail, side: int, sign: int) -> float:
    """Return the largest (sign 1) or smallest value that f comes near far out on a side."""
    if found.kind in (LINE, BETWEEN) and abs(found.slope) < 1e-12:
        if found.kind == LINE:
            return found.offset
        return found.high if sign > 0 else found.low
    if found.kind in (LINE, BETWEEN):
        return side * math.copysign(math.inf, found.slope)
    if found.kind in (POWER, OVERFLOW, SLOW):
        return found.sign * math.inf
    # It swings, or there is nothing.
    return sign * math.inf if found.kind == SWINGS else -sign * math.inf


def _slope_extreme(
    slope_of: Function, x: Tensor, slopes: Tensor, left: Tail, right: Tail, sign: int
) -> Extreme:
    """Return the largest slope (sign 1) or the smallest one (sign −1)."""
    known = slopes.isfinite()
    if not known.all():
        x, slopes = x[known], slopes[known]
    limits = {
        "left": _slope_limit(left, -1, sign), "right": _slope_limit(right, 1, sign),
    }  # fmt: skip
    return _largest(slope_of, x, slopes, limits, sign)


def _slope_limit(found: Tail, side: int, sign: int) -> float:
    if found.kind == LINE or found.kind == SLOW:
        return found.slope
    if found.kind == POWER:
        return side * found.sign * math.inf if found.power > 1 else 0.0
    if found.kind == OVERFLOW:
        return side * found.sign * math.inf
    # What swings has steeper and steeper slopes; where it stays between bounds, the points say it.
    return sign * math.inf if found.kind == SWINGS else -sign * math.inf


# --- smoothness ---


def smoothness_of(f: Function, slope_of: Function) -> tuple[int | None, tuple[float, ...]]:
    """Return how many derivatives are continuous from −12 to 12, and where the next one jumps.

    A function counts as continuous up to jumps of 1e-6, a slope up to 1e-4, and a second derivative
    up to 1e-3; nothing beyond the second is looked at. Slopes are differences of values, and second
    derivatives differences of backward's slopes.
    """
    near = torch.arange(-REACH * PER_UNIT, REACH * PER_UNIT + 1, dtype=torch.float64) / PER_UNIT
    near = near[f(near).isfinite()]
    if len(near) < 2:
        return None, ()

    def differences(g: Function, width: float) -> Function:
        return lambda x: (g(x + width) - g(x - width)) / (2 * width)

    tests = (
        (f, VALUE_HALVINGS, SMALLEST_JUMP),
        (differences(f, SLOPE_WIDTH), SLOPE_HALVINGS, SMALLEST_SLOPE_JUMP),
        (differences(slope_of, SECOND_WIDTH), SECOND_HALVINGS, SMALLEST_SECOND_JUMP),
    )
    for order, (g, halvings, smallest) in enumerate(tests):
        found = jumps(g, near, halvings, smallest)
        if found:
            return order - 1, found
    return len(tests) - 1, ()


def jumps(g: Function, x: Tensor, halvings: int, smallest: float) -> tuple[float, ...]:
    """Return where g jumps between neighbouring points of x (n,).

    Every interval is halved, and the half kept that g changes more in: in the end a smooth function
    changes by next to nothing, and a jump is as large as before.
    """
    # Points on the jumps themselves, as 0 is so often, would hide half of each.
    shift = 0.37 * (x[1] - x[0])
    low, high = x[:-1] + shift, x[1:] + shift
    at_low, at_high = g(low), g(high)
    first = (at_high - at_low).abs()
    for _ in range(halvings):
        middle = (low + high) / 2
        at_middle = g(middle)
        is_left = (at_middle - at_low).abs() > (at_high - at_middle).abs()
        low, high = torch.where(is_left, low, middle), torch.where(is_left, middle, high)
        at_low = torch.where(is_left, at_low, at_middle)
        at_high = torch.where(is_left, at_middle, at_high)
    last = (at_high - at_low).abs()
    found = ((last > smallest) & (last > 0.3 * first)).nonzero().flatten()
    places: list[float] = []
    for place in ((low + high) / 2)[found].tolist():
        nice = round(place, 5)
        if not places or nice - places[-1] > SAME_PLACE:
            places.append(nice + 0.0)
    return tuple(places)
