"""The norms of our networks, by the values of `--norm`; "none" leaves them out.

Nothing takes the place of norms that are left out: no scaling of residuals, no initialisation made
for it (Fixup, Zhang et al. 2019, arXiv 1901.09321). Such networks are there for what an activation
does on its own, divergence included, and deep ones may well diverge.
"""

from torch import nn

MOST_GROUPS = 32
LEAST_CHANNELS = 4  # in a group


def conv_norm(width: int, norm: str) -> nn.Module:
    """Of (B, width, H, W): "bn", "gn" (Wu & He 2018, arXiv 1803.08494) or "none".

    GroupNorm has the paper's 32 groups, or as many as leave 4 channels to each: 16 channels make 4
    groups. With fewer channels it nears InstanceNorm, the worst of the paper's table 3, and a group
    of one channel on a map of one pixel would always be 0. `width` must be a multiple of the
    number of groups, as the powers of two of VGG and ResNet are.
    """
    if norm == "gn":
        return nn.GroupNorm(min(MOST_GROUPS, width // LEAST_CHANNELS), width)
    return nn.BatchNorm2d(width) if norm == "bn" else no_norm()


def layer_norm(width: int, norm: str, eps: float) -> nn.Module:
    """Of (..., width): "layer" or "none"."""
    return nn.LayerNorm(width, eps=eps) if norm == "layer" else no_norm()


def no_norm() -> nn.Module:
    """Passes its input on. No nn.Identity, which is an activation on offer: sites of activations
    are recognised by their type."""
    return nn.Sequential()
