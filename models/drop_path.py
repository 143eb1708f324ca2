"""Drop the residual branches of blocks at random (Huang et al. 2016, arXiv 1603.09382)."""

import torch
from torch import nn


class DropPath(nn.Module):
    """Set the whole branch of an image to zero with probability `rate`, in training alone.

    The branches that stay are divided by 1 - rate, so the mean over the draws is what evaluation
    computes. The input is (B, ...); each image draws for itself, from torch's generator of its
    device, in the way of timm's DropPath and torchvision's StochasticDepth: from one state of the
    generator all three drop the same.

    Args:
        rate: from 0 to below 1.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = x.new_empty(x.shape[0], *(1 for _ in x.shape[1:])).bernoulli_(1 - self.rate)
        return x * kept.div_(1 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.4g}"
