"""The activations that a network calls as functions, seen while it runs."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.utils.parametrize import ParametrizationList
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary, WeakIdRef

from zilu.replacement.kinds import (
    FUNCTIONS,
    OPERATORS,
    function_name,
    is_activation_function,
    kind_of_module,
    works_in_place,
)
from zilu.replacement.slots import walk
from zilu.replacement.stand_in import StandIn

_ERFS = frozenset((torch.erf, Tensor.erf, Tensor.erf_, torch.special.erf))
_PRODUCTS = frozenset((torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__))
_SUMS = frozenset((torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__))
# Between a call and the line of code that makes it.
_WAYS = (
    "zilu.replacement.", "torch.overrides", "torch.nn.functional", "torch._tensor", "torch._ops",
    "torch._dynamo.", "torch._compile", "torch.utils._python_dispatch", "torch.jit.",
)  # fmt: skip
# They ask for what a tensor is, not for its values.
_QUESTIONS = frozenset(("size", "dim", "numel", "stride", "is_contiguous"))
_ATTRIBUTES = frozenset(("shape", "dtype", "device", "ndim", "layout", "requires_grad", "is_cuda"))


@dataclass(eq=False)
class Call:
    """One call of an activation function."""

    kind: str
    function: Callable
    options: tuple[tuple, dict[str, Any]]  # its arguments besides the input
    owner: nn.Module | None  # the innermost module of the network whose forward was running
    place: tuple  # where in the code: equal for the same lines reached the same way
    source: str  # "torchvision.models.densenet:216"
    problem: str | None  # why it cannot be replaced
    seen_as: str | None  # the kind that a mode takes the function for; None: it takes it for none
    attribute: tuple[nn.Module, str] | None  # that held the function: self.activation(x)
    writes_back: bool = False  # works in place, and its input's memory is read later


@dataclass
class Observation:
    """The activations of one run."""

    output: Any = None
    calls: list[Call] = field(default_factory=list)
    runs: Counter[nn.Module] = field(default_factory=Counter)  # how often a module was called
    # The calls that a module's forward made itself, for each of its runs.
    sequences: dict[nn.Module | None, list[list[Call]]] = field(default_factory=dict)

    def calls_of(self, owner: nn.Module) -> list[Call]:
        return [call for run in self.sequences.get(owner, ()) for call in run]


class Observer(TorchFunctionMode):
    """Sees every call of a torch function; keeps those that are activations."""

    def __init__(self, model: nn.Module, training: bool, marking: bool):
        super().__init__()
        self.found = Observation()
        self._modules = {model, *(slot.module for slot in walk(model))}
        # Functions that are attributes; marking puts others in their place, which a network may
        # notice (self.activation is F.relu).
        self._marking = marking
        self.held = [
            (module, name, value)
            for module in self._modules
            for name, value in vars(module).items()
            if is_activation_function(value)
        ]
        self._activations = {
            module
            for module in self._modules
            if isinstance(module, StandIn) or kind_of_module(module)
        }
        for module in self._modules:
            if isinstance(module, StandIn):
                module.start(training)
        self._running: list[nn.Module] = []  # activations, from the outermost in
        self._explained = False  # whether what operators now run is known
        self._latest: dict[nn.Module | None, FrameType | None] = {}
        self._in_place = _InPlaceCalls()
        self._attribute: tuple[nn.Module, str] | None = None  # whose call is under way
        self._with_options: set[tuple[nn.Module, str]] = set()
        # Results, and what they were made of: sigmoid(x), 1.702 * x, x + 3.
        self._sigmoids, self._scaled, self._shifted = (WeakIdKeyDictionary() for _ in range(3))

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not _is_question(function):
            self._in_place.note_uses((args, kwargs))
        call = self._call(function, args, kwargs)
        result = self._run(function, args, kwargs, call is not None)
        self._note_origin(function, args, kwargs, result)
        if call and call.problem is None and works_in_place(function, args, kwargs):
            return self._in_place.watched(call, result)
        return result

    def _run(self, function, args: tuple, kwargs: dict, explained: bool):
        before, self._explained = self._explained, self._explained or explained
        try:
            return function(*args, **kwargs)
        finally:
            self._explained = before

    @contextlib.contextmanager
    def looking_on(self) -> Iterator[None]:
        """While the network runs: sees calls and operators, counts modules' runs, and marks the
        functions that are attributes."""
        held = self.held if self._marking else ()
        hooks = nn.modules.module
        handles = [
            hooks.register_module_forward_pre_hook(self._before_module),
            hooks.register_module_forward_hook(self._after_module),
        ]
        try:
            for module, name, function in held:
                vars(module)[name] = self._marked(module, name, function)
            with _Operators(self), self:
                yield
        finally:
            for handle in handles:
                handle.remove()
            for module, name, function in held:
                vars(module)[name] = function

    def finish(self, output) -> None:
        self._in_place.note_uses(list(tensors_in(output)))
        self._latest.clear()
        for call in self.found.calls:
            if call.attribute in self._with_options:  # which no module takes
                call.attribute = None
        self.found.output = output

    # --- what runs ---

    def _before_module(self, module: nn.Module, _inputs) -> None:
        self.found.runs[module] += 1
        if module in self._activations:
            self._running.append(module)

    def _after_module(self, module: nn.Module, _inputs, _output) -> None:
        if module in self._activations:
            self._running.pop()

    def _marked(self, module: nn.Module, name: str, function):
        @functools.wraps(function)
        def marked(*args, **kwargs):
            self._attribute = module, name
            if len(args) != 1 or kwargs:
                self._with_options.add(self._attribute)
            try:
                return function(*args, **kwargs)
            finally:
                self._attribute = None

        return marked

    def note_operator(self, operator: str) -> None:
        """An operator that is an activation, and that no function was seen to call."""
        if not self._explained and not self._running:
            problem = "runs where no function is seen: in TorchScript, in torch's RNN, ..."
            self._add(OPERATORS[operator], getattr(torch.ops.aten, operator), (), {}, problem, None)

    # --- what a call is ---

    def _call(self, function, args: tuple, kwargs: dict) -> Call | None:
        """The activation that this is a call of, if it is one."""
        kind = FUNCTIONS.get(function)
        # torch's module of ReLU6 is a Hardtanh from 0 to 6.
        if kind in ("ReLU6", "Hardtanh") and _first(args, kwargs) in self._shifted:
            gate = "relu6(x + 3), written out: part of a gate"
            return self._add("Hardsigmoid", function, args, kwargs, gate, kind)
        if kind:
            problem = "writes to a given tensor (out=)" if "out" in kwargs else None
            return self._add(kind, function, args, kwargs, problem, kind)
        if function in _ERFS:
            written = "erf: GELU, it seems, written out in operations"
            return self._add("GELU", function, args, kwargs, written, None)
        if function in _PRODUCTS and self._is_silu(args):
            # With a factor as QuickGELU has it, or without.
            written = "x * sigmoid(x), written out in operations"
            return self._add("SiLU", function, args, kwargs, written, None)
        return None

    def _note_origin(self, function, args: tuple, kwargs: dict, result) -> None:
        x = _first(args, kwargs)
        if not isinstance(x, Tensor) or not isinstance(result, Tensor) or result is x:
            return
        number = len(args) > 1 and isinstance(args[1], int | float)
        if FUNCTIONS.get(function) == "Sigmoid":
            self._sigmoids[result] = self._scaled.get(x, WeakIdRef(x))
        elif function in _PRODUCTS and number:
            self._scaled[result] = WeakIdRef(x)
        elif function in _SUMS and number and args[1] == 3:
            self._shifted[result] = WeakIdRef(x)

    def _is_silu(self, args: tuple) -> bool:
        return len(args) == 2 and any(
            isinstance(b, Tensor) and b in self._sigmoids and self._sigmoids[b]() is a
            for a, b in (args, args[::-1])
        )

    # --- where it is made ---

    def _add(self, kind, function, args, kwargs, problem, seen_as) -> Call | None:
        frames = list(_frames())
        source = f"{frames[0].f_globals.get('__name__')}:{frames[0].f_lineno}"
        owner, running, within = self._owner(frames)
        if isinstance(owner, ParametrizationList):  # a function of weights
            return None
        if owner is None:
            problem = problem or "is not inside a module's forward"
        call = Call(
            kind=kind,
            function=function,
            options=(
                args[1:],
                {k: value for k, value in kwargs.items() if k not in ("input", "self")},
            ),
            owner=owner,
            place=tuple((frame.f_code, frame.f_lasti) for frame in frames[: within + 1]),
            source=source,
            problem=problem or _problem_of(owner, frames[:within]),
            seen_as=seen_as,
            attribute=self._attribute,
        )
        self.found.calls.append(call)
        runs = self.found.sequences.setdefault(owner, [])
        if not runs or self._latest.get(owner) is not running:
            self._latest[owner] = running
            runs.append([])
        runs[-1].append(call)
        return call

    def _owner(self, frames: list[FrameType]) -> tuple[nn.Module | None, FrameType | None, int]:
        """The innermost module whose forward is running; the frame of that run, which is the
        outermost where forward has called its base class's; and the number of the innermost one."""
        within = next((i for i, frame in enumerate(frames) if self._module_of(frame)), None)
        if within is None:
            return None, None, len(frames) - 1
        owner, running = self._module_of(frames[within]), frames[within]
        for frame in frames[within + 1 :]:
            if frame.f_code.co_name == "_call_impl" or self._module_of(frame) not in (None, owner):
                break
            if self._module_of(frame) is owner:
                running = frame
        return owner, running, within

    def _module_of(self, frame: FrameType) -> nn.Module | None:
        """The module of the network whose forward a frame is."""
        own = _first_argument(frame)
        return own if isinstance(own, nn.Module) and own in self._modules else None


