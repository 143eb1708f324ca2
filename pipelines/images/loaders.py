"""Yield the batches of an epoch, from images in memory or from files.

A loader has `batch_size`, `num_samples`, `len()` (batches per epoch, the last, smaller one
included) and `batches(epoch, first=0)`, which yields the batches from number `first` on:

    images   float32 (B, 3, H, W), normalised, channels_last, on the device
    targets  int64 (B,), on the device

With a `data_seed` it is a training loader: order and augmentation are a function of (data_seed,
epoch) and of nothing else. They are drawn on the CPU, for the whole epoch at its start, so that a
batch does not depend on the kind of device, nor on the batches before it. Only noise, a value per
pixel and too much to move, is drawn on the device batch by batch: a GPU's is not a CPU's. Without
a data_seed it is an evaluation loader: the given order, nothing drawn.

Where `world_size` processes train together these are all the global numbers, and `batches` yields
to the process of rank `rank` its shard of each batch (utils.share), which may be empty. Put
together, the shards are the batch that one process alone would have.
"""

import atexit
import signal
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pipelines.images.augment import Transform
from pipelines.images.interfaces import (
    Batch,
    Choices,
    Device,
    ImageReader,
    Images,
    Paths,
    Targets,
)
from utils import UserError, mixed_seed, shares

# Pixels uint8 (B, H, W, 3), choices and noise to a batch of images. A Transform is one.
PixelFunction: TypeAlias = Callable[[torch.Tensor, Choices, torch.Tensor | None], torch.Tensor]


class EpochDraw(NamedTuple):
    """Hold what is drawn at the start of an epoch.

    Attributes:
        order: int64 (N,), the images' numbers.
        choices: by name, what is chosen for the image in each place of the order, (N,).
    """

    order: torch.Tensor
    choices: Choices


