"""Take from runs the numbers that a report compares: the metric, time and memory."""

import math
import statistics

from analysis.grouping import Group
from analysis.run_folders import RunResult
from analysis.statistics import Estimate, estimate
from analysis.variants import Variant
from run_folder.metrics import METRICS, Metric
from run_folder.records import split_of

SPLIT_WORDS = {"test": "test", "val": "validation", "train": "training"}


def metric_of(group: Group, name: str | None) -> Metric:
    """Return the metric called `name`, or where the group lacks it, the usual one."""
    available = metrics_of(group)
    return METRICS[name if name in available else available[0]]


def metrics_of(group: Group) -> list[str]:
    """Return the names of the metrics that the group's runs have, the usual one first."""
    return [name for name in METRICS if name in group.any_run().judged]


def judged_axis(group: Group, metric: Metric) -> str:
    """Return the label of an axis of the final metric, with the split that it is of."""
    return metric.axis(SPLIT_WORDS[split_of(group.any_run().final)])


def final_value(run: RunResult, metric: Metric) -> float:
    return run.judged.get(metric.name, math.nan)


def final_estimate(group: Group, variant: Variant, metric: Metric) -> Estimate:
    return estimate([final_value(run, metric) for run in group.runs_of(variant)])


def validation_value(run: RunResult, metric: Metric) -> float:
    """Return the final validation result of a run that was tested once, at its end; else NaN."""
    if split_of(run.final) != "test" or any("test" in record for record in run.records[:-1]):
        return math.nan
    return run.final.get("val", {}).get(metric.name, math.nan)


def selected_value(run: RunResult, metric: Metric) -> float:
    """Return the test result at the epoch with the best validation score.

    It is NaN where the run has no validation, or was not tested then.
    """
    test = (run.best or {}).get("test", {})
    return test.get(metric.name, math.nan)


def epoch_seconds(run: RunResult) -> float:
    """Return an epoch's time of training and evaluation.

    It is the median over the epochs but the first, which may compile.
    """
    whole = [record for record in run.records if not record.get("partial")]
    times = [record["seconds"] for record in whole if record.get("seconds") is not None]
    return statistics.median(times[1:] or times) if times else math.nan


def step_ms(run: RunResult) -> float:
    """Return a training step's time: the median over the epochs; NaN for other code's runs."""
    rates = [
        value for record in run.records[1:] or run.records
        for name, value in record.items() if name.endswith("_per_second") and value
    ]  # fmt: skip
    if not rates or "batch_size" not in run.flags:
        return math.nan
    batch = run.resolved.get("batch_size", run.flags["batch_size"])  # which may be 0, for all
    per_step = int(batch) * int(run.flags.get("grad_accum_steps", 1))
    per_step *= int(run.flags.get("max_seq_length", 1))  # tokens
    return 1000 * per_step / statistics.median(rates)


def memory_gib(run: RunResult) -> float:
    peaks = [record["peak_memory_bytes"] for record in run.records if "peak_memory_bytes" in record]
    return max(peaks) / 2**30 if peaks else math.nan


def trained_number(run: RunResult, name: str) -> float:
    """Return the mean of "sigma" or "alpha" over the layers at the end; NaN where not trained."""
    numbers = run.final.get(name) or {}
    return statistics.fmean(numbers.values()) if numbers else math.nan
