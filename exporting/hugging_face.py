"""Write a language model as a folder for Hugging Face's transformers."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exporting import activation, card, tokenizer
from exporting.loading import Trained
from exporting.writing import EXPORT, require, write_json
from models.causal_lm import CausalLM
from models.gpt2_blocks import published_options
from models.gpt2_checkpoint import to_hugging_face
from training.model_text import activation_paths
from utils import UserError

MODULES = Path(__file__).parents[1] / "zilu" / "exported"
ACTIVATIONS = "zilu_activations.py"
OLDEST = "5.0"
WEIGHTS = "model.safetensors"
# Settings of configurations that name the activation.
ACTIVATION_SETTINGS = ("activation_function", "hidden_act", "hidden_activation", "activation")


def write(trained: Trained, folder: Path, to: str) -> dict[str, Any]:
    """Write everything; return what the check has to know.

    Where transformers has the very network, the folder needs no code: GPT-2, or one of its own,
    with an activation that it knows. Otherwise a module comes along.

    Raises:
        UserError: the activation, or its place in the network, cannot be put into such a folder.
    """
    spec = activation.spec_of(trained.config.model, to)
    data = trained.config.data
    longest = trained.config.model.max_seq_length
    tokens = tokenizer.write(data, longest, folder)
    ids = dict.fromkeys(("bos_token_id", "eos_token_id"), tokens["end_of_text"])
    model = trained.model
    if isinstance(model, CausalLM):
        module = _write_theirs(model, trained, spec, ids, folder)
    else:
        module = _write_ours(model, trained, spec, ids, folder)
    write_json(folder / "generation_config.json", ids)
    if module is not None:
        for name in (f"{module}.py", ACTIVATIONS):
            shutil.copyfile(MODULES / name, folder / name)
    write_json(folder / EXPORT, card.facts(trained, to))
    (folder / "README.md").write_text(_card(trained, module, tokens), encoding="utf-8")
    return {"texts": tokens["texts"]}


# --- our GPT-2 ---


def _write_ours(
    model: nn.Module, trained: Trained, spec: dict[str, Any], ids: dict[str, int], folder: Path
) -> str | None:
    """Write configuration and weights; return the module that they need."""
    config, known = trained.config.model, activation.hugging_face_name(spec)
    network: Any = model  # a GPT2
    shape, options, tensors = network.shape, network.options, model.state_dict()
    if known is not None and options == published_options(shape["embedding_dim"]):
        rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), config.dropout)
        settings = {
            "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2",
            "activation_function": known, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True,
            "vocab_size": shape["vocab_size"], "n_positions": shape["max_seq_length"],
            "n_embd": shape["embedding_dim"], "n_head": shape["num_attention_heads"],
            "n_layer": shape["num_layers"], **rates, **ids,
        }  # fmt: skip
        module, tensors = None, to_hugging_face(tensors)
    else:
        module = "modeling_zilu_gpt2"
        settings = {
            "architectures": ["ZiluGPT2ForCausalLM"], "model_type": "zilu_gpt2",
            "auto_map": _auto_map(module, "ZiluGPT2"),
            "vocab_size": shape["vocab_size"],
            "max_position_embeddings": shape["max_seq_length"],
            "hidden_size": shape["embedding_dim"],
            "num_attention_heads": shape["num_attention_heads"],
            "num_hidden_layers": shape["num_layers"], "dropout": config.dropout,
            "activation": spec, **options, **ids,
        }  # fmt: skip
    _write_config(folder, settings)
    save_tensors(tensors, folder)
    return module


def _auto_map(module: str, name: str) -> dict[str, str]:
    return {
        "AutoConfig": f"{module}.{name}Config",
        "AutoModelForCausalLM": f"{module}.{name}ForCausalLM",
    }


def _write_config(folder: Path, settings: dict[str, Any]) -> None:
    version = require("transformers", "5", "--to hf")
    write_json(
        folder / "config.json", settings | {"dtype": "float32", "transformers_version": version}
    )


def save_tensors(tensors: dict[str, Tensor], folder: Path) -> None:
    """Write a folder's file of weights, beside its config.json."""
    library = importlib.import_module("safetensors.torch")
    plain = {name: value.detach().contiguous() for name, value in tensors.items()}
    library.save_file(plain, folder / WEIGHTS, metadata={"format": "pt"})
    shutil.copymode(folder / "config.json", folder / WEIGHTS)  # which it makes for its owner alone


