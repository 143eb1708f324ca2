"""Test decisions by looks against simulation, exact enumeration and plain t intervals."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from analysis import simulations
from analysis.looks import LAST, LOOKS, looks_up_to
from analysis.sequential import (
    BOUNDARY,
    ERROR,
    computed_boundary,
    critical_value,
    decide,
    e_values,
    fortunes,
    repeated,
    spent,
)
from analysis.statistics import compare

ROOT = Path(__file__).parents[2]


# --- the boundary ---


def test_stored_boundary_is_the_computed_one():
    assert computed_boundary(ERROR) == pytest.approx(BOUNDARY, abs=5e-5)
    first = stats.t.isf(spent(6) / 2, 5)  # the first look alone is Student's test
    assert BOUNDARY[6] == pytest.approx(first, abs=5e-5)


@pytest.mark.parametrize("error", [ERROR, ERROR / 3])
def test_each_look_spends_its_share_of_the_error(error):
    """By simulation of the samples themselves, which the integration never sees."""
    rng, draws = np.random.default_rng(1), 240_000
    crossed = np.zeros(len(LOOKS))
    for _ in range(12):
        sample = rng.standard_normal((draws // 12, LOOKS[-1]), dtype=np.float32)
        sums, squares = np.cumsum(sample, axis=1), np.cumsum(sample**2, axis=1)
        over = np.zeros(len(sample), dtype=bool)
        for number, n in enumerate(LOOKS):
            mean = sums[:, n - 1] / n
            variance = (squares[:, n - 1] - n * mean**2) / (n - 1)
            over |= np.abs(mean) > critical_value(n, error) * np.sqrt(variance / n)
            crossed[number] += over.sum()
    wanted = np.array([spent(n, error) for n in LOOKS])
    errors = np.sqrt(wanted * (1 - wanted) / draws)
    assert wanted[-1] == pytest.approx(error)
    assert (np.abs(crossed / draws - wanted) < 4 * errors).all()


# --- decisions ---


def by_hand(differences, margin, higher_is_better, looks=LOOKS):
    """The verdict and its look, with scipy's intervals."""
    for n in looks:
        if n > len(differences):
            break
        sample = np.array(differences[:n])
        level = 1 - 2 * stats.t.sf(BOUNDARY[n], n - 1)
        low, high = stats.t.interval(level, n - 1, sample.mean(), stats.sem(sample))
        if margin and -margin < low <= high < margin:
            return "equivalent", n, low, high
        if low > 0 or high < 0:
            return ("better" if (low > 0) == higher_is_better else "worse"), n, low, high
    return "undecided", n, low, high


@pytest.mark.parametrize(("margin", "higher_is_better"), [(None, True), (0.8, False), (1.5, True)])
def test_decisions_are_those_of_plain_intervals(margin, higher_is_better):
    rng, seen = np.random.default_rng(2), set()
    for effect in rng.uniform(-1.5, 1.5, 60):
        differences = rng.standard_normal(40) + effect
        found = decide(differences, margin, higher_is_better)
        verdict, n, low, high = by_hand(differences, margin, higher_is_better)
        assert (found.verdict, found.n) == (verdict, n)
        assert (found.low, found.high) == pytest.approx((low, high))
        assert found.look == LOOKS.index(n) + 1
        assert found.difference == pytest.approx(differences[:n].mean())
        assert found.e_value == pytest.approx(e_values(differences[:n])[-1])
        seen.add(verdict)
    assert len(seen) >= 3


def test_what_follows_the_deciding_look_is_ignored():
    rng = np.random.default_rng(3)
    differences = rng.standard_normal(40) + 1.3
    decided = decide(differences, 0.3, True)
    assert decided.verdict == "better"
    assert decided.next_look is None
    assert decided.n < 30
    for extra in (0, 1, 7):
        changed = differences.copy()
        changed[decided.n :] = -100
        assert decide(changed[: decided.n + extra], 0.3, True) == decided
    for n in range(decided.n):  # and before it, it says when the next look is
        before = decide(differences[:n], 0.3, True)
        made = looks_up_to(n)
        assert before.verdict == "undecided"
        assert (before.look, before.n) == (len(made), made[-1] if made else n)
        assert before.next_look == LOOKS[len(made)]


def test_the_direction_is_the_metrics():
    differences = [0.1, 0.12, 0.09, 0.11, 0.1, 0.13]
    assert decide(differences, None, higher_is_better=True).verdict == "better"
    assert decide(differences, None, higher_is_better=False).verdict == "worse"


def test_a_small_difference_is_equivalent_and_said_to_be_there():
    found = decide([0.1, 0.12, 0.09, 0.11, 0.1, 0.13], 0.5, True)
    assert (found.verdict, found.excludes_zero) == ("equivalent", True)
    assert not decide([0.1, -0.12, 0.09, -0.11, 0.1, -0.1], 0.5, True).excludes_zero


def test_differences_without_spread():
    assert decide([0.0] * 6, 0.1, True).verdict == "equivalent"
    assert decide([0.2] * 6, 0.1, True).verdict == "better"
    assert decide([0.1] * 6, 0.1, True).verdict == "better"  # the margin itself is outside
    zeros = decide([0.0] * 40, None, True)
    assert (zeros.verdict, zeros.next_look, zeros.e_value) == ("undecided", None, 1)


