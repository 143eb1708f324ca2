"""Build the MLPs of transformer blocks: a plain one, and one whose activation gates a branch."""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn

from zilu.gating import gated


def linear(in_width: int, width: int, bias: bool) -> nn.Linear:
    """Make a linear layer, with the same draws whether it has a bias or not."""
    layer = nn.Linear(in_width, width)
    if not bias:
        layer.register_parameter("bias", None)
    return layer


def plain_mlp(
    width: int, hidden: int, activation: Callable[[], nn.Module], dropout: float, bias: bool
) -> nn.Module:
    """Make GPT-2's MLP with `hidden` features, (B, T, width) to the same shape."""
    return nn.Sequential(
        OrderedDict(
            c_fc=linear(width, hidden, bias),
            act=activation(),
            c_proj=linear(hidden, width, bias),
            dropout=nn.Dropout(dropout),
        )
    )


class GatedMLP(nn.Module):
    """Apply a gated linear unit, act(xW) * (xV), and a projection back to the features of x.

    With SiLU it is SwiGLU (Shazeer 2020, arXiv 2002.05202), Llama's MLP: W is its gate_proj, here
    `c_fc`; V its up_proj, here `c_up`; and `c_proj` its down_proj. The product is computed in one
    pass where the activation has a kernel (zilu.gating).
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        activation: Callable[[], nn.Module],
        dropout: float,
        bias: bool,
    ):
        super().__init__()
        self.c_fc = linear(width, hidden, bias)
        self.c_up = linear(width, hidden, bias)
        self.act = activation()
        self.c_proj = linear(hidden, width, bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Two layers, not halves of one: the fused product would copy those first on a GPU.
        product = gated(self.act, self.c_fc(x), self.c_up(x))  # (B, T, hidden)
        return self.dropout(self.c_proj(product))
