"""Watch a network while it runs, and record its calls of activation functions."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.utils.parametrize import ParametrizationList
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zilu.replacement.kinds import (
    BOUNDING,
    GATES,
    OPERATORS,
    OWN_FUNCTIONS,
    Function,
    function_name,
    is_activation_function,
    kind_of_call,
    kind_of_module,
    may_be_a_bound,
    works_in_place,
)
from zilu.replacement.written import Step, Written, rectifies

Args: TypeAlias = tuple[Any, ...]
Kwargs: TypeAlias = dict[str, Any]

_ERFS = frozenset((torch.erf, Tensor.erf, Tensor.erf_, torch.special.erf))
_BOUNDS = ("ReLU", "ReLU6", "Hardtanh")  # kinds of activations that may also be bounds on numbers
_SILU = "x * sigmoid(x), written out in operations"
_GATE = "relu6(x + 3), written out: part of a gate"
# Modules whose frames lie between a call and the line of code that makes it.
_BETWEEN = (
    "zilu.replacement.", "zilu.functional", "torch.overrides", "torch.nn.functional",
    "torch._tensor", "torch._ops", "torch._dynamo.", "torch._compile",
    "torch.utils._python_dispatch", "torch.jit.",
)  # fmt: skip
# Methods and attributes that tell what a tensor is, without reading its values.
_PROPERTIES = frozenset(("size", "dim", "numel", "stride", "is_contiguous"))
_ATTRIBUTES = frozenset(("shape", "dtype", "device", "ndim", "layout", "requires_grad", "is_cuda"))


@dataclass(eq=False)
class Call:
    """Describe one call of an activation function.

    Attributes:
        kind: the kind of activation.
        function: the function called.
        args, kwargs: its arguments besides the input.
        owner: the innermost module of the network whose forward was running.
        location: where in the code it is made: equal for the same lines reached in the same way.
        source: the line of code: "torchvision.models.densenet:216".
        problem: why it cannot be replaced.
        function_kind: the kind that kind_of_call gives the function; None if it has none.
        attribute: the module and the name of its attribute that is the function: self.activation.
        writes_back: it works in place, and its input's memory is read later.
        bound: why it is taken for a bound on numbers, not for an activation.
    """

    kind: str
    function: Function
    args: Args
    kwargs: Kwargs
    owner: nn.Module | None
    location: tuple[Any, ...]
    source: str
    problem: str | None
    function_kind: str | None
    attribute: tuple[nn.Module, str] | None
    writes_back: bool = False
    bound: str | None = None


@dataclass
class Observation:
    """Hold what one run of the network showed.

    Attributes:
        output: the network's output.
        calls: the calls of activation functions.
        runs: how often each module was called.
        calls_by_run: the calls that a module's forward made itself, for each of its runs.
    """

    output: Any = None
    calls: list[Call] = field(default_factory=list)
    runs: Counter[nn.Module] = field(default_factory=Counter)
    calls_by_run: dict[nn.Module | None, list[list[Call]]] = field(default_factory=dict)

    def calls_of(self, owner: nn.Module) -> list[Call]:
        """Return the calls that a module's forward made itself."""
        return [call for run in self.calls_by_run.get(owner, ()) for call in run]


# Observations of the network in training (True) and in evaluation (False).
Observations: TypeAlias = dict[bool, Observation]


class StandIn(nn.Module):
    """Compute what an activation computed before, where a new module will go, and count the runs.

    Args:
        old: a function of the input and of whether the network is in training.
    """

    def __init__(self, old: Function) -> None:
        super().__init__()
        self.runs: Counter[bool] = Counter()  # in training (True) and in evaluation (False)
        self._old = old
        self._network_trains = False

    def start(self, training: bool) -> None:
        """Prepare for a run of the network in training or in evaluation."""
        self._network_trains = training
        self.runs[training] = 0

    def forward(self, input: Tensor) -> Tensor:
        self.runs[self._network_trains] += 1
        with torch._C.DisableTorchFunction():  # its own calls do not count as the network's
            y: Tensor = self._old(input.clone(), self._network_trains)
            return y


