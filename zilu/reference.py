"""Compute the activations with torch's own operations: the reference for the fused kernels.

Each activation has an analytic backward that saves only x, and sigma where it is learned. With
z = sigma x, a gated unit is f(x) = x g(z); its derivatives are f'(x) = g(z) + z g'(z) and
df/dsigma = x^2 g'(z). Those that increase everywhere have a second form, whose backward is computed
from the output and saves that in x's place: the next layer keeps it anyway.

The textbook formulas lose every digit in the tails, overflow, or give inf * 0; the forms below do
not, in fp32 and fp64. fp16 and bf16 are computed in fp32.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zilu.kernels.coefficients import POLYNOMIALS

Sigma = float | Tensor

# The largest 1 + pi sigma y that is told apart: the slope is 1 there, and sigma's is at its limit.
_FAR = 1e4
_SQUARE_LIMIT = 1e19  # whose square, times pi, fp32 holds

# Minimax polynomials (lowest power first) of Q(w) = (arcsin(sqrt w) / sqrt(w (1 - w)) - 1) / w on
# [0, 1/2]; their largest relative errors are 6e-8 and 2e-16. With w = 1 / (1 + z^2), |z| >= 1:
#     |z| arctan(1 / |z|)                = (1 - w) (1 + w Q(w))
#     arctan(1 / |z|) - |z| / (1 + z^2)  = |z| w^2 Q(w)
# (Euler's series for arctan, whose terms are all positive: nothing cancels.)
_Q_FP32 = (
    0.666666687,
    0.533337295,
    0.456884712,
    0.412806064,
    0.288473368,
    0.913609385,
    -2.08627129,
    6.29551411,
    -8.06250381,
    5.51114798,
)
_Q_FP64 = (
    0.66666666666666674,
    0.53333333333328636,
    0.45714285715659597,
    0.40634920475630859,
    0.36940846697971752,
    0.34098869176554358,
    0.31835035264092015,
    0.29794677763400018,
    0.30417174651844009,
    0.073844254548614013,
    1.7059859198504694,
    -8.0157388770779434,
    37.038181050245939,
    -127.79871829779231,
    346.97661195147339,
    -723.59576060189045,
    1143.1922306113481,
    -1322.3100058405523,
    1060.6704907215349,
    -528.69511908945844,
    124.90557712021847,
)

# 1 / pi, divided by arctan(1) - 1 / 2, the value of the tail's form at |z| = 1.
_TAIL_SCALE = 1 / (math.pi * (math.pi / 4 - 0.5))


_Function = Callable[[Tensor, Sigma], Tensor]


class Formulas(NamedTuple):
    """Hold one activation's formulas, each a function of x (fp32 or fp64) and sigma.

    `value`, `slope` and `sigma_slope` are only ever evaluated. They avoid `torch.where`, which
    takes as long as ten multiplications on a CPU.

    Attributes:
        value: f(x).
        differentiable: f(x) again, in a form whose derivatives are stable when autograd or another
            transform differentiates its operations.
        slope: f'(x).
        sigma_slope: df/dsigma.
        operator: name of the fused operator, for the gated units.
        from_output: `slope` and `sigma_slope` are functions of y = f(x) and sigma, and may be
            differentiated.
    """

    value: _Function
    differentiable: _Function
    slope: _Function
    sigma_slope: _Function
    operator: str | None = None
    from_output: bool = False


class _Analytic(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, sigma: Sigma, formulas: Formulas, inplace: bool = False
    ) -> Tensor:
        y = _in_dtype(formulas.value(widened(x), sigma), x.dtype)
        if inplace:
            y = x.copy_(y)
            ctx.mark_dirty(x)
        saved = y if formulas.from_output else x
        if isinstance(sigma, Tensor):
            ctx.save_for_backward(saved, sigma)
        else:
            ctx.save_for_backward(saved)
            ctx.sigma = sigma
        ctx.formulas = formulas
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        sigma = saved[0] if saved else ctx.sigma
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            gradients = differentiable_gradients(ctx.formulas, grad, x, sigma)
            return *gradients, *(None for _ in range(4 - len(gradients)))
        wide = widened(x)
        grad = grad.to(wide.dtype)
        grad_x = grad_sigma = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad * ctx.formulas.slope(wide, sigma)).to(x.dtype)
        if ctx.needs_input_grad[1]:
            grad_sigma = _summed(grad * ctx.formulas.sigma_slope(wide, sigma), sigma)
        return grad_x, grad_sigma, None, None


def analytic(formulas: Formulas, x: Tensor, sigma: Sigma, inplace: bool = False) -> Tensor:
    """Compute the activation with its analytic backward.

    Args:
        formulas: the activation's.
        x: of any dtype.
        sigma: a number, or a tensor that gets a gradient.
        inplace: write the result over x; for formulas whose backward takes the output.
    """
    y: Tensor = _Analytic.apply(x, sigma, formulas, inplace)
    return y


class _GatedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, sigma: Sigma, formulas: Formulas) -> Tensor:
        if isinstance(sigma, Tensor):
            ctx.save_for_backward(a, b, sigma)
        else:
            ctx.save_for_backward(a, b)
            ctx.sigma = sigma
        ctx.formulas = formulas
        return _in_dtype(formulas.value(widened(a), sigma) * widened(b), a.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b, *saved = ctx.saved_tensors
        sigma = saved[0] if saved else ctx.sigma
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            gradients = gated_product_gradients(ctx.formulas, grad, a, b, sigma)
            return *gradients, *(None for _ in range(4 - len(gradients)))
        wide = widened(a)
        grad = grad.to(wide.dtype)
        by_value = grad * widened(b)
        grad_sigma = None
        if ctx.needs_input_grad[2]:
            grad_sigma = _summed(by_value * ctx.formulas.sigma_slope(wide, sigma), sigma)
        grad_a = (by_value * ctx.formulas.slope(wide, sigma)).to(a.dtype)
        grad_b = (grad * ctx.formulas.value(wide, sigma)).to(b.dtype)
        return grad_a, grad_b, grad_sigma, None


def gated_product(formulas: Formulas, a: Tensor, b: Tensor, sigma: Sigma) -> Tensor:
    """Compute f(a) b with a backward that keeps a and b alone, and computes f(a) again.

    Args:
        formulas: the activation's, whose backward takes the input.
        a, b: of one shape and dtype.
        sigma: a number, or a tensor that gets a gradient.
    """
    y: Tensor = _GatedProduct.apply(a, b, sigma, formulas)
    return y


def gated_product_gradients(
    formulas: Formulas, grad: Tensor, a: Tensor, b: Tensor, sigma: Sigma
) -> tuple[Tensor, ...]:
    """Compute the gradients of f(a) b so that a double backward can differentiate them.

    Returns:
        The gradients for a and b; and the one for sigma, if sigma is a tensor.
    """
    wide, incoming = widened(a), widened(grad)
    by_value = incoming * widened(b)
    by_a, *by_sigma = differentiable_gradients(formulas, by_value, wide, sigma)
    by_b = incoming * formulas.differentiable(wide, sigma)
    return by_a.to(a.dtype), by_b.to(b.dtype), *by_sigma


# --- the gate's range widened to (-alpha, 1 + alpha): f(x) + alpha (2 f(x) - x) ---


class _Expanded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sigma: Sigma, alpha: Tensor, formulas: Formulas) -> Tensor:
        if isinstance(sigma, Tensor):
            ctx.save_for_backward(x, alpha, sigma)
        else:
            ctx.save_for_backward(x, alpha)
            ctx.sigma = sigma
        ctx.formulas = formulas
        return _widened_gate(formulas.value, x, sigma, alpha)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, alpha, *saved = ctx.saved_tensors
        sigma, formulas = saved[0] if saved else ctx.sigma, ctx.formulas
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            by_x, *by_sigma, by_alpha = expanded_gradients(formulas, grad, x, sigma, alpha)
            return by_x, by_sigma[0] if by_sigma else None, by_alpha, None
        wide = widened(x)
        grad = grad.to(wide.dtype)
        slope = formulas.slope(wide, sigma)
        by_x = (grad * (slope + alpha.to(wide.dtype) * (2 * slope - 1))).to(x.dtype)
        grad_sigma = None
        if ctx.needs_input_grad[1]:
            grad_sigma = _summed(grad * formulas.sigma_slope(wide, sigma), sigma)
            grad_sigma = grad_sigma * (1 + 2 * alpha).reshape(sigma.shape)
        by_alpha = _summed(grad * _alpha_slope(wide, formulas.value(wide, sigma)), alpha)
        return by_x, grad_sigma, by_alpha, None


def expanded(formulas: Formulas, x: Tensor, sigma: Sigma, alpha: Tensor) -> Tensor:
    """Compute the activation with its gate's range widened, with its analytic backward.

    Args:
        formulas: the activation's, whose backward takes the input.
        x: of any dtype.
        sigma: a number, or a tensor that gets a gradient.
        alpha: a tensor without dimensions.
    """
    y: Tensor = _Expanded.apply(x, sigma, alpha, formulas)
    return y


def expanded_differentiable(formulas: Formulas, x: Tensor, sigma: Sigma, alpha: Tensor) -> Tensor:
    """Compute the same as operations that any transform can differentiate or export."""
    return _widened_gate(formulas.differentiable, x, sigma, alpha)


def expanded_gradients(
    formulas: Formulas, grad: Tensor, x: Tensor, sigma: Sigma, alpha: Tensor
) -> tuple[Tensor, ...]:
    """Compute the gradients so that a double backward can differentiate them.

    Returns:
        The gradient for x; the one for sigma, if sigma is a tensor; the one for alpha.
    """
    tensors = (x, sigma, alpha) if isinstance(sigma, Tensor) else (x, alpha)
    with torch.enable_grad():
        inputs = [t if t.requires_grad else t.detach().requires_grad_() for t in tensors]
        number = inputs[1] if len(inputs) == 3 else sigma
        y = expanded_differentiable(formulas, inputs[0], number, inputs[-1])
        return torch.autograd.grad(y, inputs, grad, create_graph=True)


class _ExpandedProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, sigma: Sigma, alpha: Tensor, formulas: Formulas
    ) -> Tensor:
        if isinstance(sigma, Tensor):
            ctx.save_for_backward(a, b, alpha, sigma)
        else:
            ctx.save_for_backward(a, b, alpha)
            ctx.sigma = sigma
        ctx.formulas = formulas
        value = _wide_gate(formulas.value, widened(a), sigma, alpha)
        return _in_dtype(value * widened(b), a.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b, alpha, *saved = ctx.saved_tensors
        sigma, formulas = saved[0] if saved else ctx.sigma, ctx.formulas
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            found = expanded_product_gradients(formulas, grad, a, b, sigma, alpha)
            by_a, by_b, *by_sigma, by_alpha = found
            return by_a, by_b, by_sigma[0] if by_sigma else None, by_alpha, None
        wide = widened(a)
        grad = grad.to(wide.dtype)
        by_value = grad * widened(b)
        slope = formulas.slope(wide, sigma)
        grad_a = (by_value * (slope + alpha.to(wide.dtype) * (2 * slope - 1))).to(a.dtype)
        grad_b = (grad * _wide_gate(formulas.value, wide, sigma, alpha)).to(b.dtype)
        grad_sigma = None
        if ctx.needs_input_grad[2]:
            grad_sigma = _summed(by_value * formulas.sigma_slope(wide, sigma), sigma)
            grad_sigma = grad_sigma * (1 + 2 * alpha).reshape(sigma.shape)
        by_alpha = _summed(by_value * _alpha_slope(wide, formulas.value(wide, sigma)), alpha)
        return grad_a, grad_b, grad_sigma, by_alpha, None


def expanded_product(
    formulas: Formulas, a: Tensor, b: Tensor, sigma: Sigma, alpha: Tensor
) -> Tensor:
    """Compute `expanded` of a times b, with a backward that keeps a and b as `gated_product`'s.

    Args:
        formulas: the activation's, whose backward takes the input.
        a, b: of one shape and dtype.
        sigma: a number, or a tensor that gets a gradient.
        alpha: a tensor without dimensions.
    """
    y: Tensor = _ExpandedProduct.apply(a, b, sigma, alpha, formulas)
    return y


def expanded_product_differentiable(
    formulas: Formulas, a: Tensor, b: Tensor, sigma: Sigma, alpha: Tensor
) -> Tensor:
    """Compute the same as operations that any transform can differentiate or export."""
    value = _wide_gate(formulas.differentiable, widened(a), sigma, alpha)
    return (value * widened(b)).to(a.dtype)


def expanded_product_gradients(
    formulas: Formulas, grad: Tensor, a: Tensor, b: Tensor, sigma: Sigma, alpha: Tensor
) -> tuple[Tensor, ...]:
    """Compute the gradients so that a double backward can differentiate them.

    Returns:
        The gradients for a and b; the one for sigma, if sigma is a tensor; the one for alpha.
    """
    tensors = (a, b, sigma, alpha) if isinstance(sigma, Tensor) else (a, b, alpha)
    with torch.enable_grad():
        inputs = [t if t.requires_grad else t.detach().requires_grad_() for t in tensors]
        number = inputs[2] if len(inputs) == 4 else sigma
        y = expanded_product_differentiable(formulas, inputs[0], inputs[1], number, inputs[-1])
        return torch.autograd.grad(y, inputs, grad, create_graph=True)


def _widened_gate(function: _Function, x: Tensor, sigma: Sigma, alpha: Tensor) -> Tensor:
    return _in_dtype(_wide_gate(function, widened(x), sigma, alpha), x.dtype)


def _wide_gate(function: _Function, wide: Tensor, sigma: Sigma, alpha: Tensor) -> Tensor:
    value = function(wide, sigma)
    return value + alpha.to(wide.dtype) * _alpha_slope(wide, value)


def _alpha_slope(x: Tensor, value: Tensor) -> Tensor:
    """Return 2 f(x) - x without overflow, and without differences of infinite numbers."""
    largest = torch.finfo(x.dtype).max
    finite = value.clamp(-largest, largest)
    return finite + (finite - x.clamp(-largest, largest))


def differentiable(formulas: Formulas, x: Tensor, sigma: Sigma) -> Tensor:
    """Compute the activation as operations that any transform can differentiate or export."""
    return formulas.differentiable(widened(x), sigma).to(x.dtype)


def differentiable_gradients(
    formulas: Formulas, grad: Tensor, x: Tensor, sigma: Sigma
) -> tuple[Tensor, ...]:
    """Compute the gradients so that a double backward can differentiate them.

    Args:
        formulas: the activation's.
        grad: the gradient of the output.
        x: what backward has saved, the output where `from_output`.
        sigma: a number or a tensor.

    Returns:
        The gradient for x; and the one for sigma, if sigma is a tensor.
    """
    if formulas.from_output:
        return _gradients_from_output(formulas, grad, x, sigma)
    tensors = (x, sigma) if isinstance(sigma, Tensor) else (x,)
    with torch.enable_grad():
        inputs = [t if t.requires_grad else t.detach().requires_grad_() for t in tensors]
        y = differentiable(formulas, inputs[0], inputs[1] if len(inputs) == 2 else sigma)
        return torch.autograd.grad(y, inputs, grad, create_graph=True)


def _gradients_from_output(
    formulas: Formulas, grad: Tensor, y: Tensor, sigma: Sigma
) -> tuple[Tensor, ...]:
    wide = widened(y)
    grad_x = (grad.to(wide.dtype) * formulas.slope(wide, sigma)).to(y.dtype)
    if not isinstance(sigma, Tensor):
        return (grad_x,)
    return grad_x, _summed(grad.to(wide.dtype) * formulas.sigma_slope(wide, sigma), sigma)


def _summed(terms: Tensor, sigma: Tensor) -> Tensor:
    """Return sigma's gradient, the sum of the numbers' shares in it."""
    return terms.sum().to(sigma.dtype).reshape(sigma.shape)


def _in_dtype(y: Tensor, dtype: torch.dtype) -> Tensor:
    """Return y in a dtype; y itself if it has it.

    torch.compile of torch 2.11 gives a zero gradient where an autograd.Function returns what `to`
    has left as it was.
    """
    return y if y.dtype == dtype else y.to(dtype)


def widened(x: Tensor) -> Tensor:
    """Return fp16 and bf16 tensors in fp32, all others as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _x_limit(x: Tensor, sigma: Sigma) -> Sigma:
    """Return the |x| at which z^2 would nearly overflow.

    All functions have reached their limits there. Bounding x by it keeps infinities, and inf * 0,
    out of the formulas.
    """
    largest = torch.finfo(x.dtype).max
    z_limit = math.sqrt(largest) / 2
    if isinstance(sigma, Tensor):
        return z_limit / sigma.detach().to(x.dtype)
    return min(z_limit / sigma, largest)


