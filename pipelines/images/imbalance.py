"""Long-tailed training sets, made of balanced ones (Cui et al. 2019, arXiv 1901.05555; Cao et al.
2019, arXiv 1906.07413)."""

import numpy as np

from utils import UserError, mixed_seed

KINDS = ("exp", "step")


def class_sizes(sizes, factor, kind):
    """Images to keep of each class, at most its `sizes`; from the largest class down to `factor`
    times as many.

    exp: n_max * factor^(i / (C - 1)) of class i of C. step: n_max of the first half of the classes,
    factor * n_max of the second. Rounded down, as published; at least one image.
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


def long_tail(targets, factor, kind, seed):
    """Indices of the images kept, in order; which ones of a class is drawn by `seed` alone.

    UserError where a class has no image to begin with.
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
