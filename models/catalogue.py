"""List the networks that can be built by name, and resolve what their options mean.

No torch here: `--help` and the checks of flags read these tables before torch is loaded.
"""

from typing import Any, NamedTuple

from models.gpt2_blocks import PUBLISHED_BLOCKS
from utils import nearest


class TransformerShape(NamedTuple):
    """Hold the sizes of a language model that flags can override."""

    embedding_dim: int
    num_attention_heads: int
    num_layers: int


# Table 2 of Radford et al. 2019; the published checkpoints have heads of 64 units each.
GPT2_VARIANTS = {
    "gpt2": TransformerShape(768, 12, 12),
    "gpt2-medium": TransformerShape(1024, 16, 24),
    "gpt2-large": TransformerShape(1280, 20, 36),
    "gpt2-xl": TransformerShape(1600, 25, 48),
}
# These have no ImageNet form: the paper defines them for CIFAR's small images only.
CIFAR_RESNETS = ("resnet20", "resnet32", "resnet44", "resnet56")
FAMILIES = {
    "vgg": ("vgg11", "vgg13", "vgg16", "vgg19"),
    "resnet": ("resnet18", "resnet34", "resnet50", *CIFAR_RESNETS),
    "vit": ("vit-tiny", "vit-small", "vit-medium", "vit-base", "vit-large"),
    "gpt2": tuple(GPT2_VARIANTS),
}
LANGUAGE_MODELS = FAMILIES["gpt2"]
VISION_MODELS = (*FAMILIES["vgg"], *FAMILIES["resnet"], *FAMILIES["vit"])
TABLE_MODELS = ("mlp",)

# Further architectures come from these packages, as PREFIX/NAME: {prefix: the package's name}.
VISION_PACKAGES = {"timm": "timm", "torchvision": "torchvision"}
LANGUAGE_PACKAGES = {"hf": "transformers"}
PACKAGES = VISION_PACKAGES | LANGUAGE_PACKAGES

STEMS = ("auto", "cifar", "imagenet")
SHORTCUTS = ("conv", "pad")
HEADS = ("auto", "linear", "wide", "imagenet")
NORMS = ("auto", "bn", "gn", "layer", "rms", "none")
TABLE_NORMS = ("none", "bn", "layer")
INIT_GAINS = ("torch", "unit")  # "unit" is models.init_gain
ENCODINGS = ("none", "fourier", "siren")  # of coordinates

# The largest image size, in pixels, at which "auto" means the form for small images.
SMALL_IMAGE = 64
DEFAULTS = {"stem": "auto", "shortcut": "conv", "head": "auto", "patch_size": "auto"}
# The one family that has each option, and that family's plural for error messages.
OPTION_OWNERS = {
    "stem": ("resnet", "ResNets"),
    "shortcut": ("resnet", "ResNets"),
    "head": ("vgg", "VGGs"),
    "patch_size": ("vit", "ViTs"),
}
# The norms that a family can have. The first is the published network's, and what "auto" means.
FAMILY_NORMS = {
    "vgg": ("bn", "gn", "none"),
    "resnet": ("bn", "gn", "none"),
    "vit": ("layer", "bn", "none"),
    "gpt2": ("layer", "rms", "none"),
}
NORM_OWNERS = {
    "bn": "VGGs, ResNets and ViTs",
    "gn": "VGGs and ResNets",
    "layer": "ViTs and GPT-2",
    "rms": "GPT-2",
}


# --- names ---


def is_third_party(name: str) -> bool:
    """Return whether another package defines the model: `timm/resnet18`, `hf/FOLDER`."""
    return _prefix(name) in PACKAGES


def is_language_model(name: str) -> bool:
    """Return whether the model reads token ids and not images."""
    return name in LANGUAGE_MODELS or _prefix(name) in LANGUAGE_PACKAGES


def family_of(name: str) -> str:
    """Return the key of FAMILIES under which `name`, one of this project's models, is listed."""
    return next(family for family, names in FAMILIES.items() if name in names)


def check_name(name: str, known: tuple[str, ...]) -> None:
    """Refuse a name that is not among `known`.

    Raises:
        ValueError: with the nearest name and all of `known`.
    """
    if name not in known:
        raise ValueError(f"unknown model {name!r}: {nearest(name, known)}")


def _prefix(name: str) -> str:
    """Return PREFIX of PREFIX/NAME, "" for a plain name."""
    prefix, slash, _ = name.partition("/")
    return prefix if slash else ""


# --- the sizes of language models ---


def resolve_shape(
    name: str,
    embedding_dim: int | None = None,
    num_attention_heads: int | None = None,
    num_layers: int | None = None,
) -> dict[str, int]:
    """Return the three sizes of a language model, each None replaced by the variant's own size.

    The result is empty for a Hugging Face model: its config.json holds the sizes.

    Raises:
        ValueError: an unknown name, a size below 1, a number of heads that does not divide the
            width, or a size for a Hugging Face model; one line with the remedy.
    """
    given = {
        "embedding_dim": embedding_dim,
        "num_attention_heads": num_attention_heads,
        "num_layers": num_layers,
    }
    if _prefix(name) in LANGUAGE_PACKAGES:
        _check_no_sizes(name, given)
        return {}
    check_name(name, LANGUAGE_MODELS)
    variant = GPT2_VARIANTS[name]._asdict()
    shape = {option: variant[option] if size is None else size for option, size in given.items()}
    for option, size in shape.items():
        if size < 1:
            raise ValueError(f"--{option} must be a whole number above 0, not {size}")
    _check_heads(shape["embedding_dim"], shape["num_attention_heads"])
    return shape


