"""A plain GPT and its training loop, as tutorials have them (the structure is nanoGPT's): what the
project's own are measured against, in speed and, by the tests, in loss.
"""

import contextlib

import torch
import torch.nn.functional as F
from torch import nn


class PlainBlock(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, C = x.shape
        q, k, v = self.qkv(self.norm1(x)).split(C, dim=2)
        q, k, v = (y.view(B, T, self.heads, C // self.heads).transpose(1, 2) for y in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).contiguous().view(B, T, C))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class PlainGPT(nn.Module):
    """Ids and targets, both (B, T), to the mean loss; without dropout."""

    def __init__(self, vocab_size: int, length: int, width: int, heads: int, layers: int):
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList([PlainBlock(width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))

    @torch.no_grad()
    def copy_weights(self, model: nn.Module) -> None:
        """Take a models.gpt2.GPT2's weights: both register theirs in reading order."""
        theirs = (
            model.wte.weight, model.wpe, *model.h.parameters(), *model.ln_f.parameters()
        )  # fmt: skip
        for mine, value in zip(self.parameters(), theirs, strict=True):
            mine.copy_(value)


def plain_optimizer(model: PlainGPT, lr: float) -> torch.optim.Optimizer:
    """nanoGPT's, fused on CUDA alone; decay for all matrices but the positions, which nanoGPT
    decays too and this project does not (that alone moved single losses by up to 0.03)."""
    decayed = [p for p in model.parameters() if p.dim() >= 2 and p is not model.positions.weight]
    others = [p for p in model.parameters() if p.dim() < 2 or p is model.positions.weight]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    on_cuda = next(model.parameters()).is_cuda
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=on_cuda)


def plain_step(model, optimizer, ids, targets, dtype=None) -> torch.Tensor:
    """One training step, in `dtype` under autocast if one is given; the loss before it."""
    autocast = torch.autocast(ids.device.type, dtype) if dtype else contextlib.nullcontext()
    with autocast:
        loss = model(ids, targets)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()
