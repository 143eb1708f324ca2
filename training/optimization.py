"""The optimizer, what its weight decay is for, and its learning rate at every step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from train_eval import Options


def build_optimizer(model: nn.Module, options: Options) -> torch.optim.Optimizer:
    device = next(model.parameters()).device
    groups = parameter_groups(model, options.weight_decay)
    common = {"lr": options.lr, "fused": device.type in ("cpu", "cuda")}
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=options.momentum, **common)
    classes = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return classes[options.optimizer](groups, betas=options.betas, **common)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay for the weights of linear, convolution and embedding layers alone.

    Biases, norms, positions, class tokens, PReLU's slopes and sigma are no weights to shrink.
    """
    decayed_names = decayed_parameters(model)
    decayed = [p for name, p in model.named_parameters() if name in decayed_names]
    others = [p for name, p in model.named_parameters() if name not in decayed_names]
    groups = [(decayed, weight_decay), (others, 0.0)]
    return [{"params": group, "weight_decay": decay} for group, decay in groups if group]


def decayed_parameters(model: nn.Module) -> set[str]:
    """The names of the parameters that weight decay is for, as `named_parameters` has them.

    A model may except some by a method `no_weight_decay`, as timm's do.
    """
    ids = {id(weight) for module in model.modules() for weight in _weights(module)}
    excepted = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    return {name for name, p in model.named_parameters() if id(p) in ids and name not in excepted}


def _weights(module: nn.Module) -> Iterator[nn.Parameter]:
    """What a linear, convolution or embedding layer multiplies by."""
    # Conv1D is transformers' linear layer of GPT-2.
    if isinstance(module, nn.Linear | nn.Embedding | nn.modules.conv._ConvNd) or (
        type(module).__name__ == "Conv1D"
    ):
        yield module.weight
    if isinstance(module, nn.MultiheadAttention):  # its output layer is an nn.Linear
        projections = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
        yield from (getattr(module, name) for name in projections)


def warmup_steps(text: str, total_steps: int, steps_per_epoch: int) -> int:
    """`500` steps, `3ep` epochs or `5%` of all steps, as steps."""
    if text.endswith("%"):
        return round(float(text[:-1]) / 100 * total_steps)
    if text.endswith("ep"):
        return round(float(text[:-2]) * steps_per_epoch)
    return int(text)


def schedule_length(options: Options, batches: int) -> tuple[int, int, int]:
    """Steps of an epoch of `batches`, of the whole training, and of the warm-up."""
    steps_per_epoch = -(-batches // options.grad_accum_steps)
    total = options.num_epochs * steps_per_epoch
    if options.max_steps is not None:
        total = min(total, options.max_steps)
    return steps_per_epoch, total, warmup_steps(options.warmup, total, steps_per_epoch)


def lr_factor(
    step: int,
    scheduler: str,
    total_steps: int,
    steps_per_epoch: int,
    warmup: int = 0,
    lr_step: int = 20,
    lr_gamma: float = 0.1,
) -> float:
    """What to multiply the learning rate with at `step` (from 0)."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    if scheduler == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if scheduler == "linear":
        return 1 - progress
    if scheduler == "step":
        return lr_gamma ** (step // steps_per_epoch // lr_step)
    return 1.0


class Plateau:
    """A factor that falls by `gamma` after `patience` epochs without a lower loss."""

    def __init__(self, patience: int, gamma: float):
        self.patience, self.gamma = patience, gamma
        self.factor, self.best, self.waited = 1.0, math.inf, 0

    def end_epoch(self, loss: float) -> None:
        if loss < self.best:
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            self.factor, self.waited = self.factor * self.gamma, 0
