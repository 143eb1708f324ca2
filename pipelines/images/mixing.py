"""Mix the images of a batch and their labels: mixup and CutMix.

The draws are one for a batch: whether it is mixup or CutMix, how much, and which rectangle. An
image's partner is that at the same distance from the batch's other end, as in timm: the mirror.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.nn import functional as F


class Rectangle(NamedTuple):
    """Hold the rows top..bottom-1 and the columns left..right-1 of an image."""

    top: int
    bottom: int
    left: int
    right: int


class Mix(NamedTuple):
    """Hold how a batch is mixed.

    Attributes:
        share: of an image in its mixture; its partner has the rest.
        rectangle: what CutMix takes from the partner; None for mixup.
    """

    share: float
    rectangle: Rectangle | None


@dataclass(frozen=True)
class Mixing:
    """Say how batches are mixed.

    Attributes:
        mixup: alpha of mixup's Beta distribution; 0 is none.
        cutmix: likewise of CutMix's.
        switch: the chance of CutMix where there are both.
        classes: the number of labels.
    """

    mixup: float
    cutmix: float
    switch: float
    classes: int

    def draw(self, size: int, seed: int) -> Mix:
        """Draw how a batch of images of this side in pixels is mixed, from the seed alone."""
        random = np.random.RandomState(seed % 2**32)  # whose stream is the same in all versions
        uses_cutmix = self.cutmix > 0 and (not self.mixup or random.rand() < self.switch)
        alpha = self.cutmix if uses_cutmix else self.mixup
        share = random.beta(alpha, alpha)
        if not uses_cutmix:
            return Mix(share, None)
        rectangle = _rectangle(size, share, *random.randint(size, size=2).tolist())
        area = (rectangle.bottom - rectangle.top) * (rectangle.right - rectangle.left)
        return Mix(1 - area / size**2, rectangle)

    def soft_labels(self, targets: Tensor, partners: Tensor, mix: Mix) -> Tensor:
        """Return the mixed labels float32 (B, classes) of two classes each, int64 (B,)."""
        own, other = (F.one_hot(each, self.classes).float() for each in (targets, partners))
        return other.mul_(1 - mix.share).add_(own.mul_(mix.share))


def _rectangle(size: int, share: float, row: int, column: int) -> Rectangle:
    """Return the square about a pixel that leaves this share of an image, without what is outside.

    Its sides are torchvision's, twice a half that is rounded down.
    """
    half = int(0.5 * math.sqrt(1 - share) * size)
    return Rectangle(
        max(row - half, 0), min(row + half, size), max(column - half, 0), min(column + half, size)
    )


def mixed(images: Tensor, partners: Tensor, mix: Mix) -> Tensor:
    """Return the mixed images, in channels_last memory format.

    Args:
        images: float (B, 3, H, W).
        partners: the image that each is mixed with, likewise.
        mix: how.
    """
    if mix.rectangle is None:
        return (partners * (1 - mix.share)).add_(images * mix.share)
    top, bottom, left, right = mix.rectangle
    result = images.clone()
    result[..., top:bottom, left:right] = partners[..., top:bottom, left:right]
    return result