class _Operators(TorchDispatchMode):
    supports_higher_order_operators = True

    def __init__(self, observer: Observer):
        super().__init__()
        self._observer = observer

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        packet = getattr(function, "overloadpacket", None)
        if packet is not None and packet.__name__ in OPERATORS:
            self._observer.note_operator(packet.__name__)
        return function(*args, **(kwargs or {}))


def _problem_of(owner: nn.Module | None, frames: list[FrameType]) -> str | None:
    """Why a call inside `owner` cannot be replaced, by the frames between."""
    names = [frame.f_globals.get("__name__") for frame in frames]
    if "torch.utils.checkpoint" in names:
        return "is run again in backward, by activation checkpointing"
    if any(isinstance(_first_argument(frame), FunctionCtx) for frame in frames):
        return "is inside an autograd.Function, which has a backward of its own"
    if isinstance(owner, torch.fx.GraphModule):
        return "is a node of a torch.fx graph, from which the code is made anew"
    return None


def _first_argument(frame: FrameType):
    """Of a forward, else None."""
    code = frame.f_code
    if code.co_name != "forward" or not code.co_argcount:
        return None
    return frame.f_locals.get(code.co_varnames[0])


def _frames() -> Iterator[FrameType]:
    """From the line of code that calls a function outwards."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(_WAYS):
        frame = frame.f_back
    while frame:
        yield frame
        frame = frame.f_back


def _first(args: tuple, kwargs: dict):
    return args[0] if args else kwargs.get("input")


def _is_question(function) -> bool:
    name = function_name(function)
    if name == "__get__":
        return getattr(getattr(function, "__self__", None), "__name__", "") in _ATTRIBUTES
    return name in _QUESTIONS


class _InPlaceCalls:
    """Whether the memory that an in-place call has changed is read after it, by another way than
    its result: then it matters that it was changed. The result is given other memory."""

    def __init__(self):
        self._calls: dict[int, Call] = {}  # by the address of the changed memory
        self._kept: list[Tensor] = []  # so that no address is used again

    def watched(self, call: Call, result: Tensor) -> Tensor:
        self._calls[_address(result)] = call
        self._kept.append(result)
        return result.clone()

    def note_uses(self, values) -> None:
        if self._calls:
            for value in tree_leaves(values):
                if isinstance(value, Tensor) and _address(value) in self._calls:
                    self._calls[_address(value)].writes_back = True


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def tensors_in(value, depth: int = 0) -> Iterator[Tensor]:
    """Of an output, whatever it is: containers, dataclasses, objects with attributes."""
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            yield leaf
        elif depth < 4 and hasattr(leaf, "__dict__") and not isinstance(leaf, nn.Module | type):
            yield from tensors_in(dict(vars(leaf)), depth + 1)
