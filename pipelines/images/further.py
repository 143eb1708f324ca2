"""Find the test sets of --also_test, and make loaders with the run's size and normalisation.

A set is matched to the classes that the network was trained on, by their names where these are
known. Everything that can be missing or broken is looked at here, before a training begins; memory
is taken while a set is evaluated, and given back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cli.datasets import LONG_TAILED, holds_encoded_images, source_name
from cli.further_tests import FOLDER, PUBLISHED_TESTS, Asked, asked_for, with_split
from cli.vision import VisionDataConfig
from pipelines.data import FurtherTest, ImageData
from pipelines.images import (
    cache,
    class_maps,
    folders,
    hugging_face,
    shards,
    torchvision_sets,
)
from pipelines.images.augment import Transform
from pipelines.images.broken import are_broken
from pipelines.images.interfaces import Batch, Device, ImageReader, Images, Targets
from pipelines.images.labels import matched
from pipelines.images.load import imagenet_reader, read_test_arrays, resized
from pipelines.images.loaders import ImageLoader
from pipelines.images.readers import FolderReader, ImageNetReader
from pipelines.images.splits import ArraySplit, FileSplit, Split, fits_in_memory
from utils import UserError, printable, warn

# In the order of Hendrycks and Dietterich's table (2019, arXiv 1903.12261), whose mean is over
# these; the four behind them were for validation.
CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur",
    "zoom_blur", "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate",
    "jpeg_compression",
)  # fmt: skip
EXTRA_CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
SEVERITIES = 5
IMAGENET_CLASSES = 1000
HUBS = ("hf", "wds")


@dataclass(frozen=True)
class Place:
    """Say where and how loaders are made.

    Attributes:
        config: of the run's data.
        data: what the network is trained on; its size, normalisation and classes count.
        device, num_workers, rank, world_size: as for the run's own loaders.
        progress: show a bar while images are read.
    """

    config: VisionDataConfig
    data: ImageData
    device: Device
    num_workers: int | None
    rank: int
    world_size: int
    progress: bool

    @property
    def size(self) -> int:
        """Return the side in pixels of the images that the network is tested on."""
        return self.config.test_size or self.data.image_size

    def loader(self, split: Split) -> ImageLoader:
        """Return a loader of the images as they are, in their order."""
        transform = Transform(self.data.mean, self.data.std, self.size, self.device)
        return split.loader(
            transform, self.config.batch_size, self.device, self.num_workers, None,
            self.rank, self.world_size,
        )  # fmt: skip


class LateLoader:
    """Make a loader when its batches are asked for, and let go of it afterwards.

    Args:
        split: returns the images.
        num_samples: how many they are.
        place: where the loader is made.
    """

    def __init__(self, split: Callable[[], Split], num_samples: int, place: Place):
        self._split, self._place = split, place
        self.num_samples, self.batch_size = num_samples, place.config.batch_size

    def __len__(self) -> int:
        return -(-self.num_samples // self.batch_size)

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the batches from number `first` on: images and targets."""
        yield from self._place.loader(self._split()).batches(epoch, first)


def further_tests(
    config: VisionDataConfig,
    data: ImageData,
    *,
    device: Device = "cpu",
    num_workers: int | None = None,
    progress: bool = True,
    rank: int = 0,
    world_size: int = 1,
) -> dict[str, FurtherTest]:
    """Return the test sets that the configuration asks for, by name.

    Args:
        config: of the run's data.
        data: what the network is trained on.
        device: where batches are made.
        num_workers: as for `load_images`.
        progress: show a bar while images are read.
        rank, world_size: this process's share of each batch.

    Raises:
        UserError: files are missing or broken, or of other classes.
    """
    place = Place(config, data, device, num_workers, rank, world_size, progress)
    return {asked.name: _further_test(asked, place) for asked in asked_for(config.also_test)}


def _further_test(asked: Asked, place: Place) -> FurtherTest:
    if asked.kind in ("cifar10-c", "cifar100-c"):
        return _corrupted(asked, place)
    if asked.kind.startswith("cifar10.1"):
        return _cifar10_1(asked, place)
    if asked.kind == FOLDER:
        return _folder(asked, place)
    if asked.kind in PUBLISHED_TESTS:
        return _imagenet(asked, place)
    return _by_name(asked, place)


