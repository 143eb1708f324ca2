"""Do what the command line asks for: run, list, show commands, or write the page of all."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from analysis.looks import FIRST
from batteries import arms, findings, records, summary, table
from batteries.arms import Contender
from batteries.comparing import task_findings
from batteries.findings import BUDGET, Environment, Findings
from batteries.machine import here
from batteries.options import Options
from batteries.page.write import write_with_profile
from batteries.running import ArmRuns, TaskRuns, rounds
from batteries.tasks import Task, check_data, size_name, tasks_of
from cli import errors
from experiments.display import Display
from experiments.runner import FAILED, Outcome, running
from run_folder.folder import tell_job_script
from utils import UserError

MANY = 1000  # runs


def run(options: Options) -> int:
    """Do what the options ask for; return the exit code.

    Raises:
        UserError: with the remedy.
    """
    if options.table:
        return write_table(options)
    candidate = arms.candidate(options.candidate)
    if options.gain:
        arms.check_gain(candidate)
    tasks = chosen_tasks(options)
    if options.folder:
        print(log_folder(options, tasks[0], candidate))
        return 0
    looks_only = options.list or options.dry_run
    if not looks_only:
        check_data(tasks)
    found = list(runs_of(options, tasks, candidate, looks_only))
    if options.list:
        return show_list(found)
    if options.dry_run:
        return show_commands(found)
    code = make(found, options)
    if code == errors.TRY_AGAIN:
        print("Interrupted; the same command goes on")
        tell_job_script()
        return code
    result = findings_of(options, candidate, found)
    print(summary.text(result), end="")
    if options.index is None:
        folder = options.output_dir / size_name(options.size) / candidate.folder
        folder.mkdir(parents=True, exist_ok=True)
        print(f"Findings: {findings.save(result, folder)}")
        print(f"The page: {write_with_profile(result, candidate.flags, folder)}")
    return code


def chosen_tasks(options: Options) -> list[Task]:
    """Return the tasks that are asked for.

    Raises:
        UserError: there is no such task.
    """
    tasks = tasks_of(options.size, options.tasks, options.data_path)
    if options.index is None:
        return tasks
    if options.index > len(tasks):
        raise UserError(f"--index {options.index}: there are {len(tasks)} tasks")
    return [tasks[options.index - 1]]


def log_folder(options: Options, task: Task, candidate: Contender) -> Path:
    """Return where the log of a cluster's job for one task lies."""
    return options.output_dir / size_name(options.size) / candidate.folder / task.name


def runs_of(
    options: Options, tasks: list[Task], candidate: Contender, looks_only: bool
) -> Iterator[TaskRuns]:
    """Yield the runs of each task, made or to be made.

    Raises:
        UserError: a folder cannot be written, or holds something else.
    """
    size = size_name(options.size)
    environments: dict[str, Environment] = {}
    for task in tasks:
        if task.device not in environments:
            environments[task.device] = here(task.device)
        environment = environments[task.device]
        there = records.read(options.records / size / f"{task.name}.jsonl")
        folder = options.output_dir / size
        arm_runs = [
            ArmRuns(task, arm, role, folder, environment, there, looks_only)
            for arm, role in arms.arms_of(task, candidate, options.gain)
        ]
        yield TaskRuns(task, arm_runs, options.max_seeds)


def make(tasks: list[TaskRuns], options: Options) -> int:
    """Make the runs, `options.jobs` at a time, until all is decided; return the exit code."""
    outcomes: list[Outcome] = []
    uses_gpus = any(task.task.device != "cpu" for task in tasks)
    has_threads = any(arm.environment.threads for task in tasks for arm in task.arms)
    env = {"OMP_NUM_THREADS": "1"} if has_threads else {}
    until = None if options.budget is None else time.monotonic() + options.budget
    display = Display(0, tells_left=True)
    # How many seeds it takes is not known yet, and so neither is how many runs there are.
    with running(display, options.jobs, MANY, uses_gpus, env) as runner:
        for jobs in rounds(tasks, len(runner.places), until, time.monotonic):
            display.expect(display.done + sum(task.count_missing() for task in tasks))
            outcomes += runner.run(jobs)
            if runner.stopped():
                break
    if runner.stopped():
        return errors.TRY_AGAIN
    failed = [outcome for outcome in outcomes if outcome.kind == FAILED]
    for outcome in failed:
        print(f"{outcome.kind}: {outcome.name}: {outcome.reason}")
    return errors.FAILED if failed else 0


def findings_of(options: Options, candidate: Contender, tasks: list[TaskRuns]) -> Findings:
    """Return what the tasks have shown."""
    found = [
        task_findings(
            each.task, [arm.records() for arm in each.arms], options.max_seeds, FIRST,
            BUDGET if each.out_of_time else "",
        )
        for each in tasks
    ]  # fmt: skip
    dates = [r.date for each in tasks for arm in each.arms for r in arm.records().seeds]
    return Findings(
        label=candidate.label,
        activation=candidate.identity["activation"],
        settings=_settings(candidate.identity),
        source=candidate.source,
        size=size_name(options.size),
        date=max(dates, default=""),
        max_seeds=options.max_seeds,
        environment=tasks[0].arms[0].environment,
        tasks=tuple(found),
    )


def _settings(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in identity.items() if name != "activation"}


def write_table(options: Options) -> int:
    """Keep the finished runs as records, and write the page of all; return the exit code."""
    new = table.keep(options.output_dir, options.records)
    print(f"{new} new records in {options.records}")
    print(f"The page: {table.write_page(options.records, options.size)}")
    return 0


def show_list(tasks: list[TaskRuns]) -> int:
    """Print every task with its arms, and how far they are."""
    for number, task in enumerate(tasks, 1):
        print(f"{number:4} {task.task.name}: {task.task.title}")
        for arm in task.arms:
            there = arm.records()
            stored = sum(each.stored for each in (*there.trials, *there.seeds))
            print(
                f"       {arm.arm.label}: {len(there.trials)} of {len(arm.trials)} trials, "
                f"{len(there.seeds)} of {arm.wanted} seeds"
                + f", {stored} from records"
                * bool(stored)
            )
    return 0


def show_commands(tasks: list[TaskRuns]) -> int:
    """Print the commands of the runs that can be told now and have not ended."""
    for task in tasks:
        for arm in task.arms:
            jobs = arm.jobs(arm.trials)
            for job in jobs or arm.jobs(arm.seed_runs):
                words = job.command
                print(shlex.join(["python", os.path.relpath(words[1]), *words[2:]]))
            if jobs:
                print(f"# {task.task.name}, {arm.arm.label}: then {arm.wanted} seeds")
    return 0
