"""Keep finished runs as records, and write the page of all activations from the records."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.looks import FIRST, LAST
from analysis.sequential import Decision
from analysis.statistics import estimate
from analysis.wording import value_text
from batteries import records
from batteries.arms import Contender
from batteries.comparing import ArmRecords, decision_of, is_at_edge, values_of
from batteries.findings import CANDIDATE, Environment
from batteries.records import Key, Record
from batteries.running import ARM, whose
from batteries.summary import interval
from batteries.tasks import SIZES, Task, size_name, tasks_of
from experiments import manifest as manifests
from experiments.manifest import TRIAL
from experiments.tuning import Trial, mean_scores, tuned_flags
from run_folder.metrics import METRICS
from utils import replacing

ABSENT = "–"


def keep(output_dir: Path, folder: Path) -> int:
    """Keep all finished runs below a folder of results as records; return how many are new.

    Raises:
        UserError: a file is damaged, or cannot be written.
    """
    new = 0
    for path in sorted(output_dir.glob(f"*/*/*/{ARM}")):
        size, task = path.parts[-4:-2]
        new += records.add(folder / size / f"{task}.jsonl", _made(path))
    return new


def _made(path: Path) -> Iterable[Record]:
    """Yield the records of an arm's finished runs."""
    there, manifest = whose(path), manifests.load(path.parent)
    if manifest is None:
        return
    arm = Contender(there.label, {}, there.arm, there.source)
    tuned = tuple(tuned_flags(manifest.tune))
    metric = METRICS[there.metric]
    recipe = records.recipe_of(manifest.program, manifest.runs[0].flags, tuned, metric)
    for run in manifest.runs:
        found = records.record_of(
            manifest.path(run), arm, recipe, tuned, run.role == TRIAL, metric, there.environment
        )
        if found is not None:
            yield found


@dataclass(frozen=True)
class Row:
    """Hold what a table says of one activation."""

    records: ArmRecords
    values: list[float]
    decision: Decision | None


@dataclass(frozen=True)
class TaskTable:
    """Hold the rows of one task that were run by one recipe with one machine and versions.

    The code that trained may differ: a battery compares across it only after a run was repeated.
    """

    task: Task
    environment: Environment
    codes: list[str]
    rows: list[Row]

    @property
    def dates(self) -> list[str]:
        return sorted({each.date for row in self.rows for each in row.records.seeds})


def tables_of(task: Task, found: list[Record]) -> list[TaskTable]:
    """Return a table for each recipe, machine and versions, the newest first."""
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for each in found:
        groups[each.recipe, repr(records.without_code(each.environment))].append(each)
    tables = []
    for group in groups.values():
        arms = _arms(group)
        baseline = next((each for arm, each in arms if arm.label == task.baseline), None)
        if baseline is not None:
            rows = [_row(task, arm, each, baseline) for arm, each in arms]
            rows = [row for row in rows if len(row.records.seeds) >= FIRST]
            codes = sorted({records.code_of(each) for each in group})
            where = records.without_code(group[0].environment)
            tables.append(TaskTable(task, where, codes, rows))
    tables = [table for table in tables if table.rows]
    return sorted(tables, key=lambda table: table.dates[-1], reverse=True)


def _arms(group: list[Record]) -> list[tuple[Contender, list[Record]]]:
    """Return the arms with their records, by their names alone."""
    by_arm: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for each in group:
        by_arm[each.key.arm, each.key.source].append(each)
    names = [runs[0].label for runs in by_arm.values()]
    found = []
    for (_, source), runs in by_arm.items():
        label = runs[0].label
        if names.count(label) > 1:
            label += f" [{records.digest(source)}]"
        found.append((Contender(label, {}, runs[0].arm, runs[0].source), runs))
    return sorted(found, key=lambda pair: pair[0].label.lower())


def _arm_records(arm: Contender, found: list[Record], code: str) -> ArmRecords:
    """Return an arm's records: those of this code, and those of codes that agree with it."""
    agreeing = _agreeing(found, code)
    ascending = sorted(
        (each for each in found if records.code_of(each) in agreeing),
        key=lambda each: (records.code_of(each) == code, each.date),
    )
    trials = tuple({each.key: each for each in ascending if each.is_trial}.values())
    seeds = [each for each in ascending if not each.is_trial]
    chosen = _chosen(trials, seeds)
    by_seed = {each.seed: each for each in seeds if each.tuned == chosen}
    count = next(seed for seed in range(len(by_seed) + 1) if seed not in by_seed)
    return ArmRecords(arm, CANDIDATE, trials, tuple(by_seed[seed] for seed in range(count)))


def _chosen(trials: Sequence[Record], seeds: Sequence[Record]) -> dict[str, Any]:
    """Return the tuned flags that the trials chose, of those that runs of seeds were made with.

    A grid that got further values to try may leave runs of seeds with the choice of before.
    """
    tried = [
        Trial(each.tuned, -math.inf if each.score is None else each.score)
        for each in trials
        if any(run.tuned == each.tuned for run in seeds)
    ]
    if not tried:
        return {}
    return max(mean_scores(tried[0].flags, tried), key=lambda scored: scored[1])[0]


