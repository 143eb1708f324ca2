"""The units as plain tensor operations, with an analytic backward that saves only x (and sigma).

With z = sigma * x, a gated unit is f(x) = x * g(z); its derivatives are f'(x) = g(z) + z * g'(z)
and df/dsigma = x^2 * g'(z). The textbook formulas lose every digit in the tails, overflow, or give
inf * 0; the forms below do not, in fp32 and fp64. fp16 and bf16 are computed in fp32.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# Minimax polynomials (lowest power first) of Q(w) = (arcsin(sqrt w) / sqrt(w (1 - w)) - 1) / w on
# [0, 1/2]; largest relative error 6e-8 and 2e-16. With w = 1 / (1 + z^2), |z| >= 1:
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

# 1 / pi over the tail's form at |z| = 1.
_TAIL_SCALE = 1 / (math.pi * (math.pi / 4 - 0.5))


_Function = Callable[[Tensor, float | Tensor], Tensor]


class Unit(NamedTuple):
    """An activation as tensor operations on (x, sigma), x in fp32 or fp64.

    `plain` is the value in a form whose derivatives, as autograd finds them, are stable too. The
    other three are only ever evaluated, and avoid `where`: on a CPU it costs ten multiplications.
    """

    value: _Function
    plain: _Function
    slope: _Function
    sigma_slope: _Function
    operator: str | None = None


class _Analytic(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, sigma, unit):
        if isinstance(sigma, Tensor):
            ctx.save_for_backward(x, sigma)
        else:
            ctx.save_for_backward(x)
            ctx.sigma = sigma
        ctx.unit = unit
        return unit.value(widened(x), sigma).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        x, *saved = ctx.saved_tensors
        sigma = saved[0] if saved else ctx.sigma
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            found = differentiable_gradients(ctx.unit, grad, x, sigma)
            return *found, *(None for _ in range(3 - len(found)))
        wide = widened(x)
        grad = grad.to(wide.dtype)
        grad_x = grad_sigma = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad * ctx.unit.slope(wide, sigma)).to(x.dtype)
        if ctx.needs_input_grad[1]:
            total = (grad * ctx.unit.sigma_slope(wide, sigma)).sum()
            grad_sigma = total.to(sigma.dtype).reshape(sigma.shape)
        return grad_x, grad_sigma, None


def analytic(unit: Unit, x: Tensor, sigma: float | Tensor) -> Tensor:
    """The unit with its analytic backward."""
    return _Analytic.apply(x, sigma, unit)


def composed(unit: Unit, x: Tensor, sigma: float | Tensor) -> Tensor:
    """The unit as operations that any transform can look through."""
    return unit.plain(widened(x), sigma).to(x.dtype)


def differentiable_gradients(
    unit: Unit, grad: Tensor, x: Tensor, sigma: float | Tensor
) -> tuple[Tensor, ...]:
    """The gradient of x, and of sigma if it is a tensor, as operations for a double backward."""
    tensors = (x, sigma) if isinstance(sigma, Tensor) else (x,)
    with torch.enable_grad():
        inputs = [t if t.requires_grad else t.detach().requires_grad_() for t in tensors]
        y = composed(unit, inputs[0], inputs[1] if len(inputs) == 2 else sigma)
        return torch.autograd.grad(y, inputs, grad, create_graph=True)


def widened(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _x_limit(x: Tensor, sigma: float | Tensor) -> float | Tensor:
    """The |x| at which z^2 would nearly overflow; all functions have reached their limits there.

    Bounding x keeps infinities, and inf * 0, out of the formulas.
    """
    largest = torch.finfo(x.dtype).max
    z_limit = math.sqrt(largest) / 2
    if isinstance(sigma, Tensor):
        return z_limit / sigma.detach().to(x.dtype)
    return min(z_limit / sigma, largest)


def _bounded(x: Tensor, sigma: float | Tensor) -> Tensor:
    limit = _x_limit(x, sigma)
    return x.clamp(-limit, limit)


def _bounded_below(x: Tensor, sigma: float | Tensor) -> Tensor:
    """For values, which must still reach infinity on the right."""
    return x.clamp(min=-_x_limit(x, sigma))


def _magnitude(z: Tensor) -> Tensor:
    """|z| with the slope 1 at 0, where abs has 0: second derivatives at 0 need it."""
    return torch.where(z < 0, -z, z)


def _tail(z: Tensor, evaluated: bool) -> tuple[Tensor, Tensor]:
    """w = 1 / (1 + z^2) and Q(w); `evaluated` if nothing will look through these operations."""
    w = 1 / (1 + z * z)
    highest, *lower = reversed(_Q_FP64 if z.dtype == torch.float64 else _Q_FP32)
    q = torch.full_like(w, highest)
    in_place = evaluated and not torch.is_grad_enabled()
    for coefficient in lower:
        # Autograd needs every step; elsewhere new memory for each would take most of the time.
        q = q.mul_(w).add_(coefficient) if in_place else q * w + coefficient
    return w, q


def _mirrored(left: Tensor, z: Tensor) -> Tensor:
    """h(z) where h(-z) = 1 - h(z), from its values `left` at -|z|."""
    return (z.sign().clamp_(min=0) - left).abs_()


# --- ArcTan: g(z) = 1/2 + arctan(z)/pi, the distribution function of the Cauchy distribution ---


def _arctan_value(x, sigma):
    # atan2(1, -z) = pi/2 + arctan(z), without the cancellation for z << 0
    return torch.atan2(torch.ones_like(x), x * -sigma) / math.pi


def _arctan_plain(x, sigma):
    # ONNX has no atan2, and what takes its place there is -pi / 2 for atan2(1, -0)
    z = x * sigma
    left = torch.atan(1 / z.clamp(max=-1)) / -math.pi
    return torch.where(z < -1, left, 0.5 + torch.atan(z) / math.pi)


def _arctan_slope(x, sigma):
    z = _bounded(x, sigma) * sigma
    return sigma / (1 + z * z) / math.pi


def _arctan_sigma_slope(x, sigma):
    x = _bounded(x, sigma)
    z = x * sigma
    return x / (1 + z * z) / math.pi


def _zilu_value(x, sigma):
    x = _bounded_below(x, sigma)
    return x * _arctan_value(x, sigma)


def _zilu_plain(x, sigma):
    bounded = _bounded(x, sigma)
    z = bounded * sigma
    w, q = _tail(z, evaluated=False)
    tail = x.clamp(min=0) - (1 - w) * (1 + w * q) / (math.pi * sigma)
    middle = bounded * (0.5 + torch.atan(z) / math.pi)
    return torch.where(z.abs() > 1, tail, middle)


def _zilu_slope(x, sigma):
    """On the left, with a = |z|: (arctan(1/a) - a / (1 + a^2)) / pi.

    That cancels for large a, and Q gives the same without. The slope is the one form at min(a, 1)
    times the other at max(a, 1), which is 1 (scaled so) where the first one varies.
    """
    z = _bounded(x, sigma) * sigma
    a = z.abs()
    far = a.clamp(min=1)
    w, q = _tail(far, evaluated=True)
    tail = q.mul_(w).mul_(far).mul_(w).mul_(_TAIL_SCALE)  # in an order that does not underflow
    near = a.clamp_(max=1)
    left = torch.atan2(torch.ones((), dtype=z.dtype, device=z.device), near)
    return _mirrored(left.sub_(near / (1 + near * near)).mul_(tail), z)


def _zilu_sigma_slope(x, sigma):
    return _bounded(x, sigma) * _arctan_sigma_slope(x, sigma)


# --- ArcTan_Approx: g(z) = (1/2 + max(z, 0)) / (1 + |z|); with d = 1 / (1 + |z|) ---


def _approx_gate_value(x, sigma):
    return _mirrored(0.5 / (1 + (x * sigma).abs()), x)


def _approx_gate_plain(x, sigma):
    d = 1 / (1 + _magnitude(x * sigma))
    return torch.where(x < 0, d / 2, 1 - d / 2)


def _approx_gate_slope(x, sigma):
    d = 1 / (1 + (_bounded(x, sigma) * sigma).abs())
    return sigma * d * d / 2


def _approx_gate_sigma_slope(x, sigma):
    x = _bounded(x, sigma)
    d = 1 / (1 + (x * sigma).abs())
    return x * d * d / 2


def _zilu_approx_value(x, sigma):
    magnitude = _bounded(x, sigma).abs()
    return x.clamp(min=0) - magnitude / (2 + magnitude * (2 * sigma))


def _zilu_approx_plain(x, sigma):
    bounded = _bounded(x, sigma)
    z = bounded * sigma
    d = 1 / (1 + _magnitude(z))
    tail = x.clamp(min=0) - (1 - d) / (2 * sigma)
    middle = bounded * (1 + z * d) / 2
    return torch.where(z.abs() > 1, tail, middle)


def _zilu_approx_slope(x, sigma):
    z = _bounded(x, sigma) * sigma
    d = 1 / (1 + z.abs())
    return _mirrored(d * d / 2, z)


def _zilu_approx_sigma_slope(x, sigma):
    x = _bounded(x, sigma)
    return (x / (1 + (x * sigma).abs())) ** 2 / 2


# --- GELU_s: g(z) = Phi(z), the distribution function of the normal distribution ---


def _gelu_value(x, sigma):
    x = _bounded_below(x, sigma)
    return x * (torch.special.erfc(x * sigma * -math.sqrt(0.5)) / 2)  # 2 * x could overflow


def _normal_density(z):
    return torch.exp(z * z / -2) / math.sqrt(2 * math.pi)


def _gelu_slope(x, sigma):
    z = _bounded(x, sigma) * sigma
    return torch.special.erfc(z * -math.sqrt(0.5)) / 2 + z * _normal_density(z)


def _gelu_sigma_slope(x, sigma):
    x = _bounded(x, sigma)
    return x * (x * _normal_density(x * sigma))


# --- SiLU_s: g(z) = sigmoid(z) ---


def _silu_value(x, sigma):
    x = _bounded_below(x, sigma)
    return x * torch.sigmoid(x * sigma)


def _silu_slope(x, sigma):
    z = _bounded(x, sigma) * sigma
    return torch.sigmoid(z) * (1 + z * torch.sigmoid(-z))


def _silu_sigma_slope(x, sigma):
    x = _bounded(x, sigma)
    z = x * sigma
    return (x * torch.sigmoid(-z)) * (x * torch.sigmoid(z))  # x * x could overflow


ARCTAN = Unit(_arctan_value, _arctan_plain, _arctan_slope, _arctan_sigma_slope)
ARCTAN_APPROX = Unit(
    _approx_gate_value, _approx_gate_plain, _approx_gate_slope, _approx_gate_sigma_slope
)
ZILU = Unit(_zilu_value, _zilu_plain, _zilu_slope, _zilu_sigma_slope, "zilu")
ZILU_APPROX = Unit(
    _zilu_approx_value,
    _zilu_approx_plain,
    _zilu_approx_slope,
    _zilu_approx_sigma_slope,
    "zilu_approx",
)
GELU_S = Unit(_gelu_value, _gelu_value, _gelu_slope, _gelu_sigma_slope, "gelu_s")
SILU_S = Unit(_silu_value, _silu_value, _silu_slope, _silu_sigma_slope, "silu_s")
