"""What a run is judged by."""

import math
from dataclasses import dataclass

from analysis.run_folders import RunResult
from analysis.settings import Group


@dataclass(frozen=True)
class Metric:
    """`unit` of a value ("98.1 %"), `difference_unit` of a difference ("0.3 points"), `digits`
    after the point."""

    name: str
    words: str
    unit: str
    difference_unit: str
    higher_is_better: bool
    digits: int = 2

    def value(self, x: float) -> str:
        return f"{self.number(x)} {self.unit}".strip()

    def number(self, x: float) -> str:
        return "–" if math.isnan(x) else minus(f"{x:.{self.digits}f}")

    def difference(self, x: float, signed: bool = True) -> str:
        return f"{self.signed(x) if signed else self.number(x)} {self.difference_unit}".strip()

    def signed(self, x: float) -> str:
        return "–" if math.isnan(x) else minus(f"{x:+.{self.digits}f}")

    def axis(self, what: str = "") -> str:
        words = f"{what}{self.words}"
        return f"{words} ({self.unit})" if self.unit else words


def minus(number: str) -> str:
    return number.replace("-", "−")


METRICS = {
    metric.name: metric
    for metric in (
        Metric("top1", "top-1 accuracy", "%", "points", True),
        Metric("perplexity", "perplexity per token", "", "", False, 3),
        Metric("loss", "loss", "nats", "nats", False, 4),
        Metric("balanced", "balanced accuracy", "%", "points", True),
        Metric("top5", "top-5 accuracy", "%", "points", True),
        Metric("word_perplexity", "perplexity per word", "", "", False, 2),
        Metric("bits_per_byte", "bits per byte", "bits", "bits", False, 4),
    )
}


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
