"""Make transformers' Llama and Qwen3 exact, and name their tensors as ours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class ExactNorm(nn.Module):
    """Compute what LlamaRMSNorm does, which rounds to fp32, in the precision of its input."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt())


def with_exact_norms(network: nn.Module) -> nn.Module:
    for path, module in list(network.named_modules()):
        if type(module).__name__.endswith("RMSNorm"):
            network.set_submodule(path, ExactNorm(module))
    return network


def our_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a Llama or a Qwen3 by our names."""
    ends = {"model.embed_tokens": "wte", "model.norm": "ln_f"}
    found = {f"{own}.weight": state[f"{theirs}.weight"] for theirs, own in ends.items()}
    names = {
        "input_layernorm": "ln_1", "post_attention_layernorm": "ln_2", "mlp.gate_proj": "mlp.c_fc",
        "mlp.up_proj": "mlp.c_up", "mlp.down_proj": "mlp.c_proj", "self_attn.o_proj": "attn.c_proj",
        "self_attn.q_norm": "attn.q_norm", "self_attn.k_norm": "attn.k_norm",
    }  # fmt: skip
    layers = {int(key.split(".")[2]) for key in state if key.startswith("model.layers.")}
    for layer in layers:
        theirs = f"model.layers.{layer}"
        for name, own in names.items():
            if f"{theirs}.{name}.weight" in state:
                found[f"h.{layer}.{own}.weight"] = state[f"{theirs}.{name}.weight"]
        parts = [state[f"{theirs}.self_attn.{part}_proj.weight"] for part in "qkv"]
        found[f"h.{layer}.attn.c_attn.weight"] = torch.cat(parts)
    return found
