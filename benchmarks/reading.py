"""Measure the rate of streamed JPEGs, from each form, against torchvision's DataLoader.

All arms read the same images, of a photo's size, in an order of their own, crop them as ImageNet's
and give normalised batches on the device.
"""

import functools
import importlib
import io
import shutil
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.tables import print_rates
from benchmarks.timing import Call, interleaved
from cli.datasets import PUBLISHED
from dataset import load_images
from pipelines.data import ImageData
from training.task import Batch
from utils import usable_cpus

PHOTO = (500, 375)  # pixels: about ImageNet's median
IMAGES, CLASSES, TEST = 512, 4, 8
SHARDS = 4
SIZE = 224


def measure(batch_size: int, rounds: int, device: torch.device) -> None:
    """Write photos in every form, stream an epoch of each in turn, and print the rates."""
    workers = usable_cpus()
    with tempfile.TemporaryDirectory() as path:
        root = Path(path)
        write_forms(root)
        theirs = torchvision_loader(root / "folder/train", batch_size, workers)
        ours = {
            "a folder": ours_from("imagefolder", root / "folder", batch_size, workers, device),
            "shards": ours_from("wds/shards", root, batch_size, workers, device),
            "Arrow files": ours_from("hf/saved", root, batch_size, workers, device),
        }

        def read(batches: Iterable[Batch]) -> None:
            for images, _ in batches:
                images.to(device)

        def epoch_of(data: ImageData) -> None:
            read(data.train.batches(1))

        base = "torchvision's DataLoader, a folder"
        calls: dict[str, Call] = {base: lambda: read(theirs)}
        for name, data in ours.items():
            calls[f"this project, {name}"] = functools.partial(epoch_of, data)
        times = interleaved(calls, rounds, device)
    print(f"\nStreamed: {IMAGES} JPEGs of {PHOTO[0]}x{PHOTO[1]}, random-resized crop to {SIZE},"
          f" flip, {workers} workers")  # fmt: skip
    print_rates(times, IMAGES, "images", base)


def torchvision_loader(
    folder: Path, batch_size: int, workers: int
) -> torch.utils.data.DataLoader[Batch]:
    """Return a loader as torchvision's reference scripts have it, crop and flip on PIL images."""
    mean, std = PUBLISHED["imagenet"]
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean, std),
        ]
    )
    return torch.utils.data.DataLoader(
        ImageFolder(folder, transform), batch_size, shuffle=True, num_workers=workers,
        persistent_workers=workers > 0,
    )  # fmt: skip


def ours_from(
    name: str, data_path: Path, batch_size: int, workers: int, device: torch.device
) -> ImageData:
    return load_images(
        name, str(data_path), batch_size=batch_size, num_workers=workers, device=device,
        resize=SIZE, crop="imagenet", progress=False, normalisation=PUBLISHED["imagenet"],
    )  # fmt: skip


# --- the images ---


def write_forms(root: Path) -> None:
    """Write the images to folder/, the shards to shards/, and a saved data set to saved/."""
    folder = root / "folder"
    write_photos(folder)
    write_shards(folder, root / "shards")
    datasets = importlib.import_module("datasets")  # slow, and needed here alone
    datasets.disable_progress_bars()
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(num_classes=CLASSES)
    )
    saved = {}
    for split in ("train", "test"):
        paths = sorted((folder / split).glob("*/*"))
        columns = {
            "image": [{"bytes": path.read_bytes(), "path": path.name} for path in paths],
            "label": [int(path.parent.name) for path in paths],
        }
        saved[split] = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict(saved).save_to_disk(str(root / "saved"))


def write_photos(folder: Path) -> None:
    """Write JPEGs with the detail of photos: a few, again and again, since making them is slow."""
    random = np.random.RandomState(0)
    small = [random.randint(0, 256, (94, 125, 3)).astype(np.uint8) for _ in range(TEST)]
    for split, count in (("train", IMAGES), ("test", TEST)):
        for number in range(count):
            path = folder / split / str(number % CLASSES) / f"{number:04}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            first = folder / split / str(number % CLASSES) / f"{number % TEST:04}.jpg"
            if number >= TEST:
                shutil.copyfile(first, path)
                continue
            Image.fromarray(small[number]).resize(PHOTO, Image.Resampling.BICUBIC).save(path)


def write_shards(folder: Path, out: Path) -> None:
    out.mkdir()
    for split in ("train", "test"):
        paths = sorted((folder / split).glob("*/*"))
        for shard in range(SHARDS):
            with tarfile.open(out / f"{split}-{shard:03}.tar", "w") as tar:
                for path in paths[shard::SHARDS]:
                    tar.add(path, f"{path.stem}.jpg")
                    label = tarfile.TarInfo(f"{path.stem}.cls")
                    label.size = len(path.parent.name)
                    tar.addfile(label, io.BytesIO(path.parent.name.encode()))
