"""Hold out a share of every class, for validation or for the test."""

from typing import NamedTuple

import numpy as np

from pipelines.interfaces import Indices, Targets
from utils import UserError, mixed_seed


class HoldOut(NamedTuple):
    """Hold the places of samples, in order, that stay and that are held out."""

    kept: Indices
    held: Indices


def hold_out(
    targets: Targets,
    fraction: float,
    seed: int,
    flag: str = "--val_fraction",
    sample: str = "image",
) -> HoldOut:
    """Choose `fraction` of every class to hold out; `seed` alone decides which samples.

    Args:
        targets: the class of each sample, (N,).
        fraction: from 0 to 1.
        seed: of the choice.
        flag: that gave the fraction, for messages.
        sample: what a sample is called there.

    Raises:
        UserError: a class would keep nothing, or nothing at all would be held out.
    """
    # RandomState, not default_rng: its stream is frozen, a split outlives numpy's versions.
    random = np.random.RandomState(mixed_seed(seed) % 2**32)
    chosen = []
    for target, size in enumerate(np.bincount(targets)):
        count = round(fraction * size)
        if size and count == size:
            raise UserError(
                f"{flag} {fraction}: would leave no training {sample} of class {target}, which has"
                f" {size}; give less"
            )
        members = np.flatnonzero(targets == target)
        chosen.append(random.permutation(members)[:count])
    held = np.sort(np.concatenate(chosen))
    if not len(held):
        raise UserError(f"{flag} {fraction}: holds out no {sample} of any class; give more")
    return HoldOut(np.setdiff1d(np.arange(len(targets)), held), held)