def test_a_pair_without_a_difference_is_left_out_and_counted():
    rng = np.random.default_rng(4)
    whole = rng.standard_normal(9) + 4
    gaps = [math.nan, *whole[:3], math.nan, math.inf, *whole[3:], math.nan]
    found, plain = decide(gaps, 0.1, True), decide(whole, 0.1, True)
    assert plain.n == 6
    assert (found.low, found.high, found.n) == (plain.low, plain.high, 6)
    assert (found.left_out, plain.left_out) == (3, 0)  # not the one behind the deciding look
    few = decide(gaps[:7], 0.1, True)
    assert (few.verdict, few.look, few.n, few.next_look, few.left_out) == ("undecided", 0, 4, 6, 3)
    assert math.isnan(few.low)
    none = decide([math.nan] * 8, 0.1, True)
    assert (none.verdict, none.n, none.left_out) == ("undecided", 0, 8)
    assert decide([], 0.1, True).n == 0


def test_what_cannot_be_asked():
    for looks in ((), (6, 8), (10, 6), (6, 6)):
        with pytest.raises(ValueError, match="looks"):
            decide([1.0] * 10, None, True, looks)
    with pytest.raises(ValueError, match="margin"):
        decide([1.0] * 10, 0.0, True)
    assert decide(np.arange(40.0) % 2 - 0.5, None, True, looks_up_to(14)).n == 10


# --- betting ---


@pytest.mark.parametrize("magnitudes", [[1.0] * 10, [0.1, 5, 0.3, 1, 1, 40, 0.01, 2, 2, 3]])
def test_over_all_signs_the_mean_fortune_is_one(magnitudes):
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=10)))
    up, down = fortunes(signs * magnitudes)
    fortune = (up + down) / 2
    assert fortune.mean(axis=0) == pytest.approx(np.ones(10))
    assert (fortune.max(axis=1) >= 20).mean() <= 0.05
    assert up[-1] == pytest.approx(down[0])  # all signs turned


def test_bets_do_not_depend_on_the_unit_nor_on_what_follows():
    rng = np.random.default_rng(5)
    differences = rng.standard_normal(40) + 1
    found = e_values(differences)
    assert e_values(differences * 1e-3) == pytest.approx(found)
    assert e_values(differences[:17]) == pytest.approx(found[:17])
    assert e_values([0.0, math.nan, 0.0]).tolist() == [1, 1]
    assert found[-1] > 20


def test_bets_decide_at_the_first_look_with_an_e_value_of_twenty():
    rng = np.random.default_rng(8)
    effects = np.array([[0.0], [0.8], [-0.8], [1.5]])
    rows = np.concatenate([rng.standard_normal((4, 40)) + effects, [[1.0, -1.0] * 20]])
    decided, pairs = simulations.bets_decide(rows)
    seen = set()
    for row, one, n in zip(rows, decided, pairs, strict=True):
        reached = [look for look in LOOKS if e_values(row[:look])[-1] >= 20]
        assert (one, n) == (bool(reached), reached[0] if reached else LAST)
        seen.add(int(n))
    assert not decided[-1]
    assert len(seen) >= 3


# --- how often it errs ---


@pytest.mark.parametrize("effect", [0.0, 0.8])
def test_the_simulation_decides_as_decide_does(effect):
    draws = np.random.default_rng(6).standard_normal((150, 40)) + effect
    found = simulations.look_at(draws, margin=0.9)
    for row, differs, equivalent, n in zip(
        draws, found.differs, found.equivalent, found.n, strict=True
    ):
        one = decide(row, 0.9, True)
        assert (one.verdict in ("better", "worse"), one.verdict == "equivalent") == (
            differs, equivalent,
        )  # fmt: skip
        assert one.n == n


@pytest.mark.parametrize("name", simulations.SYMMETRIC)
def test_equal_settings_are_seldom_called_different(name):
    draws = 4000
    shape = simulations.SYMMETRIC[name]
    differences = shape(np.random.default_rng(7), (draws, 40))
    allowed = stats.binom.isf(1e-4, draws, ERROR) / draws
    assert simulations.look_at(differences).differs.mean() <= allowed
    assert simulations.bets_decide(differences)[0].mean() <= allowed
    at_margin = simulations.look_at(differences + 2, margin=2.0)
    assert at_margin.equivalent.mean() <= stats.binom.isf(1e-4, draws, ERROR / 2) / draws


@pytest.mark.slow
def test_tables_of_the_page_are_what_is_computed():
    page = (ROOT / "docs/statistics.md").read_text()
    for title, table in simulations.tables():
        assert table in page, title


@pytest.mark.slow
def test_false_decisions_of_ten_thousand_draws():
    for name, by_looks, *_ in simulations.false_differences(10_000)[1:]:
        if name in simulations.SYMMETRIC:
            assert float(by_looks.removesuffix(" %")) <= 5.4, name


def test_an_interval_of_fewer_pairs_is_at_least_students():
    """Some runs may lack the value that is compared, as after evaluations of three of twenty."""
    values = [0.3, 0.9, 0.1]
    found = repeated(compare(values, [0.0, 0.0, 0.0]), critical_value(20))
    assert (found.low, found.high) == pytest.approx(
        stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    )
    many = list(np.linspace(-1, 2, 20))
    found = repeated(compare(many, [0.0] * 20), critical_value(20))
    assert found.high - np.mean(many) == pytest.approx(critical_value(20) * stats.sem(many))
