"""Build the optimizer, and choose what its weight decay acts on."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from cli.config import TrainingConfig
from zilu.replacement.kinds import kind_of_module


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return the optimizer of the configuration, fused where the device has it."""
    device = next(model.parameters()).device
    groups = parameter_groups(model, config.weight_decay, config.decay)
    common: dict[str, Any] = {"lr": config.lr, "fused": device.type in ("cpu", "cuda")}
    if config.optimizer == "sgd":
        momentum, nesterov = config.momentum, config.nesterov
        optimizer = torch.optim.SGD(groups, momentum=momentum, nesterov=nesterov, **common)
        fill_momentum(optimizer)
        return optimizer
    classes = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return classes[config.optimizer](groups, betas=(config.beta1, config.beta2), **common)


def fill_momentum(optimizer: torch.optim.SGD) -> None:
    """Start the momentum at zero, from where the first step makes it the gradient.

    SGD makes it in its first step. If the gradient scaler of fp16 skips that step, the fused kernel
    leaves it as the memory was (torch 2.6 to 2.14), and adds it to every step that follows.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def make_gradients(model: nn.Module) -> None:
    """Give every parameter that is trained a gradient of zeros, to be added to."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)


def parameter_groups(
    model: nn.Module, weight_decay: float, decay: str = "weights"
) -> list[dict[str, Any]]:
    """Return a group of what decays, and one of the rest."""
    decayed_names = decayed_parameters(model, decay)
    decayed = [p for name, p in model.named_parameters() if name in decayed_names]
    others = [p for name, p in model.named_parameters() if name not in decayed_names]
    groups = [(decayed, weight_decay), (others, 0.0)]
    return [{"params": group, "weight_decay": each} for group, each in groups if group]


def decayed_parameters(model: nn.Module, decay: str = "weights") -> set[str]:
    """Return the names of the parameters that decay, as `named_parameters` has them.

    Args:
        model: may exclude some by a method `no_weight_decay`, as timm's do.
        decay: "weights", those of linear, convolution and embedding layers: biases, norms,
            positions and class tokens are not to shrink. "matrices", what has two dimensions.
            "all". PReLU's slopes, sigma and other parameters of activations never decay.
    """
    excepted: Any = getattr(model, "no_weight_decay", tuple)()
    if decay == "weights":
        ids = {id(weight) for module in model.modules() for weight in _weights(module)}
    else:
        least = 2 if decay == "matrices" else 0
        ids = {id(p) for p in model.parameters() if p.dim() >= least}
        ids -= {
            id(p) for site in model.modules() if kind_of_module(site) for p in site.parameters()
        }
    return {name for name, p in model.named_parameters() if id(p) in ids and name not in excepted}


def _weights(module: nn.Module) -> Iterator[Any]:
    """Yield the parameters that a linear, convolution or embedding layer multiplies by."""
    # Conv1D is transformers' linear layer of GPT-2.
    if isinstance(module, nn.Linear | nn.Embedding | nn.modules.conv._ConvNd) or (
        type(module).__name__ == "Conv1D"
    ):
        yield module.weight
    if isinstance(module, nn.MultiheadAttention):  # its output layer is an nn.Linear
        projections = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
        yield from (getattr(module, name) for name in projections)
