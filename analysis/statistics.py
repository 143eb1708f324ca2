"""Compute the statistics of a handful of seeds: intervals, paired tests, equivalence, power.

The samples are small, so every test is exact or Student's, and none warns: for a sample without
spread the result is the limit of no spread, and a question without an answer has NaN. A value that
is not finite, or beyond 1e300, makes every figure of its sample NaN.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import chdtr, stdtr, stdtrit
from scipy.stats import chi2, nct, rankdata, wilcoxon

LEVEL = 0.95  # of an interval, unless another one is given
WILCOXON_PAIRS = 6  # with fewer, Wilcoxon's test cannot reject at 0.05
EXACT_PAIRS = 200  # up to here Wilcoxon's distribution is exact
MOST_SEEDS = 10**6
GAUSS_FROM = 20  # the noncentrality above which power is an integral by Gauss's rule
LARGEST = 1e300  # beyond it a sum or a difference could overflow
ROUND_OFF_BITS = 40  # of a difference, relative to what was subtracted; about 1e-12


@dataclass(frozen=True)
class Estimate:
    """Hold a mean with its interval, all in the unit of the values."""

    n: int
    mean: float
    sd: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """Hold the comparison of paired runs; `compare` says what each figure is."""

    n: int
    mean: float
    sd: float
    low: float
    high: float
    p: float
    wilcoxon_p: float
    correlation: float
    effect_size: float
    welch_p: float
    welch_low: float
    welch_high: float


def estimate(values: ArrayLike, level: float = LEVEL) -> Estimate:
    """Return mean, sample standard deviation and the interval mean ± t·sd/√n (Student 1908).

    One value has no sd and no interval (NaN), no value has no mean either.
    """
    sample = _sample(values)
    n = len(sample)
    mean, sd = _mean_and_sd(sample)
    margin = _t_margin(_standard_error(sd, n), n - 1, level)
    return Estimate(n, mean, sd, mean - margin, mean + margin)


def compare(values: ArrayLike, baseline: ArrayLike) -> Paired:
    """Compare `values` with `baseline`, paired by position; differences are values − baseline.

    - mean, sd, low, high: of the differences, with Student's 95 % interval, in their unit.
    - p: two-sided paired t test (Student 1908). wilcoxon_p: see `wilcoxon_p`.
    - correlation: Pearson's, between the pairs; NaN where either side is constant. It says what
      pairing gains: about 1 − correlation of the variance of unpaired runs is left.
    - effect_size: Cohen's d_z, mean/sd of the differences (Cohen 1988).
    - welch_*: `welch` of the same runs, unpaired.

    Differences that are all the same have an interval without width. If they are zero, p = 1 and
    the effect is 0; otherwise p = 0 and the effect infinite, with its sign. Fewer than two pairs
    have no test: all but `n`, and the mean of one, is NaN.

    Raises:
        ValueError: The two are not equally long.
    """
    differences = paired_differences(values, baseline)
    of_differences = estimate(differences)
    n, mean, sd = of_differences.n, of_differences.mean, of_differences.sd
    _, welch_low, welch_high, welch_p = welch(values, baseline)
    return Paired(
        n=n,
        mean=mean,
        sd=sd,
        low=of_differences.low,
        high=of_differences.high,
        p=_two_sided_p(mean, _standard_error(sd, n), n - 1),
        wilcoxon_p=wilcoxon_p(differences),
        correlation=_correlation(_sample(values), _sample(baseline)),
        effect_size=_ratio(mean, sd),
        welch_p=welch_p,
        welch_low=welch_low,
        welch_high=welch_high,
    )


def paired_differences(values: ArrayLike, baseline: ArrayLike) -> NDArray[np.float64]:
    """Return values − baseline by position, cleared of round-off.

    0.3 − 0.2 and 0.2 − 0.1 are the same difference and not the same float: uncleared, a tie of
    ranks goes unseen, and a constant difference has an sd. Digits below about 1e-12 of the largest
    value are cleared.

    Raises:
        ValueError: The two are not equally long.
    """
    minuend, subtrahend = _sample(values), _sample(baseline)
    if len(minuend) != len(subtrahend):
        raise ValueError(f"{len(minuend)} values cannot be paired with {len(subtrahend)}")
    return _subtract(minuend, subtrahend)


def wilcoxon_p(differences: ArrayLike) -> float:
    """Return the two-sided p of the signed-rank test (Wilcoxon 1945).

    Zeros are left out, equal magnitudes share their mean rank, and p is exact given both: the share
    of all assignments of signs to these ranks that is as extreme. Above 200 nonzero differences it
    is scipy's normal approximation. Nothing but zeros gives 1; fewer than two differences give NaN.
    """
    sample = _sample(differences)
    if len(sample) < 2 or np.isnan(sample).any():
        return math.nan
    nonzero = sample[sample != 0]
    if len(nonzero) == 0:
        return 1.0
    if len(nonzero) > EXACT_PAIRS:
        return float(wilcoxon(nonzero, method="approx").pvalue)
    doubled_ranks = np.rint(2 * rankdata(np.abs(nonzero))).astype(int)
    positive = doubled_ranks[nonzero > 0].sum()
    smaller = min(positive, doubled_ranks.sum() - positive)
    as_extreme = _subset_sums(doubled_ranks)[: smaller + 1].sum()
    return min(1.0, 2.0 * float(as_extreme) / 2.0 ** len(nonzero))


def smallest_wilcoxon_p(n: int) -> float:
    """Return the smallest two-sided p of Wilcoxon's test for n pairs: 2/2ⁿ, 1 for no pair."""
    return min(1.0, 2.0 ** (1 - n))


