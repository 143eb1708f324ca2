"""Run a battery: trials, six seeds, and further ones look by look until each task is decided.

An arm of a task is a sweep in Output/battery/SIZE/TASK/ARM; what the tasks still need follows from
its folders and from the records, so that a battery that was stopped goes on by the same command.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from analysis.looks import FIRST
from batteries import records
from batteries.arms import Contender
from batteries.comparing import ArmRecords, decision_of
from batteries.findings import CANDIDATE, Environment
from batteries.records import Key, Record
from batteries.tasks import Task
from experiments import manifest as manifests
from experiments import tuning
from experiments.grid import read_grid
from experiments.jobs import job_of
from experiments.manifest import TRIAL, TUNED, Manifest, Run
from experiments.runner import Job
from utils import UserError, read_json, replacing

START = 6.0  # seconds that a program takes to start, about
ARM = "arm.json"
ASIDE = (
    "go on where and with what they were made, or set them aside: --table keeps finished runs as "
    "records, then remove the folder, or give another --output_dir"
)


class ArmRuns:
    """Hold the runs of one arm in one task, made or still to be made.

    Args:
        task: which.
        arm: which.
        role: of the arm.
        folder: of the size's results.
        here: the environment of runs that are made now.
        there: the task's records: those of this environment stand for runs, and those that other
            code made where this code gives the same numbers: one trial is made anew to see that.
        looks_only: write nothing.

    Attributes:
        environment: of the runs in the folder, where there are any.

    Raises:
        UserError: the folder cannot be written, or holds runs of another recipe.
    """

    def __init__(
        self,
        task: Task,
        arm: Contender,
        role: str,
        folder: Path,
        here: Environment,
        there: Iterable[Record],
        looks_only: bool = False,
    ):
        self.task, self.arm, self.role = task, arm, role
        self.folder = folder / task.name / arm.folder
        self.here, self.looks_only = here, looks_only
        self.wanted = FIRST
        self.known: dict[str, Record] = {}  # by the run's name
        self.manifest = self._planned(FIRST)
        self.environment = self._whose().environment
        self.stored = records.standing(there, self.environment)
        self.older = records.of_other_codes(there, self.environment)
        self.tuned = tuple(tuning.tuned_flags(self.manifest.tune))
        self.recipe = records.recipe_of(
            task.program, self.manifest.runs[0].flags, self.tuned, task.metric
        )

    def _planned(self, seeds: int) -> Manifest:
        """Return the manifest of the arm's sweep with at least so many seeds."""
        instead = {
            "activation": [{name: str(value) for name, value in self.arm.flags.items()}],
            "seed": [str(seed) for seed in range(seeds)],
        }
        plan = manifests.planned(read_grid(self.task.path, instead), self.task.path, self.folder)
        there = manifests.load(self.folder)
        if there is not None:
            self._check_recipe(there, plan)
            plan = _as_spelled_in(there, plan)
        if self.looks_only:
            return there or plan
        return manifests.frozen(plan, extend=True)

    def _check_recipe(self, there: Manifest, plan: Manifest) -> None:
        """Refuse to add runs of another recipe, or trials of other values.

        Raises:
            UserError: with the remedy.
        """
        then, now = (
            {"program": each.program, "tune": each.tune}
            | {"metric": each.report.get("metric")}
            | records.deciding(each.program, each.runs[0].flags, tuning.tuned_flags(each.tune))
            for each in (there, plan)
        )
        if differences := _differences(then, now):
            raise UserError(f"{self.folder} holds runs with {differences}; {ASIDE}")

    def _whose(self) -> Whose:
        """Return what the runs in the folder are made of and with, which is written first."""
        path, arm = self.folder / ARM, self.arm
        ours = Whose(arm.label, arm.identity, arm.source, self.task.metric.name, self.here)
        if not path.exists():
            if self.looks_only:
                return ours
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(asdict(ours), indent=1), encoding="utf-8")
        return whose(path)

    # --- what there is ---

    @property
    def trials(self) -> list[Run]:
        return [run for run in self.manifest.runs if run.role == TRIAL]

    @property
    def seed_runs(self) -> list[Run]:
        """Return the runs of the seeds that are wanted, in their order."""
        by_seed = {run.flags["seed"]: run for run in self.manifest.runs if run.role == TUNED}
        return [by_seed[seed] for seed in range(self.wanted) if seed in by_seed]

    def want(self, seeds: int) -> None:
        """Ask for so many seeds."""
        if seeds > self.wanted:
            self.manifest, self.wanted = self._planned(seeds), seeds

    def chosen(self) -> dict[str, Any]:
        """Return the tuned flags that the trials chose.

        Raises:
            UserError: not all have ended, or all diverged.
        """
        found = [(run, self.record(run)) for run in self.trials]
        missing = [run.name for run, record in found if record is None]
        if missing:
            raise UserError(f"{len(missing)} of its {len(found)} trials have not ended")
        scores = [
            tuning.Trial(run.flags, float("-inf") if record.score is None else record.score)
            for run, record in found
            if record is not None
        ]
        return tuning.choose(self.tuned, scores)

    def flags_of(self, run: Run) -> dict[str, Any]:
        """Return all flags of a run, the tuned ones chosen; see `chosen` for errors."""
        return run.flags if run.role == TRIAL else run.flags | self.chosen()

    def record(self, run: Run) -> Record | None:
        """Return the record of a run, from its folder or else a stored one; None before it ends."""
        if run.name not in self.known:
            made = self._made(run) or self._stored(run)
            if made is None:
                return None
            self.known[run.name] = made
        return self.known[run.name]

    def _made(self, run: Run) -> Record | None:
        folder = self.manifest.path(run)
        made = records.record_of(
            folder, self.arm, self.recipe, self.tuned, run.role == TRIAL, self.task.metric,
            self.environment,
        )  # fmt: skip
        if made is not None and run.role == TUNED and made.tuned != self.chosen():
            raise UserError(
                f"{folder} holds a run with {made.tuned}, and its trials chose {self.chosen()}; "
                "move it away"
            )
        return made

    def _stored(self, run: Run) -> Record | None:
        key = self._key(run)
        if key is None:
            return None
        return self.stored.get(key) or self._repeated(key)

    def _key(self, run: Run) -> Key | None:
        """Return what names a run among the records, None before its flags are chosen."""
        try:
            flags = self.flags_of(run)
        except UserError:
            return None
        tuned = {name: flags[name] for name in self.tuned}
        arm = self.arm
        return records.key_of(self.recipe, arm.identity, arm.source, tuned, flags["seed"])

    @property
    def probe(self) -> list[Run]:
        """Return the run that tells whether this code repeats the older records, if there are."""
        key = self._key(self.trials[0])
        is_told = key in self.stored
        return self.trials[:1] if any(key in of for of in self.older) and not is_told else []

    def _repeated(self, key: Key) -> Record | None:
        """Return a record of other code whose first trial this code has repeated, bit for bit."""
        first = self._key(self.trials[0])
        now = self.stored.get(first) if first in self.stored else self._made(self.trials[0])
        if first is None or now is None:
            return None
        for of in self.older:
            if first in of and of[first].numbers == now.numbers and key in of:
                return of[key]
        return None

    def jobs(self, runs: list[Run]) -> list[Job]:
        """Return what is still to be made of these runs; nothing before their flags are chosen.

        Raises:
            UserError: the folder holds runs that were made with something else than here.
        """
        found = []
        places = {"activation": self.arm.flags["activation"], "data_path": self.task.data_path}
        for run in runs:
            if self.record(run) is None:
                try:
                    flags = self.flags_of(run)
                except UserError:
                    return []
                name = f"{self.task.name}/{self.arm.folder}/{run.name}"
                folder = self.manifest.path(run)
                found.append(job_of(name, self.task.program, flags | places, folder))
        if found and self.environment != self.here and not self.looks_only:
            difference = _difference(self.environment, self.here)
            raise UserError(f"{self.folder} holds runs with {difference}; {ASIDE}")
        return found

    def records(self) -> ArmRecords:
        """Return the records that there are, the seeds as far as none is missing."""
        trials = [each for each in map(self.record, self.trials) if each is not None]
        seeds: list[Record] = []
        for run in self.seed_runs:
            found = self.record(run)
            if found is None:
                break
            seeds.append(found)
        return ArmRecords(self.arm, self.role, tuple(trials), tuple(seeds), self._failure(seeds))

    def _failure(self, seeds: list[Record]) -> str:
        if len(seeds) == self.wanted:
            return ""
        try:
            self.chosen()
        except UserError as error:
            return str(error)
        return f"{len(seeds)} of {self.wanted} seeds have ended"


