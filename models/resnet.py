"""Build ResNet (He et al. 2016, "Deep residual learning", arXiv 1512.03385).

ResNet-18/34/50 are the networks of the paper's table 1 as torchvision builds them, parameter names
included, so its weights load as they are. ResNet-20/32/44/56 are those of section 4.2 for CIFAR
(n = 3, 5, 7, 9 blocks a stage), with projections where a block changes the shape (the paper's
option B), or with the paper's own option A, which has no parameters.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from models.drop_path import DropPath
from models.neighbours import Layer, Neighbours, own_modules
from models.norms import conv_norm


def build(
    name: str,
    activation: Callable[[], nn.Module],
    num_classes: int,
    stem: str,
    norm: str,
    shortcut: str = "conv",
    drop_path: float = 0.0,
    drop_rate: float = 0.0,
) -> nn.Module:
    """Build one of VARIANTS; `ResNet` explains the options."""
    block, width, depths = VARIANTS[name]
    return ResNet(
        block, width, depths, activation, num_classes, stem, shortcut, norm, drop_path, drop_rate
    )


def conv(in_width: int, width: int, kernel_size: int, norm: str, stride: int = 1) -> nn.Conv2d:
    """Make a convolution (B, in_width, H, W) to (B, width, H/stride, W/stride).

    It has no bias where a norm follows, since the norm has one.
    """
    padding = kernel_size // 2
    layer = nn.Conv2d(in_width, width, kernel_size, stride, padding, bias=False)
    if norm == "none":  # by hand: torch would draw it, and then other weights for what follows
        layer.bias = nn.Parameter(torch.zeros(width))
    return layer


class PaddedShortcut(nn.Module):
    """Map (B, in_width, H, W) to (B, width, H/stride, W/stride) without parameters (option A).

    Every stride-th pixel is taken, and half of the new channels, all zeros, stand in front of the
    old ones and half behind them. The paper does not say where they stand; layers that follow have
    no order of channels to which it would matter.
    """

    def __init__(self, in_width: int, width: int, stride: int):
        super().__init__()
        self.stride = stride
        self.before = (width - in_width) // 2
        self.behind = width - in_width - self.before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.behind))


def make_shortcut(
    in_width: int, width: int, stride: int, shortcut: str, norm: str
) -> nn.Module | None:
    """Make what adapts a block's input to its output; None where the input can be added."""
    if stride == 1 and in_width == width:
        return None
    if shortcut == "pad":
        return PaddedShortcut(in_width, width, stride)
    return nn.Sequential(conv(in_width, width, 1, norm, stride), conv_norm(width, norm))


class Convolution(NamedTuple):
    """Describe one convolution of a residual block."""

    width: int  # channels of its output
    kernel_size: int
    stride: int


class ResidualBlock(nn.Module):
    """Compute act(F(x) + shortcut(x)), F being convolutions with norms and activations between.

    This is the paper's equation 1, or 2 where the shortcut is a projection. The layers are
    conv1, bn1, act1, conv2, bn2, ... in torchvision's names; the last activation reads the sum.
    With a rate `drop_path`, F(x) is dropped for some of the images in training.
    """

    expansion: int  # channels of the output, in multiples of `width`

    def __init__(
        self,
        in_width: int,
        convolutions: list[Convolution],
        activation: Callable[[], nn.Module],
        shortcut: str,
        norm: str,
        drop_path: float,
    ):
        super().__init__()
        residual: OrderedDict[str, nn.Module] = OrderedDict()
        from_width, stride = in_width, 1
        for number, convolution in enumerate(convolutions, start=1):
            if number > 1:
                residual[f"act{number - 1}"] = activation()
            residual[f"conv{number}"] = conv(
                from_width, convolution.width, convolution.kernel_size, norm, convolution.stride
            )
            residual[f"bn{number}"] = conv_norm(convolution.width, norm)
            from_width, stride = convolution.width, stride * convolution.stride
        if drop_path:
            residual["drop_path"] = DropPath(drop_path)
        for name, layer in residual.items():
            self.add_module(name, layer)
        self.downsample = make_shortcut(in_width, from_width, stride, shortcut, norm)
        # Names, not modules: a module that replaces one of these is found by its name.
        self.residual, self.last_activation = tuple(residual), f"act{len(convolutions)}"
        self.add_module(self.last_activation, activation())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x
        for name in self.residual:
            out = getattr(self, name)(out)
        shortcut = x if self.downsample is None else self.downsample(x)
        return getattr(self, self.last_activation)(out + shortcut)


