"""Find a network's activations: the slots that hold modules, and the sites of activations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from zilu.replacement.calls import Call, Observations
from zilu.replacement.kinds import Factory, Function, Request, function_name, kind_of_module

FUNCTION_CALL = "a function call"  # the problem of a call site without functional="rewrite"
BOUND = "bound"  # the kind of a call that only keeps numbers in their range
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

# The attributes that torch.nn.Module itself uses. Of these only _modules holds modules.
_OWN_ATTRIBUTES = frozenset(vars(nn.Module())) | {"_compiled_call_impl"}


# --- slots ---


@dataclass(frozen=True, eq=False)
class Slot:
    """Describe one place that holds a module.

    It is `container[key]`, or if that is a tuple, its item `index`.

    Attributes:
        owner: the module to which the slot belongs.
        owner_path: the owner's path in the network.
        name: the slot's path below its owner: "relu", or "acts.0" in an attribute that is a list.
        module: the module that the slot held when it was found.
    """

    owner: nn.Module
    owner_path: str
    name: str
    container: dict[Any, Any] | list[Any]
    key: Any
    module: nn.Module
    index: int | None = None

    @property
    def path(self) -> str:
        return joined(self.owner_path, self.name)

    @property
    def registered(self) -> bool:
        """Return whether the owner's parameters() and state_dict() reach the module."""
        return self.container is self.owner._modules

    def put(self, module: nn.Module) -> None:
        """Put a module into the slot."""
        if self.index is None:
            self.container[self.key] = module
            return
        items = list(self.container[self.key])
        items[self.index] = module
        kind = type(self.container[self.key])
        self.container[self.key] = kind(*items) if hasattr(kind, "_fields") else kind(items)


def joined(*names: str) -> str:
    return ".".join(name for name in names if name)


def modules_of(model: nn.Module) -> set[nn.Module]:
    """Return the network and all modules in its slots."""
    return {model, *(slot.module for slot in walk(model))}


def walk(model: nn.Module) -> Iterator[Slot]:
    """Yield every slot of a network once, the slots of an owner before those of its modules.

    A module that is in several slots is met in each of them, but its own slots are met only once.
    """
    seen = {model}
    waiting = [(model, "")]
    while waiting:
        owner, path = waiting.pop()
        slots = [slot for slot in _slots_of(owner, path) if not _leads_out(slot, model)]
        yield from slots
        held = {slot.module: slot.path for slot in slots if slot.module not in seen}
        seen |= held.keys()
        waiting += reversed(held.items())


def _leads_out(slot: Slot, model: nn.Module) -> bool:
    """Return whether a slot leads back to the network, or to a module that contains it."""
    return not slot.registered and any(module is model for module in slot.module.modules())


def _slots_of(owner: nn.Module, path: str) -> Iterator[Slot]:
    if isinstance(owner, parametrize.ParametrizationList):  # its modules are functions of weights
        return
    for name, module in owner._modules.items():
        if module is not None:
            yield Slot(owner, path, name, owner._modules, name, module)
    for name in [name for name in vars(owner) if name not in _OWN_ATTRIBUTES]:
        yield from _unregistered(owner, path, name, vars(owner), name)


def _unregistered(
    owner: nn.Module,
    path: str,
    name: str,
    container: dict[Any, Any] | list[Any],
    key: Any,
    around: tuple[object, ...] = (),
) -> Iterator[Slot]:
    """Yield the slots in `container[key]`: an attribute, or an item of a list or dict in one.

    Args:
        around: the lists and dicts on the way there, since one may contain itself.
    """
    value = container[key]
    if isinstance(value, nn.Module):
        yield Slot(owner, path, name, container, key, value)
    elif isinstance(value, list | dict) and not any(value is each for each in around):
        items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
        for inner, item in items:
            if isinstance(item, nn.Module | list | dict | tuple):
                further = (*around, value)
                yield from _unregistered(owner, path, f"{name}.{inner}", value, inner, further)
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            if isinstance(item, nn.Module):
                yield Slot(owner, path, f"{name}.{index}", container, key, item, index)


# --- sites ---

# Identifies a call site: owner, location in the code, kind; or owner, attribute, kind.
SiteKey: TypeAlias = tuple[nn.Module | None, object, str]


