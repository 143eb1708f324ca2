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

Where mixup or CutMix is on, a training loader's targets are float32 (B, classes). What they draw is
a function of (data_seed, epoch, number of the batch).

Where `world_size` processes train together these are all the global numbers, and `batches` yields
to the process of rank `rank` its shard of each batch (utils.share), which may be empty. Put
together, the shards are the batch that one process alone would have. An image's partner in mixup
and CutMix may be in another process's shard; a process then reads and transforms the partners too,
and so twice as many images as without.
"""

import atexit
import signal
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional

from pipelines.images.augment import ON_HOST, Transform
from pipelines.images.interfaces import (
    Batch,
    Choices,
    Device,
    ImageFiles,
    ImageReader,
    Images,
    Targets,
)
from pipelines.images.mixing import Mixing, mixed
from utils import UserError, mixed_seed, shares

# Pixels uint8 (B, H, W, 3), choices and noise to a batch of images. A Transform is one.
PixelFunction: TypeAlias = Callable[[torch.Tensor, Choices, torch.Tensor | None], torch.Tensor]
# Where the images of a batch stand in the epoch's order: this process's, and their partners'.
Place: TypeAlias = tuple[slice, ...]


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
        places = self._places(first)
        read = self._read(order, places, epoch)
        for number, (place, (pixels, targets)) in enumerate(zip(places, read, strict=True), first):
            chosen = {name: _at(place, values) for name, values in choices.items()}
            noise = self._noise(epoch, number, place, chosen)
            images = self._transform(pixels, chosen, noise)
            yield self._mixed(images, targets, epoch, number)

    def _read(self, order: torch.Tensor, places: list[Place], epoch: int) -> Iterator[Batch]:
        """Yield pixels uint8 (B, H, W, 3) and targets (B,) for each of `places` in `order`."""
        raise NotImplementedError

    def _draw(self, epoch: int) -> EpochDraw:
        """Draw the epoch's order, and what is chosen for the image in each place of it.

        With copies it is the order of timm's RepeatAugSampler, over all processes together and
        without its rounding; which process gets which copy differs, since batches are cut into
        shares here.
        """
        if self._data_seed is None:
            return EpochDraw(torch.arange(self.num_samples), {})
        assert isinstance(self._transform, Transform)
        generator = torch.Generator().manual_seed(mixed_seed(self._data_seed, epoch))
        order = torch.randperm(self.num_samples, generator=generator)
        order = order.repeat_interleave(self._repeats)[: self.num_samples]
        choices = self._transform.draw(self.num_samples, generator)
        moved = {n: x if n == ON_HOST else x.to(self._device) for n, x in choices.items()}
        return EpochDraw(order, moved)

    @property
    def _repeats(self) -> int:
        return self._transform.repeats if isinstance(self._transform, Transform) else 1

    def _places(self, first: int) -> list[Place]:
        """Return where this process's images of each batch stand, from number `first` on."""
        own = shares(self.num_samples, self.batch_size, first, self._rank, self._world_size)
        if self._mixing is None or self._world_size == 1:
            return [(place,) for place in own]
        return [(place, self._mirrored(place, number)) for number, place in enumerate(own, first)]

    def _mirrored(self, place: slice, number: int) -> slice:
        """Return where the partners of images of batch `number` stand, in the reverse order."""
        start = number * self.batch_size
        end = min(start + self.batch_size, self.num_samples)
        return slice(start + end - place.stop, start + end - place.start)

    @property
    def _mixing(self) -> Mixing | None:
        if self._data_seed is None or not isinstance(self._transform, Transform):
            return None
        return self._transform.mixing

    def _mixed(self, images: torch.Tensor, targets: torch.Tensor, epoch: int, number: int) -> Batch:
        """Return the images and labels of batch `number`, mixed where they are to be."""
        mixing = self._mixing
        if mixing is None:
            return images, targets
        assert self._data_seed is not None
        mix = mixing.draw(images.shape[-1], mixed_seed("mix", self._data_seed, epoch, number))
        partners, others = images.flip(0), targets.flip(0)
        if self._world_size > 1:  # the partners follow the images
            own = len(targets) // 2
            images, targets, partners, others = (
                each[:own] for each in (images, targets, partners, others)
            )
        return mixed(images, partners, mix), mixing.soft_labels(targets, others, mix)

    def _noise(self, epoch: int, number: int, place: Place, chosen: Choices) -> torch.Tensor | None:
        """Draw the noise for `place` in batch `number`, float32 (B, H * W * 3).

        What erased rectangles are filled with goes to `chosen`, as "speckles".
        """
        if self._data_seed is None:
            return None
        assert isinstance(self._transform, Transform)
        if self._transform.erases_with_noise:
            draw = self._transform.draw_normal
            chosen["speckles"] = self._of_batch(draw, "erasing", epoch, number, place)
        if not self._transform.noise:
            return None
        return self._of_batch(self._transform.draw_noise, "noise", epoch, number, place)

    def _of_batch(
        self,
        draw: Callable[[int, torch.Generator], torch.Tensor],
        name: str,
        epoch: int,
        number: int,
        place: Place,
    ) -> torch.Tensor:
        """Draw for all of batch `number`, and return what is for `place`.

        Every process draws for the whole batch, so that its own part does not depend on how many
        processes there are.
        """
        generator = torch.Generator(self._device)
        assert self._data_seed is not None
        generator.manual_seed(mixed_seed(name, self._data_seed, epoch, number))
        start = number * self.batch_size
        here = tuple(slice(part.start - start, part.stop - start) for part in place)
        return _at(here, draw(self.batch_size, generator))


