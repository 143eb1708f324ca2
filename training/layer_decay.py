"""Assign parameters to layers, whose learning rates fall towards the input: --layer_decay.

The layers are timm's (timm.optim.param_groups_layer_decay): a network's method `group_matcher` has
patterns of names for its stem and its blocks, and what matches none, the head, is the last layer.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from utils import UserError

WITH_PREVIOUS = 99999  # a pattern's last number where it adds to the layer before
# Ours and torchvision's have no method. The layers are those of timm's networks of the same kind,
# in which what makes an image smaller belongs to the block that follows.
_STAGES = {
    "stem": r"^features\.0\.",
    "blocks": [
        *((rf"^features\.{stage - 1}\.", (stage, 0)) for stage in (3, 5, 7)),
        (r"^features\.(\d+)\.(\d+)\.", None),
        (r"^norm", (WITH_PREVIOUS,)),
    ],
}
OTHERS = {
    "ResNet": {"stem": r"^conv1|bn1", "blocks": r"^layer(\d+)\.(\d+)"},
    "VGG": {"stem": r"^features\.0\.", "blocks": r"^features\.(\d+)"},
    "ViT": {
        "stem": r"^cls_token|pos_embed|patch_embed",
        "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (WITH_PREVIOUS,))],
    },
    "VisionTransformer": {
        "stem": r"^class_token|conv_proj|encoder\.pos_embedding",
        "blocks": [
            (r"^encoder\.layers\.encoder_layer_(\d+)", None),
            (r"^encoder\.ln", (WITH_PREVIOUS,)),
        ],
    },
    "ConvNeXt": _STAGES,
    "SwinTransformer": _STAGES,
}


class NumberedLayers(nn.Sequential):
    """Stand for a network, of as many layers as modules, where an optimizer is tried out."""

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Return patterns of the parameters' names by depth."""
        return {"blocks": r"^(\d+)"}


def layer_scales(model: nn.Module, decay: float, activations: set[int]) -> dict[int, float]:
    """Return the share of the learning rate that each parameter has, by its id.

    It is decay^k for a parameter that is k layers before the head.

    Args:
        model: the network.
        decay: above 0, at most 1.
        activations: the ids of the parameters of activations.

    Raises:
        UserError: nothing is known of the network's layers.
    """
    layers = layers_of(model, activations)
    last = max(layers.values())
    return {id(p): decay ** (last - layers[name]) for name, p in model.named_parameters()}


def layers_of(model: nn.Module, activations: set[int]) -> dict[str, int]:
    """Return the layer of each parameter by its name, from 0 for those that read the input.

    Parameters of activations are in the layer of the parameters before them, so layers are the
    same with every activation. (timm would take a stem's PReLU for a part of the head.)
    """
    matcher = _matcher(model)
    names = [name for name, p in model.named_parameters() if id(p) not in activations]
    keys = {name: _key(name, matcher) for name in names}
    numbers: dict[tuple[float, ...], int] = {}
    for key in sorted(set(keys.values())):
        joins = numbers and key[-1] == WITH_PREVIOUS
        numbers[key] = max(numbers.values(), default=-1) + (0 if joins else 1)
    found: dict[str, int] = {}
    layer = 0
    for name, _ in model.named_parameters():
        layer = numbers[keys[name]] if name in keys else layer
        found[name] = layer
    return found


Patterns = list[tuple[str, tuple[float, ...], tuple[float, ...]]]  # pattern, prefix, suffix
Matcher = Patterns | Callable[[str], Any]


def _matcher(model: nn.Module) -> Matcher:
    """Return patterns with what stands before and behind their numbers, or timm's own function.

    Raises:
        UserError: the network has none.
    """
    described: Any = None
    if hasattr(model, "group_matcher"):
        described = model.group_matcher(coarse=False)  # type: ignore[operator]  # a timm method
    elif type(model).__module__.startswith(("models.", "torchvision.models.")):
        described = OTHERS.get(type(model).__name__)
    if described is None:
        raise UserError(
            f"--layer_decay: the layers of {type(model).__name__} are not known; leave it out, or "
            "take a model of timm that has a group_matcher"
        )
    return list(_patterns(described)) if isinstance(described, dict) else described


def _patterns(described: dict[str, Any]) -> Iterator[tuple[str, tuple[float, ...], Any]]:
    for number, patterns in enumerate(described.values()):
        if isinstance(patterns, str):
            patterns = [(patterns, None)]
        for pattern, suffix in patterns or ():
            yield pattern, (number,), suffix or ()


def _key(name: str, matcher: Matcher) -> tuple[float, ...]:
    """Return numbers by which parameters are sorted into layers."""
    if callable(matcher):
        found = matcher(name)
        return tuple(found) if isinstance(found, tuple | list) else (found,)
    for pattern, prefix, suffix in matcher:
        if match := re.match(pattern, name):
            return (*prefix, *map(float, match.groups()), *suffix)
    return (float("inf"),)
