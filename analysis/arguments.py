"""Read args.txt of a run: this project's, or the file that other code wrote in its place."""

import ast
import re
from pathlib import Path
from typing import Any

from cli.args_file import load_yaml
from utils import printable
from zilu.names import ACTIVATIONS, ALIASES, canonical_name

# Other code's names for the flags that describe a run.
FOREIGN_NAMES = {
    "act": "activation", "activation_function": "activation", "act_fn": "activation",
    "arch": "model", "net": "model", "epochs": "num_epochs", "n_epochs": "num_epochs",
    "num_epoch": "num_epochs", "max_epochs": "num_epochs", "max_epoch": "num_epochs",
    "total_epochs": "num_epochs", "bs": "batch_size", "learning_rate": "lr", "wd": "weight_decay",
    "random_seed": "seed", "manual_seed": "seed",
}  # fmt: skip
KNOWN_ACTIVATIONS = {name.lower() for name in (*ACTIVATIONS, *ALIASES)}


def read_arguments(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return a run's flags, the values they were resolved to, and its environment.

    The last two are empty for other code's runs. Their files may be YAML, JSON, `name: value` or
    `name = value` lines, or arguments as argparse prints them.

    Raises:
        ValueError: The file is none of these.
    """
    content = _as_mapping(path.read_text(encoding="utf-8", errors="replace"))
    if not content:
        raise ValueError(f"{path}: no arguments can be read from it")
    if isinstance(content.get("environment"), dict):
        resolved, environment = content.pop("resolved", {}), content.pop("environment")
        return content, resolved, environment | {"resumed": content.pop("resumed", [])}
    flags = {}
    for name, value in content.items():
        name = str(name).strip().lstrip("-").replace("-", "_")
        flags[FOREIGN_NAMES.get(name, name)] = _value(value) if isinstance(value, str) else value
    if str(flags.get("activation")).lower() in KNOWN_ACTIVATIONS:
        flags["activation"] = canonical_name(flags["activation"])
    return flags, {}, {}


def _as_mapping(text: str) -> dict[str, Any]:
    """Return the names and values of a file in any of the forms; none where it has no such form."""
    if match := re.search(r"Namespace\((.*)\)", text, re.DOTALL):
        try:
            call = ast.parse(f"f({match[1]})", mode="eval").body
        except SyntaxError as error:
            raise ValueError(f"printed arguments that cannot be read ({error})") from None
        if not isinstance(call, ast.Call):
            raise ValueError("printed arguments that cannot be read (something follows it)")
        return {str(each.arg): ast.unparse(each.value) for each in call.keywords}
    try:
        content = load_yaml(text)
    except ValueError:
        content = None
    if isinstance(content, dict):
        return {str(name): _as_text(value) for name, value in content.items()}
    lines = (re.fullmatch(r"\s*([\w-]+)\s*[:=]\s*(.*?)\s*", line) for line in text.splitlines())
    return {match[1]: match[2] for match in lines if match}


def _as_text(value: Any) -> Any:
    """Return a value with all strings in it fit to be written: paths may hold any bytes."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {name: _as_text(each) for name, each in value.items()}
    return [_as_text(each) for each in value] if isinstance(value, list) else value


def _value(text: str) -> Any:
    """Return the value that Python or YAML reads in `text`: 1e-3 is a number, true is True.

    A quoted value is read once more: '0' is a number too.
    """
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.strip().lower() in words:
        return words[text.strip().lower()]
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text
    return _value(value) if isinstance(value, str) and value != text else value
