"""Build models by name. Importing this package loads no torch: `--help` reads its tables.

    model = build_model("resnet20", activation=nn.GELU, num_classes=10)
    model = build_model("gpt2", activation=nn.GELU, vocab_size=50257)
    model = build_model("timm/convnext_tiny", activation=nn.GELU, num_classes=10, image_size=64)
    model = build_table_model("mlp", activation=nn.GELU, num_features=30, num_classes=2)

| file | what it holds |
|---|---|
| `catalogue.py` | the models by name; resolves their options |
| `vgg.py`, `resnet.py`, `vit.py` | ours for images |
| `gpt2.py` | ours for text |
| `gpt2_blocks.py`, `mlp.py`, `rotary.py` | what its blocks are made of; MLPs; positions |
| `gpt2_checkpoint.py` | a folder of its weights, as Hugging Face writes it |
| `generation.py` | continues texts by a language model |
| `table_mlp.py` | ours for rows of numbers |
| `coordinate_mlp.py`, `derivatives.py` | ours for coordinates, and what differentiates it |
| `norms.py` | the norms of ours |
| `drop_path.py` | drops branches of ours |
| `third_party.py` | networks of timm and torchvision |
| `drop_rates.py`, `pretrained.py` | their rates of dropping; their published weights |
| `causal_lm.py` | networks of Hugging Face |
| `init_gain.py`, `rescale.py` | initial weights by an activation's gain; the control for sigma |
| `neighbours.py` | the layers next to activations, whose weights these scale |
| `operations.py` | counts what a network computes |
| `activation.py` | the door through which models and scripts take activations |
"""

from __future__ import annotations  # `nn` below is known to type checkers only

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from models.catalogue import (
    ENCODINGS,
    FAMILIES,
    FAMILY_NORMS,
    GPT2_VARIANTS,
    HEADS,
    INIT_GAINS,
    LANGUAGE_MODELS,
    LANGUAGE_PACKAGES,
    NORMS,
    SHORTCUTS,
    STEMS,
    TABLE_MODELS,
    TABLE_NORMS,
    VISION_MODELS,
    VISION_PACKAGES,
    check_biases,
    check_name,
    check_own_blocks,
    family_of,
    is_language_model,
    is_third_party,
    resolve_norm,
    resolve_options,
    resolve_shape,
)
from models.gpt2_blocks import (
    MLPS,
    POSITIONS,
    PUBLISHED_BLOCKS,
    published_options,
    resolve_blocks,
)
from models.gpt2_checkpoint import check_fits, check_options, hugging_face_shape

if TYPE_CHECKING:
    from torch import nn

    from zilu.replacement.gradual import Gradual

__all__ = [
    "ENCODINGS",
    "FAMILIES",
    "FAMILY_NORMS",
    "GPT2_VARIANTS",
    "HEADS",
    "INIT_GAINS",
    "LANGUAGE_MODELS",
    "LANGUAGE_PACKAGES",
    "MLPS",
    "NORMS",
    "POSITIONS",
    "PUBLISHED_BLOCKS",
    "SHORTCUTS",
    "STEMS",
    "TABLE_MODELS",
    "TABLE_NORMS",
    "VISION_MODELS",
    "VISION_PACKAGES",
    "build_model",
    "build_table_model",
    "check_biases",
    "check_fits",
    "check_options",
    "check_own_blocks",
    "hugging_face_shape",
    "is_third_party",
    "published_options",
    "resolve_blocks",
    "resolve_norm",
    "resolve_options",
    "resolve_shape",
]


def build_model(
    name: str, activation: Callable[[], nn.Module], *args: Any, **options: Any
) -> nn.Module:
    """Build a freshly initialised model.

    The weights come from torch's global generator. They depend neither on the activation nor on
    the norm.

    Args:
        name: one of VISION_MODELS or LANGUAGE_MODELS, or PREFIX/NAME of another package.
        activation: a factory; it is called once for every place where the network has an
            activation.
        *args: passed on, with `options`, to `build_vision_model` or `build_language_model`.
        **options: likewise.

    Raises:
        ValueError: an unknown name, or as `resolve_options`, `resolve_shape` and `resolve_norm`.
        TypeError: an option that no model of the kind has.
    """
    if not is_third_party(name):
        check_name(name, VISION_MODELS + LANGUAGE_MODELS)
    build = build_language_model if is_language_model(name) else build_vision_model
    return build(name, activation, *args, **options)


