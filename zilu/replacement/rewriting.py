"""Give a module's calls of activation functions to new modules, by rewriting its forward.

The module's class stays as it is. Its instance gets a `forward` of its own, which runs the old one
inside a `TorchFunctionMode` that intercepts the calls and gives them to the new modules. So the
things that torch.fx or generated source code would change stay as they are (the class, pickling,
hooks), and torch.compile and torch.export trace through the new forward.

Calls of one kind are told apart by their order. The first half of this file plans from the
observations which call goes where; the second half carries the plan out while the network runs.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zilu.dynamo import not_traced
from zilu.replacement.calls import Args, Call, Kwargs, Observations
from zilu.replacement.kinds import BOUNDING, CALLING_NONE, FUNCTIONS, Function, kind_of_call
from zilu.replacement.sites import CallSite, SiteKey, key_of

OLD = "_old_activation"  # the attribute of a new module that holds what it mixes in (gradual.py)
MANY_WAYS = "its forward takes several ways, and one of its calls has to stay"


class Entry(NamedTuple):
    """Say what becomes of one call.

    Attributes:
        name: the new module's name in the holder; None leaves the call as it is.
        guarded: the new module calls activation functions, which are not the network's calls.
        writes_back: the result is also written to the input.
    """

    name: str | None
    guarded: bool = False
    writes_back: bool = False


# For each kind that a module's forward calls, what becomes of its calls, in their order.
Entries: TypeAlias = tuple[tuple[str, tuple[Entry, ...]], ...]


class Plan(NamedTuple):
    """Say what becomes of the calls that a module's forward makes, in each mode of the module."""

    training: Entries
    evaluation: Entries


# --- planning ---


class Planner:
    """Plan which new module each call goes to.

    Where the runs of one forward make calls of a kind in different orders, a call's place in the
    order does not identify it. All calls of that kind in that forward then go to one new module.

    Args:
        sites: the call sites. Where calls have to share a module and some of them have to stay, all
            of them get a problem here.
        observed: the observations that the sites were found in.

    Attributes:
        merged: owner and kind of the calls that share one new module.
    """

    def __init__(self, sites: list[CallSite], observed: Observations) -> None:
        self._sites = {site.key: site for site in sites}
        self._observed = observed
        self.merged: set[tuple[nn.Module | None, str]] = set()
        for owner, kind in {(site.owner, site.kind) for site in sites if site.is_rewritten}:
            if any(not _are_prefixes(self._orders(owner, kind, mode)) for mode in observed):
                self.merged.add((owner, kind))
                self._refuse_where_some_stay(owner, kind)

    def plan(self, owner: nn.Module, kinds: Sequence[str], staying: Sequence[str]) -> Plan:
        """Plan for an owner.

        Args:
            kinds: the kinds of its calls that are replaced.
            staying: the kinds of its calls that stay.
        """
        stay = _leaving([kind for kind in staying if kind not in kinds])
        training, evaluation = (
            tuple((kind, self._entries(owner, kind, mode)) for kind in kinds) + stay
            for mode in (True, False)
        )
        return Plan(training, evaluation)

    def staying_kinds(
        self, kinds: set[str], replaced: set[nn.Module]
    ) -> dict[nn.Module, tuple[str, ...]]:
        """Return by owner which of `kinds` have calls that stay, `replaced` owners left out."""
        staying: dict[nn.Module, set[str]] = {}
        for observation in self._observed.values():
            for call in observation.calls:
                site = self._sites.get(key_of(call))
                if site is not None and site.replaceable:
                    continue
                if call.owner is None or call.owner in replaced or call.function_kind not in kinds:
                    continue
                staying.setdefault(call.owner, set()).add(call.function_kind)
        return {owner: tuple(sorted(of_owner)) for owner, of_owner in staying.items()}

    def _orders(self, owner: nn.Module | None, kind: str, mode: bool) -> set[tuple[SiteKey, ...]]:
        """Return the different orders in which an owner's runs made the calls of a kind."""
        return {
            tuple(key_of(call) for call in run if self._is_seen_as(call, kind))
            for run in self._observed[mode].calls_by_run.get(owner, ())
        } - {()}

    def _is_seen_as(self, call: Call, kind: str) -> bool:
        """Return whether the rewritten forward will see a call of `kind`.

        It sees none where the function is an attribute that becomes a module.
        """
        site = self._sites.get(key_of(call))
        return call.function_kind == kind and not (site and site.attribute and site.replaceable)

    def _refuse_where_some_stay(self, owner: nn.Module | None, kind: str) -> None:
        modes = self._observed
        keys = {key for mode in modes for order in self._orders(owner, kind, mode) for key in order}
        sites = [self._sites[key] for key in keys]
        if any(not site.replaceable for site in sites):
            for site in sites:
                site.problem = site.problem or MANY_WAYS

    def _entries(self, owner: nn.Module, kind: str, mode: bool) -> tuple[Entry, ...]:
        """Return what becomes of an owner's calls of a kind, in their order.

        The order is that of the mode's longest run, or of the other mode's if it made no such call.
        """
        orders = [
            order
            for each in (mode, not mode)
            if each in self._observed
            for order in sorted(self._orders(owner, kind, each), key=len, reverse=True)[:1]
        ]
        entries = tuple(self._entry(key) for key in orders[0])
        return entries[:1] if (owner, kind) in self.merged else entries

    def _entry(self, key: SiteKey) -> Entry:
        site = self._sites[key]
        if not site.replaceable:
            return Entry(None)
        return Entry(site.name, may_call(site.new), site.writes_back)


