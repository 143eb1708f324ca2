"""What a run is judged by."""

import math

from analysis.run_folders import RunResult
from analysis.settings import Group
from run_folder.metrics import METRICS, Metric

SPLIT_WORDS = {"test": "test", "val": "validation", "train": "training"}


def metric_of(group: Group, name: str | None) -> Metric:
    """The metric called `name`, or where the group lacks it, the usual one."""
    there = metrics_there(group)
    return METRICS[name if name in there else there[0]]


def metrics_there(group: Group) -> list[str]:
    """Those that the group's runs have, the usual one first: accuracy, perplexity, the loss."""
    return [name for name in METRICS if name in group.any_run().judged]


def final_value(run: RunResult, metric: Metric) -> float:
    return run.judged.get(metric.name, math.nan)


def selected_value(run: RunResult, metric: Metric) -> float:
    """The test result at the epoch with the best validation score; NaN where the run has no
    validation, or was not tested then."""
    test = (run.best or {}).get("test", {})
    return test.get(metric.name, math.nan)
