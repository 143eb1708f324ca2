"""The names of the activations, and what may be asked of each. Free of torch: `--help` reads it.

The registry is built from these tables, so a name stands in one place only.
"""

import difflib
import math
import os

# Functions of x and a sharpness sigma: gates alone, g(sigma x), and x times a gate. Of the latter
# sigma is a matter of scale: f_sigma(x) = f_1(sigma x) / sigma.
GATE_NAMES = ("ArcTan", "ArcTan_Approx")
GATED_NAMES = ("ZiLU", "ZiLU_Approx", "GELU_s", "SiLU_s")
SIGMA_NAMES = (*GATE_NAMES, *GATED_NAMES)

# Those with fused kernels, and what ZILU_KERNELS may ask of them (zilu.kernels).
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
OTHER_TORCH_NAMES = ("GELU", "Sigmoid", "PReLU", "Softplus", "Softsign", "Tanh", "Identity")

ACTIVATIONS = (*SIGMA_NAMES, *INPLACE_NAMES, *OTHER_TORCH_NAMES, "SquarePlus")

# The names used in the paper (arXiv 2603.06861).
ALIASES = {"IGLU": "ZiLU", "IGLU_Approx": "ZiLU_Approx"}

_CANONICAL = {name.lower(): name for name in ACTIVATIONS}
_CANONICAL |= {alias.lower(): name for alias, name in ALIASES.items()}


def canonical_name(name: str) -> str:
    """The canonical spelling of an activation's name or alias, matched without regard to case.

    Raises:
        ValueError: unknown name; the message suggests the nearest and lists all.
    """
    canonical = _CANONICAL.get(str(name).lower())
    if canonical is not None:
        return canonical
    near = difflib.get_close_matches(str(name).lower(), _CANONICAL, n=1)
    hint = f"did you mean {_CANONICAL[near[0]]}? " if near else ""
    raise ValueError(f"unknown activation {name!r}; {hint}known: {', '.join(ACTIVATIONS)}")


def kernel_mode() -> str:
    """What ZILU_KERNELS asks for.

    Raises:
        ValueError: none of KERNEL_MODES.
    """
    mode = os.environ.get("ZILU_KERNELS", "auto")
    if mode not in KERNEL_MODES:
        raise ValueError(f"ZILU_KERNELS={mode}: must be one of {', '.join(KERNEL_MODES)}")
    return mode


def check_sigma(sigma: float) -> float:
    """`sigma` as a float.

    Raises:
        ValueError: not a finite number above 0, or one whose limits -1 / (pi sigma) and products
            with x leave fp32.
    """
    try:
        value = float(sigma)
    except ValueError:
        value = math.nan
    if not 1e-30 <= value <= 1e30:
        raise ValueError(f"sigma must be a finite number above 0 (from 1e-30 to 1e30), not {sigma}")
    return value
