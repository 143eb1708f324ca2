"""Decide a paired comparison with as many seeds as it takes, and the error held over all looks.

The differences of the pairs are looked at after 6, 10, 15, 20, 30 and 40 pairs of seeds. Each look
has an interval, and all of them together hold the true mean difference with a probability of 95 %
(repeated confidence intervals, Jennison and Turnbull 1989). So a comparison may stop at any look,
for any reason, and its interval still holds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from analysis.boundaries import critical_values
from analysis.looks import LOOKS, looks_up_to
from analysis.statistics import LEVEL, Paired, estimate

__all__ = ["LOOKS", "Decision", "decide", "e_values", "looks_up_to"]

ERROR = 0.05  # the chance that any look at equal settings decides that they differ
BETTER, WORSE, EQUIVALENT, UNDECIDED = "better", "worse", "equivalent", "undecided"
# |t| beyond which a look rejects that there is no difference, from `computed_boundary(ERROR)`.
BOUNDARY = {6: 4.32991, 10: 3.54100, 15: 3.05892, 20: 2.84481, 30: 2.50497, 40: 2.36678}
STAKES = (0.5, 1.0, 2.0)  # of the e-process, in units of the differences' root mean square
E_DECIDES = 20  # 1/ERROR


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
        e_value: the evidence of the `n` pairs against symmetry about zero; see `e_values`.
    """

    verdict: str
    n: int
    look: int
    difference: float
    low: float
    high: float
    next_look: int | None
    left_out: int = 0
    e_value: float = 1.0

    @property
    def is_decided(self) -> bool:
        return self.verdict != UNDECIDED

    @property
    def excludes_zero(self) -> bool:
        """Return whether there is a difference: an equivalent one may be small and yet there."""
        return self.low > 0 or self.high < 0


def decide(
    differences: ArrayLike,
    margin: float | None,
    higher_is_better: bool,
    looks: Sequence[int] = LOOKS,
    error: float = ERROR,
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
        error: the chance of any wrong decision over all looks; of several comparisons that share
            5 %, the share of this one.

    Raises:
        ValueError: a look is none of LOOKS, or the margin is not positive.
    """
    if margin is not None and not margin > 0:
        raise ValueError(f"the margin must be positive, not {margin}")
    if not looks or not set(looks) <= set(LOOKS) or sorted(set(looks)) != list(looks):
        raise ValueError(f"looks must be some of {LOOKS}, ascending, not {tuple(looks)}")
    pairs = np.asarray(differences, dtype=float)
    places = np.flatnonzero(np.isfinite(pairs))
    made = [n for n in looks if n <= len(places)]
    for number, n in enumerate(made, 1):
        found = estimate(pairs[places[:n]])
        half_width = critical_value(n, error) * found.sd / math.sqrt(n)
        low, high = found.mean - half_width, found.mean + half_width
        verdict = _verdict(low, high, margin, higher_is_better)
        if verdict != UNDECIDED:
            looked_at = pairs[: places[n - 1] + 1]
            return _decision(verdict, looked_at, n, number, low, high, None)
    if not made:
        return _decision(UNDECIDED, pairs, len(places), 0, math.nan, math.nan, looks[0])
    following = looks[len(made)] if len(made) < len(looks) else None
    return _decision(UNDECIDED, pairs, made[-1], len(made), low, high, following)


def _decision(
    verdict: str,
    looked_at: NDArray[np.float64],
    n: int,
    look: int,
    low: float,
    high: float,
    next_look: int | None,
) -> Decision:
    finite = np.isfinite(looked_at)
    used = looked_at[finite][:n]
    return Decision(
        verdict=verdict,
        n=n,
        look=look,
        difference=estimate(used).mean,
        low=low,
        high=high,
        next_look=next_look,
        left_out=int((~finite).sum()),
        e_value=float(e_values(used)[-1]) if n else 1.0,
    )


def _verdict(low: float, high: float, margin: float | None, higher_is_better: bool) -> str:
    if margin is not None and -margin < low and high < margin:
        return EQUIVALENT
    if low > 0 or high < 0:
        return BETTER if (low > 0) == higher_is_better else WORSE
    return UNDECIDED


# --- the boundary ---


def spent(n: int, error: float = ERROR) -> float:
    """Return the chance of an error that is spent by the look at n pairs (Lan and DeMets 1983).

    It grows with n, the first of Kim and DeMets's family (1987). O'Brien and Fleming's spends so
    little early that no difference is found at 6 pairs (|t| > 66); Pocock's finds a large one
    sooner and a small one less often. docs/statistics.md has the numbers of seeds that each takes.
    """
    return error * (n / LOOKS[-1])


def critical_value(n: int, error: float = ERROR) -> float:
    """Return the |t| beyond which the look at n pairs rejects."""
    return BOUNDARY[n] if error == ERROR else computed_boundary(error)[n]


@lru_cache
def computed_boundary(error: float) -> dict[int, float]:
    """Return the |t| beyond which each look rejects, by its number of pairs."""
    values = critical_values(LOOKS, [spent(n, error) for n in LOOKS])
    return dict(zip(LOOKS, values, strict=True))


def repeated(paired: Paired, critical: float) -> Paired:
    """Return a comparison at a look, with the interval that holds over all looks.

    It may be of fewer pairs, where some lack the value that is compared: then it is at least
    Student's. The tests that take the number of pairs as given are NaN.
    """
    critical = (
        max(critical, float(stdtrit(paired.n - 1, (1 + LEVEL) / 2))) if paired.n > 1 else math.nan
    )
    half_width = critical * paired.sd / math.sqrt(paired.n) if paired.n else math.nan
    return replace(
        paired,
        low=paired.mean - half_width,
        high=paired.mean + half_width,
        p=math.nan,
        wilcoxon_p=math.nan,
        welch_p=math.nan,
        welch_low=math.nan,
        welch_high=math.nan,
    )


# --- betting on signs ---


def e_values(differences: ArrayLike) -> NDArray[np.float64]:
    """Return the evidence after each pair against differences that are symmetric about zero.

    Equal settings with runs of their own have such differences, of whatever shape. Given the
    magnitudes their signs are fair coins, and a bet on them multiplies a fortune by
    exp(x)/cosh(x) = 1 ± tanh|x| with x = stake·difference/scale, where the scale is the root mean
    square so far. That dominates de la Peña's exp(x − x²/2) (1999; Ramdas, Ruf, Larsson and Koolen
    2020, arXiv 2009.03167). The fortune is the mean over STAKES, half of it on either sign. It ever
    reaches 20 with a probability of at most 1/20 (Ville 1939), at any number of pairs.

    Args:
        differences: in the order of the seeds; pairs that are not finite are left out.
    """
    pairs = np.asarray(differences, dtype=float)
    pairs = pairs[np.isfinite(pairs)]
    up, down = fortunes(pairs)
    return (up + down) / 2


def fortunes(pairs: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the fortune after each pair of betting on positive, and on negative signs.

    Args:
        pairs: (..., n) finite.
    """
    counts = np.arange(1, pairs.shape[-1] + 1)
    scale = np.sqrt(np.cumsum(pairs**2, axis=-1) / counts)
    ratio = np.divide(pairs, scale, out=np.zeros_like(pairs), where=scale > 0)
    up, down = np.zeros_like(pairs), np.zeros_like(pairs)
    for stake in STAKES:
        bet = np.tanh(stake * ratio)
        up += np.cumprod(1 + bet, axis=-1) / len(STAKES)
        down += np.cumprod(1 - bet, axis=-1) / len(STAKES)
    return up, down
