"""ResNet (He et al. 2016, arXiv 1512.03385): the ImageNet networks and those for CIFAR.

ResNet-18/34/50 are torchvision's, parameter names included, so its weights load as they stand.
ResNet-20/32/44/56 are those of the paper's section 4.2, with projections where shapes change.
"""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn

from models.norms import conv_norm


def build(
    name: str, activation: Callable[[], nn.Module], num_classes: int, stem: str, norm: str
) -> nn.Module:
    block, width, depths = VARIANTS[name]
    return ResNet(block, width, depths, activation, num_classes, stem, norm)


def conv(in_width: int, width: int, kernel_size: int, norm: str, stride: int = 1) -> nn.Conv2d:
    # No bias where a norm follows, which has one.
    padding = kernel_size // 2
    layer = nn.Conv2d(in_width, width, kernel_size, stride, padding, bias=False)
    if norm == "none":  # by hand: torch would draw it, and then other weights for what follows
        layer.bias = nn.Parameter(torch.zeros(width))
    return layer


def make_shortcut(in_width: int, width: int, stride: int, norm: str) -> nn.Sequential | None:
    """A projection where the block changes the shape; None where its input can be added as is."""
    if stride == 1 and in_width == width:
        return None
    return nn.Sequential(conv(in_width, width, 1, norm, stride), conv_norm(width, norm))


class BasicBlock(nn.Module):
    """(B, in_width, H, W) to (B, width, H/stride, W/stride)."""

    expansion = 1

    def __init__(
        self,
        in_width: int,
        width: int,
        stride: int,
        activation: Callable[[], nn.Module],
        norm: str,
    ):
        super().__init__()
        self.conv1 = conv(in_width, width, 3, norm, stride)
        self.bn1 = conv_norm(width, norm)
        self.act1 = activation()
        self.conv2 = conv(width, width, 3, norm)
        self.bn2 = conv_norm(width, norm)
        self.downsample = make_shortcut(in_width, width, stride, norm)
        self.act2 = activation()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.act1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.act2(out + shortcut)


class Bottleneck(nn.Module):
    """(B, in_width, H, W) to (B, 4·width, H/stride, W/stride).

    The stride is in the 3×3 convolution ("ResNet v1.5"), where torchvision has it; the paper's is
    in the first 1×1.
    """

    expansion = 4

    def __init__(
        self,
        in_width: int,
        width: int,
        stride: int,
        activation: Callable[[], nn.Module],
        norm: str,
    ):
        super().__init__()
        out_width = width * self.expansion
        self.conv1 = conv(in_width, width, 1, norm)
        self.bn1 = conv_norm(width, norm)
        self.act1 = activation()
        self.conv2 = conv(width, width, 3, norm, stride)
        self.bn2 = conv_norm(width, norm)
        self.act2 = activation()
        self.conv3 = conv(width, out_width, 1, norm)
        self.bn3 = conv_norm(out_width, norm)
        self.downsample = make_shortcut(in_width, out_width, stride, norm)
        self.act3 = activation()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.act1(self.bn1(self.conv1(x)))
        out = self.act2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.act3(out + shortcut)


# Block, width of the first stage (doubled in each later one), blocks in each stage.
VARIANTS = {
    "resnet18": (BasicBlock, 64, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, 64, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, 64, (3, 4, 6, 3)),
    "resnet20": (BasicBlock, 16, (3, 3, 3)),
    "resnet32": (BasicBlock, 16, (5, 5, 5)),
    "resnet44": (BasicBlock, 16, (7, 7, 7)),
    "resnet56": (BasicBlock, 16, (9, 9, 9)),
}


class ResNet(nn.Sequential):
    """Images (B, 3, H, W) to logits (B, num_classes).

    `stem` is "imagenet", which divides H and W by 4 before the first stage, or "cifar", which
    keeps them. Every stage but the first halves them. `norm` is "bn", "gn" or "none".
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        width: int,
        depths: tuple[int, ...],
        activation: Callable[[], nn.Module],
        num_classes: int,
        stem: str,
        norm: str,
    ):
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        large = stem == "imagenet"
        layers["conv1"] = conv(3, width, 7, norm, stride=2) if large else conv(3, width, 3, norm)
        layers["bn1"] = conv_norm(width, norm)
        layers["act1"] = activation()
        if large:
            layers["maxpool"] = nn.MaxPool2d(3, stride=2, padding=1)
        in_width = width
        for i, depth in enumerate(depths):
            stage = []
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                stage.append(block(in_width, width * 2**i, stride, activation, norm))
                in_width = width * 2**i * block.expansion
            layers[f"layer{i + 1}"] = nn.Sequential(*stage)
        layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["fc"] = nn.Linear(in_width, num_classes)
        super().__init__(layers)
        self.init_weights()

    def init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # ReLU's gain for every activation, so that all start from the same weights.
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def around_activations(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """The layers that feed an activation, and those that read one; for models.rescale and
        models.init_gain.

        Both terms of a shortcut's sum come from one of those that feed (the norms, or without them
        the convolutions), or from an activation as is.
        """
        norms = [m for m in self.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)]
        convs = [m for m in self.modules() if isinstance(m, nn.Conv2d)]
        # The first convolution reads the image.
        return norms or convs, [*convs[1:], self.fc]