# --- a network of transformers ---


def _write_theirs(
    model: CausalLM, trained: Trained, spec: dict[str, Any], ids: dict[str, int], folder: Path
) -> str | None:
    """Write configuration and weights; return the module that they need."""
    network: Any = model.network
    known = activation.hugging_face_name(spec)
    settings = network.config.to_dict() | {"use_cache": True, **ids}
    tied = set(network.all_tied_weights_keys)
    tensors = {name: x for name, x in network.state_dict().items() if name not in tied}
    if known is not None:
        named = settings | {
            name: known for name in ACTIVATION_SETTINGS if isinstance(settings.get(name), str)
        }
        if _is_the_same(named, model, trained):
            _write_config(folder, named | {"architectures": [type(network).__name__]})
            save_tensors(tensors, folder)
            return None
    if not activation.are_modules(model):
        raise UserError(
            f"--to hf: {trained.config.model.model} calls activations inside its own code, where "
            "no module of the folder can put others: --to onnx or --to pt2"
        )
    sites = activation_paths(model, nn.Module)
    module = "modeling_zilu_hf"
    wrapped = {
        "architectures": ["ZiluHFForCausalLM"], "model_type": "zilu_hf",
        "auto_map": _auto_map(module, "ZiluHF"),
        "network": settings,
        "activation": spec | {"sites": [site.removeprefix("network.") for site in sites]},
        "tie_word_embeddings": False, **ids,
    }  # fmt: skip
    _write_config(folder, wrapped)
    save_tensors({f"network.{name}": value for name, value in tensors.items()}, folder)
    return module


@torch.no_grad()
def _is_the_same(settings: dict[str, Any], model: CausalLM, trained: Trained) -> bool:
    """Return whether transformers' own network of these settings computes the same."""
    transformers = importlib.import_module("transformers")
    own = dict(settings)
    kind = own.pop("model_type")
    try:
        config = transformers.AutoConfig.for_model(kind, **own)
        network = transformers.AutoModelForCausalLM.from_config(config)
        network.load_state_dict(model.network.state_dict())
    except (ValueError, RuntimeError, KeyError):  # another form of it
        return False
    ids = trained.examples()[0]
    return torch.allclose(network.eval()(input_ids=ids).logits, model(ids), rtol=1e-4, atol=1e-5)


# --- the card ---


def _card(trained: Trained, module: str | None, tokens: dict[str, Any]) -> str:
    version = require("transformers", "5", "--to hf")
    trust = "" if module is None else ", trust_remote_code=True"
    code = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("FOLDER"{trust})\n'
        f'tokenizer = AutoTokenizer.from_pretrained("FOLDER"{trust})\n'
    )
    notes = [f"transformers {OLDEST} or newer; written with, and checked in, {version}."]
    if module is None:
        notes += ["The network is transformers' own, so no further code is needed."]
    else:
        notes += [
            f"`{module}.py` and `{ACTIVATIONS}` build the network; they need torch and "
            "transformers alone. Where the package `zilu` is installed, "
            "`zilu.register_transformers()` registers the same network with fused activations, "
            "and `trust_remote_code` is not needed."
        ]
    notes += [
        "In training every text began with the token of its end (`tokenizer.bos_token`); the "
        "tokenizer does not add it."
    ]
    if tokens["by_lines"]:
        notes += ["Texts were encoded line by line in training, and the tokenizer does the same."]
    header = "library_name: transformers\npipeline_tag: text-generation\ntags:\n- zilu\n"
    title = f"{trained.config.model.model} with {trained.config.model.activation}"
    return card.text(trained, title, code, notes, header)
