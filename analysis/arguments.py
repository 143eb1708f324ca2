"""Read args.txt of a run: this project's, or the file that other code wrote in its place."""

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cli.yaml_files import read_entries
from utils import writable
from zilu.names import ACTIVATIONS, ALIASES, canonical_name

# Other code's names for the flags that describe a run.
FOREIGN_NAMES = {
    "act": "activation", "activation_name": "activation", "activation_function": "activation",
    "act_fn": "activation",
    "arch": "model", "net": "model", "epochs": "num_epochs", "n_epochs": "num_epochs",
    "num_epoch": "num_epochs", "max_epochs": "num_epochs", "max_epoch": "num_epochs",
    "total_epochs": "num_epochs", "bs": "batch_size", "learning_rate": "lr", "wd": "weight_decay",
    "random_seed": "seed", "manual_seed": "seed",
}  # fmt: skip
KNOWN_ACTIVATIONS = {name.lower() for name in (*ACTIVATIONS, *ALIASES)}


class Entry(NamedTuple):
    """Hold an argument as it stands in a file, with its line; 0 where all stand in one."""

    name: str
    value: Any
    line: int

    def __str__(self) -> str:
        place = f" (line {self.line})" if self.line else ""
        return f"{self.name} {self.value}{place}"


def read_arguments(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return a run's flags, the values they were resolved to, and its environment.

    The last two are empty for other code's runs. Their files may be YAML, JSON, `name: value` or
    `name = value` lines, or arguments as argparse prints them. Where such a file has an argument
    twice, also by two of its names, with one value, it counts once.

    Raises:
        ValueError: The file is none of these, or has two values of one argument.
    """
    try:
        entries = _entries(path.read_text(encoding="utf-8", errors="replace"))
        content = _unique(entries)
        if isinstance(content.get("environment"), dict):
            resolved, environment = content.pop("resolved", {}), content.pop("environment")
            return content, resolved, environment | {"resumed": content.pop("resumed", [])}
        flags = _unique([each._replace(value=_value(each.value)) for each in entries], _our_name)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if str(flags.get("activation")).lower() in KNOWN_ACTIVATIONS:
        flags["activation"] = canonical_name(flags["activation"])
    return flags, {}, {}


def _our_name(name: str) -> str:
    name = name.strip().lstrip("-").replace("-", "_")
    return FOREIGN_NAMES.get(name, name)


def _unique(entries: list[Entry], named: Callable[[str], str] = str) -> dict[str, Any]:
    """Return the values by what `named` makes of a name; None beside a value is no second one.

    Raises:
        ValueError: A name has two values, which differ in more than upper case.
    """
    found: dict[str, Entry] = {}
    for entry in entries:
        name = named(entry.name)
        there = found.get(name)
        if there is None or there.value is None:
            found[name] = entry
        elif entry.value not in (None, there.value) and (
            str(entry.value).lower() != str(there.value).lower()
        ):
            raise ValueError(f"it has two values of one argument: {there} and {entry}")
    return {name: entry.value for name, entry in found.items()}


def _entries(text: str) -> list[Entry]:
    """Return what a file in any of the forms holds.

    Raises:
        ValueError: It has no such form.
    """
    if match := re.search(r"Namespace\((.*)\)", text, re.DOTALL):
        try:
            call = ast.parse(f"f({match[1]})", mode="eval").body
        except SyntaxError as error:
            raise ValueError(f"printed arguments that cannot be read ({error})") from None
        if not isinstance(call, ast.Call):
            raise ValueError("printed arguments that cannot be read (something follows it)")
        return [Entry(str(each.arg), ast.unparse(each.value), 0) for each in call.keywords]
    found = read_entries(text) or ()
    entries = [Entry(name, _as_text(value), line) for name, value, line in found]
    if not entries:
        lines = enumerate(text.splitlines(), 1)
        matches = [(re.fullmatch(r"\s*([\w-]+)\s*[:=]\s*(.*?)\s*", line), n) for n, line in lines]
        entries = [Entry(match[1], match[2], number) for match, number in matches if match]
    if not entries:
        raise ValueError("no arguments can be read from it")
    return entries


def _as_text(value: Any) -> Any:
    """Return a value with all strings in it fit to be written: paths may hold any bytes."""
    if isinstance(value, str):
        return writable(value)
    if isinstance(value, dict):
        return {name: _as_text(each) for name, each in value.items()}
    return [_as_text(each) for each in value] if isinstance(value, list) else value


def _value(text: Any) -> Any:
    """Return the value that Python or YAML reads in `text`: 1e-3 is a number, true is True.

    A quoted value is read once more: '0' is a number too. What is no text is a value already.
    """
    if not isinstance(text, str):
        return text
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.strip().lower() in words:
        return words[text.strip().lower()]
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text
    return _value(value) if isinstance(value, str) and value != text else value
