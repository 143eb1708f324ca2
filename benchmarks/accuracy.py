"""Measure the largest errors of an activation's value and slope, over all magnitudes."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

PER_DECADE, PER_UNIT = 100, 1000

Function = Callable[[Tensor], Tensor]


def largest_errors(
    activation: Function, exact: Function, dtype: torch.dtype, device: torch.device
) -> dict[str, float]:
    """Return the largest errors of value and slope against float64.

    `value_ulp` and `slope_ulp` are in ulp: the distance of neighbours of `dtype` at the exact
    number, which counts where it is a normal number of `dtype`. `value_error` and `slope_error`
    are absolute, and relative where the exact number is above 1. Where a slope crosses zero, as
    GELU's does, its ulp tends to 0, and nothing that computes in `dtype` can be exact to it: there
    the absolute error says whether the error matters.

    Args:
        activation: the function to judge, in `dtype` on `device`.
        exact: the same function in float64 on the CPU.
        dtype: floating point of fp32, bf16 or fp16.
        device: where `activation` computes.
    """
    x = inputs(dtype)
    found = value_and_slope(activation, x.to(device))
    wanted = value_and_slope(exact, x.double())
    errors = {}
    for name, ours, reference in zip(("value", "slope"), found, wanted, strict=True):
        in_ulp, absolute = errors_of_each(ours.cpu(), reference, dtype)
        errors[f"{name}_ulp"] = in_ulp.max().item()
        errors[f"{name}_error"] = absolute.max().item()
    return errors


def errors_of_each(ours: Tensor, reference: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the errors of numbers of `dtype` in ulp, and absolute, relative above 1.

    What is no number has an infinite error. The error is 0 where it does not count: beyond the
    range of `dtype`, and in ulp below its normal numbers.
    """
    size = reference.abs()
    holds = size <= torch.finfo(dtype).max
    normal = holds & (size >= torch.finfo(dtype).tiny)
    error = (ours.double() - reference).abs()
    error[error.isnan()] = math.inf
    in_ulp = (error / ulp(reference, dtype)).where(normal, 0.0)
    return in_ulp, (error / size.clamp(min=1)).where(holds, 0.0)


def inputs(dtype: torch.dtype) -> Tensor:
    """Return 1e-30 to 1e38 with both signs, and -12 to 12 densely, as far as `dtype` goes."""
    magnitudes = torch.logspace(-30, 38, 68 * PER_DECADE + 1, dtype=torch.float64)
    middle = torch.linspace(-12, 12, 24 * PER_UNIT + 1, dtype=torch.float64)
    x = torch.cat([-magnitudes, middle, magnitudes]).to(dtype)
    return x[x.isfinite()].unique()


def value_and_slope(function: Function, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.requires_grad_()
    y = function(x)
    (slope,) = torch.autograd.grad(y, x, torch.ones_like(y))
    return y.detach(), slope


def ulp(reference: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the distance between neighbouring numbers of `dtype` at these float64 numbers."""
    _, exponent = torch.frexp(reference)
    return torch.finfo(dtype).eps * torch.exp2(exponent.double() - 1)
