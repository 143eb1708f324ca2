"""The comparisons of a report: which settings are held against which, and what came of it."""

import math
from dataclasses import dataclass, replace

from evidence.metrics import Metric, final_value
from evidence.settings import BUILT_IN, Group, Setting
from evidence.statistics import (
    Paired,
    compare,
    equivalence_p,
    holm,
    paired_differences,
    seeds_needed_interval,
    smallest_detectable,
    welch,
)
from utils import UserError, nearest

ALPHA = 0.05
AGAINST_BASELINE, SLOPE, CONTROL = "baseline", "slope", "control"
# The sigma at which a gate has the slope at 0 that the named rival's has.
SLOPE_MATCHES = {
    ("ZiLU", 1.253): "GELU", ("ZiLU_Approx", 0.798): "GELU",
    ("ZiLU", 0.785): "SiLU", ("ZiLU_Approx", 0.5): "SiLU",
}  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """`setting` less `baseline`, in one group.

    paired: over the seeds that both have, in their order; it is empty (n = 0) where runs do not
    tell their seeds. unpaired: (difference, low, high, p) of Welch's test over all runs.
    unpaired_seeds: seeds that only one of the two has. equivalence: p of the two one-sided tests.
    p_holm: corrected over the report's comparisons of its family (primary or not).
    """

    group: Group
    metric: Metric
    setting: Setting
    baseline: Setting
    kind: str
    primary: bool
    paired: Paired
    unpaired: tuple[float, float, float, float]
    counts: tuple[int, int]
    unpaired_seeds: tuple
    equivalence: float
    detectable: float
    needed: tuple[float, float, float] | None
    p_holm: float = math.nan

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


@dataclass(frozen=True)
class Plan:
    """What is asked of a report. `declared` says since when: in a grid file it was beforehand."""

    baseline: str | None = None
    primary: str | None = None
    margin: float | None = None
    mde: float | None = None
    metric: str | None = None
    declared: str = ""


def find_setting(text: str, settings: list[Setting]) -> Setting | None:
    """The setting that `text` names: by its label, or by its activation if only one has it."""

    def key(words: str) -> str:
        return words.lower().replace(" ", "").replace("sigma", "σ")

    by_label = [each for each in settings if key(each.label) == key(text)]
    wanted = key(text).split("(")[0]
    by_name = [each for each in settings if each.activation.lower() == wanted]
    return next(iter(by_label), by_name[0] if len(by_name) == 1 else None)


def baseline_of(group: Group, name: str | None) -> Setting | None:
    """The setting to hold the others against: the named one, else ReLU, GELU, SiLU, the first."""
    settings = group.settings
    found = [find_setting(each, settings) for each in ([name] if name else BUILT_IN)]
    return next((each for each in found if each is not None), None if name else settings[0])


def check_names(groups: list[Group], plan: Plan) -> None:
    """Refuse a baseline or a primary that no group has.

    Raises:
        UserError: with what there is.
    """
    for flag, name in (("baseline", plan.baseline), ("primary", plan.primary)):
        if name and groups and not any(find_setting(name, group.settings) for group in groups):
            labels = list(dict.fromkeys(s.label for group in groups for s in group.settings))
            raise UserError(f"--{flag} {name}: no such setting; {nearest(name, labels)}")


def all_comparisons(groups: list[Group], plan: Plan, metrics: list[Metric]) -> list[Comparison]:
    """Every comparison of the report, with p-values corrected over it."""
    found = []
    for group, metric in zip(groups, metrics, strict=True):
        for setting, baseline, kind in pairs(group, plan.baseline):
            found.append(_comparison(group, metric, setting, baseline, kind, plan))
    return corrected(found)


def pairs(group: Group, baseline_name: str | None) -> list[tuple[Setting, Setting, str]]:
    """Everything against the baseline; slope matches and controls against what they match."""
    settings, baseline = group.settings, baseline_of(group, baseline_name)
    found = []
    if baseline is not None:
        found = [(each, baseline, AGAINST_BASELINE) for each in settings if each != baseline]
    for each in settings:
        rival = SLOPE_MATCHES.get((each.activation, each.sigma)) if not each.learned else None
        match = next((other for other in settings if other.activation == rival), None)
        if match is not None and match != baseline and each.rescaled is None:
            found.append((each, match, SLOPE))
        if each.rescaled is not None and not each.learned:
            scaled = replace(each, sigma=each.sigma * each.rescaled, rescaled=None)
            same = next((o for o in settings if replace(o, sigma=scaled.sigma) == scaled
                         and math.isclose(o.sigma, scaled.sigma, rel_tol=1e-6)), None)  # fmt: skip
            if same is not None:
                found.append((same, each, CONTROL))
    return found


def _comparison(
    group: Group, metric: Metric, setting: Setting, baseline: Setting, kind: str, plan: Plan
) -> Comparison:
    mine, theirs = group.runs[setting], group.runs[baseline]
    # Runs that do not tell their seed have their path for a key, and so pair with none.
    both = [seeds for seeds in mine if seeds in theirs]
    pair = [[final_value(runs[seeds], metric) for seeds in both] for runs in (mine, theirs)]
    paired, differences = compare(*pair), paired_differences(*pair)
    everything = [[final_value(run, metric) for run in runs.values()] for runs in (mine, theirs)]
    known = [seeds for seeds in {**mine, **theirs} if isinstance(seeds, tuple)]
    primary = bool(plan.primary) and kind == AGAINST_BASELINE
    return Comparison(
        group=group,
        metric=metric,
        setting=setting,
        baseline=baseline,
        kind=kind,
        primary=primary and find_setting(plan.primary, group.settings) == setting,
        paired=paired,
        unpaired=welch(*everything),
        counts=(len(mine), len(theirs)),
        unpaired_seeds=tuple(seeds[0] for seeds in known if (seeds in mine) != (seeds in theirs)),
        equivalence=equivalence_p(differences, plan.margin) if plan.margin else math.nan,
        detectable=smallest_detectable(paired.sd, paired.n),
        needed=seeds_needed_interval(paired.sd, paired.n, plan.mde) if plan.mde else None,
    )


def corrected(comparisons: list[Comparison]) -> list[Comparison]:
    """With Holm's correction: over the primary ones by themselves (one has none), and over all
    others."""
    result = list(comparisons)
    for primary in (True, False):
        places = [i for i, each in enumerate(comparisons) if each.primary == primary]
        adjusted = holm([comparisons[i].p for i in places])
        for i, p in zip(places, adjusted, strict=True):
            result[i] = replace(comparisons[i], p_holm=p)
    return result
