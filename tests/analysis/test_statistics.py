"""Statistics of few seeds: against formulas by hand, scipy, counting, tables and simulation."""

import itertools
import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.statistics import (
    WILCOXON_PAIRS,
    Estimate,
    compare,
    equivalence_p,
    estimate,
    holm,
    paired_differences,
    power,
    seeds_needed,
    seeds_needed_interval,
    smallest_detectable,
    smallest_wilcoxon_p,
    welch,
    wilcoxon_p,
)

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning")

NAN = math.nan
# Accuracies of two activations over eight seeds; no two differences have the same magnitude.
VALUES = [93.12, 92.87, 93.40, 93.01, 92.95, 93.33, 93.20, 92.78]
BASELINE = [92.90, 92.91, 93.02, 92.88, 92.61, 93.07, 93.25, 92.31]
DRAWS = 10_000
MANY, FEW = settings(deadline=None), settings(deadline=None, max_examples=50)
accuracies = st.lists(st.integers(0, 10_000).map(lambda n: n / 100), min_size=2, max_size=12)
sides = st.lists(st.tuples(*[st.integers(-500, 500)] * 2), min_size=2, max_size=10).map(
    lambda pairs: np.transpose(pairs) / 100
)
p_values = st.lists(st.floats(0, 1), max_size=12)


def close(value):
    return pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True)


def test_estimate_is_students_interval():
    # By hand: mean 3, squares of the deviations 4 + 1 + 0 + 1 + 4 = 10, sd = √(10/4); the table's
    # t(0.975, 4) = 2.776445 and t(0.95, 4) = 2.131847.
    found = estimate([1, 2, 3, 4, 5])
    margin = math.sqrt(2.5 / 5)
    assert (found.n, found.mean) == (5, 3)
    assert found.sd == close(math.sqrt(2.5))
    assert found.low == pytest.approx(3 - 2.776445 * margin, abs=1e-6)
    assert found.high == pytest.approx(3 + 2.776445 * margin, abs=1e-6)
    assert estimate([1, 2, 3, 4, 5], 0.9).high == pytest.approx(3 + 2.131847 * margin, abs=1e-6)


def test_estimate_of_almost_nothing():
    assert astuple(estimate([])) == close((0, NAN, NAN, NAN, NAN))
    assert astuple(estimate([2.5])) == close((1, 2.5, NAN, NAN, NAN))
    assert estimate([0.1] * 3) == Estimate(3, 0.1, 0.0, 0.1, 0.1)


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
def test_a_diverged_run_makes_the_figures_nan(bad):
    assert astuple(estimate([1, bad, 2])) == close((3, NAN, NAN, NAN, NAN))
    for found in (compare([1, bad, 2], [1, 2, 4]), compare([1, 2, 4], [1, bad, 2])):
        assert astuple(found) == close((3, *[NAN] * 11))
    assert math.isnan(equivalence_p([1, bad, 2], 1))


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_squares_neither_overflow_nor_vanish(scale):
    found, wanted = (
        compare(np.multiply(VALUES, scale), np.multiply(BASELINE, scale)),
        compare(VALUES, BASELINE),
    )
    assert found.sd / scale == close(wanted.sd)
    assert (found.p, found.welch_p) == close((wanted.p, wanted.welch_p))


@MANY
@given(accuracies, st.floats(0.5, 0.999))
def test_the_interval_holds_the_mean_and_grows_with_its_level(values, level):
    found = estimate(values, level)
    assert found.low <= found.mean <= found.high
    wider = estimate(values, (1 + level) / 2)
    assert wider.low <= found.low
    assert wider.high >= found.high


@MANY
@given(accuracies, st.floats(-100, 100), st.floats(0.01, 100))
def test_an_estimate_follows_shift_and_scale(values, shift, scale):
    found = estimate([shift + scale * value for value in values])
    wanted = estimate(values)
    tolerance = {"rel": 1e-9, "abs": 1e-9}
    assert found.mean == pytest.approx(shift + scale * wanted.mean, **tolerance)
    assert found.sd == pytest.approx(scale * wanted.sd, **tolerance)
    assert found.low == pytest.approx(shift + scale * wanted.low, **tolerance)


