"""Declare the flags of device, seeds and files: where a run computes, and what it leaves."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from cli.converters import (
    LOG_SINKS,
    device_name,
    log_sinks,
    path,
    positive_int,
    save_interval,
    seed_number,
)
from cli.fields import Effect, flag
from utils import UserError

AUTO = "auto"  # --resume without a value: go on with the run in --output_dir, if there is one


@dataclass(frozen=True)
class RunConfig:
    """Hold the flags of device, seeds and files: where a run computes, and what it leaves."""

    device: str = flag(
        "auto", device_name, "System",
        "auto (cuda, mps or cpu, whichever is there first), cpu, cuda, cuda:N, mps",
        Effect.ARITHMETIC,
    )  # fmt: skip
    seed: int = flag(0, seed_number, "System", "seed of everything below that is not given")
    init_seed: int | None = flag(
        None, seed_number, "System", "seed of the initial weights (--seed)"
    )
    data_seed: int | None = flag(
        None, seed_number, "System", "seed of data order and augmentation (--seed)"
    )
    deterministic: bool = flag(
        False, bool, "System",
        "bit-identical repeats on CUDA too (slower; on a CPU runs always repeat)",
        Effect.ARITHMETIC,
    )  # fmt: skip
    config: str | None = flag(
        None, path, "Output",
        "YAML file of flags, read as on the command line, or the args.txt of an earlier run; the "
        "command line overrides it",
        Effect.NOTHING, one_run=True,
    )  # fmt: skip
    output_dir: str | None = flag(
        None, path, "Output",
        "run folder (./Output/DATASET/MODEL/ACTIVATION_SIGMA_SEED, and a short hash where other "
        "flags differ from their defaults)",
        Effect.NOTHING, one_run=True,
    )  # fmt: skip
    overwrite: bool = flag(
        False, bool, "Output", "replace the run that --output_dir holds",
        Effect.NOTHING, one_run=True,
    )  # fmt: skip
    resume: str | None = flag(
        None, path, "Output",
        "go on with the run in --output_dir, if there is one; or with the one whose folder or "
        "checkpoint is given, whose flags then count where none are given. A greater --num_epochs "
        "or --max_steps makes it longer, where the learning rate does not depend on its length",
        Effect.NOTHING, bare=AUTO, one_run=True,
    )  # fmt: skip
    save_interval: str = flag(
        "1ep,10min", save_interval, "Output",
        "when to save a checkpoint: epochs (1ep), steps (500), minutes (10min), or whichever of "
        "several is over first; the end is always saved",
        Effect.NOTHING,
    )  # fmt: skip
    stats: int | None = flag(
        None, positive_int, "Output",
        "every so many steps, numbers of each activation (spread and tail of its input, flat "
        "slopes, gradient, sigma), and dead channels at evaluations, into stats.jsonl",
        Effect.NOTHING,
    )  # fmt: skip
    log: str | None = flag(
        None, log_sinks, "Output",
        "what gets all that metrics.jsonl and --stats hold: tensorboard, wandb, csv, or several "
        "with commas between",
        Effect.NOTHING,
    )  # fmt: skip
    tensorboard: bool = flag(False, bool, "Output", "the same as --log tensorboard", Effect.NOTHING)
    test_only: bool = flag(
        False, bool, "Output",
        "evaluate --checkpoint, else the run folder's, else the untrained network",
        Effect.NOTHING, one_run=True,
    )  # fmt: skip
    checkpoint: str | None = flag(
        None, path, "Output", "checkpoint file for --test_only", Effect.NOTHING, one_run=True
    )

    @property
    def sinks(self) -> list[str]:
        """Return the names of what --log and --tensorboard ask for."""
        asked = [*(self.log or "").split(","), "tensorboard" if self.tensorboard else ""]
        return [name for name in LOG_SINKS if name in asked]

    @property
    def weights_seed(self) -> int:
        """Return the seed of the initial weights: --init_seed, or --seed where it is not given."""
        return self.seed if self.init_seed is None else self.init_seed

    @property
    def order_seed(self) -> int:
        """Return the seed of data order and augmentation: --data_seed, or --seed."""
        return self.seed if self.data_seed is None else self.data_seed

    def check(self) -> None:
        """Refuse flags that contradict each other.

        Raises:
            UserError: with the remedy.
        """
        for name in self.sinks:
            if name != "csv" and not is_installed(name):
                raise UserError(
                    f"--log {name}: the package is not installed; pip install {name}, or leave it "
                    "out"
                )

    def check_folder(self) -> None:
        """Refuse flags that want a run folder to be used in two ways.

        Raises:
            UserError: with the remedy.
        """
        if self.checkpoint is not None and not self.test_only:
            raise UserError("--checkpoint is for --test_only; add it, or leave out --checkpoint")
        if self.resume is not None and self.test_only:
            raise UserError("--resume trains and --test_only does not; leave out one of them")
        if self.resume is not None and self.overwrite:
            raise UserError(
                "--resume goes on with a run and --overwrite replaces it; leave out one of them"
            )


def is_installed(package: str) -> bool:
    """Return whether a package can be imported; a folder of its name, as wandb leaves, is none."""
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None
