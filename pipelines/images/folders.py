"""Find images in folders by class: where the splits are, and which files they hold."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from pipelines.images.interfaces import Paths, Targets
from utils import UserError

LAYOUT = "train/<class>/* and test/<class>/* (or val/)"

# Size in bytes and time of the last change in ns: together they show that a file has changed. A
# plain tuple, because the key of the image cache is made of how it prints.
Stamp: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Files:
    """List the image files of one split, sorted by class and name.

    Attributes:
        root: the folder that holds the splits.
        split: the split's folder in it.
        paths: str, (N,).
        stamps: one for each path.
        targets: int64 (N,), places in the sorted names of the classes.
    """

    root: Path
    split: str
    paths: Paths
    stamps: tuple[Stamp, ...]
    targets: Targets


class Splits(NamedTuple):
    """List the classes and image files of a data set."""

    class_names: list[str]
    train: Files
    val: Files | None
    test: Files


def find_root(data_path: str | Path) -> Path:
    """Return the folder that holds train/: data_path, or the one folder in it that does.

    Raises:
        UserError: there is none, or several.
    """
    data_path = Path(data_path)
    if not data_path.is_dir():
        raise UserError(f"--data_path {data_path}: no such folder; it should hold {LAYOUT}")
    if (data_path / "train").is_dir():
        return data_path
    found = [folder for folder in _subfolders(data_path) if (folder / "train").is_dir()]
    if not found:
        raise UserError(
            f"--data_path {data_path}: there is no train/ in it; it should hold {LAYOUT}"
        )
    if len(found) > 1:
        names = ", ".join(map(str, found))
        raise UserError(
            f"--data_path {data_path}: several folders in it hold train/; give one of {names}"
        )
    return found[0]


def scan(root: Path) -> Splits:
    """List the image files under `root`, without reading them.

    val/ is the test set where there is no test/.

    Raises:
        UserError: a split or a class is missing or empty.
    """
    classes = [folder.name for folder in _subfolders(root / "train")]
    if len(classes) < 2:
        raise UserError(
            f"{root / 'train'}: has {len(classes)} class folder(s), at least two are needed"
        )
    train = _scan_split(root, "train", classes)
    has_val, has_test = (root / "val").is_dir(), (root / "test").is_dir()
    if not (has_val or has_test):
        raise UserError(f"{root}: there is neither test/ nor val/ in it; it should hold {LAYOUT}")
    test = _scan_split(root, "test" if has_test else "val", classes)
    val = _scan_split(root, "val", classes) if has_val and has_test else None
    return Splits(classes, train, val, test)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _scan_split(root: Path, split: str, classes: list[str]) -> Files:
    found: list[tuple[str, Stamp]] = []
    targets: list[int] = []
    for folder in _subfolders(root / split):
        if folder.name not in classes:
            raise UserError(f"{folder}: there is no class of that name in {root / 'train'}")
        images = sorted(_images_below(folder))
        if not images:
            raise UserError(f"{folder}: no images in it ({' '.join(IMG_EXTENSIONS)})")
        found += images
        targets += [classes.index(folder.name)] * len(images)
    if not found:
        raise UserError(f"{root / split}: no class folders in it; {root} should hold {LAYOUT}")
    paths, stamps = zip(*found, strict=True)
    return Files(root, split, np.array(paths, object), stamps, np.array(targets, np.int64))


def _images_below(folder: str | Path) -> Iterator[tuple[str, Stamp]]:
    """Yield the path and the stamp of every image below `folder`, but for hidden ones."""
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _images_below(entry.path)
        elif entry.name.lower().endswith(IMG_EXTENSIONS):
            stat = entry.stat()
            yield entry.path, (stat.st_size, stat.st_mtime_ns)
