"""Build image classifiers of timm and torchvision with any activation.

A network is built with its own activation, as its authors build it, and then gets another one. So
its initial weights do not depend on the activation. models/causal_lm.py does the same with
Hugging Face's language models.
"""

import copy
import functools
import importlib.util
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn
from torchvision import models

from models import drop_rates
from models.activation import replace_activations
from utils import did_you_mean
from zilu.replacement.gradual import Gradual

TYPICAL_SIZE = 224  # pixels
# Names of torchvision's that start like this take the image size, as the option given here.
SIZE_OPTIONS = {"vit_": "image_size", "maxvit_": "input_size"}
# These have heads for training alone, which give further logits; they are built without them.
AUXILIARY_HEADS = ("googlenet", "inception_v3")

Network = TypeVar("Network", bound=nn.Module)


def check_installed(package: str) -> None:
    """Refuse a model whose package is not installed.

    Raises:
        ValueError: with the command that installs it.
    """
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"{package} is not installed: pip install {package}")


@contextmanager
def as_value_error(complaint: str) -> Iterator[None]:
    """Turn what another package's code raises inside the block into a ValueError of one line.

    Running out of memory is not that code's fault, and passes as it is.

    Args:
        complaint: the line; `{}` in it stands for the reason.
    """
    try:
        yield
    except (MemoryError, drop_rates.Refusal):
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and "alloc" in str(error):
            raise
        reason = textwrap.shorten(str(error) or type(error).__name__, 300, placeholder=" ...")
        raise ValueError(complaint.replace("{}", reason)) from None


# --- names ---


class Names(NamedTuple):
    """Hold the names of a package's architectures."""

    classifiers: list[str]
    others: list[str]  # for detection, video and so on


def check_architecture(name: str) -> None:
    """Refuse a name that is not PACKAGE/ARCHITECTURE with an image classifier of the package.

    Raises:
        ValueError: one line with the remedy.
    """
    package, architecture, tag = split_name(name)
    check_installed(package)
    names = {"timm": _timm_names, "torchvision": _torchvision_names}[package]()
    if architecture in names.classifiers:
        _check_tag(name, architecture, tag)
        return
    if architecture in names.others:
        raise ValueError(f"{name} is no image classifier: take another model")
    near = did_you_mean(architecture, names.classifiers)
    suggestion = f"did you mean {package}/{near}? " if near else ""
    listing = f"{'timm' if package == 'timm' else 'torchvision.models'}.list_models()"
    raise ValueError(f"unknown model {name!r}: {suggestion}{listing} lists all")


def split_name(name: str) -> tuple[str, str, str]:
    """Return package, architecture and the tag of weights, where torchvision's name has one.

    torchvision/resnet50.IMAGENET1K_V1 is tagged as timm/resnet50.a1_in1k is. timm itself takes the
    tag as a part of the name.
    """
    package, _, architecture = name.partition("/")
    if package == "torchvision":
        architecture, _, tag = architecture.partition(".")
        return package, architecture, tag
    return package, architecture, ""


def _check_tag(name: str, architecture: str, tag: str) -> None:
    weights: Any = models.get_model_weights(architecture) if tag else []
    known = [each.name for each in weights]
    if tag and tag not in known:
        raise ValueError(f"unknown weights in {name!r}: torchvision's are {', '.join(known)}")


def _timm_names() -> Names:
    """Return timm's classifiers, with and without the tag of pretrained weights."""
    timm = timm_package()
    return Names([*timm.list_models(), *timm.list_pretrained()], [])


def _torchvision_names() -> Names:
    classifiers = models.list_models(module=models)
    return Names(classifiers, [name for name in models.list_models() if name not in classifiers])


# --- building ---


def build(
    name: str,
    activation: Callable[[], nn.Module],
    num_classes: int,
    image_size: int,
    rates: Mapping[str, float] = MappingProxyType({}),
    *,
    gradual: Gradual | None = None,
    for_published: bool = False,
) -> nn.Module:
    """Build a classifier of images (B, 3, image_size, image_size), with logits (B, num_classes).

    Its attribute `replacement` becomes the report of what was replaced. `rates` may have
    "drop_path", which the blocks' rates rise to, and "drop_rate", of the dropout before the head.

    Args:
        name: PACKAGE/ARCHITECTURE.
        activation: the factory of the new activations.
        num_classes: of the head.
        image_size: side of the images in pixels.
        gradual: mixes the network's own activations into the new ones.
        for_published: published weights go into it, or did, with what torchvision does for them.

    Raises:
        ValueError: as `check_architecture`; rates that it does not have; images that it cannot
            take, other outputs, or activations that cannot be replaced. One line with the remedy.
    """
    check_architecture(name)
    own_size = _own_size(name, image_size)
    remedy = f"--resize {own_size}" if own_size != image_size else "take another model"
    images = torch.linspace(-1, 1, 2 * 3 * image_size**2).view(2, 3, image_size, image_size)
    with as_value_error(f"{name} cannot take images of {image_size} px ({{}}): {remedy}"):
        network = _create(name, num_classes, image_size, rates)
        if for_published and split_name(name)[1] in AUXILIARY_HEADS:
            network.transform_input = True  # type: ignore[assignment]  # as torchvision then does
        outputs = _outputs(network, images)
    for output in outputs:
        if not isinstance(output, torch.Tensor) or output.shape != (2, num_classes):
            shape = tuple(getattr(output, "shape", [type(output).__name__]))
            raise ValueError(
                f"{name} gives {shape} for 2 images, not logits (2, {num_classes}): take an image "
                "classifier"
            )
    return with_activation(name, network, activation, images, gradual)


