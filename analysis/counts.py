"""Compute the statistics of counts: shares, two shares compared, two networks on the same units."""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit
from scipy.stats import binomtest, fisher_exact

from analysis.statistics import LEVEL, Estimate


def share_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a share, from 0 to 1 (Clopper and Pearson 1934).

    Without a trial it is (0, 1).

    Raises:
        ValueError: There are more successes than trials, or fewer than none.
    """
    if trials == 0:
        return 0.0, 1.0
    found = binomtest(successes, trials).proportion_ci(LEVEL, method="exact")
    return float(found.low), float(found.high)


def fisher_p(successes: int, trials: int, others: int, other_trials: int) -> float:
    """Return the two-sided p of Fisher's exact test (1935), that two shares have one probability.

    A side without trials gives 1.
    """
    table = [[successes, trials - successes], [others, other_trials - others]]
    return float(fisher_exact(table).pvalue)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Return the two-sided p of McNemar's exact test (1947), of classifiers that err equally often.

    It is binomial: of the units that only one of the two has right, each has half on average if
    they are equal. Units that both or neither have right do not count. Without a unit that counts
    p is 1.
    """
    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


def weighted_mean(values: ArrayLike, weights: ArrayLike) -> Estimate:
    """Return the mean Σwv/Σw with Student's 95 % interval, as of units drawn at random.

    The standard error, sd/√n, is the ratio estimator's: √(n/(n − 1)·Σw²(v − mean)²)/Σw
    (Cochran 1977, section 2.11), which for equal weights is that of a mean. One unit has no
    interval (NaN).

    Args:
        values: (units,) in the unit of the result.
        weights: (units,) positive.
    """
    v, w = np.asarray(values, dtype=float), np.asarray(weights, dtype=float)
    n, mean = len(v), float(v @ w / w.sum())
    if n < 2:
        return Estimate(n, mean, math.nan, math.nan, math.nan)
    error = math.sqrt(n / (n - 1) * np.sum((w * (v - mean)) ** 2)) / float(w.sum())
    margin = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * error
    return Estimate(n, mean, error * math.sqrt(n), mean - margin, mean + margin)
