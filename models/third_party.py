"""Other people's image classifiers, timm's and torchvision's, with any activation.

A network is built with its own activation, as its authors build it, and then gets another one: so
its initial weights are the same whatever the activation. models/causal_lm.py does the same with
Hugging Face's language models.
"""

import copy
import difflib
import importlib.util
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from models.activation import replace_activations

TYPICAL_SIZE = 224  # pixels
# Of torchvision's: what takes the image size, and what turns heads off that only training has.
SIZE_OPTIONS = {"vit_": "image_size", "maxvit_": "input_size"}
AUXILIARY_HEADS = ("googlenet", "inception_v3")


def check_installed(package: str) -> None:
    """Raises ValueError, with the remedy, where `package` is missing."""
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"{package} is not installed: pip install {package}")


@contextmanager
def refusing(complaint: str) -> Iterator[None]:
    """Makes a ValueError of what somebody else's code raises; `{}` in `complaint` is the reason.

    Memory that runs out is not their fault, and passes.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and "alloc" in str(error):
            raise
        reason = textwrap.shorten(str(error) or type(error).__name__, 300, placeholder=" ...")
        raise ValueError(complaint.replace("{}", reason)) from None


# --- names ---


def check_architecture(name: str) -> None:
    """Raises ValueError, one line with the remedy, unless `name` is PACKAGE/ARCHITECTURE with an
    image classifier that the package has."""
    package, _, architecture = name.partition("/")
    check_installed(package)
    known, others = {"timm": _timm_names, "torchvision": _torchvision_names}[package]()
    if architecture in known:
        return
    if architecture in others:
        raise ValueError(f"{name} is no image classifier: take another model")
    nearest = difflib.get_close_matches(architecture.lower(), known, n=1)
    suggestion = f"did you mean {package}/{nearest[0]}? " if nearest else ""
    listing = f"{'timm' if package == 'timm' else 'torchvision.models'}.list_models()"
    raise ValueError(f"unknown model {name!r}: {suggestion}{listing} lists all")


def _timm_names() -> tuple[list[str], list[str]]:
    """The classifiers, with and without the tag of pretrained weights; no others."""
    import timm

    return [*timm.list_models(), *timm.list_pretrained()], []


def _torchvision_names() -> tuple[list[str], list[str]]:
    """The classifiers, and all."""
    from torchvision import models

    return models.list_models(module=models), models.list_models()


# --- building ---


def build(
    name: str, activation: Callable[[], nn.Module], num_classes: int, image_size: int
) -> nn.Module:
    """Images (B, 3, image_size, image_size) to logits (B, num_classes).

    Its `replacement` is the report of what was replaced.

    Raises:
        ValueError: as `check_architecture`; images that it cannot take, other outputs, activations
            that cannot be replaced. One line with the remedy.
    """
    check_architecture(name)
    own_size = _own_size(name, image_size)
    remedy = f"--resize {own_size}" if own_size != image_size else "take another model"
    images = torch.linspace(-1, 1, 2 * 3 * image_size**2).view(2, 3, image_size, image_size)
    with refusing(f"{name} cannot take images of {image_size} px ({{}}): {remedy}"):
        network = _built(name, num_classes, image_size)
        outputs = _outputs(network, images)
    for output in outputs:
        if not isinstance(output, torch.Tensor) or output.shape != (2, num_classes):
            shape = tuple(getattr(output, "shape", [type(output).__name__]))
            raise ValueError(
                f"{name} gives {shape} for 2 images, not logits (2, {num_classes}): take an image "
                "classifier"
            )
    return with_activation(name, network, activation, images)


def _built(name: str, num_classes: int, image_size: int) -> nn.Module:
    package, _, architecture = name.partition("/")
    if package == "timm":
        import timm

        fixed = timm.get_pretrained_cfg(architecture).fixed_input_size
        options = {"img_size": image_size} if fixed else {}
        return timm.create_model(architecture, num_classes=num_classes, **options)
    from torchvision.models import get_model

    options = {}
    for start, option in SIZE_OPTIONS.items():
        if architecture.startswith(start):
            options[option] = image_size if option == "image_size" else (image_size, image_size)
    if architecture in AUXILIARY_HEADS:
        options |= {"aux_logits": False, "init_weights": True}  # True: what None warns it will do
    return get_model(architecture, weights=None, num_classes=num_classes, **options)


def _own_size(name: str, image_size: int) -> int:
    """The image size in pixels to propose where `image_size` is none for it."""
    package, _, architecture = name.partition("/")
    if package == "timm":
        import timm

        return timm.get_pretrained_cfg(architecture).input_size[-1]
    from torchvision.models import get_model_weights

    smallest = get_model_weights(architecture).DEFAULT.meta["min_size"][0]
    return smallest if smallest > image_size else TYPICAL_SIZE


@torch.no_grad()
def _outputs(network: nn.Module, images: torch.Tensor) -> list:
    """Of a copy, in evaluation and in training: the statistics of norms are to stay."""
    trial = copy.deepcopy(network)
    return [trial.train(training)(images) for training in (False, True)]


# --- activations ---


def with_activation(
    name: str, network: nn.Module, activation: Callable[[], nn.Module], example: torch.Tensor
) -> nn.Module:
    """`network` with all its activations but gates replaced, in place, by what `activation` makes.

    `example` is an input. The network's `replacement` becomes the report.

    Raises:
        ValueError: nothing can be replaced, something would be left, or an activation that works
            in place would overwrite what is read later.
    """
    with refusing(f"{name}: its activations cannot be replaced ({{}}): take another model"):
        network.replacement = replace_activations(
            network, activation, example_input=example, functional="rewrite", strict=True
        )
    site = activation()
    if getattr(site, "inplace", False):
        _check_inplace(name, network, type(site), example)
    return network


def _check_inplace(name: str, network: nn.Module, kind: type, example: torch.Tensor) -> None:
    """Compare with the same activations not in place, in value and by a backward pass."""
    trial = copy.deepcopy(network).eval()
    complaint = f"--inplace: {name} reads what an activation would overwrite: leave out --inplace"
    with refusing(complaint):
        output = trial(example)
        output.sum().backward()
    for module in trial.modules():
        if type(module) is kind:
            module.inplace = False
    if not torch.allclose(trial(example), output, atol=1e-5):
        raise ValueError(complaint)
