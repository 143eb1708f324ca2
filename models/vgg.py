"""VGG with batch normalisation (Simonyan & Zisserman 2015, arXiv 1409.1556; torchvision's vgg*_bn),
with another norm, or without (torchvision's vgg*).

`build` makes one by name. Parameter names are torchvision's, so its weights load as they stand.
"""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn

from models.norms import conv_norm

WIDTHS = (64, 128, 256, 512, 512)
# 3×3 convolutions in each of the five stages.
VARIANTS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}


def build(
    name: str, activation: Callable[[], nn.Module], num_classes: int, head: str, norm: str
) -> nn.Module:
    return VGG(VARIANTS[name], activation, num_classes, head, norm)


def make_features(
    depths: tuple[int, ...], activation: Callable[[], nn.Module], norm: str
) -> nn.Sequential:
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


def make_imagenet_classifier(
    activation: Callable[[], nn.Module], num_classes: int
) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(512 * 7 * 7, 4096),
        activation(),
        nn.Dropout(0.5),
        nn.Linear(4096, 4096),
        activation(),
        nn.Dropout(0.5),
        nn.Linear(4096, num_classes),
    )


class PoolTo7(nn.AdaptiveAvgPool2d):
    """Average features (B, C, H, W) to 7×7; those of 224-pixel images are that already.

    They are passed on as they are: the operation's backward on CUDA is not deterministic.
    """

    def __init__(self):
        super().__init__(7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.shape[-2:] == (7, 7) else super().forward(x)


class VGG(nn.Sequential):
    """Images (B, 3, H, W), H and W at least 32, to logits (B, num_classes).

    `head` is "imagenet", the published three linear layers on 7×7 pooled features, or "linear",
    one linear layer on globally averaged features: the form in use for CIFAR. `norm` is "bn", "gn"
    or "none".
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        activation: Callable[[], nn.Module],
        num_classes: int,
        head: str,
        norm: str,
    ):
        # (B, 512, H/32, W/32)
        layers = OrderedDict(features=make_features(depths, activation, norm))
        if head == "imagenet":
            layers["avgpool"] = PoolTo7()
            layers["flatten"] = nn.Flatten()
            layers["classifier"] = make_imagenet_classifier(activation, num_classes)
        else:
            layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
            layers["flatten"] = nn.Flatten()
            layers["classifier"] = nn.Linear(512, num_classes)
        super().__init__(layers)
        self.init_weights()

    def init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # ReLU's gain for every activation, so that all start from the same weights.
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def around_activations(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """The layers that feed an activation, and those that read one; for models.rescale and
        models.init_gain."""
        norms = [m for m in self.features if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)]
        convs = [m for m in self.features if isinstance(m, nn.Conv2d)]
        linears = [m for m in self.modules() if isinstance(m, nn.Linear)]
        # The first convolution reads the image, and the last linear layer gives the logits.
        return [*(norms or convs), *linears[:-1]], [*convs[1:], *linears]
