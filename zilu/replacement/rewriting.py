"""Modules in place of function calls, by a `forward` of the instance's own.

The class of a network's module stays as it is. Its instance gets a `forward` that runs the old one
under a torch-function mode, which gives the calls of activation functions to modules. What fx or
new source code would change (the class, pickling, hooks) is untouched, and torch.compile and
torch.export trace through it.
"""

from __future__ import annotations

import functools
import inspect
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zilu.replacement.kinds import FUNCTIONS


class Entry(NamedTuple):
    """What becomes of one call: `name` is the module's below the holder, None leaves the call."""

    name: str | None
    guarded: bool = False  # its own operations might be taken for calls
    writes_back: bool = False  # the result is to be written to the input as well


class Plan(NamedTuple):
    """What becomes of the calls that a module's forward makes, in their order."""

    kinds: tuple[str, ...]  # calls of other kinds are not counted
    training: tuple[Entry, ...]
    evaluation: tuple[Entry, ...]


class _Forward(functools.partial):
    """The forward of an instance: a partial can be pickled, copied and compiled."""

    @property
    def __signature__(self) -> inspect.Signature:  # Hugging Face's trainer and generate go by it
        module, previous, *_ = self.args
        return inspect.signature(_bound(module, previous))


def _bound(module: nn.Module, previous):
    return functools.partial(type(module).forward, module) if previous is None else previous


def rewrite(module: nn.Module, holder: nn.Module, plan: Plan) -> None:
    """Let a module's forward give its calls to modules that `holder` has."""
    previous = vars(module).get("forward")
    module.forward = _Forward(_substituting, module, previous, holder, plan)


def guard(module: nn.Module, writes_back: bool) -> None:
    """Keep the operations of an activation module from being taken for calls of its owner.

    Args:
        writes_back: let it write its result to its input too, as what it replaces did.
    """
    module.forward = _Forward(_guarded, module, vars(module).get("forward"), writes_back)


def _substituting(module: nn.Module, previous, holder: nn.Module, plan: Plan, *args, **kwargs):
    if torch.compiler.is_compiling():
        _show_to_compiler()
    with _Substitution(holder, plan.kinds, plan.training if module.training else plan.evaluation):
        return _bound(module, previous)(*args, **kwargs)


def _show_to_compiler() -> None:
    """Let torch.compile show every function to a mode, as eager execution does.

    It goes by a list of torch's, which lacks functional.hardswish, relu_ and others (2.6 to 2.14).
    """
    from torch._dynamo.variables.torch import get_overridable_functions

    get_overridable_functions().update(FUNCTIONS)


# torch.compile is to call this, not to trace it.
_show_to_compiler._dynamo_marked_constant = True


def _guarded(module: nn.Module, previous, writes_back: bool, x: Tensor) -> Tensor:
    return _applied(_bound(module, previous), x, True, writes_back)


def _applied(activation, x: Tensor, guarded: bool, writes_back: bool) -> Tensor:
    if writes_back:
        return x.copy_(_applied(activation, x.clone(), guarded, False))
    if not guarded:
        return activation(x)
    with torch._C.DisableTorchFunction():  # torch 2.6 cannot compile this
        return activation(x)


class _Substitution(TorchFunctionMode):
    """Gives calls to modules in the order of `entries`.

    More calls than were seen (a loop that runs longer) go where the last one goes.
    """

    def __init__(self, holder: nn.Module, kinds: tuple[str, ...], entries: tuple[Entry, ...]):
        super().__init__()
        self.holder, self.kinds, self.entries = holder, kinds, entries
        self.seen = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if FUNCTIONS.get(function) not in self.kinds:
            return function(*args, **kwargs)
        entry = self.entries[min(self.seen, len(self.entries) - 1)]
        self.seen += 1
        if entry.name is None:
            return function(*args, **kwargs)
        x = args[0] if args else kwargs["input"]
        return _applied(self.holder._modules[entry.name], x, entry.guarded, entry.writes_back)
