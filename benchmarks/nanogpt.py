"""Train nanoGPT's character recipe by language_main.py and by a plain loop, and compare them.

python -m benchmarks.nanogpt --text input.txt            five seeds, on a megabyte of that text
python -m benchmarks.nanogpt --text input.txt --seeds 10 --output_dir Output/ten

Both train GELU by the same recipe, each run in a process of its own that reads the text, trains,
and evaluates the whole validation split at the end. The plain loop is written apart from the
project's: nanoGPT's batches (random places, with replacement), learning rates, initial weights and
groups of weight decay, around benchmarks/plain_gpt.py. A seed means other weights and batches in
each of the two, so the samples are not paired.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from benchmarks.plain_gpt import PlainGPT, plain_optimizer, plain_step
from cli.converters import device_name, file_path, number, path, positive_int, seed_number
from cli.errors import one_line_errors
from cli.language import LanguageConfig
from cli.parser import Parser, checked, parse, parsed_into, tool_parser
from training.devices import resolve_device
from utils import UserError

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes/char_cpu_nanogpt.yaml"
TRAINED_SHARE = 0.9  # of the text, as in nanoGPT's data/shakespeare_char/prepare.py
VOCABULARY = 256
WEIGHT_DECAY = 0.1  # of plain_optimizer
WHOLE_SPLIT = 64  # windows that are evaluated together; the loss does not depend on it

OURS, PLAIN = "this project", "plain loop"


@dataclass(frozen=True)
class Options:
    """Hold the command line; build_parser explains the flags."""

    text: Path
    seeds: int
    size: int
    recipe: Path
    max_steps: int | None
    device: str
    margin: float
    output_dir: str
    plain: int | None


@dataclass(frozen=True)
class Run:
    """Hold what a run came to: nats per byte on the validation split, and seconds."""

    loss: float
    seconds: float


def main(argv: list[str] | None = None) -> int:
    """Compare, and return the exit code: 1 where the recipe is worse by more than the margin."""
    options = parsed_into(Options, build_parser(), argv)
    folder = Path(options.output_dir)
    if options.plain is not None:
        print(json.dumps(plain_loss(options, folder, options.plain)))
        return 0
    write_splits(options, folder)
    commands = {OURS: our_command, PLAIN: plain_command}
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for seed in range(options.seeds):
        for name in sorted(commands, reverse=seed % 2 == 1):  # neither is always the first
            run = finished(commands[name](options, folder, seed), folder, name, seed)
            runs[name].append(run)
            print(f"seed {seed}, {name}: {run.loss:.4f} in {run.seconds:.1f} s", flush=True)
    return report(runs, options.margin)


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = tool_parser("python -m benchmarks.nanogpt [flags]", __doc__)
    add = parser.add_argument
    add("--text", type=checked(file_path), required=True, metavar="FILE", help="text to learn")
    add("--seeds", type=checked(positive_int), default=5, help="runs of each (5)")
    add("--size", type=checked(positive_int), default=1_000_000,
        help="characters that are taken of the text (1000000)")  # fmt: skip
    add("--recipe", type=checked(file_path), default=RECIPE,
        help=f"a recipe in fp32, not compiled ({RECIPE.relative_to(ROOT)})")  # fmt: skip
    add("--max_steps", type=checked(positive_int), help="end after so many (the recipe's)")
    add("--device", type=checked(device_name), default="cpu", help="auto, cpu, cuda, cuda:N (cpu)")
    add("--margin", type=checked(number(float, above=0)), default=0.02,
        help="nats by which the recipe may be worse (0.02)")  # fmt: skip
    add("--output_dir", type=checked(path), default="./Output/nanogpt",
        help="folder of the splits and the runs (./Output/nanogpt)")  # fmt: skip
    add("--plain", type=checked(seed_number), metavar="SEED",
        help="train the plain loop alone, on the splits there, and print its loss")  # fmt: skip
    return parser


# --- the text ---


def write_splits(options: Options, folder: Path) -> None:
    """Write the first part of the text for training, and the rest for validation.

    nanoGPT has no test split; language_main.py wants one, which gets a line.
    """
    text = options.text.read_text(encoding="utf-8")[: options.size]
    cut = int(TRAINED_SHARE * len(text))
    splits = {"train": text[:cut], "valid": text[cut:], "test": "nanoGPT has no test split\n"}
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in splits.items():
        (folder / f"{name}.txt").write_text(part, encoding="utf-8", newline="")


def read_split(folder: Path, name: str) -> npt.NDArray[np.int64]:
    """Return the bytes of a split as ids, (n,)."""
    return np.frombuffer((folder / f"{name}.txt").read_bytes(), np.uint8).astype(np.int64)


# --- runs ---


def our_command(options: Options, folder: Path, seed: int) -> list[str]:
    flags = [
        "--config", options.recipe, "--activation", "GELU", "--dataset", "text", "--tokenizer",
        "bytes", "--data_path", folder, "--device", options.device, "--seed", seed, "--overwrite",
        "--output_dir", folder / f"seed_{seed}",
    ]  # fmt: skip
    steps = [] if options.max_steps is None else ["--max_steps", options.max_steps]
    return [sys.executable, str(ROOT / "language_main.py"), *map(str, flags + steps)]


def plain_command(options: Options, folder: Path, seed: int) -> list[str]:
    flags = [
        "--text", options.text, "--recipe", options.recipe, "--device", options.device,
        "--output_dir", folder, "--plain", seed,
    ]  # fmt: skip
    steps = [] if options.max_steps is None else ["--max_steps", options.max_steps]
    return [sys.executable, "-m", "benchmarks.nanogpt", *map(str, flags + steps)]


def finished(command: list[str], folder: Path, name: str, seed: int) -> Run:
    """Run a command to its end, and return what it came to.

    Raises:
        UserError: it failed; with its own last line.
    """
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise UserError(f"{name}, seed {seed}, failed: {' '.join(reason)}")
    if name == PLAIN:
        return Run(json.loads(done.stdout.splitlines()[-1]), seconds)
    lines = (folder / f"seed_{seed}" / "metrics.jsonl").read_text().splitlines()
    return Run(json.loads(lines[-1])["val"]["loss"], seconds)


# --- the plain loop ---


def plain_loss(options: Options, folder: Path, seed: int) -> float:
    """Train the plain loop by the recipe's constants, and return its loss on the whole split."""
    config = recipe_config(options)
    model_config, training = config.model, config.training
    device = resolve_device(options.device)
    torch.manual_seed(seed)
    length, steps = model_config.max_seq_length, training.max_steps
    assert steps is not None, "recipe_config sees to it"
    assert training.beta2 is not None, "the recipe's AdamW has it"
    width, heads, layers = model_config.shape().values()
    dropout = model_config.dropout or 0.0
    model = PlainGPT(
        VOCABULARY, length, width, heads, layers, not model_config.no_bias, dropout
    ).to(device)
    model.init_as_nanogpt()
    optimizer = plain_optimizer(model, training.lr, training.beta2, decays_positions=True)
    ids = read_split(folder, "train")
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = nanogpt_rate(
                step, steps, int(training.warmup), training.lr, training.min_lr
            )
        starts = torch.randint(len(ids) - length, (config.data.batch_size,)).tolist()
        plain_step(model, optimizer, *windows(ids, starts, length, device))
    return whole_split_loss(model.eval(), read_split(folder, "valid"), length, device)


