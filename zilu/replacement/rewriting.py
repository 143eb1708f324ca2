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


# Of each kind that a module's forward calls, what becomes of the calls, in their order.
Orders = tuple[tuple[str, tuple[Entry, ...]], ...]


class Plan(NamedTuple):
    """What becomes of the calls that a module's forward makes."""

    training: Orders
    evaluation: Orders


class _Forward(functools.partial):
    """The forward of an instance: a partial can be pickled, copied and compiled."""

    @property
    def __signature__(self) -> inspect.Signature:  # Hugging Face's trainer and generate go by it
        module, previous, *_ = self.args
        return inspect.signature(_bound(module, previous))


def _bound(module: nn.Module, previous):
    return functools.partial(type(module).forward, module) if previous is None else previous


def _set_forward(module: nn.Module, function, *arguments) -> None:
    own = vars(module)  # not by setattr, which the class may have made its own
    own["forward"] = _Forward(function, module, own.get("forward"), *arguments)
    own["_replicate_for_data_parallel"] = functools.partial(_replicate, module)


def restore_forward(module: nn.Module) -> None:
    """Take back the latest change of a module's forward."""
    own = vars(module)
    previous = own.pop("forward").args[1]
    if previous is not None:
        own["forward"] = previous
    if not isinstance(previous, _Forward):
        del own["_replicate_for_data_parallel"]


def _replicate(module: nn.Module):
    """A replica for nn.DataParallel runs its own weights, not those of the module it is made of."""
    replica = type(module)._replicate_for_data_parallel(module)
    own = vars(replica)
    own["forward"] = _rebound(own["forward"], module, replica)
    return replica


def _rebound(forward, module: nn.Module, replica: nn.Module):
    if not isinstance(forward, _Forward):
        return forward
    _, previous, *rest = forward.args
    rest = [replica if each is module else each for each in rest]
    return _Forward(forward.func, replica, _rebound(previous, module, replica), *rest)


def rewrite(module: nn.Module, holder: nn.Module, plan: Plan) -> None:
    """Let a module's forward give its calls to modules that `holder` has."""
    _set_forward(module, _substituting, holder, plan)


def leave_calls(module: nn.Module, kinds: tuple[str, ...]) -> None:
    """Keep the calls that a module's forward makes from the modules around it."""
    orders = tuple((kind, (Entry(None),)) for kind in kinds)
    rewrite(module, module, Plan(orders, orders))


def write_back(module: nn.Module) -> None:
    """Let an activation module write its result to its input too, as what it replaces did."""
    _set_forward(module, _writing_back)


def _substituting(module: nn.Module, previous, holder: nn.Module, plan: Plan, /, *args, **kwargs):
    if torch.compiler.is_compiling():
        _show_to_compiler()
    with _Substitution(holder, plan.training if module.training else plan.evaluation):
        return _bound(module, previous)(*args, **kwargs)


def _writing_back(module: nn.Module, previous, /, input: Tensor) -> Tensor:
    return input.copy_(_bound(module, previous)(input.clone()))


def _show_to_compiler() -> None:
    """Let torch.compile show every function to a mode, as eager execution does.

    It goes by a list of torch's, which lacks functional.hardswish, relu_ and others (2.6 to 2.14).
    """
    from torch._dynamo.variables.torch import get_overridable_functions

    get_overridable_functions().update(FUNCTIONS)


# torch.compile is to call this, not to trace it.
_show_to_compiler._dynamo_marked_constant = True


class _Substitution(TorchFunctionMode):
    """Gives the calls of each kind to modules in their order.

    More calls than were seen (a loop that runs longer) go where the last one goes.
    """

    def __init__(self, holder: nn.Module, orders: Orders):
        super().__init__()
        self.holder, self.orders = holder, dict(orders)
        self.seen = dict.fromkeys(self.orders, 0)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        kind = FUNCTIONS.get(function)
        if kind not in self.orders:
            return function(*args, **kwargs)
        entries = self.orders[kind]
        entry = entries[min(self.seen[kind], len(entries) - 1)]
        self.seen[kind] += 1
        if entry.name is None:
            with torch._C.DisableTorchFunction():  # which torch 2.6 cannot compile
                return function(*args, **kwargs)
        return _applied(self.holder._modules[entry.name], entry, _input(args, kwargs))


def _input(args: tuple, kwargs: dict) -> Tensor:
    if args:
        return args[0]
    return kwargs["input"] if "input" in kwargs else kwargs["self"]


def _applied(activation: nn.Module, entry: Entry, x: Tensor) -> Tensor:
    if entry.writes_back:
        return x.copy_(_applied(activation, entry._replace(writes_back=False), x.clone()))
    if not entry.guarded:
        return activation(x)
    with torch._C.DisableTorchFunction():
        return activation(x)
