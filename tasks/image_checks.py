"""Refuse batches and images of sizes that a network of images cannot be trained or tested with."""

from __future__ import annotations

import copy

import torch
from torch import nn

from training.task import Loader
from utils import UserError, world_size


def batch_sizes(loader: Loader) -> set[int]:
    """Return the sizes of an epoch's batches: the full one, and the last one's."""
    sizes = {
        min(loader.batch_size, loader.num_samples),
        loader.num_samples % loader.batch_size,
    }
    return sizes - {0}


def check_test_size(size: int | None, model: nn.Module, device: torch.device) -> None:
    """Refuse a size of test images that the network does not take.

    Raises:
        UserError: with the remedy.
    """
    if size is None:
        return
    network = copy.deepcopy(model).eval()
    try:
        with torch.no_grad():
            network(torch.zeros(1, 3, size, size, device=device))
    except (RuntimeError, AssertionError, ValueError):
        raise UserError(
            f"--test_size {size}: the network takes images of its training size alone; leave the "
            "flag out"
        ) from None


def check_shares(loader: Loader) -> None:
    """Refuse a batch that leaves a process out of what --sync_batchnorm adds up.

    Raises:
        UserError: with the remedy.
    """
    smallest = min(batch_sizes(loader))
    if smallest < world_size():
        raise UserError(
            f"--sync_batchnorm: --batch_size {loader.batch_size} gives a batch of {smallest} "
            f"images, too few for {world_size()} processes; choose another size"
        )


def check_norms(synchronised: bool, model: nn.Module, loader: Loader) -> None:
    """Refuse batches of which a process has one image, where BatchNorm would see a single value.

    Args:
        synchronised: BatchNorm's statistics are taken over all processes.
        model: the network.
        loader: of the training images.

    Raises:
        UserError: with the remedy.
    """
    parts = 1 if synchronised else world_size()
    if min(batch_sizes(loader)) // parts > 1:
        return
    images, _ = next(iter(loader.batches(0)))
    try:
        with torch.no_grad():
            copy.deepcopy(model).train()(images[:1])
    except ValueError:
        raise UserError(
            f"--batch_size {loader.batch_size}: gives a process a batch of one image, whose last "
            "feature maps are one pixel, which BatchNorm cannot normalise; choose another size"
        ) from None
