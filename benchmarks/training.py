"""Measure whole training steps per activation, against ReLU and GELU.

The trainers are those of the programs; the batches lie ready on the device.
"""

import functools
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import tables
from benchmarks.arms import Arm
from benchmarks.names import SMALL_GPT, TRAINING_BASELINES
from benchmarks.timing import in_rounds, quartiles, ratio, repeats_for, saved_bytes, timed
from benchmarks.trainers import (
    IMAGE_SIZE,
    VOCABULARY,
    language_config,
    language_trainer,
    ready_images,
    ready_step,
    ready_tokens,
    vision_config,
    vision_trainer,
)
from cli.language import SIZES
from models.catalogue import is_language_model, is_third_party
from tasks.language import configuration
from train_eval import Trainer
from training.task import Batch
from zilu.names import kernel_mode

SAMPLE_SECONDS = 0.2
GPT2_VOCABULARY = 50257

Row = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """Say what all activations of a table have in common.

    Attributes:
        image_size: in pixels; None for a language model.
    """

    model: str
    mode: str
    precision: str
    batch_size: int
    image_size: int | None

    @property
    def title(self) -> str:
        size = "" if self.image_size in (None, IMAGE_SIZE) else f" of {self.image_size} px"
        return f"{self.model}, {self.mode}, {self.precision}, batch {self.batch_size}{size}"

    @property
    def flags(self) -> dict[str, bool]:
        """The programs' flags that they stand for."""
        return {"use_compiled": self.mode == "compiled", "use_amp": self.precision == "amp"}


def setups(
    models: Iterable[str],
    modes: Iterable[str],
    precisions: Iterable[str],
    batch_size: int | None,
    image_size: int | None = None,
) -> list[Setup]:
    """Return every combination; without a batch size it is 8 sequences, or 128 images."""
    return [
        Setup(model, mode, precision, batch_size or 8, None)
        if model == SMALL_GPT or is_language_model(model)
        else Setup(model, mode, precision, batch_size or 128, image_size or IMAGE_SIZE)
        for model, precision, mode in itertools.product(models, precisions, modes)
    ]


def measure(
    setups: list[Setup],
    arms: list[Arm],
    sigma: float,
    rounds: int,
    device: torch.device,
    output_dir: str,
) -> None:
    """Measure, print, and save training.md and .csv in `output_dir`.

    Args:
        setups: a table for each.
        arms: the activations.
        sigma: theirs, for the heading.
        rounds: how often each is measured.
        device: where.
        output_dir: the folder.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = tables.ReportFolder(output_dir)
    report = tables.Report()
    report.add(heading(sigma, rounds, device))
    rows: list[Row] = []
    for setup in setups:
        found = measure_setup(setup, arms, rounds, device)
        report.add(table(found, setup))
        machine = tables.machine_columns(device)
        rows += [row | machine for row in found.values()]
    folder.save("training", report, rows)


def measure_setup(
    setup: Setup, arms: list[Arm], rounds: int, device: torch.device
) -> dict[Arm, Row]:
    """Return a row for each arm."""
    # Every trainer's step is the same code to the compiler, which gives up after 8 of them.
    torch.compiler.reset()
    torch._dynamo.config.recompile_limit = max(8, 4 * len(arms))
    batch = ready_batch(setup, device)
    trainers = {arm: build(setup, arm, batch, device) for arm in arms}
    steps = {arm: functools.partial(ready_step, trainer) for arm, trainer in trainers.items()}
    for step in steps.values():
        step()  # compiles
    gelu = functools.partial(timed, steps[Arm("GELU")], device)
    repeats = repeats_for(gelu, SAMPLE_SECONDS)
    samples = {arm: functools.partial(timed, step, device, repeats) for arm, step in steps.items()}
    times = in_rounds(samples, rounds)
    counts = {"rounds": rounds, "repeats": repeats}
    return {
        arm: arm.columns() | vars(setup) | counts | speed(times, arm) | bytes_of(trainers[arm])
        for arm in arms
    }


def ready_batch(setup: Setup, device: torch.device) -> Batch:
    """Return a batch of the setup's model on the device."""
    if setup.image_size is None:
        return ready_tokens(setup.batch_size, device)
    return ready_images(setup.batch_size, device, setup.image_size)


def build(setup: Setup, arm: Arm, batch: Batch, device: torch.device) -> Trainer:
    """Return a trainer as the programs build it, for steps on `batch`."""
    flags: dict[str, Any] = {**setup.flags}
    if arm.sigma is not None:
        flags |= {"sigma": arm.sigma, "learn_sigma": arm.learned}
    if arm.args is not None:
        flags["activation_args"] = arm.args
    if arm.expanded:
        flags["expand_gate"] = True
    if arm.save == "output":
        flags["save_for_backward"] = "output"
    size = setup.batch_size
    if setup.image_size is not None:
        images = vision_config(device, setup.model, arm.activation, size, **flags)
        return vision_trainer(images, batch)
    if setup.model != SMALL_GPT:
        flags |= {"model": setup.model, **dict.fromkeys(SIZES)}
    config = language_config(device, arm.activation, size, **flags)
    return language_trainer(config, batch, vocabulary_of(setup.model))


def vocabulary_of(model: str) -> int:
    """Return the vocabulary of a language model: its own, but at least that of the batches."""
    if model == SMALL_GPT:
        return VOCABULARY
    own = configuration(model).get("vocab_size", 0) if is_third_party(model) else GPT2_VOCABULARY
    return max(own, VOCABULARY)


def bytes_of(trainer: Trainer) -> Row:
    """Return what a step keeps for backward, beside parameters and the batch, in bytes."""
    batch = trainer.data.train.batch
    ignored = (*trainer.model.parameters(), *trainer.model.buffers(), *batch)
    return {"saved_bytes": saved_bytes(lambda: trainer.objective(batch, full=True), ignored)}


# --- rows and text ---


def speed(times: dict[Arm, list[float]], arm: Arm) -> Row:
    """Return milliseconds, and ratios within the rounds."""
    low, middle, high = (1e3 * x for x in quartiles(times[arm]))
    ratios = {f"over_{name}": ratio(times[arm], times[Arm(name)]) for name in TRAINING_BASELINES}
    return {"step_ms": middle, "step_ms_q1": low, "step_ms_q3": high} | ratios


def heading(sigma: float, rounds: int, device: torch.device) -> str:
    return "\n".join(
        [
            "# Training steps per activation",
            "",
            f"- {tables.machine(device)}",
            f"- n = {rounds} rounds; ZILU_KERNELS={kernel_mode()}; σ = {sigma:g}",
            "- ms: median (quartiles) of a step. ÷ GELU, ÷ ReLU: median of the ratios within the "
            "rounds. Saved: MiB kept for backward, beside parameters and the batch.",
        ]
    )


def table(found: dict[Arm, Row], setup: Setup) -> str:
    rows = [
        {
            "activation": arm.label,
            "ms": tables.with_spread(row["step_ms_q1"], row["step_ms"], row["step_ms_q3"]),
            **{f"÷ {name}": f"{row[f'over_{name}']:.3f}" for name in TRAINING_BASELINES},
            "saved, MiB": tables.figure(row["saved_bytes"] / 2**20),
        }
        for arm, row in found.items()
    ]
    return f"\n## {setup.title}\n\n{tables.markdown(rows)}"
