"""What counts as which activation: modules of torch and of other packages, and functions.

A kind is a name of `zilu.names.ACTIVATIONS`, or one of FURTHER_KINDS, which can be replaced only.
"""

import difflib
import functools
import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zilu import functional, modules
from zilu.names import ACTIVATIONS, ALIASES, GATE_NAMES, SIGMA_NAMES

FURTHER_KINDS = ("ReLU6", "RReLU")
KINDS = (*(name for name in ACTIVATIONS if name != "Identity"), *FURTHER_KINDS)

# What gates, squeeze-excitation, poolers and scales are made of: stays unless it is named.
GATES = (*GATE_NAMES, "Sigmoid", "Hardsigmoid", "Tanh", "Hardtanh", "Softplus", "Softsign")
UNITS = tuple(kind for kind in KINDS if kind not in GATES)

_BY_LOWER = {kind.lower(): kind for kind in KINDS}
_BY_LOWER |= {alias.lower(): kind for alias, kind in ALIASES.items()}


def canonical_kind(name: str) -> str | None:
    """The kind of that name or alias, without regard to case; None if there is none."""
    return _BY_LOWER.get(name.lower())


def nearest_kind(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), _BY_LOWER, n=1)
    return f"did you mean {_BY_LOWER[near[0]]}? " if near else ""


# --- functions ---

# As they are called in torch.nn.functional, torch, Tensor and torch.ops.aten; there is an in-place
# form, with an underscore, of some.
_FUNCTION_NAMES = {
    "relu": "ReLU",
    "relu6": "ReLU6",
    "rrelu": "RReLU",
    "leaky_relu": "LeakyReLU",
    "prelu": "PReLU",
    "elu": "ELU",
    "celu": "CELU",
    "selu": "SELU",
    "gelu": "GELU",
    "silu": "SiLU",
    "mish": "Mish",
    "hardswish": "Hardswish",
    "hardsigmoid": "Hardsigmoid",
    "hardtanh": "Hardtanh",
    "sigmoid": "Sigmoid",
    "softplus": "Softplus",
    "softsign": "Softsign",
    "tanh": "Tanh",
}


def _functions() -> dict:
    found = {}
    for name, kind in _FUNCTION_NAMES.items():
        for home in (F, torch, Tensor, torch._C._nn):
            for form in (name, f"{name}_"):
                if hasattr(home, form):
                    found[getattr(home, form)] = kind
        for form in (name, f"{name}_"):
            packet = getattr(torch.ops.aten, form, None)
            if packet is not None:
                found |= {packet: kind, packet.default: kind}
    return found


# Function to kind, as a torch-function mode sees functions.
FUNCTIONS = _functions()

# Operators that are one kind of activation wherever they run.
OPERATORS = {
    form: kind
    for name, kind in _FUNCTION_NAMES.items()
    if name in ("relu", "leaky_relu", "elu", "gelu", "silu", "mish", "hardswish")
    for form in (name, f"{name}_")
}


def is_activation_function(value) -> bool:
    try:
        return callable(value) and value in FUNCTIONS
    except TypeError:  # it has no hash
        return False


def works_in_place(function, args: tuple, kwargs: dict) -> bool:
    """Whether a call of one of FUNCTIONS overwrites its input."""
    if function_name(function).endswith("_"):
        return True
    # torch.nn.functional's take `inplace` last, positional or not.
    return bool(kwargs.get("inplace") or (len(args) > 1 and args[-1] is True))


def function_name(function) -> str:
    name = getattr(function, "__name__", str(function))
    return name.removesuffix(".default").rsplit(".", 1)[-1]


# --- modules ---

_TORCH_CLASSES = {getattr(nn, kind): kind for kind in KINDS if hasattr(nn, kind)}
_OWN_CLASSES = {getattr(modules, n): n for n in (*SIGMA_NAMES, "SquarePlus")}
CLASSES = _TORCH_CLASSES | _OWN_CLASSES
# Modules that call none of FUNCTIONS. (SiLU_s is made of a sigmoid.)
CALLING_NONE = frozenset(_OWN_CLASSES) - {modules.SiLU_s}

# What the names of other packages' classes have in them, the more special first. Approximations
# of GELU and SiLU are GELU and SiLU to whoever replaces them.
_FOREIGN_NAMES = {
    "leakyrelu": "LeakyReLU",
    "relu6": "ReLU6",
    "relu": "ReLU",
    "gelu": "GELU",
    "hardswish": "Hardswish",
    "hswish": "Hardswish",
    "swish": "SiLU",
    "silu": "SiLU",
    "mish": "Mish",
    "celu": "CELU",
    "selu": "SELU",
    "elu": "ELU",
    "hardsigmoid": "Hardsigmoid",
    "hsigmoid": "Hardsigmoid",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "softplus": "Softplus",
    "squareplus": "SquarePlus",
}


def _foreign_kind(module: nn.Module) -> str | None:
    """What the name of a module's class says, "NewGELUActivation" or "MemoryEfficientSwish"."""
    scripted = isinstance(module, torch.jit.ScriptModule)
    name = module.original_name if scripted else type(module).__name__
    name = name.lower().replace("_", "")
    return next((kind for part, kind in _FOREIGN_NAMES.items() if part in name), None)


def kind_of_module(module: nn.Module) -> str | None:
    """The kind of activation that a module is, or None.

    A class of torch.nn or zilu is what it says. One derived from it, or of another package, is
    known by its name and by its values: a class called GELU may well have a linear layer inside.
    """
    if type(module) in CLASSES:
        return CLASSES[type(module)]
    bases = [base for base in type(module).__mro__ if base in CLASSES]
    if bases and type(module).forward is bases[0].forward:
        return CLASSES[bases[0]]
    kind = CLASSES[bases[0]] if bases else _foreign_kind(module)
    return kind if kind and _computes(module, kind) else None


def _references(kind: str) -> tuple:
    if kind == "GELU":
        quick = functools.partial(functional.silu_s, sigma=1.702)
        return F.gelu, functools.partial(F.gelu, approximate="tanh"), quick
    if kind == "SquarePlus":
        return (functional.squareplus,)
    return (getattr(F, next(name for name, of in _FUNCTION_NAMES.items() if of == kind)),)


@torch.no_grad()
def _computes(module: nn.Module, kind: str) -> bool:
    """Whether a module without parameters gives what `kind` gives, or an approximation in use."""
    has_state = next(itertools.chain(module.parameters(), module.buffers()), None) is not None
    if has_state or "forward" in vars(module):  # which has been given other calls
        return False
    try:
        with torch.device("cpu"), torch.random.fork_rng([]):
            x = torch.linspace(-8, 8, 65)
            values = module.forward(x.clone())  # not called as a module: hooks are for real data
            return any(
                torch.allclose(values, reference(x), atol=1e-3) for reference in _references(kind)
            )
    except Exception:  # it wants something else, or gives it
        return False