def _bounded(x: Tensor, sigma: Sigma) -> Tensor:
    limit: Any = _x_limit(x, sigma)  # clamp is typed for two numbers or two tensors, no union
    return x.clamp(-limit, limit)


def _bounded_below(x: Tensor, sigma: Sigma) -> Tensor:
    """Bound x on the left only: values must still reach infinity on the right."""
    return x.clamp(min=-_x_limit(x, sigma))


def _magnitude(z: Tensor) -> Tensor:
    """Return |z|, with slope 1 at 0, where abs has slope 0: second derivatives at 0 need it."""
    return torch.where(z < 0, -z, z)


def _tail(z: Tensor, evaluated: bool) -> tuple[Tensor, Tensor]:
    """Return w = 1 / (1 + z^2) and Q(w).

    Args:
        evaluated: nothing will differentiate these operations.
    """
    w = 1 / (1 + z * z)
    highest, *lower = reversed(_Q_FP64 if z.dtype == torch.float64 else _Q_FP32)
    q = torch.full_like(w, highest)
    in_place = evaluated and not torch.is_grad_enabled()
    for coefficient in lower:
        # Autograd needs every step's result. Without it, new memory for each step would take most
        # of the time.
        q = q.mul_(w).add_(coefficient) if in_place else q * w + coefficient
    return w, q