@dataclass(eq=False, kw_only=True)
class ActivationSite:
    """Describe one activation of a network, and what becomes of it.

    Attributes:
        kind: the kind of activation, or the class's name for a module that is none.
        was: the module's or function's text: "ReLU(inplace=True)", "relu()".
        path: where it is. Once a call site has a new module, that module's path.
        owner: the module whose slot it is in, or whose forward makes the call.
        factory: makes the new module; None if the caller did not ask for this activation.
        problem: why it cannot be replaced.
        source: of a call, the line of code: "torchvision.models.densenet:216".
        runs: how often it ran on example_input, in training (True) and in evaluation (False).
        writes_back: it works in place, and its input's memory is read later.
        new: the new module, once it is made.
        remark: why it counts as not asked for, where it was named.
    """

    kind: str
    was: str
    path: str
    owner: nn.Module | None
    factory: Factory | None
    problem: str | None
    source: str | None = None
    runs: dict[bool, int] = field(default_factory=dict)
    writes_back: bool = False
    new: nn.Module | None = None
    remark: str | None = None

    def let_be(self, remark: str) -> None:
        """Count the site as one that the caller did not ask for."""
        self.factory, self.remark = None, remark

    @property
    def replaceable(self) -> bool:
        return self.factory is not None and self.problem is None

    @property
    def missed(self) -> bool:
        """Return whether the caller asked for it, but it cannot be replaced."""
        return self.factory is not None and self.problem is not None

    def old(self, x: Tensor, training: bool) -> Tensor:
        """Compute what the activation computes of x before it is replaced."""
        raise NotImplementedError


@dataclass(eq=False, kw_only=True)
class ModuleSite(ActivationSite):
    """Describe a slot that holds an activation."""

    slot: Slot

    def old(self, x: Tensor, training: bool) -> Tensor:
        module = self.slot.module
        was_training = module.training
        try:
            y: Tensor = module.train(training).forward(x)
            return y
        finally:
            module.train(was_training)


class Holder(NamedTuple):
    """Name the module that can register new modules for a call's owner.

    It is the owner itself; or if that is a container, whose forward may go through all its modules,
    the nearest module around it that is none.
    """

    module: nn.Module | None
    path: str
    prefix: str  # of the new names, which tells owners with the same holder apart


@dataclass(eq=False, kw_only=True)
class CallSite(ActivationSite):
    """Describe all calls of one kind from one place in the code of one module's forward.

    All calls of a function that is an attribute of a module are one call site, too.

    Attributes:
        key: identifies the site.
        function, args, kwargs: of the first call that was seen, without the input.
        attribute: the module and the name of the attribute, if the function is one.
        holder: what can register the new module.
        name: the new module's name in the holder.
    """

    key: SiteKey
    function: Function
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    attribute: tuple[nn.Module, str] | None
    holder: Holder
    name: str = ""

    @property
    def is_rewritten(self) -> bool:
        """Return whether the owner's forward is rewritten for it: an attribute is just replaced."""
        return self.replaceable and self.attribute is None

    def old(self, x: Tensor, training: bool) -> Tensor:
        y: Tensor = self.function(x, *self.args, **self.kwargs)
        return y


# --- finding modules ---


def find_modules(model: nn.Module, request: Request, observed: Observations) -> list[ModuleSite]:
    """Find the slots that hold activations, and modules of classes that the caller names."""
    sites: list[ModuleSite] = []
    activations: set[nn.Module] = set()
    for slot in walk(model):
        if slot.owner in activations:
            continue
        kind = _kind_as_run(slot.module, observed)
        factory = request.for_module(slot.module, kind)
        if factory or kind:
            activations.add(slot.module)
            sites.append(_module_site(slot, kind, factory, observed))
    return sites


def _kind_as_run(module: nn.Module, observed: Observations) -> str | None:
    """Return a module's kind. A ReLU6 that only ever ran in relu6(x + 3) / 6 is part of a gate."""
    kind = kind_of_module(module)
    if kind != "ReLU6":
        return kind
    kinds = {call.kind for run in observed.values() for call in run.calls_of(module)}
    return "Hardsigmoid" if kinds == {"Hardsigmoid"} else kind


