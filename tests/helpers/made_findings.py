"""Made-up findings of batteries, of any verdicts, for pages."""

import random
from dataclasses import replace

from analysis.sequential import BETTER, EQUIVALENT, UNDECIDED, WORSE, Decision
from batteries.findings import (
    CANDIDATE,
    CANDIDATE_UNIT_GAIN,
    DECIDED,
    ITSELF,
    MOST_SEEDS,
    RIVAL,
    ArmFindings,
    Comparison,
    CurvePoint,
    Environment,
    Findings,
    SeedResult,
    TaskFindings,
    Trial,
)
from run_folder.metrics import METRICS

LABEL = "ZiLU (σ = 1.253)"
RIVALS = ("ReLU", "GELU", "SiLU")
# By task: title, metric, what the values lie around, margin, and the verdict.
TASKS = {
    "convnet": ("ResNet-20 with BatchNorm, digits", "loss", 0.08, 0.02, EQUIVALENT),
    "no_norms": ("ResNet-20 without norms, digits", "top1", 96.0, 0.5, BETTER),
    "vit": ("ViT, digits", "top1", 94.0, 0.5, WORSE),
    "gpt": ("GPT, Python's documentation by bytes", "perplexity", 4.9, 0.05, UNDECIDED),
}
SIGN = {BETTER: 1.0, WORSE: -1.0, EQUIVALENT: 0.01, UNDECIDED: 0.2}


def decision(metric, margin, verdict, n=10):
    """Return a decision whose interval is what its verdict says."""
    size = 2 * margin * SIGN[verdict] * (1 if metric.higher_is_better else -1)
    half = {EQUIVALENT: 0.5 * margin, UNDECIDED: 2.5 * margin}.get(verdict, margin)
    following = None if verdict != UNDECIDED else 15
    return Decision(verdict, n, 2, size, size - half, size + half, following)


def arm(label, role, metric, center, spread, draw, n=6, diverged=0, epochs=8):
    """Return an arm with `n` seeds, the first `diverged` of which diverged."""
    seeds = []
    for seed in range(n):
        value = center + spread * draw.gauss(0, 1)
        way = [center + (value - center) - 8 * spread * 0.6**k for k in range(epochs)]
        curve = tuple(CurvePoint(k + 1.0, 1.0 / (k + 1), 1.1 / (k + 1), v)
                      for k, v in enumerate(way))  # fmt: skip
        seeds.append(SeedResult(seed, value, 0.1, dead=0.02, flat=0.11, seconds=20.0, curve=curve))
    for k in range(diverged):
        seeds[k] = SeedResult(k, 10.0, None, diverged=True, reason="epoch 3", curve=())
    trials = tuple(Trial({"lr": lr}, 100, score)
                   for lr, score in ((1e-3, 0.91), (3e-3, 0.95), (1e-2, None)))  # fmt: skip
    return ArmFindings(label, role, {"lr": 3e-3}, False, trials, tuple(seeds))


def task(name, label=LABEL, rivals=RIVALS, verdict=None, diverged=0, unit_gain=False):
    """Return the findings of one of TASKS."""
    title, metric_name, center, margin, usual = TASKS[name]
    metric, draw = METRICS[metric_name], random.Random(name)
    verdict = verdict or usual
    roles = [(label, CANDIDATE)]
    roles += [(f"{label}, unit gain", CANDIDATE_UNIT_GAIN)] if unit_gain else []
    roles += [(each, RIVAL) for each in rivals if each != label]
    arms = [
        arm(each, role, metric, center, margin, draw, diverged=diverged * (role == CANDIDATE))
        for each, role in roles
    ]
    found = None if verdict == ITSELF else decision(metric, margin, verdict)
    stopped = {UNDECIDED: MOST_SEEDS, ITSELF: ITSELF}.get(verdict, DECIDED)
    return TaskFindings(
        name=name, title=title, description="A made-up task.", metric=metric, baseline=rivals[0],
        margin=margin, diverged_value=10.0 if metric_name == "top1" else None, arms=tuple(arms),
        decision=found,
        further=tuple(Comparison(label, each, 6, 0.1, -0.3, 0.5) for each in rivals[1:]),
        stopped=stopped, runs=36, stored=12, seconds=700.0,
    )  # fmt: skip


def findings(tasks=None, label=LABEL, **changes):
    """Return a battery's findings, of all TASKS by default."""
    made = Findings(
        label=label,
        activation="ZiLU",
        settings={"sigma": 1.253},
        source={},
        size="small",
        date="2026-11-26",
        max_seeds=40,
        environment=Environment("A processor, AVX2", 1, {"torch": "2.14.1", "python": "3.12"}),
        tasks=tuple(tasks or [task(name, label) for name in TASKS]),
    )
    return replace(made, **changes)


def failed(found, reason="every setting diverged"):
    """Return a task whose candidate could not be trained."""
    arms = [
        replace(each, seeds=(), chosen={}, failure=reason) if each.role == CANDIDATE else each
        for each in found.arms
    ]
    nothing = decision(found.metric, found.margin, UNDECIDED)
    nan = float("nan")
    nothing = replace(nothing, n=0, look=0, difference=nan, low=nan, high=nan)
    return replace(found, arms=tuple(arms), decision=nothing, stopped=reason)
