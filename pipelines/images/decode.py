"""Decode image files into uint8 arrays: one file, a list of files, or a list by its disk cache."""

import hashlib
import os
import sys
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from pipelines.images.folders import Files
from pipelines.images.interfaces import ImageReader, Images, Paths
from utils import UserError, one_at_a_time, progress_bar, replacing, usable_cpus

CACHE_FORMAT = 1  # part of the key: raise it when the same files would give other bytes
CHUNK = 64  # files per task of a thread; one at a time, small files cost more to hand out than read


def decode(path: str | Path) -> Image.Image:
    """Decode any image file as a PIL image, RGB, turned upright as its EXIF data says.

    Raises:
        UserError: the file cannot be read as an image.
    """
    # torchvision's decode_jpeg gives the same pixels in half the time, but only for JPEG, and it
    # is deprecated and warns about that.
    try:
        with Image.open(path) as file:
            ImageOps.exif_transpose(file, in_place=True)
            image: Image.Image = file
            if image.mode.startswith("I;16"):  # PIL would clip 16 bits to 255: all white
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if image.mode == "P":  # straight to RGB, PIL warns about transparent palettes
                image = image.convert("RGBA")
            return image.convert("RGB")
    except Exception as error:  # PIL raises half a dozen kinds, by format and damage
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: cannot be read as an image ({reason}); replace or delete it"
        ) from None


class FolderReader:
    """Read an image file as uint8 (size, size, 3), without any augmentation.

    Args:
        size: the side of the result in pixels.
        fit: bring the shorter side to `size` and take the middle. Without it, an image of another
            size is a UserError.
    """

    def __init__(self, size: int, fit: bool):
        self.size, self.fit = size, fit

    def __call__(self, path: str, seed: int | None = None) -> Images:
        image = decode(path)
        if self.fit:
            image = _middle(image, self.size, self.size)
        elif image.size != (self.size, self.size):
            raise UserError(
                f"{path}: {image.width}x{image.height} pixels, where the first image has"
                f" {self.size}x{self.size}; give --resize"
            )
        return np.array(image)


class ImageNetReader:
    """Read an image file as uint8 (size, size, 3), as ImageNet classifiers are trained and tested.

    With a seed: random-resized crop and flip (Szegedy et al. 2015, arXiv 1409.4842), drawn from
    that seed alone. Without: the shorter side to 256/224 of the size, then the middle.
    """

    def __init__(self, size: int):
        self.size = size
        self.random_crop = v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()])

    def __call__(self, path: str, seed: int | None = None) -> Images:
        image = decode(path)
        if seed is None:
            return np.array(_middle(image, round(self.size * 256 / 224), self.size))
        # torchvision draws from the global generator; without workers that is also the one that
        # dropout uses. torch.manual_seed would reseed the GPU's too.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return np.array(self.random_crop(image))


def _middle(image: Image.Image, shorter_side: int, size: int) -> Image.Image:
    """Resize by PIL's own filter, which is antialiased, and cut out the middle (size, size)."""
    return functional.center_crop(functional.resize(image, [shorter_side]), [size, size])


def common_size(path: str | Path) -> int:
    """Return the side of a square image, for sets that are used at their own size.

    Raises:
        UserError: it is not square.
    """
    width, height = decode(path).size
    if height != width:
        raise UserError(f"{path}: {width}x{height} pixels, not square; give --resize")
    return height


def decode_all(
    paths: Paths | Sequence[str], read: ImageReader, what: str, progress: bool = True
) -> Images:
    """Decode all files with a pool of threads, as one array (N, read.size, read.size, 3).

    `what` is the label of the progress bar.
    """
    images = np.empty((len(paths), read.size, read.size, 3), np.uint8)

    def work(start: int) -> int:
        chosen = range(start, min(start + CHUNK, len(paths)))
        for i in chosen:
            images[i] = read(paths[i])
        return len(chosen)

    pool = ThreadPoolExecutor(usable_cpus())
    with pool, progress_bar(what, progress, total=len(paths), unit="image") as bar:
        for done in pool.map(work, range(0, len(paths), CHUNK)):
            bar.update(done)
    return images


# --- the cache ---


class CachedImages(NamedTuple):
    """Hold decoded images, (N, size, size, 3), and whether they came from the cache."""

    images: Images
    from_cache: bool


def cached_images(files: Files, read: FolderReader, progress: bool = True) -> CachedImages:
    """Return the images of `files`, from the cache or decoded and cached now.

    The cache is in the data folder, under a name made of everything that the bytes depend on.
    """
    folder = Path(files.root, ".cache")
    prefix = f"{files.split}-{read.size if read.fit else 'own'}-"
    path = folder / f"{prefix}{_cache_key(files, read)}.npy"
    shape = (len(files.paths), read.size, read.size, 3)
    images = _read_cache(path, shape)
    if images is None:
        with one_at_a_time(folder / f"{prefix}lock"):
            images = _read_cache(path, shape)  # by now another process may have written it
            if images is None:
                return CachedImages(_decode_into(path, prefix, files, read, progress), False)
    return CachedImages(images, True)


def _decode_into(
    path: Path, prefix: str, files: Files, read: FolderReader, progress: bool
) -> Images:
    """Decode `files`, and write the cache `path` in place of older ones, if that is possible."""
    what = f"decoding {len(files.paths):,} images of {Path(files.root, files.split)}"
    images = decode_all(files.paths, read, what, progress)
    try:
        _write_cache(path, images)
        for old in set(path.parent.glob(f"{prefix}*.npy")) - {path}:
            old.unlink(missing_ok=True)
    except OSError as error:
        print(f"warning: no image cache in {path.parent} ({error.strerror})", file=sys.stderr)
    return images


def _cache_key(files: Files, read: FolderReader) -> str:
    names = [os.path.relpath(path, files.root) for path in files.paths]
    facts = repr((CACHE_FORMAT, read.fit, read.size, names, files.stamps))
    return hashlib.blake2b(facts.encode(), digest_size=12).hexdigest()


def _read_cache(path: Path, shape: tuple[int, ...]) -> Images | None:
    """Return the cached array; None where there is none or it is damaged."""
    try:
        with open(path, "rb") as file:
            images = np.load(file, allow_pickle=False)
            checksum = file.read()
    except Exception:  # a damaged header can end in anything, MemoryError included
        return None
    intact = images.shape == shape and images.dtype == np.uint8 and checksum == _checksum(images)
    return images if intact else None


def _write_cache(path: Path, images: Images) -> None:
    """Write a .npy file with its checksum behind the array.

    It appears whole or not at all, also while other processes write.
    """
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, images)
        file.write(_checksum(images))


def _checksum(images: Images) -> bytes:
    return zlib.crc32(images.data).to_bytes(4, "little")
