"""Read image files at the size of the network's input: one file, or a list of files."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from cli.augmentation import DEFAULT_MIN_SCALE
from pipelines.images.decode import decode
from pipelines.images.interfaces import ImageFile, ImageFiles, ImageReader, Images
from utils import UserError, progress_bar, usable_cpus

CHUNK = 64  # files per task of a thread; one at a time, small files cost more to hand out than read
ELONGATED = 4  # times as long as wide: from here on an image is cut before it is scaled


class FolderReader:
    """Read an image file as uint8 (size, size, 3), without any augmentation.

    Args:
        size: the side of the result in pixels.
        fit: bring the shorter side to `size` and take the middle. Without it, an image of another
            size is a UserError.
    """

    def __init__(self, size: int, fit: bool):
        self.size, self.fit = size, fit

    def __call__(self, file: ImageFile, seed: int | None = None) -> Images:
        image = decode(file)
        if self.fit:
            image = _middle(image, self.size, self.size)
        elif image.size != (self.size, self.size):
            raise UserError(
                f"{file}: {image.width}x{image.height} pixels, where the first image has"
                f" {self.size}x{self.size}; give --resize"
            )
        return np.array(image)


class ImageNetReader:
    """Read an image file as uint8 (size, size, 3), as ImageNet classifiers are trained and tested.

    With a seed: random-resized crop and flip (Szegedy et al. 2015, arXiv 1409.4842), drawn from
    that seed alone. Without: the shorter side to 256/224 of the size, then the middle.

    Args:
        size: the side of the result in pixels.
        shorter_side: that of an image before its middle is cut out, in pixels.
        interpolation: how an image is brought to a size, "bilinear" or "bicubic".
        min_scale: the least share of the area that a random crop has.
    """

    def __init__(
        self,
        size: int,
        shorter_side: int | None = None,
        interpolation: str = "bilinear",
        min_scale: float = DEFAULT_MIN_SCALE,
    ):
        self.size = size
        self.shorter_side = round(size * 256 / 224) if shorter_side is None else shorter_side
        self.interpolation = InterpolationMode(interpolation)
        crop = v2.RandomResizedCrop(size, (min_scale, 1.0), interpolation=self.interpolation)
        self.random_crop = v2.Compose([crop, v2.RandomHorizontalFlip()])

    def __call__(self, file: ImageFile, seed: int | None = None) -> Images:
        image = decode(file)
        if seed is None:
            return np.array(_middle(image, self.shorter_side, self.size, self.interpolation))
        # torchvision draws from the global generator; without workers that is also the one that
        # dropout uses. torch.manual_seed would reseed the GPU's too.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return np.array(self.random_crop(image))


def _middle(
    image: Image.Image,
    shorter_side: int,
    size: int,
    interpolation: InterpolationMode = InterpolationMode.BILINEAR,
) -> Image.Image:
    """Resize by PIL's own filter, which is antialiased, and cut out the middle (size, size)."""
    image = _shortened(image)
    resized = functional.resize(image, [shorter_side], interpolation)
    return functional.center_crop(resized, [size, size])


def _shortened(image: Image.Image) -> Image.Image:
    """Cut what is far from the middle off an elongated image: 20,000 x 1 pixels become 4 x 1.

    Scaled whole, that image would take 4.6 GiB at 224 pixels.
    """
    width, height = image.size
    longest = ELONGATED * min(width, height)
    # What is cut off is an even number of pixels, so that the middle stays where it is.
    keep = [side - 2 * max(0, (side - longest) // 2) for side in (height, width)]
    return functional.center_crop(image, keep) if keep != [height, width] else image


def common_size(file: ImageFile) -> int:
    """Return the side of a square image, for sets that are used at their own size.

    Raises:
        UserError: it is not square.
    """
    width, height = decode(file).size
    if height != width:
        raise UserError(f"{file}: {width}x{height} pixels, not square; give --resize")
    return height


def decode_all(
    files: ImageFiles | Sequence[str], read: ImageReader, what: str, progress: bool = True
) -> Images:
    """Decode all files, as one array (N, read.size, read.size, 3).

    `what` is the label of the progress bar.
    """
    images = np.empty((len(files), read.size, read.size, 3), np.uint8)

    def work(i: int) -> None:
        images[i] = read(files[i])

    for_each(len(files), work, what, progress)
    return images


def for_each(
    count: int,
    work: Callable[[int], None],
    what: str,
    progress: bool,
    unit: str = "image",
    chunk: int = CHUNK,
) -> None:
    """Call work(0), ..., work(count - 1) in a pool of threads; `what` labels the progress bar."""

    def work_through(start: int) -> int:
        chosen = range(start, min(start + chunk, count))
        for i in chosen:
            work(i)
        return len(chosen)

    pool = ThreadPoolExecutor(usable_cpus())
    with pool, progress_bar(what, progress, total=count, unit=unit) as bar:
        for done in pool.map(work_through, range(0, count, chunk)):
            bar.update(done)