class BasicBlock(ResidualBlock):
    """Map (B, in_width, H, W) to (B, width, H/stride, W/stride) by two 3×3 convolutions."""

    expansion = 1

    def __init__(
        self,
        in_width: int,
        width: int,
        stride: int,
        activation: Callable[[], nn.Module],
        shortcut: str,
        norm: str,
        drop_path: float = 0.0,
    ):
        convolutions = [Convolution(width, 3, stride), Convolution(width, 3, 1)]
        super().__init__(in_width, convolutions, activation, shortcut, norm, drop_path)


class Bottleneck(ResidualBlock):
    """Map (B, in_width, H, W) to (B, 4·width, H/stride, W/stride) by 1×1, 3×3, 1×1 convolutions.

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
        shortcut: str,
        norm: str,
        drop_path: float = 0.0,
    ):
        convolutions = [
            Convolution(width, 1, 1),
            Convolution(width, 3, stride),
            Convolution(width * self.expansion, 1, 1),
        ]
        super().__init__(in_width, convolutions, activation, shortcut, norm, drop_path)


class Variant(NamedTuple):
    """Describe one of the published networks."""

    block: type[BasicBlock] | type[Bottleneck]
    width: int  # of the first stage; doubled in each later one
    depths: tuple[int, ...]  # blocks in each stage


VARIANTS = {
    "resnet18": Variant(BasicBlock, 64, (2, 2, 2, 2)),
    "resnet34": Variant(BasicBlock, 64, (3, 4, 6, 3)),
    "resnet50": Variant(Bottleneck, 64, (3, 4, 6, 3)),
    "resnet20": Variant(BasicBlock, 16, (3, 3, 3)),
    "resnet32": Variant(BasicBlock, 16, (5, 5, 5)),
    "resnet44": Variant(BasicBlock, 16, (7, 7, 7)),
    "resnet56": Variant(BasicBlock, 16, (9, 9, 9)),
}


class ResNet(nn.Sequential):
    """Map images (B, 3, H, W) to logits (B, num_classes).

    Args:
        block: the class of all residual blocks.
        width: channels of the first stage.
        depths: blocks in each stage. Every stage but the first halves H and W and doubles the
            channels.
        activation: makes a fresh activation for every place that has one.
        num_classes: the number of logits.
        stem: "imagenet", which divides H and W by 4 before the first stage, or "cifar", which keeps
            them.
        shortcut: where a block changes the shape: "conv", a projection, or "pad".
        norm: "bn", "gn" or "none".
        drop_path: the rate of the last block, to which the blocks' rates rise from 0 evenly.
        drop_rate: of a dropout before the last layer.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        width: int,
        depths: tuple[int, ...],
        activation: Callable[[], nn.Module],
        num_classes: int,
        stem: str,
        shortcut: str,
        norm: str,
        drop_path: float = 0.0,
        drop_rate: float = 0.0,
    ):
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        large = stem == "imagenet"
        layers["conv1"] = conv(3, width, 7, norm, stride=2) if large else conv(3, width, 3, norm)
        layers["bn1"] = conv_norm(width, norm)
        layers["act1"] = activation()
        if large:
            layers["maxpool"] = nn.MaxPool2d(3, stride=2, padding=1)
        in_width = width
        rates = [drop_path * i / max(1, sum(depths) - 1) for i in range(sum(depths))]
        for i, depth in enumerate(depths):
            stage = []
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                rate = rates[sum(depths[:i]) + j]
                stage.append(
                    block(in_width, width * 2**i, stride, activation, shortcut, norm, rate)
                )
                in_width = width * 2**i * block.expansion
            layers[f"layer{i + 1}"] = nn.Sequential(*stage)
        layers["avgpool"] = nn.AdaptiveAvgPool2d(1)  # (B, in_width, 1, 1)
        layers["flatten"] = nn.Flatten()  # (B, in_width)
        if drop_rate:
            layers["dropout"] = nn.Dropout(drop_rate)
        layers["fc"] = nn.Linear(in_width, num_classes)
        super().__init__(layers)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the convolutions' weights as He et al. 2015 (arXiv 1502.01852), by fan-out."""
        for module in own_modules(self):
            if isinstance(module, nn.Conv2d):
                # ReLU's gain for every activation, so that all start from the same weights.
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def around_activations(self) -> Neighbours:
        """Return the layers that feed an activation and those that read one.

        Both terms of a shortcut's sum come from one of those that feed (the norms, or without them
        the convolutions), or from an activation as is.
        """
        norms: list[Layer] = [
            m for m in own_modules(self) if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)
        ]
        convs: list[Layer] = [m for m in own_modules(self) if isinstance(m, nn.Conv2d)]
        head = [m for m in own_modules(self) if isinstance(m, nn.Linear)]
        # The first convolution reads the image.
        return Neighbours(norms or convs, [*convs[1:], *head])