def _whole(
    split: Split, origin: str, place: Place, outputs: list[int] | None = None
) -> FurtherTest:
    """Return a test set of one part."""
    count = len(split.targets)
    classes = len(np.unique(split.targets))
    of = f" of the network's {place.data.num_classes} outputs" if outputs else ""
    text = f"{count:,} test images of {classes} classes{of and f', {len(outputs or ())}{of} count'}"
    loader = LateLoader(lambda: split, count, place)
    return FurtherTest({"": loader}, [""], outputs, f"{text}, from {origin}")


# --- data sets by name ---


def _by_name(asked: Asked, place: Place) -> FurtherTest:
    """Return the test split of a data set that a run could be trained on, without its others."""
    data_path = asked.place or place.config.data_path
    if asked.kind == "imagenet" and not hugging_face.is_copy_alone(Path(data_path)):
        with _named(asked):
            folder = _folder_to_test(Path(data_path))
        return _folder(asked._replace(place=str(folder)), place)
    split: Split
    if holds_encoded_images(asked.kind):
        with _named(asked):
            found = _one_split(asked, data_path, place)
        split, names, origin = _read_files(found.files, place), found.class_names, found.origin
    else:
        config = replace(place.config, dataset=asked.kind, data_path=data_path, resize=place.size)
        with _named(asked):
            split, names, origin = read_test_arrays(config, place.device, place.progress)
    targets = _targets(asked, names, place.data)[split.targets]
    return _whole(replace(split, targets=targets), origin, place)


def _one_split(asked: Asked, data_path: str, place: Place) -> folders.OneSplit:
    """Return the images of the split to test on, and their classes.

    The run's own columns are those of the set too, where it has them.
    """
    kind, split = with_split(asked.kind)
    library, name, variant = source_name(kind)
    columns = place.config.image_column, place.config.label_column
    known = place.data.class_names
    if library == "torchvision":
        return torchvision_sets.find_test(name, variant, data_path)
    if library == "wds":
        return shards.find_test(name, data_path, *columns, place.progress)
    if library == "hf":
        return hugging_face.find_test(
            name, variant, split, data_path, *columns, known, place.progress
        )
    return hugging_face.find_test_in_copy(Path(data_path), known, place.progress)


@contextmanager
def _named(asked: Asked) -> Iterator[None]:
    """Say of which test set a mistake is."""
    try:
        yield
    except UserError as error:
        raise UserError(f"--also_test {asked.name}: {error}") from None


def _targets(asked: Asked, names: Sequence[str], data: ImageData) -> Targets:
    """Return the number among the run's classes that each class of a test set has.

    Sets of hf/ and wds/ may have no names for their classes, which are numbers then.

    Raises:
        UserError: the classes are others.
    """
    found = matched(names, data.class_names) if source_name(asked.kind).library in HUBS else None
    return _targets_by_name(asked, names, data) if found is None else found


def _targets_by_name(asked: Asked, names: Sequence[str], data: ImageData) -> Targets:
    """Return the number among the run's classes that each class of a test set has.

    Raises:
        UserError: the network knows no class of a name.
    """
    numbers = {name: number for number, name in enumerate(data.class_names)}
    unknown = [name for name in names if name not in numbers]
    if unknown:
        raise UserError(
            f"--also_test {asked.name}: its {len(names)} classes ({names[0]}, ...) are not among "
            f"the {len(numbers)} of {data.name} ({data.class_names[0]}, ...): {unknown[0]} is none "
            "of these; leave it out"
        )
    return np.array([numbers[name] for name in names], np.int64)


# --- CIFAR's, as NumPy files ---


def _corrupted(asked: Asked, place: Place) -> FurtherTest:
    """Return a set of Hendrycks': a file of 5 times as many images for each corruption.

    The images of severity 1 come first; labels.npy repeats the labels for each severity.
    """
    folder = _published_place(asked, place)
    labels = _labels(folder / "labels.npy", asked, place)
    if len(labels) % SEVERITIES:
        raise _damaged(folder / "labels.npy", asked, f"{len(labels)} labels, not 5 times as many")
    size = len(labels) // SEVERITIES
    names = [*CORRUPTIONS, *(x for x in EXTRA_CORRUPTIONS if (folder / f"{x}.npy").exists())]
    parts: dict[str, Any] = {}
    for name in names:
        path = folder / f"{name}.npy"
        _pixels(path, len(labels), asked)
        for severity in range(SEVERITIES):
            part = slice(severity * size, (severity + 1) * size)
            split = _late_array(path, labels, part, asked, place)
            parts[f"{name}/{severity + 1}"] = LateLoader(split, size, place)
    averaged = [part for part in parts if part.split("/")[0] in CORRUPTIONS]
    text = f"{size:,} test images in {len(names)} corruptions of {SEVERITIES} severities"
    return FurtherTest(parts, averaged, None, f"{text}, from {printable(str(folder))}")


