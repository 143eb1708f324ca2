"""The activations of a network: modules, and calls of functions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from zilu.replacement.calls import Call, Observation
from zilu.replacement.kinds import kind_of_module
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
    factory: Factory | None  # None: it was not asked for
    problem: str | None  # why it cannot be replaced
    runs: int | None  # in a run of example_input
    source: str | None = None
    writes_back: bool = False  # works in place, and its input is read later
    new: nn.Module | None = None

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
        if self.runs == 0:
            reasons.append("example_input does not reach it")
        reason = "; ".join(filter(None, reasons)) or None
        now = in_one_line(self.new) if self.new else None
        return Site(self.path, self.kind, self.was, now, reason, self.source, self.runs)


@dataclass(eq=False, kw_only=True)
class FoundModule(Found):
    slot: Slot


@dataclass(eq=False, kw_only=True)
class FoundCall(Found):
    """All calls from one place in the code of one module's forward, or of one attribute of it."""

    owner: nn.Module | None
    place: tuple
    attribute: str | None
    holder: nn.Module | None  # what the new module can be registered in
    holder_path: str
    prefix: str  # of its name there
    name: str = ""


def find_modules(
    model: nn.Module, wanted: Wanted, seen: dict[bool, Observation]
) -> list[FoundModule]:
    calls = [call for run in seen.values() for call in run.calls]
    written_back = {call.owner for call in calls if call.writes_back}
    found, activations = [], set()
    for slot in walk(model):
        module, kind = slot.module, kind_of_module(slot.module)
        factory = wanted.for_module(module, kind)
        if slot.owner in activations or not (factory or kind):
            continue
        activations.add(module)
        frozen = isinstance(slot.owner, torch.jit.ScriptModule)
        found.append(
            FoundModule(
                kind=kind or type(module).__name__,
                was=in_one_line(module),
                path=slot.path,
                factory=factory,
                problem="inside TorchScript" if frozen else None,
                runs=max(run.runs[module] for run in seen.values()) if seen else None,
                writes_back=module in written_back,
                slot=slot,
            )
        )
    return found


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
    runs = []
    for mode in sorted(seen, reverse=True):
        calls = [call for call in seen[mode].calls if call.owner not in activations]
        runs.append(Counter(site_key(call) for call in calls))
        for call in calls:
            if site_key(call) not in found:
                found[site_key(call)] = _found_call(call, wanted, homes, rewriting)
            found[site_key(call)].writes_back |= call.writes_back
    for key, site in found.items():
        site.runs = max(counts[key] for counts in runs)
    return list(found.values())


def site_key(call: Call | FoundCall) -> tuple:
    return call.owner, call.attribute or call.place, call.kind


def _found_call(
    call: Call, wanted: Wanted, homes: dict[nn.Module | None, _Home], rewriting: bool
) -> FoundCall:
    home = homes.get(call.owner, _Home("", None, "", ""))
    problem = call.problem
    if problem is None and home.holder is None and not call.attribute:
        problem = "no module around it can hold another one"
    if problem is None and not rewriting:
        problem = FUNCTION_CALL
    return FoundCall(
        kind=call.kind,
        was=f"{call.function}()",
        path=home.path,
        factory=wanted.for_kind(call.kind),
        problem=problem,
        runs=0,
        source=call.source,
        owner=call.owner,
        place=call.place,
        attribute=call.attribute,
        holder=home.holder,
        holder_path=home.holder_path,
        prefix=home.prefix + call.function.strip("_"),
    )


class _Home(NamedTuple):
    """Where a module is, and the nearest one that can hold a new module for it: itself, if it is
    no container, whose forward may go through all that it holds."""

    path: str
    holder: nn.Module | None
    holder_path: str
    prefix: str  # of names in the holder


def _homes(model: nn.Module) -> dict[nn.Module, _Home]:
    homes = {model: _Home("", None if isinstance(model, _CONTAINERS) else model, "", "")}
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