def _create(name: str, num_classes: int, image_size: int, rates: Mapping[str, float]) -> nn.Module:
    """Build the network as its authors do, with random weights."""
    package, architecture, _ = split_name(name)
    options = create_options(name, image_size)
    if package == "timm":
        make = functools.partial(
            timm_package().create_model, architecture, num_classes=num_classes, **options
        )
        return drop_rates.built(name, make, rates)
    if architecture in AUXILIARY_HEADS:
        options |= {"aux_logits": False, "init_weights": True}  # True: what None warns it will do
    make = functools.partial(
        models.get_model, architecture, weights=None, num_classes=num_classes, **options
    )
    return drop_rates.built(name, make, rates)


def create_options(name: str, image_size: int) -> dict[str, Any]:
    """Return the options that tell a network the image size, where it has to be told."""
    package, architecture, _ = split_name(name)
    if package == "timm":
        return {"img_size": image_size} if _timm_config(architecture).fixed_input_size else {}
    return {
        option: image_size if option == "image_size" else (image_size, image_size)
        for start, option in SIZE_OPTIONS.items()
        if architecture.startswith(start)
    }


def _timm_config(architecture: str) -> Any:
    """Return timm's PretrainedCfg of the architecture."""
    return timm_package().get_pretrained_cfg(architecture)


def timm_package() -> Any:
    """Return the package timm, which is loaded when it is first needed."""
    import timm  # an optional dependency

    return timm


def _own_size(name: str, image_size: int) -> int:
    """Return the image size in pixels to propose where the network cannot take `image_size`."""
    package, architecture, _ = split_name(name)
    if package == "timm":
        return _timm_config(architecture).input_size[-1]
    weights: Any = models.get_model_weights(
        architecture
    )  # an enumeration class of the architecture's own
    smallest = weights.DEFAULT.meta["min_size"][0]
    return smallest if smallest > image_size else TYPICAL_SIZE


@torch.no_grad()
def _outputs(network: nn.Module, images: torch.Tensor) -> list[Any]:
    """Return what a copy gives for `images` (2, 3, H, W), in evaluation and in training.

    It is a copy because training would change the statistics of norms.
    """
    trial = copy.deepcopy(network)
    return [trial.train(training)(images) for training in (False, True)]


# --- activations ---


def with_activation(
    name: str,
    network: Network,
    activation: Callable[[], nn.Module],
    example: torch.Tensor,
    gradual: Gradual | None = None,
) -> Network:
    """Replace all activations of `network` but gates, in place, by what `activation` makes.

    Args:
        name: the model's, for error messages.
        network: its attribute `replacement` becomes the report of what was replaced.
        activation: the factory of the new activations.
        example: an input of the network.
        gradual: mixes the network's own activations into the new ones. Below 1 they write over
            nothing.

    Raises:
        ValueError: nothing can be replaced, something would be left, or an activation that works
            in place would overwrite what is read later.
    """
    with as_value_error(f"{name}: its activations cannot be replaced ({{}}): take another model"):
        report = replace_activations(
            network, activation, example_input=example, functional="rewrite", strict=True,
            gradual=gradual,
        )  # fmt: skip
    network.replacement = report  # type: ignore[assignment]  # torch types attributes as modules
    site = activation()
    if getattr(site, "inplace", False):
        _check_inplace(name, network, type(site), example)
    return network


def _check_inplace(name: str, network: nn.Module, kind: type, example: torch.Tensor) -> None:
    """Compare with the same activations not in place, in value and by a backward pass."""
    trial = copy.deepcopy(network).eval()
    complaint = f"--inplace: {name} reads what an activation would overwrite: leave out --inplace"
    with as_value_error(complaint):
        output = trial(example)
        output.sum().backward()
    for module in trial.modules():
        if type(module) is kind:
            module.inplace = False  # type: ignore[assignment]  # torch types attributes as modules
    if not torch.allclose(trial(example), output, atol=1e-5):
        raise ValueError(complaint)
