"""Make activations by name."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from zilu import modules
from zilu.custom.activation import load
from zilu.names import (
    CUSTOM_FORMS,
    GATED_NAMES,
    INPLACE_NAMES,
    OUTPUT_NAMES,
    SIGMA_NAMES,
    canonical_name,
    check_save,
    custom_name,
)


def create_activation(
    name: str,
    sigma: float = 1.0,
    learnable: bool = False,
    inplace: bool = False,
    save: str = "input",
    expand_gate: bool = False,
    args: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Make a new module of the activation called `name`.

    Args:
        name: one of `zilu.names.ACTIVATIONS` or an alias, in any case; or that of your own class of
            modules or function of a tensor, `package.module:Name` or `path/to/file.py:Name`, whose
            code is then imported.
        sigma: sharpness of the activations that have one; the others ignore it.
        learnable: make sigma a parameter.
        inplace: passed to the torch.nn classes that take it, and honoured with save="output";
            the others ignore it.
        save: what ZiLU, ZiLU_Approx and SquarePlus keep for backward, "input" or "output".
        expand_gate: widen the gate's range by a trained alpha, in gated units.
        args: further arguments of your own activation. `sigma`, `learnable` and `inplace` are
            passed to it where it takes them.

    Raises:
        ValueError: the name is unknown (the message suggests the nearest), sigma is not a finite
            number above 0, `learnable` is set for an activation without sigma, `expand_gate` for
            one that is no gated unit, or `save` is "output" for another one; your own cannot be
            loaded or made.
    """
    name = canonical_name(name)
    if custom_name(name):
        check_save(name, save)
        if expand_gate:
            raise ValueError(f"expand_gate is for {', '.join(GATED_NAMES)}, not for {name}")
        return load(name).make(sigma, learnable, inplace, args)
    if args:
        raise ValueError(f"args are for {CUSTOM_FORMS}, not for {name}")
    if learnable and name not in SIGMA_NAMES:
        raise ValueError(f"{name} has no sigma to learn; those that do: {', '.join(SIGMA_NAMES)}")
    if expand_gate and name not in GATED_NAMES:
        raise ValueError(
            f"{name} is no gated unit whose gate can be expanded; those: {', '.join(GATED_NAMES)}"
        )
    check_save(name, save)
    make: Callable[..., nn.Module] = getattr(modules if hasattr(modules, name) else nn, name)
    if name in GATED_NAMES:
        options = {"save": save, "expand_gate": expand_gate}
        return make(sigma=sigma, learnable=learnable, inplace=inplace, **options)
    if name in SIGMA_NAMES:
        return make(sigma=sigma, learnable=learnable, inplace=inplace, save=save)
    if name in OUTPUT_NAMES:
        return make(inplace=inplace, save=save)
    return make(inplace=inplace) if name in INPLACE_NAMES else make()
