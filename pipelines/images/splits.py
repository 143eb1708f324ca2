"""The splits of a data set, as arrays or as files, and what is done with either alike."""

import hashlib
import os
from dataclasses import dataclass, replace

import numpy as np
import torch

from pipelines.images.loaders import MemoryLoader, StreamLoader
from utils import UserError, mixed_seed, progress_bar, usable_cpus

STATISTICS_IMAGES = 50_000  # mean and std of more images than this are not worth the reading
DIGEST_IMAGES = 10_000  # nor more pixels, to tell one data set from another


@dataclass
class ArraySplit:
    """images: uint8 (N, H, W, 3); targets: int64 (N,)."""

    images: np.ndarray
    targets: np.ndarray

    def subset(self, index):
        return ArraySplit(self.images[index], self.targets[index])

    def digest(self):
        """Of all targets, and of evenly spaced images."""
        chosen = self.images[:: -(-len(self.images) // DIGEST_IMAGES)]
        return _digest(self.targets.tobytes(), np.ascontiguousarray(chosen))

    def loader(self, transform, batch_size, device, num_workers, data_seed=None, **ranks):
        """num_workers is for files only; ranks: rank and world_size, where there are several."""
        return MemoryLoader(
            self.images, self.targets, transform, batch_size, device, data_seed, **ranks
        )


@dataclass
class FileSplit:
    """paths: array of str (N,); targets: int64 (N,); read(path, seed) -> uint8 (H, W, 3)."""

    paths: np.ndarray
    targets: np.ndarray
    read: object

    def digest(self):
        """Of all targets, and of the names of files and their folders."""
        names = ["/".join(path.split(os.sep)[-2:]) for path in self.paths]
        return _digest(self.targets.tobytes(), "\n".join(names).encode())

    def subset(self, index):
        return replace(self, paths=self.paths[index], targets=self.targets[index])

    def loader(self, transform, batch_size, device, num_workers, data_seed=None, **ranks):
        return StreamLoader(
            self.paths,
            self.targets,
            self.read,
            transform,
            batch_size,
            device,
            usable_cpus() if num_workers is None else num_workers,
            data_seed,
            **ranks,
        )


def _digest(*parts):
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def hold_out(targets, fraction, seed):
    """Indices (kept, held): `fraction` of every class is held, drawn by `seed` alone.

    UserError where a class would keep nothing, or nothing at all would be held.
    """
    # RandomState, not default_rng: its stream is frozen, a split outlives numpy's versions.
    random = np.random.RandomState(mixed_seed(seed) % 2**32)
    held = []
    for target, size in enumerate(np.bincount(targets)):
        count = round(fraction * size)
        if size and count == size:
            raise UserError(
                f"--val_fraction {fraction}: would leave no training image of class {target},"
                f" which has {size}; give less"
            )
        members = np.flatnonzero(targets == target)
        held.append(random.permutation(members)[:count])
    held = np.sort(np.concatenate(held))
    if not len(held):
        raise UserError(f"--val_fraction {fraction}: holds out no image of any class; give more")
    return np.setdiff1d(np.arange(len(targets)), held), held


def statistics(split, num_workers, progress):
    """Mean and standard deviation per channel of pixels scaled to 0..1, as two tuples.

    Of evenly spaced images where there are more than STATISTICS_IMAGES: the same ones whether
    they are in memory or not, so that results do not depend on the machine's memory.
    """
    step = -(-len(split.targets) // STATISTICS_IMAGES)
    loader = split.subset(slice(None, None, step)).loader(_pixels, 256, "cpu", num_workers)
    batches = loader.batches(0)
    if isinstance(split, FileSplit):  # out of memory it takes a second
        what = f"mean and std of {loader.num_samples:,} training images"
        batches = progress_bar(what, progress, batches, total=len(loader), unit="batch")
    count, total, squares = 0, 0, 0
    for pixels, _ in batches:
        pixels = pixels.view(-1, 3).double()
        count += len(pixels)
        total += pixels.sum(0)
        squares += pixels.square().sum(0)
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    std = torch.where(std > 0, std, 255)  # a channel that never varies is only centred
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def _pixels(pixels, choices, noise):
    return pixels


def memory_at_hand(device):
    """Bytes free for data: in RAM, and on the device where it has memory of its own."""
    try:
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":") for line in file)
        free = 1024 * int(fields["MemAvailable"].split()[0])
    except OSError:  # not Linux
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if torch.device(device).type == "cuda":
        free = min(free, torch.cuda.mem_get_info(device)[0])
    return free


def fits_in_memory(images, size, device):
    """Whether that many images of size x size take at most a quarter of the memory at hand."""
    return images * size * size * 3 <= memory_at_hand(device) / 4
