"""Offer the activations through torch.hub: `torch.hub.load(repository, "zilu", sigma=0.5)`.

This file imports only the package `zilu`, because callers may have their own `models` or `utils`.
"""

from torch import nn as _nn

from zilu import create_activation, replace_activations

__all__ = ["create_activation", "gelu_s", "replace_activations", "silu_s", "zilu", "zilu_approx"]

dependencies = ["torch"]


def zilu(sigma: float = 1.0, learnable: bool = False) -> _nn.Module:
    """Make a ZiLU module, x (1/2 + arctan(sigma x) / pi).

    Args:
        sigma: sharpness, a finite number above 0.
        learnable: make sigma a parameter.
    """
    return create_activation("ZiLU", sigma, learnable)


def zilu_approx(sigma: float = 1.0, learnable: bool = False) -> _nn.Module:
    """Make a ZiLU_Approx module, x (1 + softsign(sigma x)) / 2; arguments as in `zilu`."""
    return create_activation("ZiLU_Approx", sigma, learnable)


def gelu_s(sigma: float = 1.0, learnable: bool = False) -> _nn.Module:
    """Make a module of GELU with a sharpness, x Phi(sigma x); arguments as in `zilu`."""
    return create_activation("GELU_s", sigma, learnable)


def silu_s(sigma: float = 1.0, learnable: bool = False) -> _nn.Module:
    """Make a module of SiLU with a sharpness, x sigmoid(sigma x); arguments as in `zilu`."""
    return create_activation("SiLU_s", sigma, learnable)
