"""Largest errors of an activation's value and slope against float64, over all magnitudes."""

import math

import torch
from torch import Tensor

PER_DECADE, PER_UNIT = 100, 1000


def largest_errors(activation, exact, dtype: torch.dtype, device) -> dict[str, float]:
    """Of the value and the slope: in ulp, and absolute (relative where the exact one is above 1).

    The ulp is that of `dtype` at the exact value, and counts where that is a normal number of
    `dtype`. Where a slope crosses zero, as GELU's does, its ulp tends to 0 and nothing that works
    in `dtype` can hold it: the second figure says whether that error is worth a thought.

    Args:
        activation: from a tensor to a tensor, in `dtype` on `device`.
        exact: the same in float64 on the CPU.
    """
    x = inputs(dtype)
    found = value_and_slope(activation, x.to(device))
    wanted = value_and_slope(exact, x.double())
    errors = {}
    for name, ours, reference in zip(("value", "slope"), found, wanted, strict=True):
        holds = reference.abs() <= torch.finfo(dtype).max
        normal = holds & (reference.abs() >= torch.finfo(dtype).tiny)
        error = (ours.double().cpu() - reference).abs()
        error[error.isnan()] = math.inf
        errors[f"{name}_ulp"] = (error / ulp(reference, dtype))[normal].max().item()
        errors[f"{name}_error"] = (error / reference.abs().clamp(min=1))[holds].max().item()
    return errors


def inputs(dtype: torch.dtype) -> Tensor:
    """1e-30 to 1e38 with both signs, and -12 to 12 densely, as far as `dtype` holds them."""
    magnitudes = torch.logspace(-30, 38, 68 * PER_DECADE + 1, dtype=torch.float64)
    middle = torch.linspace(-12, 12, 24 * PER_UNIT + 1, dtype=torch.float64)
    x = torch.cat([-magnitudes, middle, magnitudes]).to(dtype)
    return x[x.isfinite()].unique()


def value_and_slope(function, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.requires_grad_()
    y = function(x)
    (slope,) = torch.autograd.grad(y, x, torch.ones_like(y))
    return y.detach(), slope


def ulp(reference: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance between neighbours of `dtype` at these float64 numbers."""
    _, exponent = torch.frexp(reference)
    return torch.finfo(dtype).eps * torch.exp2(exponent.double() - 1)