def _mirrored(left: Tensor, z: Tensor) -> Tensor:
    """Return h(z) for a function with h(-z) = 1 - h(z), given `left`, its values at -|z|."""
    return (z.sign().clamp_(min=0) - left).abs_()


# --- ArcTan, ZiLU: g(z) = 1/2 + arctan(z)/pi, the Cauchy distribution function ---


def _arctan_value(x: Tensor, sigma: Sigma) -> Tensor:
    # atan2(1, -z) = pi/2 + arctan(z), without the cancellation for z << 0
    return torch.atan2(torch.ones_like(x), x * -sigma) / math.pi


def _arctan_differentiable(x: Tensor, sigma: Sigma) -> Tensor:
    # ONNX has no atan2, and the exporter's substitute gives -pi / 2 for atan2(1, -0)
    z = x * sigma
    left = torch.atan(1 / z.clamp(max=-1)) / -math.pi
    return torch.where(z < -1, left, 0.5 + torch.atan(z) / math.pi)


def _arctan_slope(x: Tensor, sigma: Sigma) -> Tensor:
    z = _bounded(x, sigma) * sigma
    return sigma / (1 + z * z) / math.pi


def _arctan_sigma_slope(x: Tensor, sigma: Sigma) -> Tensor:
    x = _bounded(x, sigma)
    z = x * sigma
    return x / (1 + z * z) / math.pi