def welch(values: ArrayLike, baseline: ArrayLike) -> tuple[float, float, float, float]:
    """Return (difference of the means, 95 % low, 95 % high, two-sided p) of unpaired samples.

    It is Welch's t test for unequal variances (1947), with Satterthwaite's degrees of freedom. With
    one value on a side all but the difference is NaN, with none the difference too. Two sides
    without spread have an interval without width, and p = 1 if they are equal, otherwise 0.
    """
    first, second = _sample(values), _sample(baseline)
    first_mean, first_sd = _mean_and_sd(first)
    second_mean, second_sd = _mean_and_sd(second)
    difference = float(_subtract(np.array([first_mean]), np.array([second_mean]))[0])
    first_error = _standard_error(first_sd, len(first))
    second_error = _standard_error(second_sd, len(second))
    error = math.hypot(first_error, second_error)
    if math.isnan(error):
        return difference, math.nan, math.nan, math.nan
    share = (first_error / error) ** 2 if error else 0.0  # of the variance of the difference
    freedom = 1 / (share**2 / (len(first) - 1) + (1 - share) ** 2 / (len(second) - 1))
    margin = _t_margin(error, freedom, LEVEL)
    return (
        difference,
        difference - margin,
        difference + margin,
        _two_sided_p(difference, error, freedom),
    )


