"""Start a new run from weights that exist, or scale those that were drawn.

--init_from names a run, or a file of another program's: a state dict as timm, torchvision and
Hugging Face save it. Files are read as plain values: code in a file is never run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cli.config import Config
from cli.network import ModelConfig
from cli.parser import ParsedArguments
from models.gpt2_checkpoint import read_safetensors
from models.init_gain import unit_gain
from models.neighbours import HasNeighbours
from models.rescale import rescale_around_activations
from run_folder.checkpoint import is_checkpoint, load_values
from utils import UserError, sha256_of, user_errors
from zilu.replacement.gradual import old_of

# What holds the weights in files of others; the averages of an EMA are those to be used.
PARTS = ("state_dict_ema", "model_ema", "state_dict", "model")
# What wrappers put before every name: DistributedDataParallel and AveragedModel, torch.compile,
# and transformers around timm.
PREFIXES = ("module.", "_orig_mod.", "timm_model.")
NO_WEIGHTS = ("n_averaged",)  # AveragedModel counts its steps
IN_FOLDERS = ("model.safetensors", "pytorch_model.bin")  # as Hugging Face names them
COUNTER = ".num_batches_tracked"  # of BatchNorm, since torch 0.4.1; older files lack it

Tensors = Mapping[str, Tensor]


class InitialWeights(NamedTuple):
    """Hold weights to start from.

    Attributes:
        source: the file, or what a package calls them.
        tensors: by their names in the network.
        digest: SHA-256 of the file, or of the tensors.
        remark: which part of the file they are.
        settings: of a checkpoint of this project; empty for others' weights.
        flag: that asked for them.
    """

    source: str
    tensors: Tensors
    digest: str
    remark: str
    settings: dict[str, Any]
    flag: str = "--init_from"


# --- reading ---


def read(config: Config) -> InitialWeights | None:
    """Return the weights of --init_from; None where there is none, or it is read elsewhere.

    Raises:
        UserError: they cannot be read, or are of another program.
    """
    if config.model.start is None:
        return None
    path = _file(config.model.start)
    of_images = config.KIND == "vision"
    if path.suffix == ".safetensors" and of_images:
        with user_errors():
            content: Any = read_safetensors(path)
    else:
        # Reference scripts of timm and torchvision save their parsed arguments beside the weights.
        content = load_values(path, [ParsedArguments] if of_images else ())
    digest = sha256_of(path)
    if not is_checkpoint(content):
        if not of_images:
            raise UserError(f"{path}: not a checkpoint of this project; give another")
        part, tensors = _weights_in(content, path)
        return InitialWeights(str(path), tensors, digest, part, {})
    settings = content["settings"]
    kind = settings.get("kind", "vision")
    if kind != config.KIND:
        raise UserError(f"--init_from {path}: of a {kind} model, not of a {config.KIND} model")
    remark = f"step {content.get('step', 0)}"
    return InitialWeights(str(path), _of_run(config, content, path), digest, remark, settings)


def _of_run(config: Config, saved: dict[str, Any], path: Path) -> Tensors:
    """Return the trained weights of a run's checkpoint, or the averaged ones with --init_ema."""
    if config.model.init_ema:
        if "ema" not in saved:
            raise UserError(f"--init_ema: {path} has no averaged weights; leave it out")
        averaged: Tensors = saved["ema"]["model"]
        return averaged
    if "ema" in saved:
        print(f"Note: --init_from {path}: its trained weights; --init_ema takes the averaged ones")
    trained: Tensors = saved["model"]
    return trained


def _file(start: str) -> Path:
    path = Path(start)
    found = next((path / name for name in IN_FOLDERS if (path / name).is_file()), path)
    if not found.is_file():
        raise UserError(
            f"--init_from {path}: no such checkpoint, and no such folder with a checkpoint.pt; "
            "give the folder of a run, or a checkpoint of it"
        )
    return found


def _weights_in(content: Any, path: Path) -> tuple[str, dict[str, Tensor]]:
    """Return the part of a file that holds the weights, and them by plain names."""
    name, state = "weights", content
    if isinstance(content, dict):
        parts = (part for part in PARTS if isinstance(content.get(part), dict))
        name = next(parts, name)
        state = content.get(name, content)
    tensors = {
        key: value
        for key, value in (state.items() if isinstance(state, dict) else ())
        if isinstance(key, str) and isinstance(value, Tensor) and key not in NO_WEIGHTS
    }
    if not tensors:
        raise UserError(
            f"--init_from {path} holds no tensors by name: save a state_dict, "
            "torch.save(model.state_dict(), FILE)"
        )
    return name, _without_prefixes(tensors)


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in tensors):
            return _without_prefixes({key[len(prefix) :]: x for key, x in tensors.items()})
    return tensors


