"""Where a network holds modules: as children, and in plain attributes, lists and dicts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from torch.nn.utils import parametrize

# What torch.nn.Module keeps for itself; of these only _modules holds modules.
_OWN_ATTRIBUTES = frozenset(vars(nn.Module())) | {"_compiled_call_impl"}


@dataclass(frozen=True, eq=False)
class Slot:
    """One place that holds a module: `container[key]`, or item `index` of the tuple there."""

    owner: nn.Module
    owner_path: str
    name: str  # below the owner: "relu", or "acts.0" of an attribute that is a list
    container: dict | list
    key: object
    module: nn.Module
    index: int | None = None

    @property
    def path(self) -> str:
        return joined(self.owner_path, self.name)

    @property
    def registered(self) -> bool:
        """Whether the owner's parameters() and state_dict() reach it."""
        return self.container is self.owner._modules

    def put(self, module: nn.Module) -> None:
        if self.index is None:
            self.container[self.key] = module
            return
        items = list(self.container[self.key])
        items[self.index] = module
        kind = type(self.container[self.key])
        self.container[self.key] = kind(*items) if hasattr(kind, "_fields") else kind(items)


def joined(*names: str) -> str:
    return ".".join(name for name in names if name)


def walk(model: nn.Module) -> Iterator[Slot]:
    """Every slot of a network once, owners before what they hold.

    A module that lies in several slots is met in each of them; what it holds, once.
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
    """Whether it is a way back to the network, or to what the network is a part of."""
    return not slot.registered and any(module is model for module in slot.module.modules())


def _slots_of(owner: nn.Module, path: str) -> Iterator[Slot]:
    if isinstance(owner, parametrize.ParametrizationList):  # functions of weights
        return
    for name, module in owner._modules.items():
        if module is not None:
            yield Slot(owner, path, name, owner._modules, name, module)
    for name in [name for name in vars(owner) if name not in _OWN_ATTRIBUTES]:
        yield from _unregistered(owner, path, name, vars(owner), name, ())


def _unregistered(owner, path, name, container, key, around: tuple) -> Iterator[Slot]:
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
