"""Build the optimizer, and choose what it and its weight decay act on."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from cli.optimizer_names import MUON
from cli.training import TrainingConfig
from training import sharding
from training.layer_decay import NumberedLayers, layer_scales
from training.optimizers import (
    Source,
    Together,
    arguments_of,
    averages,
    begin_training,
    keep_evaluated_weights,
    source_of,
)
from utils import UserError
from zilu.custom.activation import is_custom
from zilu.replacement.kinds import kind_of_module


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return the optimizer of the configuration; torch's Adam, AdamW and SGD fused where they can.

    Raises:
        UserError: the library lacks it, or its class does not take what is given.
    """
    source = source_of(config.optimizer)
    if config.optimizer == MUON:
        return _muon_and_adamw(model, config, source)
    given = arguments_of(config, source)
    groups = parameter_groups(model, config.weight_decay, config.decay, config.layer_decay)
    groups = sharding.local_groups(groups)
    if "weight_decay" not in source.takes:
        if config.weight_decay:
            raise UserError(f"{config.optimizer} has no weight decay: give --weight_decay 0")
        for group in groups:
            del group["weight_decay"]
    if config.optimizer.startswith("timm/") and "fallback_lr_scale" in source.takes:
        groups = _with_fallback(groups, model)
    # The fused SGD damps its first step too, where fill_momentum has made the momentum.
    if not config.has_library_optimizer and not {"foreach", "dampening"} & given.keys():
        given.setdefault("fused", can_be_fused(model))
    optimizer = source.make(groups, lr=config.lr, **given)
    if config.optimizer == "sgd" and not given.get("dampening"):
        fill_momentum(optimizer)
    begin_training(optimizer)
    return optimizer


def can_be_fused(model: nn.Module) -> bool:
    """Return whether torch has fused kernels of its usual optimizers on the model's device."""
    return next(model.parameters()).device.type in ("cpu", "cuda")


def check_optimizer(config: TrainingConfig, device: torch.device | None = None) -> None:
    """Refuse an optimizer that its library lacks, or arguments that its class does not take.

    Args:
        config: of the training.
        device: make a step there with a small network, which tells more; None builds it alone.

    Raises:
        UserError: with what the library says.
    """
    with torch.random.fork_rng(devices=[]):  # nothing that follows is to draw other numbers
        network = NumberedLayers(nn.Linear(2, 2), nn.Linear(2, 2)).to(device or "cpu")
    try:
        optimizer = build_optimizer(network, config)
        if device is not None:
            make_gradients(network)
            with torch.compiler.set_stance("force_eager"):  # timm's Kron is compiled for a minute
                optimizer.step()
            keep_evaluated_weights(optimizer)
    except UserError:
        raise
    except Exception as error:  # of many kinds, in many libraries
        reason = " ".join(str(error).split()) or type(error).__name__
        given = f" with {config.optimizer_args}" if config.optimizer_args else ""
        raise UserError(f"--optimizer {config.optimizer}{given}: {reason}") from None
    if device is not None and sharding.is_asked(config):
        sharding.check_optimizer(config.optimizer, lambda network: build_optimizer(network, config))


# --- Muon ---


def _muon_and_adamw(
    model: nn.Module, config: TrainingConfig, source: Source
) -> torch.optim.Optimizer:
    """Return Muon for the hidden matrices, with AdamW for the rest, as its authors have it.

    Both follow one schedule. With Moonshot's scale of Muon's steps (match_rms_adamw), here the
    default, a rate for AdamW suits both; with another scale AdamW has a rate of its own.
    """
    flags = replace(config, beta1=None, beta2=None)  # which are AdamW's
    given = arguments_of(flags, replace(source, takes=source.takes | {"adamw_lr": None}))
    adamw_lr = given.pop("adamw_lr", None)
    if given.setdefault("adjust_lr_fn", "match_rms_adamw") != "match_rms_adamw" and not adamw_lr:
        raise UserError(
            f"--optimizer_args: with adjust_lr_fn {given['adjust_lr_fn']} AdamW needs a rate of "
            "its own for what is no hidden matrix: give adamw_lr, 3e-4 for example"
        )
    groups = _split_groups(
        parameter_groups(model, config.weight_decay, config.decay, config.layer_decay),
        hidden_matrices(model),
    )
    if not groups[0]:
        raise UserError(
            "--optimizer Muon: the network has no hidden matrices (convolutions are none); take "
            "timm/muon, which flattens convolutions, or adamw"
        )
    muon = source.make(groups[0], lr=config.lr, **given)
    scale = 1.0 if adamw_lr is None else adamw_lr / config.lr
    betas: Any = (config.beta1, config.beta2)
    rest = [group | {"lr_scale": scale * group.get("lr_scale", 1.0)} for group in groups[1]]
    adamw = torch.optim.AdamW(rest, lr=config.lr, betas=betas, fused=can_be_fused(model))
    return Together(muon, adamw)


