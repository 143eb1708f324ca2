"""Read a GPT-2 checkpoint folder as Hugging Face writes it: its shape and its tensors.

Importing this module loads no torch: the shape is needed when flags are checked. Every error is a
ValueError of one line that names the folder or file and the remedy.
"""

from __future__ import annotations  # `torch` below is known to type checkers only

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.gpt2_blocks import published_options
from utils import read_json

if TYPE_CHECKING:
    import torch

# {our name for a size: config.json's}
SIZES = {
    "vocab_size": "vocab_size",
    "max_seq_length": "n_positions",
    "embedding_dim": "n_embd",
    "num_attention_heads": "n_head",
    "num_layers": "n_layer",
}
# What an exported folder calls them where no plain GPT-2 is the network.
EXPORTED = "zilu_gpt2"
EXPORTED_SIZES = {
    "vocab_size": "vocab_size",
    "max_seq_length": "max_position_embeddings",
    "embedding_dim": "hidden_size",
    "num_attention_heads": "num_attention_heads",
    "num_layers": "num_hidden_layers",
}
# Settings that make another network of the same weights, and the one value that GPT-2 has.
FIXED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
    "layer_norm_epsilon": 1e-5,
}
WANTED = "a Hugging Face GPT-2 checkpoint has config.json and model.safetensors"


def hugging_face_shape(folder: str | Path) -> dict[str, int]:
    """Return the sizes of the checkpoint in `folder`, by the names in SIZES.

    Raises:
        ValueError: no folder, no config.json, a broken one, or another network than models.gpt2.
    """
    path = Path(folder) / "config.json"
    config = read_config(folder)
    names = EXPORTED_SIZES if config["model_type"] == EXPORTED else SIZES
    shape: dict[str, Any] = {ours: config.get(theirs) for ours, theirs in names.items()}
    for ours, value in shape.items():
        if type(value) is not int or value < 1:
            raise ValueError(
                f"--init_from: {path} must have a whole number above 0 as {names[ours]}, "
                f"not {value!r}: copy or download it again"
            )
    if shape["embedding_dim"] % shape["num_attention_heads"]:
        raise ValueError(
            f"--init_from: {path} has n_embd {shape['embedding_dim']}, which its n_head "
            f"{shape['num_attention_heads']} does not divide: copy or download it again"
        )
    fixed = {**FIXED, "n_inner": 4 * shape["embedding_dim"]}
    for setting, only in fixed.items():
        value = config.get(setting)
        if value is not None and value != only:  # absent, or null as n_inner is: GPT-2's
            raise ValueError(
                f"--init_from: {path} has {setting} {json.dumps(value)}, and this GPT-2 knows only "
                f"{json.dumps(only)}: take another checkpoint"
            )
    return shape


def read_config(folder: str | Path) -> dict[str, Any]:
    """Return the config.json of a GPT-2, Hugging Face's or one that export.py wrote.

    Raises:
        ValueError: no folder, no config.json, a broken one, or another network.
    """
    path = Path(folder) / "config.json"
    if not path.parent.is_dir():
        raise ValueError(f"--init_from {folder}: no such folder; {WANTED}")
    config = _read_json(path)
    kind = config.get("model_type")
    if kind not in ("gpt2", EXPORTED):
        raise ValueError(f"--init_from: {path} has model_type {kind!r}, not 'gpt2'; {WANTED}")
    return config


def options_of(folder: str | Path) -> dict[str, Any]:
    """Return the keys of HAS, and `mlp_width`, with the values that the GPT-2 in `folder` has.

    Raises:
        ValueError: as `hugging_face_shape`.
    """
    width = hugging_face_shape(folder)["embedding_dim"]
    published, config = published_options(width), read_config(folder)
    if config["model_type"] != EXPORTED:
        return published
    return {name: config.get(name, value) for name, value in published.items()}


# What a GPT-2 has by its options, and the flag for the same.
HAS: dict[str, dict[Any, str]] = {
    "norm": {
        "layer": "LayerNorm: leave out --norm",
        "rms": "RMSNorm: give --norm rms",
        "none": "no norms: give --norm none",
    },
    "bias": {True: "biases: leave out --no_bias", False: "no biases: give --no_bias"},
    "mlp": {"plain": "plain MLPs: leave out --mlp", "glu": "gated MLPs: give --mlp glu"},
    "positions": {
        "learned": "learned positions: leave out --positions",
        "rope": "rotated queries and keys: give --positions rope",
    },
    "qk_norm": {
        False: "no norms of queries and keys: leave out --qk_norm",
        True: "norms of queries and keys: give --qk_norm",
    },
}


