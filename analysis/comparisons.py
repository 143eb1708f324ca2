"""The comparisons of a report: which settings are held against which, and what came of it."""

import math
import re
from dataclasses import dataclass, replace

from analysis.metrics import final_value, metrics_there
from analysis.settings import BUILT_IN, SEEDS, Group, Setting
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
from run_folder.metrics import Metric
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
    unpaired_seeds: seeds that only one of the two has. without_seed: how many runs of the two do
    not tell theirs. equivalence: p of the two one-sided tests.
    p_holm: corrected over the `family` comparisons of the report that are primary as it is, or not.
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
    unpaired_seeds: tuple[str, ...]
    without_seed: int
    equivalence: float
    detectable: float
    needed: tuple[float, float, float] | None
    p_holm: float = math.nan
    family: int = 1

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
        words = re.sub(r",?\s*tuned", "", str(words).lower()).replace("sigma", "σ")
        return re.sub(r"\s|\(\)", "", words)

    wanted = key(text)
    by_label = [each for each in settings if key(each.label) == wanted]
    by_name = [each for each in settings if each.activation.lower() == wanted]
    found = by_label or by_name
    return found[0] if len(found) == 1 else None


def baseline_of(group: Group, name: str | None) -> Setting | None:
    """The setting to hold the others against: the named one, else ReLU, GELU, SiLU, the first."""
    settings = group.settings
    found = [find_setting(each, settings) for each in ([name] if name else BUILT_IN)]
    return next((each for each in found if each is not None), None if name else settings[0])


def check_plan(groups: list[Group], plan: Plan, attempted: list[Group]) -> None:
    """Refuse a baseline, a primary or a metric that no group has.

    A setting of which every run diverged is none of a group's; `attempted` has it.

    Raises:
        UserError: with what there is.
    """
    if not groups:
        return
    labels = list(dict.fromkeys(s.label for group in attempted for s in group.settings))
    for flag, name in (("baseline", plan.baseline), ("primary", plan.primary)):
        if name and not any(find_setting(name, group.settings) for group in attempted):
            raise UserError(f"--{flag} {name}: no such setting; {nearest(str(name), labels)}")
    there = list(dict.fromkeys(name for group in groups for name in metrics_there(group)))
    if plan.metric and plan.metric not in there:
        raise UserError(f"--metric {plan.metric}: these runs have {', '.join(there)}")
    if plan.primary and not any(_primary_of(group, plan) for group in attempted):
        raise UserError(f"--primary {plan.primary}: it is the baseline; choose another of them")


def _primary_of(group: Group, plan: Plan) -> Setting | None:
    found = find_setting(plan.primary, group.settings) if plan.primary else None
    return None if found == baseline_of(group, plan.baseline) else found


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
        rival = None if each.learned or each.rescaled else slope_rival(each)
        found += [(each, other, SLOPE) for other in settings if other.activation == rival]
        if each.rescaled is not None and not each.learned:
            found += [(other, each, CONTROL) for other in settings if starts_as(each, other)]
    unique: dict[frozenset, tuple[Setting, Setting, str]] = {}
    for pair in found:
        unique.setdefault(frozenset(pair[:2]), pair)
    return list(unique.values())


def slope_rival(setting: Setting) -> str | None:
    """The activation whose gate has the same slope at 0."""
    for (name, sigma), rival in SLOPE_MATCHES.items():
        if name == setting.activation and math.isclose(setting.sigma or 0, sigma, rel_tol=2e-3):
            return rival
    return None


def main_settings(
    settings: list[Setting], comparisons: list[Comparison], most: int
) -> list[Setting]:
    """Up to `most`, where there is no room for all: the baseline and the primary one come first."""
    first = [c.baseline for c in comparisons if c.kind == AGAINST_BASELINE]
    first += [c.setting for c in comparisons if c.primary]
    kept = sorted(settings, key=lambda setting: setting not in first)[:most]
    return [setting for setting in settings if setting in kept]


def starts_as(control: Setting, setting: Setting) -> bool:
    """Whether a control with rescaled weights starts as the function of `setting`."""
    sigma = control.sigma * control.rescaled
    plain = setting.rescaled is None and not setting.learned
    alike = setting.activation == control.activation and plain and setting.tuned == control.tuned
    return alike and math.isclose(setting.sigma or 0, sigma, rel_tol=1e-6)


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
    return Comparison(
        group=group,
        metric=metric,
        setting=setting,
        baseline=baseline,
        kind=kind,
        primary=kind == AGAINST_BASELINE and _primary_of(group, plan) == setting,
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


def seed_text(seeds: tuple) -> str:
    """The seed, and the others where they differ from it."""
    others = zip(SEEDS[1:], seeds[1:], strict=True)
    return " ".join(
        [str(seeds[0]), *(f"({n} {s})" for n, s in others if s not in (None, seeds[0]))]
    )


def corrected(comparisons: list[Comparison]) -> list[Comparison]:
    """With Holm's correction: over the primary ones by themselves, and over all others; one alone
    has none."""
    result = list(comparisons)
    for primary in (True, False):
        places = [i for i, each in enumerate(comparisons) if each.primary == primary]
        adjusted = holm([comparisons[i].p for i in places])
        for i, p in zip(places, adjusted, strict=True):
            result[i] = replace(comparisons[i], p_holm=p, family=len(places))
    return result
