"""Declare the flags that say how images are found and cut out of the files of a data set."""

from __future__ import annotations

from dataclasses import dataclass

from cli.config import DataConfig
from cli.converters import arguments, mapping, one_of, positive_int
from cli.datasets import ROLES, holds_encoded_images, source_name
from cli.fields import Evaluated, flag
from utils import UserError, nearest


@dataclass(frozen=True)
class ImageSourceConfig(DataConfig):
    """Hold these flags. The names of data sets themselves are in cli/datasets.py."""

    resize: int | None = flag(
        None, positive_int, "Dataset",
        "image size in pixels (the data set's own; digits 32, imagenet 224)",
        evaluated=Evaluated.DATA,
    )  # fmt: skip
    crop: str = flag(
        "auto", one_of("auto", "middle", "imagenet"), "Dataset",
        "how images become square with --resize: middle (shorter side to that size, then the "
        "middle), or imagenet (training: a random part of 8 to 100 % and a flip; evaluation: the "
        "shorter side to 256/224 of it, then the middle); auto is imagenet for --dataset imagenet",
        evaluated=Evaluated.DATA,
    )  # fmt: skip
    image_column: str | None = flag(
        None, str, "Dataset",
        "hf: the column of images; wds: the ending of images (found, where there is one); of "
        "--also_test too, where a set has it",
        evaluated=Evaluated.DATA,
    )  # fmt: skip
    label_column: str | None = flag(
        None, str, "Dataset",
        "hf: the column of classes (found, where there is one); wds: the ending of classes, or "
        "their key in the .json (cls, or else label in the .json); of --also_test too, where a set "
        "has it",
        evaluated=Evaluated.DATA,
    )  # fmt: skip
    splits: str | None = flag(
        None, mapping, "Dataset",
        "hf, wds: the splits by name or pattern where they are not found: "
        "'{train: \"train[:90%]\", val: null, test: \"train[90%:]\"}'",
        evaluated=Evaluated.DATA,
    )  # fmt: skip

    @property
    def crops_like_imagenet(self) -> bool:
        """Return whether images are cropped as ImageNet's are, while they are read."""
        return self.crop == "imagenet" or (self.crop == "auto" and self.dataset == "imagenet")

    @property
    def named_splits(self) -> dict[str, str | None]:
        """Return the splits that are named, by their role; None for one that is not wanted."""
        return arguments(self.splits)

    @property
    def sources(self) -> list[str]:
        """Return the names of the data sets that images are read from."""
        return [self.dataset]

    def check_source(self) -> None:
        """Refuse flags that the data set has no use for.

        Raises:
            UserError: with the remedy.
        """
        for name, sets in (
            ("image_column", self.sources),
            ("label_column", self.sources),
            ("splits", [self.dataset]),
        ):
            has_use = any(source_name(each).library in ("hf", "wds") for each in sets)
            if getattr(self, name) is not None and not has_use:
                raise UserError(f"--{name} is for --dataset hf/... and wds/...; leave it out")
        for role, split in self.named_splits.items():
            if role not in ROLES:
                raise UserError(f"--splits: {nearest(role, ROLES)}")
            if split is None and role != "val":
                raise UserError(f"--splits: {role} cannot be left out; name a split for it")
            if not isinstance(split, str | None):
                raise UserError(f"--splits: expected the name of a split for {role}, not {split!r}")
        if self.crop != "auto" and not holds_encoded_images(self.dataset):
            raise UserError(f"--crop is for image files, and {self.dataset} has none; leave it out")
        if self.crop == "imagenet" and self.resize is None and self.dataset != "imagenet":
            raise UserError("--crop imagenet needs a size; add --resize 224")