def _cifar10_1(asked: Asked, place: Place) -> FurtherTest:
    """Return Recht et al.'s new test images (2018, arXiv 1806.00451)."""
    published = PUBLISHED_TESTS[asked.kind]
    wanted = f"{published.place}_data.npy"
    folder = Path(asked.place) if asked.place else _searched(wanted, place).parent
    images, targets = folder / wanted, folder / f"{published.place}_labels.npy"
    for path in (images, targets):
        _check_there(path, asked)
    labels = _labels(targets, asked, place)
    _pixels(images, len(labels), asked)
    split = _late_array(images, labels, slice(None), asked, place)
    loader = LateLoader(split, len(labels), place)
    text = f"{len(labels):,} test images, from {printable(str(images))}"
    return FurtherTest({"": loader}, [""], None, text)


def _late_array(
    path: Path, labels: Targets, part: slice, asked: Asked, place: Place
) -> Callable[[], Split]:
    def split() -> Split:
        pixels = np.array(_pixels(path, len(labels), asked)[part])  # torch wants it writable
        return resized(pixels, labels[part], place.size, place.device)

    return split


def _labels(path: Path, asked: Asked, place: Place) -> Targets:
    """Return the labels in a file, as numbers of the run's classes."""
    kind = PUBLISHED_TESTS[asked.kind].classes
    dataset = place.config.dataset
    if LONG_TAILED.get(dataset, dataset) == kind:
        mapped = np.arange(place.data.num_classes)
    else:
        mapped = _targets_by_name(asked, class_maps.NAMES[kind], place.data)
    labels = _array(path, asked)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        raise _damaged(path, asked, f"{labels.dtype} {labels.shape}, not a list of labels")
    if labels.min() < 0 or labels.max() >= len(mapped):
        raise _damaged(path, asked, f"labels from {labels.min()} to {labels.max()}")
    return mapped[labels]


def _pixels(path: Path, count: int, asked: Asked) -> Images:
    """Return the images in a file, (count, 32, 32, 3), which stays on the disk."""
    pixels = _array(path, asked)
    if pixels.dtype != np.uint8 or pixels.shape != (count, 32, 32, 3):
        raise _damaged(path, asked, f"{pixels.dtype} {pixels.shape}, not {count} images")
    return pixels


def _array(path: Path, asked: Asked) -> Any:
    _check_there(path, asked)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header can end in anything
        raise _damaged(path, asked, " ".join(str(error).split())) from None


# --- folders of images ---


def _folder(asked: Asked, place: Place) -> FurtherTest:
    """Return the images in folders that are called as classes of the run."""
    folder = Path(asked.place or "")
    names = _class_folders(folder, asked)
    if not set(names) & set(place.data.class_names) and (folder / "test").is_dir():
        raise UserError(f"--also_test {folder}: its classes are in {folder / 'test'}; give that")
    shown = [printable(name) for name in names]
    targets = _targets_by_name(asked, shown, place.data)
    numbers = dict(zip(names, targets.tolist(), strict=True))
    split = _read_files(folders.scan_classes(folder, numbers), place)
    return _whole(split, printable(str(folder)), place)


def _folder_to_test(data_path: Path) -> Path:
    try:
        return folders.test_folder(data_path)
    except OSError as error:
        raise UserError(
            f"{data_path} cannot be read ({error.strerror}); give the folder that holds test/ or "
            "val/, or its classes"
        ) from None


def _imagenet(asked: Asked, place: Place) -> FurtherTest:
    """Return a published set of ImageNet's classes, or of some of them.

    V2's folders are called by the numbers of the classes, the others' by their WordNet ids. Of A
    and R, which have 200 classes, only the outputs for these are looked at, as their authors do.
    """
    folder = _published_place(asked, place)
    names = _class_folders(folder, asked)
    if asked.kind.startswith("imagenet-v2"):
        numbers = _numbered(names, asked, place.data)
    else:
        numbers = _by_wordnet(names, asked, place.data)
    outputs = None
    if asked.kind in class_maps.IMAGENET_INDICES:
        outputs = sorted(numbers.values())
        numbers = {name: outputs.index(number) for name, number in numbers.items()}
    split = _read_files(folders.scan_classes(folder, numbers), place)
    return _whole(split, printable(str(folder)), place, outputs)


