"""Hold what a battery has found, as data: a page is written from it and from nothing else.

`Findings` → a `TaskFindings` for each task → an `ArmFindings` for each activation → a `SeedResult`
for each seed. Values are those of the test split at the last epoch, in the task's metric.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.sequential import Decision
from batteries import json_files
from run_folder.metrics import Metric

FILE = "findings.json"
CANDIDATE, CANDIDATE_UNIT_GAIN, RIVAL = "candidate", "candidate with unit gain", "rival"
# Why no more seeds were added to a task.
DECIDED, MOST_SEEDS, BUDGET, ITSELF = "decided", "max_seeds", "budget", "is the baseline"


@dataclass(frozen=True)
class Trial:
    """Hold one setting that was tried for an arm.

    Attributes:
        flags: the tuned flags with their values, for example {"lr": 0.003}.
        seed: the seed, which is none of those reported.
        score: the final score on validation, by the task's metric, negative where less is better;
            None if it diverged.
    """

    flags: dict[str, Any]
    seed: int
    score: float | None


@dataclass(frozen=True)
class CurvePoint:
    """Hold one evaluation: mean losses, and the task's metric on the test split.

    A number that the run did not measure then, or that is not finite, is None.
    """

    epoch: float
    train_loss: float | None
    val_loss: float | None
    test: float | None


@dataclass(frozen=True)
class SeedResult:
    """Hold how a run with the chosen settings ended.

    Attributes:
        value: the task's metric; of a run that diverged `TaskFindings.diverged_value`, else NaN.
        loss: the test loss; None if it diverged.
        reason: where it diverged.
        dead: share of the activations' channels that are zero for the whole evaluation, at the end.
        flat: share of the units where the activation's slope is below 0.01, at the end.
        seconds: training and evaluation, without the program's start.
        stored: a record of an earlier run stands for it.
    """

    seed: int
    value: float
    loss: float | None
    diverged: bool = False
    reason: str = ""
    dead: float | None = None
    flat: float | None = None
    seconds: float | None = None
    stored: bool = False
    curve: tuple[CurvePoint, ...] = ()


@dataclass(frozen=True)
class ArmFindings:
    """Hold the results of one activation in one task.

    Attributes:
        label: as reports name it, for example "ZiLU (σ = 1)".
        role: CANDIDATE, CANDIDATE_UNIT_GAIN or RIVAL.
        chosen: the tuned flags with the chosen values; empty where every setting diverged.
        at_edge: the chosen value of a flag is the smallest or the largest that was tried.
        seeds: in the order of the seeds; empty where every setting diverged.
        failure: why it has no or fewer results; empty if it has all.
    """

    label: str
    role: str
    chosen: dict[str, Any]
    at_edge: bool
    trials: tuple[Trial, ...]
    seeds: tuple[SeedResult, ...]
    failure: str = ""

    @property
    def values(self) -> list[float]:
        return [each.value for each in self.seeds]

    @property
    def diverged(self) -> int:
        """Return how many of the seeds diverged."""
        return sum(each.diverged for each in self.seeds)


@dataclass(frozen=True)
class Comparison:
    """Hold the difference of one arm from another, paired by seed, with Student's 95 % interval.

    Fewer than two pairs have no interval: low and high are None.
    """

    label: str
    other: str
    n: int
    difference: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class TaskFindings:
    """Hold what one task has shown.

    Attributes:
        name: of its grid file.
        title: a few words, for example "ResNet-20 without norms on digits".
        description: a sentence or more on what it is and why its margin is what it is.
        metric: what is compared; its `higher_is_better` says which sign is good.
        baseline: the label of the rival of the primary comparison.
        margin: differences within ±margin count as equivalent.
        diverged_value: what counts as the metric of a run that diverged: that of a network that
            learned nothing. None where pairs with such a run are left out.
        arms: the candidate first.
        decision: candidate − baseline, with an interval that holds over all looks; None where the
            candidate is the baseline or has no results.
        further: the other comparisons, with ordinary intervals: candidate − each other rival, and
            the candidate with unit gain − the baseline.
        stopped: DECIDED, MOST_SEEDS, BUDGET, ITSELF, or why the task could not be finished.
        runs: how many runs stand behind it, trials included.
        stored: how many of them are records of earlier runs.
        seconds: the sum over the runs.
    """

    name: str
    title: str
    description: str
    metric: Metric
    baseline: str
    margin: float
    diverged_value: float | None
    arms: tuple[ArmFindings, ...]
    decision: Decision | None
    further: tuple[Comparison, ...]
    stopped: str
    runs: int
    stored: int
    seconds: float

    @property
    def candidate(self) -> ArmFindings:
        return next(arm for arm in self.arms if arm.role == CANDIDATE)

    def arm(self, label: str) -> ArmFindings:
        return next(arm for arm in self.arms if arm.label == label)


@dataclass(frozen=True)
class Environment:
    """Describe where the runs were made.

    Attributes:
        machine: the processor's or the GPU's name.
        threads: of a run on a CPU; None on a GPU.
        versions: "torch", "python" and others, by name.
    """

    machine: str
    threads: int | None
    versions: dict[str, str]


@dataclass(frozen=True)
class Findings:
    """Hold what a battery has found of one activation.

    Attributes:
        label: the candidate's, as reports name it.
        activation: as `--activation` takes it.
        settings: the candidate's flags that are not at their defaults, "sigma" for example.
        source: the SHA-256 of each file of the user's own activation, by path; else empty.
        size: "small" or "full".
        date: of the newest run, as 2026-01-31.
        max_seeds: the most seeds that the task's comparisons were allowed.
    """

    label: str
    activation: str
    settings: dict[str, Any]
    source: dict[str, str]
    size: str
    date: str
    max_seeds: int
    environment: Environment
    tasks: tuple[TaskFindings, ...]


def save(findings: Findings, folder: Path) -> Path:
    """Write the findings into a folder, and return the file."""
    path = folder / FILE
    json_files.save(findings, path, indent=1)
    return path


def load(path: Path) -> Findings:
    """Return the findings in a file.

    Raises:
        UserError: it cannot be read, or is of another version.
    """
    return json_files.load(Findings, path, "findings", "run the battery again")
