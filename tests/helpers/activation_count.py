"""How often activations run in a network, counted below torch's Python functions: by the operators
that reach the dispatcher. Independent of how zilu.replacement finds them."""

from collections import Counter

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

# Operators that are an activation wherever they run. relu6 runs as hardtanh.
UNITS = {"relu", "gelu", "silu", "hardtanh", "hardswish", "leaky_relu", "elu", "mish", "prelu"}
UNITS |= {"celu", "_prelu_kernel"}
# Torch's fused layer, which contains one.
FUSED = "_transformer_encoder_layer_fwd"
# Nonlinearities of gates, and what approximations of GELU are written with.
OTHERS = {"sigmoid", "tanh", "hardsigmoid", "softplus", "erf"}


class _Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__.removesuffix("_")
        if name in UNITS | OTHERS | {FUSED}:
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


class Counted(nn.Module):
    """An activation of which every call is counted. (x (1 + x / sqrt(1 + x^2)) / 2)"""

    calls = 0

    def forward(self, x):
        Counted.calls += 1
        return x * (1 + x * torch.rsqrt(1 + x * x)) / 2


def operators_of(model, run, training: bool) -> Counter:
    """Operators of UNITS, OTHERS and FUSED in one run of the network; sets Counted.calls."""
    Counted.calls = 0
    model.train(training)
    torch.manual_seed(0)  # what drop-path leaves out
    with torch.no_grad(), _Operators() as operators:
        run(model)
    return operators.counts


def units_in(counts: Counter) -> int:
    return sum(counts[name] for name in UNITS)