def _zilu_value(x: Tensor, sigma: Sigma) -> Tensor:
    x = _bounded_below(x, sigma)
    return x * _arctan_value(x, sigma)


def _zilu_differentiable(x: Tensor, sigma: Sigma) -> Tensor:
    bounded = _bounded(x, sigma)
    z = bounded * sigma
    w, q = _tail(z, evaluated=False)
    tail = x.clamp(min=0) - (1 - w) * (1 + w * q) / (math.pi * sigma)
    middle = bounded * (0.5 + torch.atan(z) / math.pi)
    return torch.where(z.abs() > 1, tail, middle)


def _zilu_slope(x: Tensor, sigma: Sigma) -> Tensor:
    """Compute f'(x) from its left side: with a = |z|, (arctan(1/a) - a / (1 + a^2)) / pi.

    That form cancels for large a, where Q gives the same value without cancellation. The result is
    the first form at min(a, 1) times the second at max(a, 1), scaled to be 1 at a = 1: so only one
    factor varies at a time, and no `where` is needed.
    """
    z = _bounded(x, sigma) * sigma
    a = z.abs()
    far = a.clamp(min=1)
    w, q = _tail(far, evaluated=True)
    tail = q.mul_(w).mul_(far).mul_(w).mul_(_TAIL_SCALE)  # in an order that does not underflow
    near = a.clamp_(max=1)
    left = torch.atan2(torch.ones((), dtype=z.dtype, device=z.device), near)
    return _mirrored(left.sub_(near / (1 + near * near)).mul_(tail), z)