def _numbered(names: list[str], asked: Asked, data: ImageData) -> dict[str, int]:
    if data.num_classes != IMAGENET_CLASSES:
        raise _other_classes(asked, data)
    numbers = {name: int(name) for name in names if name.isdecimal()}
    if len(numbers) < len(names) or max(numbers.values()) >= IMAGENET_CLASSES:
        raise UserError(
            f"--also_test {asked.kind}: its folders should be called 0 to {IMAGENET_CLASSES - 1}, "
            f"by the classes' numbers, not {min(set(names) - set(numbers) or names)}"
        )
    return numbers


def _by_wordnet(names: list[str], asked: Asked, data: ImageData) -> dict[str, int]:
    """Return the number of each folder's class that the run has, by the folder's name.

    Where the run's classes are called by words, the 1000 are taken to be in ImageNet's order.
    """
    known = {name: number for number, name in enumerate(data.class_names)}
    shared = {name: known[name] for name in names if name in known}
    if len(shared) > 1:
        return shared
    all_numbers = list(range(IMAGENET_CLASSES))
    numbers = class_maps.IMAGENET_INDICES.get(asked.kind, all_numbers)
    if data.num_classes != IMAGENET_CLASSES or len(names) != len(numbers):
        raise _other_classes(asked, data)
    return dict(zip(names, numbers, strict=True))


def _other_classes(asked: Asked, data: ImageData) -> UserError:
    return UserError(
        f"--also_test {asked.name}: is for the {IMAGENET_CLASSES:,} classes of ImageNet, and "
        f"{data.name} has {data.num_classes} ({data.class_names[0]}, ...); leave it out"
    )


def _class_folders(folder: Path, asked: Asked) -> list[str]:
    try:
        names = folders.class_folders(folder)
    except OSError as error:
        raise UserError(
            f"--also_test {asked.name}: {folder} cannot be read ({error.strerror}); give a folder "
            "with one folder for each class"
        ) from None
    if not names:
        raise UserError(
            f"--also_test {asked.name}: {folder} has no folders in it; it should have one for each "
            "class"
        )
    return names


def _read_files(files: folders.Files, place: Place) -> Split:
    """Return the images as the run's own test images are read, decoded where they fit into memory.

    Raises:
        UserError: a file cannot be read, and --skip_broken is not given.
    """
    read = _reader(place)
    fits = fits_in_memory(len(files.images), read.size, place.device)
    streamed = isinstance(read, ImageNetReader) or not fits
    if place.config.skip_broken or streamed:
        broken = are_broken(files, place.progress)
        if broken.any() and not place.config.skip_broken:
            name = files.subset(broken).names()[0]
            raise UserError(
                f"--also_test: {printable(name)} of {files.root} cannot be read as an image; "
                "put a readable one there, or give --skip_broken"
            )
        if broken.any():
            warn(
                f"--skip_broken: {broken.sum():,} files of {files.folder} cannot be read; left out"
            )
        files = files.subset(~broken)
    if streamed or not isinstance(read, FolderReader):
        return FileSplit(files.images, files.targets, read)
    images, _ = cache.decoded(files, read, place.progress)
    return ArraySplit(images, files.targets)


def _reader(place: Place) -> ImageReader:
    """Return what reads an image as the run's own test images are read."""
    if place.config.crops_like_imagenet:
        return imagenet_reader(place.config, place.size)
    return FolderReader(place.size, fit=True)


# --- where files are ---


def _published_place(asked: Asked, place: Place) -> Path:
    """Return the folder of a published set.

    Raises:
        UserError: it is not there; with the address to get it from.
    """
    if asked.place:
        return _check_there(Path(asked.place), asked)
    return _check_there(_searched(PUBLISHED_TESTS[asked.kind].place, place), asked)


def _searched(name: str, place: Place) -> Path:
    """Return the file or folder in --data_path, or beside it where it is there alone."""
    data_path = Path(place.config.data_path)
    beside = data_path.absolute().parent / name
    return beside if beside.exists() and not (data_path / name).exists() else data_path / name


def _check_there(path: Path, asked: Asked) -> Path:
    if not path.exists():
        raise UserError(
            f"--also_test {asked.kind}: {path} is not there; get it from "
            f"{PUBLISHED_TESTS[asked.kind].url}, or give its folder: {asked.kind}:PATH"
        )
    return path


def _damaged(path: Path, asked: Asked, what: str) -> UserError:
    return UserError(
        f"--also_test {asked.kind}: {path} is damaged ({what}); get it anew from "
        f"{PUBLISHED_TESTS[asked.kind].url}"
    )
