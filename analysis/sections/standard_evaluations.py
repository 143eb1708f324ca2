"""Tell the results on lm_eval's tasks, which evaluate_lm.py has put into the run folders."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas

from analysis.comparisons import Comparison
from analysis.document import Document, plain
from analysis.findings import GroupFindings
from analysis.section import Section, estimate_columns
from analysis.statistics import Paired, estimate, holm
from analysis.wording import ABSENT, interval, p_value
from run_folder.evaluations import Results, read_evaluations

METHOD = (
    "**Standard evaluations** are by EleutherAI's lm_eval (`evaluate_lm.py`), with the weights of "
    "the last epoch; *EMA* is the moving average of the weights. The spread is over seeds. "
    "lm_eval's standard error is over the task's documents, which are the same for all runs; its "
    "mean over the runs stands beside. Differences are paired by seed, with the paired t test and "
    "Holm's correction over all tasks, metrics and comparisons of a group."
)


@dataclass(frozen=True)
class TaskComparison:
    """Compare two settings by one metric of a task: the pairs' test, and its p corrected."""

    task: str
    metric: str
    comparison: Comparison
    paired: Paired
    p_holm: float


@dataclass(frozen=True)
class Evaluations:
    """Hold the results of a group's runs.

    Attributes:
        of_runs: for each run, by its folder, its results by their labels.
        problems: sentences on files and results that cannot be used.
    """

    of_runs: dict[Any, Results]
    problems: list[str]

    @property
    def measured(self) -> list[tuple[str, str]]:
        """Return each label with each of its metrics, in the order in which they were found."""
        every = (found for each in self.of_runs.values() for found in each.items())
        return list(dict.fromkeys((name, metric) for name, x in every for metric in x["metrics"]))

    def number(self, path: Any, name: str, metric: str, which: str = "value") -> float:
        """Return a metric of a run, or its standard error; NaN for a run without it."""
        metrics = self.of_runs[path].get(name, {}).get("metrics", {})
        return metrics[metric][which] if metric in metrics else math.nan


class StandardEvaluations(Section):
    def write_group(self, document: Document, group: GroupFindings) -> None:
        found = self.results[group.number]
        if not (found.measured or found.problems):
            return
        document.heading(3, "Standard evaluations")
        document.items([plain(text) for text in found.problems])
        if not found.measured:
            return
        table = evaluations_table(group, found)
        document.table(f"evaluations-{group.number}", readable_evaluations(table))
        document.paragraph(
            "Means and standard deviations over seeds; the error is lm_eval's standard error of "
            "one run's result. `evaluations.csv` has the intervals."
        )
        if compared := self.compared[group.number]:
            document.table(f"evaluations-differences-{group.number}", readable_compared(compared))
            document.paragraph("Differences on each task, paired by seed.")

    def methods(self) -> list[str]:
        return [METHOD] if any(found.measured for found in self.results.values()) else []

    def csv_tables(self) -> dict[str, pandas.DataFrame]:
        return self.csv_of_groups(
            "evaluations", lambda g: evaluations_table(g, self.results[g.number])
        ) | self.csv_of_groups(
            "evaluation_comparisons", lambda g: compared_table(self.compared[g.number])
        )

    @cached_property
    def results(self) -> dict[int, Evaluations]:
        """Return the results of each group, by its number."""
        return {group.number: evaluations_of(group) for group in self.findings.groups}

    @cached_property
    def compared(self) -> dict[int, list[TaskComparison]]:
        """Return the comparisons on tasks of each group, by its number."""
        return {
            group.number: comparisons_of(group, self.results[group.number])
            for group in self.findings.groups
        }


def evaluations_of(group: GroupFindings) -> Evaluations:
    """Read the results of all runs of a group.

    Those of other weights than the run's last ones are left out, and those on other documents, or
    of another version of the task, than most.
    """
    of_runs: dict[Any, Results] = {}
    problems = []
    for run in group.group.all_runs():
        of_runs[run.path] = {}
        try:
            found = read_evaluations(run.path) if run.is_ours else {}
        except ValueError as error:
            problems.append(f"{error}; its standard evaluations are left out")
            continue
        for name, result in found.items():
            if result.get("step") == run.final.get("step"):
                of_runs[run.path][name] = result
            else:
                problems.append(
                    f"{run.path}: {name} was evaluated at step {result.get('step')}, and the run "
                    f"is at {run.final.get('step')}; left out, evaluate it again"
                )
    _keep_usual(of_runs, problems)
    return Evaluations(of_runs, problems)


