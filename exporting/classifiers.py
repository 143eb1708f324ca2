"""Write an image classifier as a state dict for a network of timm or torchvision."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import models
from exporting import activation, card
from exporting.hugging_face import ACTIVATIONS, MODULES, WEIGHTS, save_tensors
from exporting.loading import Trained
from exporting.writing import EXPORT, write_json
from models.third_party import AUXILIARY_HEADS, create_options, split_name
from models.vit import VARIANTS
from training.model_text import activation_paths
from utils import UserError

# timm's networks of our Vision Transformers' depth; the width of the one without a name is given.
TIMM_VITS = {
    "vit-tiny": "vit_tiny_patch16_224",
    "vit-small": "vit_small_patch16_224",
    "vit-medium": "vit_small_patch16_224",
    "vit-base": "vit_base_patch16_224",
    "vit-large": "vit_large_patch16_224",
}
GRAPHS = "--to onnx or --to pt2"


class Counterpart(NamedTuple):
    """Hold what a package builds: the architecture, its options, and places of activations."""

    architecture: str
    options: dict[str, Any]
    sites: list[str]


def write(trained: Trained, folder: Path, to: str) -> dict[str, Any]:
    """Write weights, the activations' module and the card; return what the check has to know.

    Raises:
        UserError: the package has no network of the same parameters.
    """
    spec = activation.spec_of(trained.config.model, to)
    theirs = counterpart(trained, spec, to)
    by_zilu = not activation.are_modules(trained.model)
    spec |= {"sites": theirs.sites}
    settings = {
        "package": to, "architecture": theirs.architecture, "options": theirs.options,
        "activation": spec, **card.data_facts(trained.settings),
    }  # fmt: skip
    write_json(folder / "config.json", settings)
    write_json(folder / EXPORT, card.facts(trained, to))
    save_tensors(trained.model.state_dict(), folder)
    if not by_zilu:
        shutil.copyfile(MODULES / ACTIVATIONS, folder / ACTIVATIONS)
    create = _created(theirs, to)
    code = _code_by_zilu(trained, spec, create, to) if by_zilu else _code(create, to)
    title = f"{trained.config.model.model} with {trained.config.model.activation}, for {to}"
    text = card.text(trained, title, code, _notes(trained, theirs, by_zilu))
    (folder / "README.md").write_text(text, encoding="utf-8")
    return {"needs_zilu": by_zilu}


def counterpart(trained: Trained, spec: dict[str, Any], to: str) -> Counterpart:
    """Return the network of a package that takes the weights.

    Raises:
        UserError: there is none.
    """
    config, settings = trained.config.model, trained.settings
    name, size = config.model, settings["image_size"]
    sites = activation_paths(trained.model, trained.program.activation_type())
    if config.is_third_party:
        package, architecture, _ = split_name(name)
        if package != to:
            raise UserError(f"--to {to}: the network is {package}'s: --to {package}")
        options = create_options(name, size)
        if to == "torchvision" and architecture in AUXILIARY_HEADS:
            options |= {"aux_logits": False, "init_weights": True}
            options |= {"transform_input": bool(getattr(trained.model, "transform_input", False))}
        found = Counterpart(architecture, options, sites)
    else:
        found = _of_ours(trained, spec, to, sites)
    options = {**found.options, "num_classes": settings["num_classes"]}
    return found._replace(options=options)


def _of_ours(trained: Trained, spec: dict[str, Any], to: str, sites: list[str]) -> Counterpart:
    name, options = trained.config.model.model, trained.settings["model_options"]
    family, refuse = models.family_of(name), _Refusal(name, to)
    if family == "vit":
        if to != "timm":
            refuse("torchvision's Vision Transformers have other parameters: --to timm")
        if options["norm"] != "layer":
            refuse(f"timm's have no --norm {options['norm']}: {GRAPHS}")
        size = {"img_size": trained.settings["image_size"], "patch_size": options["patch_size"]}
        if name == "vit-medium":
            width = VARIANTS[name]
            size |= {"embed_dim": width.width, "num_heads": width.heads}
        return Counterpart(TIMM_VITS[name], size, sites)
    if family == "vgg":
        if to != "torchvision":
            refuse("timm's VGGs have other parameters: --to torchvision")
        if options["head"] != "imagenet" or options["norm"] not in ("bn", "none"):
            refuse(f"torchvision's have --head imagenet and --norm bn or none: {GRAPHS}")
        return Counterpart(name + "_bn" * (options["norm"] == "bn"), {}, sites)
    is_published = options["stem"] == "imagenet" and options["norm"] == "bn"
    if not is_published or options.get("shortcut", "conv") != "conv":
        refuse(
            f"{to}'s ResNets have the stem for ImageNet, BatchNorm and projections (resnet18, "
            f"resnet34 and resnet50 with --stem imagenet): {GRAPHS}"
        )
    if to == "timm":
        return Counterpart(name, {}, sites)
    if activation.has_parameters(spec, trained.model, sites):
        refuse(
            "a block of torchvision's has one activation for all its places, and what each of "
            f"these has learned differs: --to timm, {GRAPHS}"
        )
    shared = dict.fromkeys(".".join([*site.split(".")[:-1], "relu"]) for site in sites)
    return Counterpart(name, {}, list(shared))


class _Refusal:
    """Raise a UserError that says why the network has no counterpart."""

    def __init__(self, name: str, to: str):
        self.name, self.to = name, to

    def __call__(self, reason: str) -> None:
        raise UserError(f"--to {self.to}: {self.name} has no counterpart there; {reason}")


# --- the card ---


def _created(theirs: Counterpart, to: str) -> str:
    options = "".join(f", {name}={value!r}" for name, value in theirs.options.items())
    call = "timm.create_model" if to == "timm" else "torchvision.models.get_model"
    return f'{call}("{theirs.architecture}"{options})'


def _code(create: str, to: str) -> str:
    """Return the lines that build the network where this project is not installed."""
    return (
        f"import json, {to}, safetensors.torch\n"
        "import zilu_activations  # the file in this folder\n\n"
        'config = json.load(open(f"{folder}/config.json", encoding="utf-8"))\n'
        f"model = {create}\n"
        'zilu_activations.put_into(model, config["activation"])\n'
        f'model.load_state_dict(safetensors.torch.load_file(f"{{folder}}/{WEIGHTS}"))\n'
    )


def _code_by_zilu(trained: Trained, spec: dict[str, Any], create: str, to: str) -> str:
    """Return the lines for a network that calls activations inside its own code."""
    size = trained.settings["image_size"]
    options = "".join(f", {key}={value!r}" for key, value in spec.items()
                      if key in ("sigma", "learnable", "expand_gate", "args"))  # fmt: skip
    return (
        f"import {to}, safetensors.torch, torch, zilu\n\n"
        f"model = {create}\n"
        "zilu.replace_activations(\n"
        f'    model, lambda: zilu.create_activation("{spec["name"]}"{options}),\n'
        f"    example_input=torch.linspace(-1, 1, 2 * 3 * {size}**2).view(2, 3, {size}, {size}),\n"
        '    functional="rewrite", strict=True,\n'
        ")\n"
        f'model.load_state_dict(safetensors.torch.load_file(f"{{folder}}/{WEIGHTS}"))\n'
    )


def _notes(trained: Trained, theirs: Counterpart, by_zilu: bool) -> list[str]:
    mean, std = trained.settings["normalisation"]
    size = trained.settings["image_size"]
    notes = [
        "`folder` is the path of this folder.",
        f"Images come as (B, 3, {size}, {size}), scaled to 0..1, less {mean}, divided by {std}.",
    ]
    if by_zilu:
        return [*notes, "The network calls activations inside its own code, which the package "
                        "`zilu` rewrites."]  # fmt: skip
    sites = activation_paths(trained.model, trained.program.activation_type())
    if activation.has_parameters({}, trained.model, sites):
        return [*notes, "The activations have learned numbers, so they come before the weights."]
    return [*notes, "The weights fit the network as it is published, with its own activation, too."]
