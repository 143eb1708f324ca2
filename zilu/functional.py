"""Compute the activations of a tensor of any shape, given a sharpness sigma.

fp16 and bf16 are computed in fp32, and backward saves only the input (and sigma, where it is
learned). The formulas, limits and sources stand with the classes in `zilu.modules`.
"""

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.jit._trace import is_tracing

from zilu import compiled, kernels, reference
from zilu.names import check_sigma
from zilu.reference import Formulas, Sigma

# torch 2.6 has no is_exporting.
_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def _apply(formulas: Formulas, x: Tensor, sigma: Sigma) -> Tensor:
    if isinstance(sigma, Tensor):
        if sigma.numel() != 1:
            raise ValueError(f"sigma must hold one number, not shape {tuple(sigma.shape)}")
    else:
        sigma = check_sigma(sigma)
    if _is_transformed():
        return reference.differentiable(formulas, x, sigma)
    operator = kernels.operator(formulas.operator, x, sigma) if formulas.operator else None
    if operator is None:
        return reference.analytic(compiled.shortest(formulas, x), x, sigma)
    return operator(x, sigma)


def _is_transformed() -> bool:
    """Return whether a transform is active that needs to see a function's own operations."""
    return (
        _is_exporting()
        or is_tracing()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def arctan(x: Tensor, sigma: Sigma = 1.0) -> Tensor:
    """Compute the arctan gate, 1/2 + arctan(sigma x) / pi; see `zilu.ArcTan`.

    Args:
        x: floating-point tensor of any shape; the result has its shape and dtype.
        sigma: sharpness, a float above 0 or a one-element tensor (which then gets a gradient).

    Raises:
        ValueError: sigma is not a finite number above 0, or a tensor of several numbers.
    """
    return _apply(reference.ARCTAN, x, sigma)


def arctan_approx(x: Tensor, sigma: Sigma = 1.0) -> Tensor:
    """Compute the gate (1 + softsign(sigma x)) / 2; see `zilu.ArcTan_Approx`.

    Arguments and errors are those of `arctan`.
    """
    return _apply(reference.ARCTAN_APPROX, x, sigma)


def zilu(x: Tensor, sigma: Sigma = 1.0) -> Tensor:
    """Compute ZiLU, x (1/2 + arctan(sigma x) / pi); see `zilu.ZiLU`.

    Arguments and errors are those of `arctan`.
    """
    return _apply(reference.ZILU, x, sigma)


def zilu_approx(x: Tensor, sigma: Sigma = 1.0) -> Tensor:
    """Compute ZiLU's approximation, x (1 + softsign(sigma x)) / 2; see `zilu.ZiLU_Approx`.

    Arguments and errors are those of `arctan`.
    """
    return _apply(reference.ZILU_APPROX, x, sigma)


def gelu_s(x: Tensor, sigma: Sigma = 1.0) -> Tensor:
    """Compute GELU with a sharpness, x Phi(sigma x); see `zilu.GELU_s`.

    Arguments and errors are those of `arctan`.
    """
    return _apply(reference.GELU_S, x, sigma)


def silu_s(x: Tensor, sigma: Sigma = 1.0) -> Tensor:
    """Compute SiLU with a sharpness (Swish), x sigmoid(sigma x); see `zilu.SiLU_s`.

    Arguments and errors are those of `arctan`.
    """
    return _apply(reference.SILU_S, x, sigma)


def squareplus(x: Tensor) -> Tensor:
    """Compute SquarePlus, (x + sqrt(x^2 + 4)) / 2, of a tensor of any shape."""
    wide = reference.widened(x)
    root = _exported_root(wide) if _is_exporting() else torch.hypot(wide, torch.full_like(wide, 2))
    # For x < 0 the sum cancels; the conjugate form does not.
    left = 2 / (root - wide.clamp(max=0))
    return torch.where(wide < 0, left, (wide + root) / 2).to(x.dtype)


def _exported_root(x: Tensor) -> Tensor:
    """Compute sqrt(x^2 + 4) without hypot, which ONNX lacks, and without overflow of x^2."""
    bounded = x.clamp(-1e18, 1e18)
    return torch.maximum(torch.sqrt(bounded * bounded + 4), x.abs())
