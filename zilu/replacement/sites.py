"""The activations of a network, modules and calls of functions, and what becomes of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from zilu.replacement.calls import Call, Observation
from zilu.replacement.kinds import function_name, kind_of_module
from zilu.replacement.report import Site
from zilu.replacement.slots import Slot, walk
from zilu.replacement.wanted import Factory, Wanted

FUNCTION_CALL = "a function call"
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(eq=False, kw_only=True)
class Found:
    """An activation, and what becomes of it."""

    kind: str
    was: str
    path: str
    owner: nn.Module | None  # the module that holds it, or whose forward makes the call
    factory: Factory | None  # None: it was not asked for
    problem: str | None  # why it cannot be replaced
    source: str | None = None
    runs: dict[bool, int] = field(default_factory=dict)  # by mode, on example_input
    writes_back: bool = False  # works in place, and its input's memory is read later
    new: nn.Module | None = None
    name: str = ""  # of the new module below the holder, where a mode gives it the calls

    @property
    def replaceable(self) -> bool:
        return self.factory is not None and self.problem is None

    @property
    def forgotten(self) -> bool:
        """Whether it was asked for and cannot be had."""
        return self.factory is not None and self.problem is not None

    def site(self) -> Site:
        reasons = [self.problem if self.factory else "not named"]
        if self.new and self.writes_back:
            reasons.append("in place, and its input is read later: it gets the result as well")
        runs = max(self.runs.values(), default=None)
        if runs == 0:
            reasons.append("example_input does not reach it")
        reason = "; ".join(filter(None, reasons)) or None
        now = in_one_line(self.new) if self.new else None
        return Site(self.path, self.kind, self.was, now, reason, self.source, runs)


@dataclass(eq=False, kw_only=True)
class FoundModule(Found):
    slot: Slot

    def old(self, x: torch.Tensor, training: bool) -> torch.Tensor:
        """What it computes."""
        module = self.slot.module
        was_training = module.training
        try:
            return module.train(training).forward(x)
        finally:
            module.train(was_training)


@dataclass(eq=False, kw_only=True)
class FoundCall(Found):
    """All calls from one place in the code of one module's forward, or of one attribute."""

    key: tuple
    function: Callable
    options: list[tuple[tuple, dict[str, Any]]]  # of each call, besides the input
    attribute: tuple[nn.Module, str] | None
    holder: nn.Module | None  # what the new module can be registered in
    holder_path: str
    prefix: str  # of its name there

    @property
    def is_rewritten(self) -> bool:
        """Whether it needs a mode: an attribute becomes a module."""
        return self.replaceable and self.attribute is None

    def old(self, x: torch.Tensor, training: bool) -> torch.Tensor:
        """What it computes."""
        args, kwargs = self.options[0]
        return self.function(x, *args, **kwargs)


# --- modules ---


def find_modules(
    model: nn.Module, wanted: Wanted, seen: dict[bool, Observation]
) -> list[FoundModule]:
    found, activations = [], set()
    for slot in walk(model):
        if slot.owner in activations:
            continue
        module = slot.module
        kind = _kind_as_run(module, kind_of_module(module), seen)
        factory = wanted.for_module(module, kind)
        if factory or kind:
            activations.add(module)
            found.append(_found_module(slot, kind, factory, seen))
    return found


def _kind_as_run(module: nn.Module, kind: str | None, seen: dict[bool, Observation]) -> str | None:
    """A ReLU6 that only ever ran as part of relu6(x + 3) / 6 is a gate."""
    if kind != "ReLU6":
        return kind
    kinds = {call.kind for run in seen.values() for call in run.calls_of(module)}
    return "Hardsigmoid" if kinds == {"Hardsigmoid"} else kind


def _found_module(
    slot: Slot, kind: str | None, factory: Factory | None, seen: dict[bool, Observation]
) -> FoundModule:
    module = slot.module
    own = {mode: run.calls_of(module) for mode, run in seen.items()}
    frozen = isinstance(slot.owner, torch.jit.ScriptModule)
    return FoundModule(
        kind=kind or type(module).__name__,
        was=in_one_line(module),
        path=slot.path,
        owner=slot.owner,
        factory=factory,
        problem="inside TorchScript" if frozen else None,
        # Where forward is called directly, only its calls are seen.
        runs={mode: max(run.runs[module], len(own[mode])) for mode, run in seen.items()},
        writes_back=any(call.writes_back for calls in own.values() for call in calls),
        slot=slot,
    )


# --- calls ---


def find_calls(
    model: nn.Module,
    wanted: Wanted,
    seen: dict[bool, Observation],
    activations: set[nn.Module],
    rewriting: bool,
) -> list[FoundCall]:
    """Calls from outside `activations`, one for each place in the code; those of training first."""
    homes = _homes(model)
    found: dict[tuple, FoundCall] = {}
    for mode in sorted(seen, reverse=True):
        calls = [call for call in seen[mode].calls if call.owner not in activations]
        counts = Counter(site_key(call) for call in calls)
        for call in calls:
            if site_key(call) not in found:
                found[site_key(call)] = _found_call(call, wanted, homes, rewriting)
            site = found[site_key(call)]
            site.writes_back |= call.writes_back
            site.runs[mode] = counts[site.key]
            site.options.append(call.options)
    for site in found.values():
        site.runs = {mode: site.runs.get(mode, 0) for mode in seen}
    return list(found.values())


def site_key(call: Call) -> tuple:
    return (*call.attribute, call.kind) if call.attribute else (call.owner, call.place, call.kind)


def _found_call(
    call: Call, wanted: Wanted, homes: dict[nn.Module | None, _Home], rewriting: bool
) -> FoundCall:
    owner = call.attribute[0] if call.attribute else call.owner
    home = homes.get(owner, _Home("", None, "", ""))
    problem = call.problem
    if problem is None and home.holder is None and not call.attribute:
        problem = "no module around it can hold another one"
    if problem is None and not rewriting:
        problem = FUNCTION_CALL
    name = function_name(call.function)
    return FoundCall(
        kind=call.kind,
        was=f"{name}()",
        path=home.path,
        owner=owner,
        factory=wanted.for_kind(call.kind),
        problem=problem,
        source=call.source,
        key=site_key(call),
        function=call.function,
        options=[],
        attribute=call.attribute,
        holder=home.holder,
        holder_path=home.holder_path,
        prefix=home.prefix + name.strip("_"),
    )


class _Home(NamedTuple):
    """Where a module is, and the nearest one that can hold a new module for it: itself, if it is
    no container, whose forward may go through all that it holds."""

    path: str
    holder: nn.Module | None
    holder_path: str
    prefix: str  # of names in the holder


def _homes(model: nn.Module) -> dict[nn.Module | None, _Home]:
    homes: dict[nn.Module | None, _Home] = {}
    homes[model] = _Home("", None if isinstance(model, _CONTAINERS) else model, "", "")
    for slot in walk(model):
        if slot.module in homes:
            continue
        if isinstance(slot.module, _CONTAINERS):
            _, holder, holder_path, prefix = homes[slot.owner]
            prefix += slot.name.replace(".", "_") + "_"
            homes[slot.module] = _Home(slot.path, holder, holder_path, prefix)
        else:
            homes[slot.module] = _Home(slot.path, slot.module, slot.path, "")
    return homes


def in_one_line(module: nn.Module) -> str:
    text = repr(module)
    return text if "\n" not in text else type(module).__name__
