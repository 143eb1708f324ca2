"""Write test sets as they are published, as small as they can be."""

from pathlib import Path

import numpy as np
from PIL import Image

_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_COUNTED = (
    "gaussian_noise shot_noise impulse_noise defocus_blur glass_blur motion_blur zoom_blur snow "
    "frost fog brightness contrast elastic_transform pixelate jpeg_compression"
)
CIFAR10, COUNTED = _CIFAR10.split(), _COUNTED.split()
EXTRA = ["speckle_noise", "gaussian_blur", "spatter", "saturate"]


def write_corrupted(folder: Path, size: int = 8, classes: int = 10) -> Path:
    """Write CIFAR-10-C: for each corruption five severities of `size` images, one after another."""
    folder.mkdir(parents=True)
    random = np.random.RandomState(0)
    np.save(folder / "labels.npy", np.tile(random.randint(0, classes, size), 5))
    for name in (*COUNTED, *EXTRA):
        images = random.randint(0, 256, (5 * size, 32, 32, 3)).astype(np.uint8)
        np.save(folder / f"{name}.npy", images)
    return folder


def write_cifar10_1(folder: Path, size: int = 9, version: str = "v6") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.RandomState(1)
    images = random.randint(0, 256, (size, 32, 32, 3)).astype(np.uint8)
    np.save(folder / f"cifar10.1_{version}_data.npy", images)
    np.save(folder / f"cifar10.1_{version}_labels.npy", np.arange(size) % 10)
    return folder


def write_classes(
    folder: Path, names: list[str], each: int = 1, size=(8, 8), seed: int = 2
) -> Path:
    """Write a folder of images for each class; the first image's first pixel tells the class."""
    random = np.random.RandomState(seed)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = random.randint(0, 256, (*size, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder
