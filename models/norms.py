"""Make the norms of this project's networks, by the values of `--norm`; "none" leaves them out.

Nothing takes the place of norms that are left out: neither a scaling of residuals nor a special
initialisation (Fixup, Zhang et al. 2019, arXiv 1901.09321). Such networks show what an activation
does on its own, divergence included; deep ones may well diverge.
"""

import torch
from torch import nn

MAX_GROUPS = 32
MIN_CHANNELS = 4  # in a group


def conv_norm(width: int, norm: str) -> nn.Module:
    """Make the norm for feature maps (B, width, H, W).

    GroupNorm has the paper's 32 groups, or as many as leave 4 channels to each: 16 channels make 4
    groups. With fewer channels in a group it nears InstanceNorm, the worst of the paper's table 3,
    and a group of one channel on a map of one pixel would always be 0.

    Args:
        width: the number of channels; a multiple of the number of groups, as the powers of two of
            VGG and ResNet are.
        norm: "bn" (Ioffe & Szegedy 2015, arXiv 1502.03167), "gn" (Wu & He 2018, arXiv 1803.08494)
            or "none".
    """
    if norm == "gn":
        return GroupNorm(min(MAX_GROUPS, width // MIN_CHANNELS), width)
    return nn.BatchNorm2d(width) if norm == "bn" else no_norm()


class GroupNorm(nn.GroupNorm):
    """Normalise groups of channels, and keep channels last in memory where they are.

    On CUDA torch returns them first. The convolution behind would put them last again; until there
    an addition of two layouts is slow.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
            return y.contiguous(memory_format=torch.channels_last)
        return y


def layer_norm(width: int, norm: str, eps: float, bias: bool = True) -> nn.Module:
    """Make the norm for the tokens of a transformer, (B, N, width), by features.

    Args:
        width: the number of features.
        norm: "layer" (Ba et al. 2016, arXiv 1607.06450), "rms" (Zhang & Sennrich 2019,
            arXiv 1910.07467, which has no bias), "bn" or "none".
        eps: what LayerNorm adds to the variance, and RMSNorm to the mean square.
        bias: LayerNorm has one.
    """
    if norm == "bn":
        return TokenBatchNorm(width)
    if norm == "rms":
        return nn.RMSNorm(width, eps=eps)
    return nn.LayerNorm(width, eps=eps, bias=bias) if norm == "layer" else no_norm()


class TokenBatchNorm(nn.Module):
    """Normalise each feature of tokens (B, N, width) over batch and tokens.

    This is BatchNorm just where LayerNorm stood. Yao et al. 2021 ("Leveraging batch normalization
    for vision transformers", ICCV workshops) report that trainings often crash so, and add another
    one between the MLP's linear layers; here there is none.
    """

    def __init__(self, width: int):
        super().__init__()
        # Not a subclass: --sync_batchnorm puts another class in the place of a BatchNorm2d.
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # (B, width, N, 1), which lies in memory as x does: channels last
        maps = x.transpose(1, 2).unsqueeze(3)
        return self.bn(maps).squeeze(3).transpose(1, 2)


def no_norm() -> nn.Module:
    """Make a module that returns its input.

    It is not nn.Identity, which is among the activations on offer: an activation's place in a
    network is recognised by the module's type.
    """
    return nn.Sequential()