def equivalence_p(differences: ArrayLike, margin: float) -> float:
    """Return the p of the hypothesis that the mean difference is at least `margin`, either way.

    By two one-sided paired t tests (Schuirmann 1987), a p below alpha says that the mean lies
    within ±margin, as a 1 − 2·alpha interval inside it does. Differences without spread give 0
    inside and 1 otherwise; fewer than two give NaN.

    Raises:
        ValueError: The margin, in the unit of the differences, is not positive.
    """
    if not margin > 0:
        raise ValueError(f"the margin must be positive, not {margin}")
    sample = _sample(differences)
    mean, sd = _mean_and_sd(sample)
    # The larger p of the two is that of the bound on the mean's own side.
    excess = abs(mean) - margin
    if sd == 0:
        return 0.0 if excess < 0 else 1.0
    return float(stdtr(len(sample) - 1, _ratio(excess, _standard_error(sd, len(sample)))))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's step-down procedure (1979), in the given order.

    Rejecting where the adjusted p is at most alpha keeps the chance of any false rejection in the
    family at alpha. NaN, a test that was not made, stays NaN and does not count.
    """
    p = np.asarray(p_values, dtype=float)
    ascending = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # NaN sorts last
    hypotheses_left = np.arange(len(ascending), 0, -1)
    stepped = np.maximum.accumulate(p[ascending] * hypotheses_left)
    adjusted = np.full(len(p), math.nan)
    adjusted[ascending] = np.minimum(stepped, 1.0)
    return adjusted.tolist()


def power(difference: float, sd: float, n: int, alpha: float = 0.05) -> float:
    """Return the chance that the two-sided paired t test of n pairs finds a true mean difference.

    It is that of both tails of the noncentral t distribution, with noncentrality difference/sd·√n
    (Cohen 1988). `sd` is that of the differences; where it is 0, any difference is found. A
    difference of 0 is found with the chance alpha. Fewer than two pairs give NaN.
    """
    effect = abs(_ratio(difference, sd))
    if n < 2 or math.isnan(effect):
        return math.nan
    return _power_of_effect(effect, n, alpha)


def smallest_detectable(sd: float, n: int, power: float = 0.8, alpha: float = 0.05) -> float:
    """Return the true mean difference, in the unit of sd, that n pairs detect with this power.

    `sd` is that of the differences; 0 detects anything (0.0). Fewer than two pairs give NaN.

    Raises:
        ValueError: The power does not lie between alpha and 1.
    """
    _check_power(power, alpha)
    if n < 2 or math.isnan(sd):
        return math.nan
    above = 1.0
    while _power_of_effect(above, n, alpha) < power:
        above *= 2
    return sd * brentq(lambda effect: _power_of_effect(effect, n, alpha) - power, 0.0, above)


def seeds_needed(
    sd: float, difference: float, power: float = 0.8, alpha: float = 0.05
) -> int | float:
    """Return the fewest pairs of seeds, at least 2, that detect a true mean difference.

    `sd` is that of the differences. The result is infinite above a million and for a difference of
    0, and NaN for NaN.

    Raises:
        ValueError: The power does not lie between alpha and 1.
    """
    _check_power(power, alpha)
    if math.isnan(sd) or math.isnan(difference):
        return math.nan
    if difference == 0:
        return math.inf
    effect = abs(_ratio(difference, sd))
    candidates = range(2, MOST_SEEDS + 1)
    found = bisect_left(candidates, power, key=lambda n: _power_of_effect(effect, n, alpha))
    return candidates[found] if found < len(candidates) else math.inf


def seeds_needed_interval(
    sd: float, n: int, difference: float, power: float = 0.8, alpha: float = 0.05
) -> tuple[int | float, int | float, int | float]:
    """Return (estimate, low, high) of `seeds_needed`, where n pairs measured the sd.

    low and high are the seeds for the ends of the 95 % chi-square interval of the sd of normal
    differences, sd·√((n − 1)/χ²) (Snedecor and Cochran 1989). Fewer than two pairs give NaNs.

    Raises:
        ValueError: The power does not lie between alpha and 1.
    """
    if n < 2:
        return math.nan, math.nan, math.nan
    tails = (1 + LEVEL) / 2, (1 - LEVEL) / 2
    small_sd, large_sd = (sd * math.sqrt((n - 1) / float(chi2.ppf(q, n - 1))) for q in tails)
    needed, low, high = (
        seeds_needed(each, difference, power, alpha) for each in (sd, small_sd, large_sd)
    )
    return needed, low, high


def _sample(values: ArrayLike) -> NDArray[np.float64]:
    """Return the values as an array; all of them NaN if one of them is out of range."""
    sample = np.asarray(values, dtype=float)
    in_range = (np.abs(sample) <= LARGEST).all()
    return sample if in_range else np.full(len(sample), math.nan)


def _subtract(minuend: NDArray[np.float64], subtrahend: NDArray[np.float64]) -> NDArray[np.float64]:
    largest = np.abs([minuend, subtrahend]).max(initial=0.0)
    _, exponent = math.frexp(largest)
    # The steps are a power of two, so that scaling to them and back is exact.
    steps = np.rint(np.ldexp(minuend - subtrahend, ROUND_OFF_BITS - exponent))
    return np.ldexp(steps, exponent - ROUND_OFF_BITS)


def _mean_and_sd(sample: NDArray[np.float64]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation; both are exact for a constant sample."""
    if len(sample) == 0:
        return math.nan, math.nan
    if len(sample) == 1:
        return float(sample[0]), math.nan
    if (sample == sample[0]).all():
        return float(sample[0]), 0.0
    # Scaled to ±1, so that no square overflows, nor all of them to zero.
    _, exponent = math.frexp(np.abs(sample).max())
    scaled = np.ldexp(sample, -exponent)
    mean = float(scaled.mean())
    deviations = scaled - mean
    sd = math.sqrt(deviations @ deviations / (len(sample) - 1))
    return math.ldexp(mean, exponent), math.ldexp(sd, exponent)


