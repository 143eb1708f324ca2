"""Go from a network's old activations to its new ones by degrees: f = (1 - t) old + t new.

The new modules stay what they are: their classes, their parameters and the keys of the state_dict.
Each gets a forward of its own, which mixes in what was there before, until t is 1.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zilu.replacement.rewriting import OLD, forward_before, set_forward


class Old:
    """Hold what an activation computed before it was replaced.

    Its parameters, such as PReLU's slopes, stay as they were: they are not the network's any more,
    and are not trained.

    Args:
        function: computes it of a tensor and of whether the network is being trained.
        module: the module that the function runs, if it is one.
        inplace: the function writes over its input.
    """

    def __init__(
        self,
        function: Callable[[Tensor, bool], Tensor],
        module: nn.Module | None = None,
        inplace: bool = False,
    ) -> None:
        self.function, self.module, self.inplace = function, module, inplace

    @classmethod
    def of_module(cls, module: nn.Module) -> Old:
        """Return what a module computes; a copy is kept, without its hooks' effects."""
        kept = copy.deepcopy(module).requires_grad_(False)
        return cls(functools.partial(_run, kept), kept, bool(getattr(kept, "inplace", False)))

    def __deepcopy__(self, memo: dict[int, Any]) -> Old:
        return self  # it does not change; and a copy of a network goes the same way

    def __call__(self, x: Tensor, training: bool) -> Tensor:
        return self.function(x.clone() if self.inplace else x, training)


def _run(module: nn.Module, x: Tensor, training: bool) -> Tensor:
    if isinstance(module, nn.RReLU):  # the only one that draws in training
        return F.rrelu(x, module.lower, module.upper, training)
    y: Tensor = module.forward(x)  # not by calling it: the new module has its hooks
    return y


class Gradual:
    """Hold how far a network has come from its old activations to its new ones.

        gradual = Gradual()
        replace_activations(model, "ZiLU", gradual=gradual)
        gradual.to(device)
        for step in range(steps):
            gradual.set(step / 1000)  # from step 1000 on, the network is one of ZiLUs alone
            ...

    One of them serves all activations of a network, and all copies of it: an average of the weights
    that is kept as a copy goes along. t is a tensor without dimensions, so that setting it neither
    waits for the device nor compiles anything again; the end does that once, and from there on a
    module is a plain one, to the last bit.

    Attributes:
        t: from 0, the old activations, to 1, the new ones.
        is_over: t is 1.
        old: what was there before, in the order in which the new modules were made.
    """

    def __init__(self) -> None:
        self.t = torch.zeros(())
        self.is_over = False
        self.old: list[Old] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Gradual:
        return self

    def join(self, new: nn.Module, old: Old) -> nn.Module:
        """Make `new` mix in `old`, as far as t says; return it."""
        self.old.append(old)
        vars(new)[OLD] = old
        set_forward(new, _mixed, self, old)
        return new

    def set(self, t: float) -> None:
        """Set t; above 1 it is 1. Nothing waits for the device."""
        self.is_over = t >= 1
        self.t.fill_(min(t, 1.0))

    def to(self, device: torch.device | str) -> None:
        """Bring t and the old activations' parameters to the network's device."""
        self.t = self.t.to(device)
        for old in self.old:
            if old.module is not None:
                old.module.to(device)

    def old_state(self) -> list[dict[str, Tensor]]:
        """Return the parameters and buffers of each old activation."""
        return [old.module.state_dict() if old.module is not None else {} for old in self.old]

    def load_old_state(self, states: list[dict[str, Tensor]]) -> None:
        """Put back what `old_state` returned."""
        for old, state in zip(self.old, states, strict=True):
            if old.module is not None:
                old.module.load_state_dict(state)


def old_of(new: nn.Module) -> Old | None:
    """Return what a module mixes in; None for one that mixes in nothing."""
    old: Old | None = vars(new).get(OLD)
    return old


def _mixed(
    module: nn.Module,
    previous: Callable[..., Any] | None,
    gradual: Gradual,
    old: Old,
    /,
    input: Tensor,
) -> Tensor:
    forward = forward_before(module, previous)
    if gradual.is_over:
        result: Tensor = forward(input)
        return result
    before = old(input, module.training)
    new = forward(input.clone() if getattr(module, "inplace", False) else input)
    return torch.lerp(before.to(new.dtype), new, gradual.t.to(new))