@dataclass(frozen=True)
class Whose:
    """Say what the runs in an arm's folder are made of and with: the content of its file ARM."""

    label: str
    arm: dict[str, Any]
    source: dict[str, str]
    metric: str
    environment: Environment


def whose(path: Path) -> Whose:
    """Return the content of a file ARM.

    Raises:
        UserError: it is damaged.
    """
    try:
        content = read_json(path.read_text(encoding="utf-8"))
        return Whose(**{**content, "environment": Environment(**content["environment"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove its folder") from None


def _as_spelled_in(there: Manifest, plan: Manifest) -> Manifest:
    """Return the plan with the places of files as the manifest has them: they are the same runs."""
    places = {name: there.runs[0].flags.get(name) for name in ("activation", "data_path")}
    runs = [
        replace(run, flags=run.flags | places, group=run.group and run.group | places)
        for run in plan.runs
    ]
    return replace(plan, runs=runs)


def _difference(theirs: Environment, ours: Environment) -> str:
    """Return in what an environment differs from this one."""
    then, now = (
        {**each.versions, "machine": each.machine, "threads": each.threads}
        for each in (theirs, ours)
    )
    return _differences(then, now)


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return what differs: "torch 2.13, not 2.14; ..."; empty if nothing does."""
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    return "; ".join(f"{name} {then.get(name)}, not {now.get(name)}" for name in names)


class TaskRuns:
    """Hold the runs of one task.

    Args:
        task: which.
        arms: the candidate's first.
        max_seeds: the most seeds that its decision may take.
    """

    def __init__(self, task: Task, arms: list[ArmRuns], max_seeds: int):
        self.task, self.arms, self.max_seeds = task, arms, max_seeds
        self.out_of_time = False
        candidate = next(arm for arm in arms if arm.role == CANDIDATE)
        baseline = next(arm for arm in arms if arm.arm.label == task.baseline)
        self.primary = [candidate, baseline]

    def count_missing(self) -> int:
        """Return how many runs are still to be made of trials and seeds asked for."""
        count = 0
        for arm in self.arms:
            trials = len(arm.jobs(arm.trials))
            known = sum(arm.record(run) is not None for run in arm.seed_runs)
            count += trials + len(arm.seed_runs) - known
        return count

    def missing_probes(self) -> list[Job]:
        """Return the runs that are to be made before older records may stand for others."""
        return [job for arm in self.arms for job in arm.jobs(arm.probe)]

    def missing_trials(self) -> list[Job]:
        return [job for arm in self.arms for job in arm.jobs(arm.trials)]

    def missing_seeds(self) -> list[Job]:
        """Return the runs that are still to be made of the seeds asked for."""
        by_arm = [arm.jobs(arm.seed_runs) for arm in self.arms]
        return [job for jobs in by_arm for job in jobs]

    def seeds_for_next_look(self) -> int | None:
        """Return how many seeds the next look needs, None if there is no next look."""
        candidate, baseline = (arm.records() for arm in self.primary)
        decision = decision_of(self.task, candidate, baseline, self.max_seeds)
        if decision is None or decision.next_look is None:
            return None
        made = min(len(candidate.seeds), len(baseline.seeds))
        if made < self.primary[0].wanted:
            return None  # some have failed
        complete = made - decision.left_out
        wanted = made + decision.next_look - complete
        return wanted if wanted <= self.max_seeds else None

    def jobs_of_next_look(self) -> list[Job]:
        """Ask for the seeds of the next look, and return the runs still to be made for it."""
        seeds = self.seeds_for_next_look()
        while seeds is not None:
            for arm in self.primary:
                arm.want(seeds)
            jobs = self.missing_seeds()
            if jobs:
                return jobs
            seeds = self.seeds_for_next_look()  # records stood for all of them
        return []

    def give_up_look(self) -> None:
        """Ask for no more seeds than there are."""
        self.out_of_time = True
        for arm in self.primary:
            arm.wanted = max(FIRST, len(arm.records().seeds))

    def seconds_of_a_run(self) -> float:
        """Return how long a run takes about, by those that there are."""
        found = [r.seconds for arm in self.primary for r in arm.records().seeds]
        return START + (sum(found) / len(found) if found else 0.0)


def rounds(
    tasks: list[TaskRuns], places: int, until: float | None, clock: Callable[[], float]
) -> Iterator[list[Job]]:
    """Yield what is to be run next, all of one round at a time, until everything is decided.

    Args:
        tasks: their runs.
        places: how many run at a time.
        until: when no more seeds are to be added, by the clock: the first six are, always, and a
            look is begun where it ends before that, as far as that can be foreseen.
        clock: tells the time in seconds.
    """
    yield [job for task in tasks for job in task.missing_probes()]
    yield [job for task in tasks for job in task.missing_trials()]
    yield [job for task in tasks for job in task.missing_seeds()]
    open_tasks = list(tasks)
    while open_tasks:
        for task in list(open_tasks):
            jobs = task.jobs_of_next_look()
            takes = math.ceil(len(jobs) / places) * task.seconds_of_a_run()
            if jobs and until is not None and clock() + takes > until:
                task.give_up_look()
                jobs = []
            if jobs:
                yield jobs
            else:
                open_tasks.remove(task)