def digest_of(tensors: Tensors) -> str:
    """Return the SHA-256 of the names and numbers of tensors."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


# --- putting them into a network ---


def put_into(
    model: nn.Module,
    weights: InitialWeights,
    num_classes: int | None = None,
    new_sites: Collection[str] = (),
    convert: Callable[[Tensors], Tensors] | None = None,
) -> dict[str, int]:
    """Copy the weights into a network of the same shapes, but for a head of other classes.

    The head is the weights that differ in the number of classes alone. They are left as they are,
    and their names are returned with the number of classes that they are for in the file.

    Args:
        model: the network.
        weights: to be copied.
        num_classes: of the network; None where a head is to fit as all else.
        new_sites: paths of activations that are others than those the weights were trained with.
            Their parameters stay; those in the file are the old activations'.
        convert: brings the weights of a file into the network's form, where they do not fit.

    Raises:
        UserError: it is another network; the first difference is named.
    """
    ours, theirs = model.state_dict(), dict(weights.tensors)
    own, _ = _apart(ours, new_sites)
    theirs, of_old = _apart(theirs, new_sites)
    head = _head(own, theirs, num_classes)
    if convert is not None and _difference(own, theirs, head):
        theirs = dict(convert(theirs))
        head = _head(own, theirs, num_classes)
    if difference := _difference(own, theirs, head):
        raise UserError(f"{weights.flag} {weights.source}{difference}; {_remedy(weights)}")
    fitting = {name: x for name, x in theirs.items() if name in own and name not in head}
    ours.update(fitting)  # which keeps the versions that some modules ask for
    model.load_state_dict(ours)
    _put_into_old(model, of_old, new_sites, weights)
    return {name: len(theirs[name]) for name in sorted(head)}


def _apart(tensors: Tensors, sites: Collection[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors outside `sites`, and those in them."""
    starts = tuple(f"{site}." for site in sites)
    outside = {name: x for name, x in tensors.items() if not name.startswith(starts)}
    return outside, {name: x for name, x in tensors.items() if name not in outside}


def _head(ours: Tensors, theirs: Tensors, num_classes: int | None) -> set[str]:
    """Return the names of weights that differ in the number of classes alone."""
    differing = {
        name for name, value in ours.items() if name in theirs and theirs[name].shape != value.shape
    }
    sizes = {tuple(theirs[name].shape[:1]) for name in differing}
    fits = len(sizes) == 1 and all(
        ours[name].shape[:1] == (num_classes,) and ours[name].shape[1:] == theirs[name].shape[1:]
        for name in differing
    )
    return differing if fits else set()


def _difference(ours: Tensors, theirs: Tensors, head: Collection[str]) -> str | None:
    """Return the first difference of two networks beside their heads, as a message goes on."""
    missing = {name for name in ours.keys() - theirs if not name.endswith(COUNTER)}
    for what, names in (("lacks", missing), ("also has", theirs.keys() - ours)):
        if names:
            return f" {what} {min(names)} ({len(names)} such)"
    for name, value in ours.items():
        if name in theirs and name not in head and value.shape != theirs[name].shape:
            there, here = tuple(theirs[name].shape), tuple(value.shape)
            return f": {name} is {there} there and {here} here"
    return None


def _remedy(weights: InitialWeights) -> str:
    if weights.settings:
        args = Path(weights.source).parent / "args.txt"
        return f"take the flags of that network: --config {args}"
    return "take the --model that it is of, and no --resize where positions differ"


def _put_into_old(
    model: nn.Module, tensors: Tensors, sites: Collection[str], weights: InitialWeights
) -> None:
    """Give the old activations that are mixed into new ones what they were trained to."""
    for path in sites:
        start = f"{path}."
        state = {name[len(start) :]: x for name, x in tensors.items() if name.startswith(start)}
        old = old_of(model.get_submodule(path))
        if not state or old is None or old.module is None:
            continue
        if state.keys() != old.module.state_dict().keys():
            raise UserError(
                f"{weights.flag} {weights.source} has {start}{min(state)}, which the activation "
                "that was there does not have; leave out --replace_gradually"
            )
        old.module.load_state_dict(state)


# --- weights that are drawn ---


def scale(model: nn.Module, config: ModelConfig, make: Callable[[], nn.Module]) -> None:
    """Scale the weights that were drawn as --init_gain or --rescale_init ask for."""
    if config.init_gain == "torch" and config.rescale_init is None:
        return
    assert isinstance(model, HasNeighbours), "the flags are refused for other packages' networks"
    if config.init_gain == "unit":
        with user_errors():
            unit_gain(model, make)
    if config.rescale_init is not None:
        rescale_around_activations(model, config.rescale_init)