def _are_prefixes(orders: set[tuple[SiteKey, ...]]) -> bool:
    """Return whether the longest order begins with each of the others."""
    longest = max(orders, key=len, default=())
    return all(longest[: len(order)] == order for order in orders)


def may_call(new: nn.Module | None) -> bool:
    """Return whether a new module may call activation functions; that it mixes in may be one."""
    return type(new) not in CALLING_NONE or OLD in vars(new)


def _leaving(kinds: Sequence[str]) -> Entries:
    return tuple((kind, (Entry(None),)) for kind in kinds)


# --- rewriting ---
# Saved networks that were pickled whole refer to this file's names: of the classes above, and of
# _Forward and the functions that it runs.


def rewrite(module: nn.Module, holder: nn.Module, plan: Plan) -> None:
    """Make a module's forward give its calls to the modules that `holder` has registered."""
    set_forward(module, _substituting, holder, plan)


def leave_calls(module: nn.Module, kinds: Sequence[str]) -> None:
    """Keep the calls that a module's forward makes away from rewritten forwards around it."""
    rewrite(module, module, Plan(_leaving(kinds), _leaving(kinds)))


def write_back(module: nn.Module) -> None:
    """Make an activation module also write its result to its input, as its predecessor did."""
    set_forward(module, _writing_back)


def restore_forward(module: nn.Module) -> None:
    """Undo the latest change of a module's forward."""
    own = vars(module)
    previous = own.pop("forward").args[1]
    if previous is not None:
        own["forward"] = previous
    if not isinstance(previous, _Forward):
        del own["_replicate_for_data_parallel"]


class _Forward(functools.partial[Any]):
    """Run a rewritten forward. As a partial, it can be pickled, copied and compiled."""

    @property
    def __signature__(self) -> inspect.Signature:  # Hugging Face's trainer and generate read it
        module, previous, *_ = self.args
        return inspect.signature(forward_before(module, previous))

    @property
    def __globals__(self) -> dict[str, Any]:  # torch.jit.script reads it
        raise AttributeError(
            "torch.jit.script cannot compile a forward whose calls of functions were replaced; "
            "torch.jit.trace and torch.export can record it"
        )


def forward_before(module: nn.Module, previous: Function | None) -> Function:
    """Return what a module computes without the new forward: an earlier one, or its class's."""
    return functools.partial(type(module).forward, module) if previous is None else previous


def set_forward(module: nn.Module, function: Function, *arguments: Any) -> None:
    """Give a module a forward: `function` of the module, the forward before, and `arguments`."""
    own = vars(module)  # not with setattr, which a class may have overridden
    own["forward"] = _Forward(function, module, own.get("forward"), *arguments)
    own["_replicate_for_data_parallel"] = functools.partial(_replicate, module)


