"""Activations by name."""

from torch import nn

from zilu import modules
from zilu.names import INPLACE_NAMES, SIGMA_NAMES, canonical_name


def create_activation(
    name: str, sigma: float = 1.0, learnable: bool = False, inplace: bool = False
) -> nn.Module:
    """A fresh module of the activation called `name`.

    Args:
        name: one of `zilu.names.ACTIVATIONS` or an alias, without regard to case.
        sigma: sharpness of the functions that have one; the others ignore it.
        learnable: make sigma a parameter.
        inplace: passed to the torch.nn classes that take it; the others ignore it.

    Raises:
        ValueError: unknown name (the nearest is suggested), sigma not a finite number above 0, or
            `learnable` for an activation without sigma.
    """
    name = canonical_name(name)
    if name in SIGMA_NAMES:
        return getattr(modules, name)(sigma=sigma, learnable=learnable, inplace=inplace)
    if learnable:
        raise ValueError(f"{name} has no sigma to learn; those that do: {', '.join(SIGMA_NAMES)}")
    if name in INPLACE_NAMES:
        return getattr(nn, name)(inplace=inplace)
    home = nn if hasattr(nn, name) else modules
    return getattr(home, name)()
