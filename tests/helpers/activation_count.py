"""Count how often activations run in a network, by the operators that reach torch's dispatcher.

That is below torch's Python functions, and independent of how zilu.replacement finds activations.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

# Operators that are an activation wherever they run. relu6 runs as hardtanh.
UNITS = {"relu", "gelu", "silu", "hardtanh", "hardswish", "leaky_relu", "elu", "mish", "prelu"}
UNITS |= {"celu", "_prelu_kernel"}
# torch's fused layer, which contains an activation.
FUSED = "_transformer_encoder_layer_fwd"
# Nonlinearities of gates, and the operators in which approximations of GELU are written out.
OTHERS = {"sigmoid", "tanh", "hardsigmoid", "softplus", "erf"}


class _Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__.removesuffix("_")
        if name in UNITS | OTHERS | {FUSED}:
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


class Counted(nn.Module):
    """Compute x (1 + x / sqrt(1 + x^2)) / 2, and count every call in `Counted.calls`."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        Counted.calls += 1
        return x * (1 + x * torch.rsqrt(1 + x * x)) / 2


def operators_of(
    model: nn.Module, run: Callable[[nn.Module], object], training: bool
) -> Counter[str]:
    """Count the operators of UNITS, OTHERS and FUSED in one run; `Counted.calls` starts at 0."""
    Counted.calls = 0
    model.train(training)
    torch.manual_seed(0)  # decides what drop-path leaves out
    with torch.no_grad(), _Operators() as operators:
        run(model)
    return operators.counts


def units_in(counts: Counter[str]) -> int:
    """Return how many of the counted operators are activations."""
    return sum(counts[name] for name in UNITS)
