"""Define the metrics of runs: their names, words and units, and how a result line has them."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+"  # 1,234.5 has separators of thousands
_NUMBER = rf"\s*[:=]?\s*([-+]?(?:(?:{_DIGITS})(?:e[-+]?\d+)?|nan|inf))"
LARGE = 1e7  # from here on numbers are written with a power of ten
FLOAT32 = 1e-5  # a share of a perplexity: exp of a loss in 32 bits


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
        return "–" if math.isnan(value) else minus(f"{value:{self._form(value)}}")

    def signed(self, value: float) -> str:
        """Return a difference with its sign and without its unit, a dash for NaN."""
        return "–" if math.isnan(value) else minus(f"{value:+{self._form(value)}}")

    def _form(self, value: float) -> str:
        """Return how it is written: of a network that got lost, a loss may have twenty digits."""
        return f".{self.digits}f" if abs(value) < LARGE else ".2e"

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
    Metric("psnr", "PSNR", "dB", "dB", True, 2, _after("PSNR")),
    Metric("perplexity", "perplexity per token", "", "", False, 3, _after("(?:Perplexity|PPL)")),
    Metric("loss", "loss", "nats", "nats", False, 4, _after("Loss")),
    Metric("balanced", "balanced accuracy", "%", "points", True, 2, _after("Balanced")),
    Metric("top5", "top-5 accuracy", "%", "points", True, 2, _after("Top-?5")),
    Metric("word_perplexity", "perplexity per word", "", "", False, 2, _after("per word")),
    Metric("bits_per_byte", "bits per byte", "bits", "bits", False, 4,
           re.compile(r"([\d.]+) bits per byte")),
)  # fmt: skip
METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _TABLE})


def metrics_in(text: str) -> dict[str, float]:
    """Return the metrics, by name, that one split's part of a result line states.

    Their perplexity is exp(loss), which has the digits that a printed one lacks. A printed one that
    is another number, by more than rounding, counts as it stands (see `contradiction_in`): the loss
    beside it may be of another kind.
    """
    printed = _printed_in(text)
    found = {name: each.value for name, each in printed.items()}
    if {"loss", "perplexity"} <= printed.keys():
        found["perplexity"], _ = _perplexity(printed["loss"], printed["perplexity"])
    return found


def contradiction_in(text: str) -> str:
    """Return what does not fit together in one split's part of a result line; "" if all does."""
    printed = _printed_in(text)
    if not {"loss", "perplexity"} <= printed.keys():
        return ""
    loss, perplexity = printed["loss"], printed["perplexity"]
    _, agrees = _perplexity(loss, perplexity)
    if agrees:
        return ""
    return f"exp(loss {loss.value:g}) is {_exp(loss.value):g}, printed {perplexity.value:g}"


def _printed_in(text: str) -> dict[str, "_Printed"]:
    matches = {name: metric.pattern.search(text) for name, metric in METRICS.items()}
    return {name: _Printed.of(match[1]) for name, match in matches.items() if match}


@dataclass(frozen=True)
class _Printed:
    """Hold a printed number, and half a unit of its last digit."""

    value: float
    half_unit: float

    @classmethod
    def of(cls, digits: str) -> "_Printed":
        digits = digits.replace(",", "")
        exponent = Decimal(digits).as_tuple().exponent
        return cls(float(digits), 0.5 * 10.0**exponent if isinstance(exponent, int) else 0.0)


def _perplexity(loss: _Printed, printed: _Printed) -> tuple[float, bool]:
    """Return the perplexity that a line tells, and whether its two numbers agree."""
    exact = _exp(loss.value)
    if not math.isfinite(loss.value):  # whatever stands beside it, as 1.00 may
        return exact, True
    low, high = (_exp(loss.value + sign * loss.half_unit) for sign in (-1, 1))
    cut = 2 * printed.half_unit  # some digits are cut off, not rounded
    agrees = low * (1 - FLOAT32) - cut <= printed.value <= high * (1 + FLOAT32) + cut
    if not agrees:
        return (printed.value if math.isfinite(printed.value) else exact), False
    is_finer = not math.isfinite(exact) or high - low <= 2 * printed.half_unit
    return (exact if is_finer else printed.value), True


def _exp(x: float) -> float:
    """Return exp(x), infinity where it is too large; NaN of minus infinity, which is no loss."""
    if x == -math.inf:
        return math.nan
    return math.exp(x) if x < 709 or math.isnan(x) else math.inf