def _standard_error(sd: float, n: int) -> float:
    return sd / math.sqrt(n) if n else math.nan


def _t_margin(error: float, freedom: float, level: float) -> float:
    # The quantile, and below the distribution, of scipy.stats.t without its overhead: 50 times.
    return float(stdtrit(freedom, (1 + level) / 2)) * error


def _two_sided_p(mean: float, error: float, freedom: float) -> float:
    return float(2 * stdtr(freedom, -abs(_ratio(mean, error))))


def _ratio(mean: float, spread: float) -> float:
    """Return mean/spread; where the spread is 0, 0 for a mean of 0, otherwise infinite."""
    if spread == 0:
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / spread


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    first_mean, first_sd = _mean_and_sd(first)
    second_mean, second_sd = _mean_and_sd(second)
    if first_sd == 0 or second_sd == 0 or len(first) < 2:
        return math.nan
    product = ((first - first_mean) / first_sd) @ ((second - second_mean) / second_sd)
    return float(np.clip(product / (len(first) - 1), -1.0, 1.0))


def _subset_sums(ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return an array that has at index s how many subsets of the ranks have the sum s."""
    counts = np.zeros(ranks.sum() + 1)
    counts[0] = 1
    for rank in ranks:
        with_rank = counts[:-rank].copy()
        counts[rank:] += with_rank
    return counts


def _power_of_effect(effect: float, n: int, alpha: float) -> float:
    """Return the power for an effect size of 0 or more, infinity included."""
    freedom = n - 1
    noncentrality = effect * math.sqrt(n)
    critical = float(stdtrit(freedom, 1 - alpha / 2))
    if noncentrality > GAUSS_FROM:
        return _upper_tail_far_out(critical, freedom, noncentrality)
    with np.errstate(divide="ignore", invalid="ignore"):  # scipy 1.11 warns of right results
        upper = nct.sf(critical, freedom, noncentrality)
        lower = nct.cdf(-critical, freedom, noncentrality)
    return float(upper + np.nan_to_num(lower))  # NaN is scipy's for a lower tail below 1e-16


def _upper_tail_far_out(critical: float, freedom: int, noncentrality: float) -> float:
    """Return P(T > critical) for the noncentral t, where scipy's series may not converge.

    T is (z + noncentrality)/√(χ²/freedom), so this is the mean over a standard normal z of
    P(χ² < freedom·((z + noncentrality)/critical)²). That is smooth in z where this is called, so
    that Gauss's rule gives the mean to 1e-15.
    """
    z, weights = np.polynomial.hermite_e.hermegauss(20)
    with np.errstate(over="ignore"):
        tails = chdtr(freedom, freedom * ((z + noncentrality) / critical) ** 2)
    return min(1.0, float(weights @ tails / weights.sum()))


def _check_power(power: float, alpha: float) -> None:
    if not alpha < power < 1:
        raise ValueError(f"the power must lie between alpha ({alpha}) and 1, not at {power}")