def _zilu_sigma_slope(x: Tensor, sigma: Sigma) -> Tensor:
    return _bounded(x, sigma) * _arctan_sigma_slope(x, sigma)


# --- ArcTan_Approx, ZiLU_Approx: g(z) = (1/2 + max(z, 0)) / (1 + |z|); with d = 1 / (1 + |z|) ---


def _approx_gate_value(x: Tensor, sigma: Sigma) -> Tensor:
    return _mirrored(0.5 / (1 + (x * sigma).abs()), x)


def _approx_gate_differentiable(x: Tensor, sigma: Sigma) -> Tensor:
    d = 1 / (1 + _magnitude(x * sigma))
    return torch.where(x < 0, d / 2, 1 - d / 2)


def _approx_gate_slope(x: Tensor, sigma: Sigma) -> Tensor:
    d = 1 / (1 + (_bounded(x, sigma) * sigma).abs())
    return sigma * d * d / 2


def _approx_gate_sigma_slope(x: Tensor, sigma: Sigma) -> Tensor:
    x = _bounded(x, sigma)
    d = 1 / (1 + (x * sigma).abs())
    return x * d * d / 2


def _zilu_approx_value(x: Tensor, sigma: Sigma) -> Tensor:
    magnitude = _bounded(x, sigma).abs()
    return x.clamp(min=0) - magnitude / (2 + magnitude * (2 * sigma))