def check_options(folder: str | Path, options: Mapping[str, Any]) -> None:
    """Refuse a network whose blocks are others than those of the GPT-2 in `folder`.

    Args:
        folder: the checkpoint's.
        options: the network's, by the keys of `options_of`.

    Raises:
        ValueError: with the flag that fixes it; or as `options_of`.
    """
    for name, theirs in options_of(folder).items():
        if options[name] == theirs:
            continue
        width = f"MLPs of {theirs} features: give --mlp_width {theirs}"
        has = width if name == "mlp_width" else HAS[name].get(theirs, f"an unknown {name}")
        raise ValueError(f"--init_from {folder} has {has}")


def check_fits(folder: str | Path, shape: dict[str, int]) -> None:
    """Refuse a checkpoint whose weights do not fit a model of `shape`.

    Args:
        folder: the checkpoint's.
        shape: the model's sizes, by the keys of `hugging_face_shape`.

    Raises:
        ValueError: the shapes differ, with the flag that fixes it; or as `hugging_face_shape`.
    """
    theirs = hugging_face_shape(folder)
    for name in ("embedding_dim", "num_attention_heads", "num_layers"):
        if shape[name] != theirs[name]:
            raise ValueError(
                f"--init_from {folder} has {name} {theirs[name]}, not {shape[name]}: "
                f"--{name} {theirs[name]}"
            )
    if shape["max_seq_length"] > theirs["max_seq_length"]:
        raise ValueError(
            f"--init_from {folder} has {theirs['max_seq_length']} positions, fewer than "
            f"--max_seq_length {shape['max_seq_length']}: "
            f"--max_seq_length {theirs['max_seq_length']}"
        )
    if shape["vocab_size"] != theirs["vocab_size"]:
        raise ValueError(
            f"--init_from {folder} has a vocabulary of {theirs['vocab_size']}, not "
            f"{shape['vocab_size']}: take the tokenizer that it was trained with, "
            f"and --vocab_size {theirs['vocab_size']}"
        )


def to_hugging_face(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of our GPT-2 by Hugging Face's names, in the layout of its Conv1D."""
    theirs = {}
    for key, value in tensors.items():
        if key.endswith(("c_attn.weight", "c_fc.weight", "c_proj.weight")):
            value = value.mT  # (in, out)
        theirs[f"transformer.{key.replace('wpe', 'wpe.weight')}"] = value
    return theirs


def read_tensors(folder: str | Path) -> dict[str, torch.Tensor]:
    """Return all tensors of model.safetensors, or of the files that its index names, by their key.

    Raises:
        ValueError: no such file, or a broken one.
    """
    tensors: dict[str, torch.Tensor] = {}
    for path in _weight_files(Path(folder)):
        tensors |= read_safetensors(path)
    return tensors


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a file by their key.

    Raises:
        ValueError: it cannot be read.
    """
    import safetensors.torch  # loads torch

    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(
            f"--init_from: {path} cannot be read ({error}): copy or download it again"
        ) from None


def _weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of `folder`, one or several."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.exists():
        return [whole]
    if index.exists():
        weight_map = _read_json(index).get("weight_map")
        names = weight_map.values() if isinstance(weight_map, dict) else [None]
        if not all(isinstance(name, str) for name in names):
            raise ValueError(f"--init_from: {index} has no weight_map: copy or download it again")
        return [folder / name for name in sorted(set(names))]
    if any(folder.glob("pytorch_model*.bin")):
        raise ValueError(
            f"--init_from {folder} has pytorch_model.bin but no model.safetensors: convert it with "
            '`python -c "import sys, transformers; '
            "transformers.GPT2LMHeadModel.from_pretrained(sys.argv[1])"
            f'.save_pretrained(sys.argv[1])" {shlex.quote(str(folder))}`'
        )
    raise ValueError(f"--init_from {folder}: no model.safetensors there; {WANTED}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"--init_from: no {path} to read ({error.strerror}); {WANTED}") from None
    except ValueError as error:  # not JSON, or not UTF-8
        raise ValueError(
            f"--init_from: {path} is not JSON ({error}): copy or download it again"
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"--init_from: {path} holds no JSON object: copy or download it again")
    return content
