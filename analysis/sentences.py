"""What a careful author would write of a comparison."""

import math

from analysis.comparisons import ALPHA, CONTROL, SLOPE, Comparison
from analysis.statistics import WILCOXON_PAIRS, smallest_wilcoxon_p

SIGMA_ONLY_RESCALES = (
    "σ is a reparametrisation: f_σ(x) = f₁(σx)/σ. Where a linear layer or a norm stands on both "
    "sides it can absorb σ; σ then changes the initialisation and the effective learning rate "
    "alone. A difference between two σ is one in function only if the control (σ = 1 with the "
    "neighbouring weights rescaled to the same function) does not show it as well."
)


def verdict(comparison: Comparison, margin: float | None) -> str:
    """One sentence: the difference, how sure it is, and what could have been seen."""
    metric, name, other = comparison.metric, comparison.setting.label, comparison.baseline.label
    if not math.isfinite(comparison.difference):
        return f"{name} against {other}: too few runs to compare."
    low, high = comparison.interval
    facts = f"{metric.difference(comparison.difference)}"
    if not math.isnan(low):
        facts += f", 95 % interval {metric.signed(low)} to {metric.signed(high)}"
    start = f"{name} against {other}: {facts}"
    if math.isnan(comparison.p):
        return f"{start}; one pair of runs says nothing about chance."
    return f"{start}; {_test(comparison)}: {_conclusion(comparison, margin)}."


def _test(comparison: Comparison) -> str:
    n = f"n = {comparison.paired.n}"
    name = "paired t test"
    if not comparison.is_paired:
        n, name = "n = {} and {}".format(*comparison.counts), "Welch's t test, unpaired"
    corrected = ", Holm" if comparison.family > 1 else ""
    p = p_value(comparison.p_holm)
    return f"p {p if p.startswith('<') else f'= {p}'} ({name}{corrected}, {n})"


def _conclusion(comparison: Comparison, margin: float | None) -> str:
    metric = comparison.metric
    parts = []
    if comparison.p_holm < ALPHA:
        better = (comparison.difference > 0) == metric.higher_is_better
        parts.append("better" if better else "worse")
    else:
        n = comparison.paired.n if comparison.is_paired else min(comparison.counts)
        parts.append(f"not distinguishable at n = {n}")
        if comparison.is_paired and comparison.detectable > 0:
            seen = metric.difference(comparison.detectable, signed=False)
            parts.append(f"this comparison could have detected {seen}")
    if margin and comparison.equivalence < ALPHA:
        parts.append(f"equivalent within ±{metric.difference(margin, signed=False)}")
    return "; ".join(parts)


def p_value(p: float) -> str:
    if math.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def warnings(comparisons: list[Comparison]) -> list[str]:
    """What a reader must know before believing the numbers of a group."""
    found = []
    for each in comparisons:
        name = f"{each.setting.label} against {each.baseline.label}"
        if each.unpaired_seeds:
            seeds = ", ".join(sorted(set(each.unpaired_seeds)))
            found.append(
                f"{name}: only one of the two has seeds {seeds}; they are left out of the pairs."
            )
        if each.without_seed:
            found.append(
                f"{name}: {each.without_seed} runs do not tell their seed, and pair with none."
            )
    few = sorted({c.paired.n for c in comparisons if 2 <= c.paired.n < WILCOXON_PAIRS})
    found += [
        f"With {n} pairs Wilcoxon's test can never reject at {ALPHA}: its smallest p is "
        f"{smallest_wilcoxon_p(n):.3g}. It takes {WILCOXON_PAIRS} pairs."
        for n in few
    ]
    return found


def seeds_sentence(comparison: Comparison, mde: float) -> str:
    estimate, low, high = comparison.needed
    if math.isnan(estimate):
        return ""
    size = comparison.metric.difference(mde, signed=False)
    return (
        f"{comparison.setting.label} against {comparison.baseline.label}: a difference of {size} "
        f"would need {_seeds(estimate)} seeds ({_seeds(low)} to {_seeds(high)}) for 80 % power."
    )


def _seeds(n: float) -> str:
    return "more than a million" if math.isinf(n) else f"{n:,.0f}"


def purpose(comparison: Comparison) -> str:
    """Why two settings are compared."""
    if comparison.kind == SLOPE:
        return "same slope of the gate at 0"
    return "same function at the start" if comparison.kind == CONTROL else "against the baseline"
