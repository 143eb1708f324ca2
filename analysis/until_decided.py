"""Decide the primary comparisons of a sweep that gets seeds until they are decided.

Everything follows from the sweep's manifest and the results of its runs, so that the sweep and its
report say the same. A pair of which a run diverged is left out, as in all of a report's
comparisons, and another seed takes its place.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analysis.comparisons import Comparison, baseline_of, find_variant
from analysis.grouping import Group, group_started_runs, group_title
from analysis.looks import FIRST, looks_up_to
from analysis.plan import AnalysisPlan
from analysis.run_folders import RunResult, read_run, with_custom_names
from analysis.sequential import ERROR, Decision, critical_value, decide, repeated
from analysis.statistics import compare, paired_differences
from analysis.variants import Variant
from experiments.manifest import TRIAL, Manifest, Run
from experiments.more_seeds import add_seeds
from run_folder.metrics import METRICS, Metric
from run_folder.status import DIVERGED, FINISHED
from utils import UserError
from zilu.names import custom_name


@dataclass(frozen=True)
class PrimaryPair:
    """Hold the runs of a primary comparison: of both settings for each seed, in their order."""

    title: str
    variant: Variant
    baseline: Variant
    runs: tuple[tuple[Run, Run], ...]

    @property
    def settings(self) -> list[Run]:
        """Return a run of each of the two settings."""
        return list(self.runs[0])

    @property
    def reversed(self) -> "PrimaryPair":
        """Return the same with the baseline as the variant."""
        runs = tuple((theirs, mine) for mine, theirs in self.runs)
        return PrimaryPair(self.title, self.baseline, self.variant, runs)


@dataclass(frozen=True)
class Outcomes:
    """Hold how the pairs have ended, up to the first that has not.

    Attributes:
        variant, baseline: the final values by pair; NaN for a run that diverged.
        diverged: how many runs of each of the two diverged.
        pending: the first run that has not ended; empty if all have.
    """

    variant: NDArray[np.float64]
    baseline: NDArray[np.float64]
    diverged: tuple[int, int]
    pending: str

    @property
    def differences(self) -> NDArray[np.float64]:
        """Return variant − baseline by pair; NaN where a run diverged."""
        complete = np.isfinite(self.variant) & np.isfinite(self.baseline)
        found = np.full(len(complete), math.nan)
        found[complete] = paired_differences(self.variant[complete], self.baseline[complete])
        return found


@dataclass(frozen=True)
class Progress:
    """Hold how far a primary comparison has come.

    Attributes:
        metric: None while no run has finished.
        seeds: the seeds that it is to have for its next look; 0 if it needs no more.
    """

    pair: PrimaryPair
    metric: Metric | None
    decision: Decision
    outcomes: Outcomes
    seeds: int

    @property
    def sentence(self) -> str:
        """Return what a sweep says of it."""
        decision, names = self.decision, f"{self.pair.variant.label} against "
        text = f"{self.pair.title}: {names}{self.pair.baseline.label}: {decision.verdict}"
        text += f" after {decision.n} pairs of seeds"
        if self.metric is not None and not math.isnan(decision.low):
            low, high = (self.metric.signed(end) for end in (decision.low, decision.high))
            text += f" ({self.metric.difference(decision.difference)}, {low} to {high})"
        if any(self.outcomes.diverged):
            text += "; {} and {} runs diverged, and their pairs are left out".format(
                *self.outcomes.diverged
            )
        if self.outcomes.pending:
            return f"{text}; {self.outcomes.pending} has no result"
        if self.seeds:
            return f"{text}; on to {self.seeds} seeds"
        return text


# --- which runs they are ---


def primary_pairs(manifest: Manifest) -> list[PrimaryPair]:
    """Return the primary comparison in each group of a sweep's runs.

    Raises:
        UserError: the sweep declares none, or none that its runs have.
    """
    needed = [name for name in ("baseline", "primary", "margin") if name not in manifest.report]
    if needed:
        raise UserError(
            f"{manifest.folder}: --until_decided decides a declared comparison; give "
            f"{' and '.join(needed)} under `report:` in the grid file"
        )
    # Whether a user's own activation has a sigma, its runs tell, which are not there yet.
    found: list[PrimaryPair] = []
    for with_sigma in (True, False):
        groups = group_started_runs(_planned_results(manifest, with_sigma))
        found = found or [pair for group in groups for pair in _pairs_of(group, groups, manifest)]
    if not found:
        declared = (f"{name}: {manifest.report[name]}" for name in ("primary", "baseline"))
        labels = dict.fromkeys(variant.label for group in groups for variant in group.variants)
        raise UserError(
            f"{manifest.folder}: --until_decided finds no two settings that are "
            f"{' and '.join(declared)} (`report:`); there are {', '.join(labels)}"
        )
    return found


def _planned_results(manifest: Manifest, with_sigma: bool) -> list[RunResult]:
    """Return the runs that a report will find, as if they had finished."""
    results = []
    for run in manifest.runs:
        if run.role == TRIAL:
            continue
        resolved = {}
        if custom_name(str(run.flags["activation"])):
            resolved["activation_source"] = manifest.sources.get(run.flags["activation"])
            if with_sigma:
                resolved["sigma"] = run.flags.get("sigma")
        results.append(
            RunResult(
                path=manifest.path(run),
                kind=FINISHED,
                flags=run.flags,
                resolved=resolved,
                environment={"planned": True},
                manifest=manifest,
                entry=run,
            )
        )
    return with_custom_names(results)


def _pairs_of(group: Group, groups: list[Group], manifest: Manifest) -> Iterator[PrimaryPair]:
    baseline = baseline_of(group, manifest.report["baseline"])
    variant = find_variant(manifest.report["primary"], group.variants)
    if variant is None or baseline is None or variant == baseline:
        return
    entries = [
        (mine.entry, theirs.entry) for mine, theirs in group.run_pairs(variant, baseline).values()
    ]
    runs = sorted(
        ((mine, theirs) for mine, theirs in entries if mine and theirs),
        key=lambda pair: pair[0].index,
    )
    if runs:
        yield PrimaryPair(group_title(group, groups), variant, baseline, tuple(runs))


# --- what they have come to ---


def progress_of(manifest: Manifest) -> list[Progress]:
    """Return how far each primary comparison of a sweep has come.

    With several of them each may err by its share of 5 % (Bonferroni).

    Raises:
        UserError: the sweep declares no comparison, or a metric that its runs lack.
    """
    pairs, found = primary_pairs(manifest), []
    for pair in pairs:
        results = read_results(pair, manifest)
        metric = _metric(manifest, results)
        outcomes = outcomes_of(results, metric)
        decision = decide_pair(outcomes, metric, manifest.report["margin"], manifest, len(pairs))
        seeds = _seeds_wanted(decision, outcomes, len(pair.runs), _max_seeds(manifest))
        found.append(Progress(pair, metric, decision, outcomes, seeds))
    return found


def extended(manifest: Manifest, progress: list[Progress]) -> Manifest:
    """Return the manifest with the seeds that the next looks need."""
    for each in progress:
        if each.seeds:
            manifest = add_seeds(manifest.folder, each.pair.settings, each.seeds)
    return manifest


def read_results(pair: PrimaryPair, manifest: Manifest) -> list[tuple[RunResult, RunResult]]:
    """Return the results of the pairs of runs, in their order."""

    def read(run: Run) -> RunResult:
        return read_run(manifest.path(run), manifest, run)

    return [(read(mine), read(theirs)) for mine, theirs in pair.runs]


def outcomes_of(results: list[tuple[RunResult, RunResult]], metric: Metric | None) -> Outcomes:
    """Return how the pairs have ended, up to the first that has not."""
    pending, ended = "", []
    for pair in results:
        waiting = [run for run in pair if run.kind not in (FINISHED, DIVERGED)]
        if waiting:
            pending = waiting[0].path.name
            break
        ended.append(pair)
    values = [
        np.array([_value(pair[side], metric) for pair in ended], dtype=float) for side in (0, 1)
    ]
    diverged = [sum(pair[side].kind == DIVERGED for pair in ended) for side in (0, 1)]
    return Outcomes(values[0], values[1], (diverged[0], diverged[1]), pending)


def decide_pair(
    outcomes: Outcomes,
    metric: Metric | None,
    margin: float | None,
    manifest: Manifest,
    comparisons: int,
) -> Decision:
    """Return the decision of one of so many primary comparisons."""
    higher = metric is None or metric.higher_is_better
    looks = looks_up_to(_max_seeds(manifest))
    return decide(outcomes.differences, margin, higher, looks, ERROR / comparisons)


def _max_seeds(manifest: Manifest) -> int:
    assert manifest.max_seeds is not None, "the sweep is one that gets seeds until it is decided"
    return manifest.max_seeds


def _value(run: RunResult, metric: Metric | None) -> float:
    if run.kind == DIVERGED or metric is None:
        return math.nan
    return run.judged.get(metric.name, math.nan)


def _metric(manifest: Manifest, results: list[tuple[RunResult, RunResult]]) -> Metric | None:
    """Return the metric that the sweep declares, or the usual one; None before a run finished."""
    finished = [run for pair in results for run in pair if run.kind == FINISHED]
    if not finished:
        return None
    available = [name for name in METRICS if name in finished[0].judged]
    wanted = manifest.report.get("metric", available[0])
    if wanted not in available:
        raise UserError(
            f"{manifest.folder}: `report:` declares the metric {wanted}, and its runs have "
            f"{', '.join(available)}; name one of these in a new sweep"
        )
    return METRICS[wanted]


def _seeds_wanted(decision: Decision, outcomes: Outcomes, begun: int, max_seeds: int) -> int:
    complete = int(np.isfinite(outcomes.differences).sum())
    if decision.next_look is None or outcomes.pending:
        return 0
    if complete == 0 and begun >= FIRST:
        return 0  # every pair has a run that diverged, and more seeds would tell nothing else
    wanted = begun + decision.next_look - complete
    return wanted if begun < wanted <= max_seeds else 0


# --- in a report ---


def with_decisions(comparisons: list[Comparison], plan: AnalysisPlan) -> list[Comparison]:
    """Return the comparisons, those decided by looks with their decision.

    They are those whose number of seeds depended on the results, by whatever metric and in
    whichever direction the report compares them: the interval at a look holds for any of them.
    """
    sweeps = {
        run.manifest.folder.resolve(): run.manifest
        for each in comparisons
        for run in each.group.all_runs()
        if run.manifest is not None and run.manifest.max_seeds is not None
    }
    known = [(m, pair) for m in sweeps.values() for pair in _declared_pairs(m)]
    return [_with_decision(each, known, plan) for each in comparisons]


def _declared_pairs(manifest: Manifest) -> list[PrimaryPair]:
    try:
        return primary_pairs(manifest)
    except UserError:
        return []  # other code wrote the manifest


def _with_decision(
    comparison: Comparison, known: list[tuple[Manifest, PrimaryPair]], plan: AnalysisPlan
) -> Comparison:
    for manifest, pair in known:
        there = [
            _names(comparison.group.runs_of(variant), manifest)
            for variant in (comparison.variant, comparison.baseline)
        ]
        for each in (pair, pair.reversed):
            names = [{runs[side].name for runs in each.runs} for side in (0, 1)]
            if all(mine & theirs for mine, theirs in zip(there, names, strict=True)):
                family = sum(other is manifest for other, _ in known)
                return _decided(comparison, manifest, each, family, plan.margin)
    return comparison


def _names(runs: list[RunResult], manifest: Manifest) -> set[str]:
    """Return the names that runs have in a sweep: a folder may have two, as a link."""
    return {
        run.entry.name
        for run in runs
        if run.entry and run.manifest and run.manifest.folder.resolve() == manifest.folder.resolve()
    }


def _decided(
    comparison: Comparison,
    manifest: Manifest,
    pair: PrimaryPair,
    family: int,
    margin: float | None,
) -> Comparison:
    """Return the comparison of the pairs that were used, without what takes their number as given.

    What is left are the interval over all looks, and descriptions.
    """
    outcomes = outcomes_of(read_results(pair, manifest), comparison.metric)
    decision = decide_pair(outcomes, comparison.metric, margin, manifest, family)
    used = np.flatnonzero(np.isfinite(outcomes.differences))[: decision.n]
    critical = critical_value(decision.n, ERROR / family) if decision.look else math.nan
    paired = repeated(compare(outcomes.variant[used], outcomes.baseline[used]), critical)
    return replace(
        comparison,
        decision=decision,
        critical=critical,
        paired=paired,
        unpaired=(decision.difference, math.nan, math.nan, math.nan),
        equivalence=math.nan,
        detectable=math.nan,
    )
