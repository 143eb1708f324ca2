"""ZiLU and its rivals: activation functions, modules, and a registry by name. Depends on torch.

The parts are loaded when first used: `zilu.names` must be readable without loading torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zilu.modules import (
        ArcTan,
        ArcTan_Approx,
        GELU_s,
        SiLU_s,
        SquarePlus,
        ZiLU,
        ZiLU_Approx,
    )
    from zilu.modules import ZiLU as IGLU
    from zilu.modules import ZiLU_Approx as IGLU_Approx
    from zilu.registry import create_activation
    from zilu.replacement.replace import replace_activations
    from zilu.transformers import register_transformers

__all__ = [
    "IGLU",
    "ArcTan",
    "ArcTan_Approx",
    "GELU_s",
    "IGLU_Approx",
    "SiLU_s",
    "SquarePlus",
    "ZiLU",
    "ZiLU_Approx",
    "create_activation",
    "register_transformers",
    "replace_activations",
]

# Where what is not a module is defined.
_FUNCTIONS = {
    "create_activation": "zilu.registry",
    "register_transformers": "zilu.transformers",
    "replace_activations": "zilu.replacement.replace",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'zilu' has no attribute {name!r}")
    if name in _FUNCTIONS:
        return getattr(import_module(_FUNCTIONS[name]), name)
    from zilu.names import ALIASES

    return getattr(import_module("zilu.modules"), ALIASES.get(name, name))
