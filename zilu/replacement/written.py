"""Recognise activations that a network writes out in operations, by the values that they give.

x * (x > 0), torch.maximum(x, zeros) and x - x.clamp(max=0) are all ReLU. So a recorder follows the
operations that work element by element. For each tensor that was computed from one other tensor
and numbers, it keeps the values of that function on fixed points, and compares them to those of
the known activations. It also keeps whether the network's input led to a tensor, and a gradient
would go back: a bound on anything else (positions, lengths, weights) is no activation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakIdKeyDictionary, WeakIdRef

from zilu import functional
from zilu.replacement.kinds import FUNCTION_NAMES, Function, function_name

# The far ones tell an activation from one with an upper bound; exp(300) ** 2 is still finite.
POINTS = torch.cat((torch.linspace(-8, 8, 65), torch.tensor((-300, -40, 40, 300)))).double()

_Values = Callable[[Tensor], Tensor]
# Approximations of GELU count as GELU; the numerator of a Hardsigmoid counts as one. SquarePlus is
# left out: written out, it makes the scales of distributions positive.
_KNOWN: tuple[tuple[str, _Values], ...] = (
    ("ReLU", F.relu),
    ("ReLU6", F.relu6),
    ("GELU", F.gelu),
    ("GELU", functools.partial(F.gelu, approximate="tanh")),
    ("GELU", lambda x: x * torch.sigmoid(1.702 * x)),
    ("SiLU", F.silu),
    ("Mish", F.mish),
    ("ELU", F.elu),
    ("SELU", F.selu),
    ("Hardswish", F.hardswish),
    ("ZiLU", functional.zilu),
    ("ZiLU_Approx", functional.zilu_approx),
    ("Sigmoid", torch.sigmoid),
    ("Hardsigmoid", F.hardsigmoid),
    ("Hardsigmoid", lambda x: F.relu6(x + 3)),
    ("Tanh", torch.tanh),
    ("Hardtanh", F.hardtanh),
    ("Softplus", F.softplus),
    ("Softsign", F.softsign),
)
_KNOWN_VALUES = torch.stack([values(POINTS) for _, values in _KNOWN])
# GELU and SELU are written with constants of few digits.
_TOLERANCES = torch.tensor([1e-3 if kind in ("GELU", "SELU") else 1e-5 for kind, _ in _KNOWN])

# Functions that work element by element, by their names without underscores.
_ELEMENTWISE = frozenset((
    *FUNCTION_NAMES,
    "abs", "absolute", "add", "and", "arctan", "arctan2", "atan", "atan2", "bitwise_and",
    "bitwise_not", "clamp", "clamp_max", "clamp_min", "clip", "div", "divide", "erf", "erfc",
    "exp", "expit", "expm1", "fmax", "fmin", "ge", "greater", "greater_equal", "gt",
    "heaviside", "hypot", "iadd", "idiv", "imul", "invert", "isub", "itruediv", "le", "less",
    "less_equal", "log", "log1p", "log_sigmoid", "logical_and", "logical_not", "logsigmoid",
    "lt", "masked_fill", "max", "maximum", "min", "minimum", "mul", "multiply", "ne", "neg",
    "negative", "pow", "radd", "rdiv", "reciprocal", "rmul", "rpow", "rsqrt", "rsub",
    "rtruediv", "setitem", "sgn", "sign", "special_erf", "special_erfc", "special_expit",
    "special_expm1", "special_log1p", "sqrt", "square", "sub", "subtract", "threshold",
    "true_divide", "truediv", "where",
))  # fmt: skip
_CASTS = frozenset((
    "alias", "bfloat16", "clone", "contiguous", "detach", "double", "float", "half", "to",
    "type", "type_as",
))  # fmt: skip
# Their results give no gradient, nor do whole numbers.
_WITHOUT_GRADIENT = frozenset(("ceil", "detach", "floor", "round", "sign", "trunc"))
_MOST_SOURCES = 8  # of one tensor; written-out activations take fewer steps

# What led to a tensor: the network's input; something that gradients are for, which are weights and
# inputs of real numbers.
INPUT, GRADIENT = 1, 2


class Recorded(Protocol):
    """Describe a recorded call of an activation."""

    kind: str
    problem: str | None


@dataclass(eq=False)
class _Source:
    """Stand for a tensor as it was at one time: in-place operations make it another source."""

    tensor: WeakIdRef
    version: int


@dataclass(eq=False)
class _Known:
    """Hold what is known of a tensor.

    Attributes:
        source: the tensor itself.
        values: its values as a function of each source that it was computed from, on POINTS.
        calls: for each source, the activations recorded on the way from it.
    """

    source: _Source
    values: dict[_Source, Tensor] = field(default_factory=dict)
    calls: dict[_Source, list[Recorded]] = field(default_factory=dict)


@dataclass(eq=False)
class Step:
    """Hold what one call of a function gives, before it runs.

    Attributes:
        values, calls: as in `_Known`, of the result.
        led: which of INPUT and GRADIENT led to its arguments.
        kind: the activation that the result is, as a function of `source`.
        own_kind: the activation that it is as a function of the first tensor among the arguments.
    """

    values: dict[_Source, Tensor]
    calls: dict[_Source, list[Recorded]]
    led: int
    kind: str | None = None
    source: _Source | None = None
    own_kind: str | None = None

    @property
    def inner(self) -> list[Recorded]:
        """Return the activations recorded between the source and the result."""
        return self.calls.get(self.source, []) if self.source else []

    def source_tensor(self) -> Tensor | None:
        """Return the tensor that `source` stands for, if it is still as it was."""
        tensor = self.source.tensor() if self.source else None
        same = tensor is not None and self.source and _version(tensor) == self.source.version
        return tensor if same else None

    def record(self, call: Recorded) -> None:
        """Keep that a call was recorded for this step, to find it again in later ones."""
        for source in self.values:
            self.calls[source] = [*self.calls.get(source, ()), call]


class Written:
    """Follow the tensors of one run of a network.

    Args:
        parameters: the network's parameters.
        inputs: what it is run on.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], inputs: Any) -> None:
        self._known: WeakIdKeyDictionary = WeakIdKeyDictionary()  # by tensor, what is known of it
        self._led: WeakIdKeyDictionary = WeakIdKeyDictionary()  # by tensor, what led to it
        for parameter in parameters:
            self._led[parameter] = GRADIENT
        tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
        for tensor in tensors:
            self._led[tensor] = INPUT | GRADIENT if tensor.is_floating_point() else INPUT
        self._needed = INPUT | GRADIENT if tensors else GRADIENT

    def step(self, function: Function, args: Sequence[Any], kwargs: dict[str, Any]) -> Step:
        """Look at a call before it runs."""
        name = function_name(function).strip("_")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        led = functools.reduce(int.__or__, map(self._led_to, tensors), 0)
        if name in _WITHOUT_GRADIENT:
            led &= ~GRADIENT
        elif name.endswith("_like") or name.startswith("new_"):
            led = 0
        step = Step({}, {}, led)
        if _is_elementwise(name, args, tensors) and "out" not in kwargs:
            known = [self._known_of(tensor) for tensor in tensors]
            for source in dict.fromkeys(s for each in known for s in (*each.values, each.source)):
                self._add_values(step, source, function, name, args, kwargs)
            step.kind, step.source = _completed(step.values, known)
            if known[0].source in step.values:
                step.own_kind = _kind_of(step.values[known[0].source])
        return step

    def is_feature(self, led: int) -> bool:
        """Return whether input and gradient led to a tensor."""
        return led & self._needed == self._needed

    def finish(self, step: Step, results: Any) -> None:
        """Keep what a step says of its result, once it has run."""
        for result in tree_leaves(results):
            if isinstance(result, Tensor):
                whole = not (result.is_floating_point() or result.is_complex())
                self._led[result] = step.led & ~GRADIENT if whole else step.led
                if step.values and (result.is_floating_point() or result.dtype == torch.bool):
                    kept = list(step.values)[-_MOST_SOURCES:]
                    values = {source: step.values[source] for source in kept}
                    calls = {source: step.calls[source] for source in kept}
                    self._known[result] = _Known(_source_of(result), values, calls)

    def _led_to(self, tensor: Tensor) -> int:
        led: int | None = self._led.get(tensor)
        if led is None:  # from where no function is seen; vmap and grad give the inner function
            inside = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
            led = INPUT | GRADIENT if inside or tensor.requires_grad else 0
        return led

    def _known_of(self, tensor: Tensor) -> _Known:
        known: _Known | None = self._known.get(tensor)
        if known is None or known.source.version != _version(tensor):
            known = self._known[tensor] = _Known(_source_of(tensor))
        return known

    def _add_values(
        self,
        step: Step,
        source: _Source,
        function: Function,
        name: str,
        args: Sequence[Any],
        kwargs: dict[str, Any],
    ) -> None:
        """Compute the result as a function of `source`, if it is one."""
        calls: list[Recorded] = []

        def values_of(tensor: Tensor) -> Tensor:
            known = self._known_of(tensor)
            if known.source is source:
                return POINTS.clone()
            if source in known.values:
                calls.extend(known.calls.get(source, ()))
                return known.values[source].clone()
            if self._led_to(tensor):
                raise _NoFunctionError
            return _number(tensor)

        try:
            args, kwargs = tree_map_only(Tensor, values_of, (args, kwargs))
            if name in _CASTS:
                values = args[0].double()
            elif name == "setitem":
                function(*args)
                values = args[0]
            else:
                values = function(*args, **kwargs)
        except Exception:  # another tensor matters, or the operation does not take such arguments
            return
        if isinstance(values, Tensor) and values.shape == POINTS.shape:
            step.values[source] = values
            step.calls[source] = list(dict.fromkeys(calls))


