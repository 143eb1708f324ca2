"""Declare the flags that decide the network for images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import models
from cli.converters import VISION_FORMS, model_name, one_of, patch_size, share, weights_path
from cli.fields import Evaluated, flag
from cli.network import ModelConfig
from utils import UserError, one_line_warnings, user_errors


@dataclass(frozen=True)
class VisionModelConfig(ModelConfig):
    """Hold the flags that decide the network for images."""

    model: str = flag(
        "vgg11", model_name(models.VISION_MODELS, models.VISION_PACKAGES, VISION_FORMS), "Model",
        f"network: {', '.join(models.VISION_MODELS)}; or {VISION_FORMS}: any image classifier "
        "that timm or torchvision has, its activations replaced",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    stem: str = flag(
        "auto", one_of(*models.STEMS), "Model",
        "ResNet-18/34/50: cifar (3x3) or imagenet (7x7, max-pool); auto depends on the image size",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    shortcut: str = flag(
        "conv", one_of(*models.SHORTCUTS), "Model",
        "ResNets, where a block changes the shape: conv (1x1 projections), or pad (every second "
        "pixel, and new channels of zeros: option A of He et al., their ResNet-20)",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    head: str = flag(
        "auto", one_of(*models.HEADS), "Model",
        "VGG: linear; imagenet, the published three layers, 4096 wide, on 7x7 features; or wide, "
        "these three on globally averaged features; auto is one of the first two by the image size",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    patch_size: str | int = flag(
        "auto", patch_size, "Model", "ViT: pixels; auto is 4 or 16", evaluated=Evaluated.NETWORK
    )
    drop_path: float | None = flag(
        None, share, "Model",
        "stochastic depth: drop the residual branches of the last block with this rate, for each "
        "image in training, and of earlier blocks with rates that rise to it evenly from 0 "
        "(none; timm's and torchvision's networks: their own)",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    drop_rate: float | None = flag(
        None, share, "Model",
        "dropout before the last layer, in VGG's three layers before both later ones (none, 0.5 in "
        "VGG's three layers; timm's and torchvision's networks: their own)",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    init_from: str | None = flag(
        None, weights_path, "Model",
        "folder or checkpoint of another run to start from: a new run with the weights of that "
        "one; or a file of others (.safetensors, .pth, .pt, .bin). The head is new where the "
        "number of classes differs",
    )  # fmt: skip
    pretrained: bool = flag(
        False, bool, "Model",
        "timm/ and torchvision/: start from the package's weights, by default or by the tag in the "
        "name (timm/resnet50.a1_in1k, torchvision/resnet50.IMAGENET1K_V1), with their "
        "normalisation and image size. The head is new where the number of classes differs",
    )  # fmt: skip

    @property
    def start(self) -> str | None:
        return self.init_from

    def check(self) -> None:
        super().check()
        if self.pretrained and not self.is_third_party:
            raise UserError(
                f"--pretrained: {self.model} has no published weights; take timm/NAME or "
                "torchvision/NAME, or give --init_from FILE"
            )
        if self.pretrained and self.init_from is not None:
            raise UserError("--pretrained and --init_from are two starts; leave out one of them")

    def options(self, image_size: int) -> dict[str, Any]:
        """Return the options that the network's family has, every auto resolved.

        Args:
            image_size: side of the images in pixels.

        Raises:
            UserError: an option that the network does not have, or images too small for it.
        """
        with user_errors(), one_line_warnings():
            return models.resolve_options(
                self.model, image_size, self.stem, self.head, self.patch_size, self.norm,
                self.shortcut, self.drop_path, self.drop_rate,
            )  # fmt: skip