def _replicate(module: nn.Module) -> nn.Module:
    """Make a replica for nn.DataParallel whose forward runs its own weights, not the module's."""
    replica: nn.Module = type(module)._replicate_for_data_parallel(module)
    own = vars(replica)
    own["forward"] = _rebound(own["forward"], module, replica)
    return replica


def _rebound(forward: Function, module: nn.Module, replica: nn.Module) -> Function:
    if not isinstance(forward, _Forward):
        return forward
    _, previous, *rest = forward.args
    rest = [replica if each is module else each for each in rest]
    return _Forward(forward.func, replica, _rebound(previous, module, replica), *rest)


# --- while the network runs ---


def _substituting(
    module: nn.Module,
    previous: Function | None,
    holder: nn.Module,
    plan: Plan,
    /,
    *args: Any,
    **kwargs: Any,
) -> Any:
    entries = plan.training if module.training else plan.evaluation
    if torch.compiler.is_compiling():
        _show_to_compiler()
        proxy = None
    else:
        proxy = next((x for x in (*args, *kwargs.values()) if isinstance(x, torch.fx.Proxy)), None)
    nodes = len(proxy.tracer.graph.nodes) if proxy is not None else 0
    with _Substitution(holder, entries):
        result = forward_before(module, previous)(*args, **kwargs)
    if proxy is not None:
        _check_methods(list(proxy.tracer.graph.nodes)[nodes:], entries)
    return result


def _check_methods(nodes: Sequence[torch.fx.Node], entries: Entries) -> None:
    """Raise RuntimeError if torch.fx recorded x.relu(), which it does not show to any mode."""
    replaced = {kind for kind, of_kind in entries if any(entry.name for entry in of_kind)}
    for node in nodes:
        method: Any = getattr(Tensor, str(node.target), None)
        if node.op == "call_method" and kind_of_call(method, node.args, node.kwargs) in replaced:
            raise RuntimeError(
                f"torch.fx records the method .{node.target}() before it can be replaced; "
                "torch.export and torch.compile trace it"
            )


def _writing_back(module: nn.Module, previous: Function | None, /, input: Tensor) -> Tensor:
    return input.copy_(forward_before(module, previous)(input.clone()))


@not_traced
def _show_to_compiler() -> None:
    """Make torch.compile show every function to a TorchFunctionMode, as eager execution does.

    It uses a list of torch's, which lacks functional.hardswish, relu_ and others (2.6 to 2.14).
    """
    # here, because importing dynamo is slow
    from torch._dynamo.variables.torch import get_overridable_functions

    get_overridable_functions().update([*FUNCTIONS, *BOUNDING])


class _Substitution(TorchFunctionMode):
    """Give the calls of each kind to modules, in their order.

    Where there are more calls than were observed (a loop that runs longer), the further ones go
    where the last one goes.
    """

    def __init__(self, holder: nn.Module, entries: Entries) -> None:
        super().__init__()
        self.holder, self.entries = holder, dict(entries)
        self.seen = dict.fromkeys(self.entries, 0)

    def __torch_function__(
        self, function: Function, types: Any, args: Args = (), kwargs: Kwargs | None = None
    ) -> Any:
        kwargs = kwargs or {}
        kind = kind_of_call(function, args, kwargs)
        if kind is None or kind not in self.entries:
            return function(*args, **kwargs)
        entries = self.entries[kind]
        entry = entries[min(self.seen[kind], len(entries) - 1)]
        self.seen[kind] += 1
        if entry.name is None:
            with torch._C.DisableTorchFunction():  # torch 2.6 cannot compile this
                return function(*args, **kwargs)
        return _applied(self.holder._modules[entry.name], entry, _input(args, kwargs))


def _input(args: Args, kwargs: Kwargs) -> Tensor:
    x: Tensor = args[0] if args else kwargs["input"] if "input" in kwargs else kwargs["self"]
    return x


def _applied(activation: Any, entry: Entry, x: Tensor) -> Tensor:
    if entry.writes_back:
        return x.copy_(_applied(activation, entry._replace(writes_back=False), x.clone()))
    if entry.guarded:
        with torch._C.DisableTorchFunction():
            y: Tensor = activation(x)
            return y
    y = activation(x)
    return y