def _module_site(
    slot: Slot, kind: str | None, factory: Factory | None, observed: Observations
) -> ModuleSite:
    module = slot.module
    calls = {training: run.calls_of(module) for training, run in observed.items()}
    frozen = isinstance(slot.owner, torch.jit.ScriptModule)
    return ModuleSite(
        kind=kind or type(module).__name__,
        was=in_one_line(module),
        path=slot.path,
        owner=slot.owner,
        factory=factory,
        problem="inside TorchScript" if frozen else None,
        # A module whose forward is called directly is only seen by the calls that it makes.
        runs={mode: max(run.runs[module], len(calls[mode])) for mode, run in observed.items()},
        writes_back=any(call.writes_back for of_mode in calls.values() for call in of_mode),
        slot=slot,
    )


def in_one_line(module: nn.Module) -> str:
    """Return a module's repr, or its class's name if the repr has several lines."""
    text = repr(module)
    return text if "\n" not in text else type(module).__name__


# --- finding calls ---


def find_calls(
    model: nn.Module,
    request: Request,
    observed: Observations,
    activations: set[nn.Module],
    rewriting: bool,
) -> list[CallSite]:
    """Find the call sites outside `activations`, those seen in training first.

    Args:
        rewriting: calls may be replaced, not only reported.
    """
    paths, holders = _paths_and_holders(model)
    sites: dict[SiteKey, CallSite] = {}
    bounds: dict[SiteKey, list[str | None]] = {}  # of the calls in the first mode that made any
    for training in sorted(observed, reverse=True):
        calls = [call for call in observed[training].calls if call.owner not in activations]
        counts = Counter(key_of(call) for call in calls)
        found = set(sites)
        for call in calls:
            key = key_of(call)
            if key not in found:
                bounds.setdefault(key, []).append(call.bound)
            if key not in sites:
                path, holder = paths.get(key[0], ""), holders.get(key[0], Holder(None, "", ""))
                sites[key] = _call_site(call, request, path, holder, rewriting)
            sites[key].writes_back |= call.writes_back
            sites[key].runs[training] = counts[key]
    for key, reasons in bounds.items():
        if all(reasons):
            sites[key].kind = BOUND
            sites[key].let_be(str(reasons[0]))
    for site in sites.values():
        site.runs = {training: site.runs.get(training, 0) for training in observed}
    return list(sites.values())


def key_of(call: Call) -> SiteKey:
    """Return the key of the site that a call belongs to."""
    return (
        (*call.attribute, call.kind) if call.attribute else (call.owner, call.location, call.kind)
    )


def _call_site(
    call: Call, request: Request, path: str, holder: Holder, rewriting: bool
) -> CallSite:
    problem = call.problem
    if problem is None and holder.module is None and not call.attribute:
        problem = "no module around it can hold another one"
    if problem is None and not rewriting:
        problem = FUNCTION_CALL
    return CallSite(
        kind=call.kind,
        was=f"{function_name(call.function)}()",
        path=path,
        owner=call.attribute[0] if call.attribute else call.owner,
        factory=request.for_call(call.function, call.kind, call.function_kind),
        problem=problem,
        source=call.source,
        key=key_of(call),
        function=call.function,
        args=call.args,
        kwargs=call.kwargs,
        attribute=call.attribute,
        holder=holder,
    )


def _paths_and_holders(
    model: nn.Module,
) -> tuple[dict[nn.Module | None, str], dict[nn.Module | None, Holder]]:
    """Return each module's path, and what can register new modules for it."""
    paths: dict[nn.Module | None, str] = {model: ""}
    holders: dict[nn.Module | None, Holder] = {}
    holders[model] = Holder(None if isinstance(model, _CONTAINERS) else model, "", "")
    for slot in walk(model):
        if slot.module in holders:
            continue
        paths[slot.module] = slot.path
        if isinstance(slot.module, _CONTAINERS):
            around = holders[slot.owner]
            prefix = around.prefix + slot.name.replace(".", "_") + "_"
            holders[slot.module] = around._replace(prefix=prefix)
        else:
            holders[slot.module] = Holder(slot.module, slot.path, "")
    return paths, holders
