"""Load a set of images: read it, split it, normalise it, and make its loaders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from cli.augmentation import DEFAULT_MIN_SCALE
from cli.datasets import LONG_TAIL_FACTOR, LONG_TAILED, PUBLISHED, image_size, mirrors, source_name
from cli.vision import VisionDataConfig
from pipelines.data import ImageData
from pipelines.held_out import hold_out
from pipelines.images import cache, folders, hugging_face, shards, torchvision_sets
from pipelines.images.augment import Transform
from pipelines.images.broken import without_broken
from pipelines.images.imbalance import long_tail
from pipelines.images.interfaces import Device, ImageReader, Images, Targets
from pipelines.images.loaders import ImageLoader, at_size
from pipelines.images.mixing import Mixing
from pipelines.images.readers import FolderReader, ImageNetReader, common_size
from pipelines.images.sources import read_cifar, read_digits
from pipelines.images.splits import (
    ArraySplit,
    FileSplit,
    Split,
    constant_channels,
    fits_in_memory,
    statistics,
)
from utils import UserError, is_main, printable, warn

NAMES = 20  # of files, in a line of a log
CIFAR = {"cifar10": CIFAR10, "cifar100": CIFAR100}
Normalisation: TypeAlias = tuple[Sequence[float], Sequence[float]]  # mean and std per channel


class Source(NamedTuple):
    """Hold what was read of a data set; `val` is None where it has no split of that name."""

    train: Split
    val: Split | None
    test: Split
    class_names: list[str]
    image_size: int  # side in pixels
    origin: str  # where it was read from
    left_out: Sequence[str] = ()  # names of files that cannot be read


def load_images(
    config: VisionDataConfig,
    *,
    data_seed: int = 0,
    device: Device = "cpu",
    num_workers: int | None = None,
    progress: bool = True,
    normalisation: Normalisation | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> ImageData:
    """Return the images that the configuration names, ready for training.

    Args:
        config: which images, splits, augmentation and batches.
        data_seed: decides order and augmentation of training. config.split_seed alone decides
            which images are held out, and which stay of a long-tailed training set.
        device: where batches are made.
        num_workers: processes that read files, where images are streamed; 0 for none but this
            one, None for one per processor.
        progress: show a bar while images are read.
        normalisation: mean and std to use instead of the data set's own: those that a network was
            trained with.
        rank, world_size: this process's share of each batch.

    Raises:
        UserError: for everything that the user can fix.
    """
    source = _read(config, device, progress)
    _check_content(source, config)
    train, val = _held_out(source, config)
    train, tail = _long_tailed(train, config)
    mean, std = _normalisation(train, config, num_workers, progress, normalisation)
    size, names = source.image_size, source.class_names
    plain = Transform(mean, std, config.test_size or size, device)
    varied = Transform(mean, std, size, device, **_augmentation(config, len(names)))

    def loader(split: Split, transform: Transform, seed: int | None = None) -> ImageLoader:
        return split.loader(
            transform, config.batch_size, device, num_workers, seed, rank, world_size
        )

    train_loader = loader(train, varied, data_seed)
    val_loader = loader(val, plain) if val else None
    test_loader = loader(source.test, plain)
    loaders = {"train": train_loader, "val": val_loader, "test": test_loader}
    counts = ", ".join(f"{x.num_samples:,} {split}" for split, x in loaders.items() if x)
    return ImageData(
        name=config.dataset,
        train=train_loader,
        val=val_loader,
        test=test_loader,
        num_classes=len(names),
        image_size=size,
        class_names=names,
        mean=tuple(mean),
        std=tuple(std),
        digest=train.digest(),
        class_sizes=np.bincount(train.targets, minlength=len(names)).tolist(),
        left_out=list(source.left_out),
        description=f"{config.dataset}: {counts} images of {len(names)} classes{tail}, "
        f"{size}x{size}, from {source.origin}{_left_out(source)}",
    )


def read_test_arrays(
    config: VisionDataConfig, device: Device, progress: bool
) -> tuple[Split, list[str], str]:
    """Return the test split of a set of arrays, its class names, and where it was read.

    Raises:
        UserError: for everything that the user can fix.
    """
    library, name, variant = source_name(config.dataset)
    if library != "torchvision":
        source = _read(config, device, progress)
        return source.test, source.class_names, source.origin
    size = config.resize or image_size(config.dataset)
    assert size
    images, names = torchvision_sets.read_test(name, variant, config.data_path)
    return resized(*images, size, device), names, printable(config.data_path)


def as_card_says(config: VisionDataConfig, card: dict[str, Any]) -> VisionDataConfig:
    """Return the configuration with what a card says of images where no flag says otherwise."""
    config = replace(config, resize=config.resize or card["size"])
    if not config.crops_like_imagenet:
        return config
    share = card["size"] / (card["shorter_side"] + 1e-6)  # of which the side is the whole part
    interpolation = config.interpolation
    interpolation = card["interpolation"] if interpolation == "bilinear" else interpolation
    return replace(config, crop_pct=config.crop_pct or share, interpolation=interpolation)


def _check_content(source: Source, config: VisionDataConfig) -> None:
    """Refuse training images that show nothing, and warn of channels that do.

    Raises:
        UserError: all training images are of one colour.
    """
    for name, split in (("training", source.train), ("val", source.val), ("test", source.test)):
        constant = constant_channels(split) if split else {}
        values = ", ".join(f"{channel} {value}" for channel, value in constant.items())
        if len(constant) == 3 and name == "training":
            raise UserError(
                f"--dataset {config.dataset}: all training images are of one colour ({values} of"
                " 255), there is nothing to learn from them; look at the files"
            )
        if constant:
            warn(f"all {name} images have the same value everywhere: {values} of 255")


def _augmentation(config: VisionDataConfig, classes: int) -> dict[str, Any]:
    augment = config.augment and not config.crops_like_imagenet  # which does so while it reads
    mixing = Mixing(config.mixup, config.cutmix, config.mixup_switch, classes)
    return {
        "crop": augment,
        "flip": augment and mirrors(config.dataset),
        "rotate": config.rotate,
        "jitter": config.color_jitter,
        "noise": config.noise,
        "min_scale": config.random_resized_crop,
        "interpolation": config.interpolation,
        "auto_augment": config.auto_augment,
        "erasing": config.random_erasing,
        "erasing_mode": config.erasing_mode,
        "repeats": config.repeated_augmentation,
        "mixing": mixing if config.mixup or config.cutmix else None,
    }


def _normalisation(
    train: Split,
    config: VisionDataConfig,
    num_workers: int | None,
    progress: bool,
    given: Normalisation | None,
) -> Normalisation:
    """Return the given mean and std, else the published ones, else the training images'."""
    published = PUBLISHED.get(LONG_TAILED.get(config.dataset, config.dataset))
    return given or published or statistics(train, num_workers, progress)


