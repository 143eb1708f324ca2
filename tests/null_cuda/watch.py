"""Note where a program waits for the null device, and what it launches and allocates.

What the device computes is what its memory held before. So the few places of the loop that look at
numbers are kept from drawing conclusions; what they read is still read.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import linecache
import math
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch._dynamo.utils import counters
from torch._inductor.runtime import triton_heuristics

import train_eval
from null_cuda import cudnn
from tasks.classification import Classification
from tasks.language import LanguageModelling
from training import live_progress
from training.evaluation import Diverged

ROOT = Path(__file__).parents[2]
# In the order of `Counted` in device/null.h.
COUNTED = (
    "launches", "graph_launches", "waits", "copies", "allocations", "pinned", "contexts",
    "modules",
)  # fmt: skip
# The innermost of these functions says what the program is at.
PHASES = {
    ("training/evaluation.py", "write_predictions"): "predictions",
    ("training/evaluation.py", "evaluate"): "evaluation",
    ("train_eval.py", "_evaluate_splits"): "results",
    ("train_eval.py", "_save"): "saving",
    ("train_eval.py", "train_epoch"): "training",
}

_DEVICE = ctypes.CDLL(None)
_LISTENER = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int, ctypes.c_int)


# A copy from or to pageable memory, which torch follows by this wait: one place, one wait.
STAGED, FOLLOWING = "cudaMemcpyAsync of pageable memory", "cudaStreamSynchronize"


@dataclass(frozen=True)
class Event:
    """Hold a wait, or the opening of a context.

    Attributes:
        kind: "waits" or "contexts".
        call: the function of CUDA.
        device: the number of the device.
        phase: a value of PHASES, or "other".
        number: the step of the training, or the batch of the evaluation, from 1; else 0.
        file: of the innermost line of the project.
        line: that line.
    """

    kind: str
    call: str
    device: int
    phase: str
    number: int
    file: str
    line: str


class Watch:
    """Note events and steps of this process, and write them as JSON.

    Args:
        path: of the file to write.
        devices: how many there are.
    """

    def __init__(self, path: Path, devices: int):
        self.path, self.devices = path, devices
        self.events: list[Event] = []
        self.steps: list[dict[str, int]] = []
        self.epochs = self.evaluations = 0
        self._listener = _LISTENER(self._note)

    def start(self) -> None:
        """Listen to the device from here on."""
        _DEVICE.null_cuda_listen(self._listener)
        trainer = train_eval.Trainer
        trainer.train_step = self._watched(trainer.train_step)
        trainer.train_epoch = self._counted("epochs", trainer.train_epoch)
        trainer.evaluate = self._counted("evaluations", trainer.evaluate)

    def write(self) -> None:
        """Write what was noted."""
        _DEVICE.null_cuda_listen(_LISTENER())
        counts = [
            {name: _DEVICE.null_cuda_count(kind, device) for kind, name in enumerate(COUNTED)}
            for device in range(self.devices)
        ]
        events = [asdict(event) for event in self.events]
        content = {
            "events": events, "steps": self.steps, "devices": counts,
            "epochs": self.epochs, "evaluations": self.evaluations,
            "graphs": counters["stats"]["unique_graphs"], "breaks": counters["graph_break"],
        }  # fmt: skip
        self.path.write_text(json.dumps(content))

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            setattr(self, name, getattr(self, name) + 1)
            return function(*args)

        return counted

    def _watched(self, train_step: Callable[..., Any]) -> Callable[..., Any]:
        def step(trainer: Any, batches: Any) -> Any:
            before = self._total()
            result = train_step(trainer, batches)
            made = {name: self._total()[name] - number for name, number in before.items()}
            made["memory"] = torch.cuda.max_memory_allocated()
            self.steps.append(made)
            return result

        return step

    def _total(self) -> dict[str, int]:
        return {
            name: sum(_DEVICE.null_cuda_count(kind, device) for device in range(self.devices))
            for kind, name in enumerate(COUNTED)
        }

    def _note(self, call: bytes, kind: int, device: int) -> None:
        frames = project_frames(sys._getframe())
        if not frames:  # a thread of autograd, while the main one waits for it
            main = sys._current_frames().get(threading.main_thread().ident or 0)
            frames = project_frames(main)
        file = line = ""
        if frames:
            file = name_of(frames[0])
            line = linecache.getline(frames[0].f_code.co_filename, frames[0].f_lineno).strip()
        event = Event(COUNTED[kind], call.decode(), device, *phase_of(frames), file, line)
        last = self.events[-1] if self.events else None
        if event.call == FOLLOWING and last == replace(event, call=STAGED):
            return
        self.events.append(event)


def name_of(frame: FrameType) -> str:
    """Return the file of a frame, from the root of the project."""
    return frame.f_code.co_filename.removeprefix(f"{ROOT}/")


def project_frames(frame: FrameType | None) -> list[FrameType]:
    """Return the frames of the project, the innermost first, from `frame` on."""
    found = []
    while frame is not None:
        path = frame.f_code.co_filename
        others = ("/.venv/", "/tests/")
        if path.startswith(f"{ROOT}/") and not any(part in path for part in others):
            found.append(frame)
        frame = frame.f_back
    return found


def phase_of(frames: list[FrameType]) -> tuple[str, int]:
    """Return what the program is at, and in which step or batch."""
    for frame in frames:
        phase = PHASES.get((name_of(frame), frame.f_code.co_name))
        if phase == "training":
            return phase, frame.f_locals["self"].state.step + 1
        if phase == "evaluation":
            return phase, frame.f_locals.get("number", -1) + 1
        if phase:
            return phase, 0
    return "other", 0


def ignore_numbers() -> None:
    """Keep the loop from drawing conclusions from what the device computed."""
    check_losses = train_eval.Trainer._check_losses
    get_scale = torch.amp.GradScaler.get_scale

    def check(trainer: Any) -> None:
        with contextlib.suppress(Diverged):
            check_losses(trainer)

    def scale(scaler: Any) -> float:
        get_scale(scaler)
        return 1.0

    train_eval.Trainer._check_losses = check
    torch.amp.GradScaler.get_scale = scale
    for task in (Classification, LanguageModelling):
        task.metrics = _of_ones(task.metrics)


def _of_ones(metrics: Callable[..., Any]) -> Callable[..., Any]:
    def made(task: Any, sums: list[float], loader: Any) -> Any:
        return metrics(task, [1.0] * len(sums), loader)

    return made


def compile_quickly() -> None:
    """Compile each of Inductor's kernels in one form: which is the fastest cannot be measured."""
    of_all = triton_heuristics.cached_autotune

    def of_first(size_hints: Any, configs: Any, *args: Any, **kwargs: Any) -> Any:
        return of_all(size_hints, configs[:1], *args, **kwargs)

    triton_heuristics.cached_autotune = of_first


def prepare(path: Path, devices: int) -> Watch:
    """Make this process ready to run a program on the null device."""
    torch.cuda._device_count_nvml = lambda: -1  # which would count the machine's own
    cudnn.install()
    ignore_numbers()
    compile_quickly()
    live_progress.READ_SECONDS = math.inf  # after the first step: ten may take long on this host
    watch = Watch(path, devices)
    watch.start()
    return watch
