"""Make the analysis plan: what a report is asked for, on the command line or beforehand."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.run_folders import RunResult
from run_folder.metrics import METRICS
from utils import UserError

BEFORE_THE_RUNS = "in the grid file, before the runs"
BEFORE_SOME_RUNS = "for some of these runs alone, in their grid file, before they were made"
AFTER_THE_RUNS = "on the command line, when the runs were there"


@dataclass(frozen=True)
class AnalysisPlan:
    """Hold what a report is to compare and by which measure.

    Attributes:
        baseline: The setting that the others are compared with; ReLU, else GELU, where None.
        primary: The setting of the one comparison that was declared to count.
        margin: Differences up to this count as equivalent, in the unit of the metric.
        mde: A difference for which the report is to say how many seeds would find it.
        metric: The name of the metric; the usual one of the runs where None.
        declared: When all this was declared, as the report says it.
    """

    baseline: str | None = None
    primary: str | None = None
    margin: float | None = None
    mde: float | None = None
    metric: str | None = None
    declared: str = ""


def make_plan(given: Mapping[str, Any], runs: list[RunResult]) -> AnalysisPlan:
    """Return the plan that the flags ask for, and where they are silent the sweeps' grid files.

    Args:
        given: The flags that were given, by the names of the plan's attributes.
        runs: All runs of the report.

    Raises:
        UserError: Two sweeps declare different things.
    """
    declared: dict[str, Any] = {}
    sweeps = {id(run.manifest): run.manifest for run in runs if run.manifest}
    for sweep in sweeps.values():
        for name, value in sweep.report.items():
            if declared.setdefault(name, value) != value and name not in given:
                raise UserError(
                    f"two sweeps declare --{name} {declared[name]} and {value}; give the flag"
                )
    everywhere = all(run.manifest and run.manifest.report == declared for run in runs)
    usual = declared.get("metric") or _usual_metric(runs)
    if "metric" in given and given["metric"] != usual:
        for name in ("margin", "mde"):  # they are in the unit of the declared one
            declared.pop(name, None)
    tested = ("primary", "baseline", "metric", "margin")
    changed = any(name in given and given[name] != declared.get(name) for name in tested)
    before = BEFORE_THE_RUNS if everywhere else BEFORE_SOME_RUNS
    return AnalysisPlan(**{**declared, **given}, declared=AFTER_THE_RUNS if changed else before)


def _usual_metric(runs: list[RunResult]) -> str | None:
    """Return the metric that all runs with results are usually judged by, None if they differ."""
    with_results = [run for run in runs if run.records]
    usual = {next((name for name in METRICS if name in run.judged), None) for run in with_results}
    return usual.pop() if len(usual) == 1 else None
