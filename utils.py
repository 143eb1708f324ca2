"""What both programs need and no other room owns: user errors, seeds, the device, the run folder.

torch is imported where it is used, so that the command line answers before torch is loaded.
"""

import difflib
import hashlib
import os
import platform
import random
import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import Collection, Iterable
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path


class UserError(Exception):
    """A mistake the user can mend. The message is one line: what is wrong, and the remedy."""


def did_you_mean(text: str, choices: Iterable[str]) -> str | None:
    """Return the choice nearest to `text`, without regard to case, if one is near."""
    by_lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(text.lower(), by_lower, n=1)
    return by_lower[near[0]] if near else None


def nearest(text: str, choices: Collection[str]) -> str:
    """Return `did you mean X? known: X, Y, Z`."""
    near = did_you_mean(text, choices)
    hint = f"did you mean {near}? " if near else ""
    return f"{hint}known: {', '.join(choices)}"


def mixed_seed(*parts: int | str) -> int:
    """A 64-bit seed from several numbers or names; neighbouring parts give unrelated seeds."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def share(count: int, rank: int, world_size: int) -> slice:
    """The part of `count` things in a row that falls to process `rank` of `world_size`.

    The parts follow each other and differ in length by one at most, the longer ones first.
    """
    length, longer = divmod(count, world_size)
    start = rank * length + min(rank, longer)
    return slice(start, start + length + (rank < longer))


def shares(num_samples: int, batch_size: int, first: int, rank: int, world_size: int):
    """This process's share of each global batch from number `first` on: slices of the epoch."""
    for start in range(first * batch_size, num_samples, batch_size):
        part = share(min(batch_size, num_samples - start), rank, world_size)
        yield slice(start + part.start, start + part.stop)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch on every device."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def replacing(path: Path):
    """A temporary name beside `path` to write to; it becomes `path` if nothing goes wrong."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def one_at_a_time(path: Path):
    """Inside, no other process is inside with the same `path`: they wait, and say that they do.

    `path` is a file that is there meanwhile. Folders that it needs are made, and removed again if
    nothing else came into them. Where files cannot be written or locked nobody waits.
    """
    missing = [folder for folder in path.parents if not folder.exists()]
    with _locked(path) or nullcontext():
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()  # before the others get the lock, which then is nobody's
                for folder in missing:
                    folder.rmdir()


def _locked(path: Path):
    """The file `path`, open and locked for this process alone; None where that cannot be."""
    import fcntl

    said = False
    try:
        while True:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "w")  # noqa: SIM115 - the lock lasts as long as it is open
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not said:
                    message = f"waiting for another process that does the same ({path})"
                    print(message, file=sys.stderr, flush=True)
                said = True
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(path, file):
                return file
            file.close()
    except OSError:
        return None


def _is_at(path: Path, file) -> bool:
    """Whether `file` is what lies at `path`, not one that was deleted there."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def usable_cpus() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux: what SLURM and taskset left us
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def resolve_device(name: str):
    """The torch device called `name`; auto is cuda, mps or cpu, whichever is there first.

    Raises:
        UserError: the device is not there.
    """
    import torch

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


def set_arithmetic(device, deterministic: bool) -> None:
    """Choose exact repeats or speed. On a CPU exact repeats cost nothing, so runs always have them.

    On CUDA, fp32 matrix products and convolutions use TF32.
    """
    import torch

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
        torch.utils.deterministic.fill_uninitialized_memory = False


def keep_heap() -> None:
    """Let the C library keep freed memory, where it is glibc.

    It returns large blocks to the system at once, and every step then takes its activations page
    by page anew: ResNet-20 trains 1.3 times as fast without that (2 cores, torch 2.15).
    """
    import ctypes

    mmap_threshold, trim_threshold = -3, -1  # glibc's malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(mmap_threshold, 2**30)
        mallopt(trim_threshold, 2**31 - 1)


def resolve_amp_dtype(device, name: str):
    """The autocast dtype: `bf16`, `fp16`, or for `auto` bf16 where the hardware has it.

    On a CPU auto is always bf16: without bf16 instructions it is emulated, but fp16 is slower.
    """
    import torch

    if name == "auto":
        native = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
        name = "bf16" if native else "fp16"
    return {"bf16": torch.bfloat16, "fp16": torch.float16}[name]


def check_compiler(device) -> None:
    """torch.compile needs a C++ compiler, for a GPU too.

    Raises:
        UserError: there is none.
    """
    import torch

    compiler = os.environ.get("CXX") or torch._inductor.config.cpp.cxx[1]
    if shutil.which(compiler) is None and shutil.which("g++") is None:
        raise UserError(
            "--use_compiled needs a C++ compiler and finds none; install g++ (or point CXX at "
            "one), or leave out --use_compiled"
        )


