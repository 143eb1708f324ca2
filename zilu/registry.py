"""Make activations by name."""

from collections.abc import Callable

from torch import nn

from zilu import modules
from zilu.names import INPLACE_NAMES, OUTPUT_NAMES, SIGMA_NAMES, canonical_name, check_save


def create_activation(
    name: str,
    sigma: float = 1.0,
    learnable: bool = False,
    inplace: bool = False,
    save: str = "input",
) -> nn.Module:
    """Make a new module of the activation called `name`.

    Args:
        name: one of `zilu.names.ACTIVATIONS` or an alias, in any case.
        sigma: sharpness of the activations that have one; the others ignore it.
        learnable: make sigma a parameter.
        inplace: passed to the torch.nn classes that take it, and honoured with save="output";
            the others ignore it.
        save: what ZiLU, ZiLU_Approx and SquarePlus keep for backward, "input" or "output".

    Raises:
        ValueError: the name is unknown (the message suggests the nearest), sigma is not a finite
            number above 0, `learnable` is set for an activation without sigma, or `save` is
            "output" for another activation.
    """
    name = canonical_name(name)
    if learnable and name not in SIGMA_NAMES:
        raise ValueError(f"{name} has no sigma to learn; those that do: {', '.join(SIGMA_NAMES)}")
    check_save(name, save)
    make: Callable[..., nn.Module] = getattr(modules if hasattr(modules, name) else nn, name)
    if name in SIGMA_NAMES:
        return make(sigma=sigma, learnable=learnable, inplace=inplace, save=save)
    if name in OUTPUT_NAMES:
        return make(inplace=inplace, save=save)
    return make(inplace=inplace) if name in INPLACE_NAMES else make()
