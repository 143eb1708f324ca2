"""Rotate queries and keys by their positions (RoPE: Su et al. 2021, arXiv 2104.09864).

The form is Llama's: feature i of a head is paired with feature i + half, and the angle of a pair
at a position is computed in fp32. So weights copied from a Llama give the same logits.
"""

from typing import NamedTuple

import torch

THETA = 10_000.0


class Rotation(NamedTuple):
    """Hold the cosines and sines of the angles at positions, each (T, features of a head / 2)."""

    cos: torch.Tensor
    sin: torch.Tensor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Rotate x (..., T, features of a head); the result has its shape and dtype."""
        first, second = x.chunk(2, dim=-1)
        cos, sin = self.cos, self.sin
        turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
        return turned.to(x.dtype)


def rotation(positions: torch.Tensor, head_width: int) -> Rotation:
    """Return the rotation at positions (T,), of any dtype, for heads of an even width."""
    pairs = torch.arange(0, head_width, 2, dtype=torch.float32, device=positions.device)
    frequencies = 1 / THETA ** (pairs / head_width)  # (head_width / 2,)
    angles = positions.float()[:, None] * frequencies
    return Rotation(angles.cos(), angles.sin())