def _keep_usual(of_runs: dict[Any, Results], problems: list[str]) -> None:
    for name in dict.fromkeys(name for each in of_runs.values() for name in each):
        facts = {path: _facts(each[name]) for path, each in of_runs.items() if name in each}
        usual = max(facts.values(), key=list(facts.values()).count)
        for path, fact in facts.items():
            if fact != usual:
                problems.append(
                    f"{path}: {name} has {fact[0]} documents of version {fact[1]} there, and "
                    f"{usual[0]} of version {usual[1]} in most runs; left out"
                )
                del of_runs[path][name]


def _facts(result: dict[str, Any]) -> tuple[Any, Any]:
    return result.get("documents"), result.get("version")


def evaluations_table(group: GroupFindings, found: Evaluations) -> pandas.DataFrame:
    """Return a row for each task, metric and variant that has it, unrounded."""
    rows = []
    for name, metric in found.measured:
        for variant in group.group.variants:
            paths = [run.path for run in group.group.runs_of(variant)]
            known = [x for x in (found.number(p, name, metric) for p in paths) if not math.isnan(x)]
            errors = [found.number(path, name, metric, "stderr") for path in paths]
            errors = [error for error in errors if not math.isnan(error)]
            if known:
                row = {"task": name, "metric": metric, "setting": variant.label, "n": len(known)}
                error = estimate(errors).mean if errors else math.nan
                rows.append(row | estimate_columns("mean", known) | {"stderr": error})
    return pandas.DataFrame(rows)


def readable_evaluations(table: pandas.DataFrame) -> pandas.DataFrame:
    """Return a row for each task, metric and variant, rounded."""
    return pandas.DataFrame(
        {
            "task": plain(row.task),
            "metric": row.metric,
            "setting": row.setting,
            "n": str(row.n),
            "mean": _rounded(row.mean),
            "sd": _rounded(row.mean_sd),
            "error": _rounded(row.stderr),
        }
        for row in table.itertuples()
    )


def _rounded(value: float) -> str:
    return ABSENT if math.isnan(value) else f"{value:.4g}"


def _signed(value: float) -> str:
    return f"{value:+.4g}"


# --- differences ---


def comparisons_of(group: GroupFindings, found: Evaluations) -> list[TaskComparison]:
    """Return each of the group's comparisons by each metric that both settings have."""
    compared = []
    for name, metric in found.measured:
        for each in group.comparisons:
            pairs = [
                tuple(found.number(run.path, name, metric) for run in pair)
                for pair in each.run_pairs.values()
            ]
            both = [pair for pair in pairs if not any(math.isnan(x) for x in pair)]
            if len(both) >= 2:
                mine, theirs = zip(*both, strict=True)
                compared.append((name, metric, each, each.compare(mine, theirs)))
    adjusted = holm([paired.p for *_, paired in compared])
    return [TaskComparison(*each, p) for each, p in zip(compared, adjusted, strict=True)]


def compared_table(compared: list[TaskComparison]) -> pandas.DataFrame:
    """Return a row for each comparison by each metric, unrounded."""
    return pandas.DataFrame(
        {
            "task": each.task,
            "metric": each.metric,
            "setting": each.comparison.variant.label,
            "baseline": each.comparison.baseline.label,
            "pairs": each.paired.n,
            "difference": each.paired.mean,
            "sd": each.paired.sd,
            "low": each.paired.low,
            "high": each.paired.high,
            "p_paired_t": each.paired.p,
            "p_holm": each.p_holm,
        }
        for each in compared
    )


def readable_compared(compared: list[TaskComparison]) -> pandas.DataFrame:
    """Return a row for each comparison by each metric, rounded."""
    return pandas.DataFrame(
        {
            "task": plain(each.task),
            "metric": each.metric,
            "setting": each.comparison.variant.label,
            "against": each.comparison.baseline.label,
            "pairs": str(each.paired.n),
            "difference": _signed(each.paired.mean),
            "95 % interval": interval(each.paired.low, each.paired.high, _signed),
            "p": p_value(each.paired.p),
            "p, Holm": p_value(each.p_holm) if len(compared) > 1 else "(one test)",
        }
        for each in compared
    )
