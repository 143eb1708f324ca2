"""Declare the flags that decide how training images are varied."""

from __future__ import annotations

from dataclasses import dataclass

from cli.converters import not_negative, number
from cli.fields import flag


@dataclass(frozen=True)
class AugmentationConfig:
    """Hold the flags of augmentation; all of them are off by default."""

    augment: bool = flag(False, bool, "Dataset", "random crop and flip (digits: crop alone)")
    rotate: float = flag(
        0.0, number(float, at_least=0, below=180), "Dataset",
        "rotate training images at random, by up to so many degrees either way, after --augment",
    )  # fmt: skip
    color_jitter: bool = flag(
        False, bool, "Dataset", "random brightness, contrast, saturation (0.2) and hue (0.1)"
    )
    noise: float = flag(
        0.0, not_negative, "Dataset",
        "standard deviation of Gaussian noise on normalised training images",
    )  # fmt: skip
