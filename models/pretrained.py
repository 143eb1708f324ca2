"""Read what timm and torchvision publish of a network: its weights, and how images come to it.

The card says the normalisation, the image size and the crop that the published weights were
evaluated with. Weights are had through the packages, which download them into their own caches.
"""

import re
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms import InterpolationMode

from models.third_party import (
    AUXILIARY_HEADS,
    as_value_error,
    check_architecture,
    create_options,
    split_name,
    timm_package,
)

INTERPOLATIONS = tuple(mode.value for mode in InterpolationMode)
# Files of old DenseNets have a dot in these names, which torchvision takes out as it loads them.
DENSENET = r"(denselayer\d+\.(?:norm|relu|conv))\.(?=[12]\.)"


class Card(NamedTuple):
    """Hold what a package says of a network's weights.

    Attributes:
        weights: what the package calls them, or the network where there are none.
        address: where they are published; empty where there are none.
        mean, std: per channel of pixels scaled to 0..1.
        size: side of the images in pixels.
        shorter_side: an image's shorter side in pixels, before its middle is cut out.
        interpolation: how it is brought there, as torchvision names it.
    """

    weights: str
    address: str
    mean: list[float]
    std: list[float]
    size: int
    shorter_side: int
    interpolation: str

    def preprocessing(self) -> dict[str, Any]:
        """Return how images come to the network, in plain values."""
        return {name: value for name, value in self._asdict().items() if name != "address"}


def card(name: str) -> Card:
    """Return the card of a network, PACKAGE/NAME or PACKAGE/NAME.TAG.

    Raises:
        ValueError: as `check_architecture`.
    """
    check_architecture(name)
    package, architecture, tag = split_name(name)
    if package == "timm":
        return _timm_card(architecture)
    return _torchvision_card(_torchvision_weights(architecture, tag))


def _timm_card(architecture: str) -> Card:
    config = timm_package().get_pretrained_cfg(architecture)
    size = config.input_size[-1]
    hub = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else ""
    interpolation = config.interpolation
    return Card(
        f"timm/{config.architecture}" + (f".{config.tag}" if config.tag else ""),
        hub or config.url or "",
        list(config.mean),
        list(config.std),
        size,
        int(size / config.crop_pct),  # as timm rounds it
        interpolation if interpolation in INTERPOLATIONS else "bilinear",  # "random" of training
    )


def _torchvision_card(weights: Any) -> Card:
    how = weights.transforms()
    sides = (how.mean, how.std, how.crop_size[0], how.resize_size[0], how.interpolation.value)
    mean, std, size, shorter_side, interpolation = sides
    return Card(str(weights), weights.url, mean, std, size, shorter_side, interpolation)


def _torchvision_weights(architecture: str, tag: str) -> Any:
    known: Any = models.get_model_weights(architecture)  # an enumeration class of its own
    return known[tag] if tag else known.DEFAULT


def published_tensors(name: str, image_size: int) -> dict[str, Tensor]:
    """Return the state_dict of the network with its published weights and head.

    They come from the package's cache, or are downloaded into it. Nothing is drawn from torch's
    generator.

    Args:
        name: PACKAGE/NAME or PACKAGE/NAME.TAG.
        image_size: of the images; timm fits learned positions to it.

    Raises:
        ValueError: there are none, or they cannot be had; one line with the remedy.
    """
    its = card(name)
    if not its.address:
        raise ValueError(f"--pretrained: timm has no weights of {name}: leave it out")
    package, architecture, tag = split_name(name)
    complaint = (
        f"--pretrained: the weights {its.weights} cannot be had ({{}}): with internet, run this "
        f"once; without, bring the file from {its.address} and give --init_from FILE"
    )
    with as_value_error(complaint), torch.random.fork_rng(devices=[]):
        if package == "timm":
            options = create_options(name, image_size)
            network = timm_package().create_model(architecture, pretrained=True, **options)
        else:
            heads = {"aux_logits": False} if architecture in AUXILIARY_HEADS else {}
            weights = _torchvision_weights(architecture, tag)
            network = models.get_model(architecture, weights=weights, **heads)
    return network.state_dict()


def converted(name: str, network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a published file by the names and shapes that `network` has.

    timm converts the forms in which networks were first published, and fits learned positions to
    the image size. torchvision's own files have a few old names.
    """
    package, architecture, _ = split_name(name)
    if package == "timm":
        convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
        return _by_timm(convert, network, tensors) if convert else dict(tensors)
    if architecture in AUXILIARY_HEADS:
        is_auxiliary = re.compile(r"(aux\d|AuxLogits)\.").match
        tensors = {key: value for key, value in tensors.items() if not is_auxiliary(key)}
    return {re.sub(DENSENET, r"\1", key): value for key, value in tensors.items()}


def _by_timm(convert: Any, network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    try:
        return dict(convert(dict(tensors), network))
    except Exception:  # another network's tensors; what does not fit is named when they are put in
        return dict(tensors)
