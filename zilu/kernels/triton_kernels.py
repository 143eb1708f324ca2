"""Compute the gated units on CUDA tensors, with one Triton kernel for each pass over memory.

The formulas, their names and the reasons for their forms are those of units.h. Importing this
module imports Triton, so import it only for a CUDA tensor (or under TRITON_INTERPRET=1, where the
kernels run on CPU tensors).

At 3 TB/s, the speed of an H100's memory, there is time for some 40 instructions per element of a
16-bit tensor and twice as many per element of an fp32 one. So 16-bit tensors use the short
polynomials and the hardware's approximate division and exponential (2 ulp of fp32); fp32 tensors
use the long polynomials and exact division.
"""

import ctypes
import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from zilu.kernels.coefficients import POLYNOMIALS
from zilu.reference import Sigma

# Each program processes one block: per thread and tensor 16 bytes, the widest access there is. With
# 32 bytes a thread would need twice the registers, and fewer threads would share a multiprocessor.
_WARPS = 8
BLOCK_BYTES = _WARPS * 32 * 16

# One program adds up sigma's gradient, from gpu.cpp's SUMMING_PROGRAMS at most.
_TOTAL_BLOCK = 2048

# In the order of C++'s enum Unit.
UNIT_NAMES = (
    "zilu", "zilu_approx", "gelu_s", "silu_s", "zilu_from_output", "zilu_approx_from_output",
)  # fmt: skip
# As C++'s enum Pass.
(
    _VALUE, _GRADIENTS, _TOTAL, _PRODUCT_VALUE, _PRODUCT_GRADIENTS, _EXPANDED, _EXPANDED_GRADIENTS,
    _EXPANDED_PRODUCT, _EXPANDED_PRODUCT_GRADIENTS,
) = range(9)  # fmt: skip
# What sigma is: a number in two floats; a tensor; a tensor, times e to the power of another.
_FIXED, _LEARNED, _PRODUCT = range(3)


def launch(
    kind: int, unit: int, tensors: list[Tensor], sigma: Sigma, rho: Tensor | None, programs: int
) -> Any:
    """Run a kernel on the current device, as gpu.cpp asks for it.

    Args:
        kind: 0 for values, 1 for gradients, 2 to add up sigma's gradient, 3 and 4 for values and
            gradients of f(a) b, 5 and 6 for those of the unit with an expanded gate, 7 and 8 for
            those of that times b.
        unit: index of UNIT_NAMES.
        tensors: the kernel's first arguments, dense and of one size and layout.
        sigma: a float, or a one-element tensor on the device.
        rho: another, if sigma is to be multiplied by e^rho.
        programs: the number of blocks of BLOCK_BYTES in a tensor, or fewer for kernels that sum.

    Returns:
        Triton's compiled kernel; None in its interpreter.
    """
    first = tensors[0]
    high, second = _two_floats(sigma) if isinstance(sigma, float) else (sigma, 0.0)
    learnable = _FIXED if isinstance(sigma, float) else _LEARNED if rho is None else _PRODUCT
    arguments = (*tensors, high, second if rho is None else rho, first.numel())
    options = {"LEARNABLE": learnable, "num_warps": _WARPS, "enable_fp_fusion": True}
    if kind == _TOTAL:
        return _total_kernel[(1,)](*arguments, BLOCK=_TOTAL_BLOCK, **options)
    kernels = {
        _VALUE: _value_kernel,
        _GRADIENTS: _gradients_kernel,
        _PRODUCT_VALUE: _product_kernel,
        _PRODUCT_GRADIENTS: _product_gradients_kernel,
        _EXPANDED: _expanded_kernel,
        _EXPANDED_GRADIENTS: _expanded_gradients_kernel,
        _EXPANDED_PRODUCT: _expanded_product_kernel,
        _EXPANDED_PRODUCT_GRADIENTS: _expanded_product_gradients_kernel,
    }
    return kernels[kind][(programs,)](
        *arguments,
        UNIT=UNIT_NAMES[unit],
        SHORT=first.dtype != torch.float32,
        BLOCK=BLOCK_BYTES // first.element_size(),
        **options,
    )


def _two_floats(sigma: float) -> tuple[float, float]:
    """Return sigma rounded to fp32, and the remainder."""
    high = ctypes.c_float(sigma).value
    return high, sigma - high