def _zilu_approx_differentiable(x: Tensor, sigma: Sigma) -> Tensor:
    bounded = _bounded(x, sigma)
    z = bounded * sigma
    d = 1 / (1 + _magnitude(z))
    tail = x.clamp(min=0) - (1 - d) / (2 * sigma)
    middle = bounded * (1 + z * d) / 2
    return torch.where(z.abs() > 1, tail, middle)


def _zilu_approx_slope(x: Tensor, sigma: Sigma) -> Tensor:
    z = _bounded(x, sigma) * sigma
    d = 1 / (1 + z.abs())
    return _mirrored(d * d / 2, z)


def _zilu_approx_sigma_slope(x: Tensor, sigma: Sigma) -> Tensor:
    x = _bounded(x, sigma)
    return (x / (1 + (x * sigma).abs())) ** 2 / 2


# --- ZiLU and ZiLU_Approx from their output ---
# With y = f(x) and z = -cot t, 0 < t < pi: delta = 1 + pi sigma y = 1 - t cot t, and the slope is
# S = (t - sin t cos t) / pi. S^(2/3) / delta and sin t / t are short rationals in delta, whose
# coefficients are all positive (zilu/kernels/coefficients.py). x^2 g'(z) = pi (y sin t / t)^2.


def _rational(name: str, s: Tensor, short: bool) -> Tensor:
    parts = (f"{name}_{part}" + "_SHORT" * short for part in ("ABOVE", "BELOW"))
    above, below = (polynomial(part, s) for part in parts)
    return above / below


def polynomial(name: str, s: Tensor) -> Tensor:
    """Return the value of one of the kernels' polynomials, in operations to be fused."""
    highest, *lower = reversed(POLYNOMIALS[name])
    total = s * highest + lower[0]
    for coefficient in lower[1:]:
        total = total * s + coefficient
    return total


