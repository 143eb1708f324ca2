"""Hold data sets that are ready for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # --help works without torch
    from pipelines.images.interfaces import Images
    from pipelines.images.loaders import ImageLoader
    from pipelines.images.pixels import PixelLoader
    from pipelines.tables.loader import TableLoader
    from pipelines.text.loaders import EvalLoader, TrainLoader


@dataclass
class FurtherTest:
    """Hold a test set beside the test split of a data set.

    Attributes:
        parts: loaders by name; where the set has no parts there is one, called "".
        averaged: names of the parts whose mean is the set's result.
        outputs: the network's outputs that count, in the order of the set's classes; None for all.
        description: one line for the log.
    """

    parts: dict[str, Any]  # of loaders
    averaged: Sequence[str]
    outputs: list[int] | None
    description: str


@dataclass
class ImageData:
    """Hold the loaders of a set of images, and what is known of it.

    Attributes:
        train, val, test: loaders; val is None where nothing is held out.
        image_size: side of the images in pixels.
        mean, std: of the normalisation, per channel of pixels scaled to 0..1.
        digest: hex, the same for the same training images in the same order.
        class_sizes: training images of each class.
        left_out: names of the image files that cannot be read, where these are left out.
        description: one line for the log.
        also: test sets beside the test split, by name.
    """

    name: str
    train: ImageLoader
    val: ImageLoader | None
    test: ImageLoader
    num_classes: int
    image_size: int
    class_names: list[str]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str
    class_sizes: list[int]
    left_out: list[str]
    description: str
    also: dict[str, FurtherTest] = field(default_factory=dict)


@dataclass
class TextData:
    """Hold the loaders of a corpus, and what is known of it.

    Attributes:
        form: which text it is, for results (wikitext-103-v1).
        train, val, test: loaders.
        tokenizer: its name or folder.
        vocab_size: how many ids the tokenizer can give, end of text included.
        end_of_text: that id.
        fingerprint: hex, the same for the same tokenizer.
        counts: by split, its .tokens, .words, .bytes, and whether they are .lossless.
        digests: by split, of its text.
        description: one line for the log.
        also: test sets beside the test split, by name.
    """

    name: str
    form: str
    train: TrainLoader
    val: EvalLoader
    test: EvalLoader
    tokenizer: str
    vocab_size: int
    end_of_text: int
    fingerprint: str
    counts: dict[str, Any]
    digests: dict[str, str]
    description: str
    also: dict[str, FurtherTest] = field(default_factory=dict)


@dataclass
class TableData:
    """Hold the loaders of a table of numbers, and what is known of it.

    Attributes:
        train, val, test: loaders; val is None where nothing is held out.
        columns: names of the features.
        mean, std: of the standardisation, per feature.
        digest: hex, the same for the same rows in the same order.
        class_sizes: training rows of each class.
        description: one line for the log.
        also: there are no further test sets.
    """

    name: str
    train: TableLoader
    val: TableLoader | None
    test: TableLoader
    columns: list[str]
    class_names: list[str]
    mean: list[float]
    std: list[float]
    digest: str
    class_sizes: list[int]
    description: str
    also: dict[str, FurtherTest] = field(default_factory=dict)


@dataclass
class PixelData:
    """Hold the loaders of one image's pixels, and what is known of it.

    Attributes:
        image: uint8 (side, side, channels).
        train, val, test: loaders; val is None where nothing is validated, test the whole image.
        digest: hex, the same for the same image.
        description: one line for the log.
        also: empty, as there is nothing else to test on.
    """

    image: Images
    train: PixelLoader
    val: PixelLoader | None
    test: PixelLoader
    digest: str
    description: str
    also: dict[str, FurtherTest] = field(default_factory=dict)
