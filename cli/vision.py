"""Declare the flags of vision_main.py, and its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cli.augmentation import AugmentationConfig
from cli.config import Config
from cli.converters import (
    count,
    frozen_parts,
    number,
    one_of,
    path,
    positive_int,
    seed_number,
    share,
    warmup_length,
)
from cli.datasets import (
    DEFAULT_DATA_PATH,
    LONG_TAIL_FACTOR,
    LONG_TAILED,
    SOURCE_FORMS,
    VISION_DATASETS,
    holds_encoded_images,
    image_dataset,
    image_size,
)
from cli.fields import Effect, Evaluated, flag
from cli.further_tests import PUBLISHED_TESTS, asked_for, further_tests
from cli.image_sources import ImageSourceConfig
from cli.run import RunConfig
from cli.training import TrainingConfig
from cli.vision_network import VisionModelConfig
from utils import UserError


@dataclass(frozen=True)
class VisionDataConfig(AugmentationConfig, ImageSourceConfig):
    """Hold the flags that decide the images, their splits and their augmentation."""

    dataset: str = flag(
        "cifar10", image_dataset, "Dataset",
        f"data set: {', '.join(VISION_DATASETS)}; or {SOURCE_FORMS} (torchvision's, Hugging "
        "Face's, WebDataset's shards: docs/vision.md)",
        evaluated=Evaluated.DATA,
    )  # fmt: skip
    data_path: str = flag(
        DEFAULT_DATA_PATH, path, "Dataset", "folder of the data", Effect.NOTHING,
        evaluated=Evaluated.DATA,
    )  # fmt: skip
    batch_size: int = flag(256, positive_int, "Training", "images per step")
    val_fraction: float = flag(
        0.0, share, "Dataset",
        "share of the training set held out for validation, stratified",
        evaluated=Evaluated.DATA,
    )  # fmt: skip
    imb_factor: float | None = flag(
        None, number(float, above=0, below=1), "Dataset",
        "make the training set long-tailed: the smallest class's share of the largest one "
        f"(all images; {LONG_TAIL_FACTOR:g} for cifar10-lt and cifar100-lt)",
        evaluated=Evaluated.DATA,
    )  # fmt: skip
    imb_type: str = flag(
        "exp", one_of("exp", "step"), "Dataset",
        "with --imb_factor: exp falls from class to class, step once, after half of them",
        evaluated=Evaluated.DATA,
    )  # fmt: skip
    split_seed: int = flag(
        0, seed_number, "System", "seed of the validation split, and of what --imb_factor keeps",
        evaluated=Evaluated.DATA,
    )  # fmt: skip
    skip_broken: bool = flag(
        False, bool, "Dataset",
        "leave out files that cannot be read as images; they are named at the start and in "
        "args.txt",
        evaluated=Evaluated.DATA,
    )  # fmt: skip
    also_test: str | None = flag(
        None, further_tests(image_dataset), "Dataset",
        f"test at the end on these too, with commas between: {', '.join(PUBLISHED_TESTS)}, a data "
        "set's name (its test split; hf/NAME:CONFIG:SPLIT names another), or a folder of the run's "
        "classes; NAME:PATH where the files are not in --data_path",
        Effect.NOTHING,
    )  # fmt: skip
    num_workers: int | None = flag(
        None, count, "System",
        "processes that read images of data sets too large for memory; 0 is none "
        "but this one (one per processor)",
        Effect.NOTHING,
    )  # fmt: skip

    @property
    def sources(self) -> list[str]:
        """Return the names of the data sets that images are read from."""
        return [self.dataset, *(asked.kind for asked in asked_for(self.also_test))]

    @property
    def is_long_tailed(self) -> bool:
        """Return whether the training set is made long-tailed."""
        return self.imb_factor is not None or self.dataset in LONG_TAILED

    def check(self) -> None:
        """Refuse flags that contradict each other.

        Raises:
            UserError: with the remedy.
        """
        if self.imb_type != "exp" and not self.is_long_tailed:
            raise UserError("--imb_type has no effect without --imb_factor; add --imb_factor 0.01")
        if self.skip_broken and not holds_encoded_images(self.dataset):
            raise UserError(
                f"--skip_broken is for image files, and {self.dataset} has none; leave it out"
            )
        self.check_augmentation(is_imagenet=self.crops_like_imagenet)
        self.check_source()


@dataclass(frozen=True)
class VisionTrainingConfig(TrainingConfig):
    """Hold the flags that decide the training of a classifier."""

    num_epochs: int = flag(150, positive_int, "Training", "passes over the training set")
    replace_gradually: str | None = flag(
        None, warmup_length, "Training",
        "go from the old activations of the network that is started from to --activation linearly: "
        "over steps (500), epochs (5ep) or a share of all steps (10%)",
    )  # fmt: skip
    sync_batchnorm: bool = flag(
        False, bool, "Training",
        "with several processes: BatchNorm's statistics over all of them, not over each one's",
    )  # fmt: skip
    criterion: str = flag(
        "CrossEntropy", one_of("CrossEntropy", "MSE", "BCE"), "Optimization",
        "loss: CrossEntropy; MSE between the outputs and one-hot targets; or BCE, binary "
        "cross-entropy of each class, as timm's --bce-loss",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    label_smoothing: float = flag(0.0, share, "Optimization", "of the training targets")
    class_balanced: float | None = flag(
        None, number(float, at_least=0, at_most=1), "Optimization",
        "class-balanced training loss (arXiv 1901.05555) with this beta, for example 0.9999; 1 "
        "weighs a class by the inverse of its images",
    )  # fmt: skip

    layer_decay: float = flag(
        1.0, number(float, above=0, at_most=1), "Optimization",
        "the learning rate of each layer is so much of the next one's, the head's is --lr: 0.75, "
        "for example, in fine-tuning. The layers are timm's",
    )  # fmt: skip
    freeze: str | None = flag(
        None, frozen_parts, "Optimization",
        "what is not trained: trunk, all but the last layer; norms, every BatchNorm; or "
        "trunk,norms. BatchNorms in it keep their statistics, and normalise by them",
    )  # fmt: skip

    @property
    def frozen(self) -> list[str]:
        """Return the parts that --freeze names."""
        return self.freeze.split(",") if self.freeze else []

    @property
    def gradual_length(self) -> str | None:
        return self.replace_gradually

    @property
    def bound_to_length(self) -> str | None:
        if self.replace_gradually is not None and self.replace_gradually.endswith("%"):
            return f"--replace_gradually {self.replace_gradually}"
        return super().bound_to_length

    def check(self) -> None:
        super().check()
        if self.freeze and self.sync_batchnorm:
            raise UserError(
                "--sync_batchnorm: with --freeze BatchNorms keep their statistics; leave out "
                "--sync_batchnorm"
            )
        if self.class_balanced is not None and self.criterion != "CrossEntropy":
            raise UserError(
                f"--class_balanced is for --criterion CrossEntropy, not {self.criterion}; leave "
                "one out"
            )


@dataclass(frozen=True)
class VisionConfig(Config):
    """Hold the configuration of vision_main.py."""

    PROGRAM: ClassVar[str] = "vision_main.py"
    KIND: ClassVar[str] = "vision"

    model: VisionModelConfig = VisionModelConfig()  # noqa: RUF009 - like the others, it is frozen
    data: VisionDataConfig = VisionDataConfig()
    training: VisionTrainingConfig = VisionTrainingConfig()
    run: RunConfig = RunConfig()  # noqa: RUF009 - it is frozen

    def check(self) -> None:
        super().check()
        self.data.check()
        if self.training.replace_gradually is not None and not (
            self.model.is_third_party or self.model.start
        ):
            raise UserError(
                f"--replace_gradually: {self.model.model} starts untrained, with no activation to "
                "replace; add --init_from, or leave it out"
            )
        if self.training.sync_batchnorm and self.model.norm in ("gn", "none"):
            raise UserError(
                f"--sync_batchnorm: --norm {self.model.norm} has no BatchNorm; leave out "
                "--sync_batchnorm"
            )
        self.model.options(self._expected_image_size())

    def _expected_image_size(self) -> int:
        """Return the side of the images as far as flags tell, in pixels.

        For a folder of images it is one that every option fits.
        """
        size = self.data.resize or image_size(self.data.dataset)
        patch = self.model.patch_size
        return size or (patch if isinstance(patch, int) else 224)