def recipe_config(options: Options) -> LanguageConfig:
    """Return the configuration that the recipe means.

    Raises:
        UserError: the plain loop cannot follow it.
    """
    flags = ["--config", str(options.recipe)]
    if options.max_steps is not None:
        flags += ["--max_steps", str(options.max_steps)]
    config = parse(LanguageConfig, __doc__, flags).config
    training = config.training
    followed = {
        "optimizer": training.optimizer == "adamw",
        "scheduler": training.scheduler == "cosine",
        "decay": training.decay == "matrices",
        "weight_decay": training.weight_decay == WEIGHT_DECAY,
        "warmup": training.warmup.isdigit(),
        "max_steps": training.max_steps is not None,
        "use_amp": not training.use_amp,
        "use_compiled": not training.use_compiled,
    }
    for name, is_followed in followed.items():
        if not is_followed:
            raise UserError(f"--recipe {options.recipe}: the plain loop is not made for its {name}")
    return config


def nanogpt_rate(step: int, steps: int, warmup: int, highest: float, lowest: float) -> float:
    """Return nanoGPT's learning rate of a step, which counts from 0."""
    if step < warmup:
        return highest * (step + 1) / (warmup + 1)
    progress = (step - warmup) / (steps - warmup)
    return lowest + 0.5 * (1 + math.cos(math.pi * progress)) * (highest - lowest)


def windows(
    ids: npt.NDArray[np.int64], starts: list[int], length: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs and targets (B, length) that begin at these places of the text."""
    inputs = np.stack([ids[start : start + length] for start in starts])
    targets = np.stack([ids[start + 1 : start + 1 + length] for start in starts])
    return torch.from_numpy(inputs).to(device), torch.from_numpy(targets).to(device)


@torch.no_grad()
def whole_split_loss(
    model: PlainGPT, ids: npt.NDArray[np.int64], length: int, device: torch.device
) -> float:
    """Return the mean loss of all bytes but the first, in windows one behind the other."""
    total, targets = 0.0, len(ids) - 1
    whole = list(range(0, targets - length + 1, length))
    for first in range(0, len(whole), WHOLE_SPLIT):
        starts = whole[first : first + WHOLE_SPLIT]
        loss = model(*windows(ids, starts, length, device))
        total += loss.item() * len(starts) * length
    if rest := targets % length:
        total += model(*windows(ids, [targets - rest], rest, device)).item() * rest
    return total / targets


# --- the comparison ---


def report(runs: dict[str, list[Run]], margin: float) -> int:
    """Print losses and times as mean ± sd, and the difference; return the exit code."""
    losses = {name: [run.loss for run in each] for name, each in runs.items()}
    seconds = {name: [run.seconds for run in each] for name, each in runs.items()}
    for name, each in losses.items():
        print(
            f"{name}: validation loss {mean_and_sd(each, 4)}, {mean_and_sd(seconds[name], 1)} s, "
            f"n = {len(each)}"
        )
    difference = float(np.mean(losses[OURS]) - np.mean(losses[PLAIN]))
    interval = ""
    if len(losses[OURS]) > 1:  # Welch's, for unequal variances
        found = stats.ttest_ind(losses[OURS], losses[PLAIN], equal_var=False)
        low, high = found.confidence_interval()
        interval = f" (95 % interval {low:+.4f} to {high:+.4f})"
    kept = difference <= margin
    verdict = "at most" if kept else "MORE than"
    print(f"difference {difference:+.4f}{interval}: {verdict} {margin:g} worse")
    ratio = np.mean(seconds[OURS]) / np.mean(seconds[PLAIN])
    print(f"time {ratio:.2f} of the plain loop's")
    return 0 if kept else 1


def mean_and_sd(values: list[float], digits: int) -> str:
    """Return `mean ± sd`, or the value where there is one."""
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


if __name__ == "__main__":
    with one_line_errors():
        code = main()
    sys.exit(code)
