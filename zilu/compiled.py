"""Offer forms of the activations for torch.compile on GPUs, short in what Inductor makes of them.

Inductor calls CUDA's library for arctan and erfc, which take more instructions than a GPU has time
for while it moves an element through memory. These forms take the fused kernels' polynomials, and
are those of kernels/units.h, where the names are explained. Inductor fuses them into their
neighbours like any other operation. `where` chooses between finite and discarded numbers, which is
free on a GPU (and slow on a CPU, which keeps the forms of `zilu.reference`).
"""

import functools
import math

import torch
from torch import Tensor

from zilu import reference
from zilu.reference import Formulas, Sigma, polynomial

_INVERSE_PI = 1 / math.pi
_DENSITY = 1 / math.sqrt(2 * math.pi)  # of the normal distribution at 0
_LARGEST = torch.finfo(torch.float32).max


def shortest(formulas: Formulas, x: Tensor) -> Formulas:
    """Return the formulas to compile for a tensor: other forms of them on a GPU."""
    if not x.is_cuda or x.dtype == torch.float64 or not torch.compiler.is_compiling():
        return formulas
    is_short = x.dtype != torch.float32
    if formulas is reference.ZILU:
        return _ZILU_SHORT if is_short else _ZILU
    if formulas is reference.ZILU_FROM_OUTPUT:
        return _ZILU_FROM_OUTPUT_SHORT if is_short else _ZILU_FROM_OUTPUT
    if formulas is reference.ARCTAN:
        return _ARCTAN_SHORT if is_short else _ARCTAN
    if formulas is reference.GELU_S and is_short:
        return _GELU_S_SHORT
    return formulas


def _wide(sigma: Sigma, x: Tensor) -> Sigma:
    """Return sigma in x's dtype: a product may not be in sigma's own, if that has 16 bits."""
    return sigma.to(x.dtype) if isinstance(sigma, Tensor) else sigma


def _at_most(limit: float, number: Sigma) -> Sigma:
    return number.clamp(max=limit) if isinstance(number, Tensor) else min(number, limit)


def _mirrored(left: Tensor, x: Tensor) -> Tensor:
    return torch.where(x < 0, left, 1 - left)


# --- the arctan gate, ZiLU ---


def _arctan_parts(a: Tensor, short: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return whether a > 1; t, the smaller of a and 1/a; and arctan(t) / t."""
    far = a > 1
    t = torch.where(far, 1, a) / torch.where(far, a, 1)
    return far, t, polynomial("ARCTAN_SHORT" if short else "ARCTAN", t * t)


def _arctan_value(x: Tensor, sigma: Sigma, short: bool) -> Tensor:
    far, t, p = _arctan_parts((x * sigma).abs(), short)
    small = t * p * _INVERSE_PI
    return _mirrored(torch.where(far, small, 0.5 - small), x)


def _zilu_value(x: Tensor, sigma: Sigma, short: bool) -> Tensor:
    magnitude = x.abs()
    far, t, p = _arctan_parts(magnitude * sigma, short)
    near = magnitude * (0.5 - t * p * _INVERSE_PI)
    left = torch.where(far, p * (_INVERSE_PI / _wide(sigma, x)), near)
    return torch.where(x > 0, x, 0) - left


def _inverse(x: Tensor, sigma: Sigma) -> tuple[Tensor, Tensor, Tensor]:
    """Return a = |sigma x|, whether a > 1, and 1 / a there, elsewhere 1 / (1 + a^2)."""
    a = (x * sigma).abs()
    far = a > 1
    return a, far, 1 / torch.where(far, a, 1 + a * a)


def _zilu_slope(x: Tensor, sigma: Sigma, short: bool) -> Tensor:
    a, far, r = _inverse(x, sigma)
    t = torch.where(far, r, a)
    s = t * t
    p = polynomial("ARCTAN_SLOPE_SHORT" if short else "ARCTAN_SLOPE", s)
    d = t * s * p
    near = (0.5 - _INVERSE_PI - d) + (1 - a) * (1 - a) * (r * _INVERSE_PI)
    return _mirrored(torch.where(far, d, near), x)


def _zilu_sigma_slope(x: Tensor, sigma: Sigma) -> Tensor:
    _, far, r = _inverse(x, sigma)
    sigma = _wide(sigma, x)
    squared = _at_most(_LARGEST, _INVERSE_PI / sigma / sigma)
    return torch.where(far, squared / (1 + r * r), x * (x * r) * _INVERSE_PI)


# --- GELU with a sharpness, of 16-bit tensors: those of fp32 need a product of two numbers each ---


def _gelu_s_parts(x: Tensor, sigma: Sigma) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return |x|, |z|, Phi(-|z|) / e^(-z^2/2), and e^(-z^2/2)."""
    bound = 18 / _wide(sigma, x)  # from here on, the gate is 0 in fp32
    magnitude = torch.where(x.abs() > bound, bound, x.abs())
    a = magnitude * sigma
    t = 1 / (1 + 0.3 * a)
    return magnitude, a, t * polynomial("MILLS_SHORT", t), torch.exp(a * a * -0.5)


def _gelu_s_value(x: Tensor, sigma: Sigma) -> Tensor:
    magnitude, _, ratio, e = _gelu_s_parts(x, sigma)
    return torch.where(x > 0, x, 0) - magnitude * ratio * e


def _gelu_s_slope(x: Tensor, sigma: Sigma) -> Tensor:
    _, a, ratio, e = _gelu_s_parts(x, sigma)
    return _mirrored((ratio - a * _DENSITY) * e, x)


def _gelu_s_sigma_slope(x: Tensor, sigma: Sigma) -> Tensor:
    magnitude, _, _, e = _gelu_s_parts(x, sigma)
    return magnitude * _DENSITY * e * magnitude


# --- with the long polynomials and with the short ones, which are for 16-bit tensors ---

_ARCTAN = reference.ARCTAN._replace(value=lambda x, sigma: _arctan_value(x, sigma, False))
_ARCTAN_SHORT = reference.ARCTAN._replace(value=lambda x, sigma: _arctan_value(x, sigma, True))
_ZILU = reference.ZILU._replace(
    value=lambda x, sigma: _zilu_value(x, sigma, False),
    slope=lambda x, sigma: _zilu_slope(x, sigma, False),
    sigma_slope=_zilu_sigma_slope,
)
_ZILU_SHORT = _ZILU._replace(
    value=lambda x, sigma: _zilu_value(x, sigma, True),
    slope=lambda x, sigma: _zilu_slope(x, sigma, True),
)
_ZILU_FROM_OUTPUT = reference.ZILU_FROM_OUTPUT._replace(value=_ZILU.value)
_ZILU_FROM_OUTPUT_SHORT = reference.ZILU_FROM_OUTPUT._replace(
    value=_ZILU_SHORT.value,
    slope=functools.partial(reference.zilu_slope_of_output, short=True),
    sigma_slope=functools.partial(reference.zilu_sigma_slope_of_output, short=True),
)
_GELU_S_SHORT = reference.GELU_S._replace(
    value=_gelu_s_value, slope=_gelu_s_slope, sigma_slope=_gelu_s_sigma_slope
)
