"""What a caller of `replace_activations` asks for: which activations, and what for them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from torch import nn

from zilu.modules import _SigmaModule
from zilu.names import check_sigma
from zilu.registry import create_activation
from zilu.replacement.kinds import CLASSES, KINDS, UNITS, canonical_kind, nearest_kind

Factory = Callable[[], nn.Module]
Target = str | Factory
Key = str | type[nn.Module]


class Wanted:
    """Factories by class of module and by kind of activation.

    Raises:
        ValueError, TypeError: as `replace_activations` does.
    """

    def __init__(
        self,
        mapping: Mapping[Key, Target] | Target,
        sigma: float,
        learnable: bool,
        model: nn.Module,
    ):
        if not isinstance(mapping, Mapping):
            mapping = dict.fromkeys(UNITS, mapping)
        sigma = check_sigma(sigma)
        self._by_class: dict[type, Factory] = {}
        self._by_class_name: dict[str, Factory] = {}
        self._by_kind: dict[str, Factory] = {}
        for key, target in mapping.items():
            table, key = self._place(key, model)
            table[key] = _factory(target, sigma, learnable)

    def _place(self, key: Key, model: nn.Module) -> tuple[dict, Key]:
        if isinstance(key, type) and issubclass(key, nn.Module):
            kind = CLASSES.get(key)
            return (self._by_kind, kind) if kind else (self._by_class, key)
        if not isinstance(key, str):
            raise TypeError(f"an activation is a name or a class of modules, not {key!r}")
        kind = canonical_kind(key)
        if kind:
            return self._by_kind, kind
        if any(type(module).__name__ == key for module in model.modules()):
            return self._by_class_name, key
        raise ValueError(
            f"unknown activation {key!r}, and no module's class is called so; {nearest_kind(key)}"
            f"known: {', '.join(KINDS)}"
        )

    def for_module(self, module: nn.Module, kind: str | None) -> Factory | None:
        for base in type(module).__mro__:
            if base in self._by_class:
                return self._by_class[base]
        named = self._by_class_name.get(type(module).__name__)
        return named or self.for_kind(kind)

    def for_kind(self, kind: str | None) -> Factory | None:
        return self._by_kind.get(kind)

    def __str__(self) -> str:
        classes = [base.__name__ for base in self._by_class]
        names = [*classes, *self._by_class_name, *self._by_kind]
        return "activation (gates aside)" if set(names) == set(UNITS) else " or ".join(names)


def _factory(target: Target, sigma: float, learnable: bool) -> Factory:
    if isinstance(target, nn.Module):
        raise TypeError(
            f"{target} is one module, which all sites would share: give its class, a name, or a "
            "function without arguments that makes a new one"
        )
    if isinstance(target, str):
        create_activation(target, sigma, learnable)  # an unknown name, or a sigma it has not
        return functools.partial(create_activation, target, sigma, learnable)
    if isinstance(target, type) and issubclass(target, _SigmaModule):
        return functools.partial(target, sigma, learnable)
    if not callable(target):
        raise TypeError(f"{target!r} is no name of an activation, and makes none when called")
    if learnable or sigma != 1:
        raise ValueError(
            f"sigma and learnable are for the activations of zilu; {target!r} is called without "
            "arguments: functools.partial can bind them"
        )
    return target