def test_compare_agrees_with_scipy():
    found = compare(VALUES, BASELINE)
    paired = stats.ttest_rel(VALUES, BASELINE)
    interval = paired.confidence_interval(0.95)
    differences = np.subtract(VALUES, BASELINE)
    assert found.n == 8
    assert found.mean == close(differences.mean())
    assert found.sd == close(differences.std(ddof=1))
    assert found.p == close(paired.pvalue)
    assert (found.low, found.high) == close((interval.low, interval.high))
    assert found.wilcoxon_p == close(stats.wilcoxon(differences, method="exact").pvalue)
    assert found.correlation == close(np.corrcoef(VALUES, BASELINE)[0, 1])
    assert found.effect_size == close(differences.mean() / differences.std(ddof=1))
    unpaired = stats.ttest_ind(VALUES, BASELINE, equal_var=False)
    assert found.welch_p == close(unpaired.pvalue)


def test_compare_by_hand():
    # Differences 1, 2, 3: mean 2, sd 1, t = 2√3 with 2 degrees of freedom, whose distribution is
    # closed: p = 1 − t/√(t² + 2) = 1 − √(12/14). t(0.975, 2) = 4.302653. Wilcoxon: 2/2³.
    found = compare([2, 4, 6], [1, 2, 3])
    assert (found.mean, found.sd, found.effect_size) == close((2, 1, 2))
    assert found.p == close(1 - math.sqrt(12 / 14))
    assert found.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-6)
    assert found.wilcoxon_p == 0.25
    assert found.correlation == close(1)


def test_compare_of_almost_nothing():
    assert astuple(compare([], [])) == close((0, *[NAN] * 11))
    assert astuple(compare([3], [1])) == close((1, 2, *[NAN] * 10))


def test_identical_pairs_have_no_effect():
    found = compare([0.1, 0.2, 0.4], [0.1, 0.2, 0.4])
    assert (found.mean, found.sd, found.low, found.high) == (0, 0, 0, 0)
    assert (found.p, found.wilcoxon_p, found.effect_size) == (1, 1, 0)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_constant_difference_is_certain(sign):
    high, low = [0.4, 0.3, 0.2], [0.3, 0.2, 0.1]
    assert len(set(np.subtract(high, low))) == 3
    found = compare(high, low) if sign == 1 else compare(low, high)
    assert (found.sd, found.p, found.effect_size) == (0, 0, sign * math.inf)
    assert found.low == found.high == found.mean == pytest.approx(sign * 0.1)
    assert found.wilcoxon_p == 0.25


def test_a_constant_side_has_no_correlation():
    assert math.isnan(compare([1, 2, 3], [0.1, 0.1, 0.1]).correlation)
    assert math.isnan(compare([0.1, 0.1, 0.1], [1, 2, 3]).correlation)


def test_pairs_must_pair():
    with pytest.raises(ValueError, match="2 values cannot be paired with 3"):
        compare([1, 2], [1, 2, 3])


@MANY
@given(sides)
def test_exchanged_sides_exchange_signs(pair):
    values, baseline = pair
    there, back = compare(values, baseline), compare(baseline, values)
    assert (there.mean, there.low, there.high) == close((-back.mean, -back.high, -back.low))
    assert (there.p, there.welch_p) == close((back.p, back.welch_p))
    assert there.wilcoxon_p == back.wilcoxon_p
    assert there.effect_size == close(-back.effect_size)
    assert 0 <= there.p <= 1
    assert math.isnan(there.correlation) or -1 <= there.correlation <= 1


@MANY
@given(sides, st.integers(-1000, 1000), st.sampled_from([1, 2, 10, 100]))
def test_a_comparison_follows_shift_and_scale(pair, shift, scale):
    wanted = compare(*pair)
    found = compare(*(shift + scale * pair))
    tolerance = {"rel": 1e-5, "abs": 1e-7}  # the shift costs digits
    assert found.mean == pytest.approx(scale * wanted.mean, **tolerance)
    assert found.p == pytest.approx(wanted.p, **tolerance)
    assert found.wilcoxon_p == wanted.wilcoxon_p
    assert found.effect_size == pytest.approx(wanted.effect_size, **tolerance)