def is_as_expected(compiled: Any, tensors: list[Tensor], sigma: Sigma, rho: Tensor | None) -> bool:
    """Return whether gpu.cpp can launch a kernel: has it the arguments and needs that it expects?

    Versions of Triton differ, and so do kernels that its debugging options instrument.
    """
    expected = ["*"] * len(tensors)
    expected += ["fp32" if isinstance(sigma, float) else "*", "fp32" if rho is None else "*", "i64"]
    types = [name for name in compiled.src.signature.values() if name != "constexpr"]
    needs = ("global_scratch_size", "profile_scratch_size", "launch_cooperative_grid", "launch_pdl")
    return (
        ["*" if name.startswith("*") else name for name in types] == expected
        and compiled.metadata.num_ctas == 1
        and not any(getattr(compiled.metadata, need, 0) for need in needs)
    )


# --- kernels ---
# Only the last program uses a mask: with a mask, Triton makes narrow memory accesses unless it
# knows that n is a multiple of 16. Only the offset of a program's start has 64 bits.
#
# A kernel that sums has fewer programs than the tensor has blocks, and each goes on with the block
# that is as many programs further. Adding up the numbers of its threads once for each block made
# backward with a learned sigma 1.4 times as long as without (H200, fp32, 2^26 numbers).


@triton.jit(do_not_specialize=["n"])
def _value_kernel(
    x,
    y,
    sigma,
    second,
    n: tl.int64,
    UNIT: tl.constexpr,
    SHORT: tl.constexpr,
    LEARNABLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    high, low = _read_sigma(sigma, second, LEARNABLE)
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = tl.arange(0, BLOCK)
    x = x + start + at
    y = y + start + at
    if n - start >= BLOCK:
        _value_block(x, y, None, high, low, UNIT, SHORT)
    else:
        _value_block(x, y, at < n - start, high, low, UNIT, SHORT)


@triton.jit
def _value_block(x, y, mask, sigma, sigma_low, UNIT: tl.constexpr, SHORT: tl.constexpr):
    found = _value(_load(x, mask), sigma, sigma_low, UNIT, SHORT)
    tl.store(y, found.to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n"])
def _gradients_kernel(
    grad,
    x,
    grad_x,
    partials,  # used for a learned sigma alone: one number for each program
    sigma,
    second,
    n: tl.int64,
    UNIT: tl.constexpr,
    SHORT: tl.constexpr,
    LEARNABLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    high, low = _read_sigma(sigma, second, LEARNABLE)
    start = tl.program_id(0).to(tl.int64) * BLOCK
    if LEARNABLE:
        sums = tl.zeros((BLOCK,), tl.float32)
        while start < n:
            sums += _gradients_at(start, n, grad, x, grad_x, high, low, UNIT, SHORT, BLOCK)
            start += tl.num_programs(0).to(tl.int64) * BLOCK
        tl.store(partials + tl.program_id(0), tl.sum(sums, axis=0))
    else:
        _gradients_at(start, n, grad, x, grad_x, high, low, UNIT, SHORT, BLOCK)


@triton.jit
def _gradients_at(
    start,
    n,
    grad,
    x,
    grad_x,
    sigma,
    sigma_low,
    UNIT: tl.constexpr,
    SHORT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute the block at `start`; return what each number adds to sigma's gradient."""
    at = tl.arange(0, BLOCK)
    grad = grad + start + at
    x = x + start + at
    grad_x = grad_x + start + at
    if n - start >= BLOCK:
        terms = _gradients_block(grad, x, grad_x, None, sigma, sigma_low, UNIT, SHORT)
    else:
        mask = at < n - start
        terms = _gradients_block(grad, x, grad_x, mask, sigma, sigma_low, UNIT, SHORT)
    return terms


@triton.jit
def _gradients_block(
    grad,
    x,
    grad_x,
    mask,
    sigma,
    sigma_low,
    UNIT: tl.constexpr,
    SHORT: tl.constexpr,
):
    incoming = _load(grad, mask)
    slope, by_sigma = _slopes(_load(x, mask), sigma, sigma_low, UNIT, SHORT)
    tl.store(grad_x, (incoming * slope).to(grad_x.dtype.element_ty), mask=mask)
    return incoming * by_sigma


# --- f(a) b ---


@triton.jit(do_not_specialize=["n"])
def _product_kernel(
    a,
    b,
    y,
    sigma,
    second,
    n: tl.int64,
    UNIT: tl.constexpr,
    SHORT: tl.constexpr,
    LEARNABLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    high, low = _read_sigma(sigma, second, LEARNABLE)
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = tl.arange(0, BLOCK)
    a = a + start + at
    b = b + start + at
    y = y + start + at
    if n - start >= BLOCK:
        _product_block(a, b, y, None, high, low, UNIT, SHORT)
    else:
        _product_block(a, b, y, at < n - start, high, low, UNIT, SHORT)


@triton.jit
def _product_block(a, b, y, mask, sigma, sigma_low, UNIT: tl.constexpr, SHORT: tl.constexpr):
    found = _value(_load(a, mask), sigma, sigma_low, UNIT, SHORT) * _load(b, mask)
    tl.store(y, found.to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n"])
def _product_gradients_kernel(
    grad,
    a,
    b,
    grad_a,
    grad_b,
    partials,  # as in _gradients_kernel
    sigma,
    second,
    n: tl.int64,
    UNIT: tl.constexpr,
    SHORT: tl.constexpr,
    LEARNABLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    high, low = _read_sigma(sigma, second, LEARNABLE)
    start = tl.program_id(0).to(tl.int64) * BLOCK
    if LEARNABLE:
        sums = tl.zeros((BLOCK,), tl.float32)
        while start < n:
            sums += _product_gradients_at(
                start, n, grad, a, b, grad_a, grad_b, high, low, UNIT, SHORT, BLOCK
            )
            start += tl.num_programs(0).to(tl.int64) * BLOCK
        tl.store(partials + tl.program_id(0), tl.sum(sums, axis=0))
    else:
        _product_gradients_at(start, n, grad, a, b, grad_a, grad_b, high, low, UNIT, SHORT, BLOCK)


@triton.jit
def _product_gradients_at(
    start,
    n,
    grad,
    a,
    b,
    grad_a,
    grad_b,
    sigma,
    sigma_low,
    UNIT: tl.constexpr,
    SHORT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute the block at `start`; return what each number adds to sigma's gradient."""
    at = tl.arange(0, BLOCK)
    grad = grad + start + at
    a = a + start + at
    b = b + start + at
    by_a = grad_a + start + at
    by_b = grad_b + start + at
    if n - start >= BLOCK:
        terms = _product_gradients_block(
            grad, a, b, by_a, by_b, None, sigma, sigma_low, UNIT, SHORT
        )
    else:
        mask = at < n - start
        terms = _product_gradients_block(
            grad, a, b, by_a, by_b, mask, sigma, sigma_low, UNIT, SHORT
        )
    return terms


@triton.jit
def _product_gradients_block(
    grad,
    a,
    b,
    grad_a,
    grad_b,
    mask,
    sigma,
    sigma_low,
    UNIT: tl.constexpr,
    SHORT: tl.constexpr,
):
    incoming = _load(grad, mask)
    x = _load(a, mask)
    by_value = incoming * _load(b, mask)
    slope, by_sigma = _slopes(x, sigma, sigma_low, UNIT, SHORT)
    value = _value(x, sigma, sigma_low, UNIT, SHORT)
    tl.store(grad_a, (by_value * slope).to(grad_a.dtype.element_ty), mask=mask)
    tl.store(grad_b, (incoming * value).to(grad_b.dtype.element_ty), mask=mask)
    return by_value * by_sigma


# --- the gate's range widened, as in units.h ---


@triton.jit(do_not_specialize=["n"])
def _expanded_kernel(
    x,
    y,
    alpha,
    sigma,
    second,
    n: tl.int64,
    UNIT: tl.constexpr,
    SHORT: tl.constexpr,
    LEARNABLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    high, low = _read_sigma(sigma, second, LEARNABLE)
    number = tl.load(alpha).to(tl.float32)
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = tl.arange(0, BLOCK)
    x = x + start + at
    y = y + start + at
    if n - start >= BLOCK:
        _expanded_block(x, y, None, number, high, low, UNIT, SHORT)
    else:
        _expanded_block(x, y, at < n - start, number, high, low, UNIT, SHORT)


@triton.jit
def _expanded_block(x, y, mask, alpha, sigma, sigma_low, UNIT: tl.constexpr, SHORT: tl.constexpr):
    at = _load(x, mask)
    value = _value(at, sigma, sigma_low, UNIT, SHORT)
    found = value + alpha * _alpha_slope(at, value)
    tl.store(y, found.to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n"])
def _expanded_gradients_kernel(
    grad,
    x,
    grad_x,
    alpha,
    of_alpha,  # one number for each program
    of_sigma,  # the same, used for a learned sigma alone
    sigma,
    second,
    n: tl.int64,
    UNIT: tl.constexpr,
    SHORT: tl.constexpr,
    LEARNABLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    high, low = _read_sigma(sigma, second, LEARNABLE)
    number = tl.load(alpha).to(tl.float32)
    start = tl.program_id(0).to(tl.int64) * BLOCK
    alpha_sums = tl.zeros((BLOCK,), tl.float32)
    sigma_sums = tl.zeros((BLOCK,), tl.float32)
    while start < n:
        by_alpha, by_sigma = _expanded_gradients_at(
            start, n, grad, x, grad_x, number, high, low, UNIT, SHORT, BLOCK
        )
        alpha_sums += by_alpha
        sigma_sums += by_sigma
        start += tl.num_programs(0).to(tl.int64) * BLOCK
    tl.store(of_alpha + tl.program_id(0), tl.sum(alpha_sums, axis=0))
    if LEARNABLE:
        tl.store(of_sigma + tl.program_id(0), tl.sum(sigma_sums, axis=0))


@triton.jit
def _expanded_gradients_at(
    start,
    n,
    grad,
    x,
    grad_x,
    alpha,
    sigma,
    sigma_low,
    UNIT: tl.constexpr,
    SHORT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute the block at `start`; return what each number adds to the two sums."""
    at = tl.arange(0, BLOCK)
    grad = grad + start + at
    x = x + start + at
    grad_x = grad_x + start + at
    if n - start >= BLOCK:
        by_alpha, by_sigma = _expanded_gradients_block(
            grad, x, grad_x, None, alpha, sigma, sigma_low, UNIT, SHORT
        )
    else:
        mask = at < n - start
        by_alpha, by_sigma = _expanded_gradients_block(
            grad, x, grad_x, mask, alpha, sigma, sigma_low, UNIT, SHORT
        )
    return by_alpha, by_sigma


@triton.jit
def _expanded_gradients_block(
    grad, x, grad_x, mask, alpha, sigma, sigma_low, UNIT: tl.constexpr, SHORT: tl.constexpr
):
    incoming = _load(grad, mask)
    at = _load(x, mask)
    slope, by_sigma = _slopes(at, sigma, sigma_low, UNIT, SHORT)
    value = _value(at, sigma, sigma_low, UNIT, SHORT)
    by_x = incoming * (slope + alpha * (2 * slope - 1))
    tl.store(grad_x, by_x.to(grad_x.dtype.element_ty), mask=mask)
    return incoming * _alpha_slope(at, value), incoming * ((1 + 2 * alpha) * by_sigma)


# --- that times b ---


@triton.jit(do_not_specialize=["n"])
def _expanded_product_kernel(
    a,
    b,
    y,
    alpha,
    sigma,
    second,
    n: tl.int64,
    UNIT: tl.constexpr,
    SHORT: tl.constexpr,
    LEARNABLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    high, low = _read_sigma(sigma, second, LEARNABLE)
    number = tl.load(alpha).to(tl.float32)
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = tl.arange(0, BLOCK)
    a = a + start + at
    b = b + start + at
    y = y + start + at
    if n - start >= BLOCK:
        _expanded_product_block(a, b, y, None, number, high, low, UNIT, SHORT)
    else:
        _expanded_product_block(a, b, y, at < n - start, number, high, low, UNIT, SHORT)


@triton.jit
def _expanded_product_block(
    a, b, y, mask, alpha, sigma, sigma_low, UNIT: tl.constexpr, SHORT: tl.constexpr
):
    at = _load(a, mask)
    value = _value(at, sigma, sigma_low, UNIT, SHORT)
    found = (value + alpha * _alpha_slope(at, value)) * _load(b, mask)
    tl.store(y, found.to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n"])
def _expanded_product_gradients_kernel(
    grad,
    a,
    b,
    grad_a,
    grad_b,
    alpha,
    of_alpha,  # as in _expanded_gradients_kernel
    of_sigma,
    sigma,
    second,
    n: tl.int64,
    UNIT: tl.constexpr,
    SHORT: tl.constexpr,
    LEARNABLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    high, low = _read_sigma(sigma, second, LEARNABLE)
    number = tl.load(alpha).to(tl.float32)
    start = tl.program_id(0).to(tl.int64) * BLOCK
    alpha_sums = tl.zeros((BLOCK,), tl.float32)
    sigma_sums = tl.zeros((BLOCK,), tl.float32)
    while start < n:
        by_alpha, by_sigma = _expanded_product_gradients_at(
            start, n, grad, a, b, grad_a, grad_b, number, high, low, UNIT, SHORT, BLOCK
        )
        alpha_sums += by_alpha
        sigma_sums += by_sigma
        start += tl.num_programs(0).to(tl.int64) * BLOCK
    tl.store(of_alpha + tl.program_id(0), tl.sum(alpha_sums, axis=0))
    if LEARNABLE:
        tl.store(of_sigma + tl.program_id(0), tl.sum(sigma_sums, axis=0))


@triton.jit
def _expanded_product_gradients_at(
    start,
    n,
    grad,
    a,
    b,
    grad_a,
    grad_b,
    alpha,
    sigma,
    sigma_low,
    UNIT: tl.constexpr,
    SHORT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute the block at `start`; return what each number adds to the two sums."""
    at = tl.arange(0, BLOCK)
    grad = grad + start + at
    a = a + start + at
    b = b + start + at
    by_a = grad_a + start + at
    by_b = grad_b + start + at
    if n - start >= BLOCK:
        by_alpha, by_sigma = _expanded_product_gradients_block(
            grad, a, b, by_a, by_b, None, alpha, sigma, sigma_low, UNIT, SHORT
        )
    else:
        mask = at < n - start
        by_alpha, by_sigma = _expanded_product_gradients_block(
            grad, a, b, by_a, by_b, mask, alpha, sigma, sigma_low, UNIT, SHORT
        )
    return by_alpha, by_sigma


@triton.jit
def _expanded_product_gradients_block(
    grad,
    a,
    b,
    grad_a,
    grad_b,
    mask,
    alpha,
    sigma,
    sigma_low,
    UNIT: tl.constexpr,
    SHORT: tl.constexpr,
):
    incoming = _load(grad, mask)
    at = _load(a, mask)
    by_value = incoming * _load(b, mask)
    slope, by_sigma = _slopes(at, sigma, sigma_low, UNIT, SHORT)
    value = _value(at, sigma, sigma_low, UNIT, SHORT)
    by_alpha = _alpha_slope(at, value)
    by_a = by_value * (slope + alpha * (2 * slope - 1))
    tl.store(grad_a, by_a.to(grad_a.dtype.element_ty), mask=mask)
    by_b = incoming * (value + alpha * by_alpha)
    tl.store(grad_b, by_b.to(grad_b.dtype.element_ty), mask=mask)
    return by_value * by_alpha, by_value * ((1 + 2 * alpha) * by_sigma)


@triton.jit
def _alpha_slope(x, value):
    finite = _bounded(value)
    return finite + (finite - _bounded(x))


# --- the sum of sigma's gradient ---


@triton.jit(do_not_specialize=["n"])
def _total_kernel(
    partials,
    total,
    sigma,
    second,
    n: tl.int64,
    LEARNABLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add up sigma's gradient in fp64, always in the same order; for rho, multiply it by sigma."""
    at = tl.arange(0, BLOCK)
    sums = tl.zeros((BLOCK,), tl.float64)
    start = n * 0  # an int64, as n is
    while start < n:
        sums += tl.load(partials + start + at, mask=at < n - start, other=0.0).to(tl.float64)
        start += BLOCK
    found = tl.sum(sums, axis=0)
    if LEARNABLE == 2:
        high, _ = _read_sigma(sigma, second, LEARNABLE)
        found *= high
    if total.dtype.element_ty != tl.float64:
        found = found.to(tl.float32)  # Triton converts from fp64 to bf16 in two steps alone
    tl.store(total, found.to(total.dtype.element_ty))


@triton.jit
def _load(pointers, mask):
    """Load as fp32, with 0 beyond the end, which adds nothing to sigma's gradient."""
    found = tl.load(pointers) if mask is None else tl.load(pointers, mask=mask, other=0.0)
    return found.to(tl.float32)


@triton.jit
def _read_sigma(sigma, second, LEARNABLE: tl.constexpr):
    """Return sigma as the sum of two floats, from the arguments or from memory."""
    if LEARNABLE == 0:
        high = tl.full((), sigma, tl.float32)
        low = tl.full((), second, tl.float32)
    elif LEARNABLE == 1:
        whole = tl.load(sigma)
        high = whole.to(tl.float32)
        low = (whole - high).to(tl.float32)
    else:
        high = tl.load(sigma).to(tl.float32) * tl.exp(tl.load(second).to(tl.float32))
        low = tl.full((), 0, tl.float32)
    return high, low


# --- the gated units, as in units.h ---
# x is a block and sigma one number. SHORT: x comes from a 16-bit tensor.


@triton.jit
def _value(x, sigma, sigma_low, UNIT: tl.constexpr, SHORT: tl.constexpr):
    if UNIT == "zilu" or UNIT == "zilu_from_output":
        y = _zilu_value(x, sigma, SHORT)
    elif UNIT == "zilu_approx" or UNIT == "zilu_approx_from_output":
        y = _zilu_approx_value(x, sigma, SHORT)
    elif UNIT == "gelu_s":
        y = _gelu_s_value(x, sigma, sigma_low, SHORT)
    else:
        tl.static_assert(UNIT == "silu_s")
        y = _silu_s_value(x, sigma, sigma_low, SHORT)
    return y


@triton.jit
def _slopes(x, sigma, sigma_low, UNIT: tl.constexpr, SHORT: tl.constexpr):
    """Return f'(x) and df/dsigma; x is the output for units from that."""
    if UNIT == "zilu_from_output":
        slope, by_sigma = _zilu_slopes_of_output(x, sigma, SHORT)
    elif UNIT == "zilu_approx_from_output":
        slope, by_sigma = _zilu_approx_slopes_of_output(x, sigma, SHORT)
    elif UNIT == "zilu":
        slope, by_sigma = _zilu_slopes(x, sigma, sigma_low, SHORT)
    elif UNIT == "zilu_approx":
        slope, by_sigma = _zilu_approx_slopes(x, sigma, SHORT)
    elif UNIT == "gelu_s":
        slope, by_sigma = _gelu_s_slopes(x, sigma, sigma_low, SHORT)
    else:
        tl.static_assert(UNIT == "silu_s")
        slope, by_sigma = _silu_s_slopes(x, sigma, sigma_low, SHORT)
    return slope, by_sigma


@triton.jit
def _zilu_value(x, sigma, SHORT: tl.constexpr):
    magnitude = tl.abs(x)
    a = sigma * magnitude
    far = a > 1
    t = _divide(tl.where(far, 1.0, a), tl.where(far, a, 1.0), SHORT)
    p = _polynomial(_ARCTAN_SHORT if SHORT else _ARCTAN, t * t)
    near = magnitude * (0.5 - (t * p) * _INVERSE_PI)
    limit = _divide(_number(_INVERSE_PI), sigma, SHORT)
    return _positive_part(x) - tl.where(far, p * limit, near)


@triton.jit
def _zilu_slopes(x, sigma, sigma_low, SHORT: tl.constexpr):
    a = tl.abs(sigma * x)
    far = a > 1
    r = _divide(1.0, tl.where(far, a, 1 + a * a), SHORT)
    t = tl.where(far, r, a)
    s = t * t
    p = _polynomial(_ARCTAN_SLOPE_SHORT if SHORT else _ARCTAN_SLOPE, s)
    cubed = 1.0 if SHORT else 1 - 3 * _divide(sigma_low, sigma, SHORT)
    d = (t * cubed) * s * p
    near = (0.5 - _INVERSE_PI - d) + (1 - a) * (1 - a) * (r * _INVERSE_PI)
    squared = tl.minimum(_divide(_number(_INVERSE_PI), sigma * sigma, SHORT), _LARGEST)
    by_sigma = tl.where(far, _divide(squared, 1 + s, SHORT), x * (x * r) * _INVERSE_PI)
    return _mirrored(tl.where(far, d, near), x), by_sigma


@triton.jit
def _zilu_approx_value(x, sigma, SHORT: tl.constexpr):
    magnitude = _at_most(_bound(1e30, sigma, SHORT), tl.abs(x))
    return _positive_part(x) - _divide(magnitude, 2 + (2 * sigma) * magnitude, SHORT)


@triton.jit
def _zilu_approx_slopes(x, sigma, SHORT: tl.constexpr):
    magnitude = _at_most(_bound(1e30, sigma, SHORT), tl.abs(x))
    d = _divide(1.0, 1 + sigma * magnitude, SHORT)
    m = magnitude * d
    return _mirrored(0.5 * d * d, x), 0.5 * m * m


@triton.jit
def _zilu_slopes_of_output(y, sigma, SHORT: tl.constexpr):
    total = _at_most(1e4, 1 + (sigma * _PI) * y)
    delta = tl.where(total < 0, 0.0, total)
    above = _polynomial(_OUTPUT_SLOPE_ABOVE_SHORT if SHORT else _OUTPUT_SLOPE_ABOVE, delta)
    below = _polynomial(_OUTPUT_SLOPE_BELOW_SHORT if SHORT else _OUTPUT_SLOPE_BELOW, delta)
    u = delta * _divide(above, below, SHORT)
    above = _polynomial(_OUTPUT_SINE_ABOVE_SHORT if SHORT else _OUTPUT_SINE_ABOVE, delta)
    below = _polynomial(_OUTPUT_SINE_BELOW_SHORT if SHORT else _OUTPUT_SINE_BELOW, delta)
    inverse = _divide(_number(_INVERSE_PI), sigma, SHORT)
    root = _at_most(_SQUARE_LIMIT, tl.abs((delta - 1) * inverse * _divide(above, below, SHORT)))
    return u * _root(u, SHORT), root * root * _PI


@triton.jit
def _zilu_approx_slopes_of_output(y, sigma, SHORT: tl.constexpr):
    v = (2 * sigma) * y
    a = _at_most(1e9, tl.abs(v))
    root = _root(1 + a * (6 + a), SHORT)
    d = tl.where(v < 0, 1 + v, _divide(4.0, 3 + a + root, SHORT))
    twice = tl.where(v < 0, -2 * v, _divide(4 * a, 1 + a + root, SHORT))
    m = _at_most(_SQUARE_LIMIT, _divide(twice, 2 * sigma, SHORT))
    return _mirrored(0.5 * d * d, v), 0.5 * m * m


@triton.jit
def _gelu_s_parts(x, sigma, sigma_low, SHORT: tl.constexpr):
    """Return |x|, |z|, Phi(-|z|) / e^(-z^2/2), and e^(-z^2/2) as two factors."""
    magnitude = _at_most(_bound(18.0, sigma, SHORT), tl.abs(x))
    a = sigma * magnitude
    square = a * a
    if SHORT:
        e, power = _fast_exponential(-0.5 * square)
    else:
        a_low = tl.fma(sigma, magnitude, -a) + sigma_low * magnitude
        rest = tl.fma(a, a, -square) + 2 * a * a_low
        e, power = _exponential(-0.5 * square, 0.5 * rest)
    t = _divide(1.0, 1 + 0.3 * a, SHORT)
    return magnitude, a, t * _polynomial(_MILLS_SHORT if SHORT else _MILLS, t), e, power


@triton.jit
def _gelu_s_value(x, sigma, sigma_low, SHORT: tl.constexpr):
    magnitude, _, ratio, e, power = _gelu_s_parts(x, sigma, sigma_low, SHORT)
    return _positive_part(x) - magnitude * ratio * e * power


@triton.jit
def _gelu_s_slopes(x, sigma, sigma_low, SHORT: tl.constexpr):
    magnitude, a, ratio, e, power = _gelu_s_parts(x, sigma, sigma_low, SHORT)
    left = (ratio - a * _DENSITY) * e * power
    return _mirrored(left, x), (magnitude * _DENSITY * e * power) * magnitude


@triton.jit
def _silu_s_parts(x, sigma, sigma_low, SHORT: tl.constexpr):
    """Return |x|, |z|, 1 / (1 + e^-|z|), and e^-|z| as two factors."""
    magnitude = _at_most(_bound(110.0, sigma, SHORT), tl.abs(x))
    a = sigma * magnitude
    if SHORT:
        e, power = _fast_exponential(-a)
    else:
        e, power = _exponential(-a, tl.fma(sigma, magnitude, -a) + sigma_low * magnitude)
    return magnitude, a, _divide(1.0, 1 + e * power, SHORT), e, power


@triton.jit
def _silu_s_value(x, sigma, sigma_low, SHORT: tl.constexpr):
    magnitude, _, r, e, power = _silu_s_parts(x, sigma, sigma_low, SHORT)
    return _positive_part(x) - magnitude * r * e * power


@triton.jit
def _silu_s_slopes(x, sigma, sigma_low, SHORT: tl.constexpr):
    magnitude, a, r, e, power = _silu_s_parts(x, sigma, sigma_low, SHORT)
    left = r * (1 - a * r) * e * power
    return _mirrored(left, x), (magnitude * r * r * e * power) * magnitude


# --- their parts ---


def _constants(name: str) -> tl.constexpr:
    """Return a polynomial, highest power first. Triton reads a global only if it is a constexpr."""
    return tl.constexpr(tuple(reversed(POLYNOMIALS[name])))


_ARCTAN, _ARCTAN_SHORT = _constants("ARCTAN"), _constants("ARCTAN_SHORT")
_ARCTAN_SLOPE, _ARCTAN_SLOPE_SHORT = _constants("ARCTAN_SLOPE"), _constants("ARCTAN_SLOPE_SHORT")
_EXP = _constants("EXP")
_MILLS, _MILLS_SHORT = _constants("MILLS"), _constants("MILLS_SHORT")

_OUTPUT_SLOPE_ABOVE = _constants("OUTPUT_SLOPE_ABOVE")
_OUTPUT_SLOPE_BELOW = _constants("OUTPUT_SLOPE_BELOW")
_OUTPUT_SLOPE_ABOVE_SHORT = _constants("OUTPUT_SLOPE_ABOVE_SHORT")
_OUTPUT_SLOPE_BELOW_SHORT = _constants("OUTPUT_SLOPE_BELOW_SHORT")
_OUTPUT_SINE_ABOVE = _constants("OUTPUT_SINE_ABOVE")
_OUTPUT_SINE_BELOW = _constants("OUTPUT_SINE_BELOW")
_OUTPUT_SINE_ABOVE_SHORT = _constants("OUTPUT_SINE_ABOVE_SHORT")
_OUTPUT_SINE_BELOW_SHORT = _constants("OUTPUT_SINE_BELOW_SHORT")

_PI, _INVERSE_PI = tl.constexpr(math.pi), tl.constexpr(1 / math.pi)
_SQUARE_LIMIT = tl.constexpr(1e19)  # whose square, times pi, fp32 holds
_DENSITY = tl.constexpr(1 / math.sqrt(2 * math.pi))  # of the normal distribution at 0
_LARGEST = tl.constexpr(torch.finfo(torch.float32).max)
_LOG2E = tl.constexpr(1.44269504)
_LN2_HIGH, _LN2_LOW = tl.constexpr(0.693145752), tl.constexpr(1.42860677e-6)
_ROUND = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it rounds to an integer


@triton.jit
def _polynomial(coefficients: tl.constexpr, s):
    total = coefficients.value[0]
    for k in tl.static_range(1, len(coefficients.value)):
        total = total * s + coefficients.value[k]
    return total


@triton.jit
def _number(constant: tl.constexpr):
    """Return a constant as a tensor: Triton 3.8's interpreter divides no bare number by one."""
    return tl.full((), constant, tl.float32)


@triton.jit
def _divide(a, b, SHORT: tl.constexpr):
    return a / b if SHORT else tl.div_rn(a, b)


@triton.jit
def _root(x, SHORT: tl.constexpr):
    return tl.sqrt(x) if SHORT else tl.sqrt_rn(x)


@triton.jit
def _at_most(limit, x):
    """Return the smaller of two numbers. Unlike tl.minimum, keep NaN."""
    return tl.where(x > limit, limit, x)


@triton.jit
def _bounded(x):
    """Make infinite numbers the largest ones."""
    return tl.where(x < -_LARGEST, -_LARGEST, _at_most(_LARGEST, x))


@triton.jit
def _bound(z, sigma, SHORT: tl.constexpr):
    """Return the |x| that belongs to a |z|, limited to fp32's range."""
    return tl.minimum(_divide(z, sigma, SHORT), _LARGEST)


@triton.jit
def _positive_part(x):
    return tl.where(x > 0, x, 0.0)


@triton.jit
def _mirrored(left, x):
    return tl.where(x < 0, left, 1 - left)


@triton.jit
def _power_of_two(n):
    return ((n + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _exponential(y, less):
    """Return e^(y - less) for -170 < y <= 0 and a tiny `less`, as two factors.

    The power itself may be too small for fp32 where its product with a number is not. So multiply
    the number by the first factor, then by the second.
    """
    n = (y * _LOG2E + _ROUND) - _ROUND
    r = (y - n * _LN2_HIGH) - n * _LN2_LOW
    whole = n.to(tl.int32)
    half = whole >> 1
    p = _polynomial(_EXP, r)
    return (p - p * less) * _power_of_two(half), _power_of_two(whole - half)


@triton.jit
def _fast_exponential(y):
    """Return e^y by the hardware. It is off by 2^-24 y, too little to show in a 16-bit result."""
    return tl.exp(y), 1.0
