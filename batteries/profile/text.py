"""Write a profile as sentences and tables."""

import math

import pandas

from analysis.document import Document, plain
from analysis.wording import ABSENT
from batteries.profile.found import (
    BETWEEN,
    LINE,
    OVERFLOW,
    POWER,
    SLOW,
    SWINGS,
    Cost,
    CostRow,
    Extreme,
    FormatHealth,
    GradientCheck,
    Interval,
    Intervals,
    LargestError,
    Mixing,
    Moments,
    NotFinite,
    Profile,
    Shape,
    Tail,
)
from batteries.profile.picture import SUPERSCRIPTS, functions, tails
from batteries.profile.shape import FARTHEST
from run_folder.metrics import minus

MIB = 2**20
RANGE = (
    "Computed from values and backward's slopes in float64: every thousandth from −12 to 12, and "
    "600 points from there to ±10,000; what changes by less than rounding counts as no change. "
    "Limits are extrapolated from |x| up to a million."
)
SMOOTHNESS = {
    -1: "f itself jumps",
    0: "continuous, with kinks",
    1: "its slope is continuous, and the second derivative jumps",
    2: "slope and second derivative are continuous, as far as was looked (−12 to 12)",
}


def write(document: Document, profile: Profile, level: int) -> None:
    """Add a profile to a document, with headings of this level."""
    document.heading(level, "The function")
    trained = f", with {profile.trained:,} trained number" + "s" * (profile.trained != 1)
    learned = trained + ", here at the initial value" + "s" * (profile.trained != 1)
    is_elementwise = profile.mixing.is_elementwise
    document.paragraph(f"`{profile.description}`{learned if profile.trained else ''}.")
    document.figure(
        "function",
        "The function, its slope and its second derivative"
        + ("." if is_elementwise else ", where all elements of a sample are x: means over them."),
        lambda: functions(profile.curve),
        alt=picture_in_words(profile),
    )
    if profile.tails.left or profile.tails.right:
        document.figure(
            "tails",
            "Tails: the distance of f(x) from the line that it tends to, against |x|. A power of x "
            "is a straight line here; what falls faster bends down. Nothing is drawn where it is 0 "
            "to within rounding.",
            lambda: tails(profile.tails),
            alt=" ".join([tail_text(profile.shape.left, -1), tail_text(profile.shape.right, 1)])
            if profile.shape
            else "",
        )
    lines = mixing_items(profile.mixing)
    lines += properties(profile.shape) if profile.shape else []
    if profile.moments:
        lines += moment_items(profile.moments)
    else:
        lines.append("**Normal inputs**: the moments are not finite.")
    document.items(lines)
    if profile.shape:
        document.paragraph(RANGE)
    document.heading(level, "Numerical health")
    document.items([finite_sentence(profile.health), gradient_sentence(profile.gradient)])
    document.table("health", health_table(profile.health))
    document.items([text for each in profile.health for text in problems(each)])
    document.paragraph(
        "Errors are against float64, in units in the last place (ulp) of the exact number, where "
        "float64's own rounding is below a tenth of one; and absolute, relative above 1. Where a "
        "slope crosses 0, its ulp tends to 0: there the absolute error says whether it matters. "
        "Inputs: " + "; ".join(f"{each.name}, {each.sample}" for each in profile.health) + "."
    )
    if profile.cost:
        document.heading(level, "Cost")
        document.paragraph(cost_sentence(profile.cost))
        document.table("cost", cost_table(profile.cost))
        document.paragraph(cost_method(profile.cost))


def picture_in_words(profile: Profile) -> str:
    """Return what the picture of the function shows."""
    if profile.shape is None:
        return "The activation on samples of equal elements, from −6 to 6."
    found = profile.shape
    return (
        f"From −6 to 6: f(0) = {number(found.at_zero)}; {bound(found.lowest, 'below')}; "
        f"{bound(found.highest, 'above')}; slopes {slope_range(found)}."
    )


def number(x: float) -> str:
    """Return a number with five digits, with the minus sign of typography."""
    return ABSENT if math.isnan(x) else minus(f"{x + 0.0:.5g}")


# --- properties ---