class _NoFunctionError(Exception):
    """Say that a result depends on more than the source and numbers."""


def rectifies(x: Any) -> bool:
    """Return whether setting what is below 0 to 0 changes a tensor by more than rounding errors.

    A tensor whose values cannot be read may hold any.
    """
    try:
        return not bool(x.min() >= -1e-5 * x.abs().max())
    except Exception:  # torch has no common error for fake, nested and vmapped tensors
        return True


def _is_elementwise(name: str, args: Sequence[Any], tensors: list[Tensor]) -> bool:
    if not tensors:
        return False
    if name in ("max", "min"):  # with one tensor, they reduce it
        return len(tensors) == 2 and len(args) == 2
    return name in _ELEMENTWISE or name in _CASTS


def _completed(
    values: dict[_Source, Tensor], arguments: list[_Known]
) -> tuple[str | None, _Source | None]:
    """Return the activation that a result is and no argument was, by the longest way to one."""
    for source, of_source in values.items():
        kind = _kind_of(of_source)
        before = [known.values[source] for known in arguments if source in known.values]
        if kind and all(_kind_of(each) != kind for each in before):
            return kind, source
    return None, None


def _kind_of(values: Tensor) -> str | None:
    if not values.is_floating_point():
        return None
    values = values.double()
    near = (_KNOWN_VALUES - values).abs().amax(1) < _TOLERANCES
    if near.any():
        return _KNOWN[int(near.int().argmax())][0]
    slope = float(values[0] / POINTS[0])
    leaky = torch.where(POINTS < 0, slope * POINTS, POINTS)
    return "LeakyReLU" if 0 < slope < 0.9 and torch.allclose(values, leaky) else None


def _number(tensor: Tensor) -> Tensor:
    """Return the number that all elements of a tensor are."""
    first = tensor.detach().flatten()[0]
    if not bool((tensor == first).all()):
        raise _NoFunctionError
    kept = first.cpu()
    return kept.double() if kept.is_floating_point() else kept


def _source_of(tensor: Tensor) -> _Source:
    return _Source(WeakIdRef(tensor), _version(tensor))


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
