"""Turn one image into batches of coordinates and pixels, for a network that fits it.

A loader has `batch_size`, `num_samples` (pixels of an epoch), `len()` (batches per epoch, the last,
smaller one included) and `batches(epoch, first=0)`, which yields the batches from number `first`
on:

    coordinates  float32 (B, 2), x to the right and y down, of the pixels' middles on [-1, 1]
    pixels       float32 (B, C) on [-1, 1]

Black is -1 and white 1. The middles are those of torch's align_corners=False: pixel i of n is at
(2 i + 1) / n - 1, so that a network that has learned an image at one size can be asked for another.

Where `world_size` processes train together these are all the global numbers, and `batches` yields
to the process of rank `rank` its shard of each batch (utils.share), which may be empty.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cli.inr import InrDataConfig
from pipelines.data import PixelData
from pipelines.images.decode import BrokenImage
from pipelines.images.interfaces import Batch, Device, Images
from pipelines.images.readers import FolderReader
from utils import UserError, mixed_seed, shares

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


def middles(side: int) -> Tensor:
    """Return the coordinates of the middles of a square image's pixels, (side², 2), row by row."""
    places = (2 * torch.arange(side) + 1) / side - 1
    y, x = torch.meshgrid(places, places, indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1)


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


class PixelLoader:
    """Yield batches of an image's pixels, which are kept on the device.

    With a `data_seed` it is a training loader: an epoch is several passes, the order of each a
    function of (data_seed, epoch, pass) and of nothing else, and batches go on over the ends of
    passes. Where a batch is a whole pass the pixels keep their order, which changes nothing but
    the rounding of sums. Without a data_seed it is an evaluation loader: one pass, as given.

    Args:
        coordinates: (N, 2).
        pixels: (N, C).
        batch_size: pixels in a global batch.
        data_seed: decides the order.
        passes: over the pixels, in an epoch.
        rank: this process's number.
        world_size: how many processes share each batch.
    """

    def __init__(
        self,
        coordinates: Tensor,
        pixels: Tensor,
        batch_size: int,
        data_seed: int | None = None,
        passes: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.coordinates, self.pixels = coordinates, pixels
        self.batch_size, self.num_samples = batch_size, passes * len(pixels)
        self._data_seed = data_seed
        self._rank, self._world_size = rank, world_size

    def __len__(self) -> int:
        return -(-self.num_samples // self.batch_size)

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the epoch's batches from number `first` on: coordinates and pixels."""
        size = len(self.pixels)
        is_ordered = self._data_seed is None or self.batch_size == size
        own = shares(self.num_samples, self.batch_size, first, self._rank, self._world_size)
        for part in own:
            start = part.start // size * size  # of the pass in which the batch begins
            place = slice(part.start - start, part.stop - start)
            if is_ordered:
                yield self.coordinates[place], self.pixels[place]
            else:
                passes = range(start // size, max(start // size + 1, -(-part.stop // size)))
                chosen = torch.cat([self._order(epoch, number) for number in passes])[place]
                yield self.coordinates[chosen], self.pixels[chosen]

    def _order(self, epoch: int, number: int) -> Tensor:
        seed = mixed_seed("pixels", str(self._data_seed), epoch, number)
        return _shuffled(len(self.pixels), seed, self.pixels.device)


@functools.lru_cache(maxsize=4)  # the batches of a pass share it
def _shuffled(size: int, seed: int, device: torch.device) -> Tensor:
    """Return the numbers up to `size` in an order that is drawn on the CPU, for every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(size, generator=generator).to(device)