class _Loader:
    """Yield transformed batches in the order of an epoch; subclasses read the pixels.

    Args:
        targets: the class of each image, (N,).
        transform: makes images of pixels; with a data_seed it must be a Transform.
        batch_size: images in a global batch.
        device: where batches are made, and are when they are yielded.
        data_seed: decides order and augmentation; None for an evaluation loader.
        rank: this process's number.
        world_size: how many processes share each batch.
    """

    def __init__(
        self,
        targets: Targets,
        transform: PixelFunction,
        batch_size: int,
        device: Device,
        data_seed: int | None,
        rank: int,
        world_size: int,
    ):
        self.num_samples = len(targets)
        self.batch_size = batch_size
        self._transform = transform
        self._device = device
        self._data_seed = data_seed
        self._rank, self._world_size = rank, world_size

    def __len__(self) -> int:
        return -(-self.num_samples // self.batch_size)

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the epoch's batches from number `first` on: images and targets."""
        order, choices = self._draw(epoch)
        places = [*shares(self.num_samples, self.batch_size, first, self._rank, self._world_size)]
        read = self._read(order, places, epoch)
        for number, (place, (pixels, targets)) in enumerate(zip(places, read, strict=True), first):
            chosen = {name: values[place] for name, values in choices.items()}
            yield self._transform(pixels, chosen, self._noise(epoch, number, place)), targets

    def _read(self, order: torch.Tensor, places: list[slice], epoch: int) -> Iterator[Batch]:
        """Yield pixels uint8 (B, H, W, 3) and targets (B,) for each of `places` in `order`."""
        raise NotImplementedError

    def _draw(self, epoch: int) -> EpochDraw:
        """Draw the epoch's order, and what is chosen for the image in each place of it."""
        if self._data_seed is None:
            return EpochDraw(torch.arange(self.num_samples), {})
        assert isinstance(self._transform, Transform)
        generator = torch.Generator().manual_seed(mixed_seed(self._data_seed, epoch))
        order = torch.randperm(self.num_samples, generator=generator)
        choices = self._transform.draw(self.num_samples, generator)
        return EpochDraw(order, {name: x.to(self._device) for name, x in choices.items()})

    def _noise(self, epoch: int, number: int, place: slice) -> torch.Tensor | None:
        """Draw the noise for `place`, float32 (B, H * W * 3): a part of that for batch `number`.

        Every process draws the noise of the whole batch, so that its own part does not depend on
        how many processes there are.
        """
        if self._data_seed is None:
            return None
        assert isinstance(self._transform, Transform)
        if not self._transform.noise:
            return None
        generator = torch.Generator(self._device)
        generator.manual_seed(mixed_seed("noise", self._data_seed, epoch, number))
        start = number * self.batch_size
        noise = self._transform.draw_noise(self.batch_size, generator)
        return noise[place.start - start : place.stop - start]


class MemoryLoader(_Loader):
    """Yield batches of one uint8 array (N, H, W, 3), which is kept on the device."""

    def __init__(
        self,
        images: Images,
        targets: Targets,
        transform: PixelFunction,
        batch_size: int,
        device: Device,
        data_seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ):
        super().__init__(targets, transform, batch_size, device, data_seed, rank, world_size)
        self._images = torch.from_numpy(images).to(device)
        self._targets = torch.from_numpy(targets).to(device)

    def _read(self, order: torch.Tensor, places: list[slice], epoch: int) -> Iterator[Batch]:
        order = order.to(self._device)
        for place in places:
            chosen = order[place]
            yield self._images.index_select(0, chosen), self._targets.index_select(0, chosen)


class StreamLoader(_Loader):
    """Yield batches of image files, read by worker processes and transformed on the device.

    The workers live as long as the loader. They read one epoch at a time: a new call of `batches`
    ends the one before.

    Args:
        paths: the image files, (N,).
        read: reads one file; its seed is None in an evaluation loader.
        num_workers: how many processes read; 0 for none but this one.
    """

    def __init__(
        self,
        paths: Paths,
        targets: Targets,
        read: ImageReader,
        transform: PixelFunction,
        batch_size: int,
        device: Device,
        num_workers: int,
        data_seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ):
        super().__init__(targets, transform, batch_size, device, data_seed, rank, world_size)
        self._keys = _BatchKeys(data_seed)
        self._loader: DataLoader[Any] = DataLoader(
            _ImageFiles(paths, targets, read),
            batch_sampler=self._keys,
            num_workers=num_workers,
            collate_fn=_as_is,
            worker_init_fn=_ignore_stop_signals,
            persistent_workers=num_workers > 0,
            pin_memory=torch.device(device).type == "cuda",
            # Without a generator of its own a DataLoader draws from the global one, and dropout
            # would depend on where the data comes from.
            generator=torch.Generator(),
        )

    def _read(self, order: torch.Tensor, places: list[slice], epoch: int) -> Iterator[Batch]:
        self._keys.start([order[place] for place in places], epoch)
        iterator = iter(self._loader)
        if self._loader.num_workers:
            _shut_down_at_exit(iterator)
        for batch in iterator:
            if isinstance(batch, str):
                raise UserError(batch)
            pixels, targets = (part.to(self._device, non_blocking=True) for part in batch)
            yield pixels, targets


ImageLoader: TypeAlias = MemoryLoader | StreamLoader


class Key(NamedTuple):
    """Tell a worker which image to read, and with which seed.

    The seed travels with the image, since workers that live on know of no epoch.
    """

    image: int  # its number
    seed: int | None


class _BatchKeys:
    """Yield the keys of each batch of the epoch that was started last."""

    def __init__(self, data_seed: int | None):
        self._data_seed = data_seed
        self._batches: Sequence[torch.Tensor] = ()
        self._epoch = 0

    def start(self, batches: Sequence[torch.Tensor], epoch: int) -> None:
        """Set what the next iteration yields: int64 (B,), the images' numbers, of each batch."""
        self._batches, self._epoch = batches, epoch

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = self._epoch
        for chosen in self._batches:
            yield [Key(image, self._image_seed(epoch, image)) for image in chosen.tolist()]

    def _image_seed(self, epoch: int, image: int) -> int | None:
        return None if self._data_seed is None else mixed_seed(self._data_seed, epoch, image)


class _ImageFiles(Dataset[Batch]):
    """Read image files, a whole batch at a time, in a worker."""

    def __init__(self, paths: Paths, targets: Targets, read: ImageReader):
        self._paths, self._targets, self._read = paths, targets, read

    def __getitems__(self, keys: list[Key]) -> Batch | str:
        """Return pixels uint8 (B, H, W, 3) and targets (B,), or the message of a UserError."""
        images = np.empty((len(keys), self._read.size, self._read.size, 3), np.uint8)
        # An error is handed over as its message: raised here, it would be wrapped in a traceback.
        try:
            for row, (image, seed) in enumerate(keys):
                images[row] = self._read(self._paths[image], seed)
        except UserError as error:
            return str(error)
        targets = self._targets[[image for image, _ in keys]]
        return torch.from_numpy(images), torch.from_numpy(targets)


def _as_is(batch: Any) -> Any:
    return batch


# --- how workers live and die ---

_with_workers: weakref.WeakSet[Any] = weakref.WeakSet()  # iterators of DataLoaders


def _ignore_stop_signals(worker: int) -> None:
    """Let a worker outlive the signals that ask the main process to stop: Ctrl-C, SLURM's.

    They reach the workers as well, but the main process has a step to finish and its state to
    save; then it ends them itself.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _shut_down_at_exit(iterator: Any) -> None:
    """Shut the iterator's workers down when the program ends.

    Python would end its daemons with SIGTERM, which these ignore, and wait for them for ever.
    """
    _with_workers.add(iterator)
    atexit.unregister(_shut_down_workers)
    atexit.register(_shut_down_workers)  # again: what was registered last is called first


def _shut_down_workers() -> None:
    for iterator in tuple(_with_workers):
        iterator._shutdown_workers()