def wilcoxon_by_counting(differences):
    nonzero = np.array([d for d in differences if d != 0])
    ranks = stats.rankdata(np.abs(nonzero))
    signs = np.array(list(itertools.product([0, 1], repeat=len(nonzero))))
    positive = signs @ ranks
    from_middle = np.abs(positive - ranks.sum() / 2)
    observed = abs(ranks[nonzero > 0].sum() - ranks.sum() / 2)
    return (from_middle >= observed).mean()


@MANY
@given(st.lists(st.integers(-4, 4), min_size=2, max_size=10).filter(any))
def test_wilcoxon_with_ties_and_zeros_is_the_share_of_all_signs(differences):
    assert wilcoxon_p(differences) == close(wilcoxon_by_counting(differences))


def test_wilcoxon_by_hand():
    # Magnitudes 1, 1, 2 have the ranks 1.5, 1.5, 3; the negative sum 1.5 or less, of the subsets,
    # have {}, {1.5}, {1.5}: p = 2·3/8.
    assert wilcoxon_p([-1, 1, 2, 0]) == 0.75
    assert wilcoxon_p([0, 0, 0]) == 1
    assert math.isnan(wilcoxon_p([1]))
    assert math.isnan(wilcoxon_p([]))


@pytest.mark.parametrize("n", [2, 5, 20, 50])
def test_wilcoxon_without_ties_is_scipys_exact(n):
    differences = np.random.default_rng(n).normal(0.3, 1, n)
    assert wilcoxon_p(differences) == close(stats.wilcoxon(differences, method="exact").pvalue)


def test_wilcoxon_of_many_is_the_normal_approximation():
    differences = np.random.default_rng(0).normal(0.05, 1, 201)
    ranks = stats.rankdata(np.abs(differences))
    mean, variance = 201 * 202 / 4, 201 * 202 * 403 / 24
    z = (ranks[differences > 0].sum() - mean) / math.sqrt(variance)
    assert wilcoxon_p(differences) == close(2 * stats.norm.sf(abs(z)))
    exact = wilcoxon_p(differences[:200])
    approximate = stats.wilcoxon(differences[:200], method="approx").pvalue
    assert 0 < abs(exact - approximate) < 0.002


def test_ties_hidden_by_round_off_are_ties():
    values, baseline = [0.3, 0.2, 0.3, 0.5], [0.2, 0.1, 0.4, 0.2]
    assert len(set(np.abs(np.subtract(values, baseline)))) == 4
    assert np.abs(paired_differences(values, baseline)) == pytest.approx([0.1, 0.1, 0.1, 0.3])
    assert len(set(np.abs(paired_differences(values, baseline)))) == 2
    assert compare(values, baseline).wilcoxon_p == wilcoxon_by_counting([1, 1, -1, 3])


@pytest.mark.parametrize("n", range(1, 12))
def test_the_smallest_wilcoxon_p_is_reached(n):
    assert smallest_wilcoxon_p(n) == 2 / 2**n
    if n > 1:
        assert wilcoxon_p(range(1, n + 1)) == smallest_wilcoxon_p(n)


def test_the_fewest_pairs_for_wilcoxon():
    assert smallest_wilcoxon_p(0) == 1
    assert smallest_wilcoxon_p(WILCOXON_PAIRS) <= 0.05 < smallest_wilcoxon_p(WILCOXON_PAIRS - 1)


def test_welch_by_hand():
    # Means 2 and 6, variances 1 and 20/3, squared errors 1/3 and 5/3: t = −4/√2, and the degrees
    # of freedom are 2²/((1/3)²/2 + (5/3)²/3) = 4/(1/18 + 25/27) = 216/53.
    difference, low, high, p = welch([1, 2, 3], [3, 5, 7, 9])
    freedom = 216 / 53
    margin = stats.t.ppf(0.975, freedom) * math.sqrt(2)
    assert (difference, low, high) == close((-4, -4 - margin, -4 + margin))
    assert p == close(2 * stats.t.sf(4 / math.sqrt(2), freedom))


@MANY
@given(accuracies, accuracies)
def test_welch_agrees_with_scipy(values, baseline):
    assume(len(set(values)) > 1 and len(set(baseline)) > 1)
    difference, low, high, p = welch(values, baseline)
    wanted = stats.ttest_ind(values, baseline, equal_var=False)
    interval = wanted.confidence_interval(0.95)
    assert p == pytest.approx(wanted.pvalue, rel=1e-7, abs=1e-12)
    assert (low, high) == pytest.approx((interval.low, interval.high), rel=1e-9, abs=1e-9)
    assert low < difference < high


