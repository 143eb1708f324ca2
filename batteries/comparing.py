"""Compare the arms of a task by their records: the decision, and what stands beside it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.sequential import Decision, decide, looks_up_to
from analysis.statistics import compare, paired_differences
from batteries.arms import Contender
from batteries.findings import (
    CANDIDATE,
    CANDIDATE_UNIT_GAIN,
    DECIDED,
    ITSELF,
    MOST_SEEDS,
    ArmFindings,
    Comparison,
    SeedResult,
    TaskFindings,
    Trial,
)
from batteries.records import Record
from batteries.tasks import Task
from experiments.tuning import edge_of


@dataclass(frozen=True)
class ArmRecords:
    """Hold the records of one arm in one task.

    Attributes:
        trials: those that have ended.
        seeds: those with the chosen settings, for the seeds 0, 1, ... as far as they go.
        failure: why there are no more; empty if there are all that were asked for.
    """

    arm: Contender
    role: str
    trials: tuple[Record, ...]
    seeds: tuple[Record, ...]
    failure: str = ""


def values_of(task: Task, records: Sequence[Record]) -> list[float]:
    """Return the metric of each run; of one that diverged what the task counts it as, else NaN."""
    worth = math.nan if task.diverged is None else task.diverged
    return [
        worth if each.diverged else each.metrics.get(task.metric.name, math.nan) for each in records
    ]


def differences_of(task: Task, arm: ArmRecords, baseline: ArmRecords) -> list[float]:
    """Return arm − baseline for each seed that both have; NaN where one of them has no value."""
    pairs = list(zip(values_of(task, arm.seeds), values_of(task, baseline.seeds), strict=False))
    whole = [pair for pair in pairs if not any(map(math.isnan, pair))]
    found = iter(paired_differences([a for a, _ in whole], [b for _, b in whole]).tolist())
    return [math.nan if any(map(math.isnan, pair)) else next(found) for pair in pairs]


def decision_of(
    task: Task, arm: ArmRecords, baseline: ArmRecords, max_seeds: int
) -> Decision | None:
    """Return the primary comparison's decision so far, None where there are no two arms."""
    if arm.arm.is_same_as == baseline.arm.is_same_as:
        return None
    differences = differences_of(task, arm, baseline)[:max_seeds]
    higher, looks = task.metric.higher_is_better, looks_up_to(max_seeds)
    return decide(differences, task.margin, higher, looks)


def task_findings(
    task: Task, arms: Sequence[ArmRecords], max_seeds: int, first: int, stopped: str = ""
) -> TaskFindings:
    """Return what the records of a task's arms show.

    Args:
        task: which.
        arms: the candidate first.
        max_seeds: the most seeds that the decision may take.
        first: how many seeds every arm has; the further ones are the decision's alone.
        stopped: why there are no more seeds, where neither decision nor `max_seeds` say so.
    """
    candidate = next(each for each in arms if each.role == CANDIDATE)
    baseline = next(each for each in arms if each.arm.label == task.baseline)
    decision = decision_of(task, candidate, baseline, max_seeds)
    used = {id(each): first for each in arms}
    if decision is not None:
        count = len(differences_of(task, candidate, baseline)[:max_seeds])
        shown = decision.n + decision.left_out if decision.is_decided else count
        used[id(candidate)] = used[id(baseline)] = max(first, shown)
    if decision is None:
        stopped = ITSELF
    elif decision.is_decided:
        stopped = DECIDED
    elif not stopped:
        stopped = candidate.failure or baseline.failure or MOST_SEEDS
    further = [
        _comparison(task, candidate, other, first)
        for other in arms
        if other.role not in (CANDIDATE, CANDIDATE_UNIT_GAIN) and other is not baseline
    ]
    further += [
        _comparison(task, arm, baseline, first) for arm in arms if arm.role == CANDIDATE_UNIT_GAIN
    ]
    shown_records = [r for arm in arms for r in (*arm.trials, *arm.seeds[: used[id(arm)]])]
    return TaskFindings(
        name=task.name,
        title=task.title,
        description=task.text,
        metric=task.metric,
        baseline=task.baseline,
        margin=task.margin,
        diverged_value=task.diverged,
        arms=tuple(_arm(task, each, used[id(each)]) for each in arms),
        decision=decision,
        further=tuple(further),
        stopped=stopped,
        runs=len(shown_records),
        stored=sum(each.stored for each in shown_records),
        seconds=round(sum(each.seconds for each in shown_records), 1),
    )


def _arm(task: Task, records: ArmRecords, count: int) -> ArmFindings:
    seeds = records.seeds[:count]
    chosen = seeds[0].tuned if seeds else {}
    return ArmFindings(
        label=records.arm.label,
        role=records.role,
        chosen=chosen,
        at_edge=is_at_edge(records),
        trials=tuple(Trial(each.tuned, each.seed, each.score) for each in records.trials),
        seeds=tuple(
            SeedResult(
                seed=each.seed,
                value=value,
                loss=each.metrics.get("loss"),
                diverged=bool(each.diverged),
                reason=each.diverged,
                dead=each.dead,
                flat=each.flat,
                seconds=each.seconds,
                stored=each.stored,
                curve=each.curve,
            )
            for each, value in zip(seeds, values_of(task, seeds), strict=True)
        ),
        failure=records.failure,
    )


def is_at_edge(records: ArmRecords) -> bool:
    """Return whether a chosen number is the smallest or the largest of several that were tried."""
    chosen = records.seeds[0].tuned if records.seeds else {}
    return any(
        edge_of(value, (each.tuned[name] for each in records.trials))
        for name, value in chosen.items()
    )


def _comparison(task: Task, arm: ArmRecords, other: ArmRecords, count: int) -> Comparison:
    """Return the difference of two arms over the seeds that every arm has."""
    differences = differences_of(task, arm, other)[:count]
    whole = [each for each in differences if not math.isnan(each)]
    found = compare(whole, [0.0] * len(whole))
    low, high = (None if math.isnan(each) else each for each in (found.low, found.high))
    return Comparison(arm.arm.label, other.arm.label, found.n, found.mean, low, high)