def build_vision_model(
    name: str,
    activation: Callable[[], nn.Module],
    num_classes: int = 10,
    image_size: int = 32,
    stem: str = "auto",
    head: str = "auto",
    patch_size: int | str = "auto",
    norm: str = "auto",
    shortcut: str = "conv",
    drop_path: float | None = None,
    drop_rate: float | None = None,
    gradual: Gradual | None = None,
    for_published: bool = False,
) -> nn.Module:
    """Build a classifier of images (B, 3, image_size, image_size), with logits (B, num_classes).

    None for a rate of dropping means the network's own. `gradual` and `for_published` are those of
    `models.third_party.build`, for networks of other packages alone.

    Raises:
        ValueError: as `resolve_options` and, for another package's, `models.third_party.build`.
    """
    options = resolve_options(
        name, image_size, stem, head, patch_size, norm, shortcut, drop_path, drop_rate
    )
    if is_third_party(name):
        build = _load("third_party").build
        return build(
            name, activation, num_classes, image_size, options, gradual=gradual,
            for_published=for_published,
        )  # fmt: skip
    family = family_of(name)
    if family == "vit":  # one learned position per patch; convolutions take any size
        options["image_size"] = image_size
    return _load(family).build(name, activation, num_classes, **options)


def build_language_model(
    name: str,
    activation: Callable[[], nn.Module],
    *,
    vocab_size: int,
    max_seq_length: int = 1024,
    embedding_dim: int | None = None,
    num_attention_heads: int | None = None,
    num_layers: int | None = None,
    dropout: float | None = 0.1,
    norm: str = "auto",
    bias: bool = True,
    mlp: str = "plain",
    mlp_width: int | None = None,
    positions: str = "learned",
    qk_norm: bool = False,
) -> nn.Module:
    """Build a model of token ids (B, T), T <= max_seq_length, with logits (B, T, vocab_size).

    For `hf/FOLDER`, the configuration is read from FOLDER, and `dropout=None` keeps the rates that
    it names.

    Raises:
        ValueError: as `resolve_shape`, `resolve_norm`, `check_biases`, `resolve_blocks` and, for
            Hugging Face's, `check_own_blocks` and `models.causal_lm.build`.
    """
    check_biases(name, bias)
    blocks: dict[str, Any] = {
        "mlp": mlp,
        "mlp_width": mlp_width,
        "positions": positions,
        "qk_norm": qk_norm,
    }
    check_own_blocks(name, **blocks)
    shape = resolve_shape(name, embedding_dim, num_attention_heads, num_layers)
    norm = resolve_norm(name, norm)
    if is_third_party(name):
        folder = name.partition("/")[2]
        return _load("causal_lm").build(folder, activation, vocab_size, max_seq_length, dropout)
    assert dropout is not None, "only a Hugging Face configuration has rates of its own"
    options = {**shape, "dropout": dropout, "norm": norm, "bias": bias}
    options |= resolve_blocks(shape, **blocks, bias=bias)
    return _load("gpt2").GPT2(activation, vocab_size, max_seq_length, **options)


def build_table_model(
    name: str,
    activation: Callable[[], nn.Module],
    *,
    num_features: int,
    num_classes: int,
    hidden_layers: int = 3,
    hidden_width: int = 128,
    norm: str = "none",
    dropout: float = 0.0,
) -> nn.Module:
    """Build a classifier of rows (B, num_features), with logits (B, num_classes).

    Raises:
        ValueError: an unknown name or norm.
    """
    check_name(name, TABLE_MODELS)
    if norm not in TABLE_NORMS:
        raise ValueError(f"--norm must be one of {', '.join(TABLE_NORMS)}, not {norm!r}")
    return _load("table_mlp").TableMLP(
        activation, num_features, num_classes, hidden_layers, hidden_width, norm, dropout
    )


def _load(module: str) -> Any:
    """Return one of this package's files, which loads torch."""
    return importlib.import_module(f"{__name__}.{module}")
