"""Vision models by name. Importing this package loads no torch: `--help` reads its tables.

model = build_model("resnet20", activation=nn.GELU, num_classes=10)
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

# These have no ImageNet form: the paper defines them for CIFAR's small images only.
CIFAR_RESNETS = ("resnet20", "resnet32", "resnet44", "resnet56")
FAMILIES = {
    "vgg": ("vgg11", "vgg13", "vgg16", "vgg19"),
    "resnet": ("resnet18", "resnet34", "resnet50", *CIFAR_RESNETS),
    "vit": ("vit-tiny", "vit-small", "vit-medium", "vit-base", "vit-large"),
}
VISION_MODELS = tuple(name for names in FAMILIES.values() for name in names)
STEMS = ("auto", "cifar", "imagenet")
HEADS = ("auto", "linear", "imagenet")

# The last image size, in pixels, at which "auto" means the small-image form.
SMALL_IMAGE = 64
# What each option applies to: the family, and its description for error messages.
OPTION_OWNERS = {
    "stem": ("resnet", "ResNets"),
    "head": ("vgg", "VGGs"),
    "patch_size": ("vit", "ViTs"),
}


def build_model(
    name: str,
    activation: Callable[[], nn.Module],
    num_classes: int = 10,
    image_size: int = 32,
    stem: str = "auto",
    head: str = "auto",
    patch_size: int | str = "auto",
) -> nn.Module:
    """Build a freshly initialised model: images (B, 3, image_size, image_size) to logits (B, C).

    `activation` is a factory, called once for every place where the network has an activation.
    Weights come from torch's global generator and are the same whatever the activation.
    Raises ValueError as `resolve_options` does.
    """
    options = resolve_options(name, image_size, stem, head, patch_size)
    family = _family_of(name)
    if family == "vit":  # one learned position per patch; convolutions take any size
        options["image_size"] = image_size
    module = importlib.import_module(f"{__name__}.{family}")
    return module.build(name, activation, num_classes, **options)


def resolve_options(
    name: str,
    image_size: int,
    stem: str = "auto",
    head: str = "auto",
    patch_size: int | str = "auto",
) -> dict[str, int | str]:
    """Return the options that the model's family has, every "auto" replaced by its meaning.

    That is {"head": ...} for a VGG, {"stem": ...} for a ResNet, {"patch_size": ...} for a ViT.

    Raises ValueError, one line with the remedy, for an unknown name, an option that the model
    does not have, a value that the option does not have, and an image size that does not fit.
    """
    family = _family_of(name)
    given = {"stem": stem, "head": head, "patch_size": patch_size}
    for option, (owner, applies_to) in OPTION_OWNERS.items():
        if owner != family and given[option] != "auto":
            raise ValueError(
                f"--{option} {given[option]} does not apply to {name}, only to {applies_to}: "
                f"leave out --{option}"
            )
    if family == "vgg":
        return {"head": _resolve_head(name, image_size, head)}
    if family == "resnet":
        return {"stem": _resolve_stem(name, image_size, stem)}
    return {"patch_size": _resolve_patch_size(name, image_size, patch_size)}


def _family_of(name: str) -> str:
    for family, names in FAMILIES.items():
        if name in names:
            return family
    nearest = difflib.get_close_matches(name.lower(), VISION_MODELS, n=1)
    suggestion = f"did you mean {nearest[0]}? " if nearest else ""
    raise ValueError(f"unknown model {name!r}: {suggestion}choose from {', '.join(VISION_MODELS)}")


def _resolve_head(name: str, image_size: int, head: str) -> str:
    _check_choice("head", head, HEADS)
    if image_size < 32:  # five halvings must leave a pixel
        raise ValueError(f"{name} needs images of at least 32 px, not {image_size}: --resize 32")
    if head != "auto":
        return head
    return "linear" if image_size <= SMALL_IMAGE else "imagenet"


def _resolve_stem(name: str, image_size: int, stem: str) -> str:
    _check_choice("stem", stem, STEMS)
    if name in CIFAR_RESNETS:
        if stem == "imagenet":
            raise ValueError(
                f"--stem imagenet does not apply to {name}, only to resnet18, resnet34 and "
                "resnet50: leave out --stem"
            )
        stem = "cifar"
    if stem == "auto":
        stem = "cifar" if image_size <= SMALL_IMAGE else "imagenet"
    smallest = {"cifar": 8, "imagenet": 32}[stem]
    if image_size < smallest:
        raise ValueError(
            f"{name} with --stem {stem} needs images of at least {smallest} px, "
            f"not {image_size}: --resize {smallest}"
        )
    return stem


def _resolve_patch_size(name: str, image_size: int, patch_size: int | str) -> int:
    if patch_size == "auto":
        patch_size = 4 if image_size <= SMALL_IMAGE else 16
    if not isinstance(patch_size, int) or patch_size < 1:
        raise ValueError(f"--patch_size must be auto or a whole number above 0, not {patch_size!r}")
    if image_size < patch_size or image_size % patch_size:
        fitting = max(1, round(image_size / patch_size)) * patch_size
        raise ValueError(
            f"{name} cannot cut images of {image_size} px into patches of {patch_size}: "
            f"--resize {fitting}, or a --patch_size that divides {image_size}"
        )
    return patch_size


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"--{option} must be one of {', '.join(choices)}, not {value!r}")
