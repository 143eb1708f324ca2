"""Build the null device, and give the environment in which a process sees it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

SOURCES = Path(__file__).parent / "device"
LIBRARY = "libcuda.so.1"  # the driver's name, so that whoever asks for that gets it
FLAGS = ("-O1", "-Wall", "-Wextra", "-fPIC", "-shared", "-std=c++17", f"-Wl,-soname,{LIBRARY}")


def missing() -> str | None:
    """Return why there can be no null device here, or None."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is no CUDA build"
    if shutil.which("g++") is None:
        return "g++ is missing, which builds the null device"
    if headers() is None:
        return "CUDA's headers are missing, which Triton brings along"
    return None


def headers() -> Path | None:
    """Return the folder of CUDA's headers in Triton, which a CUDA build of torch comes with."""
    triton = importlib.util.find_spec("triton")
    if triton is None or triton.origin is None:
        return None
    folder = Path(triton.origin).parent / "backends/nvidia/include"
    return folder if (folder / "cuda_runtime_api.h").exists() else None


def library() -> Path:
    """Return the library; build it where no process has built these sources before."""
    include, sources = headers(), sorted(SOURCES.iterdir())
    assert include is not None
    content = b"".join(path.read_bytes() for path in (*sources, include / "cuda_runtime_api.h"))
    digest = hashlib.sha256(content + " ".join(FLAGS).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"null-cuda-{os.getuid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if not (folder / LIBRARY).exists():
        part = folder / f"{os.getpid()}.part"
        files = [path for path in sources if path.suffix == ".cpp"]
        subprocess.run(["g++", *FLAGS, f"-I{include}", *files, "-o", part, "-ldl"], check=True)
        part.rename(folder / LIBRARY)  # whole for every process that sees it
    return folder / LIBRARY


def environment(caches: Path) -> dict[str, str]:
    """Return the environment of a process that sees the null device, and compiles into `caches`."""
    path = library()
    # Those of a real GPU, and Triton's interpreter, which other tests use without one.
    hidden = ("CUDA_VISIBLE_DEVICES", "TRITON_INTERPRET", "LD_PRELOAD")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return kept | {
        "LD_PRELOAD": str(path),
        "TRITON_LIBCUDA_PATH": str(path.parent),
        "TRITON_CACHE_DIR": str(caches / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


def settings(
    devices: int = 1, capability: int = 80, mib: int = 80 << 10, full: int = -1
) -> dict[str, str]:
    """Return the variables that say how the device looks; device/counters.cpp reads them.

    Args:
        devices: how many there are.
        capability: compute capability, 75 for 7.5.
        mib: memory of each.
        full: a device whose memory others hold.
    """
    return {
        "NULL_CUDA_DEVICES": str(devices),
        "NULL_CUDA_CAPABILITY": str(capability),
        "NULL_CUDA_MIB": str(mib),
        "NULL_CUDA_FULL": str(full),
    }
