"""The door through which the models and scripts take activations; their home is `zilu`."""

from zilu import (
    IGLU,
    ArcTan,
    ArcTan_Approx,
    GELU_s,
    IGLU_Approx,
    SiLU_s,
    SquarePlus,
    ZiLU,
    ZiLU_Approx,
    create_activation,
)

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
]