def _delta(y: Tensor, sigma: Sigma) -> Tensor:
    """Return 1 + pi sigma y; above 0, where it rounds to less, for the root's derivative."""
    return (y * (sigma * math.pi) + 1).clamp(1e-37, _FAR)


def zilu_slope_of_output(y: Tensor, sigma: Sigma, short: bool = False) -> Tensor:
    """Return f'(x) of y = f(x) of fp32, or with 16 bits' digits."""
    delta = _delta(y, sigma)
    u = delta * _rational("OUTPUT_SLOPE", delta, short)
    return u * u.sqrt()


def zilu_sigma_slope_of_output(y: Tensor, sigma: Sigma, short: bool = False) -> Tensor:
    """Return df/dsigma of y = f(x) of fp32, or with 16 bits' digits."""
    delta = _delta(y, sigma)
    bounded = (delta - 1) / (sigma * math.pi)
    root = (bounded * _rational("OUTPUT_SINE", delta, short)).clamp(-_SQUARE_LIMIT, _SQUARE_LIMIT)
    return root * root * math.pi


def _approx_root(v: Tensor) -> Tensor:
    """Return sqrt(1 + 4 v (3 + v)) for v >= 0, which is 1 + 4 |z| - 2 v."""
    return (1 + 4 * v * (3 + v)).sqrt()


def _approx_output(y: Tensor, sigma: Sigma) -> tuple[Tensor, Tensor, Tensor]:
    """Return v = sigma y, bounded on its right, its negative part, and its positive part."""
    v = (y * sigma).clamp(max=1e9)
    return v, v.clamp(max=0), v.clamp(min=0)


def _zilu_approx_slope_of_output(y: Tensor, sigma: Sigma) -> Tensor:
    v, below, above = _approx_output(y, sigma)
    d = 4 / (3 + 2 * above + _approx_root(above))
    left = 1 + 2 * below
    return torch.where(v < 0, left * left / 2, 1 - d * d / 2)


def _zilu_approx_sigma_slope_of_output(y: Tensor, sigma: Sigma) -> Tensor:
    v, below, above = _approx_output(y, sigma)
    right = 4 * above / (1 + 2 * above + _approx_root(above))
    root = (torch.where(v < 0, -2 * below, right) / sigma).clamp(max=_SQUARE_LIMIT)
    return root * root / 2


# --- GELU_s: g(z) = Phi(z), the normal distribution function ---


def _normal_gate(z: Tensor) -> Tensor:
    twice: Tensor = torch.special.erfc(z * -math.sqrt(0.5))
    return twice / 2


def _gelu_value(x: Tensor, sigma: Sigma) -> Tensor:
    x = _bounded_below(x, sigma)
    return x * _normal_gate(x * sigma)


def _normal_density(z: Tensor) -> Tensor:
    return torch.exp(z * z / -2) / math.sqrt(2 * math.pi)


def _gelu_slope(x: Tensor, sigma: Sigma) -> Tensor:
    z = _bounded(x, sigma) * sigma
    return _normal_gate(z) + z * _normal_density(z)


def _gelu_sigma_slope(x: Tensor, sigma: Sigma) -> Tensor:
    x = _bounded(x, sigma)
    return x * (x * _normal_density(x * sigma))


# --- SiLU_s: g(z) = sigmoid(z) ---


def _silu_value(x: Tensor, sigma: Sigma) -> Tensor:
    x = _bounded_below(x, sigma)
    return x * torch.sigmoid(x * sigma)


def _silu_slope(x: Tensor, sigma: Sigma) -> Tensor:
    z = _bounded(x, sigma) * sigma
    return torch.sigmoid(z) * (1 + z * torch.sigmoid(-z))


def _silu_sigma_slope(x: Tensor, sigma: Sigma) -> Tensor:
    x = _bounded(x, sigma)
    z = x * sigma
    return (x * torch.sigmoid(-z)) * (x * torch.sigmoid(z))  # x * x could overflow


