"""Test the mean over seeds and units: by hand, and its coverage where the truth is known."""

import math

import numpy as np
import pytest
from scipy import stats

from analysis.counts import weighted_mean
from analysis.crossed import crossed_mean


def drawn(rng, seeds, units, of_seeds, of_units, rest):
    """Values μ + a(seed) + b(unit) + e with these standard deviations; μ is 0."""
    return (
        of_seeds * rng.standard_normal((seeds, 1))
        + of_units * rng.standard_normal((1, units))
        + rest * rng.standard_normal((seeds, units))
    )


def test_mean_squares_by_hand():
    """A table of two seeds and three units, worked out with fractions."""
    found = crossed_mean([[1, 2, 6], [3, 2, 10]], [1, 1, 1])
    # Means of seeds 3 and 5, of units 2, 2 and 8, of all 4. Squares: seeds 6, units 48, rest 4.
    assert found.mean == 4
    ms = np.array([6 / 1, 48 / 2, 4 / 2]) / 6
    assert found.over_seeds == pytest.approx(math.sqrt(ms[0]))
    assert found.over_units == pytest.approx(math.sqrt(ms[1]))
    assert found.over_both == pytest.approx(math.sqrt(ms[0] + ms[1] - ms[2]))
    freedom = (ms[0] + ms[1] - ms[2]) ** 2 / (ms[0] ** 2 / 1 + ms[1] ** 2 / 2 + ms[2] ** 2 / 2)
    half = stats.t.ppf(0.975, freedom) * found.over_both
    assert (found.low, found.high) == pytest.approx((4 - half, 4 + half))
    wider = crossed_mean([[1, 2, 6], [3, 2, 10]], [1, 1, 1], critical=50.0)
    assert wider.high == pytest.approx(4 + 50 * found.over_both)
    assert crossed_mean([[1, 2, 6], [3, 2, 10]], [1, 1, 1], critical=1.0).high == found.high


def test_one_way_errors_are_those_of_one_way_means():
    rng = np.random.default_rng(0)
    values, weights = drawn(rng, 7, 200, 1, 3, 2), rng.integers(1, 100, 200)
    plain = crossed_mean(values, np.ones(200))
    assert plain.over_seeds == pytest.approx(stats.sem(values.mean(axis=1)))
    assert plain.over_units == pytest.approx(stats.sem(values.mean(axis=0)))
    weighted = crossed_mean(values, weights)
    by_seed = values @ weights / weights.sum()
    assert weighted.mean == pytest.approx(by_seed.mean())
    assert weighted.over_seeds == pytest.approx(stats.sem(by_seed))
    by_unit = weighted_mean(values.mean(axis=0), weights)
    assert weighted.over_units == pytest.approx(by_unit.sd / math.sqrt(200))


@pytest.mark.parametrize(
    ("of_seeds", "of_units", "rest"),
    [(3.0, 10.0, 20.0), (0.1, 10.0, 5.0), (2.0, 1.0, 3.0), (0.0, 5.0, 5.0), (0.0, 0.0, 5.0)],
)
@pytest.mark.parametrize("seeds", [5, 10])
def test_covers_the_truth_as_often_as_it_says(of_seeds, of_units, rest, seeds):
    rng, trials, units = np.random.default_rng(1), 600, 100
    covered = {"both": 0, "seeds": 0, "units": 0}
    for _ in range(trials):
        found = crossed_mean(drawn(rng, seeds, units, of_seeds, of_units, rest), np.ones(units))
        covered["both"] += found.low <= 0 <= found.high
        covered["seeds"] += abs(found.mean) <= stats.t.ppf(0.975, seeds - 1) * found.over_seeds
        covered["units"] += abs(found.mean) <= stats.t.ppf(0.975, units - 1) * found.over_units
    assert covered["both"] >= stats.binom.ppf(1e-4, trials, 0.945)
    if of_seeds >= 3:  # either alone leaves out what the other adds
        assert max(covered["seeds"], covered["units"]) < covered["both"] - 0.04 * trials
    if of_seeds > 0:  # without a share of the seeds it is wider than it need be
        assert covered["both"] <= stats.binom.ppf(1 - 1e-4, trials, 0.975)


def test_too_little_has_no_interval():
    for values in ([[1.0, 2.0]], [[1.0], [2.0]]):
        found = crossed_mean(values, np.ones(len(values[0])))
        assert found.mean == 1.5
        assert math.isnan(found.low)
    same = crossed_mean(np.full((3, 4), 2.0), np.ones(4))
    assert (same.mean, same.low, same.high) == (2, 2, 2)