def properties(found: Shape) -> list[str]:
    """Return a line for each property of a function of one number."""
    lines = [
        f"**Monotone:** {monotone(found)}.",
        f"**Convex:** {convex(found)}.",
        f"**Bounds:** {bound(found.lowest, 'below')}; {bound(found.highest, 'above')}.",
        f"**Slope:** {slope_range(found)}. At 0, f = {number(found.at_zero)} and f′ = "
        f"{number(found.slope_at_zero)}, as backward takes it.",
        f"**Smoothness:** {smoothness(found)}.",
        f"**Tails:** {tail_text(found.left, -1)} {tail_text(found.right, 1)}",
    ]
    if found.undefined.nearest:
        lines.append(f"**Not finite in float64:** for x {stretches(found.undefined)}.")
    return lines


def monotone(found: Shape) -> str:
    if not found.falls.nearest:
        return "yes, it never falls" if found.rises.nearest else "it is constant"
    if not found.rises.nearest:
        return "yes, it never rises"
    return f"no, it falls {stretches(found.falls)}, by up to {number(found.largest_fall)}"


def convex(found: Shape) -> str:
    if not found.bends_down.nearest:
        return "yes" if found.bends_up.nearest else "it is a straight line"
    down = f"its slope falls {stretches(found.bends_down)}"
    return f"no, {down}" if found.bends_up.nearest else "no, it is concave"


def stretches(found: Intervals) -> str:
    texts = [interval(each) for each in found.nearest]
    if found.more:
        texts.append(f"in {found.more:,} further intervals")
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def interval(each: Interval) -> str:
    if each.low == each.high:
        return f"at {number(each.low)}"
    return f"from {end(each.low)} to {end(each.high)}"


def end(x: float) -> str:
    return minus(f"{x:,.0f} (as far as was looked)") if abs(x) >= FARTHEST else number(x)


def bound(found: Extreme, where: str) -> str:
    if found.value is None:
        return f"not bounded {where} (x → {'−∞' if found.side == 'left' else '∞'})"
    how = f"at x = {number(found.at)}" if found.at is not None else f"for x → {side(found)}"
    return f"bounded {where} by {number(found.value)} ({how})"


def side(found: Extreme) -> str:
    return "−∞" if found.side == "left" else "∞"


def slope_range(found: Shape) -> str:
    ends = []
    for each in (found.slope_lowest, found.slope_highest):
        if each.value is None:
            ends.append(f"without bound (x → {side(each)})")
        elif each.at is None:
            ends.append(f"{number(each.value)} (x → {side(each)})")
        else:
            ends.append(f"{number(each.value)} (x = {number(each.at)})")
    return f"from {ends[0]} to {ends[1]}"


def smoothness(found: Shape) -> str:
    if found.smoothness is None:
        return "not looked at, since f is not finite around 0"
    text = SMOOTHNESS[found.smoothness]
    shown = [number(at) for at in found.breaks[:6]]
    more = f" and {len(found.breaks) - 6} more places" if len(found.breaks) > 6 else ""
    return f"{text} at x = {', '.join(shown)}{more}" if shown else text


def tail_text(found: Tail, sign: int) -> str:
    """Return a sentence on a tail."""
    where = f"For x → {'∞' if sign > 0 else '−∞'}, f(x)"
    at = number(found.reached) if found.reached is not None else ""
    if found.kind == LINE:
        if found.coefficient is not None and found.order is not None:
            how = f"; it differs by about {number(found.coefficient)}·{power_of_x(-found.order)}"
        elif found.reached == 0:
            how = ", and equals it on all that side"
        else:
            how = f", faster than any power; it is there to within rounding from x = {at} on"
        return f"{where} tends to {line(found)}{how}."
    if found.kind == BETWEEN:
        rest = "" if abs(found.slope) < 1e-12 else f" − {line(found)}"
        return f"{where}{rest} stays between {number(found.low)} and {number(found.high)}."
    if found.kind == POWER:
        return f"{where} grows like {'−' * (found.sign < 0)}{power_of_x(found.power)}."
    if found.kind == SLOW:
        rest = "" if abs(found.slope) < 1e-12 else f" − {line(found)}"
        return f"{where}{rest} goes to {'−' * (found.sign < 0)}∞, more slowly than any power."
    if found.kind == OVERFLOW:
        return f"{where} leaves the range of float64 at x = {at}."
    if found.kind == SWINGS:
        return f"{where} swings more and more."
    return f"{where} is no number from x = {at} on."


