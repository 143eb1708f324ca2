"""Make activations by name."""

from collections.abc import Callable

from torch import nn

from zilu import modules
from zilu.names import INPLACE_NAMES, SIGMA_NAMES, canonical_name


def create_activation(
    name: str, sigma: float = 1.0, learnable: bool = False, inplace: bool = False
) -> nn.Module:
    """Make a new module of the activation called `name`.

    Args:
        name: one of `zilu.names.ACTIVATIONS` or an alias, in any case.
        sigma: sharpness of the activations that have one; the others ignore it.
        learnable: make sigma a parameter.
        inplace: passed to the torch.nn classes that take it; the others ignore it.

    Raises:
        ValueError: the name is unknown (the message suggests the nearest), sigma is not a finite
            number above 0, or `learnable` is set for an activation without sigma.
    """
    name = canonical_name(name)
    if learnable and name not in SIGMA_NAMES:
        raise ValueError(f"{name} has no sigma to learn; those that do: {', '.join(SIGMA_NAMES)}")
    make: Callable[..., nn.Module] = getattr(modules if hasattr(modules, name) else nn, name)
    if name in SIGMA_NAMES:
        return make(sigma=sigma, learnable=learnable, inplace=inplace)
    return make(inplace=inplace) if name in INPLACE_NAMES else make()
