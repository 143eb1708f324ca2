"""Tell which activation a module or function is, and which activations a caller wants replaced.

A kind is the name of an activation: one of `zilu.names.ACTIVATIONS`, or one of FURTHER_KINDS, which
can be replaced but not made.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zilu import functional, modules
from zilu.custom.activation import FunctionActivation, is_function_of_a_tensor
from zilu.modules import SigmaModule
from zilu.names import (
    ACTIVATIONS,
    ALIASES,
    GATE_NAMES,
    PLAIN_NAMES,
    SIGMA_NAMES,
    check_sigma,
    did_you_mean,
)
from zilu.registry import create_activation

Function: TypeAlias = Callable[..., Any]
Factory: TypeAlias = Callable[[], nn.Module]
Target: TypeAlias = str | Factory
Key: TypeAlias = str | type[nn.Module]

FURTHER_KINDS = ("ReLU6", "RReLU")
KINDS = (*(name for name in ACTIVATIONS if name != "Identity"), *FURTHER_KINDS)

# Gates, squeeze-excitation, poolers, scales and losses are made of these, and filters of shrinks.
# They stay unless they are named.
GATES = (*GATE_NAMES, "Sigmoid", "Hardsigmoid", "Tanh", "Hardtanh", "Softplus", "Softsign")
OTHER_USES = ("LogSigmoid", "Hardshrink", "Softshrink", "Tanhshrink")
REPLACED_BY_DEFAULT = tuple(kind for kind in KINDS if kind not in (*GATES, *OTHER_USES))

_BY_LOWER = {kind.lower(): kind for kind in KINDS}
_BY_LOWER |= {alias.lower(): kind for alias, kind in ALIASES.items()}


# --- functions ---

# The functions' names in torch.nn.functional, torch, Tensor and torch.ops.aten. Some have an
# in-place form, whose name ends with an underscore.
FUNCTION_NAMES = {
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
    "logsigmoid": "LogSigmoid",
    "log_sigmoid": "LogSigmoid",
    "hardshrink": "Hardshrink",
    "softshrink": "Softshrink",
    "tanhshrink": "Tanhshrink",
}


def _forms(name: str) -> Iterator[Function]:
    """Yield all functions of a name that a TorchFunctionMode may see, in-place forms included."""
    for form in (name, f"{name}_"):
        for home in (F, torch, Tensor, torch._C._nn):
            if hasattr(home, form):
                yield getattr(home, form)
        packet = getattr(torch.ops.aten, form, None)
        if packet is not None:
            yield packet
            yield packet.default


# The kind of each function that is an activation whatever its numbers are.
FUNCTIONS = {form: kind for name, kind in FUNCTION_NAMES.items() for form in _forms(name)}

# zilu's own functions. torch.compile does not show them to a TorchFunctionMode.
OWN_FUNCTIONS = {getattr(functional, n.lower()): n for n in (*SIGMA_NAMES, "SquarePlus", "GoLU")}

# Functions that bound their input, and that are activations for some numbers: with the names of the
# numbers. clamp and clip also serve many other purposes.
_NUMBERS = {
    "clamp": ("min", "max"),
    "clip": ("min", "max"),
    "clamp_min": ("min",),
    "hardtanh": ("min_val", "max_val"),
    "threshold": ("threshold", "value"),
}
BOUNDING = {form: name for name in _NUMBERS for form in _forms(name)}
_KIND_OF_BOUNDS = {(0, math.inf): "ReLU", (0, 6): "ReLU6", (-1, 1): "Hardtanh"}


def kind_of_call(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Return the kind of activation that a call is, by its function and its numbers, or None.

    Values of tensors are not looked at, so that torch.compile gets the same answer.
    """
    name = BOUNDING.get(function)
    if name is None:
        return FUNCTIONS.get(function)
    x = args[0] if args else kwargs.get("input", kwargs.get("self"))
    if isinstance(x, Tensor) and not x.is_floating_point():
        return None
    numbers = dict(zip(_NUMBERS[name], args[1:], strict=False)) | kwargs
    return _kind_of_numbers(name, *(numbers.get(each) for each in _NUMBERS[name]))


def _kind_of_numbers(name: str, low: Any, high: Any = None) -> str | None:
    if name == "threshold":  # replaces what is not above `low` by the second number
        return "ReLU" if _is_number(low) and _is_number(high) and low == high == 0 else None
    if name == "hardtanh":
        low, high = -1 if low is None else low, 1 if high is None else high
    high = math.inf if high is None else high
    kind = _KIND_OF_BOUNDS.get((low, high)) if _is_number(low) and _is_number(high) else None
    return "Hardtanh" if kind is None and name == "hardtanh" else kind


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def may_be_a_bound(function: Function) -> bool:
    """Return whether a function with bounds is no activation by its name."""
    return BOUNDING.get(function) in ("clamp", "clip", "clamp_min")


