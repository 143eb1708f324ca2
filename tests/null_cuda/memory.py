"""Predict the peak memory of a training step, by torch's own allocator on the null device.

    python -m tests.null_cuda.memory

The steps are those of the programs with their default flags but for those in NETWORKS; the peak is
that of what is allocated, as result lines have it. The workspaces of cuDNN are not in it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
if not __package__ or __package__.startswith("tests"):  # run as a command, not by a test
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from benchmarks import trainers  # noqa: E402
from null_cuda import cudnn, device  # noqa: E402
from tasks.language import LanguageProgram  # noqa: E402
from tasks.vision import VisionProgram  # noqa: E402
from train_eval import Trainer  # noqa: E402
from training.task import Batch  # noqa: E402

ARMS: dict[str, dict[str, Any]] = {
    "ReLU": {"activation": "ReLU"},
    "GELU": {"activation": "GELU"},
    "ZiLU": {"activation": "ZiLU"},
    "ZiLU from the output": {"activation": "ZiLU", "save_for_backward": "output"},
}
GIB = 2**30
CUDA = torch.device("cuda")


def image_trainer(model: str, batch_size: int, size: int, classes: int, **flags: Any) -> Trainer:
    """Return a trainer of a vision model for steps on one batch of images."""
    images = torch.randn(batch_size, 3, size, size, device=CUDA)
    images = images.to(memory_format=torch.channels_last)
    batch: Batch = (images, torch.zeros(batch_size, dtype=torch.int64, device=CUDA))
    config = trainers.vision_config(CUDA, model, batch_size=batch_size, **flags)
    program = VisionProgram(config)
    with CUDA:  # initial values cost nothing there
        network = program.network_for(classes, size)
    return trainers._trainer(program, network, batch)


def text_trainer(batch_size: int, vocabulary: int, **flags: Any) -> Trainer:
    """Return a trainer of a GPT-2 for steps on one batch of tokens."""
    config = trainers.LanguageConfig.from_values(
        {"device": "cuda", "batch_size": batch_size} | flags
    )
    ids = torch.zeros(batch_size, config.model.max_seq_length, dtype=torch.int64, device=CUDA)
    program = LanguageProgram(config)
    with CUDA:
        network = program.network_for(vocabulary)
    return trainers._trainer(program, network, (ids, ids))


NETWORKS: dict[str, Callable[..., Trainer]] = {
    "GPT-2 small, 32 sequences of 1024 tokens": lambda **flags: text_trainer(32, 50257, **flags),
    "ResNet-50, 128 images of 224 px": lambda **flags: image_trainer(
        "resnet50", 128, 224, 1000, **flags
    ),
    "ViT-base, 128 images of 224 px": lambda **flags: image_trainer(
        "vit-base", 128, 224, 1000, **flags
    ),
}


def peak(make: Callable[..., Trainer], steps: int = 2, **flags: Any) -> int:
    """Return the bytes that are allocated at most in `steps` steps of a trainer."""
    trainer = make(**flags)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(steps):  # the first makes the optimizer's state
        trainers.ready_step(trainer)
    return torch.cuda.max_memory_allocated()


def table() -> str:
    """Return the peaks of all NETWORKS as a table in Markdown."""
    lines = [f"| GiB | {' | '.join(ARMS)} |", "|---" * (len(ARMS) + 1) + "|"]
    for name, make in NETWORKS.items():
        for precision, amp in (("mixed precision", True), ("fp32", False)):
            peaks = [peak(make, **flags, use_amp=amp) / GIB for flags in ARMS.values()]
            row = " | ".join(f"{value:.1f}" for value in peaks)
            lines.append(f"| {name}, {precision} | {row} |")
    return "\n".join(lines)


def main() -> int:
    """Print the table; on the null device, in a process of its own."""
    if reason := device.missing():
        print(f"error: {reason}", file=sys.stderr)
        return 2
    if "NULL_CUDA_DEVICES" in os.environ:
        cudnn.install()
        print(table())
        return 0
    with tempfile.TemporaryDirectory() as caches:
        environment = device.environment(Path(caches)) | device.settings(mib=1 << 20)
        return subprocess.run([sys.executable, __file__], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
