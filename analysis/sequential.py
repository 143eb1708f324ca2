"""Decide a paired comparison with as many seeds as it takes, and the error held over all looks.

The differences of the pairs are looked at after 6, 10, 15, 20, 30 and 40 pairs of seeds. Each look
has an interval, and all of them together hold the true mean difference with a probability of 95 %
(repeated confidence intervals, Jennison and Turnbull 1989). So a comparison may stop at any look,
for any reason, and its interval still holds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.statistics import estimate

LOOKS = (6, 10, 15, 20, 30, 40)  # complete pairs of seeds
BETTER, WORSE, EQUIVALENT, UNDECIDED = "better", "worse", "equivalent", "undecided"
# |t| beyond which a look rejects that there is no difference.
CRITICAL = {6: 4.62, 10: 3.47, 15: 3.18, 20: 3.05, 30: 2.93, 40: 2.87}


@dataclass(frozen=True)
class Decision:
    """Hold what the looks at a comparison have come to.

    Attributes:
        verdict: BETTER, WORSE, EQUIVALENT or UNDECIDED.
        n: the complete pairs that were used: those of the deciding look, or of the last one made;
            before the first look, all there are.
        look: the number of that look, from 1; 0 before the first.
        difference: the mean difference of the `n` pairs; NaN where there is none.
        low, high: the interval at that look, which holds over all looks; NaN before the first.
        next_look: the complete pairs that the next look needs; None if the comparison is decided,
            or the last look is made.
        left_out: the pairs without a difference (a run diverged) among those looked at.
    """

    verdict: str
    n: int
    look: int
    difference: float
    low: float
    high: float
    next_look: int | None
    left_out: int = 0

    @property
    def is_decided(self) -> bool:
        return self.verdict != UNDECIDED

    @property
    def excludes_zero(self) -> bool:
        """Return whether there is a difference: an equivalent one may be small and yet there."""
        return self.low > 0 or self.high < 0


def looks_up_to(max_seeds: int) -> tuple[int, ...]:
    """Return the looks that so many pairs of seeds allow."""
    return tuple(n for n in LOOKS if n <= max_seeds)


def decide(
    differences: ArrayLike,
    margin: float | None,
    higher_is_better: bool,
    looks: Sequence[int] = LOOKS,
) -> Decision:
    """Decide whether the differences of paired runs are better or worse than none, or equivalent.

    A look decides EQUIVALENT where its interval lies within ±margin, also where it excludes zero:
    a difference so small was declared not to count. Else it decides BETTER or WORSE where its
    interval excludes zero. What follows the deciding look is ignored.

    Args:
        differences: variant − baseline by pair, in the order of the seeds. A pair that is not
            finite, of which a run diverged, is left out, and no look counts it.
        margin: in the unit of the differences; None where nothing counts as equivalent.
        higher_is_better: the direction of the metric.
        looks: some of LOOKS, ascending. The error holds for fewer looks too, as it is smaller.

    Raises:
        ValueError: a look is none of LOOKS, or the margin is not positive.
    """
    if margin is not None and not margin > 0:
        raise ValueError(f"the margin must be positive, not {margin}")
    if not looks or not set(looks) <= set(LOOKS) or sorted(set(looks)) != list(looks):
        raise ValueError(f"looks must be some of {LOOKS}, ascending, not {tuple(looks)}")
    pairs = np.asarray(differences, dtype=float)
    complete = np.flatnonzero(np.isfinite(pairs))
    made = [n for n in looks if n <= len(complete)]
    for number, n in enumerate(made, 1):
        found = estimate(pairs[complete[:n]])
        half_width = CRITICAL[n] * found.sd / math.sqrt(n)
        low, high = found.mean - half_width, found.mean + half_width
        verdict = _verdict(low, high, margin, higher_is_better)
        if verdict != UNDECIDED or n == made[-1]:
            following = None if verdict != UNDECIDED else _next(looks, number)
            last = complete[n - 1] if verdict != UNDECIDED else len(pairs) - 1
            left_out = int(last + 1 - np.isfinite(pairs[: last + 1]).sum())
            return Decision(verdict, n, number, found.mean, low, high, following, left_out)
    mean = estimate(pairs[complete]).mean
    n = len(complete)
    return Decision(UNDECIDED, n, 0, mean, math.nan, math.nan, looks[0], len(pairs) - n)


def _next(looks: Sequence[int], made: int) -> int | None:
    return looks[made] if made < len(looks) else None


def _verdict(low: float, high: float, margin: float | None, higher_is_better: bool) -> str:
    if margin is not None and -margin < low and high < margin:
        return EQUIVALENT
    if low > 0 or high < 0:
        return BETTER if (low > 0) == higher_is_better else WORSE
    return UNDECIDED