def _with_fallback(groups: list[dict[str, Any]], model: nn.Module) -> list[dict[str, Any]]:
    """Tell timm's Muon that it is for hidden matrices and convolutions alone."""
    convolutions = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.modules.conv._ConvNd)
    }
    own, others = _split_groups(groups, hidden_matrices(model) | convolutions)
    return [*own, *({**group, "use_fallback": True} for group in others)]


def _split_groups(
    groups: list[dict[str, Any]], chosen: set[int]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return groups of the parameters whose ids are chosen, and groups of the others."""
    halves = [
        [group | {"params": [p for p in group["params"] if (id(p) in chosen) is wanted]}
         for group in groups]
        for wanted in (True, False)
    ]  # fmt: skip
    own, others = ([group for group in half if group["params"]] for half in halves)
    return own, others


def hidden_matrices(model: nn.Module) -> set[int]:
    """Return the ids of the weights of linear layers but the last, which makes the outputs."""
    weights = [weight for module in model.modules() for weight in _weights(module)]
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    apart = {id(p) for layer in (*embeddings, *output_layers(model)) for p in layer.parameters()}
    matrices = {id(weight) for weight in weights if weight is not None and weight.dim() == 2}
    return matrices - apart - activation_parameters(model)


def output_layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers that make the outputs, as a network names them; else its last linear one.

    transformers' networks name them by `get_output_embeddings`, timm's by `get_classifier`.
    """
    for name in ("get_output_embeddings", "get_classifier"):
        for module in model.modules():
            found: Any = getattr(module, name, tuple)()
            if layers := [found] if isinstance(found, nn.Module) else list(found or ()):
                return layers
    linear: list[nn.Module] = [each for each in model.modules() if isinstance(each, nn.Linear)]
    return linear[-1:]


def activation_parameters(model: nn.Module) -> set[int]:
    """Return the ids of PReLU's slopes, sigma and other parameters of activations."""
    sites = [module for module in model.modules() if kind_of_module(module) or is_custom(module)]
    return {id(p) for site in sites for p in site.parameters()}


def notes(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Return what somebody is to know who trains the network with the optimizer."""
    found = []
    if isinstance(optimizer, Together):
        parts = [[p for group in part.param_groups for p in group["params"]]
                 for part in optimizer.parts]  # fmt: skip
        muons, adamws = (f"{len(ps)} tensors ({sum(p.numel() for p in ps):,})" for ps in parts)
        found.append(f"Muon trains {muons}, and AdamW {adamws}")
    scales = {group["lr_scale"] for group in optimizer.param_groups if "lr_scale" in group}
    if len(scales) > 1:
        found.append(f"Shares of the learning rate, by layer: {min(scales):.3g} to {max(scales):g}")
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if averages(optimizer) and norms:
        found.append(
            "Note: BatchNorm's statistics are those of the weights that are trained, not of the "
            "averaged ones that are evaluated; --norm gn has none"
        )
    return found


# --- the usual optimizers ---


def fill_momentum(optimizer: torch.optim.Optimizer) -> None:
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
    model: nn.Module, weight_decay: float, decay: str = "weights", layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Return a group of what decays, and one of the rest; with layer decay two for each layer.

    Frozen parameters are in none. With layer decay the head's groups come first, and `lr_scale` of
    a group is its share of the learning rate.
    """
    decayed_names = decayed_parameters(model, decay)
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [p for name, p in trained if name in decayed_names]
    others = [p for name, p in trained if name not in decayed_names]
    groups = [(decayed, weight_decay), (others, 0.0)]
    found: list[dict[str, Any]] = [
        {"params": group, "weight_decay": each} for group, each in groups if group
    ]
    if layer_decay == 1:
        return found
    scales = layer_scales(model, layer_decay, activation_parameters(model))
    return [
        group | {"params": params, "lr_scale": scale}
        for scale in sorted(set(scales.values()), reverse=True)
        for group in found
        if (params := [p for p in group["params"] if scales[id(p)] == scale])
    ]


def decayed_parameters(model: nn.Module, decay: str = "weights") -> set[str]:
    """Return the names of the parameters that decay, as `named_parameters` has them.

    Args:
        model: may exclude some by a method `no_weight_decay`, as timm's do.
        decay: "weights", those of linear, convolution and embedding layers: biases, norms,
            positions and class tokens are not to shrink. "matrices", what has two dimensions.
            "all". PReLU's slopes, sigma and other parameters of activations never decay, nor does
            anything inside a user's own.
    """
    excepted: Any = getattr(model, "no_weight_decay", tuple)()
    if decay == "weights":
        ids = {id(weight) for module in model.modules() for weight in _weights(module)}
    else:
        least = 2 if decay == "matrices" else 0
        ids = {id(p) for p in model.parameters() if p.dim() >= least}
    ids -= activation_parameters(model)
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
