"""Name the activations, and say which options each one takes.

The registry is built from these tables, so each name stands in one place. This module does not
import torch, because programs read it to answer `--help`.
"""

import difflib
import math
import os
from collections.abc import Mapping
from typing import NamedTuple

# Functions of x and a sharpness sigma: gates alone, g(sigma x), and gated units, x g(sigma x). In a
# gated unit sigma only sets the scale: f_sigma(x) = f_1(sigma x) / sigma.
GATE_NAMES = ("ArcTan", "ArcTan_Approx")
GATED_NAMES = ("ZiLU", "ZiLU_Approx", "GELU_s", "SiLU_s")
SIGMA_NAMES = (*GATE_NAMES, *GATED_NAMES)

# Those that increase everywhere: backward can do with the output, which tells the slope.
OUTPUT_NAMES = ("ZiLU", "ZiLU_Approx", "SquarePlus")
SAVES = ("input", "output")  # what an activation keeps for its backward pass

# The activations with fused kernels, and the values of ZILU_KERNELS (see zilu.kernels).
FUSED_NAMES = GATED_NAMES
KERNEL_MODES = ("auto", "plain", "fused")

# torch.nn's own classes that take `inplace`, and those that do not.
INPLACE_NAMES = (
    "ReLU",
    "SiLU",
    "LeakyReLU",
    "ELU",
    "CELU",
    "SELU",
    "Hardtanh",
    "Hardswish",
    "Hardsigmoid",
    "Mish",
)
OTHER_TORCH_NAMES = (
    "GELU",
    "Sigmoid",
    "PReLU",
    "Softplus",
    "Softsign",
    "Tanh",
    "LogSigmoid",
    "Hardshrink",
    "Softshrink",
    "Tanhshrink",
    "Identity",
)
# Gated units at sigma = 1 whose gate's range is widened by a trained alpha.
EXPANDED_NAMES = ("xATLU", "xGELU", "xSiLU")
# This library's own without a sigma.
PLAIN_NAMES = ("SquarePlus", "GoLU", "ReLU2", "GELU_tanh", *EXPANDED_NAMES, "ACON_C")

ACTIVATIONS = (*SIGMA_NAMES, *INPLACE_NAMES, *OTHER_TORCH_NAMES, *PLAIN_NAMES)

# The names used in the paper (arXiv 2603.06861); and ZiLU's at sigma = 1 in arXiv 2405.20768.
ALIASES = {"IGLU": "ZiLU", "IGLU_Approx": "ZiLU_Approx", "ATLU": "ZiLU"}

_CANONICAL = {name.lower(): name for name in ACTIVATIONS}
_CANONICAL |= {alias.lower(): name for alias, name in ALIASES.items()}


CUSTOM_FORMS = "package.module:Name or path/to/file.py:Name"


class CustomName(NamedTuple):
    """Hold the place of a user's own activation, a file or a module, and its name there."""

    place: str
    name: str

    @property
    def is_file(self) -> bool:
        return self.place.endswith(".py")

    def __str__(self) -> str:
        return f"{self.place}:{self.name}"


def custom_name(text: str) -> CustomName | None:
    """Return the parts of a name of CUSTOM_FORMS, or None for any other text. Nothing is loaded."""
    place, _, name = str(text).rpartition(":")
    if place.endswith(".py"):
        place = os.path.normpath(place)
    elif not all(part.isidentifier() for part in place.split(".")):
        return None
    return CustomName(place, name) if name.isidentifier() else None


def may_be_the_same(one: str, other: str) -> bool:
    """Return whether two names differ at most in where the file of a user's activation lies."""
    names = custom_name(one), custom_name(other)
    are_files = all(each and each.is_file for each in names)
    return one == other or (are_files and names[0].name == names[1].name)  # type: ignore[union-attr]


def canonical_name(name: str) -> str:
    """Return the canonical spelling of an activation's name or alias, matched in any case.

    That of a user's own activation (CUSTOM_FORMS) is taken as it is, and not looked for.

    Raises:
        ValueError: the name is unknown. The message suggests the nearest name and lists all.
    """
    canonical = _CANONICAL.get(str(name).lower())
    if canonical is not None:
        return canonical
    if custom := custom_name(name):
        return str(custom)
    if {*str(name)} & {*":/."}:
        raise ValueError(f"an activation of your own is named {CUSTOM_FORMS}, not {name!r}")
    hint = did_you_mean(str(name), _CANONICAL)
    raise ValueError(
        f"unknown activation {name!r}; {hint}known: {', '.join(ACTIVATIONS)}; or {CUSTOM_FORMS}"
    )


def did_you_mean(name: str, spellings: Mapping[str, str]) -> str:
    """Return "did you mean X? " for the known name nearest to `name`, or "" if none is near.

    Args:
        name: what was asked for.
        spellings: the known names in lower case, each with its canonical spelling.
    """
    nearest = difflib.get_close_matches(name.lower(), spellings, n=1)
    return f"did you mean {spellings[nearest[0]]}? " if nearest else ""


def kernel_mode() -> str:
    """Return the value of ZILU_KERNELS, "auto" if it is not set.

    Raises:
        ValueError: the value is none of KERNEL_MODES.
    """
    mode = os.environ.get("ZILU_KERNELS", "auto")
    if mode not in KERNEL_MODES:
        raise ValueError(f"ZILU_KERNELS={mode}: must be one of {', '.join(KERNEL_MODES)}")
    return mode


def check_known_save(save: str) -> None:
    """Raise ValueError for what is none of SAVES."""
    if save not in SAVES:
        raise ValueError(f"save must be one of {', '.join(SAVES)}, not {save!r}")


def check_save(name: str, save: str) -> None:
    """Refuse what an activation cannot keep for backward.

    Args:
        name: the activation's canonical name.
        save: one of SAVES.

    Raises:
        ValueError: it is none of them, or the activation needs its input.
    """
    check_known_save(save)
    if save == "output" and name not in OUTPUT_NAMES:
        raise ValueError(
            f"save='output' is for {', '.join(OUTPUT_NAMES)}, which increase everywhere, so that "
            f"the output tells the slope; {name} saves what it always does"
        )


def check_sigma(sigma: float | str) -> float:
    """Return `sigma` as a float.

    Raises:
        ValueError: sigma is not a finite number above 0, or it is so small or so large that the
            limit -1 / (pi sigma) or a product with x would leave fp32's range.
    """
    try:
        value = float(sigma)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: of a tensor
        value = math.nan
    if not 1e-30 <= value <= 1e30:
        shown = sigma if isinstance(sigma, int | float | str) else type(sigma).__name__
        raise ValueError(f"sigma must be a finite number above 0 (from 1e-30 to 1e30), not {shown}")
    return value