def _held_out(source: Source, config: VisionDataConfig) -> tuple[Split, Split | None]:
    """Return (train, val) after a share of train went to val."""
    if not config.val_fraction:
        return source.train, source.val
    if source.val is not None:
        raise UserError(
            f"--val_fraction {config.val_fraction}: {config.data_path} has a val/ of its own; "
            "leave the flag out, or rename the folder"
            if "/" not in config.dataset
            else f"--val_fraction {config.val_fraction}: {config.dataset} has a validation split of"
            " its own; leave the flag out"
        )
    kept, held = hold_out(source.train.targets, config.val_fraction, config.split_seed)
    train, val = source.train.subset(kept), source.train.subset(held)
    if isinstance(val, FileSplit) and isinstance(source.test, FileSplit):
        val = replace(val, read=source.test.read)  # which may read at another size
    return train, val


def _long_tailed(train: Split, config: VisionDataConfig) -> tuple[Split, str]:
    """Return train after images were taken from it, and what the log says of that."""
    factor = config.imb_factor
    if factor is None:
        factor = LONG_TAIL_FACTOR if config.dataset in LONG_TAILED else 1
    if factor == 1:
        return train, ""
    kept = long_tail(train.targets, factor, config.imb_type, config.split_seed)
    return train.subset(kept), f" (training set long-tailed: {config.imb_type}, {factor:g})"


def _left_out(source: Source) -> str:
    return f", {len(source.left_out):,} files left out" if source.left_out else ""


# --- reading ---


def _read(config: VisionDataConfig, device: Device, progress: bool) -> Source:
    if config.dataset == "digits":
        return _read_digits(config.resize or 32, device)
    if LONG_TAILED.get(config.dataset, config.dataset) in CIFAR:
        return _read_cifar(config, device, progress)
    if source_name(config.dataset).library == "torchvision" and image_size(config.dataset):
        return _read_arrays(config, device)
    return _read_encoded(config, device, progress)


def _read_cifar(config: VisionDataConfig, device: Device, progress: bool) -> Source:
    size = config.resize or 32
    cls = CIFAR[LONG_TAILED.get(config.dataset, config.dataset)]
    cifar = read_cifar(cls, config.data_path, progress)
    train, test = (resized(*images, size, device) for images in (cifar.train, cifar.test))
    return Source(train, None, test, cifar.class_names, size, config.data_path)


def _read_arrays(config: VisionDataConfig, device: Device) -> Source:
    _, name, variant = source_name(config.dataset)
    size = config.resize or image_size(config.dataset)
    assert size
    read = torchvision_sets.read_arrays(name, variant, config.data_path)
    train, test = (resized(*images, size, device) for images in (read.train, read.test))
    return Source(train, None, test, read.class_names, size, printable(config.data_path))


