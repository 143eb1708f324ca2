"""Models by name. Importing this package loads no torch: `--help` reads its tables.

model = build_model("resnet20", activation=nn.GELU, num_classes=10)
model = build_model("gpt2", activation=nn.GELU, vocab_size=50257)
model = build_model("timm/convnext_tiny", activation=nn.GELU, num_classes=10, image_size=64)
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
from collections.abc import Callable
from typing import TYPE_CHECKING

from models.gpt2_checkpoint import check_fits, hugging_face_shape

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "FAMILIES",
    "HEADS",
    "INIT_GAINS",
    "LANGUAGE_MODELS",
    "LANGUAGE_PACKAGES",
    "NORMS",
    "STEMS",
    "VISION_MODELS",
    "VISION_PACKAGES",
    "build_model",
    "check_fits",
    "hugging_face_shape",
    "is_third_party",
    "package_version",
    "resolve_norm",
    "resolve_options",
    "resolve_shape",
]

# These have no ImageNet form: the paper defines them for CIFAR's small images only.
CIFAR_RESNETS = ("resnet20", "resnet32", "resnet44", "resnet56")
# Width, heads, layers. A flag can override each, so they are needed before torch is loaded.
GPT2_VARIANTS = {
    "gpt2": (768, 12, 12),
    "gpt2-medium": (1024, 16, 24),
    "gpt2-large": (1280, 20, 36),
    "gpt2-xl": (1600, 25, 48),
}
FAMILIES = {
    "vgg": ("vgg11", "vgg13", "vgg16", "vgg19"),
    "resnet": ("resnet18", "resnet34", "resnet50", *CIFAR_RESNETS),
    "vit": ("vit-tiny", "vit-small", "vit-medium", "vit-base", "vit-large"),
    "gpt2": tuple(GPT2_VARIANTS),
}
LANGUAGE_MODELS = FAMILIES["gpt2"]
VISION_MODELS = (*FAMILIES["vgg"], *FAMILIES["resnet"], *FAMILIES["vit"])
# Whose other architectures are to be had, as PREFIX/NAME, and what the package is called.
VISION_PACKAGES = {"timm": "timm", "torchvision": "torchvision"}
LANGUAGE_PACKAGES = {"hf": "transformers"}
PACKAGES = VISION_PACKAGES | LANGUAGE_PACKAGES
STEMS = ("auto", "cifar", "imagenet")
HEADS = ("auto", "linear", "imagenet")
NORMS = ("auto", "bn", "gn", "layer", "none")
INIT_GAINS = ("torch", "unit")  # "unit" is models.init_gain

# The last image size, in pixels, at which "auto" means the small-image form.
SMALL_IMAGE = 64
# What each option applies to: the family, and its description for error messages.
OPTION_OWNERS = {
    "stem": ("resnet", "ResNets"),
    "head": ("vgg", "VGGs"),
    "patch_size": ("vit", "ViTs"),
}
# The norms that a family can have. The first is the published network's, and what "auto" means.
FAMILY_NORMS = {
    "vgg": ("bn", "gn", "none"),
    "resnet": ("bn", "gn", "none"),
    "vit": ("layer", "none"),
    "gpt2": ("layer", "none"),
}
NORM_OWNERS = {
    "bn": "VGGs and ResNets",
    "gn": "VGGs and ResNets",
    "layer": "ViTs and GPT-2",
}


def is_third_party(name: str) -> bool:
    """Whether it is an architecture of another package: `timm/resnet18`, `hf/FOLDER`."""
    return _prefix(name) in PACKAGES


def package_version(name: str) -> dict[str, str]:
    """{package: version} of the package that the model is from; empty for our own."""
    package = PACKAGES.get(_prefix(name))
    return {package: importlib.metadata.version(package)} if package else {}


def _prefix(name: str) -> str | None:
    prefix, slash, _ = name.partition("/")
    return prefix if slash else None


def build_model(name: str, activation: Callable[[], nn.Module], *args, **options) -> nn.Module:
    """Build a freshly initialised model; `options` are `build_vision_model`'s or
    `build_language_model`'s, by the name.

    `activation` is a factory, called once for every place where the network has an activation.
    Weights come from torch's global generator and are the same whatever the activation and the
    norm.

    Raises:
        ValueError: an unknown name, or as `resolve_options`, `resolve_shape` and `resolve_norm`.
        TypeError: an option that no model of the kind has.
    """
    of_language = name in LANGUAGE_MODELS or _prefix(name) in LANGUAGE_PACKAGES
    if not is_third_party(name):
        _check_name(name, VISION_MODELS + LANGUAGE_MODELS)
    build = build_language_model if of_language else build_vision_model
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
) -> nn.Module:
    """Images (B, 3, image_size, image_size) to logits (B, num_classes).

    Raises ValueError as `resolve_options` and, for another package's, `models.elsewhere.build` do.
    """
    options = resolve_options(name, image_size, stem, head, patch_size, norm)
    if is_third_party(name):
        from models.third_party import build

        return build(name, activation, num_classes, image_size)
    family = _family_of(name)
    if family == "vit":  # one learned position per patch; convolutions take any size
        options["image_size"] = image_size
    module = importlib.import_module(f"{__name__}.{family}")
    return module.build(name, activation, num_classes, **options)


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
) -> nn.Module:
    """Token ids (B, T <= max_seq_length) to logits (B, T, vocab_size).

    Of `hf/FOLDER`, FOLDER holds the configuration, and `dropout` None means its own rates.

    Raises ValueError as `resolve_shape`, `resolve_norm` and, for Hugging Face's,
    `models.causal_lm.build` do.
    """
    shape = resolve_shape(name, embedding_dim, num_attention_heads, num_layers)
    norm = resolve_norm(name, norm)
    if is_third_party(name):
        from models.causal_lm import build

        folder = name.partition("/")[2]
        return build(folder, activation, vocab_size, max_seq_length, dropout)
    from models.gpt2 import GPT2

    return GPT2(activation, vocab_size, max_seq_length, **shape, dropout=dropout, norm=norm)


def resolve_shape(
    name: str,
    embedding_dim: int | None = None,
    num_attention_heads: int | None = None,
    num_layers: int | None = None,
) -> dict[str, int]:
    """Return the three sizes of a language model, every None replaced by the variant's; none for
    one of Hugging Face's, whose configuration has them.

    Raises ValueError, one line with the remedy, for an unknown name, a size below 1, a number of
    heads that does not divide the width, and a size for a model that has its own.
    """
    given = (embedding_dim, num_attention_heads, num_layers)
    if _prefix(name) in LANGUAGE_PACKAGES:
        sizes = ("embedding_dim", "num_attention_heads", "num_layers")
        for option, size in zip(sizes, given, strict=True):
            if size is not None:
                raise ValueError(
                    f"--{option} does not apply to {name}, whose config.json says its size: "
                    f"leave out --{option}, or change it there"
                )
        return {}
    _check_name(name, LANGUAGE_MODELS)
    variant = GPT2_VARIANTS[name]
    width, heads, layers = (own if g is None else g for g, own in zip(given, variant, strict=True))
    shape = {"embedding_dim": width, "num_attention_heads": heads, "num_layers": layers}
    for option, value in shape.items():
        if value < 1:
            raise ValueError(f"--{option} must be a whole number above 0, not {value}")
    if width % heads:
        divisors = [n for n in range(1, min(width, 2**16) + 1) if width % n == 0]
        fitting = min(divisors, key=lambda n: abs(n - heads))
        raise ValueError(
            f"--embedding_dim {width} cannot be divided among --num_attention_heads {heads}: "
            f"--num_attention_heads {fitting}, or an --embedding_dim that is a multiple of {heads}"
        )
    return shape


def resolve_options(
    name: str,
    image_size: int,
    stem: str = "auto",
    head: str = "auto",
    patch_size: int | str = "auto",
    norm: str = "auto",
) -> dict[str, int | str]:
    """Return the options that the model's family has, every "auto" replaced by its meaning.

    That is {"norm": ...} and {"head": ...} for a VGG, {"stem": ...} for a ResNet or
    {"patch_size": ...} for a ViT, and none for another package's model.

    Raises ValueError, one line with the remedy, for an unknown name, an option that the model
    does not have, a value that the option does not have, and an image size that does not fit.
    """
    elsewhere = _prefix(name) in VISION_PACKAGES
    if not elsewhere:
        _check_name(name, VISION_MODELS)
    family = None if elsewhere else _family_of(name)
    given = {"stem": stem, "head": head, "patch_size": patch_size}
    for option, (owner, applies_to) in OPTION_OWNERS.items():
        if owner != family and given[option] != "auto":
            whose = f"this project's {applies_to}" if elsewhere else applies_to
            raise ValueError(
                f"--{option} {given[option]} does not apply to {name}, only to {whose}: "
                f"leave out --{option}"
            )
    norm = resolve_norm(name, norm)
    if elsewhere:
        from models.third_party import check_architecture

        check_architecture(name)
        return {}
    if family == "vgg":
        return {"head": _resolve_head(name, image_size, head), "norm": norm}
    if family == "resnet":
        return {"stem": _resolve_stem(name, image_size, stem), "norm": norm}
    return {"patch_size": _resolve_patch_size(name, image_size, patch_size), "norm": norm}


def resolve_norm(name: str, norm: str = "auto") -> str:
    """Return "bn", "gn", "layer" or "none", "auto" being what the published network has; "auto" for
    another package's model, which has its own.

    Raises ValueError, one line with the remedy, for an unknown name, a norm that the model cannot
    have, and a value that the option does not have.
    """
    _check_choice("norm", norm, NORMS)
    elsewhere = is_third_party(name)
    if not elsewhere:
        _check_name(name, VISION_MODELS + LANGUAGE_MODELS)
    norms = ("auto",) if elsewhere else FAMILY_NORMS[_family_of(name)]
    if norm == "auto":
        return norms[0]
    if norm not in norms:
        whose = "this project's models" if elsewhere else NORM_OWNERS[norm]
        raise ValueError(
            f"--norm {norm} does not apply to {name}, only to {whose}: leave out --norm"
        )
    return norm


def _family_of(name: str) -> str:
    return next(family for family, names in FAMILIES.items() if name in names)


def _check_name(name: str, known: tuple[str, ...]) -> None:
    if name in known:
        return
    nearest = difflib.get_close_matches(name.lower(), known, n=1)
    suggestion = f"did you mean {nearest[0]}? " if nearest else ""
    raise ValueError(f"unknown model {name!r}: {suggestion}choose from {', '.join(known)}")


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
