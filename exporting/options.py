"""Hold the command line of export.py; loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FORMATS = ("hf", "timm", "torchvision", "onnx", "pt2")
FILES = ("onnx", "pt2")  # the others are folders


@dataclass(frozen=True)
class Options:
    """Hold the command line.

    Attributes:
        run: a run folder, or a checkpoint.
        to: one of FORMATS.
        target: the folder or file to write.
        ema: take the averaged weights.
        activation: the user's own activation of the run, whose code may then be run.
        tokenizer, data_path: where the run's tokenizer is; None for where it was.
        overwrite: replace an earlier export.
        check: load what was written in a fresh process.
    """

    run: Path
    to: str
    target: Path
    ema: bool
    activation: str | None
    tokenizer: str | None
    data_path: str | None
    overwrite: bool
    check: bool
