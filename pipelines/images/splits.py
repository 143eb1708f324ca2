"""Hold the splits of a data set, as arrays or as files, and do what is done with either alike."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from pipelines.images.interfaces import (
    Choices,
    Device,
    ImageFiles,
    ImageReader,
    Images,
    Indices,
    Targets,
)
from pipelines.images.loaders import MemoryLoader, PixelFunction, StreamLoader, at_size
from utils import local_world_size, progress_bar, usable_cpus

STATISTICS_IMAGES = 50_000  # mean and std of more images than this are not worth the reading
DIGEST_IMAGES = 10_000  # nor more pixels, to tell one data set from another
CHECKED_IMAGES = 1000  # nor more images, to see that they are not all of one colour
Constant: TypeAlias = npt.NDArray[np.bool_]  # (3,): of each channel, whether it is constant
CHANNELS = ("red", "green", "blue")


@dataclass(frozen=True)
class ArraySplit:
    """Hold a split in memory: images uint8 (N, H, W, 3) and targets int64 (N,).

    Attributes:
        files: what the images were decoded from, (N,); None where they were not files.
        size: the side that they are brought to whenever they are read, where memory is too small
            for images of that size; None where they have it.
    """

    images: Images
    targets: Targets
    files: ImageFiles | None = None
    size: int | None = None

    def subset(self, index: Indices | slice) -> "ArraySplit":
        """Return the split of the chosen images."""
        files = None if self.files is None else self.files[index]
        return replace(self, images=self.images[index], targets=self.targets[index], files=files)

    def image(self, number: int) -> Images:
        """Return one image, (H, W, 3)."""
        return self._read(slice(number, number + 1))[0]

    def _read(self, index: slice) -> Images:
        images = self.images[index]
        return at_size(torch.from_numpy(images), self.size).numpy() if self.size else images

    def digest(self) -> str:
        """Return a hash of all targets and of evenly spaced images, or of their files' names.

        It is of names where there are files, since those that do not fit into another machine's
        memory are streamed there, and the run goes on. Should their pixels change, the mean and
        standard deviation do, which are compared as well.
        """
        if self.files is not None:
            return _digest_of_files(self.files, self.targets)
        step = -(-len(self.images) // DIGEST_IMAGES)
        chosen = (self.image(number).tobytes() for number in range(0, len(self.images), step))
        return _digest(self.targets.tobytes(), *chosen)

    def loader(
        self,
        transform: PixelFunction,
        batch_size: int,
        device: Device,
        num_workers: int | None,
        data_seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> MemoryLoader:
        """Make a loader of the images; num_workers is for files only."""
        return MemoryLoader(
            self.images,
            self.targets,
            transform,
            batch_size,
            device,
            data_seed,
            rank=rank,
            world_size=world_size,
            size=self.size,
        )


@dataclass(frozen=True)
class FileSplit:
    """Hold a split as files, or parts of files (N,), targets int64 (N,) and what reads a file."""

    files: ImageFiles
    targets: Targets
    read: ImageReader

    def subset(self, index: Indices | slice) -> "FileSplit":
        """Return the split of the chosen images."""
        return replace(self, files=self.files[index], targets=self.targets[index])

    def image(self, number: int) -> Images:
        """Return one image, (H, W, 3), read without augmentation."""
        return self.read(self.files[number])

    def digest(self) -> str:
        """Return a hash of all targets and of the names of files and their folders."""
        return _digest_of_files(self.files, self.targets)

    def loader(
        self,
        transform: PixelFunction,
        batch_size: int,
        device: Device,
        num_workers: int | None,
        data_seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> StreamLoader:
        """Make a loader of the files; num_workers is None for one per processor."""
        return StreamLoader(
            self.files,
            self.targets,
            self.read,
            transform,
            batch_size,
            device,
            usable_cpus() if num_workers is None else num_workers,
            data_seed,
            rank=rank,
            world_size=world_size,
        )


Split: TypeAlias = ArraySplit | FileSplit


def _digest_of_files(files: ImageFiles, targets: Targets) -> str:
    """Return a hash that is the same for the same files and targets, wherever the files are."""
    if not isinstance(files, np.ndarray):
        return _digest(targets.tobytes(), files.identity())
    names = ["/".join(path.split(os.sep)[-2:]) for path in files]
    return _digest(targets.tobytes(), os.fsencode("\n".join(names)))


def _digest(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


class Statistics(NamedTuple):
    """Hold mean and standard deviation of each channel, of pixels scaled to 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def statistics(split: Split, num_workers: int | None, progress: bool) -> Statistics:
    """Measure the mean and standard deviation of each channel.

    Where there are more than STATISTICS_IMAGES, evenly spaced ones are measured: the same whether
    they are in memory or not, so that results do not depend on the machine's memory.
    """
    step = -(-len(split.targets) // STATISTICS_IMAGES)
    loader = split.subset(slice(None, None, step)).loader(_pixels, 256, "cpu", num_workers)
    batches = loader.batches(0)
    if isinstance(split, FileSplit):  # out of memory it takes a second
        what = f"mean and std of {loader.num_samples:,} training images"
        batches = progress_bar(what, progress, batches, total=len(loader), unit="batch")
    count = 0
    total, squares = torch.zeros(2, 3, dtype=torch.float64)
    for pixels, _ in batches:
        values = pixels.view(-1, 3).double()  # (B * H * W, 3)
        count += len(values)
        total += values.sum(0)
        squares += values.square().sum(0)
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    std = torch.where(std > 0, std, 255)  # a channel that never varies is only centred
    return Statistics(tuple((mean / 255).tolist()), tuple((std / 255).tolist()))


def _pixels(pixels: torch.Tensor, choices: Choices, noise: torch.Tensor | None) -> torch.Tensor:
    return pixels


def constant_channels(split: Split) -> dict[str, int]:
    """Return the channels that have one value in all pixels of all images, with that value.

    Of more than CHECKED_IMAGES images evenly spaced ones are looked at, and all of them if these
    are of one colour. In most sets the first image is enough.
    """
    count = len(split.targets)
    step = -(-count // CHECKED_IMAGES)
    first = split.image(0)[0, 0]  # (3,)

    def is_constant(numbers: range, goes_on: Callable[[Constant], np.bool_]) -> Constant:
        constant = np.ones(3, bool)
        for number in numbers:
            constant &= (split.image(number) == first).all((0, 1))
            if not goes_on(constant):
                break
        return constant

    constant = is_constant(range(0, count, step), np.any)
    if constant.all() and step > 1:
        constant = is_constant(range(count), np.all)
    values = zip(CHANNELS, first.tolist(), constant, strict=True)
    return {name: value for name, value, is_one in values if is_one}


# --- memory ---


def available_memory(device: Device) -> int:
    """Return the bytes that are free for this process's data.

    They are its share of the RAM that is free, or what is free on the device if that is less.
    """
    try:
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":") for line in file)
        free = 1024 * int(fields["MemAvailable"].split()[0])
    except OSError:  # not Linux
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free //= local_world_size()
    if torch.device(device).type == "cuda":
        free = min(free, torch.cuda.mem_get_info(device)[0])
    return free


def fits_in_memory(images: int, size: int, device: Device) -> bool:
    """Return whether so many images of size x size take at most a quarter of the free memory."""
    return images * size * size * 3 <= available_memory(device) / 4