def power_of_x(power: float) -> str:
    """Return a power of |x|, with small digits where it is a whole one."""
    shown = f"{power:g}"
    raised = shown.translate(SUPERSCRIPTS) if power == round(power) else f"^{minus(shown)}"
    return f"|x|{raised}"


def line(found: Tail) -> str:
    """Return slope·x + offset."""
    slope = {0.0: "", 1.0: "x", -1.0: "−x"}.get(round(found.slope, 12), f"{number(found.slope)}·x")
    if not slope or not found.offset:
        return slope or number(found.offset)
    return f"{slope} {'−' if found.offset < 0 else '+'} {number(abs(found.offset))}"


def mixing_items(found: Mixing) -> list[str]:
    """Return on what an output depends, where that is more than its own input."""
    on = {
        "other samples of the batch, so that results depend on which samples come together": (
            found.other_samples
        ),
        "other channels": found.other_channels,
        "other places": found.other_places,
    }
    dependent = [name for name, holds in on.items() if holds]
    lines = []
    if dependent:
        lines.append(
            f"**Not elementwise:** an output depends on {' and on '.join(dependent)} (tried on "
            f"inputs of shape {found.shape}). It has no monotony, convexity, bounds or tails as a "
            "function of one number; its picture and its health are those of samples whose "
            "elements are all equal."
        )
    if found.by_place:
        lines.append("**Different by place:** equal inputs give other results in other places.")
    if found.is_random:
        lines.append(
            "**Random in training:** the same input gives different results there; all else here "
            "is said of it as it evaluates."
        )
    if found.is_single:
        lines.append(
            "**In float32 at most:** it computes so for inputs in float64 too. Its properties as a "
            "function cannot be told from such values, and errors against float64 are not known."
        )
    return lines


def moment_items(found: Moments) -> list[str]:
    """Return what becomes of z ~ N(0, 1)."""

    def with_error(value: float, error: float) -> str:
        return number(value) + (f" ± {error:.1g}" if error else "")

    second = with_error(found.second, found.second_error)
    slope = with_error(found.slope_second, found.slope_second_error)
    how = (
        f" Means over {found.draws:,} random numbers, ± a standard error; for f′², that of a "
        "random gradient after backward."
        if found.draws
        else ""
    )
    lines = [
        f"**Normal inputs**, z ~ N(0, 1): E[f(z)] = {number(found.mean)}, E[f(z)²]/E[z²] = "
        f"{second}, E[f′(z)²] = {slope}.{how}"
    ]
    if found.gain and found.backward_factor is not None:
        lines.append(
            f"**Gain:** weights of variance g²/fan-in keep the second moment where g = "
            f"{number(found.gain)} (ReLU: 1.4142); such a layer multiplies a gradient's by "
            f"χ = {number(found.backward_factor)} (ReLU: 1)."
        )
    return lines


# --- numerical health ---


def finite_sentence(found: tuple[FormatHealth, ...]) -> str:
    """Return whether the 16-bit formats are finite for all inputs."""
    halves = [each for each in found if each.name != "fp32"]
    good = [each.name for each in halves if is_finite(each)]
    bad = [each.name for each in halves if not is_finite(each)]
    tried = "every finite input" if all("all " in e.sample for e in halves) else "the inputs tried"
    texts = []
    if good:
        texts.append(f"in {' and '.join(good)}, values and slopes are finite for {tried}")
    if bad:
        texts.append(f"in {' and '.join(bad)}, they are not (below)")
    return f"**Finite:** {'; '.join(texts)}."


def is_finite(found: FormatHealth) -> bool:
    if found.values is None or found.slopes is None:
        return False
    return found.values.count == found.slopes.count == 0


def problems(found: FormatHealth) -> list[str]:
    """Return a line for each thing that goes wrong in a format."""
    if found.failure:
        return [f"**{found.name}:** it does not compute: {plain(found.failure)}."]
    lines = []
    for what, each in (("values", found.values), ("slopes", found.slopes)):
        if each and each.count:
            lines.append(f"**{found.name}:** {each.count:,} {what} are not finite, {why(each)}.")
    return lines