def _read_digits(size: int, device: Device) -> Source:
    images, targets, class_names = read_digits()
    digits = resized(images, targets, size, device)
    kept, held = hold_out(targets, 0.2, seed=0)  # the test split: the same for all seeds
    return Source(digits.subset(kept), None, digits.subset(held), class_names, size, "scikit-learn")


def resized(images: Images, targets: Targets, size: int, device: Device) -> ArraySplit:
    """Return images (N, H, W, 3) at (N, size, size, 3), with their targets.

    Where memory is too small for them all, they are resized as they are read.
    """
    if images.shape[1] == size:
        return ArraySplit(images, targets)
    if not fits_in_memory(len(images), size, device):
        return ArraySplit(images, targets, size=size)
    return ArraySplit(at_size(torch.from_numpy(images), size).numpy(), targets)


def _read_encoded(config: VisionDataConfig, device: Device, progress: bool) -> Source:
    found = find_encoded(config, progress)
    if found.passed_over and is_main():
        print(f"Note: {found.origin}: passed over {found.passed_over}")
    left_out: list[str] = []
    if config.skip_broken:
        found, left_out = without_broken(found, progress)
        _report_left_out(left_out, found.origin)
    source = _read_files(found, config, device, progress)
    return source._replace(left_out=left_out)


def find_encoded(config: VisionDataConfig, progress: bool) -> folders.Splits:
    """Return which images a set of encoded images has, without reading them.

    Raises:
        UserError: for everything that the user can fix.
    """
    library, name, variant = source_name(config.dataset)
    if library == "torchvision":
        return torchvision_sets.find(name, variant, config.data_path)
    named = (config.image_column, config.label_column, config.named_splits, progress)
    if library == "hf":
        return hugging_face.find(name, variant, config.data_path, *named)
    if library == "wds":
        return shards.find(name, config.data_path, *named)
    try:
        if config.dataset == "imagenet" and hugging_face.is_copy_alone(Path(config.data_path)):
            return hugging_face.find_copy(Path(config.data_path), progress)
        return folders.scan(folders.find_root(config.data_path))
    except OSError as error:
        raise UserError(f"--data_path {config.data_path}: cannot be read ({error})") from None


def _report_left_out(left_out: list[str], origin: str) -> None:
    if left_out:
        names = ", ".join(left_out[:NAMES])
        more = ", ... (args.txt has them all)" if len(left_out) > NAMES else ""
        warn(
            f"--skip_broken: {len(left_out):,} files of {origin} cannot be read and are left out:"
            f" {names}{more}"
        )


def _read_files(
    found: folders.Splits, config: VisionDataConfig, device: Device, progress: bool
) -> Source:
    if config.crops_like_imagenet:
        size = config.resize or 224
        train = imagenet_reader(config, size)
        return _streamed(found, train, imagenet_reader(config, config.test_size or size))
    size = config.resize or common_size(found.train.images[0])
    read = FolderReader(size, fit=config.resize is not None)
    total = sum(len(files.images) for files in (found.train, found.val, found.test) if files)
    if not fits_in_memory(total, size, device):
        return _streamed(found, read)
    return _decoded(found, read, progress)


def imagenet_reader(config: VisionDataConfig, size: int) -> ImageNetReader:
    """Return what reads images of this size in pixels as the flags of ImageNet's recipes say."""
    shorter_side = int(size / config.crop_pct) if config.crop_pct else None  # as timm rounds it
    min_scale = config.random_resized_crop or DEFAULT_MIN_SCALE
    return ImageNetReader(size, shorter_side, config.interpolation, min_scale)


def _streamed(
    found: folders.Splits, read: ImageReader, read_to_test: ImageReader | None = None
) -> Source:
    def split(files: folders.Files, read: ImageReader) -> FileSplit:
        return FileSplit(files.images, files.targets, read)

    read_to_test = read_to_test or read
    val = split(found.val, read_to_test) if found.val else None
    train, test = split(found.train, read), split(found.test, read_to_test)
    return Source(train, val, test, found.class_names, read.size, f"{found.origin} (streamed)")


def _decoded(found: folders.Splits, read: FolderReader, progress: bool) -> Source:
    """Return the decoded images, from their cache where it is complete."""
    from_cache: list[bool] = []

    def split(files: folders.Files) -> ArraySplit:
        images, was_cached = cache.decoded(files, read, progress)
        from_cache.append(was_cached)
        return ArraySplit(images, files.targets, files.images)

    train = split(found.train)
    val = split(found.val) if found.val else None
    test = split(found.test)
    origin = f"{found.origin} ({'from its cache' if all(from_cache) else 'decoded'})"
    return Source(train, val, test, found.class_names, read.size, origin)
