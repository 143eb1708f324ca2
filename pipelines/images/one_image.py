"""Load one image for a network to fit: read it, split its pixels, and make their loaders."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cli.inr import InrDataConfig
from pipelines.data import PixelData
from pipelines.images.decode import BrokenImage
from pipelines.images.interfaces import Device, Images
from pipelines.images.pixels import PixelLoader, middles
from pipelines.images.readers import FolderReader
from utils import UserError, mixed_seed

EVALUATED = 2**16  # pixels of a batch that nothing is trained on


def load_pixels(
    config: InrDataConfig,
    *,
    data_seed: int = 0,
    device: Device = "cpu",
    rank: int = 0,
    world_size: int = 1,
) -> PixelData:
    """Return the image that the configuration names, ready for training.

    The test split is the whole image, in the order of its rows.

    Args:
        config: which image, splits and batches.
        data_seed: decides the order of training; config.split_seed alone which pixels are held out.
        device: where batches are.
        rank, world_size: this process's share of each batch.

    Raises:
        UserError: for everything that the user can fix.
    """
    image = read_image(config)
    coordinates = middles(config.side).to(device)
    pixels = (torch.from_numpy(image).float() / 127.5 - 1).flatten(0, 1).to(device)
    everything = torch.arange(len(pixels))
    train, val = everything, everything if config.val_fraction == 1 else None
    if 0 < config.val_fraction < 1:
        train, val = _held_out(len(pixels), config)
    batch_size = config.batch_size or len(train)
    if batch_size > len(train):
        raise UserError(
            f"--batch_size {batch_size}: {len(train):,} pixels are trained on; give at most so "
            "many, or 0 for all of them"
        )

    def loader(
        chosen: Tensor, batch_size: int = EVALUATED, seed: int | None = None, passes: int = 1
    ) -> PixelLoader:
        chosen = chosen.to(device)
        parts = coordinates[chosen], pixels[chosen]
        return PixelLoader(*parts, batch_size, seed, passes, rank, world_size)

    held = f", {len(val):,} for validation" if val is not None else ""
    return PixelData(
        image=image,
        train=loader(train, batch_size, data_seed, config.passes_per_epoch),
        val=None if val is None else loader(val),
        test=loader(everything),
        digest=hashlib.blake2b(image.tobytes(), digest_size=8).hexdigest(),
        description=(
            f"{config.dataset}: {config.side}x{config.side} {'gray' if config.gray else 'RGB'} "
            f"pixels from {_origin(config)}, {len(train):,} trained on{held}"
        ),
    )


def read_image(config: InrDataConfig) -> Images:
    """Return the middle of the image at the size asked for, uint8 (side, side, channels).

    Raises:
        UserError: there is no such file, or it is no image.
    """
    path = _path(config)
    if not path.is_file():
        raise UserError(f"--data_path {path}: no such file; give that of an image")
    try:
        image = FolderReader(config.side, fit=True)(str(path))
    except BrokenImage as error:  # whose remedies are for one image among many
        raise UserError(f"--data_path {str(error).partition(';')[0]}; give another file") from None
    return np.array(Image.fromarray(image).convert("L"))[..., None] if config.gray else image


def _path(config: InrDataConfig) -> Path:
    """Return where the image lies; scikit-learn itself, which takes a second, is not loaded."""
    if config.dataset == "image":
        return Path(config.data_path)
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise UserError(
            f"--dataset {config.dataset} comes with scikit-learn; pip install scikit-learn, or "
            "give a file of your own: --dataset image --data_path FILE"
        )
    return Path(found.origin).parent / "datasets" / "images" / f"{config.dataset}.jpg"


def _origin(config: InrDataConfig) -> str:
    return config.data_path if config.dataset == "image" else "scikit-learn"


def _held_out(count: int, config: InrDataConfig) -> tuple[Tensor, Tensor]:
    """Return the numbers of the pixels that are trained on, and of those that are held out."""
    size = round(config.val_fraction * count)
    if not 0 < size < count:
        raise UserError(
            f"--val_fraction {config.val_fraction}: holds out {size} of {count} pixels; give "
            f"{'more' if size == 0 else 'less, or 1 for all of them, trained on all the same'}"
        )
    generator = torch.Generator().manual_seed(mixed_seed("pixels", config.split_seed))
    order = torch.randperm(count, generator=generator)
    return order[size:].sort().values, order[:size].sort().values
