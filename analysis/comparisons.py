"""Choose the variants that are compared with each other, and test their differences."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from analysis.grouping import Group
from analysis.measures import final_value, metrics_of
from analysis.plan import AnalysisPlan
from analysis.run_folders import SEED_FLAGS, RunResult, Seeds
from analysis.sequential import Decision, repeated
from analysis.statistics import (
    Paired,
    compare,
    equivalence_p,
    holm,
    paired_differences,
    seeds_needed_interval,
    smallest_detectable,
    welch,
)
from analysis.variants import BUILT_IN, Variant
from run_folder.metrics import Metric
from utils import UserError, nearest
from zilu.names import custom_name

ALPHA = 0.05
# Why two variants are compared.
AGAINST_BASELINE, SLOPE, CONTROL = "baseline", "slope", "control"
# The sigma at which a gate has the slope at 0 that the named rival's has.
SLOPE_MATCHES = {
    ("ZiLU", 1.253): "GELU", ("ZiLU_Approx", 0.798): "GELU",
    ("ZiLU", 0.785): "SiLU", ("ZiLU_Approx", 0.5): "SiLU",
}  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Hold the tests of a variant and a baseline in one group; differences are variant − baseline.

    Attributes:
        kind: Why they are compared: AGAINST_BASELINE, SLOPE or CONTROL.
        primary: It is the comparison that was declared to count.
        paired: The tests over the seeds that both have, in their order. It is empty (n = 0) where
            runs do not tell their seeds.
        unpaired: (difference, low, high, p) of Welch's test over all runs.
        counts: The runs of the variant, and of the baseline.
        unpaired_seeds: The seeds that only one of the two has.
        without_seed: How many runs of the two do not tell their seed.
        equivalence: The p of the two one-sided tests; NaN without a margin.
        detectable: The true difference that so many pairs find with a power of 80 %.
        needed: (estimate, low, high) of the seeds that find the plan's `mde`.
        p_holm: `p`, corrected over the family.
        family: How many comparisons were corrected together: the primary ones of the report, or
            all others.
        decision: What looks at growing numbers of pairs have decided; None where their number was
            fixed. With it the pairs are those of its look, the intervals hold over all looks, and
            there is no p.
        critical: The quantile of t with which an interval at that look holds over all looks.
    """

    group: Group
    metric: Metric
    variant: Variant
    baseline: Variant
    kind: str
    primary: bool
    paired: Paired
    unpaired: tuple[float, float, float, float]
    counts: tuple[int, int]
    unpaired_seeds: tuple[str, ...]
    without_seed: int
    equivalence: float
    detectable: float
    needed: tuple[float, float, float] | None
    p_holm: float = math.nan
    family: int = 1
    decision: Decision | None = None
    critical: float = math.nan

    def compare(self, values: Sequence[float], baseline: Sequence[float]) -> Paired:
        """Compare other results of the same runs; without a p where their number was not fixed."""
        found = compare(values, baseline)
        return found if self.decision is None else repeated(found, self.critical)

    @property
    def is_paired(self) -> bool:
        return self.paired.n >= 2

    @property
    def p(self) -> float:
        return self.paired.p if self.is_paired else self.unpaired[3]

    @property
    def difference(self) -> float:
        return self.paired.mean if self.is_paired else self.unpaired[0]

    @property
    def interval(self) -> tuple[float, float]:
        return (self.paired.low, self.paired.high) if self.is_paired else self.unpaired[1:3]

    @property
    def title(self) -> str:
        return f"{self.variant.label} against {self.baseline.label}"

    @property
    def run_pairs(self) -> dict[Seeds, tuple[RunResult, RunResult]]:
        return self.group.run_pairs(self.variant, self.baseline)


def find_variant(text: str, variants: list[Variant]) -> Variant | None:
    """Return the variant that `text` names: by label, or by activation if only one has it."""

    def key(words: str) -> str:
        words = re.sub(r",?\s*tuned", "", words.lower()).replace("sigma", "σ")
        return re.sub(r"\s|\(\)", "", words)

    wanted = key(str(text))
    by_label = [each for each in variants if key(each.label) == wanted]
    by_name = [each for each in variants if each.activation.lower() == wanted]
    if custom := custom_name(str(text)):  # as the grid file names it
        by_name += [each for each in variants if each.activation == custom.name]
    found = by_label or by_name
    return found[0] if len(found) == 1 else None


def baseline_of(group: Group, name: str | None) -> Variant | None:
    """Return the variant that the others are compared with.

    It is the one called `name`, and None if the group lacks it; without a name it is ReLU, GELU or
    SiLU, else the first.
    """
    variants = group.variants
    found = [find_variant(each, variants) for each in ([name] if name else BUILT_IN)]
    return next((each for each in found if each is not None), None if name else variants[0])