# Operators that are one kind of activation wherever they run.
OPERATORS = {
    form: kind
    for name, kind in FUNCTION_NAMES.items()
    if name in ("relu", "leaky_relu", "elu", "gelu", "silu", "mish", "hardswish")
    for form in (name, f"{name}_")
}


def is_activation_function(value: object) -> bool:
    """Return whether a value, such as an attribute of a module, is one of FUNCTIONS."""
    try:
        return callable(value) and value in FUNCTIONS
    except TypeError:  # the value has no hash
        return False


def works_in_place(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether a call of one of FUNCTIONS overwrites its input."""
    if function_name(function).endswith("_"):
        return True
    # The functions of torch.nn.functional take `inplace` as their last argument, positional or not.
    return bool(kwargs.get("inplace") or (len(args) > 1 and args[-1] is True))


def function_name(function: Function) -> str:
    """Return a function's bare name: "relu" for torch.relu and for torch.ops.aten.relu.default."""
    name: str = getattr(function, "__name__", str(function))
    name = name.removesuffix(".default").rsplit(".", 1)[-1]
    return name if name.startswith("__") else name.removeprefix("_")  # F.threshold is "_threshold"


# --- modules ---

_Classes: TypeAlias = dict[type[nn.Module], str]
_TORCH_CLASSES: _Classes = {getattr(nn, kind): kind for kind in KINDS if hasattr(nn, kind)}
_OWN_CLASSES: _Classes = {getattr(modules, n): n for n in (*SIGMA_NAMES, *PLAIN_NAMES)}
CLASSES = _TORCH_CLASSES | _OWN_CLASSES
# Classes whose forward calls none of FUNCTIONS. (SiLU_s calls a sigmoid.)
CALLING_NONE = frozenset(_OWN_CLASSES) - {modules.SiLU_s, modules.ReLU2, modules.GELU_tanh}

# Parts of class names in other packages, more special ones first. Approximations of GELU and SiLU
# count as GELU and SiLU.
_FOREIGN_NAMES = {
    "leakyrelu": "LeakyReLU",
    "relusquared": "ReLU2",
    "squaredrelu": "ReLU2",
    "relu2": "ReLU2",
    "relu6": "ReLU6",
    "relu": "ReLU",
    "gelu": "GELU",
    "golu": "GoLU",
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


def kind_of_module(module: nn.Module) -> str | None:
    """Return the kind of activation that a module is, or None.

    The classes of torch.nn and zilu are known. A class derived from one of them, or of another
    package, is recognised by its name and by the values it gives: a class called GELU may well
    contain a linear layer.
    """
    for base in (nn.Hardtanh, nn.Threshold):  # ReLU6 is a Hardtanh
        if isinstance(module, base) and type(module).forward is base.forward:
            return _kind_by_bounds(module)
    if type(module) in CLASSES:
        return CLASSES[type(module)]
    bases = [base for base in type(module).__mro__ if base in CLASSES]
    if bases and type(module).forward is bases[0].forward:
        return CLASSES[bases[0]]
    kind = CLASSES[bases[0]] if bases else _kind_by_name(module)
    return kind if kind and _computes(module, kind) else None


def _kind_by_bounds(module: Any) -> str | None:
    """Return the kind of a module that runs the forward of torch's Threshold or Hardtanh."""
    if isinstance(module, nn.Threshold):
        return _kind_of_numbers("threshold", module.threshold, module.value)
    return _kind_of_numbers("hardtanh", module.min_val, module.max_val)


def _kind_by_name(module: nn.Module) -> str | None:
    """Guess the kind from a class's name, such as NewGELUActivation or MemoryEfficientSwish."""
    scripted = isinstance(module, torch.jit.ScriptModule)
    name = str(module.original_name) if scripted else type(module).__name__
    name = name.lower().replace("_", "")
    return next((kind for part, kind in _FOREIGN_NAMES.items() if part in name), None)


@torch.no_grad()
def _computes(module: nn.Module, kind: str) -> bool:
    """Return whether a module has no state and computes `kind` or a usual approximation of it."""
    has_state = next(itertools.chain(module.parameters(), module.buffers()), None) is not None
    if has_state or "forward" in vars(module):  # a rewritten forward calls other modules
        return False
    try:
        with torch.device("cpu"), torch.random.fork_rng([]):
            x = torch.linspace(-8, 8, 65)
            values = module.forward(x.clone())  # not by calling the module, which would run hooks
            return any(
                torch.allclose(values, reference(x), atol=1e-3) for reference in _references(kind)
            )
    except Exception:  # the module takes other inputs, or returns something else
        return False


def _references(kind: str) -> tuple[Function, ...]:
    if kind == "GELU":
        quick = functools.partial(functional.silu_s, sigma=1.702)
        return F.gelu, functools.partial(F.gelu, approximate="tanh"), quick
    if kind in PLAIN_NAMES:
        return (create_activation(kind),)
    return (getattr(F, next(name for name, of in FUNCTION_NAMES.items() if of == kind)),)


# --- the caller's request ---


class Request:
    """Hold what the caller wants replaced: factories, by class of module and by kind.

    Args:
        mapping, sigma, learnable, save: as in `replace_activations`.
        model: the network, in which a class that is given by name is looked up.

    Raises:
        ValueError, TypeError: as in `replace_activations`.
    """

    def __init__(
        self,
        mapping: Mapping[Key, Target] | Target,
        sigma: float,
        learnable: bool,
        save: str,
        model: nn.Module,
    ) -> None:
        if not isinstance(mapping, Mapping):
            mapping = dict.fromkeys(REPLACED_BY_DEFAULT, mapping)
        sigma = check_sigma(sigma)
        self._by_class: dict[type, Factory] = {}
        self._by_class_name: dict[str, Factory] = {}
        self._by_kind: dict[str, Factory] = {}
        for key, target in mapping.items():
            table, entry = self._table(key, model)
            table[entry] = _factory(target, sigma, learnable, save)

    def _table(self, key: Key, model: nn.Module) -> tuple[dict[Any, Factory], Key]:
        """Return the table that a key belongs to, and the key as it is written there."""
        if not isinstance(key, str):
            if not (isinstance(key, type) and issubclass(key, nn.Module)):
                raise TypeError(f"an activation is a name or a class of modules, not {key!r}")
            return (self._by_kind, CLASSES[key]) if key in CLASSES else (self._by_class, key)
        if key.lower() in _BY_LOWER:
            return self._by_kind, _BY_LOWER[key.lower()]
        if any(type(module).__name__ == key for module in model.modules()):
            return self._by_class_name, key
        raise ValueError(
            f"unknown activation {key!r}, and no module's class is called so; "
            f"{did_you_mean(key, _BY_LOWER)}known: {', '.join(KINDS)}"
        )

    def for_module(self, module: nn.Module, kind: str | None) -> Factory | None:
        """Return the factory for a module, of that kind if it is an activation."""
        for base in type(module).__mro__:
            if base in self._by_class:
                return self._by_class[base]
        named = self._by_class_name.get(type(module).__name__)
        # A Hardtanh from 0 to 6 is a ReLU6, and also what the name Hardtanh asks for.
        hardtanh = "Hardtanh" if type(module) is nn.Hardtanh else None
        return named or self.for_kind(kind) or self.for_kind(hardtanh)

    def for_call(self, function: Function, kind: str, function_kind: str | None) -> Factory | None:
        """Return the factory for a call that is of `function_kind` by its function and numbers."""
        factory = self.for_kind(kind)
        if factory is None and kind == function_kind:
            return self.for_kind(FUNCTIONS.get(function))
        return factory

    def for_kind(self, kind: str | None) -> Factory | None:
        """Return the factory for a kind, or None if it is not to be replaced."""
        return self._by_kind.get(kind) if kind else None

    def __str__(self) -> str:
        classes = [base.__name__ for base in self._by_class]
        names = [*classes, *self._by_class_name, *self._by_kind]
        if set(names) == set(REPLACED_BY_DEFAULT):
            return "activation (gates aside)"
        return " or ".join(names)


def _factory(target: Target, sigma: float, learnable: bool, save: str) -> Factory:
    if isinstance(target, nn.Module):
        raise TypeError(
            f"{target} is one module, which all sites would share: give its class, a name, or a "
            "function without arguments that makes a new one"
        )
    if isinstance(target, str):
        make_one = functools.partial(create_activation, target, sigma, learnable, save=save)
        make_one()  # raises for an unknown name, a wrong sigma, or a `save` that it has not
        return make_one
    if not callable(target):
        raise TypeError(f"{target!r} is no name of an activation, and makes none when called")
    make: Callable[..., Any] = target
    if isinstance(target, type) and issubclass(target, SigmaModule):
        return functools.partial(make, sigma, learnable, save=save)
    if learnable or sigma != 1 or save != "input":
        raise ValueError(
            f"sigma, learnable and save are for the activations of zilu; {target!r} is called "
            "without arguments: functools.partial can bind them"
        )
    if is_function_of_a_tensor(target):
        return functools.partial(FunctionActivation, make, function_name(make))
    return make