# --- SquarePlus, which has no gate and no sigma ---


def squareplus(x: Tensor, exporting: bool = False) -> Tensor:
    """Compute (x + sqrt(x^2 + 4)) / 2, if `exporting` without hypot, which ONNX lacks."""
    wide = widened(x)
    root = _exported_root(wide) if exporting else torch.hypot(wide, torch.full_like(wide, 2))
    # For x < 0 the sum cancels; the conjugate form does not.
    left = 2 / (root - wide.clamp(max=0))
    return torch.where(wide < 0, left, (wide + root) / 2).to(x.dtype)


def _exported_root(x: Tensor) -> Tensor:
    """Compute sqrt(x^2 + 4) without hypot, and without overflow of x^2."""
    bounded = x.clamp(-1e18, 1e18)
    return torch.maximum(torch.sqrt(bounded * bounded + 4), x.abs())


# --- GoLU, x g(x) with Gompertz's gate g(x) = e^(-e^(-x)) ---

_GATE_IS_0 = -20.0  # where e^(-x) is finite still, and e^-(e^(-x)) has long been 0 in fp64


def _golu_value(x: Tensor, sigma: Sigma) -> Tensor:
    x = x.clamp(min=_GATE_IS_0)
    return x * torch.exp(-torch.exp(-x))


def _golu_slope(x: Tensor, sigma: Sigma) -> Tensor:
    x = x.clamp(_GATE_IS_0, 1e3)
    e = torch.exp(-x)
    return torch.exp(-e) * (1 + x * e)


def _squareplus_slope_of_output(y: Tensor, sigma: Sigma) -> Tensor:
    # y^2 / (1 + y^2) is NaN where y^2 is infinite.
    return 1 / (1 + 1 / y.clamp(min=1e-18).square())


ARCTAN = Formulas(_arctan_value, _arctan_differentiable, _arctan_slope, _arctan_sigma_slope)
ARCTAN_APPROX = Formulas(
    _approx_gate_value, _approx_gate_differentiable, _approx_gate_slope, _approx_gate_sigma_slope
)
ZILU = Formulas(_zilu_value, _zilu_differentiable, _zilu_slope, _zilu_sigma_slope, "zilu")
ZILU_APPROX = Formulas(
    _zilu_approx_value,
    _zilu_approx_differentiable,
    _zilu_approx_slope,
    _zilu_approx_sigma_slope,
    "zilu_approx",
)
GELU_S = Formulas(_gelu_value, _gelu_value, _gelu_slope, _gelu_sigma_slope, "gelu_s")
SILU_S = Formulas(_silu_value, _silu_value, _silu_slope, _silu_sigma_slope, "silu_s")

ZILU_FROM_OUTPUT = ZILU._replace(
    slope=zilu_slope_of_output,
    sigma_slope=zilu_sigma_slope_of_output,
    operator="zilu_from_output",
    from_output=True,
)
ZILU_APPROX_FROM_OUTPUT = ZILU_APPROX._replace(
    slope=_zilu_approx_slope_of_output,
    sigma_slope=_zilu_approx_sigma_slope_of_output,
    operator="zilu_approx_from_output",
    from_output=True,
)
SQUAREPLUS_FROM_OUTPUT = Formulas(
    lambda x, sigma: squareplus(x),
    lambda x, sigma: squareplus(x),
    _squareplus_slope_of_output,
    _squareplus_slope_of_output,  # nobody asks, since there is no sigma
    from_output=True,
)

GOLU = Formulas(_golu_value, _golu_value, _golu_slope, _golu_slope)  # nobody asks for sigma's

# The forms from the output of those from the input.
FROM_OUTPUT = {ZILU: ZILU_FROM_OUTPUT, ZILU_APPROX: ZILU_APPROX_FROM_OUTPUT}

# The gated units, by the names of their fused operators.
UNITS = {
    formulas.operator: formulas
    for formulas in (ZILU, ZILU_APPROX, GELU_S, SILU_S, ZILU_FROM_OUTPUT, ZILU_APPROX_FROM_OUTPUT)
    if formulas.operator
}
