"""Compute how large |t| must be at each look, so that all looks together err as often as one may.

The t statistics of growing samples of normal differences without a mean are a Markov chain: the
earlier one depends on the later sample by its direction alone, and a sample's direction is uniform
on the sphere. So the chance of crossing a boundary is found by one integral after the other, as
Armitage, McPherson and Rowe (1969) do for known variance, and at the real degrees of freedom
(Jennison and Turnbull 1991, Exact calculations for sequential t, chi² and F tests).

What is followed is r = t/√(t² + n − 1), the cosine between n differences and (1, ..., 1).
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import betainc, betaincinv, betaln, roots_jacobi, roots_legendre

NODES = 120  # of each integral; the probabilities are right to about 1e-6

Floats = NDArray[np.float64]


def critical_values(looks: Sequence[int], spent: Sequence[float]) -> list[float]:
    """Return the |t| beyond which each look rejects.

    The chance that a look rejects for the first time is what is newly spent there (Lan and DeMets
    1983), where the differences are normal with mean 0.

    Args:
        looks: the numbers of differences, ascending by two or more.
        spent: the chance of having rejected by each look, ascending.
    """
    first, *later = looks
    c = 2 * float(betaincinv((first - 1) / 2, (first - 1) / 2, 1 - spent[0] / 2)) - 1
    found = [_t_of(c, first)]
    cosines, weights = _nodes(c)
    weights = weights * _density(cosines, first)
    previous = first
    for n, error in zip(later, np.diff(spent), strict=True):
        step = _Step(previous, n)
        c = brentq(step.excess, 1e-6, 1 - 1e-12, args=(cosines, weights, error))
        found.append(_t_of(c, n))
        targets, widths = _nodes(c)
        weights = widths * step.density(cosines, weights, targets)
        cosines, previous = targets, n
    return found


class _Step:
    """Go from the cosine of n differences to that of N.

    The first n have the share q of the sum of squares, which is Beta distributed, and the others
    have a cosine s of their own: √N·r' = √(n·q)·r + √((N − n)·(1 − q))·s.
    """

    def __init__(self, n: int, following: int):
        self.new = following - n
        x, weights = roots_jacobi(NODES, self.new / 2 - 1, n / 2 - 1)
        share = (1 + x) / 2
        self.share_weights = weights / weights.sum()
        self.kept = np.sqrt(n * share / following)
        self.scale = np.sqrt(self.new * (1 - share) / following)

    def excess(self, c: float, cosines: Floats, weights: Floats, error: float) -> float:
        """Return the chance of |r'| > c, from the weighted cosines before, less `error`."""
        start = cosines[:, None] * self.kept
        above, below = (_cumulative((c + sign * start) / self.scale, self.new) for sign in (-1, 1))
        return float(weights @ ((2 - above - below) @ self.share_weights)) - error

    def density(self, cosines: Floats, weights: Floats, targets: Floats) -> Floats:
        """Return the density of r' at `targets`, without what has crossed before."""
        start = cosines[:, None] * self.kept
        mixed = weights[:, None] * (self.share_weights / self.scale)
        return np.array(
            [
                np.sum(mixed * _density((target - start) / self.scale, self.new))
                for target in targets
            ]
        )


def _nodes(c: float) -> tuple[Floats, Floats]:
    nodes, weights = roots_legendre(NODES)
    return c * nodes, c * weights


def _density(r: Floats, n: int) -> Floats:
    """Return the density of the cosine of n differences, (1 − r²)^((n − 3)/2) over its integral."""
    log_integral = betaln(0.5, (n - 1) / 2)
    return np.clip(1 - r**2, 0, None) ** ((n - 3) / 2) * math.exp(-log_integral) * (np.abs(r) < 1)


def _cumulative(r: Floats, n: int) -> Floats:
    return betainc((n - 1) / 2, (n - 1) / 2, np.clip((1 + r) / 2, 0, 1))


def _t_of(c: float, n: int) -> float:
    return c * math.sqrt((n - 1) / (1 - c**2))
