"""Say what args.txt holds of labelled data: samples, their classes, what is left out."""

from __future__ import annotations

from typing import Any

from pipelines.data import ImageData, TableData
from training.task import Data


def samples(data: Data) -> dict[str, int]:
    """Return the number of samples in every split."""
    loaders = {"train": data.train, "val": data.val, "test": data.test}
    return {name: loader.num_samples for name, loader in loaders.items() if loader}


def unequal_classes(data: ImageData | TableData) -> dict[str, list[int]]:
    """Return the training samples of each class, where they are not all as many."""
    return {"class_sizes": data.class_sizes} if len(set(data.class_sizes)) > 1 else {}


def files_left_out(data: ImageData) -> dict[str, Any]:
    """Return how many files cannot be read, and which; nothing where all can."""
    left_out = data.left_out
    return {"left_out": len(left_out), "files_left_out": left_out} if left_out else {}
