"""Build VGG (Simonyan & Zisserman 2015, "Very deep convolutional networks", arXiv 1409.1556).

VGG-11/13/16/19 are configurations A, B, D and E of the paper's table 1. By default they have
BatchNorm (torchvision's vgg*_bn); without norms they are the paper's (torchvision's vgg*).
Parameter names are torchvision's, so its weights load as they are.
"""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn

from models.neighbours import Layer, Neighbours, own_modules
from models.norms import conv_norm

WIDTHS = (64, 128, 256, 512, 512)  # channels of the five stages
# 3×3 convolutions in each stage.
VARIANTS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}


def build(
    name: str,
    activation: Callable[[], nn.Module],
    num_classes: int,
    head: str,
    norm: str,
    drop_rate: float | None = None,
) -> nn.Module:
    """Build one of VARIANTS; `VGG` explains the options."""
    return VGG(VARIANTS[name], activation, num_classes, head, norm, drop_rate)


def make_features(
    depths: tuple[int, ...], activation: Callable[[], nn.Module], norm: str
) -> nn.Sequential:
    """Make the convolutional stages: images (B, 3, H, W) to features (B, 512, H/32, W/32)."""
    layers: list[nn.Module] = []
    in_width = 3
    for width, depth in zip(WIDTHS, depths, strict=True):
        for _ in range(depth):
            # The bias is redundant before BatchNorm; the published weights have it.
            layers.append(nn.Conv2d(in_width, width, kernel_size=3, padding=1))
            if norm != "none":  # no place is kept: it would shift the numbers in the names
                layers.append(conv_norm(width, norm))
            layers.append(activation())
            in_width = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def make_wide_classifier(
    in_width: int, activation: Callable[[], nn.Module], num_classes: int, drop_rate: float = 0.5
) -> nn.Sequential:
    """Make the published head: features (B, in_width) to logits (B, num_classes)."""
    return nn.Sequential(
        nn.Linear(in_width, 4096),
        activation(),
        nn.Dropout(drop_rate),
        nn.Linear(4096, 4096),
        activation(),
        nn.Dropout(drop_rate),
        nn.Linear(4096, num_classes),
    )


class PoolTo7(nn.AdaptiveAvgPool2d):
    """Average features (B, C, H, W) to (B, C, 7, 7).

    Those of 224-pixel images have that size already. Others are averaged row by row where results
    are to be deterministic on CUDA, since torch's backward pass is not.
    """

    def __init__(self) -> None:
        super().__init__(7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-2:] == (7, 7):
            return x
        if x.is_cuda and torch.are_deterministic_algorithms_enabled():
            return averaged(averaged(x, 7, dim=2), 7, dim=3)
        return super().forward(x)


def averaged(x: torch.Tensor, size: int, dim: int) -> torch.Tensor:
    """Average parts of a dimension, as adaptive average pooling cuts it into `size` of them."""
    length = x.shape[dim]
    starts = [i * length // size for i in range(size)]
    ends = [-(-(i + 1) * length // size) for i in range(size)]  # rounded up
    parts = [x.narrow(dim, start, end - start) for start, end in zip(starts, ends, strict=True)]
    return torch.cat([part.mean(dim, keepdim=True) for part in parts], dim)


class VGG(nn.Sequential):
    """Map images (B, 3, H, W), H and W at least 32, to logits (B, num_classes).

    Args:
        depths: convolutions in each of the five stages.
        activation: makes a fresh activation for every place that has one.
        num_classes: the number of logits.
        head: "imagenet", the published three linear layers on 7×7 pooled features; "wide", those
            three on globally averaged features; or "linear", one linear layer on them. Both are in
            use for CIFAR.
        norm: "bn", "gn" or "none".
        drop_rate: of the dropout before a linear head (None is 0), or of both in the published
            layers (None is 0.5).
    """

    features: nn.Sequential

    def __init__(
        self,
        depths: tuple[int, ...],
        activation: Callable[[], nn.Module],
        num_classes: int,
        head: str,
        norm: str,
        drop_rate: float | None = None,
    ):
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        wide_rate = 0.5 if drop_rate is None else drop_rate
        layers["features"] = make_features(depths, activation, norm)  # (B, 512, H/32, W/32)
        if head == "imagenet":
            layers["avgpool"] = PoolTo7()
            layers["flatten"] = nn.Flatten()
            layers["classifier"] = make_wide_classifier(
                512 * 7 * 7, activation, num_classes, wide_rate
            )
        else:
            layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
            layers["flatten"] = nn.Flatten()
            if head == "linear" and drop_rate:
                layers["dropout"] = nn.Dropout(drop_rate)
            layers["classifier"] = nn.Linear(512, num_classes)
        if head == "wide":
            layers["classifier"] = make_wide_classifier(512, activation, num_classes, wide_rate)
        super().__init__(layers)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw all weights as torchvision does."""
        for module in own_modules(self):
            if isinstance(module, nn.Conv2d):
                # ReLU's gain for every activation, so that all start from the same weights.
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None, "make_features leaves no bias out"
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def around_activations(self) -> Neighbours:
        """Return the layers that feed an activation and those that read one."""
        norms: list[Layer] = [
            m for m in self.features if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)
        ]
        convs: list[Layer] = [m for m in self.features if isinstance(m, nn.Conv2d)]
        linears = [m for m in own_modules(self) if isinstance(m, nn.Linear)]
        # The first convolution reads the image, and the last linear layer gives the logits.
        return Neighbours([*(norms or convs), *linears[:-1]], [*convs[1:], *linears])