class Observer(TorchFunctionMode):
    """See every call of a torch function, and record those that are activations.

    Args:
        modules: all modules of the network.
        training: the network runs in training, not in evaluation.
        marking: wrap functions that are attributes, to record through which attribute they are
            called. A network may notice that (self.activation is F.relu).
        inputs: what the network is run on.
    """

    def __init__(self, modules: set[nn.Module], training: bool, marking: bool, inputs: Any) -> None:
        super().__init__()
        self.observation = Observation()
        self._modules = modules
        self._marking = marking
        # Functions that are attributes: the module, the attribute's name, the function.
        self.held: list[tuple[nn.Module, str, Function]] = [
            (module, name, value)
            for module in modules
            for name, value in vars(module).items()
            if is_activation_function(value)
        ]
        self._activations: set[nn.Module] = set()
        for module in modules:
            if isinstance(module, StandIn):
                module.start(training)
            if isinstance(module, StandIn) or kind_of_module(module):
                self._activations.add(module)
        self._running: list[nn.Module] = []  # activation modules, outermost first
        self._explained = False  # the operators that run now belong to a recorded call
        self._latest: dict[nn.Module | None, FrameType | None] = {}  # the latest run of a forward
        self._in_place = _InPlaceCalls()
        self._attribute: tuple[nn.Module, str] | None = None  # the one that is being called
        self._with_options: set[tuple[nn.Module, str]] = set()
        self._written = Written((p for module in modules for p in module.parameters(False)), inputs)

    def __torch_function__(
        self, function: Function, types: Any, args: Args = (), kwargs: Kwargs | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if _reads_no_values(function):
            return function(*args, **kwargs)
        self._in_place.record_uses((args, kwargs))
        step = self._look_at(function, args, kwargs)
        call = self._recognise(function, args, kwargs, step)
        result = self._run(function, args, kwargs, call is not None)
        seen = result
        if call and call.problem is None and works_in_place(function, args, kwargs):
            seen = self._in_place.watch(call, result)
        changed = args[0] if function is Tensor.__setitem__ else None
        self._written.finish(step, (result, seen, changed))
        return seen

    def _look_at(self, function: Function, args: Args, kwargs: Kwargs) -> Step:
        before, self._explained = self._explained, True  # the operators that it runs are its own
        try:
            return self._written.step(function, args, kwargs)
        finally:
            self._explained = before

    def _run(self, function: Function, args: Args, kwargs: Kwargs, explained: bool) -> Any:
        before, self._explained = self._explained, self._explained or explained
        try:
            return function(*args, **kwargs)
        finally:
            self._explained = before

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Observe while the network runs: see calls and operators, and count modules' runs."""
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

    def finish(self, output: Any) -> None:
        """Complete the observation with the network's output."""
        self._in_place.record_uses(list(tensors_in(output)))
        self._latest.clear()
        for call in self.observation.calls:
            if call.attribute in self._with_options:  # a module there could not take the options
                call.attribute = None
        self.observation.output = output

    # --- what runs ---

    def _before_module(self, module: nn.Module, _inputs: Any) -> None:
        self.observation.runs[module] += 1
        if module in self._activations:
            self._running.append(module)

    def _after_module(self, module: nn.Module, _inputs: Any, _output: Any) -> None:
        if module in self._activations:
            self._running.pop()

    def _marked(self, module: nn.Module, name: str, function: Function) -> Function:
        @functools.wraps(function)
        def marked(*args: Any, **kwargs: Any) -> Any:
            self._attribute = module, name
            if len(args) != 1 or kwargs:
                self._with_options.add(self._attribute)
            try:
                return function(*args, **kwargs)
            finally:
                self._attribute = None

        return marked

    def record_operator(self, operator: str) -> None:
        """Record an operator that is an activation, unless a recorded call or a module runs it."""
        if not self._explained and not self._running:
            problem = "runs where no function is seen: in TorchScript, in torch's RNN, ..."
            self._add(OPERATORS[operator], getattr(torch.ops.aten, operator), (), {}, problem, None)

    # --- recognising activations ---

    def _recognise(self, function: Function, args: Args, kwargs: Kwargs, step: Step) -> Call | None:
        """Record a call and return it if it is one of an activation, else return None."""
        kind = kind_of_call(function, args, kwargs)
        if kind is None:
            return self._recognise_written(function, args, kwargs, step)
        problem = "writes to a given tensor (out=)" if "out" in kwargs else None
        known = (kind, step.own_kind, *(part.kind for part in step.inner))
        if step.kind is None or step.kind in known:
            call = self._add(kind, function, args, kwargs, problem, kind)
        else:  # it is the last operation of another activation
            problem = _GATE if step.kind == "Hardsigmoid" else _written_out(step.kind)
            call = self._add(step.kind, function, args, kwargs, problem, kind)
        if call and call.kind in _BOUNDS and may_be_a_bound(function):
            call.bound = self._bound(step.led, _first(args, kwargs))
        return self._recorded(call, step)

    def _recognise_written(
        self, function: Function, args: Args, kwargs: Kwargs, step: Step
    ) -> Call | None:
        """Record a call that completes an activation, written out in operations."""
        if function in OWN_FUNCTIONS:
            problem = "is a call of zilu.functional, which torch.compile would not show"
            return self._add(OWN_FUNCTIONS[function], function, args, kwargs, problem, None)
        itself = step.kind is not None and step.kind == step.own_kind
        if itself and function in BOUNDING and _has_numbers_alone(args, kwargs):
            return None  # its numbers say that it is none
        kind, problem = step.kind, _SILU if step.kind == "SiLU" else _written_out(step.kind)
        if kind is None and function in _ERFS:
            kind, problem = "GELU", "erf: GELU, it seems, written out in operations"
        if kind is None or kind in {call.kind for call in step.inner}:
            return None
        call = self._add(kind, function, args, kwargs, problem, None)
        if call:
            if kind in _BOUNDS:
                call.bound = self._bound(step.led, step.source_tensor())
            for part in step.inner:
                if part.kind not in GATES:
                    part.kind, part.problem = kind, problem
        return self._recorded(call, step)

    def _recorded(self, call: Call | None, step: Step) -> Call | None:
        if call:
            step.record(call)
        return call

    def _bound(self, led: int, x: Any) -> str | None:
        """Return why a call that rectifies x is a bound on numbers, if it is one."""
        if not self._written.is_feature(led):
            return "no activation: no input leads to it, or no gradient"
        return None if rectifies(x) else "no activation: nothing that it got was below 0"

    # --- where a call is made ---

    def _add(
        self,
        kind: str,
        function: Function,
        args: Args,
        kwargs: Kwargs,
        problem: str | None,
        function_kind: str | None,
    ) -> Call | None:
        """Record a call and return it; None for a call in a function of weights."""
        frames = list(_frames())
        owner, running, within = self._owner(frames)
        if isinstance(owner, ParametrizationList):
            return None
        if owner is None:
            problem = problem or "is not inside a module's forward"
        call = Call(
            kind=kind,
            function=function,
            args=args[1:],
            kwargs={k: value for k, value in kwargs.items() if k not in ("input", "self")},
            owner=owner,
            location=tuple((frame.f_code, frame.f_lasti) for frame in frames[: within + 1]),
            source=f"{frames[0].f_globals.get('__name__')}:{frames[0].f_lineno}",
            problem=problem or _problem_of(owner, frames[:within]),
            function_kind=function_kind,
            attribute=self._attribute,
        )
        self.observation.calls.append(call)
        runs = self.observation.calls_by_run.setdefault(owner, [])
        if not runs or self._latest.get(owner) is not running:
            self._latest[owner] = running
            runs.append([])
        runs[-1].append(call)
        return call

    def _owner(self, frames: list[FrameType]) -> tuple[nn.Module | None, FrameType | None, int]:
        """Find the module that makes a call.

        Returns:
            The innermost module whose forward is running; the frame of that run, which is the
            outermost one where forward has called its base class's; the innermost frame's number.
        """
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
        """Return the network's module whose forward a frame runs, or None."""
        first = _first_of_forward(frame)
        return first if isinstance(first, nn.Module) and first in self._modules else None


class _Operators(TorchDispatchMode):
    supports_higher_order_operators = True

    def __init__(self, observer: Observer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch gives it no types
        self._observer = observer

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Args = (), kwargs: Kwargs | None = None
    ) -> Any:
        packet = getattr(function, "overloadpacket", None)
        if packet is not None and packet.__name__ in OPERATORS:
            self._observer.record_operator(packet.__name__)
        return function(*args, **(kwargs or {}))


def _problem_of(owner: nn.Module | None, frames: list[FrameType]) -> str | None:
    """Return why a call cannot be replaced, given the frames between it and its owner's forward."""
    names = [frame.f_globals.get("__name__") for frame in frames]
    if "torch.utils.checkpoint" in names:
        return "is run again in backward, by activation checkpointing"
    if any(isinstance(_first_of_forward(frame), FunctionCtx) for frame in frames):
        return "is inside an autograd.Function, which has a backward of its own"
    if isinstance(owner, torch.fx.GraphModule):
        return "is a node of a torch.fx graph, from which the code is generated again"
    return None


def _has_numbers_alone(args: Args, kwargs: Kwargs) -> bool:
    return len([leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]) == 1


def _written_out(kind: str | None) -> str:
    return f"{kind}, written out in operations"


def _first_of_forward(frame: FrameType) -> object:
    """Return the first argument of the `forward` that a frame runs; None if it runs another one."""
    code = frame.f_code
    if code.co_name != "forward" or not code.co_argcount:
        return None
    return frame.f_locals.get(code.co_varnames[0])


def _frames() -> Iterator[FrameType]:
    """Yield the running frames, from the line of code that calls a function outwards."""
    frame: FrameType | None = sys._getframe(1)
    while frame and frame.f_back and frame.f_globals.get("__name__", "").startswith(_BETWEEN):
        frame = frame.f_back
    while frame:
        yield frame
        frame = frame.f_back


def _first(args: Args, kwargs: Kwargs) -> Any:
    return args[0] if args else kwargs.get("input")


def _reads_no_values(function: Function) -> bool:
    name = function_name(function)
    if name == "__get__":
        return getattr(getattr(function, "__self__", None), "__name__", "") in _ATTRIBUTES
    return name in _PROPERTIES


class _InPlaceCalls:
    """Record which in-place calls change memory that is later read otherwise than by the result.

    To tell the two ways of reading apart, the caller gets the result in other memory.
    """

    def __init__(self) -> None:
        self._calls: dict[int, Call] = {}  # by the address of the changed memory
        self._kept: list[Tensor] = []  # keeps the memory, so that no address is used again

    def watch(self, call: Call, result: Tensor) -> Tensor:
        """Start to watch a call's memory, and return a copy of the result."""
        self._calls[_address(result)] = call
        self._kept.append(result)
        return result.clone()

    def record_uses(self, values: Any) -> None:
        """Record that the tensors in `values` are read."""
        if self._calls:
            for value in tree_leaves(values):
                if isinstance(value, Tensor) and _address(value) in self._calls:
                    self._calls[_address(value)].writes_back = True


def _address(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


def tensors_in(value: Any, depth: int = 0) -> Iterator[Tensor]:
    """Yield the tensors of any output: of containers, dataclasses, objects with attributes."""
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            yield leaf
        elif depth < 4 and hasattr(leaf, "__dict__") and not isinstance(leaf, nn.Module | type):
            yield from tensors_in(dict(vars(leaf)), depth + 1)
