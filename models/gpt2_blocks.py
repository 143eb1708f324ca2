"""Resolve what the blocks of a GPT-2 are made of: MLP, positions, norms of queries and keys.

Importing this module loads no torch: the flags are checked by it.
"""

from __future__ import annotations

from typing import Any

MLPS = ("plain", "glu")
POSITIONS = ("learned", "rope")
# The flags that decide blocks, and their values for the published network.
PUBLISHED_BLOCKS = {"mlp": "plain", "mlp_width": None, "positions": "learned", "qk_norm": False}

TOLERANCE = 1e-3  # of a block's parameters, between a gated MLP and a plain one
MULTIPLES = (64, 32, 16, 8, 4, 2, 1)  # GPUs multiply matrices faster whose sizes are such


def published_options(width: int) -> dict[str, Any]:
    """Return the options of GPT-2's own blocks, for a network of so many features."""
    return {"norm": "layer", "bias": True, **PUBLISHED_BLOCKS, "mlp_width": 4 * width}


def mlp_parameters(width: int, hidden: int, mlp: str, bias: bool) -> int:
    """Return the number of parameters of an MLP, its activation aside."""
    into = 2 if mlp == "glu" else 1  # matrices that lead to the hidden features
    return (into + 1) * width * hidden + (into * hidden + width if bias else 0)


def usual_mlp_width(width: int, mlp: str, bias: bool) -> int:
    """Return the hidden features that an MLP has if none are given.

    Those of a plain MLP are GPT-2's, 4 * `width`. A gated MLP has as many parameters as that one
    to 0.1 % of the block's: with the nearest multiple of 64 where it can, else of 32 and so on. In
    networks of some 100 features a single one may be more than that; the nearest number is taken.
    """
    if mlp == "plain":
        return 4 * width
    wanted = mlp_parameters(width, 4 * width, "plain", bias)
    none = mlp_parameters(width, 0, "glu", bias)
    of_one = mlp_parameters(width, 1, "glu", bias) - none
    block = wanted + 4 * width * width  # with attention, without its biases and the norms
    exact = (wanted - none) / of_one
    for multiple in MULTIPLES:
        nearest = max(1, round(exact / multiple) * multiple)
        if abs(nearest - exact) * of_one <= TOLERANCE * block:
            break
    return nearest


def resolve_blocks(
    shape: dict[str, int],
    mlp: str = "plain",
    mlp_width: int | None = None,
    positions: str = "learned",
    qk_norm: bool = False,
    bias: bool = True,
) -> dict[str, Any]:
    """Return the options of GPT-2's blocks that differ from the published network's.

    Args:
        shape: `embedding_dim` and `num_attention_heads`, as of `models.resolve_shape`.
        mlp: one of MLPS.
        mlp_width: hidden features; None for `usual_mlp_width`.
        positions: one of POSITIONS.
        qk_norm: queries and keys are normalised.
        bias: the linear layers have one.

    Returns:
        {"mlp", "mlp_width", "positions", "qk_norm"}, without those that are the published ones.

    Raises:
        ValueError: an unknown value, or heads whose halves `rope` cannot rotate; with the remedy.
    """
    for option, value, known in (("mlp", mlp, MLPS), ("positions", positions, POSITIONS)):
        if value not in known:
            raise ValueError(f"--{option} must be one of {', '.join(known)}, not {value!r}")
    if mlp_width is not None and mlp_width < 1:
        raise ValueError(f"--mlp_width must be a whole number above 0, not {mlp_width}")
    width, heads = shape["embedding_dim"], shape["num_attention_heads"]
    if positions == "rope" and width // heads % 2:
        raise ValueError(
            f"--positions rope rotates pairs of features, and heads of {width // heads} have an "
            f"odd number (--embedding_dim {width}, --num_attention_heads {heads}): "
            f"--embedding_dim {2 * width}, or another number of heads"
        )
    hidden = mlp_width or usual_mlp_width(width, mlp, bias)
    options = {"mlp": mlp, "mlp_width": hidden, "positions": positions, "qk_norm": qk_norm}
    published = PUBLISHED_BLOCKS | {"mlp_width": 4 * width}
    return {name: value for name, value in options.items() if value != published[name]}
