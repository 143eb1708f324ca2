"""Offer the activations as modules. Each class states its formula, and what sigma does.

torch.nn's own activations are made by name, in `zilu.registry`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit import is_scripting

from zilu import functional
from zilu.names import check_save, check_sigma
from zilu.reference import Sigma


def _called(function: Callable[..., Tensor], options: dict[str, Any], *inputs: Any) -> Tensor:
    """Call a function with options, which torch.jit.script cannot read in a `forward`."""
    return function(*inputs, **options)


class _Activation(nn.Module):
    """Hold what an activation keeps for its backward pass, and whether it works in place."""

    __jit_unused_properties__ = ("save", "inplace")  # torch.jit.script reads no options

    # For modules that an earlier version has pickled.
    _options: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, inplace: bool, save: str) -> None:
        super().__init__()
        check_save(type(self).__name__, save)
        self._set_options(inplace, save)

    def _set_options(self, inplace: bool, save: str) -> None:
        """Keep what is passed to the function beside x and sigma, where it is not the default."""
        self._options = functional.options_of(save, inplace)

    @property
    def save(self) -> str:
        """Return what is kept for the backward pass, "input" or "output"."""
        return "output" if self._options else "input"

    @property
    def inplace(self) -> bool:
        """Return whether the result is written over the input."""
        return "inplace" in self._options

    @inplace.setter
    def inplace(self, inplace: bool) -> None:
        self._set_options(inplace, self.save)

    def extra_repr(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self._options.items())


class SigmaModule(_Activation):
    """Apply a function of x and a sharpness sigma to a tensor of any shape.

    The output has the input's shape and dtype.

    Args:
        sigma: sharpness, a finite float above 0.
        learnable: make sigma a parameter, sigma = sigma0 * exp(rho) with rho = 0 at the start:
            positive by construction, and exactly `sigma` at first. `state_dict` then holds
            `sigma0` and `rho`; a fixed sigma adds no key.
        inplace: write the result over the input, where `save` is "output". It is ignored
            otherwise, since backward needs the input: factories pass it everywhere.
        save: what is kept for the backward pass, "input" or, in ZiLU, ZiLU_Approx and SquarePlus,
            "output". The next linear layer or convolution keeps the output anyway, so the
            activation takes no memory of its own, as ReLU does. Gradients then differ in rounding.

    Raises:
        ValueError: sigma is not a finite number above 0, or `save` is not for this activation.
    """

    # torch.jit.script then compiles only what is there.
    __constants__ = ("learnable", "expand_gate")

    expand_gate = False  # in gated units, an instance's own may be True
    alpha: nn.Parameter

    _function: Callable[..., Tensor]
    _unit = ""  # of the kernels' operators; for modules that an earlier version has pickled
    sigma0: Tensor
    rho: nn.Parameter

    def __init__(
        self,
        sigma: float = 1.0,
        learnable: bool = False,
        inplace: bool = False,
        save: str = "input",
    ) -> None:
        super().__init__(inplace, save)
        sigma = check_sigma(sigma)
        self.learnable = learnable
        if learnable:
            self._initial_sigma = sigma
            self.register_buffer("sigma0", torch.tensor(sigma))
            self.rho = nn.Parameter(torch.zeros(1))  # FSDP takes no parameters without dimensions
        else:
            self._fixed_sigma = sigma

    def _set_options(self, inplace: bool, save: str) -> None:
        super()._set_options(inplace, save)
        form = "_from_output" if self._options else ""
        self._unit = self._function.__name__ + form + "_" * self.inplace

    def reset_parameters(self) -> None:
        """Set a learnable sigma to its start, as is needed after `to_empty`."""
        if self.learnable:
            # With torch.nn.init, which transformers intercepts to keep the values it has loaded.
            nn.init.constant_(self.sigma0, self._initial_sigma)
            nn.init.zeros_(self.rho)

    @property
    def sigma(self) -> Sigma:
        """Return the current sharpness: a float, or if learnable a one-element tensor."""
        if not self.learnable:
            return self._fixed_sigma
        return self.sigma0 * self.rho.view(()).exp()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved = state_dict.get(f"{prefix}rho")
        if saved is not None and saved.dim() == 0:  # saved by a version whose rho was a scalar
            state_dict[f"{prefix}rho"] = saved.view(1)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, input: Tensor) -> Tensor:  # torch.nn names its activations' argument so
        if not is_scripting():
            # As attributes, parts of a learned sigma take two microseconds, and as a property any
            # sigma a third of one. The whole call of GELU takes six.
            rho = self._parameters.get("rho")
            sigma = self._buffers.get("sigma0") if self.learnable else self._fixed_sigma
            y = functional.on_gpu(self._unit, input, sigma, rho)
            if y is not None:
                return y
            if self.expand_gate:
                name = self._function.__name__
                return functional.expanded(input, self.alpha, name, self.sigma)
            if self._options:
                return _called(self._function, self._options, input, self.sigma)
        y = self._function(input, self.sigma)
        if self.expand_gate:
            y = (y + self.alpha * (2 * y - input)).to(input.dtype)
        return y

    def extra_repr(self) -> str:
        sigma, options = self.sigma, super().extra_repr()
        if not isinstance(sigma, Tensor):
            text = f"sigma={sigma:g}"
        else:
            value = "?" if sigma.is_meta else f"{sigma.item():.6g}"
            text = f"sigma={value}, learnable=True"
        return f"{text}, {options}" if options else text


class ArcTan(SigmaModule):
    """Apply the arctan gate alone, g(z) = 1/2 + arctan(z) / pi with z = sigma x.

    It is the distribution function of the Cauchy distribution, and the mean of GELU's gates
    Phi(a x) over the sharpness a = |N(0, sigma^2)|.

    - Slope: sigma g'(z), with g'(z) = 1 / (pi (1 + z^2)); sigma / pi at x = 0.
    - Limits: 0 for x to minus infinity, where it decays like 1 / (pi |z|); 1 for x to infinity.
    - sigma: the gate's sharpness. A large sigma gives a step, a small one the constant 1/2.

    Source: arXiv 2603.06861.
    """

    _function = staticmethod(functional.arctan)


class ArcTan_Approx(SigmaModule):
    """Apply a cheap gate in place of `ArcTan`: g(z) = (1 + softsign(z)) / 2 with z = sigma x.

    softsign(z) = z / (1 + |z|), so g(z) = (1/2 + max(z, 0)) / (1 + |z|).

    - Slope: sigma g'(z), with g'(z) = 1 / (2 (1 + |z|)^2); sigma / 2 at x = 0.
    - Limits: 0 for x to minus infinity, where it decays like 1 / (2 |z|); 1 for x to infinity.
    - sigma: the gate's sharpness, as in `ArcTan`.
    - Distance to `ArcTan` with the same sigma: at most 0.0226.

    Source: arXiv 2603.06861.
    """

    _function = staticmethod(functional.arctan_approx)


class GatedUnit(SigmaModule):
    """Apply an activation of the form x g(sigma x).

    Args:
        sigma, learnable, inplace, save: as in `SigmaModule`.
        expand_gate: widen the gate's range to (-alpha, 1 + alpha) by a parameter alpha, which is 0
            at first: f(x) + alpha (2 f(x) - x) (arXiv 2405.20768). It does not go with
            save="output", since the function no longer increases everywhere.

    Raises:
        ValueError: as for `SigmaModule`, or both `expand_gate` and save="output".
    """

    def __init__(
        self,
        sigma: float = 1.0,
        learnable: bool = False,
        inplace: bool = False,
        save: str = "input",
        expand_gate: bool = False,
    ) -> None:
        self.expand_gate = expand_gate
        super().__init__(sigma, learnable, inplace, save)
        if expand_gate and save == "output":
            raise ValueError(
                "expand_gate does not go with save='output': the function no longer increases "
                "everywhere, so that its output does not tell the slope"
            )
        if expand_gate:
            self._unit = ""  # that of no kernel without alpha
            self.alpha = nn.Parameter(torch.zeros(1))  # as rho

    def reset_parameters(self) -> None:
        """Set learnable numbers to their starts, as is needed after `to_empty`."""
        super().reset_parameters()
        if self.expand_gate:
            nn.init.zeros_(self.alpha)

    def extra_repr(self) -> str:
        if not self.expand_gate:
            return super().extra_repr()
        value = "?" if self.alpha.is_meta else f"{self.alpha.item():.6g}"
        return f"{super().extra_repr()}, expand_gate=True, alpha={value}"

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """Return f(a) b, the product in a gated linear unit, in one pass over memory.

        Backward keeps a and b, where `unit(a) * b` keeps f(a) too. See
        `zilu.functional.gated_product`.
        """
        alpha = self.alpha if self.expand_gate else None
        return functional.gated_product(a, b, self._function.__name__, self.sigma, alpha)


class ZiLU(GatedUnit):
    """Apply ZiLU, f(x) = x g(z) with the gate g(z) = 1/2 + arctan(z) / pi and z = sigma x.

    As the mean of the units x Phi(a x) over the sharpness a = |N(0, sigma^2)|, ZiLU is a scale
    mixture of GELUs.

    - Slope: f'(x) = g(z) + z g'(z) with g'(z) = 1 / (pi (1 + z^2)). It is 1/2 at x = 0, positive
      for every finite x, and decays like 2 / (3 pi |z|^3) on the left. f is convex.
    - Limits: -1 / (pi sigma) for x to minus infinity; f(x) - x tends to the same for x to infinity.
    - sigma: the gate's sharpness. It only sets the scale, f_sigma(x) = f_1(sigma x) / sigma. A
      large sigma gives ReLU, a small one x / 2. df/dsigma = x^2 g'(z).

    Source: arXiv 2603.06861, which calls it IGLU. At sigma = 1 it is the arctan linear unit (ATLU)
    of arXiv 2405.20768.
    """

    _function = staticmethod(functional.zilu)


class ZiLU_Approx(GatedUnit):
    """Apply ZiLU's cheap approximation, f(x) = x (1 + softsign(z)) / 2 with z = sigma x.

    softsign(z) = z / (1 + |z|), as in `ArcTan_Approx`.

    - Slope: with d = 1 / (1 + |z|), f'(x) = d^2 / 2 for x < 0 and 1 - d^2 / 2 for x >= 0. It is 1/2
      at x = 0 and positive for every finite x. f is convex.
    - Limits: -1 / (2 sigma) for x to minus infinity; f(x) - x tends to the same for x to infinity.
    - sigma: the gate's sharpness, as in `ZiLU`. df/dsigma = x^2 d^2 / 2.
    - Distance to `ZiLU` with the same sigma: less than (1/2 - 1/pi) / sigma, which it approaches
      for large |x|.

    Source: arXiv 2603.06861, which calls it IGLU_Approx.
    """

    _function = staticmethod(functional.zilu_approx)


class GELU_s(GatedUnit):
    """Apply GELU with a sharpness, f(x) = x g(z) with the gate g(z) = Phi(z) and z = sigma x.

    Phi is the normal distribution function, (1 + erf(z / sqrt(2))) / 2, and phi its density.

    - Slope: f'(x) = Phi(z) + z phi(z). It is 1/2 at x = 0, and negative left of z = -0.752.
    - Limits: 0 for x to minus infinity, faster than any power; f(x) - x tends to 0 for x to
      infinity.
    - sigma: the gate's sharpness. It only sets the scale, f_sigma(x) = f_1(sigma x) / sigma. A
      large sigma gives ReLU, a small one x / 2. df/dsigma = x^2 phi(z).

    Source: arXiv 1606.08415, whose exact GELU is sigma = 1.
    """

    _function = staticmethod(functional.gelu_s)


class SiLU_s(GatedUnit):
    """Apply SiLU with a sharpness (Swish), f(x) = x g(z) with g(z) = sigmoid(z) and z = sigma x.

    - Slope: f'(x) = g(z) + z g(z) (1 - g(z)). It is 1/2 at x = 0, and negative left of z = -1.278.
    - Limits: 0 for x to minus infinity, exponentially; f(x) - x tends to 0 for x to infinity.
    - sigma: the gate's sharpness. It only sets the scale, f_sigma(x) = f_1(sigma x) / sigma. A
      large sigma gives ReLU, a small one x / 2. df/dsigma = x^2 g(z) (1 - g(z)).

    Source: arXiv 1710.05941, whose beta is sigma. sigma = 1 is SiLU.
    """

    _function = staticmethod(functional.silu_s)


class xATLU(ZiLU):
    """Apply the arctan unit with an expanded gate: `ZiLU` at sigma = 1 with `expand_gate`.

    Source: arXiv 2405.20768.
    """

    def __init__(self) -> None:
        super().__init__(expand_gate=True)


class xGELU(GELU_s):
    """Apply GELU with an expanded gate: `GELU_s` at sigma = 1 with `expand_gate`.

    Source: arXiv 2405.20768.
    """

    def __init__(self) -> None:
        super().__init__(expand_gate=True)


class xSiLU(SiLU_s):
    """Apply SiLU with an expanded gate: `SiLU_s` at sigma = 1 with `expand_gate`.

    Source: arXiv 2405.20768.
    """

    def __init__(self) -> None:
        super().__init__(expand_gate=True)


class ACON_C(nn.Module):
    """Apply ACON-C, f(x) = (p1 - p2) x sigmoid(beta (p1 - p2) x) + p2 x, with three parameters.

    They are p1 = 1, p2 = 0 and beta = 1 at first, which is SiLU. The paper has one of each for
    every channel, and random p1 and p2; here each module has one, for any number of dimensions.

    - Slope: with d = p1 - p2, g = sigmoid(beta d x): d (g + beta d x g (1 - g)) + p2. Its bounds
      depend on p1 and p2, and are trained: p1 and p2 are its limits for beta d > 0.

    Source: arXiv 2009.04759, equation 9.
    """

    def __init__(self) -> None:
        super().__init__()
        self.p1 = nn.Parameter(torch.ones(1))
        self.p2 = nn.Parameter(torch.zeros(1))
        self.beta = nn.Parameter(torch.ones(1))

    def reset_parameters(self) -> None:
        """Set the parameters to their starts, as is needed after `to_empty`."""
        nn.init.ones_(self.p1)
        nn.init.zeros_(self.p2)
        nn.init.ones_(self.beta)

    def forward(self, input: Tensor) -> Tensor:
        scaled = (self.p1 - self.p2) * input
        return (scaled * torch.sigmoid(self.beta * scaled) + self.p2 * input).to(input.dtype)


class SquarePlus(_Activation):
    """Apply SquarePlus, f(x) = (x + sqrt(x^2 + 4)) / 2, which has no sigma.

    - Slope: f'(x) = (1 + x / sqrt(x^2 + 4)) / 2. It is 1/2 at x = 0 and positive everywhere.
    - Limits: 0 for x to minus infinity, like 1 / |x|; f(x) - x tends to 0 for x to infinity.

    Args:
        inplace: as in `ZiLU`.
        save: as in `ZiLU`.

    Source: arXiv 2112.11687.
    """

    def __init__(self, inplace: bool = False, save: str = "input") -> None:
        super().__init__(inplace, save)

    def forward(self, input: Tensor) -> Tensor:
        if not is_scripting():
            return _called(functional.squareplus, self._options, input)
        return functional.squareplus(input)


class GoLU(nn.Module):
    """Apply GoLU, f(x) = x g(x) with Gompertz's gate g(x) = exp(-exp(-x)), which has no sigma.

    - Slope: f'(x) = g(x) (1 + x exp(-x)). It is 1/e at x = 0, and negative left of x = -0.567.
    - Limits: 0 for x to minus infinity, faster than any exponential; f(x) - x tends to 0 for x to
      infinity.

    Source: arXiv 2502.03654.
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.golu(input)


class ReLU2(nn.Module):
    """Apply the squared ReLU, f(x) = max(x, 0)^2, which has no sigma. Its slope is 2 max(x, 0).

    fp16 overflows beyond x = 255.

    Source: Primer, arXiv 2109.08668.
    """

    def forward(self, input: Tensor) -> Tensor:
        return torch.relu(input).square()


class GELU_tanh(nn.GELU):
    """Apply GELU's approximation by tanh, x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2.

    It is what GPT-2 was trained with, and at most 5e-4 from GELU.

    Source: arXiv 1606.08415.
    """

    def __init__(self) -> None:
        super().__init__(approximate="tanh")
