"""Make long-tailed training sets of balanced ones.

The sizes of the classes are those of Cui et al. 2019 (arXiv 1901.05555) and Cao et al. 2019 (arXiv
1906.07413).
"""

import numpy as np
import numpy.typing as npt

from pipelines.images.interfaces import Indices, Targets
from utils import UserError, mixed_seed

KINDS = ("exp", "step")


def class_sizes(sizes: npt.ArrayLike, factor: float, kind: str) -> Indices:
    """Return how many images of each class to keep, at most its size and at least one.

    With C classes, i from 0 to C - 1 and n_max the size of the largest class, class i keeps

        exp:  n_max * factor^(i / (C - 1)),
        step: n_max in the first half of the classes, factor * n_max in the second,

    rounded down, as published.

    Args:
        sizes: images in each class, (C,).
        factor: the smallest class's share of the largest, in 0..1.
        kind: one of KINDS.
    """
    sizes = np.asarray(sizes)
    count = len(sizes)
    place = np.arange(count)
    if kind == "exp":
        share = factor ** (place / max(1, count - 1))
    else:
        share = np.where(place < count // 2, 1.0, factor)
    # 5000 * 0.1 must stay 500, which 499.99999 would not.
    wanted = np.floor(sizes.max() * share + 1e-9).astype(int)
    return np.minimum(sizes, np.maximum(wanted, 1))


def long_tail(targets: Targets, factor: float, kind: str, seed: int) -> Indices:
    """Return the indices of the images to keep, in order.

    `class_sizes` says how many of each class they are; `seed` alone decides which.

    Raises:
        UserError: a class has no image to begin with.
    """
    sizes = np.bincount(targets)
    if not sizes.all():
        raise UserError(
            f"--imb_factor {factor}: class {int(sizes.argmin())} has no training image; give all "
            "classes some, or leave the flag out"
        )
    random = np.random.RandomState(mixed_seed("imbalance", seed) % 2**32)
    kept = [
        random.permutation(np.flatnonzero(targets == target))[:size]
        for target, size in enumerate(class_sizes(sizes, factor, kind))
    ]
    return np.sort(np.concatenate(kept))
