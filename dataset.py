"""Load data sets by name: the door to the pipelines of images, text and tables.

    data = load_images("digits", batch_size=64)
    data = load_text("pydoc", tokenizer="bytes", block_size=128, batch_size=8)
    data = load_table("breast_cancer", batch_size=64)
    for images, targets in data.train.batches(epoch=1): ...

Importing it loads nothing heavy.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cli.converters import mapping_text, one_of, path
from cli.datasets import (
    DEFAULT_DATA_PATH,
    IMAGE_SIZES,
    LANGUAGE_DATASETS,
    LONG_TAIL_FACTOR,
    LONG_TAILED,
    PUBLISHED,
    TABLE_DATASETS,
    VISION_DATASETS,
    image_dataset,
    text_dataset,
)
from cli.language import LanguageDataConfig
from cli.table import TableDataConfig
from cli.vision import VisionDataConfig
from pipelines.data import ImageData, TableData, TextData
from utils import UserError, user_errors

if TYPE_CHECKING:
    import torch

    from pipelines.text.tokenizer import Tokenizer

__all__ = [
    "DEFAULT_DATA_PATH",
    "IMAGE_SIZES",
    "LANGUAGE_DATASETS",
    "LONG_TAILED",
    "LONG_TAIL_FACTOR",
    "PUBLISHED",
    "TABLE_DATASETS",
    "VISION_DATASETS",
    "ImageData",
    "TableData",
    "TextData",
    "load_images",
    "load_table",
    "load_text",
    "load_tokenizer",
]


def load_text(
    name: str,
    data_path: str = DEFAULT_DATA_PATH,
    *,
    tokenizer: str = "gpt2",
    block_size: int,
    batch_size: int,
    eval_stride: int | None = None,
    data_seed: int = 0,
    device: torch.device | str = "cpu",
    progress: bool = True,
    rank: int = 0,
    world_size: int = 1,
    **options: Any,
) -> TextData:
    """Load the corpus called `name`: one of LANGUAGE_DATASETS, or of cli.datasets.TEXT_FORMS.

    The tokens are made once and kept in `data_path`.

    Args:
        name: of the corpus.
        data_path: the folder of the data.
        tokenizer: gpt2, bytes, or a folder with one.
        block_size: tokens in a window (T).
        batch_size: windows in a batch, over all processes.
        eval_stride: tokens from one window of evaluation to the next, None for block_size.
        data_seed: decides the order of training.
        device: where batches are put.
        progress: show a bar while tokens are made.
        rank, world_size: this process's share of each batch.
        options: further fields of `cli.language.LanguageDataConfig`: text_column, held_out, pack.

    Raises:
        UserError: for everything that the user can fix.
    """
    config = LanguageDataConfig(
        dataset=_as_dataset(name, text_dataset),
        data_path=_as_path(data_path),
        tokenizer=_as_path(tokenizer),
        batch_size=batch_size,
        eval_stride=eval_stride,
        **options,
    )
    _check_text(config, block_size)
    from pipelines.text import load  # loads NumPy, which --help does without

    return load.load_text(
        config,
        block_size=block_size,
        data_seed=data_seed,
        device=device,
        progress=progress,
        rank=rank,
        world_size=world_size,
    )


def load_images(
    name: str,
    data_path: str = DEFAULT_DATA_PATH,
    *,
    batch_size: int,
    data_seed: int = 0,
    device: torch.device | str = "cpu",
    progress: bool = True,
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
    rank: int = 0,
    world_size: int = 1,
    **options: Any,
) -> ImageData:
    """Load the data set called `name`: one of VISION_DATASETS, or of cli.datasets.SOURCE_FORMS.

    Args:
        name: of the data set.
        data_path: the folder of the data.
        batch_size: images in a batch, over all processes.
        data_seed: decides order and augmentation of training.
        device: where batches are made.
        progress: show a bar while images are read.
        normalisation: mean and std to use instead of the data set's own.
        rank, world_size: this process's share of each batch.
        options: further fields of `cli.vision.VisionDataConfig`: resize, augment, rotate,
            color_jitter, noise, random_resized_crop, interpolation, auto_augment, random_erasing,
            erasing_mode, repeated_augmentation, mixup, cutmix, mixup_switch, crop_pct, test_size,
            val_fraction, imb_factor, imb_type, split_seed, skip_broken, num_workers, crop,
            image_column, label_column, splits (a mapping). With mixup or cutmix the
            targets of training batches are soft, float32 (B, classes).

    Raises:
        UserError: for everything that the user can fix.
    """
    if options.get("splits") is not None:
        options["splits"] = mapping_text(options["splits"])
    config = VisionDataConfig(
        dataset=_as_dataset(name, image_dataset),
        data_path=_as_path(data_path),
        batch_size=batch_size,
        **options,
    )
    _check_images(config)
    from pipelines.images import load  # loads torch, which --help does without

    return load.load_images(
        config,
        data_seed=data_seed,
        device=device,
        num_workers=config.num_workers,
        progress=progress,
        normalisation=normalisation,
        rank=rank,
        world_size=world_size,
    )


def load_table(
    name: str,
    data_path: str = DEFAULT_DATA_PATH,
    *,
    batch_size: int,
    data_seed: int = 0,
    device: torch.device | str = "cpu",
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
    rank: int = 0,
    world_size: int = 1,
    **options: Any,
) -> TableData:
    """Load the table called `name`, one of TABLE_DATASETS.

    Args:
        name: of the table.
        data_path: the file of "csv".
        batch_size: rows in a batch, over all processes.
        data_seed: decides the order of training.
        device: where the table lies.
        normalisation: mean and standard deviation to use instead of the training rows' own.
        rank, world_size: this process's share of each batch.
        options: further fields of `cli.table.TableDataConfig`: label, test_fraction, val_fraction,
            split_seed.

    Raises:
        UserError: for everything that the user can fix.
    """
    config = TableDataConfig(
        dataset=_as_dataset(name, one_of(*TABLE_DATASETS)),
        data_path=_as_path(data_path),
        batch_size=batch_size,
        **options,
    )
    _check_table(config)
    load = importlib.import_module("pipelines.tables.load")  # which loads torch
    data: TableData = load.load_table(
        config,
        data_seed=data_seed,
        device=device,
        normalisation=normalisation,
        rank=rank,
        world_size=world_size,
    )
    return data


def load_tokenizer(name: str, data_path: str = DEFAULT_DATA_PATH) -> Tokenizer:
    """Load the tokenizer called `name`: gpt2, bytes or a folder with one.

    Raises:
        UserError: it is none of these, or cannot be loaded.
    """
    from pipelines.text import tokenizer  # loads the tokenizers library

    return tokenizer.load(_as_path(name), _as_path(data_path))


def _as_path(text: object) -> str:
    with user_errors():
        return path(str(text))


def _as_dataset(name: str, convert: Callable[[str], str]) -> str:
    try:
        return convert(name)
    except ValueError as error:
        raise UserError(f"--dataset {name}: {error}") from None


def _check_text(config: LanguageDataConfig, block_size: int) -> None:
    if config.batch_size < 1:
        raise UserError(f"--batch_size {config.batch_size}: must be at least 1")
    if block_size < 1:
        raise UserError(f"--max_seq_length {block_size}: must be at least 1 token")
    config.check_documents()
    config.check_stride(block_size)


def _check_table(config: TableDataConfig) -> None:
    config.check()
    if config.batch_size < 1:
        raise UserError(f"--batch_size {config.batch_size}: must be at least 1")
    if not 0 < config.test_fraction < 1:
        raise UserError(f"--test_fraction {config.test_fraction}: must be above 0 and below 1")
    if not 0 <= config.val_fraction < 1:
        raise UserError(f"--val_fraction {config.val_fraction}: must be at least 0 and below 1")


def _check_images(config: VisionDataConfig) -> None:
    config.check_source()
    if config.batch_size < 1:
        raise UserError(f"--batch_size {config.batch_size}: must be at least 1")
    if config.resize is not None and config.resize < 1:
        raise UserError(f"--resize {config.resize}: must be at least 1 pixel")
    if not 0 <= config.noise < float("inf"):
        raise UserError(f"--noise {config.noise}: must be a standard deviation, 0 or more")
    if not 0 <= config.val_fraction < 1:
        raise UserError(f"--val_fraction {config.val_fraction}: must be at least 0 and below 1")
    config.check_values()
    config.check_augmentation(is_imagenet=config.crops_like_imagenet)
