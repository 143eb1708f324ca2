"""Name the optimizers that --optimizer takes, before any library of them is loaded."""

import ast
import importlib.util
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from utils import nearest

# Those whose settings have flags; every other one is a class of a library, with --optimizer_args.
OWN = ("adamw", "adam", "sgd")
MUON = "Muon"  # torch's, with AdamW beside it
SCHEDULE_FREE = "schedulefree/"
# Further libraries, as PREFIX/NAME: {prefix: the package's name}.
LIBRARIES = {"timm": "timm", "schedulefree": "schedulefree"}

CLOSURE = "it computes the loss several times in a step (a closure), and a run does so once"
WRAPPER = "it is wrapped around another optimizer"
CUDA_PACKAGE = "it is of another package for CUDA (apex, bitsandbytes)"
# What no run can be trained with: patterns of names, with the reason.
REFUSED = {
    r"lbfgs": CLOSURE,
    r"sparseadam": "it takes sparse gradients, and the networks' are dense",
    r"timm/(lookahead_)?adahessian": "it needs second derivatives (create_graph)",
    r"timm/lookahead": WRAPPER,
    r"timm/(lookahead_)?(bnb|fused).*": CUDA_PACKAGE,
    r"schedulefree/.*closure": CLOSURE,
    r"schedulefree/.*wrapper.*": WRAPPER,
}

# The flags of one optimizer, which mean nothing to another.
SETTINGS = ("momentum", "nesterov", "beta1", "beta2", "optimizer_args")


def optimizer_name(text: str) -> str:
    """Convert to `adamw`, a class of torch.optim, or PREFIX/NAME of another library.

    timm's names are in small letters, as timm has them, and known to be there once it is loaded.

    Raises:
        ValueError: it is unknown, or cannot be trained with.
    """
    lower = text.lower()
    for pattern, reason in REFUSED.items():
        if re.fullmatch(pattern, lower):
            raise ValueError(f"{text} cannot be used: {reason}; take another one")
    if re.fullmatch(r"timm/\w+", lower):
        return lower
    known = _known()
    if lower in known:
        return known[lower]
    if re.fullmatch(rf"{SCHEDULE_FREE}\w+", lower) and not _classes("schedulefree"):
        return f"{SCHEDULE_FREE}{text.partition('/')[2]}"  # not installed: said where it is loaded
    raise ValueError(f"unknown optimizer {text!r}; {nearest(text, [*known.values(), 'timm/NAME'])}")


def is_of_library(name: str) -> bool:
    """Return whether an optimizer's settings have no flags."""
    return name.lower() not in OWN


def has_settings_of_its_own(values: Mapping[str, Any]) -> bool:
    """Return whether momentum is the class's own, where no flag gives one."""
    return is_of_library(values["optimizer"])


def has_betas_of_its_own(values: Mapping[str, Any]) -> bool:
    """Return whether betas are the class's own, where no flags give them."""
    return has_settings_of_its_own(values) and values["optimizer"] != MUON


def over_file(given: Mapping[str, Any], file: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags of a file, and over them those that are given.

    The settings of a file's optimizer do not go over to a library's, nor a library's to another.
    """
    before, now = (str(each.get("optimizer", OWN[0])).lower() for each in (file, given))
    if "optimizer" in given and now != before and (is_of_library(before) or is_of_library(now)):
        file = {name: value for name, value in file.items() if name not in SETTINGS}
    return {**file, **given}


@cache
def _known() -> dict[str, str]:
    """Return the names of torch's and schedulefree's classes by their small letters."""
    free = [f"{SCHEDULE_FREE}{name}" for name in _classes("schedulefree")]
    found = {name.lower(): name for name in (*_classes("torch", "optim"), *free, *OWN)}
    refused = [each for each in found if any(re.fullmatch(p, each) for p in REFUSED)]
    return {lower: name for lower, name in found.items() if lower not in (*refused, "optimizer")}


def _classes(package: str, *folders: str) -> list[str]:
    """Return the classes that the __init__.py of a package imports, without loading it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return []
    tree = ast.parse(Path(spec.origin).parent.joinpath(*folders, "__init__.py").read_text("utf-8"))
    imports = [each for each in ast.walk(tree) if isinstance(each, ast.ImportFrom)]
    names = [alias.name for each in imports for alias in each.names]
    return [name for name in names if name[0].isupper()]