def environment(device) -> dict:
    """What a run's numbers depend on besides its arguments, for args.txt."""
    import numpy
    import torch
    import torchvision

    facts = {
        "command": shlex.join(["python", *sys.argv]),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a str subclass, which YAML refuses
        "torchvision": str(torchvision.__version__),
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": device_description(device),
    }
    if device.type == "cuda":
        facts["cuda"] = torch.version.cuda
        facts["cudnn"] = torch.backends.cudnn.version()
        facts["tf32"] = torch.backends.cudnn.allow_tf32
    return facts


def device_description(device) -> str:
    import torch

    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({_cpu_name()})" if device.type == "cpu" else str(device)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _git_commit() -> str | None:
    """The commit of this code, with "+changes" if files differ from it; None outside git."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=here, capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def peak_memory_bytes(device) -> int:
    """The most memory used since the start of the epoch (CUDA) or of the process (else)."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def progress_bar(what: str, progress: bool, iterable=None, **options):
    """tqdm on a terminal; one plain line in a log file, or where no bar is wanted."""
    from tqdm import tqdm

    show = progress and _may_draw()
    if not show:
        print(what)
    return tqdm(iterable, desc=what, disable=not show, **options)


# Dense tensor-core peaks in TFLOP/s from NVIDIA's data sheets: in bf16 or fp16, and in fp32 as
# `set_arithmetic` leaves it (TF32; plain fp32 on the V100 and T4, which have neither it nor bf16).
PEAK_TFLOPS = {
    r"NVIDIA H200": (989.4, 494.7),
    r"NVIDIA H100 80GB HBM3": (989.4, 494.7),
    r"NVIDIA GH200 480GB": (989.4, 494.7),
    r"NVIDIA H100 PCIe": (756.0, 378.0),
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


def peak_flops(device, amp_dtype) -> float | None:
    """The device's peak FLOP/s in `amp_dtype` (None: fp32); None where it is not known."""
    import torch

    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    rows = [peaks for pattern, peaks in PEAK_TFLOPS.items() if re.fullmatch(pattern, name)]
    if not rows or "MIG" in name:
        return None
    return rows[0][amp_dtype is None] * 1e12


def _may_draw() -> bool:
    """Whether this is a terminal, and no other process of the run draws there."""
    return sys.stderr.isatty() and os.environ.get("RANK", "0") == "0"


class Progress:
    """A progress bar on a terminal; elsewhere a plain line now and then."""

    PLAIN_SECONDS = 60

    def __init__(self, label: str, total: int, done: int = 0):
        from tqdm import tqdm

        self.label, self.total, self.done = label, total, done
        self.bar = tqdm(total=total, initial=done, desc=label, leave=False, disable=not _may_draw())
        self.last_line = time.monotonic()

    def advance(self, text: str = "") -> None:
        self.done += 1
        if text:
            self.bar.set_postfix_str(text, refresh=False)
        self.bar.update()
        if self.bar.disable and time.monotonic() - self.last_line > self.PLAIN_SECONDS:
            self.last_line = time.monotonic()
            print(f"{self.label}: {self.done}/{self.total} {text}", flush=True)

    def close(self) -> None:
        self.bar.close()


def activation_sites(model, activation_type: type) -> dict:
    """A network's modules of that class, by path, in the order of its parts."""
    return {path: site for path, site in model.named_modules() if type(site) is activation_type}


def describe_model(model, activation_type: type) -> str:
    """model.txt: parameter counts, every activation site by path, the architecture.

    Of another package's network also what its activations were, which of them were left and why,
    and which weights, going by their dimensions, get no weight decay.
    """
    parameters = list(model.parameters())
    total = sum(p.numel() for p in parameters)
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    sites = [*activation_sites(model, activation_type).items()]
    further = []
    if report := getattr(model, "replacement", None):
        sites = [(site.path, site.now) for site in report.replaced]
        further = [str(report), "", _undecayed(model), ""]
    lines = [f"Parameters: {total:,} ({trainable:,} trainable)", ""]
    lines += [f"Activation sites: {len(sites)}", *(f"  {path}: {site}" for path, site in sites)]
    return "\n".join([*lines, "", *further, str(model), ""])


def _undecayed(model) -> str:
    from training.optimization import decayed_parameters

    decayed = decayed_parameters(model)
    others = [n for n, p in model.named_parameters() if p.dim() > 1 and n not in decayed]
    return f"Without weight decay, beside biases and norms: {', '.join(others) or 'none'}"


@contextmanager
def one_line_warnings():
    """Python's warnings as lines on stderr, without the places in the code."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for text in dict.fromkeys(" ".join(str(each.message).split()) for each in caught):
        print(f"warning: {text}", file=sys.stderr)
