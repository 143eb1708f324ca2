"""Import the module or the file of an activation, and say what its source is."""

import ast
import hashlib
import importlib
import os
import sys
import traceback
import types
from collections.abc import Iterator, Mapping
from pathlib import Path

from zilu.names import CustomName

PACKAGE = __name__.partition(".")[0]


def import_module(name: CustomName) -> tuple[types.ModuleType, dict[str, bytes]]:
    """Import a module; return it, and the bytes of its file by its name.

    Raises:
        ValueError: it is not there, or fails. One line with the reason.
    """
    try:
        module = importlib.import_module(name.place)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not f"{name.place}.".startswith(f"{missing}."):
            raise ValueError(_failed_import(name, error)) from None
        raise ValueError(
            f"{name}: there is no module {missing} here: install it, set PYTHONPATH, or name a "
            "file, path/to/file.py:Name"
        ) from None
    except (Exception, SystemExit) as error:
        raise ValueError(_failed_import(name, error)) from None
    return module, file_of(module)


def _failed_import(name: CustomName, error: BaseException, path: str | None = None) -> str:
    return f"{name}: its import fails ({described(error, path)})"


def file_of(module: types.ModuleType | None) -> dict[str, bytes]:
    """Return the bytes of a module's file by the module's name; none for one that is built in."""
    path = getattr(module, "__file__", None)
    if module is None or path is None or not Path(path).is_file():
        return {}
    return {module.__name__: Path(path).read_bytes()}


def import_file(name: CustomName, path: Path) -> tuple[types.ModuleType, dict[str, bytes]]:
    """Run a file as a module of a name that nothing else has.

    Returns:
        The module, and the bytes of the file and its neighbours by their names.

    Raises:
        ValueError: it cannot be read, fails, or would get other modules than its neighbours.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        beside = "" if os.path.isabs(name.place) else f" in {os.getcwd()}"
        raise ValueError(f"{name}: there is no file {name.place}{beside}") from None
    except OSError as error:
        raise ValueError(f"{name}: {path} cannot be read ({error.strerror})") from None
    digest = hashlib.sha256(str(path).encode("utf-8", "surrogateescape") + content).hexdigest()
    module = types.ModuleType(f"custom_{path.stem}_{digest[:16]}")
    module.__file__ = str(path)
    is_new = module.__name__ not in sys.modules  # else another name of this file has been loaded
    module = sys.modules.setdefault(module.__name__, module)
    try:
        code = compile(content, str(path), "exec", dont_inherit=True)
        neighbours = _neighbours(path, content)
        _check_loaded(name, neighbours)
        if is_new:
            _run(code, module, path.parent)
        _check_loaded(name, neighbours)
    except (Exception, SystemExit) as error:
        sys.modules.pop(module.__name__, None)
        if isinstance(error, _Shadowed):
            raise ValueError(str(error)) from None
        raise ValueError(_failed_import(name, error, str(path))) from None
    except BaseException:
        sys.modules.pop(module.__name__, None)
        raise
    files = {str(each.relative_to(path.parent)): each for each in _files(neighbours)}
    neighbouring = {there: each.read_bytes() for there, each in sorted(files.items())}
    return module, {path.name: content} | neighbouring


def _run(code: types.CodeType, module: types.ModuleType, folder: Path) -> None:
    """Run a module's code, which finds its neighbours in `folder`."""
    sys.path.insert(0, str(folder))
    try:
        exec(code, module.__dict__)
    finally:
        if str(folder) in sys.path:  # unless the code has removed it
            sys.path.remove(str(folder))


def _neighbours(path: Path, content: bytes) -> dict[str, Path]:
    """Return what a file imports from its own folder, and what that does: file or folder by name.

    This toolkit's own package is none of them.
    """
    found: dict[str, Path] = {}
    queue = [content]
    while queue:
        for name in _imported_names(queue.pop()):
            place = next(filter(Path.is_file, _places(path.parent, name)), None)
            if place is None or name in found or name == PACKAGE or place == path:
                continue
            found[name] = place
            queue += [each.read_bytes() for each in _files({name: place})]
    return found


def _places(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / name / "__init__.py", folder / f"{name}.py"


def _imported_names(content: bytes) -> Iterator[str]:
    """Yield the first parts of the names of modules that a file imports, anywhere in it."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


def _files(neighbours: Mapping[str, Path]) -> Iterator[Path]:
    """Yield the files of these modules, all of a package's."""
    for place in neighbours.values():
        yield from sorted(place.parent.rglob("*.py")) if place.name == "__init__.py" else [place]


class _Shadowed(Exception):
    """Report that an import would get, or got, another module than the file in the same folder."""


def _check_loaded(name: CustomName, neighbours: Mapping[str, Path]) -> None:
    for each, place in neighbours.items():
        module = sys.modules.get(each)
        there = getattr(module, "__file__", None)
        if module is not None and (there is None or Path(there).resolve() != place.resolve()):
            raise _Shadowed(
                f"{name} imports {each}, which lies beside it, but another module of that name is "
                f"loaded already ({there or 'built in'}): rename {place.name} there"
                if place.name != "__init__.py"
                else f"{name} imports the package {each} beside it, but another of that name is "
                f"loaded already ({there or 'built in'}): rename it"
            )


def described(error: BaseException, path: str | None) -> str:
    """Return an error's type, message, and the last line that it came from, of the file `path`."""
    text = " ".join(str(error).split()).partition(" Hint: ")[0]
    text = f"{text[:300]} ..." if len(text) > 300 else text
    if isinstance(error, SyntaxError):
        file, line = error.filename, error.lineno
        text = str(error.msg)
    else:
        frames = traceback.extract_tb(error.__traceback__)
        mine = [frame for frame in frames if path is None or frame.filename == path]
        last = mine[-1] if mine else None
        file, line = (last.filename, last.lineno) if last else (None, None)
    place = f"line {line} of {Path(file).name}: " if file else ""
    return f"{place}{type(error).__name__}{': ' if text else ''}{text}"
