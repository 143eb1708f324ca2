"""The activations that a network calls as functions, seen while it runs."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary, WeakIdRef

from zilu.replacement.kinds import FUNCTIONS, function_name, works_in_place
from zilu.replacement.slots import walk

_ERFS = frozenset((torch.erf, Tensor.erf, Tensor.erf_, torch.special.erf))
_PRODUCTS = frozenset((torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__))
# Between a call and the line of code that makes it.
_WAYS = ("zilu.replacement.", "torch.overrides", "torch.nn.functional", "torch._tensor")
# They ask for a tensor's shape, not for its values.
_QUESTIONS = frozenset(("__get__", "size", "dim", "numel", "stride", "is_contiguous"))


@dataclass(eq=False)
class Call:
    """One call of an activation function."""

    kind: str
    function: str  # its name
    owner: nn.Module | None  # the innermost module of the network whose forward was running
    place: tuple  # where in the code: equal for the same lines reached the same way
    source: str  # "torchvision.models.densenet:216"
    problem: str | None = None  # why it cannot be replaced
    attribute: str | None = None  # of the owner, if the function is one: self.activation(x)
    written_out: bool = False  # an activation in operations: the function is one of those
    writes_back: bool = False  # works in place, and its input is read later


@dataclass
class Observation:
    """The activations of one run."""

    calls: list[Call] = field(default_factory=list)
    runs: Counter[nn.Module] = field(default_factory=Counter)  # how often a module was called
    # Of each module, those that its forward made itself, in the longest of its runs.
    sequences: dict[nn.Module | None, list[Call]] = field(default_factory=dict)


def observe(model: nn.Module, example_input) -> tuple[dict[bool, Observation], tuple[str, ...]]:
    """Run a network as it is, and once more in the other mode of training and evaluation.

    BatchNorm stays in evaluation, so that no batch is too small. Buffers, modes and random states
    are put back.

    Args:
        example_input: a tensor, a tuple of arguments, or a mapping of keyword arguments.

    Returns:
        What was seen, by mode (True: training); notes on a mode that could not be run.

    Raises:
        Exception: whatever the network raises in the mode that it is in.
    """
    first = model.training
    with _put_back(model):
        found = {first: _run(model, example_input, first)}
        try:
            found[not first] = _run(model, example_input, not first)
        except Exception as error:
            mode = "evaluation" if first else "training"
            reason = " ".join(str(error).split())[:200]
            return found, (f"in {mode} mode example_input could not be run: {reason}",)
    return found, ()


@contextlib.contextmanager
def _put_back(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with torch.random.fork_rng({p.device for p in model.parameters() if p.is_cuda}):
            yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def _run(model: nn.Module, example_input, training: bool) -> Observation:
    if training != model.training:
        model.train(training)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    observer = _Observer(model)
    # Compiled code has no frames to look at; checkpointing is at work where there are gradients.
    with torch.compiler.set_stance("force_eager"), torch.set_grad_enabled(training):
        with observer.looking_on(), observer:
            output = _output(model, example_input)
        return observer.finished(output)


def _output(model: nn.Module, example_input):
    if isinstance(example_input, Mapping):
        return model(**example_input)
    if isinstance(example_input, tuple | list):
        return model(*example_input)
    return model(example_input)


class _Observer(TorchFunctionMode):
    """Sees every call of a torch function; keeps those that are activations."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self._modules = {model, *(slot.module for slot in walk(model))}
        self._found = Observation()
        self._latest: dict[nn.Module | None, tuple[FrameType | None, list[Call]]] = {}
        self._in_place = _InPlaceResults()
        self._sigmoids = WeakIdKeyDictionary()  # results, and what they are the sigmoids of
        self._attribute: tuple[nn.Module, str] | None = None  # whose call is under way
        self._with_options: set[tuple[nn.Module | None, str | None]] = set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function_name(function) not in _QUESTIONS:
            self._in_place.note_uses((args, kwargs))
        call = self._call(function, args, kwargs)
        result = function(*args, **kwargs)
        if call is None or call.problem is not None:
            return result
        if works_in_place(function, args, kwargs):
            return self._in_place.watched(call, result)
        if call.kind == "Sigmoid":
            self._sigmoids[result] = WeakIdRef(args[0] if args else kwargs["input"])
        return result

    @contextlib.contextmanager
    def looking_on(self) -> Iterator[None]:
        """While modules are run: counts them, and marks the functions that are attributes."""
        held = [
            (module, name, value)
            for module in self._modules
            for name, value in vars(module).items()
            if isinstance(value, Hashable) and value in FUNCTIONS
        ]
        counting = nn.modules.module.register_module_forward_pre_hook(self._note_run)
        try:
            for module, name, function in held:
                vars(module)[name] = self._marked(module, name, function)
            yield
        finally:
            counting.remove()
            for module, name, function in held:
                vars(module)[name] = function

    def _note_run(self, module: nn.Module, _inputs) -> None:
        self._found.runs[module] += 1

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

    def finished(self, output) -> Observation:
        self._in_place.note_uses(output)
        for owner in list(self._latest):
            self._end_run(owner)
        for call in self._found.calls:
            if (call.owner, call.attribute) in self._with_options:  # which no module takes
                call.attribute = None
        return self._found

    def _call(self, function, args: tuple, kwargs: dict) -> Call | None:
        """The activation that this is a call of, if it is one."""
        kind, name = FUNCTIONS.get(function), function_name(function)
        if kind:
            problem = "writes to a given tensor (out=)" if "out" in kwargs else None
            return self._located(kind, name, problem)
        if function in _ERFS:
            return self._located("GELU", name, "GELU, it seems, written out in operations", True)
        if function in _PRODUCTS and self._is_silu(args):
            return self._located("SiLU", name, "x * sigmoid(x), written out in operations", True)
        return None

    def _is_silu(self, args: tuple) -> bool:
        return any(
            isinstance(b, Tensor) and b in self._sigmoids and self._sigmoids[b]() is a
            for a, b in (args, args[::-1])
        )

    def _located(
        self, kind: str, function: str, problem: str | None, written_out: bool = False
    ) -> Call:
        frames = list(_frames())
        first = frames[0]
        source = f"{first.f_globals.get('__name__')}:{first.f_lineno}"
        within = next((i for i, f in enumerate(frames) if self._running(f)), None)
        if within is None:
            owner, running, problem = None, None, problem or "is not inside a module's forward"
        else:
            running = frames[within]
            owner, frames = self._running(running), frames[: within + 1]
        if any(f.f_globals.get("__name__") == "torch.utils.checkpoint" for f in frames):
            problem = problem or "is run again in backward, by activation checkpointing"
        place = tuple((frame.f_code, frame.f_lasti) for frame in frames)
        marked = self._attribute or (None, None)
        attribute = marked[1] if marked[0] is owner else None
        call = Call(kind, function, owner, place, source, problem, attribute, written_out)
        self._found.calls.append(call)
        if owner not in self._latest or self._latest[owner][0] is not running:
            self._end_run(owner)
            self._latest[owner] = (running, [])
        self._latest[owner][1].append(call)
        return call

    def _running(self, frame: FrameType) -> nn.Module | None:
        """The module of the network whose forward a frame is."""
        code = frame.f_code
        if code.co_name != "forward" or not code.co_argcount:
            return None
        own = frame.f_locals.get(code.co_varnames[0])
        return own if isinstance(own, nn.Module) and own in self._modules else None

    def _end_run(self, owner: nn.Module | None) -> None:
        _, calls = self._latest.pop(owner, (None, []))
        if len(calls) > len(self._found.sequences.get(owner, ())):
            self._found.sequences[owner] = calls


def _frames() -> Iterator[FrameType]:
    """From the line of code that calls a function outwards."""
    frame = sys._getframe(1)
    while frame and frame.f_globals.get("__name__", "").startswith(_WAYS):
        frame = frame.f_back
    while frame:
        yield frame
        frame = frame.f_back


class _InPlaceResults:
    """Whether the input of an in-place call is read after it: then it matters that it was changed.

    The result of such a call is its input, the same object. Another object for the same memory
    tells the two apart.
    """

    def __init__(self):
        self._calls = WeakIdKeyDictionary()  # by input

    def watched(self, call: Call, result: Tensor) -> Tensor:
        self._calls[result] = call
        return result.view_as(result)

    def note_uses(self, values) -> None:
        if len(self._calls):
            for value in tree_leaves(values):
                if isinstance(value, Tensor) and value in self._calls:
                    self._calls[value].writes_back = True
