"""Define the metrics of runs: their names, words and units, and how a result line has them."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

_NUMBER = r"\s*:?\s*([-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|nan|inf))"


@dataclass(frozen=True)
class Metric:
    """Describe a number that runs are judged by, and how it is written.

    Attributes:
        name: The key in `metrics.jsonl`, and the value of `report.py --metric`.
        words: The metric in a sentence or on an axis.
        unit: The unit of a value ("98.1 %"); empty for a number without a unit.
        difference_unit: The unit of a difference of two values ("0.3 points").
        higher_is_better: The direction in which a difference is an improvement.
        digits: Digits after the point.
        pattern: Finds the value, as its first group, in one split's part of a result line.
    """

    name: str
    words: str
    unit: str
    difference_unit: str
    higher_is_better: bool
    digits: int
    pattern: re.Pattern[str]

    def number(self, value: float) -> str:
        """Return the value without its unit, a dash for NaN."""
        return "–" if math.isnan(value) else minus(f"{value:.{self.digits}f}")

    def signed(self, value: float) -> str:
        """Return a difference with its sign and without its unit, a dash for NaN."""
        return "–" if math.isnan(value) else minus(f"{value:+.{self.digits}f}")

    def difference(self, value: float, signed: bool = True) -> str:
        """Return a difference with its unit."""
        number = self.signed(value) if signed else self.number(value)
        return f"{number} {self.difference_unit}".strip()

    def axis(self, split: str = "") -> str:
        """Return the label of an axis, for example "test top-1 accuracy (%)"."""
        words = f"{split} {self.words}".strip()
        return f"{words} ({self.unit})" if self.unit else words


def minus(number: str) -> str:
    """Return a formatted number with the minus sign of typography, not a hyphen."""
    return number.replace("-", "−")


def _after(words: str) -> re.Pattern[str]:
    """Return the pattern of a number that follows `words`."""
    return re.compile(words + _NUMBER, re.IGNORECASE)


# In the order in which a report chooses the one to judge by, where none is asked for: the first
# that the runs have.
_TABLE = (
    Metric("top1", "top-1 accuracy", "%", "points", True, 2, _after("Top-?1")),
    Metric("perplexity", "perplexity per token", "", "", False, 3, _after("Perplexity")),
    Metric("loss", "loss", "nats", "nats", False, 4, _after("Loss")),
    Metric("balanced", "balanced accuracy", "%", "points", True, 2, _after("Balanced")),
    Metric("top5", "top-5 accuracy", "%", "points", True, 2, _after("Top-?5")),
    Metric("word_perplexity", "perplexity per word", "", "", False, 2, _after("per word")),
    Metric("bits_per_byte", "bits per byte", "bits", "bits", False, 4,
           re.compile(r"([\d.]+) bits per byte")),
)  # fmt: skip
METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _TABLE})


def metrics_in(text: str) -> dict[str, float]:
    """Return the metrics, by name, that one split's part of a result line states."""
    found = {name: metric.pattern.search(text) for name, metric in METRICS.items()}
    return {name: float(match[1]) for name, match in found.items() if match}