def test_welch_of_almost_nothing():
    assert welch([], [1, 2]) == close((NAN, NAN, NAN, NAN))
    assert welch([1], [1, 2]) == close((-0.5, NAN, NAN, NAN))
    assert welch([0.1] * 3, [0.1] * 5) == (0, 0, 0, 1)
    assert welch([2, 2], [1, 1, 1]) == (1, 1, 1, 0)


def test_welch_against_a_constant_is_students_test():
    _, _, _, p = welch([1, 2, 4], [1, 1, 1, 1])
    assert p == close(stats.ttest_1samp([1, 2, 4], 1).pvalue)


def test_equivalence_by_hand():
    # Mean 0.2, sd 0.1, error 0.05 with 3 degrees of freedom: t = (0.2 − 0.3)/0.05 = −2 above and
    # (0.2 + 0.3)/0.05 = 10 below. The larger p is that of t = −2.
    differences = 0.2 + np.array([-1, 1, -1, 1]) * 0.1 * math.sqrt(3) / 2
    assert equivalence_p(differences, 0.3) == close(stats.t.cdf(-2, 3))


@MANY
@given(accuracies, st.floats(0.01, 50))
def test_equivalence_is_the_larger_of_two_tests_and_symmetric(values, margin):
    assume(len(set(values)) > 1)
    differences = np.array(values) - 40
    below = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    above = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    found = equivalence_p(differences, margin)
    assert found == pytest.approx(max(below, above), rel=1e-7, abs=1e-12)
    assert found == equivalence_p(-differences, margin)


@MANY
@given(accuracies, st.floats(0.01, 50))
def test_equivalent_at_5_percent_is_a_90_percent_interval_inside(values, margin):
    differences = np.array(values) - 40
    found = estimate(differences, 0.9)
    distance = margin - max(abs(found.low), abs(found.high))
    assume(abs(distance) > 1e-9)
    assert (equivalence_p(differences, margin) < 0.05) == (distance > 0)


def test_equivalence_without_spread_or_pairs():
    assert equivalence_p([0.1, 0.1], 0.2) == 0
    assert equivalence_p([-0.1, -0.1], 0.2) == 0
    assert equivalence_p([0.1, 0.1], 0.1) == 1
    assert equivalence_p([-0.3, -0.3], 0.1) == 1
    assert math.isnan(equivalence_p([0.1], 0.2))
    assert math.isnan(equivalence_p([], 0.2))


@pytest.mark.parametrize("margin", [0, -1, NAN])
def test_equivalence_needs_a_margin(margin):
    with pytest.raises(ValueError, match="the margin must be positive"):
        equivalence_p([1, 2], margin)


def test_holm_by_hand():
    # In order 0.01·4, 0.02·3, 0.03·2 = 0.06, 0.04·1 → 0.06.
    assert holm([0.03, 0.01, 0.04, 0.02]) == close([0.06, 0.04, 0.06, 0.06])
    assert holm([0.01, NAN, 0.04]) == close([0.02, NAN, 0.04])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([0.02]) == [0.02]
    assert holm([NAN]) == close([NAN])
    assert holm([]) == []


@MANY
@given(p_values)
def test_holm_keeps_the_order_and_lowers_nothing(raw):
    adjusted = holm(raw)
    for (p, q), (other_p, other_q) in itertools.combinations(zip(raw, adjusted, strict=True), 2):
        assert (q <= other_q) if p <= other_p else (q >= other_q)
    assert all(p <= q <= 1 for p, q in zip(raw, adjusted, strict=True))
    assert all(q <= min(1, p * len(raw)) for p, q in zip(raw, adjusted, strict=True))


@MANY
@given(p_values, st.randoms())
def test_holm_follows_the_p_values_not_their_places(raw, random):
    shuffled = random.sample(range(len(raw)), len(raw))
    adjusted = holm(raw)
    assert holm([raw[place] for place in shuffled]) == [adjusted[place] for place in shuffled]


@MANY
@given(p_values)
def test_holm_does_not_count_nan(raw):
    with_nan = holm([NAN, *raw, NAN])
    assert math.isnan(with_nan[0])
    assert math.isnan(with_nan[-1])
    assert with_nan[1:-1] == holm(raw)


