"""Offer ZiLU and its rivals as functions, as modules, and by name. The package needs torch alone.

| file | what it holds |
|---|---|
| `names.py` | the names of the activations and their options, without torch |
| `modules.py`, `registry.py` | the activations as modules, and by name |
| `functional.py` | the same as functions of a tensor |
| `gating.py` | an activation times a second tensor, as in gated linear units |
| `reference.py` | the formulas in torch's own operations, in the forms that lose no digits |
| `kernels/` | fused operators for CPUs and GPUs, and when they are taken |
| `compiled.py`, `dynamo.py` | for torch.compile: forms on GPUs, and marks on functions |
| `scripted.py` | for torch.jit.script |
| `replacement/` | replaces the activations of any network |
| `custom/` | loads activations of the user's own |
| `transformers.py`, `exported/` | for Hugging Face: names in configurations; exported networks |

The parts are imported when they are first used, so that programs can read `zilu.names` without
loading torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zilu.modules import (
        ACON_C,
        ArcTan,
        ArcTan_Approx,
        GELU_s,
        GELU_tanh,
        GoLU,
        ReLU2,
        SiLU_s,
        SquarePlus,
        ZiLU,
        ZiLU_Approx,
        xATLU,
        xGELU,
        xSiLU,
    )
    from zilu.modules import ZiLU as ATLU
    from zilu.modules import ZiLU as IGLU
    from zilu.modules import ZiLU_Approx as IGLU_Approx
    from zilu.registry import create_activation
    from zilu.replacement.replace import replace_activations
    from zilu.transformers import register_transformers

__all__ = [
    "ACON_C",
    "ATLU",
    "IGLU",
    "ArcTan",
    "ArcTan_Approx",
    "GELU_s",
    "GELU_tanh",
    "GoLU",
    "IGLU_Approx",
    "ReLU2",
    "SiLU_s",
    "SquarePlus",
    "ZiLU",
    "ZiLU_Approx",
    "create_activation",
    "register_transformers",
    "replace_activations",
    "xATLU",
    "xGELU",
    "xSiLU",
]

# pyproject.toml reads the version from this line, without importing the package.
__version__ = "0.1.0"

# The functions' modules; every other name is a class in zilu.modules.
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
    from zilu.names import ALIASES  # here, so that importing zilu loads nothing else

    return getattr(import_module("zilu.modules"), ALIASES.get(name, name))
