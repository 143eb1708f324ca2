"""Entries of torch.hub: `torch.hub.load(repository, "zilu", sigma=0.5)`.

Imports the package `zilu` alone: the caller may have a `models` or `utils` of their own.
"""

from torch import nn as _nn

from zilu import create_activation, replace_activations

__all__ = ["create_activation", "gelu_s", "replace_activations", "silu_s", "zilu", "zilu_approx"]

dependencies = ["torch"]


def zilu(sigma: float = 1.0, learnable: bool = False) -> _nn.Module:
    """ZiLU, x (1/2 + arctan(sigma x) / pi), as a module.

    Args:
        sigma: sharpness, a finite number above 0.
        learnable: make it a parameter.
    """
    return create_activation("ZiLU", sigma, learnable)


def zilu_approx(sigma: float = 1.0, learnable: bool = False) -> _nn.Module:
    """ZiLU's approximation, x (1 + softsign(sigma x)) / 2; arguments as of `zilu`."""
    return create_activation("ZiLU_Approx", sigma, learnable)


def gelu_s(sigma: float = 1.0, learnable: bool = False) -> _nn.Module:
    """GELU with a sharpness, x Phi(sigma x); arguments as of `zilu`."""
    return create_activation("GELU_s", sigma, learnable)


def silu_s(sigma: float = 1.0, learnable: bool = False) -> _nn.Module:
    """SiLU with a sharpness (Swish), x sigmoid(sigma x); arguments as of `zilu`."""
    return create_activation("SiLU_s", sigma, learnable)
