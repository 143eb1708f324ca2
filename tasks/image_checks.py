"""Refuse batches and images of sizes that a network of images cannot be trained or tested with."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipelines.data import ImageData
from training.task import Loader, batch_sizes
from utils import UserError, world_size


def check_test_size(size: int | None, model: nn.Module) -> None:
    """Refuse a size of test images that the network does not take.

    Raises:
        UserError: with the remedy.
    """
    if size is None:
        return
    network = copy.deepcopy(model).eval()
    device = next(network.parameters()).device  # the CPU, for one that is to be sharded
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
            copy.deepcopy(model).train()(images[:1].to(next(model.parameters()).device))
    except ValueError:
        raise UserError(
            f"--batch_size {loader.batch_size}: gives a process a batch of one image, whose last "
            "feature maps are one pixel, which BatchNorm cannot normalise; choose another size"
        ) from None


def check_same_data(data: ImageData, settings: dict[str, Any], path: Path) -> None:
    """Refuse images of another size, or other classes, than the network was trained on.

    Raises:
        UserError: with what differs.
    """
    size, names = settings["image_size"], settings["class_names"]
    if data.image_size != size:
        raise UserError(
            f"--checkpoint {path}: was trained on {size} px, {data.name} has {data.image_size}; "
            f"give --resize {size}"
        )
    if list(data.class_names) != names:
        raise UserError(
            f"--checkpoint {path}: its {len(names)} classes ({names[0]}, ...) are not the "
            f"{data.num_classes} of {data.name} ({data.class_names[0]}, ...)"
        )