def _check_no_sizes(name: str, given: dict[str, int | None]) -> None:
    for option, size in given.items():
        if size is not None:
            raise ValueError(
                f"--{option} does not apply to {name}, whose config.json says its size: "
                f"leave out --{option}, or change it there"
            )


def _check_heads(width: int, heads: int) -> None:
    if width % heads == 0:
        return
    divisors = [n for n in range(1, min(width, 2**16) + 1) if width % n == 0]
    fitting = min(divisors, key=lambda n: abs(n - heads))
    raise ValueError(
        f"--embedding_dim {width} cannot be divided among --num_attention_heads {heads}: "
        f"--num_attention_heads {fitting}, or an --embedding_dim that is a multiple of {heads}"
    )


# --- the options of image classifiers ---


def resolve_options(
    name: str,
    image_size: int,
    stem: str = "auto",
    head: str = "auto",
    patch_size: int | str = "auto",
    norm: str = "auto",
    shortcut: str = "conv",
    drop_path: float | None = None,
    drop_rate: float | None = None,
) -> dict[str, Any]:
    """Return the options that the model's family has, each "auto" replaced by its meaning.

    These are {"head", "norm"} for a VGG, {"stem", "norm"} for a ResNet, with "shortcut" where it is
    "pad", {"patch_size", "norm"} for a ViT, and none for another package's model. The rates of
    dropping are among them where they are given.

    Raises:
        ValueError: an unknown name, an option that the model does not have, a value that the option
            does not have, or an image size that does not fit; one line with the remedy.
    """
    third_party = _prefix(name) in VISION_PACKAGES
    if not third_party:
        check_name(name, VISION_MODELS)
    family = None if third_party else family_of(name)
    given = {"stem": stem, "shortcut": shortcut, "head": head, "patch_size": patch_size}
    for option, (owner, plural) in OPTION_OWNERS.items():
        if owner != family and given[option] != DEFAULTS[option]:
            owners = f"this project's {plural}" if third_party else plural
            raise ValueError(
                f"--{option} {given[option]} does not apply to {name}, only to {owners}: "
                f"leave out --{option}"
            )
    norm = resolve_norm(name, norm)
    rates = {"drop_path": drop_path, "drop_rate": drop_rate}
    given_rates = {option: rate for option, rate in rates.items() if rate is not None}
    if third_party:
        from models.third_party import check_architecture  # loads torch

        check_architecture(name)
        return given_rates
    if family == "vgg":
        if given_rates.pop("drop_path", 0):
            raise ValueError(
                f"--drop_path does not apply to {name}, which has no residual branches, only to "
                "ResNets and ViTs: leave out --drop_path"
            )
        return {"head": _resolve_head(name, image_size, head), "norm": norm} | given_rates
    if family == "resnet":
        _check_choice("shortcut", shortcut, SHORTCUTS)
        options: dict[str, Any] = {"stem": _resolve_stem(name, image_size, stem)}
        # Checkpoints from before there was a choice say nothing of it, and have projections.
        padded = {"shortcut": "pad"} if shortcut == "pad" else {}
        return options | {"norm": norm} | padded | given_rates
    patches = _resolve_patch_size(name, image_size, patch_size)
    return {"patch_size": patches, "norm": norm} | given_rates


def resolve_norm(name: str, norm: str = "auto") -> str:
    """Return "bn", "gn", "layer", "rms" or "none"; "auto" becomes the published network's norm.

    For another package's model, whose norms stay as they are, the result is "auto".

    Raises:
        ValueError: an unknown name, a norm that the model cannot have, or a value that the option
            does not have; one line with the remedy.
    """
    _check_choice("norm", norm, NORMS)
    third_party = is_third_party(name)
    if not third_party:
        check_name(name, VISION_MODELS + LANGUAGE_MODELS)
    norms = ("auto",) if third_party else FAMILY_NORMS[family_of(name)]
    if norm == "auto":
        return norms[0]
    if norm not in norms:
        owners = "this project's models" if third_party else NORM_OWNERS[norm]
        raise ValueError(
            f"--norm {norm} does not apply to {name}, only to {owners}: leave out --norm"
        )
    return norm


def check_biases(name: str, bias: bool) -> None:
    """Refuse to leave out the biases of a language model that does not know how.

    Raises:
        ValueError: it is a Hugging Face model.
    """
    if is_third_party(name) and not bias:
        raise ValueError(
            f"--no_bias does not apply to {name}, whose config.json says what has a bias: "
            "leave out --no_bias"
        )


def check_own_blocks(name: str, **blocks: Any) -> None:
    """Refuse other blocks than a Hugging Face model has: its configuration decides them.

    Args:
        name: the model's.
        **blocks: values of PUBLISHED_BLOCKS.

    Raises:
        ValueError: it is one, and a value is not the default.
    """
    for option, value in blocks.items() if is_third_party(name) else ():
        if value != PUBLISHED_BLOCKS[option]:
            shown = "" if value is True else f" {value}"
            raise ValueError(
                f"--{option}{shown} does not apply to {name}, whose config.json says what its "
                f"blocks are: leave out --{option}, or change it there"
            )


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