def _agreeing(found: list[Record], code: str) -> set[str]:
    """Return the codes whose records have the numbers of this code's wherever both have one.

    Where this code has none, as it made no runs of this arm, they are the newest record's.
    """
    by_code: dict[str, dict[Key, Record]] = defaultdict(dict)
    for each in sorted(found, key=lambda record: record.date):
        by_code[records.code_of(each)][each.key] = each
    if code not in by_code:
        code = list(by_code)[-1]
    ours = by_code[code]
    agreeing = {code}
    for name, theirs in by_code.items():
        both = ours.keys() & theirs.keys()
        if both and all(ours[key].numbers == theirs[key].numbers for key in both):
            agreeing.add(name)
    return agreeing


def _row(task: Task, arm: Contender, found: list[Record], baseline: list[Record]) -> Row:
    code = records.code_of(max(found, key=lambda record: record.date))
    ours = _arm_records(arm, found, code)
    theirs = _arm_records(Contender(task.baseline, {}, baseline[0].arm), baseline, code)
    decision = decision_of(task, ours, theirs, LAST)
    count = len(ours.seeds)
    if decision is not None and decision.is_decided:
        count = decision.n + decision.left_out
    return Row(ours, values_of(task, ours.seeds[:count]), decision)


# --- the page ---


def write_page(folder: Path, size: str) -> Path:
    """Write the page of all records, beside their folder, and return it.

    Args:
        folder: of the records.
        size: that of --size, whose tasks are on the page beside those of SIZES.

    Raises:
        UserError: a file of records is damaged.
    """
    sizes = [*SIZES, *([size] if size not in SIZES else [])]
    parts = [HEAD]
    for each in sizes:
        place = folder / size_name(each)
        tables = [
            (task, tables_of(task, records.read(place / f"{task.name}.jsonl")))
            for task in tasks_of(each)
        ]
        tables = [(task, found) for task, found in tables if found]
        if tables:
            parts += [f"## Size: {size_name(each)}", _overview(tables)]
            parts += [_section(task, found) for task, found in tables]
    path = folder.with_suffix(".md")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


HEAD = """# The battery: every activation that has been run

`python battery.py --table` writes this page from the records in this folder's `battery/`. Each
activation had its learning rate tuned with equal trials; its test results over seeds are compared
with the task's baseline, paired by seed, and the interval of a difference holds over all looks
([how it decides](battery_command.md)). "(edge)" marks a rate that is the smallest or the largest of
those tried: a better one may lie beyond. A dash: it was not run there, or every trial diverged. The
rows are sorted by name and nothing else. There is no overall score: a verdict is of one task, at
its size, with its recipe."""


def _overview(tables: list[tuple[Task, list[TaskTable]]]) -> str:
    """Return the table of verdicts, of each activation's newest result in each task."""
    cells: dict[str, dict[str, str]] = defaultdict(dict)
    for task, found in tables:
        for row in (row for table in found for row in table.rows):
            label = row.records.arm.label
            cells[label].setdefault(task.name, _verdict(row))
    head = ["activation", *(f"{task.name} (against {task.baseline})" for task, _ in tables)]
    rows = [
        [label, *(cells[label].get(task.name, ABSENT) for task, _ in tables)]
        for label in sorted(cells, key=str.lower)
    ]
    return _table(head, rows)


def _verdict(row: Row) -> str:
    if row.decision is None:
        return "baseline"
    return f"{row.decision.verdict}, n = {len(row.values)}"


def _section(task: Task, found: list[TaskTable]) -> str:
    words = f"{task.metric.axis('test')}, {'more' if task.metric.higher_is_better else 'less'} is "
    words += f"better; equivalent within ±{task.metric.difference(task.margin, signed=False)}."
    parts = [f"### {task.title}", f"{task.text} {words[0].upper()}{words[1:]}"]
    for table in found:
        parts += [_circumstances(table), _rows(table)]
    return "\n\n".join(parts)


def _circumstances(table: TaskTable) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in table.environment.versions.items())
    threads = table.environment.threads
    where = table.environment.machine + (f", {threads} thread" if threads else "")
    when = " to ".join(dict.fromkeys((table.dates[0], table.dates[-1])))
    return f"Run {when} on {where}; {versions}; code {', '.join(table.codes)}."


def _rows(table: TaskTable) -> str:
    task = table.task
    head = ["activation", "settings", "n", "diverged", f"{task.metric.words}, 95 % interval",
            f"less {task.baseline}", "verdict"]  # fmt: skip
    rows = []
    for row in table.rows:
        seeds = row.records.seeds[: len(row.values)]
        known = [value for value in row.values if not math.isnan(value)]
        number = task.metric.number
        mean = estimate(known)
        rows.append([
            row.records.arm.label,
            _settings(row.records),
            str(len(row.values)),
            str(sum(bool(each.diverged) for each in seeds)),
            f"{number(mean.mean)} ({number(mean.low)} to {number(mean.high)})",
            interval(row.decision, task.metric) if row.decision else ABSENT,
            row.decision.verdict if row.decision else "baseline",
        ])  # fmt: skip
    return _table(head, rows)


def _settings(arm: ArmRecords) -> str:
    text = ", ".join(f"{name} {value_text(value)}" for name, value in arm.seeds[0].tuned.items())
    return text + " (edge)" * is_at_edge(arm)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
