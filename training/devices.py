"""Choose the device of a run, set how it computes, and tell what it has."""

import ctypes
import os
import platform
import re
import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch

from cli.training import TrainingConfig
from utils import UserError, local_rank, world_size

# How torch, cuBLAS and cuDNN say that memory has run out.
NO_MEMORY = "out of memory|DefaultCPUAllocator|ALLOC_FAILED|not enough memory"


def resolve_device(name: str) -> torch.device:
    """Return the torch device called `name`; auto is the first of cuda, mps and cpu that exists.

    Raises:
        UserError: there is no such device.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next((kind for kind, available in there.items() if available), "cpu")
    device = torch.device(name)
    if not there.get(device.type, True):
        raise UserError(
            f"--device {name}: torch {torch.__version__} finds no {device.type} device here; "
            "take --device cpu, or install a torch build that fits the driver"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise UserError(f"--device {name}: the last CUDA device here is cuda:{last}")
    return device


def make_current(device: torch.device) -> None:
    """Make a CUDA device the one that is meant where none is named: by kernels, by torch's queries.

    Without that, cuda:1 would also open a context on GPU 0, and be asked for GPU 0's abilities.
    """
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def set_arithmetic(device: torch.device, deterministic: bool) -> None:
    """Choose exact repeats or speed. On a CPU exact repeats cost nothing, so runs always have them.

    On CUDA, fp32 matrix products and convolutions use TF32.
    """
    if device.type == "cpu":
        keep_heap()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = not deterministic
    if deterministic or device.type == "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        # Filling every new tensor with NaN finds bugs, and costs time in every step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # set at run time


def keep_heap() -> None:
    """Let the C library keep freed memory, where it is glibc.

    By default it returns large blocks to the system at once, and every step gets its activations
    page by page again: ResNet-20 trains 1.3 times as fast without that (2 cores, torch 2.15).
    """
    mmap_threshold, trim_threshold = -3, -1  # glibc's malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(mmap_threshold, 2**30)
        mallopt(trim_threshold, 2**31 - 1)


def amp_dtype(config: TrainingConfig, device: torch.device) -> torch.dtype | None:
    """Return the autocast dtype, None without --use_amp; auto is bf16 where the hardware has it.

    On a CPU auto is always bf16: without bf16 instructions it is emulated, but fp16 is slower. On a
    GPU it is not emulated: convolutions would end in an error of cuDNN's.

    Raises:
        UserError: bf16 is asked for on a GPU without it.
    """
    if not config.use_amp:
        return None
    name = config.amp_dtype
    native = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "bf16" and not native:
        raise UserError(
            f"--amp_dtype bf16: {torch.cuda.get_device_name(device)} has no bf16; take fp16 or auto"
        )
    if name == "auto":
        name = "bf16" if native else "fp16"
    return {"bf16": torch.bfloat16, "fp16": torch.float16}[name]


def enough_memory(device: torch.device) -> AbstractContextManager[None]:
    """Turn running out of memory inside the block into a UserError with the remedy."""
    return _out_of_memory_as(
        f"{device} has too little memory for a batch ({{}}); take a smaller --batch_size, "
        "and --grad_accum_steps for as many samples in a step as before; what was saved is kept",
        NO_MEMORY,
    )


def enough_memory_for_model(device: torch.device) -> AbstractContextManager[None]:
    """Turn running out of memory, where a network is made and moved, into a UserError."""
    return _out_of_memory_as(
        f"the model does not fit into the memory of {device} ({{}}); take a smaller one",
        "memory|alloc|overflow",
    )


@contextmanager
def _out_of_memory_as(message: str, signs: str) -> Iterator[None]:
    """Raise a UserError with the message, and the reason in it, where memory runs out.

    Args:
        message: with {} for the reason.
        signs: a pattern of the reasons that are of memory; others are raised as they are.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is the first
        reason = str(error).splitlines()[0] if str(error) else "no memory"
        if not isinstance(error, MemoryError) and not re.search(signs, reason):
            raise
        raise UserError(message.format(reason)) from None


def check_compiler() -> None:
    """Refuse --use_compiled without a C++ compiler, which torch.compile needs for a GPU too.

    Raises:
        UserError: there is none.
    """
    compiler = os.environ.get("CXX") or torch._inductor.config.cpp.cxx[1]
    if shutil.which(compiler) is None and shutil.which("g++") is None:
        raise UserError(
            "--use_compiled needs a C++ compiler and finds none; install g++ (or point CXX at "
            "one), or leave out --use_compiled"
        )


def device_description(device: torch.device) -> str:
    """Return the device with the name of its hardware."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({cpu_name()})" if device.type == "cpu" else str(device)


def cpu_name() -> str:
    """Return the processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory used since the start of the epoch (CUDA) or of the process (else)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


# Dense tensor-core peaks in TFLOP/s from NVIDIA's data sheets: in bf16 or fp16, and in fp32 as
# `set_arithmetic` leaves it (TF32; plain fp32 on the V100 and T4, which have neither it nor bf16).
PEAK_TFLOPS = {
    r"NVIDIA H200": (989.4, 494.7),
    r"NVIDIA H100 80GB HBM3": (989.4, 494.7),
    r"NVIDIA GH200 480GB": (989.4, 494.7),
    r"NVIDIA H100 PCIe": (756.0, 378.0),
    r"NVIDIA H100 NVL": (835.5, 417.5),
    r"NVIDIA B200": (2250.0, 1125.0),
    r"NVIDIA A30": (165.0, 82.0),
    r"NVIDIA A10G": (70.0, 35.0),
    r"NVIDIA L40": (181.05, 90.5),
    r"NVIDIA GeForce RTX 5090": (209.5, 104.8),
    r"Tesla V100-PCIE.*": (112.0, 14.0),
    r"NVIDIA A100.*": (312.0, 156.0),
    r"NVIDIA A40": (149.7, 74.8),
    r"NVIDIA A10": (125.0, 62.5),
    r"NVIDIA L40S": (362.05, 183.0),
    r"NVIDIA L4": (121.0, 60.0),
    r"NVIDIA RTX A6000": (154.8, 77.4),
    r"NVIDIA GeForce RTX 3090": (71.0, 35.6),
    r"NVIDIA GeForce RTX 4090": (165.2, 82.6),
    r"Tesla V100-SXM2.*": (125.0, 15.7),
    r"Tesla T4": (65.0, 8.1),
}


def peak_flops(device: torch.device, dtype: torch.dtype | None) -> float | None:
    """Return the device's peak FLOP/s in `dtype` (None: fp32); None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    rows = [peaks for pattern, peaks in PEAK_TFLOPS.items() if re.fullmatch(pattern, name)]
    if not rows or "MIG" in name:
        return None
    return rows[0][dtype is None] * 1e12


def own_device(device: torch.device) -> torch.device:
    """Return this process's device, where `device` is what the user asked for.

    Raises:
        UserError: there is none for every process.
    """
    if world_size() == 1 or device.type == "cpu":
        return device
    if device.type != "cuda" or device.index is not None:
        raise UserError(f"--device {device} is one device; for several processes take cuda or cpu")
    if local_rank() >= torch.cuda.device_count():
        raise UserError(
            f"torchrun started more processes on this machine than its {torch.cuda.device_count()} "
            "GPUs; lower --nproc_per_node, or take --device cpu"
        )
    return torch.device("cuda", local_rank())