def test_power_of_the_tables():
    # G*Power 3.1, "Means: difference between two dependent means", two-sided, alpha 0.05.
    assert power(0.5, 1, 34) == pytest.approx(0.8077775, abs=1e-6)
    assert power(0.5, 1, 33) < 0.8
    # Cohen 1988, twice the t of one sample: 80 % for d = 0.2 takes 199 pairs, for 0.8 takes 15.
    assert seeds_needed(1, 0.2) == 199
    assert seeds_needed(1, 0.5) == 34
    assert seeds_needed(1, 0.8) == 15


@pytest.mark.parametrize(("effect", "n"), [(0.3, 3), (1.0, 5), (0.3, 400), (-1.0, 5)])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_power_is_both_tails_of_the_noncentral_t(effect, n, alpha):
    # T = (z + δ)/√(χ²/ν): integrate P(z > c√(χ²/ν) − δ) + P(z < −c√(χ²/ν) − δ) over the quantiles
    # of χ², in their middles.
    delta, critical = effect * math.sqrt(n), stats.t.ppf(1 - alpha / 2, n - 1)
    quantiles = (np.arange(400_000) + 0.5) / 400_000
    bound = critical * np.sqrt(stats.chi2.ppf(quantiles, n - 1) / (n - 1))
    wanted = (stats.norm.sf(bound - delta) + stats.norm.cdf(-bound - delta)).mean()
    assert power(3 * effect, 3, n, alpha) == pytest.approx(wanted, abs=1e-5)


def test_power_is_the_share_of_rejections():
    rng = np.random.default_rng(7)
    draws = rng.normal(0.9, 1, (400_000, 6))
    rejected = stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05
    error = math.sqrt(0.25 / len(draws))
    assert power(0.9, 1, 6) == pytest.approx(rejected.mean(), abs=4 * error)


def test_power_at_its_limits():
    assert power(0, 1, 5) == pytest.approx(0.05, abs=1e-9)
    assert power(1e-9, 1, 5, 0.01) == pytest.approx(0.01, abs=1e-6)
    assert power(0, 0, 5) == pytest.approx(0.05, abs=1e-9)
    for difference in (1e2, 1e6, 1e12, 1e200, math.inf):
        assert power(difference, 1, 5) == pytest.approx(1, abs=1e-9)
    assert power(1, 0, 5) == 1
    assert power(1, 1, 10**6) == pytest.approx(1, abs=1e-9)
    for arguments in ((1, 1, 1), (1, 1, 0), (NAN, 1, 5), (1, NAN, 5)):
        assert math.isnan(power(*arguments))


def test_power_far_out_is_a_chi_square_tail():
    # Two pairs and an effect of 100 that a test at 0.001 misses mostly: T > c where |w| is less
    # than about noncentrality/c for a standard normal w, up to 1/noncentrality².
    noncentrality, critical = 100 * math.sqrt(2), stats.t.ppf(1 - 0.001 / 2, 1)
    wanted = 1 - 2 * stats.norm.sf(noncentrality / critical)
    assert power(100, 1, 2, 0.001) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("n", [2, 3, 10, 400])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_power_is_smooth_where_its_formula_changes(n, alpha):
    around = [
        power(delta / math.sqrt(n), 1, n, alpha) for delta in (19.99, 19.9999, 20.0001, 20.01)
    ]
    slopes = np.diff(around) / [0.0099, 0.0002, 0.0099]
    assert slopes == pytest.approx([slopes.mean()] * 3, rel=1e-2, abs=1e-10)


def test_power_in_the_lower_tail_that_scipy_cannot_tell():
    noncentralities = np.linspace(4, 20, 200)
    found = [power(delta / 2, 1, 4, 0.001) for delta in noncentralities]
    assert np.isfinite(found).all()
    assert (np.diff(found) > 0).all()


@FEW
@given(st.floats(0.01, 100), st.integers(2, 500), st.floats(0.1, 0.99))
def test_the_smallest_detectable_difference_has_that_power(sd, n, wanted):
    difference = smallest_detectable(sd, n, wanted)
    assert power(difference, sd, n) == pytest.approx(wanted, abs=1e-6)


