"""Write an export to a temporary place, which becomes the target when all is whole."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils import UserError, replacing, writable

EXPORT = "export.json"


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder; it becomes `target` if nothing goes wrong, and is removed if not.

    Raises:
        UserError: the disk is full, or the place cannot be written.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    with _writing(target):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            _put_in_place(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _put_in_place(temporary: Path, target: Path) -> None:
    if not target.exists():
        os.rename(temporary, target)
        return
    old = temporary.with_name(f"{temporary.name}.old")
    os.rename(target, old)
    os.rename(temporary, target)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Give a temporary name with the target's ending; it becomes `target` if nothing goes wrong.

    Raises:
        UserError: the disk is full, or the place cannot be written.
    """
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as name:
            temporary = name.with_name(f"{name.name}{target.suffix}")
            try:
                yield temporary
                os.replace(temporary, name)
            finally:
                temporary.unlink(missing_ok=True)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Raise a UserError in place of what a full disk leads libraries to."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = _os_error(error)
        if reason is None:
            raise
        raise UserError(
            f"{target} cannot be written ({reason}); nothing is left there: make room, and see "
            "that the folder can be written"
        ) from None


def _os_error(error: BaseException | None) -> str | None:
    """Return the reason of an OSError behind an exception; Rust's and torch's only name it."""
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        for text in ("No space left", "Permission denied", "Read-only file system"):
            if text in str(error):
                return text
        error = error.__cause__ or error.__context__
    return None


def write_json(path: Path, content: Any) -> None:
    """Write plain values as indented JSON."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    path.write_text(writable(text) + "\n", encoding="utf-8")


def require(package: str, wanted: str = "", flag: str = "") -> str:
    """Return the version of an optional package.

    Args:
        package: its name.
        wanted: the oldest major version, where it matters.
        flag: what needs it.

    Raises:
        UserError: it is missing or too old, with the command that installs it.
    """
    pip = f"pip install '{package}>={wanted}'" if wanted else f"pip install {package}"
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"{flag} needs {package}, which is not installed: {pip}") from None
    if wanted and int(version.partition(".")[0]) < int(wanted):
        raise UserError(f"{flag} needs {package} {wanted} or newer, not {version}: {pip}")
    return version
