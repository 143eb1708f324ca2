"""Test the statistics of counts by hand, by other distributions of scipy, and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.counts import fisher_p, mcnemar_p, share_interval, weighted_mean
from analysis.statistics import estimate

MANY = settings(deadline=None)
DRAWS = 4000


def close(value):
    return pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True)


def test_the_interval_of_a_share_by_hand():
    # None of 5: the upper end is the share with which none has a chance of 2.5 %.
    assert share_interval(0, 5) == close((0, 1 - 0.025 ** (1 / 5)))
    assert share_interval(5, 5) == close((0.025 ** (1 / 5), 1))
    assert share_interval(0, 0) == (0, 1)
    with pytest.raises(ValueError, match="k"):
        share_interval(6, 5)


@MANY
@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n + 1))))
def test_the_interval_of_a_share_is_of_beta_quantiles(counts):
    k, n = counts
    wanted = stats.beta.ppf(0.025, k, n - k + 1), stats.beta.ppf(0.975, k + 1, n - k)
    assert share_interval(k, n) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5])
def test_the_interval_of_a_share_covers(share):
    drawn = np.random.default_rng(1).binomial(10, share, DRAWS)
    ends = {k: share_interval(int(k), 10) for k in set(drawn)}
    assert np.mean([ends[k][0] <= share <= ends[k][1] for k in drawn]) >= 0.94


def test_the_lady_who_tasted_tea():
    # 3 of 4 cups: P(3) + P(4) of the hypergeometric are (16 + 1)/70, and the same below.
    assert fisher_p(3, 4, 1, 4) == close(34 / 70)
    assert fisher_p(4, 4, 0, 4) == close(2 / 70)
    assert fisher_p(2, 5, 0, 0) == fisher_p(0, 5, 0, 5) == 1


@MANY
@given(*[st.integers(0, 12)] * 4)
def test_fishers_p_is_symmetric_and_what_is_no_likelier(a, b, c, d):
    p = fisher_p(a, a + b, c, c + d)
    assert p == close(fisher_p(c, c + d, a, a + b))
    if a + b and c + d:
        law = stats.hypergeom(a + b + c + d, a + c, a + b).pmf(np.arange(a + b + 1))
        assert p == pytest.approx(law[law <= law[a] * (1 + 1e-7)].sum(), abs=1e-9)


def test_mcnemar_by_hand():
    # One against five: twice the (1 + 6) of 2^6 ways.
    assert mcnemar_p(1, 5) == mcnemar_p(5, 1) == close(14 / 64)
    assert mcnemar_p(3, 3) == mcnemar_p(0, 0) == 1
    assert mcnemar_p(0, 6) == close(2 / 64)


@MANY
@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_twice_the_smaller_tail(b, c):
    wanted = min(1, 2 * stats.binom.cdf(min(b, c), b + c, 0.5))
    assert mcnemar_p(b, c) == pytest.approx(wanted, rel=1e-9)


def test_mcnemar_of_equal_networks_rejects_rarely():
    drawn = np.random.default_rng(2).binomial(200, 0.5, DRAWS)
    b, times = np.unique(drawn, return_counts=True)
    rejected = [mcnemar_p(int(k), 200 - int(k)) < 0.05 for k in b]
    assert 0.02 < np.average(rejected, weights=times) < 0.06


def test_a_weighted_mean_by_hand():
    # Mean (3·0 + 1·4)/4 = 1; the deviations, weighted, are −3 and 3: √(2/1·18)/4 = 1.5.
    found = weighted_mean([0, 4], [3, 1])
    margin = 1.5 * stats.t.ppf(0.975, 1)
    assert (found.n, found.mean, found.sd / math.sqrt(2)) == close((2, 1, 1.5))
    assert (found.low, found.high) == close((1 - margin, 1 + margin))
    alone = weighted_mean([2], [5])
    assert alone.mean == 2
    assert math.isnan(alone.low)


def test_a_weighted_mean_of_equal_weights_is_a_mean():
    values = np.random.default_rng(3).normal(2, 1, 50)
    found, wanted = weighted_mean(values, np.full(50, 7)), estimate(values)
    assert [found.mean, found.sd, found.low, found.high] == close(
        [wanted.mean, wanted.sd, wanted.low, wanted.high]
    )


def test_the_interval_of_a_weighted_mean_covers():
    # Short blocks differ more, as in text; the mean over all tokens is 0.3.
    rng = np.random.default_rng(4)
    tokens = rng.integers(100, 1000, (1000, 60))
    values = rng.normal(0.3, 1, tokens.shape) * np.sqrt(500 / tokens) + 0.3 * (
        1 - np.sqrt(500 / tokens)
    )
    found = [weighted_mean(*each) for each in zip(values, tokens, strict=True)]
    assert 0.92 < np.mean([each.low <= 0.3 <= each.high for each in found]) < 0.975