def check_plan(groups: list[Group], plan: AnalysisPlan, started: list[Group]) -> None:
    """Refuse a baseline, a primary comparison or a metric that no group has.

    Args:
        groups: The groups of finished runs.
        plan: The plan to check.
        started: The groups of all runs that were started: a variant of which every run diverged is
            in none of `groups`.

    Raises:
        UserError: The message says what there is.
    """
    if not groups:
        return
    labels = list(dict.fromkeys(each.label for group in started for each in group.variants))
    for flag, name in (("baseline", plan.baseline), ("primary", plan.primary)):
        if name and not any(find_variant(name, group.variants) for group in started):
            raise UserError(f"--{flag} {name}: no such setting; {nearest(str(name), labels)}")
    available = list(dict.fromkeys(name for group in groups for name in metrics_of(group)))
    if plan.metric and plan.metric not in available:
        raise UserError(f"--metric {plan.metric}: these runs have {', '.join(available)}")
    if plan.primary and not any(_primary_of(group, plan) for group in started):
        raise UserError(f"--primary {plan.primary}: it is the baseline; choose another of them")


def _primary_of(group: Group, plan: AnalysisPlan) -> Variant | None:
    found = find_variant(plan.primary, group.variants) if plan.primary else None
    return None if found == baseline_of(group, plan.baseline) else found


def all_comparisons(
    groups: list[Group], plan: AnalysisPlan, metrics: list[Metric]
) -> list[Comparison]:
    """Return every comparison of the report, its p-values not yet `corrected`."""
    return [
        _comparison(group, metric, variant, baseline, kind, plan)
        for group, metric in zip(groups, metrics, strict=True)
        for variant, baseline, kind in pairs(group, plan.baseline)
    ]


def pairs(group: Group, baseline_name: str | None) -> list[tuple[Variant, Variant, str]]:
    """Return (variant, baseline, kind) of everything that is compared in a group.

    All variants are compared with the baseline, and those that match a rival's slope, or a control,
    with what they match. No two variants are compared twice.
    """
    variants, baseline = group.variants, baseline_of(group, baseline_name)
    found = []
    if baseline is not None:
        found = [(each, baseline, AGAINST_BASELINE) for each in variants if each != baseline]
    for each in variants:
        rival = None if each.learned or each.rescaled else slope_rival(each)
        found += [(each, other, SLOPE) for other in variants if other.activation == rival]
        if each.rescaled is not None and not each.learned:
            found += [(other, each, CONTROL) for other in variants if starts_as(each, other)]
    unique: dict[frozenset[Variant], tuple[Variant, Variant, str]] = {}
    for pair in found:
        unique.setdefault(frozenset(pair[:2]), pair)
    return list(unique.values())


def slope_rival(variant: Variant) -> str | None:
    """Return the activation whose gate has the same slope at 0."""
    for (name, sigma), rival in SLOPE_MATCHES.items():
        if name == variant.activation and math.isclose(variant.sigma or 0, sigma, rel_tol=2e-3):
            return rival
    return None


def starts_as(control: Variant, variant: Variant) -> bool:
    """Return whether a control with rescaled weights starts as the function of `variant`."""
    plain = variant.rescaled is None and not variant.learned
    alike = variant.activation == control.activation and variant.tuned == control.tuned
    alike = alike and plain and variant.from_output == control.from_output
    return alike and math.isclose(variant.sigma or 0, control.starting_sigma, rel_tol=1e-6)


def _comparison(
    group: Group,
    metric: Metric,
    variant: Variant,
    baseline: Variant,
    kind: str,
    plan: AnalysisPlan,
) -> Comparison:
    mine, theirs = group.runs[variant], group.runs[baseline]
    both = group.run_pairs(variant, baseline).values()
    values = [[final_value(pair[side], metric) for pair in both] for side in (0, 1)]
    paired, differences = compare(*values), paired_differences(*values)
    everything = [[final_value(run, metric) for run in runs.values()] for runs in (mine, theirs)]
    known = [seeds for seeds in {**mine, **theirs} if isinstance(seeds, tuple)]
    return Comparison(
        group=group,
        metric=metric,
        variant=variant,
        baseline=baseline,
        kind=kind,
        primary=kind == AGAINST_BASELINE and _primary_of(group, plan) == variant,
        paired=paired,
        unpaired=welch(*everything),
        counts=(len(mine), len(theirs)),
        unpaired_seeds=tuple(
            seed_text(seeds) for seeds in known if (seeds in mine) != (seeds in theirs)
        ),
        without_seed=len(mine) + len(theirs) - sum((s in mine) + (s in theirs) for s in known),
        equivalence=equivalence_p(differences, plan.margin) if plan.margin else math.nan,
        detectable=smallest_detectable(paired.sd, paired.n),
        needed=seeds_needed_interval(paired.sd, paired.n, plan.mde) if plan.mde else None,
    )


def seed_text(seeds: Seeds) -> str:
    """Return the seed, and the other seeds where they differ from it."""
    others = zip(SEED_FLAGS[1:], seeds[1:], strict=True)
    return " ".join(
        [str(seeds[0]), *(f"({n} {s})" for n, s in others if s not in (None, seeds[0]))]
    )


def corrected(comparisons: list[Comparison]) -> list[Comparison]:
    """Return the comparisons with Holm's correction.

    The primary ones are corrected by themselves, and so are all others; one alone is not. Those
    that were decided by looks have no p, and their correction within the error of the looks.
    """
    result = list(comparisons)
    for primary in (True, False):
        places = [
            i
            for i, each in enumerate(comparisons)
            if each.primary == primary and each.decision is None
        ]
        adjusted = holm([comparisons[i].p for i in places])
        for i, p in zip(places, adjusted, strict=True):
            result[i] = replace(comparisons[i], p_holm=p, family=len(places))
    return result
