"""Train a plain GPT in a plain loop, as tutorials have them (the structure is nanoGPT's).

The project's GPT-2 and its loop are measured against them: in speed by the benchmark, in loss by
the tests.
"""

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.gpt2 import GPT2


class PlainBlock(nn.Module):
    """Apply attention and an MLP with GELU, each after a LayerNorm and beside a shortcut."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.qkv(self.norm1(x)).split(C, dim=2)
        # (B, heads, T, C / heads)
        q, k, v = (y.view(B, T, self.heads, C // self.heads).transpose(1, 2) for y in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).contiguous().view(B, T, C))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class PlainGPT(nn.Module):
    """Map ids and targets, both (B, T), to the mean loss; without dropout."""

    def __init__(self, vocab_size: int, length: int, width: int, heads: int, layers: int):
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList([PlainBlock(width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)  # (B, T, vocab_size)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))

    @torch.no_grad()
    def copy_weights(self, model: GPT2) -> None:
        """Take the weights of the project's GPT-2: both register theirs in reading order."""
        theirs = (
            model.wte.weight, model.wpe, *model.h.parameters(), *model.ln_f.parameters()
        )  # fmt: skip
        for mine, value in zip(self.parameters(), theirs, strict=True):
            mine.copy_(value)


def plain_optimizer(model: PlainGPT, lr: float) -> torch.optim.Optimizer:
    """Return nanoGPT's optimizer, which is fused on CUDA alone.

    It decays all matrices but the positions. nanoGPT decays those too, and this project does not
    (that alone moved single losses by up to 0.03).
    """
    decayed = [p for p in model.parameters() if p.dim() >= 2 and p is not model.positions.weight]
    others = [p for p in model.parameters() if p.dim() < 2 or p is model.positions.weight]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    on_cuda = next(model.parameters()).is_cuda
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=on_cuda)


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
