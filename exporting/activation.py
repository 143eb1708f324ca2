"""Say which activation a run has: as a spec of plain values (zilu/exported/), and as text."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from cli.converters import arguments
from cli.network import ModelConfig
from utils import UserError
from zilu.names import GATED_NAMES, custom_name

# What transformers calls activations without numbers of their own, and exactly the same function.
HUGGING_FACE_NAMES = {
    "GELU": "gelu",
    "GELU_tanh": "gelu_pytorch_tanh",
    "GELU_s": "gelu",
    "Identity": "linear",
    "Mish": "mish",
    "ReLU": "relu",
    "ReLU2": "relu2",
    "SiLU": "silu",
    "SiLU_s": "silu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
}


def spec_of(config: ModelConfig, to: str) -> dict[str, Any]:
    """Return the activation's name and options, as zilu/exported/zilu_activations.py reads them.

    Raises:
        UserError: it is the user's own, and no class of torch.nn.
    """
    name = config.activation
    if custom := custom_name(name):
        if custom.place == "torch.nn" and isinstance(getattr(nn, custom.name, None), type):
            return {"name": custom.name, "args": arguments(config.activation_args)}
        raise UserError(
            f"--to {to}: the activation {name} is code of your own, which the folder would need on "
            "other machines; --to onnx and --to pt2 hold what it computes"
        )
    spec: dict[str, Any] = {"name": name}
    if config.has_sigma:
        spec |= {"sigma": config.sigma, "learnable": config.learn_sigma}
    if name in GATED_NAMES:
        spec |= {"expand_gate": config.expand_gate}
    return spec


def hugging_face_name(spec: dict[str, Any]) -> str | None:
    """Return what transformers calls the activation; None where it does not have it."""
    has_own_numbers = spec.get("learnable") or spec.get("expand_gate") or "args" in spec
    if has_own_numbers or spec.get("sigma", 1.0) != 1:
        return None
    return HUGGING_FACE_NAMES.get(spec["name"])


def has_parameters(spec: dict[str, Any], model: nn.Module, sites: list[str]) -> bool:
    """Return whether the activations have numbers in the state dict."""
    return any(model.get_submodule(site).state_dict() for site in sites)


def described(config: ModelConfig) -> str:
    """Return the activation with its sharpness, as text."""
    text = config.activation
    if config.activation_args:
        text += f" with {config.activation_args}"
    if config.has_sigma:
        text += f", σ = {config.sigma:g}" + (", learned from there" if config.learn_sigma else "")
    return text + (", gate expanded by a learned α" if config.expand_gate else "")


def learned(model: nn.Module) -> list[str]:
    """Return a line for each number that an activation has learned: its place and its value."""
    lines = []
    for path, module in model.named_modules():
        if isinstance(getattr(module, "rho", None), Tensor):
            sigma: Any = module.sigma
            lines.append(f"{path}: σ = {float(sigma.detach()):.6g}")
        alpha: Any = getattr(module, "alpha", None)
        if isinstance(alpha, Tensor):
            lines.append(f"{path}: α = {float(alpha.detach()):.6g}")
    return lines


def are_modules(model: nn.Module) -> bool:
    """Return whether every activation is a module there, and no call inside another's code."""
    report = getattr(model, "replacement", None)
    return report is None or all(site.source is None for site in report.replaced)
