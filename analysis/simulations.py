"""Simulate how often decisions by looks are wrong, and how many seeds they take.

    python -m analysis.simulations

prints the tables of docs/statistics.md. Everything is computed with the looks that are really made.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit
from scipy.stats import norm

from analysis.boundaries import critical_values
from analysis.looks import LAST, LOOKS
from analysis.sequential import E_DECIDES, ERROR, critical_value, fortunes
from analysis.statistics import power, seeds_needed

DRAWS, SEED = 10_000, 20
MOST_FALSE = 0.07  # what a fixed t test makes of skewed differences at 40 seeds
EFFECTS = (0.3, 0.6, 1.2)  # mean difference over its standard deviation
MARGINS = (0.5, 1.0, 2.0)  # in standard deviations

Floats = NDArray[np.float64]
Shape = Callable[[np.random.Generator, tuple[int, int]], Floats]


# --- differences of equal settings ---


def normal(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    return rng.standard_normal(size)


def t3(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    return rng.standard_t(3, size)


def failing_seeds(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    """Return differences of two equal settings with seeds that fail, 6 sd lower, in 15 %."""
    arms = (rng.standard_normal(size) - 6 * (rng.random(size) < 0.15) for _ in range(2))
    return next(arms) - next(arms)


def few_images(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    """Return differences of counts: the sd is one image of the test set."""
    return np.rint(rng.standard_normal(size))


def exponential(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    return rng.exponential(size=size) - 1


def lognormal(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    return rng.lognormal(0, 1, size) - math.exp(0.5)


def two_values(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    """Return differences of either sign and nearly one size, which equal settings never have."""
    return np.sign(rng.random(size) - 0.5) + 0.05 * rng.standard_normal(size)


SYMMETRIC: dict[str, Shape] = {
    "normal": normal,
    "Student's t, 3 degrees of freedom": t3,
    "mixture: 15 % of the seeds of either setting fail": failing_seeds,
    "whole images, sd of one image": few_images,
}
OTHERS: dict[str, Shape] = {
    "exponential, centred (skewness 2)": exponential,
    "lognormal, centred (skewness 6.2)": lognormal,
    "two values, +1 and −1, and little else": two_values,
}


# --- looking ---


@dataclass(frozen=True)
class Looked:
    """Hold what was decided in each draw.

    Attributes:
        differs: (draws,) an interval excluded zero, and the look was the deciding one.
        equivalent: (draws,) an interval lay within the margin, and so on.
        n: (draws,) the pairs of the deciding look, or of the last.
    """

    differs: NDArray[np.bool_]
    equivalent: NDArray[np.bool_]
    n: NDArray[np.int64]


def look_at(
    differences: Floats,
    margin: float = 0.0,
    looks: Sequence[int] = LOOKS,
    critical: Sequence[float] | None = None,
) -> Looked:
    """Return what `sequential.decide` decides of each row.

    Args:
        differences: (draws, pairs).
        margin: 0 for none.
        looks: the numbers of pairs.
        critical: |t| at each look; those of `decide` where None.
    """
    critical = critical or [critical_value(n) for n in looks]
    shape = len(differences)
    differs, equivalent = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    n_used = np.full(shape, looks[-1])
    for n, c in zip(looks, critical, strict=True):
        mean = differences[:, :n].mean(axis=1)
        half_width = c * differences[:, :n].std(axis=1, ddof=1) / math.sqrt(n)
        going_on = ~(differs | equivalent)
        inside = going_on & (np.abs(mean) + half_width < margin)
        outside = going_on & ~inside & (np.abs(mean) > half_width)
        equivalent |= inside
        differs |= outside
        n_used[inside | outside] = n
    return Looked(differs, equivalent, n_used)


def bets_decide(differences: Floats) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return for each draw whether the e-process is 20 at a look, and that look or the last."""
    up, down = fortunes(differences)
    reached = np.asarray((up + down)[:, [n - 1 for n in LOOKS]] / 2 >= E_DECIDES)
    decided = np.asarray(reached.any(axis=1))
    return decided, np.where(decided, np.array(LOOKS)[reached.argmax(axis=1)], LAST)


def fixed_rejects(differences: Floats) -> NDArray[np.bool_]:
    """Return for each draw whether the paired t test of all pairs rejects at 5 %."""
    n = differences.shape[1]
    t = differences.mean(axis=1) / differences.std(axis=1, ddof=1) * math.sqrt(n)
    return np.abs(t) > stdtrit(n - 1, 1 - ERROR / 2)


# --- tables ---


def false_differences(draws: int) -> list[list[str]]:
    """Return how often equal settings are called different, for each shape of differences."""
    rows = [["differences", "by looks", "e-process", "t test at 40", "first look below 7 %"]]
    for number, (name, shape) in enumerate((SYMMETRIC | OTHERS).items()):
        differences = shape(np.random.default_rng([SEED, number]), (draws, LAST))
        rows.append(
            [
                name,
                _percent(look_at(differences).differs),
                _percent(bets_decide(differences)[0]),
                _percent(fixed_rejects(differences)),
                _first_look(differences),
            ]
        )
    return rows


