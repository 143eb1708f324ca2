"""Make the activations of an exported network out of torch's own operations.

    make(spec)                # a new activation
    put_into(model, spec)     # into a network of another package, at the places that the spec lists

A spec is a mapping as it stands in an exported network's config.json: the activation's `name`, and
as it needs them `sigma`, `learnable` (sigma is a parameter), `expand_gate` (so is alpha), `args` of
one of torch.nn's own classes, `sites` (paths of modules). Parameters and buffers have the names
that the weights were saved with. The package `zilu` has the same functions with fused kernels and
exact slopes; this file needs torch alone.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Gate = Callable[[Tensor], Tensor]


def _arctan(z: Tensor) -> Tensor:
    # 1/2 + arctan(z) / pi, without the cancellation for z << 0
    return torch.atan2(torch.ones_like(z), -z) / math.pi


def _arctan_approx(z: Tensor) -> Tensor:
    small = 0.5 / (1 + z.abs())
    return torch.where(z < 0, small, 1 - small)


def _normal(z: Tensor) -> Tensor:
    twice: Tensor = torch.special.erfc(z * -math.sqrt(0.5))
    return twice / 2


# Gates g(z) with z = sigma x; and whether the activation is x g(z) or the gate alone.
GATES: dict[str, tuple[Gate, bool]] = {
    "ArcTan": (_arctan, False),
    "ArcTan_Approx": (_arctan_approx, False),
    "ZiLU": (_arctan, True),
    "ZiLU_Approx": (_arctan_approx, True),
    "GELU_s": (_normal, True),
    "SiLU_s": (torch.sigmoid, True),
}
# With a gate whose range a parameter alpha widens.
EXPANDED = {"xATLU": "ZiLU", "xGELU": "GELU_s", "xSiLU": "SiLU_s"}


def _in_fp32(function: Gate, x: Tensor) -> Tensor:
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return function(wide).to(x.dtype)


class Gated(nn.Module):
    """Compute a gate g(sigma x), or the gated unit x g(sigma x), of a tensor of any shape."""

    sigma0: Tensor

    def __init__(
        self, name: str, sigma: float = 1.0, learnable: bool = False, expand_gate: bool = False
    ) -> None:
        super().__init__()
        self.name, self.fixed_sigma = name, sigma
        self.gate, self.is_unit = GATES[name]
        self.rho: nn.Parameter | None = None
        self.alpha: nn.Parameter | None = None
        if learnable:  # sigma = sigma0 e^rho
            self.register_buffer("sigma0", torch.tensor(sigma))
            self.rho = nn.Parameter(torch.zeros(1))
        if expand_gate:
            self.alpha = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return _in_fp32(self._wide, x)

    def _wide(self, x: Tensor) -> Tensor:
        sigma: Any = self.fixed_sigma
        if self.rho is not None:
            sigma = self.sigma0.to(x.dtype) * self.rho.to(x.dtype).view(()).exp()
        if not self.is_unit:
            return self.gate(x * sigma)
        lowest = -math.sqrt(torch.finfo(x.dtype).max) / 2 / sigma  # whose square is finite
        bounded = x.clamp(min=lowest)
        y = bounded * self.gate(bounded * sigma)
        return y if self.alpha is None else y + self.alpha.to(x.dtype) * (2 * y - x)

    def extra_repr(self) -> str:
        parts = [self.name]
        parts += ["learned sigma"] if self.rho is not None else [f"sigma={self.fixed_sigma:g}"]
        return ", ".join(parts + ["expanded gate"] * (self.alpha is not None))


class ACON_C(nn.Module):
    """Compute (p1 - p2) x sigmoid(beta (p1 - p2) x) + p2 x (arXiv 2009.04759)."""

    def __init__(self) -> None:
        super().__init__()
        self.p1 = nn.Parameter(torch.ones(1))
        self.p2 = nn.Parameter(torch.zeros(1))
        self.beta = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        scaled = (self.p1 - self.p2) * x
        return (scaled * torch.sigmoid(self.beta * scaled) + self.p2 * x).to(x.dtype)


def _squareplus(x: Tensor) -> Tensor:
    root = torch.hypot(x, torch.full_like(x, 2))
    # For x < 0 the sum cancels; the conjugate form does not.
    return torch.where(x < 0, 2 / (root - x.clamp(max=0)), (x + root) / 2)


def _golu(x: Tensor) -> Tensor:
    x = x.clamp(min=-20)  # where the gate is 0
    return x * torch.exp(-torch.exp(-x))


def _relu2(x: Tensor) -> Tensor:
    return torch.relu(x).square()


FUNCTIONS: dict[str, Gate] = {"SquarePlus": _squareplus, "GoLU": _golu}


class Function(nn.Module):
    """Compute one of FUNCTIONS."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return _in_fp32(FUNCTIONS[self.name], x)

    def extra_repr(self) -> str:
        return self.name


class ReLU2(nn.Module):
    """Compute max(x, 0)^2."""

    def forward(self, x: Tensor) -> Tensor:
        return _relu2(x)


def make(spec: Mapping[str, Any]) -> nn.Module:
    """Return a new activation of a spec."""
    name = spec["name"]
    if name in GATES:
        options = {key: spec[key] for key in ("sigma", "learnable", "expand_gate") if key in spec}
        return Gated(name, **options)
    if name in EXPANDED:
        return Gated(EXPANDED[name], expand_gate=True)
    if name in FUNCTIONS:
        return Function(name)
    own: dict[str, Callable[[], nn.Module]] = {
        "ACON_C": ACON_C,
        "ReLU2": ReLU2,
        "GELU_tanh": lambda: nn.GELU(approximate="tanh"),
    }
    if name in own:
        return own[name]()
    module: nn.Module = getattr(nn, name)(**spec.get("args", {}))
    return module


def put_into(
    model: nn.Module,
    spec: Mapping[str, Any],
    make: Callable[[Mapping[str, Any]], nn.Module] = make,
) -> nn.Module:
    """Put a new activation at each of the spec's sites, and return the network."""
    for path in spec["sites"]:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, make(spec))
    return model