def _at(place: Place, values: torch.Tensor) -> torch.Tensor:
    """Return the values at a place; a view where it is in one piece."""
    parts = [values[part] for part in place]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class MemoryLoader(_Loader):
    """Yield batches of one uint8 array (N, H, W, 3), which is kept on the device.

    Args:
        size: the side that images are brought to, batch by batch; they are kept on the CPU then.
            None where they are kept as they are to be.
    """

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
        size: int | None = None,
    ):
        super().__init__(targets, transform, batch_size, device, data_seed, rank, world_size)
        self._size, self._home = size, "cpu" if size else device
        self._images = torch.from_numpy(images).to(self._home)
        self._targets = torch.from_numpy(targets).to(self._home)

    def _read(self, order: torch.Tensor, places: list[Place], epoch: int) -> Iterator[Batch]:
        order = order.to(self._home)
        for place in places:
            chosen = _at(place, order)
            images = self._images.index_select(0, chosen)
            images = at_size(images, self._size) if self._size else images
            yield images.to(self._device), self._targets.index_select(0, chosen).to(self._device)


def at_size(images: torch.Tensor, size: int) -> torch.Tensor:
    """Return images uint8 (B, H, W, 3) at (B, size, size, 3).

    On the CPU, whose pixels are not a GPU's: so they are the same wherever and whenever it is done.
    """
    if not len(images):
        return images.new_empty(0, size, size, 3)
    planes = functional.resize(images.permute(0, 3, 1, 2), [size, size], antialias=True)
    return planes.permute(0, 2, 3, 1).contiguous()


class StreamLoader(_Loader):
    """Yield batches of image files, read by worker processes and transformed on the device.

    The workers live as long as the loader. They read one epoch at a time: a new call of `batches`
    ends the one before.

    Args:
        paths: the image files, or parts of files, (N,).
        read: reads one file; its seed is None in an evaluation loader.
        num_workers: how many processes read; 0 for none but this one.
    """

    def __init__(
        self,
        paths: ImageFiles,
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

    def _read(self, order: torch.Tensor, places: list[Place], epoch: int) -> Iterator[Batch]:
        # Each copy of a repeated image has a seed of its own, the first one's is that without.
        copies = torch.arange(self.num_samples) % self._repeats
        images_and_copies = torch.stack([order, copies], 1)
        self._keys.start([_at(place, images_and_copies) for place in places], epoch)
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
        """Set what the next iteration yields: int64 (B, 2), number and copy, of each batch."""
        self._batches, self._epoch = batches, epoch

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = self._epoch
        for chosen in self._batches:
            yield [Key(image, self._seed(epoch, image, copy)) for image, copy in chosen.tolist()]

    def _seed(self, epoch: int, image: int, copy: int) -> int | None:
        if self._data_seed is None:
            return None
        return mixed_seed(self._data_seed, epoch, image, *([copy] if copy else []))


class _ImageFiles(Dataset[Batch]):
    """Read image files, a whole batch at a time, in a worker."""

    def __init__(self, paths: ImageFiles, targets: Targets, read: ImageReader):
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