def _first_look(differences: Floats) -> str:
    """Return the first look from which on fewer than 7 % are called different."""
    for number, n in enumerate(LOOKS):
        rate = look_at(differences, looks=LOOKS[number:]).differs.mean()
        if rate < MOST_FALSE:
            return f"{n} ({_percent(rate)})"
    return "none"


def false_equivalents(draws: int) -> list[list[str]]:
    """Return how often a true difference of the margin is called equivalent, and one of 0."""
    rows = [["margin (sd)", "false *equivalent*", "*equivalent* where there is none", "seeds then"]]
    for number, margin in enumerate(MARGINS):
        differences = normal(np.random.default_rng([SEED, 100 + number]), (draws, LAST))
        without = look_at(differences, margin)
        rows.append(
            [
                f"{margin:g}",
                _percent(look_at(differences + margin, margin).equivalent),
                _percent(without.equivalent),
                f"{without.n.mean():.1f}",
            ]
        )
    return rows


def expected_seeds(draws: int) -> list[list[str]]:
    """Return power and mean number of pairs of seeds at true differences, by looks and fixed."""
    rows = [
        [
            "d_z",
            "looks: decided, mean seeds",
            "e-process: decided, mean seeds",
            "fixed 40 decides",
            "fixed n of the looks' power",
        ]
    ]
    for number, effect in enumerate(EFFECTS):
        rng = np.random.default_rng([SEED, 200 + number])
        differences = normal(rng, (draws, LAST)) + effect
        found, (bets, n_of_bets) = look_at(differences), bets_decide(differences)
        rate = float(found.differs.mean())
        alike = seeds_needed(1, effect, min(rate, 0.9999))
        rows.append(
            [
                f"{effect:g}",
                f"{_percent(rate)}, {found.n.mean():.1f}",
                f"{_percent(bets)}, {n_of_bets.mean():.1f}",
                _percent(power(effect, 1, LAST)),
                f"{alike}" if rate < 0.9999 else f"{alike} or more",
            ]
        )
    return rows


def spending() -> dict[str, Callable[[float], float]]:
    """Return the shapes of a boundary: the error spent by the share t of the seeds."""
    z = float(norm.ppf(1 - ERROR / 4))
    return {
        "O'Brien and Fleming's": lambda t: 4 * float(norm.sf(z / math.sqrt(t))),
        "α·t²": lambda t: ERROR * t**2,
        "α·t": lambda t: ERROR * t,
        "α·√t": lambda t: ERROR * math.sqrt(t),
        "Pocock's": lambda t: ERROR * math.log(1 + (math.e - 1) * t),
    }


def shapes(draws: int) -> list[list[str]]:
    """Return what each shape of the boundary costs and gains."""
    header = [f"d_z = {effect:g}: decided, mean seeds" for effect in EFFECTS]
    rows = [["error spent", "c at 6, 10, 40", *header, "normal: false", "exponential: false"]]
    boundaries = {
        name: critical_values(LOOKS, [spent(n / LAST) for n in LOOKS])
        for name, spent in spending().items()
    }
    student = [float(stdtrit(n - 1, 1 - ERROR / 2)) for n in LOOKS]
    for name, critical in {**boundaries, "5 % at every look": student}.items():
        row = [name, f"{critical[0]:.2f}, {critical[1]:.2f}, {critical[-1]:.2f}"]
        for number, effect in enumerate(EFFECTS):
            rng = np.random.default_rng([SEED, 200 + number])
            found = look_at(normal(rng, (draws, LAST)) + effect, critical=critical)
            row.append(f"{_percent(found.differs)}, {found.n.mean():.1f}")
        for number, shape in enumerate((normal, exponential)):
            equal = shape(np.random.default_rng([SEED, 300 + number]), (draws, LAST))
            row.append(_percent(look_at(equal, critical=critical).differs))
        rows.append(row)
    return rows


def _percent(share: float | NDArray[np.bool_]) -> str:
    return f"{100 * float(np.mean(share)):.1f} %"


def markdown(rows: list[list[str]]) -> str:
    """Return a table; the first row is its head."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def tables(draws: int = DRAWS) -> Iterator[tuple[str, str]]:
    """Yield the tables with what they show."""
    yield "Equal settings called different", markdown(false_differences(draws))
    yield "Called equivalent", markdown(false_equivalents(draws))
    yield "Seeds at a true difference", markdown(expected_seeds(draws))
    yield "Shapes of the boundary", markdown(shapes(draws))


if __name__ == "__main__":
    for title, table in tables():
        print(f"{title}, {DRAWS:,} draws each\n\n{table}\n")
