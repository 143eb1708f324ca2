"""Train on image folders by vision_main.py and by timm's train.py, and compare their times.

python -m benchmarks.timm_train --train_py timm/train.py --data_path Data/cifar10_jpeg

Both train the same network of timm's on the same files, by the same augmentations and
regularisation: random-resized crop, flip, RandAugment, random erasing, mixup or CutMix,
stochastic depth, label smoothing and an average of the weights; in fp32, with one reading process
per processor. timm's train.py is not part of its package: give the path of a copy. The commands
alternate, and a ratio is of medians. Seconds are of whole commands, with start, reading and an
evaluation after each epoch; images/s are of training alone, in the last epoch.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cli.converters import file_path, path, positive_int
from cli.errors import one_line_errors
from cli.parser import Parser, checked, parsed_into, tool_parser
from utils import UserError, usable_cpus

ROOT = Path(__file__).parents[1]
OURS, TIMMS = "vision_main.py", "timm's train.py"
# DeiT's without the noise of its magnitude: noise brings Posterize to 0 bits, which timm 1.0.31
# hands to Pillow, and Pillow 13 refuses.
AUTO_AUGMENT = "rand-m9-inc1"


@dataclass(frozen=True)
class Options:
    """Hold the command line; build_parser explains the flags."""

    train_py: Path
    data_path: str
    model: str
    size: int
    batch_size: int
    epochs: int
    repeats: int
    plain: bool
    output_dir: str


@dataclass(frozen=True)
class Timing:
    """Hold the seconds of a whole command, and its images/s in training."""

    seconds: float
    rate: float


def main(argv: list[str] | None = None) -> int:
    """Time both programs, and print medians with their ratio."""
    options = parsed_into(Options, build_parser(), argv)
    folder = Path(options.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    programs: dict[str, Callable[[Options, Path, int], Timing]] = {OURS: ours, TIMMS: timms}
    timings: dict[str, list[Timing]] = {name: [] for name in programs}
    for number in range(options.repeats):
        for name in sorted(programs, reverse=number % 2 == 1):  # neither is always the first
            timing = programs[name](options, folder, number)
            timings[name].append(timing)
            print(f"{name}: {timing.seconds:.1f} s, {timing.rate:.0f} images/s", flush=True)
    report(timings)
    return 0


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = tool_parser("python -m benchmarks.timm_train [flags]", __doc__)
    add = parser.add_argument
    add("--train_py", type=checked(file_path), required=True, metavar="FILE",
        help="timm's train.py")  # fmt: skip
    add("--data_path", type=checked(path), required=True, metavar="FOLDER",
        help="train/CLASS/*.jpg and test/CLASS/*.jpg")  # fmt: skip
    add("--model", default="resnet18", help="a network of timm's (resnet18)")
    add("--size", type=checked(positive_int), default=32, help="pixels (32)")
    add("--batch_size", type=checked(positive_int), default=128, help="images per step (128)")
    add("--epochs", type=checked(positive_int), default=2, help="whole epochs of each run (2)")
    add("--repeats", type=checked(positive_int), default=3, help="runs of each program (3)")
    add("--plain", action="store_true", help="crop and flip alone")
    add("--output_dir", type=checked(path), default="./Output/timm_train",
        help="folder of the runs (./Output/timm_train)")  # fmt: skip
    return parser


# --- this project ---


def ours(options: Options, folder: Path, number: int) -> Timing:
    """Train by vision_main.py."""
    output = folder / f"ours_{number}"
    flags = [
        "--model", f"timm/{options.model}", "--activation", "ReLU", "--dataset", "imagefolder",
        "--data_path", options.data_path, "--resize", options.size, "--batch_size",
        options.batch_size, "--num_epochs", options.epochs, "--lr", 1e-3, "--weight_decay", 0.05,
        "--scheduler", "cosine", "--augment", "--random_resized_crop", 0.08, "--overwrite",
        "--output_dir", output,
    ]  # fmt: skip
    if not options.plain:
        flags += [
            "--auto_augment", AUTO_AUGMENT, "--random_erasing", 0.25, "--erasing_mode",
            "pixel", "--mixup", 0.8, "--cutmix", 1.0, "--drop_path", 0.1, "--label_smoothing", 0.1,
            "--ema", 0.9999,
        ]  # fmt: skip
    seconds = run(OURS, [ROOT / "vision_main.py", *flags])
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return Timing(seconds, lines[-1]["images_per_second"])


# --- timm ---


def timms(options: Options, folder: Path, number: int) -> Timing:
    """Train by timm's train.py."""
    log = folder / f"timm_{number}.log"
    classes = [each for each in (Path(options.data_path) / "train").iterdir() if each.is_dir()]
    flags = [
        "--data-dir", options.data_path, "--train-split", "train", "--val-split", "test",
        "--model", options.model, "--num-classes", len(classes), "--img-size", options.size,
        "--batch-size", options.batch_size, "--epochs", options.epochs, "--lr", 1e-3,
        "--weight-decay", 0.05, "--opt", "adamw", "--sched", "cosine", "--warmup-epochs", 0,
        "--cooldown-epochs", 0, "--workers", usable_cpus(), "--device", "cpu", "--no-prefetcher",
        "--channels-last", "--train-interpolation", "bilinear", "--crop-pct", 1.0,
        "--color-jitter", 0.0, "--output", folder / "timm", "--experiment", str(number),
    ]  # fmt: skip
    if not options.plain:
        flags += [
            "--aa", AUTO_AUGMENT, "--reprob", 0.25, "--remode", "pixel", "--mixup", 0.8,
            "--cutmix", 1.0, "--drop-path", 0.1, "--smoothing", 0.1, "--model-ema",
            "--model-ema-decay", 0.9999,
        ]  # fmt: skip
    else:
        flags += ["--smoothing", 0.0]
    seconds = run(TIMMS, [options.train_py, *flags], log)
    rates = re.findall(r"Train: .*\([\d.]+s, +([\d.]+)/s\)", log.read_text())
    return Timing(seconds, float(rates[-2] if len(rates) > 1 else rates[-1]))


# --- both ---


def run(name: str, command: list[object], log: Path | None = None) -> float:
    """Run a program to its end, and return its seconds.

    Raises:
        UserError: it failed; with its own last line.
    """
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise UserError(f"{name} failed: {' '.join(reason)}")
    if log is not None:
        log.write_text(done.stdout + done.stderr, encoding="utf-8")
    return seconds


def report(timings: dict[str, list[Timing]]) -> None:
    """Print the median of each program, and how many times as fast ours is."""
    rates = {name: statistics.median(t.rate for t in each) for name, each in timings.items()}
    seconds = {name: statistics.median(t.seconds for t in each) for name, each in timings.items()}
    for name in timings:
        print(
            f"{name}: {seconds[name]:.1f} s, {rates[name]:.0f} images/s, n = {len(timings[name])}"
        )
    print(
        f"{OURS} trains {rates[OURS] / rates[TIMMS]:.2f} times as many images/s, and takes "
        f"{seconds[OURS] / seconds[TIMMS]:.2f} of the time"
    )


if __name__ == "__main__":
    with one_line_errors():
        code = main()
    sys.exit(code)