def why(found: NotFinite) -> str:
    where = stretches(Intervals(found.inputs, found.more))
    if not found.avoidable:
        cause = "as the exact ones are beyond the format's range"
    elif found.avoidable == found.count:
        cause = "where the exact ones lie within the format's range: the computation is at fault"
    else:
        cause = (
            f"{found.avoidable:,} of them where the exact ones lie within the format's range: "
            "there the computation is at fault"
        )
    return f"{cause} (x {where})"


def health_table(found: tuple[FormatHealth, ...]) -> pandas.DataFrame:
    def error(each: LargestError | None) -> tuple[str, str]:
        if each is None:
            return ABSENT, ABSENT
        ulp = f"{short(each.ulp)} (x = {minus(f'{each.ulp_at:.3g}')})" if each.ulp else "0"
        return ulp, short(each.absolute)

    rows = []
    for each in found:
        value, slope = error(each.value_error), error(each.slope_error)
        rows.append(
            {
                "format": each.name,
                "inputs": f"{each.inputs:,}",
                "values not finite": f"{each.values.count:,}" if each.values else ABSENT,
                "slopes not finite": f"{each.slopes.count:,}" if each.slopes else ABSENT,
                "value: ulp": value[0],
                "value: absolute": value[1],
                "slope: ulp": slope[0],
                "slope: absolute": slope[1],
            }
        )
    return pandas.DataFrame(rows)


def short(x: float) -> str:
    return f"{x:,.0f}" if 100 <= x < 1e6 else f"{x:.2g}"


def gradient_sentence(found: GradientCheck) -> str:
    """Return what gradcheck says."""
    if not found.passed:
        return f"**Gradient:** gradcheck in float64 fails: {plain(found.reason)}."
    text = "gradcheck in float64 passes"
    if found.kinks:
        shown = ", ".join(
            f"at {number(each.at)} (slope {number(each.left)} on the left, {number(each.right)} on "
            f"the right; backward takes {number(each.taken)})"
            for each in found.kinks[:4]
        )
        text += f", but for kinks, which have no derivative: {shown}"
    wrong = [each for each in found.kinks if not each.is_between]
    if wrong:
        text += f"; at {number(wrong[0].at)} that is not between them"
    twice = "also for second derivatives" if found.twice else "but not for second derivatives"
    return f"**Gradient:** {text}; {twice}."


# --- cost ---


def cost_sentence(found: Cost) -> str:
    """Return what the activation costs against GELU."""
    own = found.rows[-1]
    gelu = next((row for row in found.rows if row.label == "GELU"), own)
    kept = own.kept_bytes / gelu.kept_bytes
    return (
        f"A training step with {plain(own.label)} takes {own.step_over_gelu:.3f} times GELU's time "
        f"and keeps {kept:.2f} times its bytes for backward ({found.network}; median of the ratios "
        f"within {found.rounds} rounds). By itself, forward and backward take "
        f"{own.alone_over_gelu:.2f} times GELU's time."
    )


def cost_table(found: Cost) -> pandas.DataFrame:
    return pandas.DataFrame([cost_row(row) for row in found.rows])


def cost_row(row: CostRow) -> dict[str, str]:
    return {
        "activation": row.label,
        "step, ms": f"{row.step_ms:.1f} ({row.step_ms_q1:.1f} to {row.step_ms_q3:.1f})",
        "step ÷ GELU": f"{row.step_over_gelu:.3f}",
        "kept, MiB": f"{row.kept_bytes / MIB:.2f}",
        "peak, MiB": f"{row.peak_bytes / MIB:.2f}",
        "alone, µs": f"{row.alone_us:,.0f} ({row.alone_us_q1:,.0f} to {row.alone_us_q3:,.0f})",
        "alone ÷ GELU": f"{row.alone_over_gelu:.2f}",
        "alone: tensors kept": f"{row.alone_tensors:.2f}",
    }


def cost_method(found: Cost) -> str:
    return (
        f"Times are medians (quartiles) of n = {found.rounds} rounds, in which all activations are "
        f"measured in turn, in random order; the step is that of {found.network}. Alone: forward "
        f"and backward of {found.elements:,} numbers in fp32. Kept: for backward, beside "
        f"parameters and batch. Peak: all that is allocated at once in a step. Measured on: "
        f"{found.machine}."
    )
