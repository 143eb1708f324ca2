"""Find images in folders by class: where the splits are, and which files they hold."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipelines.images.interfaces import ImageFiles, Targets
from pipelines.stamps import Stamp, stamp, stamp_of
from utils import UserError, printable

LAYOUT = "train/<class>/* and test/<class>/* (or val/, valid/, validation/)"
KINDS = 8  # of files that are passed over, in a line
VAL_NAMES = ("val", "valid", "validation")
# Formats that Pillow knows by name, but does not decode, or not without other programs.
NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


@dataclass(frozen=True)
class Files:
    """List the images of one split: files of their own, or parts of larger files.

    Attributes:
        root: the folder that holds the splits.
        split: the split's folder in it, or its name.
        images: paths, or parts of `holders`, (N,).
        stamps: one for each of `paths`.
        targets: int64 (N,), places in the names of the classes.
        holders: the files that hold the images; None where each is a file of its own.
    """

    root: Path
    split: str
    images: ImageFiles
    stamps: tuple[Stamp, ...]
    targets: Targets
    holders: tuple[str, ...] | None = None

    @property
    def folder(self) -> Path:
        return self.root / self.split

    def names(self) -> list[str]:
        """Return each path from the root, or the names of the parts."""
        if not isinstance(self.images, np.ndarray):
            return self.images.names()
        start = len(os.path.join(self.root, ""))  # os.path.relpath takes 20 times as long
        return [path[start:] for path in self.images]

    @property
    def paths(self) -> Sequence[str]:
        """Return the path of each file that is read."""
        return self.images if self.holders is None else self.holders  # type: ignore[return-value]

    def subset(self, chosen: npt.NDArray[np.bool_]) -> "Files":
        """Return the images that are chosen, (N,)."""
        stamps = self.stamps
        if self.holders is None:
            stamps = tuple(each for each, keep in zip(stamps, chosen, strict=True) if keep)
        images, targets = self.images[chosen], self.targets[chosen]
        return replace(self, images=images, stamps=stamps, targets=targets)


class Splits(NamedTuple):
    """List the classes and image files of a data set.

    Attributes:
        class_names: names of folders, in order.
        train, val, test: the files; val is None where there is no split of that name.
        passed_over: says in one line what else is there and is not read; may be empty.
        origin: where they were found.
    """

    class_names: list[str]
    train: Files
    val: Files | None
    test: Files
    passed_over: str
    origin: str


class OneSplit(NamedTuple):
    """List the classes and image files of a split that is tested on alone.

    Attributes:
        class_names: in order; the targets are places in them.
        files: the images.
        origin: where they were found.
    """

    class_names: list[str]
    files: Files
    origin: str


@dataclass
class _Found:
    """Collect what a walk through folders finds.

    Attributes:
        images: path and stamp of each image.
        others: how many files there are of each other ending.
    """

    images: list[tuple[str, Stamp]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


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


def test_folder(data_path: Path) -> Path:
    """Return the folder with the classes to test on: test/, else val/, else the only one there is.

    It is in data_path or in the one folder of it that has splits, else data_path itself.

    Raises:
        UserError: several folders in it have splits.
    """
    names = ("test", *VAL_NAMES, "train")
    folders = [data_path, *_subfolders(data_path)]
    splits = [[each / name for name in names if (each / name).is_dir()] for each in folders]
    found = [each for each in splits if each]
    if splits[0] or not found:
        return splits[0][0] if splits[0] else data_path
    if len(found) > 1:
        roots = ", ".join(str(each[0].parent) for each in found)
        raise UserError(f"{data_path}: several folders in it hold splits; give one of {roots}")
    return found[0][0]


def scan(root: Path) -> Splits:
    """List the image files under `root`, without reading them.

    val/ is the test set where there is no test/.

    Raises:
        UserError: a split or a class is missing or empty, or val/ is there twice.
    """
    classes = [folder.name for folder in _subfolders(root / "train")]
    if len(classes) < 2:
        raise UserError(
            f"{root / 'train'}: has {len(classes)} class folder(s), at least two are needed"
        )
    others: Counter[str] = Counter()

    def split(name: str) -> Files:
        return _scan_split(root, name, classes, others)

    train = split("train")
    has_test, val_name = (root / "test").is_dir(), _val_name(root)
    if not (val_name or has_test):
        raise UserError(f"{root}: there is neither test/ nor val/ in it; it should hold {LAYOUT}")
    test = split("test" if has_test else str(val_name))
    val = split(val_name) if val_name and has_test else None
    used = {files.split for files in (train, test, val) if files}
    folders = [folder.name for folder in _subfolders(root) if folder.name not in used]
    where = printable(str(root))
    return Splits(
        [printable(name) for name in classes], train, val, test, _line(others, folders), where
    )


def _val_name(root: Path) -> str | None:
    names = [name for name in VAL_NAMES if (root / name).is_dir()]
    # A folder that is there already under one of the newer names need not be a split.
    names = [name for name in names if name == VAL_NAMES[0] or _subfolders(root / name)]
    if len(names) > 1:
        raise UserError(f"{root}: holds both {names[0]}/ and {names[1]}/; keep one of them there")
    return names[0] if names else None


def _line(others: Counter[str], folders: list[str]) -> str:
    """Say what is passed over; "" if nothing is."""
    parts = []
    if others:
        endings = ", ".join(f"{count:,} {ending}" for ending, count in others.most_common(KINDS))
        more = ", ..." if len(others) > KINDS else ""
        parts.append(f"{others.total():,} files ({endings}{more})")
    if folders:
        more = ", ..." if len(folders) > KINDS else ""
        parts.append(f"folders that are no split ({', '.join(folders[:KINDS])}{more})")
    return " and ".join(parts)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _scan_split(root: Path, split: str, classes: list[str], others: Counter[str]) -> Files:
    """List the images of a split, and count in `others` what else is in its folder."""
    found: list[tuple[str, Stamp]] = []
    targets: list[int] = []
    endings = image_endings()
    for folder in _subfolders(root / split):
        if folder.name not in classes:
            raise UserError(f"{folder}: there is no class of that name in {root / 'train'}")
        here = _images_in(folder, endings)
        found += sorted(here.images)
        targets += [classes.index(folder.name)] * len(here.images)
        others.update(here.others)
    if not found:
        raise UserError(f"{root / split}: no class folders in it; {root} should hold {LAYOUT}")
    loose = [_ending(entry.name) for entry in _visible(root / split) if not entry.is_dir()]
    others.update("image outside of a class's folder" if x in endings else x for x in loose)
    paths, stamps = zip(*found, strict=True)
    return Files(root, split, np.array(paths, object), stamps, np.array(targets, np.int64))


def scan_classes(folder: Path, targets: dict[str, int]) -> Files:
    """List the image files in folders of `folder`, which has no splits.

    Args:
        folder: it holds a folder for each class.
        targets: the class of the images in each folder, by the folder's name.

    Raises:
        UserError: a folder has no images.
    """
    endings = image_endings()
    found: list[tuple[str, Stamp]] = []
    numbers: list[int] = []
    for name, target in targets.items():
        here = _images_in(folder / name, endings)
        found += sorted(here.images)
        numbers += [target] * len(here.images)
    paths, stamps = zip(*found, strict=True)
    place = folder.absolute()
    return Files(
        place.parent, place.name, np.array(paths, object), stamps, np.array(numbers, np.int64)
    )


def class_folders(folder: Path) -> list[str]:
    """Return the names of the folders in `folder`, in order."""
    return [each.name for each in _subfolders(folder)]


def image_endings() -> frozenset[str]:
    """Return the endings, ".jpg" for example, of the files that Pillow decodes."""
    Image.init()
    opened = {*Image.OPEN, "MPO"}  # JPEG's plugin opens MPO
    return frozenset(
        ending
        for ending, name in Image.registered_extensions().items()
        if name in opened - NOT_DECODED
    )


def _images_in(folder: Path, endings: frozenset[str]) -> _Found:
    """Return what a walk through the folder of a class finds.

    Raises:
        UserError: it has no images.
    """
    here = _Found()
    _walk(folder, endings, here)
    if not here.images:
        raise UserError(f"{folder}: no images in it (endings {' '.join(sorted(endings))})")
    return here


def _walk(folder: str | Path, endings: frozenset[str], found: _Found) -> None:
    """Add to `found` every file below `folder`, but for hidden ones."""
    for entry in _visible(folder):
        if entry.is_dir():
            _walk(entry.path, endings, found)
        elif _ending(entry.name) not in endings:
            found.others[_ending(entry.name)] += 1
        elif entry.is_file():
            found.images.append((entry.path, stamp(entry.stat())))
        elif entry.is_symlink():  # to nowhere: broken, not another kind of file
            found.images.append((entry.path, stamp_of(entry.path)))
        else:
            found.others["no plain file"] += 1  # a pipe, which would be waited for


def _visible(folder: str | Path) -> list["os.DirEntry[str]"]:
    return [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]


def _ending(name: str) -> str:
    stem, _, ending = name.rpartition(".")
    return f".{ending.lower()}" if stem else "without an ending"
