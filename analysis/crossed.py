"""Estimate a mean where seeds and the units of a test set are both drawn at random.

A difference of two activations has an interval over seeds (other trainings, these images) and one
over images (these trainings, other images). What a reader wants to know is of other trainings and
other images, and both take part in its error (Clark 1973, The language-as-fixed-effect fallacy; in
machine learning Bouthillier et al. 2021, arXiv 2103.03098, and Miller 2024, arXiv 2411.00640).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from analysis.statistics import LEVEL


@dataclass(frozen=True)
class Crossed:
    """Hold a mean over seeds and units with its standard errors and the interval over both.

    Attributes:
        over_seeds: the standard error over seeds, of this test set.
        over_units: that over units, of these networks.
        over_both: that over other seeds and other units; never below the two.
    """

    seeds: int
    units: int
    mean: float
    over_seeds: float
    over_units: float
    over_both: float
    low: float
    high: float


def crossed_mean(values: ArrayLike, weights: ArrayLike, critical: float = math.nan) -> Crossed:
    """Return the mean of values that each have a seed's and a unit's share, with its interval.

    With values μ + a(seed) + b(unit) + e the variance of the mean is that over seeds, and that over
    units, less what both count: (MS_seeds + MS_units − MS_rest)/(S·N), by the mean squares of the
    analysis of variance. Its degrees of freedom are Satterthwaite's (1946). That is preferred to a
    bootstrap of both ways, which with 5 or 10 seeds covers too little. Fewer than two seeds or
    units have no interval (NaN).

    Args:
        values: (seeds, units), in the unit of the result.
        weights: (units,) positive; the mean is Σwv/Σw of each seed, as in `counts.weighted_mean`.
        critical: half the interval in standard errors, at least Student's quantile; NaN for that.
    """
    v, w = np.asarray(values, dtype=float), np.asarray(weights, dtype=float)
    seeds, units = v.shape
    mean = float((v @ w).mean() / w.sum())
    if min(seeds, units) < 2:
        return Crossed(seeds, units, mean, *[math.nan] * 5)
    deviations = (v - mean) * (w / w.mean())  # of the ratio, to first order (Cochran 1977, 2.11)
    of_seeds = deviations.mean(axis=1)
    of_units = deviations.mean(axis=0)
    rest = deviations - of_seeds[:, None] - of_units
    freedoms = np.array([seeds - 1, units - 1, (seeds - 1) * (units - 1)])
    squares = [units * np.sum(of_seeds**2), seeds * np.sum(of_units**2), np.sum(rest**2)]
    variances = np.array(squares) / freedoms / (seeds * units)
    combined = variances[0] + variances[1] - variances[2]
    both = max(combined, variances[0], variances[1])  # a component is never negative
    spread = np.sum(variances**2 / freedoms)
    freedom = max(min(seeds, units) - 1, combined**2 / spread) if spread else math.inf
    error = math.sqrt(both)
    student = float(stdtrit(freedom, (1 + LEVEL) / 2))
    critical = student if math.isnan(critical) else max(critical, student)
    over_seeds, over_units = math.sqrt(variances[0]), math.sqrt(variances[1])
    half_width = critical * error
    return Crossed(
        seeds, units, mean, over_seeds, over_units, error, mean - half_width, mean + half_width
    )
