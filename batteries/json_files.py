"""Keep dataclasses in JSON files, and read them back as the types that their fields declare."""

import dataclasses
import json
import math
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from run_folder.metrics import METRICS, Metric
from utils import UserError, read_json, replacing

T = TypeVar("T")


def save(found: Any, path: Path, indent: int | None = None) -> None:
    """Write a dataclass as JSON."""
    text = json.dumps(plain(found), indent=indent, ensure_ascii=False, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def load(kind: type[T], path: Path, name: str, remedy: str) -> T:
    """Return the dataclass in a file.

    Args:
        kind: the dataclass.
        path: of the file.
        name: what it holds, for the message.
        remedy: what makes the file anew, for the message.

    Raises:
        UserError: it cannot be read, or is of another version.
    """
    try:
        return typed(kind, read_json(path.read_text(encoding="utf-8")))  # type: ignore[no-any-return]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: no {name} that can be read ({error}); {remedy}") from None


def plain(value: Any) -> Any:
    """Return a value as JSON has it; a metric by its name, what is not finite as null."""
    if isinstance(value, Metric):
        return value.name
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {field.name: plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def typed(kind: Any, value: Any) -> Any:
    """Return JSON's value as the type that a field declares."""
    if isinstance(kind, types.UnionType):  # X | None
        inner = next(each for each in typing.get_args(kind) if each is not types.NoneType)
        return None if value is None else typed(inner, value)
    if kind is Metric:
        return METRICS[value]
    if dataclasses.is_dataclass(kind):
        kinds = typing.get_type_hints(kind)
        return kind(**{name: typed(kinds[name], each) for name, each in value.items()})  # type: ignore[operator]
    if typing.get_origin(kind) is tuple:
        return tuple(typed(typing.get_args(kind)[0], each) for each in value)
    if kind is float:
        return math.nan if value is None else float(value)
    return value
