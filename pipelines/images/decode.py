"""Image files to uint8 arrays: one file, a whole list, and the cache of a list on disk."""

import hashlib
import os
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from utils import UserError, one_at_a_time, progress_bar, replacing, usable_cpus

CACHE_FORMAT = 1  # part of the key: raise it when the same files would give other bytes
CHUNK = 64  # files per task of a thread; one at a time, small files cost more to hand out than read


def decode(path):
    """Any image file as a PIL image, RGB, turned upright as its EXIF data says.

    UserError where the file cannot be read as an image.
    """
    # torchvision's decode_jpeg gives the same pixels in half the time, but only for JPEG, and it
    # is deprecated and warns about that.
    try:
        with Image.open(path) as image:
            ImageOps.exif_transpose(image, in_place=True)
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
    """read(path, seed) -> uint8 (size, size, 3); the seed is not used.

    fit: bring the shorter side to `size` and take the middle. Without it, an image of another
    size is a UserError.
    """

    def __init__(self, size, fit):
        self.size, self.fit = size, fit

    def __call__(self, path, seed=None):
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
    """read(path, seed) -> uint8 (size, size, 3), as ImageNet classifiers are trained and tested.

    With a seed: random-resized crop and flip, drawn from that seed alone. Without: the shorter
    side to 256/224 of the size, then the middle.
    """

    def __init__(self, size):
        self.size = size
        self.random_crop = v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()])

    def __call__(self, path, seed=None):
        image = decode(path)
        if seed is None:
            return np.array(_middle(image, round(self.size * 256 / 224), self.size))
        # torchvision draws from the global generator; without workers that is also the one that
        # dropout uses. torch.manual_seed would reseed the GPU's too.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return np.array(self.random_crop(image))


def _middle(image, shorter_side, size):
    """PIL's own filter, which is antialiased."""
    return functional.center_crop(functional.resize(image, [shorter_side]), [size, size])


def common_size(path):
    """The side of a square image, for sets used at their own size; UserError if not square."""
    width, height = decode(path).size
    if height != width:
        raise UserError(f"{path}: {width}x{height} pixels, not square; give --resize")
    return height


def decode_all(paths, read, what, progress=True):
    """All images, as one uint8 array (N, read.size, read.size, 3), decoded by a pool of threads."""
    images = np.empty((len(paths), read.size, read.size, 3), np.uint8)

    def work(start):
        chosen = range(start, min(start + CHUNK, len(paths)))
        for i in chosen:
            images[i] = read(paths[i])
        return len(chosen)

    pool = ThreadPoolExecutor(usable_cpus())
    with pool, progress_bar(what, progress, total=len(paths), unit="image") as bar:
        for done in pool.map(work, range(0, len(paths), CHUNK)):
            bar.update(done)
    return images


def cached_images(files, read, progress=True):
    """The images of `files` (a folders.Files), and whether they came from the cache.

    The cache lies in the data folder, under a name made of everything that the bytes depend on.
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
                return _decode_into(path, prefix, files, read, progress), False
    return images, True


def _decode_into(path, prefix, files, read, progress):
    """The images of `files`, decoded; `path` takes the place of older caches, if it can."""
    what = f"decoding {len(files.paths):,} images of {Path(files.root, files.split)}"
    images = decode_all(files.paths, read, what, progress)
    try:
        _write_cache(path, images)
        for old in set(path.parent.glob(f"{prefix}*.npy")) - {path}:
            old.unlink(missing_ok=True)
    except OSError as error:
        print(f"warning: no image cache in {path.parent} ({error.strerror})", file=sys.stderr)
    return images


def _cache_key(files, read):
    names = [os.path.relpath(path, files.root) for path in files.paths]
    facts = repr((CACHE_FORMAT, read.fit, read.size, names, files.stamps))
    return hashlib.blake2b(facts.encode(), digest_size=12).hexdigest()


def _read_cache(path, shape):
    """The cached array, or None where there is none or it is damaged."""
    try:
        with open(path, "rb") as file:
            images = np.load(file, allow_pickle=False)
            checksum = file.read()
    except Exception:  # a damaged header can end in anything, MemoryError included
        return None
    intact = images.shape == shape and images.dtype == np.uint8 and checksum == _checksum(images)
    return images if intact else None


def _write_cache(path, images):
    """A .npy file with its checksum behind the array; whole or not at all, whoever else writes."""
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, images)
        file.write(_checksum(images))


def _checksum(images):
    return zlib.crc32(images).to_bytes(4, "little")
