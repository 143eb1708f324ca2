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
from collections.abc import Iterator

import torch
from torch import Tensor

from pipelines.images.interfaces import Batch
from utils import mixed_seed, shares


def middles(side: int) -> Tensor:
    """Return the coordinates of the middles of a square image's pixels, (side², 2), row by row."""
    places = (2 * torch.arange(side) + 1) / side - 1
    y, x = torch.meshgrid(places, places, indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1)


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
