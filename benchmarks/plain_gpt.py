"""Train a plain GPT in a plain loop, as tutorials have them (the structure is nanoGPT's).

The project's GPT-2 and its loop are measured against them: in speed by the benchmark, in loss by
the tests and `python -m benchmarks.nanogpt`.
"""

import contextlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.gpt2 import GPT2


class PlainBlock(nn.Module):
    """Apply attention and an MLP with GELU, each after a LayerNorm and beside a shortcut."""

    def __init__(self, width: int, heads: int, bias: bool, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1 = nn.LayerNorm(width, bias=bias)
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)
        self.norm2 = nn.LayerNorm(width, bias=bias)
        self.up = nn.Linear(width, 4 * width, bias=bias)
        self.down = nn.Linear(4 * width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.qkv(self.norm1(x)).split(C, dim=2)
        # (B, heads, T, C / heads)
        q, k, v = (y.view(B, T, self.heads, C // self.heads).transpose(1, 2) for y in (q, k, v))
        rate = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=True)
        y = self.out(y.transpose(1, 2).contiguous().view(B, T, C))
        x = x + F.dropout(y, rate)
        return x + F.dropout(self.down(F.gelu(self.up(self.norm2(x)))), rate)


class PlainGPT(nn.Module):
    """Map ids and targets, both (B, T), to the mean loss."""

    def __init__(
        self,
        vocab_size: int,
        length: int,
        width: int,
        heads: int,
        layers: int,
        bias: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.dropout = dropout
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(length, width)
        blocks = [PlainBlock(width, heads, bias, dropout) for _ in range(layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width, bias=bias)

    @torch.no_grad()
    def init_as_nanogpt(self) -> None:
        """Draw weights from N(0, 0.02²), narrower where a residual branch ends; biases are 0."""
        narrow = 0.02 / math.sqrt(2 * len(self.blocks))
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                ends_branch = name.endswith(("out.weight", "down.weight"))
                parameter.normal_(std=narrow if ends_branch else 0.02)
            elif name.endswith("bias"):
                parameter.zero_()

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        x = F.dropout(x, self.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)  # (B, T, vocab_size)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))

    @torch.no_grad()
    def copy_weights(self, model: GPT2) -> None:
        """Take the weights of the project's GPT-2: both register theirs in reading order."""
        assert model.wpe is not None
        theirs = (
            model.wte.weight, model.wpe, *model.h.parameters(), *model.ln_f.parameters()
        )  # fmt: skip
        for mine, value in zip(self.parameters(), theirs, strict=True):
            mine.copy_(value)


def plain_optimizer(
    model: PlainGPT, lr: float, beta2: float = 0.95, decays_positions: bool = False
) -> torch.optim.Optimizer:
    """Return nanoGPT's optimizer, which is fused on CUDA alone.

    Args:
        model: what it is to train.
        lr: learning rate.
        beta2: the decay of the mean of squared gradients.
        decays_positions: positions decay as all other matrices do. So it is in nanoGPT and with
            `--decay matrices`, but not with this project's default (that alone moved single losses
            by up to 0.03).
    """
    kept = () if decays_positions else (id(model.positions.weight),)
    decayed = [p for p in model.parameters() if p.dim() >= 2 and id(p) not in kept]
    others = [p for p in model.parameters() if p.dim() < 2 or id(p) in kept]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    on_cuda = next(model.parameters()).is_cuda
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, beta2), fused=on_cuda)


def plain_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ids: Tensor,
    targets: Tensor,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Make one training step, under autocast in `dtype` if one is given.

    Returns:
        The loss before the step.
    """
    autocast = torch.autocast(ids.device.type, dtype) if dtype else contextlib.nullcontext()
    with autocast:
        loss = model(ids, targets)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()
