"""Changes to a network that can be taken back."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from zilu.replacement import rewriting
from zilu.replacement.slots import Slot


class Changes:
    """What was done to a network so far."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []

    def take_back(self) -> None:
        while self._undo:
            self._undo.pop()()

    def put(self, slot: Slot, module: nn.Module) -> None:
        self._undo.append(lambda: slot.put(slot.module))
        slot.put(module)

    def register(self, holder: nn.Module, name: str, module: nn.Module) -> None:
        """As a child that the holder does not have yet."""
        self._undo.append(lambda: holder._modules.pop(name))
        holder._modules[name] = module

    def turn_into_child(self, owner: nn.Module, name: str, module: nn.Module) -> None:
        """A module in place of a plain attribute."""
        value = vars(owner).pop(name)
        self._undo.append(lambda: vars(owner).update({name: value}))
        self.register(owner, name, module)

    def set(self, module: nn.Module, name: str, value: object) -> None:
        before = getattr(module, name)
        self._undo.append(lambda: setattr(module, name, before))
        setattr(module, name, value)

    def rewrite(self, module: nn.Module, holder: nn.Module, plan: rewriting.Plan) -> None:
        rewriting.rewrite(module, holder, plan)
        self._undo.append(lambda: rewriting.restore_forward(module))

    def leave_calls(self, module: nn.Module, kinds: tuple[str, ...]) -> None:
        rewriting.leave_calls(module, kinds)
        self._undo.append(lambda: rewriting.restore_forward(module))