def test_the_smallest_detectable_difference_at_its_limits():
    assert smallest_detectable(0, 5) == 0
    assert math.isnan(smallest_detectable(1, 1))
    assert math.isnan(smallest_detectable(NAN, 5))
    # With many pairs the normal's: (1.959964 + 0.841621)·sd/√n.
    assert smallest_detectable(2, 10_000) == pytest.approx(2.801585 * 2 / 100, rel=1e-3)


@FEW
@given(st.floats(0.02, 5), st.floats(0.1, 10), st.floats(0.1, 0.99))
def test_one_seed_fewer_is_not_enough(effect, sd, wanted):
    seeds = seeds_needed(sd, effect * sd, wanted)
    assert isinstance(seeds, int)
    assert power(effect * sd, sd, seeds) >= wanted
    assert seeds == 2 or power(effect * sd, sd, seeds - 1) < wanted
    assert seeds == seeds_needed(sd, -effect * sd, wanted)


def test_seeds_needed_at_its_limits():
    assert seeds_needed(1, 0) == seeds_needed(0, 0) == math.inf
    assert seeds_needed(1, 1e-4) == math.inf
    assert seeds_needed(0, 0.1) == seeds_needed(1, 1e9) == 2
    assert math.isnan(seeds_needed(NAN, 1))
    assert math.isnan(seeds_needed(1, NAN))
    # (2.801585/0.003)², up to a pair or two for Student's tails.
    assert seeds_needed(1, 0.003) == pytest.approx((2.801585 / 0.003) ** 2, rel=1e-4)


@pytest.mark.parametrize("bad", [0.05, 0.01, 1.0, NAN])
def test_a_power_lies_between_alpha_and_1(bad):
    for function, arguments in (
        (seeds_needed, (1, 1)),
        (smallest_detectable, (1, 5)),
        (seeds_needed_interval, (1, 5, 1)),
    ):
        with pytest.raises(ValueError, match="the power must lie between alpha"):
            function(*arguments, power=bad)


def test_seeds_needed_from_an_uncertain_sd():
    # The table's χ² with 4 degrees of freedom: 11.143287 and 0.484419 at 97.5 and 2.5 %.
    assert seeds_needed_interval(1, 5, 0.5) == (
        seeds_needed(1, 0.5),
        seeds_needed(math.sqrt(4 / 11.143287), 0.5),
        seeds_needed(math.sqrt(4 / 0.484419), 0.5),
    )
    assert seeds_needed_interval(1, 2, 0.02)[2] == math.inf
    assert seeds_needed_interval(0, 5, 0.5) == (2, 2, 2)
    assert seeds_needed_interval(1, 1, 0.5) == close((NAN, NAN, NAN))
    assert seeds_needed_interval(NAN, 5, 0.5) == close((NAN, NAN, NAN))


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 10])
def test_false_alarms_and_coverage_are_those_promised(n):
    rng = np.random.default_rng(n)
    seeds = rng.normal(0, 0.3, (DRAWS, n))  # what two runs of a seed share
    baselines = 92 + seeds + rng.normal(0, 0.2, (DRAWS, n))
    values = 92 + seeds + rng.normal(0, 0.2, (DRAWS, n))
    comparisons = [compare(*pair) for pair in zip(values, baselines, strict=True)]
    estimates = [estimate(sample) for sample in values]
    # 10,000 draws at 5 % have a standard error of 0.22 points.
    assert 0.03 < np.mean([found.p < 0.05 for found in comparisons]) < 0.07
    assert 0.93 < np.mean([found.low <= 0 <= found.high for found in comparisons]) < 0.97
    assert 0.93 < np.mean([found.low <= 92 <= found.high for found in estimates]) < 0.97
    # An exact test of a discrete distribution may only be too careful.
    assert np.mean([found.wilcoxon_p <= 0.05 for found in comparisons]) < 0.06


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("sign", [1, -1])
def test_false_equivalence_is_rare_at_the_margin(n, sign):
    rng = np.random.default_rng(n)
    differences = rng.normal(sign * 0.5, 0.1, (DRAWS, n))
    wrong = np.mean([equivalence_p(sample, 0.5) < 0.05 for sample in differences])
    standard_error = math.sqrt(0.05 * 0.95 / DRAWS)
    assert wrong < 0.05 + 3 * standard_error
    # And not because it never rejects: the other bound is far away here.
    assert wrong > 0.05 - 4 * standard_error
