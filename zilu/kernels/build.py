"""Compile the operators on first use, and keep the library file for every later process.

The file's name contains a hash of all that the build depends on: sources, flags, torch, the
processor's instructions, and the compiler. This is because home folders are shared between unlike
machines, and because torch gets updated.
"""

import contextlib
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import torch

from zilu.kernels.coefficients import POLYNOMIALS

Command = Sequence[str | Path]

_FOLDER = Path(__file__).parent
_TORCH = Path(torch.__file__).parent
_INCLUDES = ("include", "include/torch/csrc/api/include")
_LIBRARIES = ("-lc10", "-ltorch_cpu")
# Calls of operators.cpp and gpu.cpp spend their time in torch, so -O1 is enough.
_SOURCES = {"cpu.cpp": "-O3", "gpu.cpp": "-O1", "operators.cpp": "-O1"}
_HEADERS = ("kernels.h", "units.h")

_FLAGS = [
    "-std=c++20",
    "-fPIC",
    # Never -ffast-math: loading a library built with it can make the whole process flush subnormal
    # numbers to zero.
    "-fno-math-errno",
    "-fno-trapping-math",
    f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}",
    "-DAT_PER_OPERATOR_HEADERS",  # includes only the ATen operators in use: halves the build time
]
if platform.machine() in ("x86_64", "AMD64"):
    _FLAGS += ["-march=native", "-mprefer-vector-width=512"]
else:
    _FLAGS += ["-mcpu=native"]

_BUILD_SECONDS = 600  # limit of one build, and of waiting for another process's build


def load() -> None:
    """Register the operators with torch; build them first if no earlier build fits.

    Raises:
        OSError, RuntimeError: the operators cannot be built.
    """
    compiler = _compiler()
    name = _name(compiler)
    if _loaded(_find(name)):
        return
    if compiler is None:
        raise RuntimeError("no C++ compiler: install g++, or name one in CXX")
    with _cache_folder() as folder, _locked((folder / name).with_suffix(".lock")):
        # Another process may have built the library while this one waited for the lock.
        if not _loaded(_find(name)):
            _build(compiler, folder / name)
            torch.ops.load_library(folder / name)


def _loaded(library: Path | None) -> bool:
    """Load a library. Return False if there is none, or if it is damaged."""
    if library is None:
        return False
    try:
        torch.ops.load_library(library)
    except OSError as error:
        _say(f"{error}; building it again")
        return False
    return True


# --- the name, from all that a build depends on ---


def _name(compiler: list[str] | None) -> str:
    """Return the library's file name; without a compiler, a pattern that matches any compiler's."""
    made_by = "*" if compiler is None else _digest(_version(compiler))
    return f"{_key()}-{made_by}.so"


def _key() -> str:
    parts = [(_FOLDER / name).read_text() for name in (*_SOURCES, *_HEADERS)]
    parts += [_coefficients(), *_SOURCES.values(), *_FLAGS, torch.__version__, _instructions()]
    return _digest("\n".join(parts))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _instructions() -> str:
    """Return the processor's instruction set extensions, on which -march=native depends."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return f"{platform.machine()} {platform.processor()}"


def _coefficients() -> str:
    """Return a C++ header that defines the polynomials."""
    return "".join(
        f"constexpr float {name}[] = {{{', '.join(f'{c!r}f' for c in coefficients)}}};\n"
        for name, coefficients in POLYNOMIALS.items()
    )


def _compiler() -> list[str] | None:
    """Return the compiler's command, as torch's extension tools choose it, or None."""
    command = shlex.split(os.environ.get("CXX", "c++"))
    return command if command and shutil.which(command[0]) else None


def _version(compiler: list[str]) -> str:
    return subprocess.run(
        [*compiler, "--version"], capture_output=True, text=True, check=False
    ).stdout


# --- the cache ---


def _root() -> Path:
    """Return this library's folder in the cache of torch's extensions."""
    chosen = os.environ.get("TORCH_EXTENSIONS_DIR")
    if chosen:
        return Path(chosen, "zilu")
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches, "torch_extensions", "zilu")


def _find(name: str) -> Path | None:
    return next(iter(sorted(_root().glob(name))), None)


@contextlib.contextmanager
def _cache_folder() -> Iterator[Path]:
    """Yield the cache's folder, or a temporary one where the cache cannot be written."""
    with contextlib.suppress(OSError):
        _root().mkdir(parents=True, exist_ok=True)
    if os.access(_root(), os.W_OK):
        yield _root()
    else:
        _say(f"{_root()} cannot be written, so every process builds (set TORCH_EXTENSIONS_DIR)")
        with tempfile.TemporaryDirectory(prefix="zilu") as folder:
            yield Path(folder)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file, so that one process of a machine builds and the others wait for it.

    The lock only saves work: a library appears whole or not at all (see `_build`). The system frees
    the lock of a process that dies. Where the file system has no locks, or where another process
    holds the lock for more than _BUILD_SECONDS, this process builds too.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ImportError):
            _wait_for(stack.enter_context(open(path, "w")))
        yield


def _wait_for(lock: IO[str]) -> None:
    import fcntl  # exists on Unix alone

    for waited in range(_BUILD_SECONDS):
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waited == 0:
                _say("waiting for another process that builds the fused kernels")
            time.sleep(1)


# --- building ---


def _build(compiler: list[str], target: Path) -> None:
    start = time.monotonic()
    _say("building the fused kernels for this machine, once; half a minute or less")
    with tempfile.TemporaryDirectory(prefix="zilu") as name:
        objects = _compile(compiler, Path(name))
        library = Path(name, "zilu.so")
        _run(_link_command(compiler, objects, library))
        # os.replace is atomic only within one file system, so copy into the cache's first.
        copy = target.parent / f".{target.name}.{os.getpid()}"
        shutil.copyfile(library, copy)
        os.replace(copy, target)
    _say(f"built in {time.monotonic() - start:.0f} s: {target}")


def _compile(compiler: list[str], folder: Path) -> list[Path]:
    """Compile the sources, all at the same time, and return the object files."""
    header = folder / "coefficients.h"
    header.write_text(_coefficients())
    includes = [f"-isystem{_TORCH / path}" for path in _INCLUDES]
    processes, objects = [], []
    for source, level in _SOURCES.items():
        objects.append(folder / f"{source}.o")
        options = [level, *_FLAGS, *includes, "-include", str(header)]
        processes.append(_start([*compiler, *options, "-c", _FOLDER / source, "-o", objects[-1]]))
    for process in processes:
        _finish(process)
    return objects


def _link_command(compiler: list[str], objects: list[Path], library: Path) -> Command:
    return [*compiler, "-shared", *objects, "-o", library, f"-L{_TORCH / 'lib'}", *_LIBRARIES]


def _run(command: Command) -> None:
    _finish(_start(command))


def _start(command: Command) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=_BUILD_SECONDS)
    if process.returncode != 0:
        errors = [line for line in output.splitlines() if "error" in line.lower()]
        reason = (errors or output.splitlines() or [f"exit code {process.returncode}"])[0]
        raise RuntimeError(f"the build failed: {reason}")


def _say(text: str) -> None:
    print(f"zilu: {text}", file=sys.stderr, flush=True)
