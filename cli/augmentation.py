"""Declare the flags that decide how training images are varied."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any

from cli.converters import not_negative, number, one_of, positive_int
from cli.fields import Evaluated, flag
from utils import UserError, nearest

INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
ERASING_MODES = ("const", "pixel")
DEFAULT_MIN_SCALE = 0.08  # of random-resized crops, in torchvision and timm alike

AUTO_AUGMENT_POLICIES = ("imagenet", "cifar10", "svhn")
# Of each form its settings: the least and the greatest value, and whether it is a whole number.
AUTO_AUGMENT_SETTINGS: dict[str, dict[str, tuple[float, float, bool]]] = {
    "randaugment": {"n": (1, 10, True), "m": (0, 30, True)},
    "trivialaugment": {},
    "autoaugment": {},
    "rand": {
        "m": (0, 100, True), "n": (1, 10, True), "p": (0, 1, False), "mstd": (0, 1e9, False),
        "mmax": (1, 100, True), "inc": (0, 1, True),
    },
}  # fmt: skip


def auto_augment_settings(text: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the settings that stand in a value of --auto_augment.

    Raises:
        ValueError: it is none, or a setting is unknown or out of its range.
    """
    name, *parts = text.lower().split("-")
    if name not in AUTO_AUGMENT_SETTINGS:
        raise ValueError(f"unknown value {text!r}; {nearest(name, AUTO_AUGMENT_SETTINGS)}")
    settings: dict[str, Any] = {}
    for part in parts:
        key, value = _auto_augment_setting(name, part)
        if key in settings:
            raise ValueError(f"{text!r} has {key} twice")
        settings[key] = value
    return name, settings


def _auto_augment_setting(name: str, part: str) -> tuple[str, Any]:
    if name == "autoaugment":
        return "policy", one_of(*AUTO_AUGMENT_POLICIES)(part)
    known = AUTO_AUGMENT_SETTINGS[name]
    match = re.fullmatch(r"([a-z]+)(\d+\.?\d*)", part)
    if not match or match[1] not in known:
        wanted = ", ".join(f"{key}NUMBER" for key in known) or "none"
        raise ValueError(f"unknown setting {part!r} of {name}; known: {wanted}")
    least, greatest, whole = known[match[1]]
    convert = number(int if whole else float, at_least=least, at_most=greatest)
    return match[1], convert(match[2])


def auto_augment_name(text: str) -> str:
    """Return a value of --auto_augment in small letters, if it is one."""
    auto_augment_settings(text)
    return text.lower()


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
    random_resized_crop: float | None = flag(
        None, number(float, above=0, at_most=1), "Dataset",
        "with --augment: crops of random size and shape, scaled to the images' size, of at least "
        f"this share of the area ({DEFAULT_MIN_SCALE:g} is usual, and imagenet's)",
    )  # fmt: skip
    interpolation: str = flag(
        "bilinear", one_of(*INTERPOLATIONS), "Dataset",
        f"{', '.join(INTERPOLATIONS)}: of random-resized crops, of --auto_augment, and of "
        "imagenet's test images",
        evaluated=Evaluated.DATA,
    )  # fmt: skip
    auto_augment: str | None = flag(
        None, auto_augment_name, "Dataset",
        "torchvision's randaugment[-n2-m9], trivialaugment or "
        f"autoaugment[-{'|'.join(AUTO_AUGMENT_POLICIES)}]; or timm's rand-m9-mstd0.5-inc1 (DeiT's; "
        "m, n, p, mstd, mmax, inc)",
    )  # fmt: skip
    random_erasing: float = flag(
        0.0, number(float, at_least=0, at_most=1), "Dataset",
        "chance that a rectangle of a normalised training image is erased",
    )  # fmt: skip
    erasing_mode: str = flag(
        "const", one_of(*ERASING_MODES), "Dataset",
        "with --random_erasing: const is zeros, as torchvision's; pixel is noise, as timm's",
    )  # fmt: skip
    repeated_augmentation: int = flag(
        1, positive_int, "Dataset",
        "so many copies of an image, varied differently, in a batch (DeiT: 3); an epoch has as "
        "many images as before, and so the fewer different ones",
    )  # fmt: skip
    mixup: float = flag(
        0.0, not_negative, "Dataset",
        "mix the images of a batch and their labels: alpha of the Beta distribution (0.2, 0.8)",
    )  # fmt: skip
    cutmix: float = flag(
        0.0, not_negative, "Dataset",
        "paste rectangles of a batch's images into each other, and mix the labels: alpha (1.0)",
    )  # fmt: skip
    mixup_switch: float = flag(
        0.5, number(float, at_least=0, at_most=1), "Dataset",
        "with --mixup and --cutmix: the chance that a batch has CutMix",
    )  # fmt: skip
    crop_pct: float | None = flag(
        None, number(float, above=0, at_most=1), "Dataset",
        "imagenet: share of the shorter side that test images keep, timm's crop_pct (224/256)",
        evaluated=Evaluated.DATA,
    )  # fmt: skip
    test_size: int | None = flag(
        None, positive_int, "Dataset",
        "imagenet: size of validation and test images in pixels, where it is not the training "
        "images' (torchvision trains at 176 and tests at 224)",
        evaluated=Evaluated.DATA,
    )  # fmt: skip

    def check_values(self) -> None:
        """Refuse values that the flags would not take, where they come from a program.

        Raises:
            UserError: with what is expected.
        """
        for each in fields(AugmentationConfig):
            value, convert = getattr(self, each.name), each.metadata["convert"]
            if value is not None and convert is not bool:
                try:
                    convert(str(value))
                except ValueError as error:
                    raise UserError(f"--{each.name}: {error}") from None

    def check_augmentation(self, is_imagenet: bool) -> None:
        """Refuse flags without effect.

        Args:
            is_imagenet: images are cropped while they are read.

        Raises:
            UserError: with the remedy.
        """
        if self.random_resized_crop and not (self.augment or is_imagenet):
            raise UserError("--random_resized_crop has no effect without --augment; add --augment")
        resamples = is_imagenet or self.random_resized_crop or self.auto_augment
        if self.interpolation != "bilinear" and not resamples:
            raise UserError(
                "--interpolation has no effect without --random_resized_crop, --auto_augment or "
                "--dataset imagenet; leave it out"
            )
        if self.interpolation == "nearest" and (is_imagenet or self.random_resized_crop):
            raise UserError(
                "--interpolation nearest is for --auto_augment alone; with random-resized crops "
                "choose bilinear or bicubic"
            )
        if self.erasing_mode != "const" and not self.random_erasing:
            raise UserError(
                "--erasing_mode has no effect without --random_erasing; add --random_erasing 0.25"
            )
        if self.mixup_switch != 0.5 and not (self.mixup and self.cutmix):
            raise UserError(
                "--mixup_switch has no effect without both --mixup and --cutmix; leave it out"
            )
        for name in ("crop_pct", "test_size"):
            if getattr(self, name) is not None and not is_imagenet:
                raise UserError(f"--{name} is for --dataset imagenet; leave it out")
