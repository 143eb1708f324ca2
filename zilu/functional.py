"""The activation functions: of a tensor of any shape, and of a sharpness sigma.

In each, fp16 and bf16 are computed in fp32, and backward saves the input (and sigma) alone.
"""

import torch
from torch import Tensor
from torch.autograd import forward_ad

from zilu import kernels, reference
from zilu.names import check_sigma

# torch 2.6 has no is_exporting.
_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def _apply(unit: reference.Unit, x: Tensor, sigma: float | Tensor) -> Tensor:
    if isinstance(sigma, Tensor):
        if sigma.numel() != 1:
            raise ValueError(f"sigma must hold one number, not shape {tuple(sigma.shape)}")
    else:
        sigma = check_sigma(sigma)
    if _needs_plain_operations():
        return reference.composed(unit, x, sigma)
    operator = kernels.operator(unit.operator, x, sigma) if unit.operator else None
    return reference.analytic(unit, x, sigma) if operator is None else operator(x, sigma)


def _needs_plain_operations() -> bool:
    """Whether a transform is under way that looks through a function at its operations."""
    return (
        _is_exporting()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def arctan(x: Tensor, sigma: float | Tensor = 1.0) -> Tensor:
    """The arctan gate, 1/2 + arctan(sigma x) / pi.

    Args:
        x: floating-point tensor of any shape; the result has its shape and dtype.
        sigma: sharpness, a float above 0 or a one-element tensor (which then gets a gradient).

    Raises:
        ValueError: sigma is not a finite number above 0.

    Source: arXiv 2603.06861.
    """
    return _apply(reference.ARCTAN, x, sigma)


def arctan_approx(x: Tensor, sigma: float | Tensor = 1.0) -> Tensor:
    """A cheap gate in place of `arctan`: (1 + softsign(sigma x)) / 2, at most 0.0226 away from it.

    Arguments and errors as in `arctan`. Source: arXiv 2603.06861.
    """
    return _apply(reference.ARCTAN_APPROX, x, sigma)


def zilu(x: Tensor, sigma: float | Tensor = 1.0) -> Tensor:
    """ZiLU, x (1/2 + arctan(sigma x) / pi); called IGLU in the paper.

    The mean of the GELU gates Phi(a x) over a = |N(0, sigma^2)|, times x. Tends to -1/(pi sigma)
    for x to minus infinity; its slope is positive for every finite x.

    Arguments and errors as in `arctan`. Source: arXiv 2603.06861.
    """
    return _apply(reference.ZILU, x, sigma)


def zilu_approx(x: Tensor, sigma: float | Tensor = 1.0) -> Tensor:
    """ZiLU's approximation, x (1 + softsign(sigma x)) / 2; called IGLU_Approx in the paper.

    Arguments and errors as in `arctan`. Source: arXiv 2603.06861.
    """
    return _apply(reference.ZILU_APPROX, x, sigma)


def gelu_s(x: Tensor, sigma: float | Tensor = 1.0) -> Tensor:
    """GELU with a sharpness, x Phi(sigma x); sigma = 1 is the exact GELU (arXiv 1606.08415).

    Arguments and errors as in `arctan`.
    """
    return _apply(reference.GELU_S, x, sigma)


def silu_s(x: Tensor, sigma: float | Tensor = 1.0) -> Tensor:
    """SiLU with a sharpness (Swish), x sigmoid(sigma x); sigma = 1 is SiLU (arXiv 1710.05941).

    Arguments and errors as in `arctan`.
    """
    return _apply(reference.SILU_S, x, sigma)


def squareplus(x: Tensor) -> Tensor:
    """SquarePlus, (x + sqrt(x^2 + 4)) / 2 (arXiv 2112.11687), for a tensor of any shape."""
    wide = reference.widened(x)
    root = _exported_root(wide) if _is_exporting() else torch.hypot(wide, torch.full_like(wide, 2))
    # For x < 0 the sum cancels; the conjugate form does not.
    left = 2 / (root - wide.clamp(max=0))
    return torch.where(wide < 0, left, (wide + root) / 2).to(x.dtype)


def _exported_root(x: Tensor) -> Tensor:
    """sqrt(x^2 + 4) without hypot, which ONNX lacks, and without overflow of x^2."""
    bounded = x.clamp(-1e18, 1e18)
    return torch.maximum(torch.sqrt(bounded * bounded + 4), x.abs())
