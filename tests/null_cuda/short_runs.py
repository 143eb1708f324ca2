"""Make command lines of recipes that end after ten steps, and say where they may wait."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
# That of hf/ cannot be made narrow by flags, and is the network of llama_124m.
RECIPES = sorted(
    path.stem for path in (ROOT / "recipes").glob("*.yaml") if not path.stem.endswith("_hf")
)
STEPS = 10
# The first two steps make optimizer states, load kernels, and record CUDA graphs.
STEADY = 3

PRECISIONS = {
    "fp32": [],
    "bf16": ["--use_amp", "--amp_dtype", "bf16"],
    "fp16": ["--use_amp", "--amp_dtype", "fp16"],
}
# CIFAR and WikiText cannot be downloaded here. An epoch has eight steps, of which the last is
# smaller; so the ten cross from one to the next, with an evaluation between them.
VISION = ["--dataset", "digits", "--batch_size", "192"]
IMAGENET = ["--resize", "32", "--batch_size", "8", "--num_workers", "0"]
LANGUAGE = ["--dataset", "text", "--tokenizer", "bytes", "--batch_size", "9"]
# All blocks of the network, but narrow: its checkpoints would be 1.5 GB.
NARROW = ["--embedding_dim", "96", "--num_attention_heads", "4", "--max_seq_length", "32"]


def is_of_language(name: str) -> bool:
    """Return whether language_main.py takes the recipe."""
    return "\ntokenizer:" in (ROOT / "recipes" / f"{name}.yaml").read_text()


def of_recipe(name: str, text: Path, images: Path) -> list[str]:
    """Return the program and the flags of a recipe in short form.

    Args:
        name: of the recipe.
        text: a folder of text, for those of language.
        images: a folder of images, for those of ImageNet.
    """
    flags = ["--config", f"{ROOT}/recipes/{name}.yaml", "--max_steps", str(STEPS)]
    flags += ["--save_interval", "100ep"]  # at the start and the end alone: half the time
    # Precision and compilation are the tests' own choice.
    flags += ["--no-use_amp", "--no-use_compiled"]
    if is_of_language(name):
        # A step of 40 batches takes too long.
        flags += [*LANGUAGE, *NARROW, "--grad_accum_steps", "1", "--data_path", str(text)]
        return ["language_main", *flags]
    if name.startswith("imagenet"):
        return ["vision_main", *flags, *IMAGENET, "--data_path", str(images)]
    return ["vision_main", *flags, *VISION]


class Allowed(NamedTuple):
    """Say why a line may wait, and how often in a pass over a split."""

    reason: str
    times: int


ALLOWED = {
    (
        "pipelines/images/loaders.py",
        "moved = {n: x if n == ON_HOST else x.to(self._device) for n, x in choices.items()}",
    ): Allowed("an epoch's augmentation is drawn on the CPU, at its start", 6),
    (
        "pipelines/images/loaders.py",
        "order = order.to(self._home)",
    ): Allowed("an epoch's order is drawn on the CPU, at its start", 1),
    (
        "training/evaluation.py",
        "metrics = objective.task.metrics(processes.total(totals).tolist(), loader)",
    ): Allowed("the result of an evaluation is read, at its end", 1),
}


def unexpected(ran, first: int = STEADY, first_batch: int = 0) -> Counter[tuple[str, str]]:
    """Count the waits in steps and evaluations, by file and line, that nothing allows.

    Args:
        ran: what the fixture `null_cuda` returned.
        first: the first step that counts.
        first_batch: the first batch of an evaluation that does.
    """
    waits = ran.waits("training", first=first) + ran.waits("evaluation", first=first_batch)
    passes = sum(report["epochs"] + report["evaluations"] for report in ran.reports)
    for place, allowed in ALLOWED.items():
        if waits[place] <= allowed.times * passes:
            del waits[place]
    return waits


def assert_never_waits(ran, steps: int = STEPS, **first: int) -> None:
    """Assert that a program has made its steps, and waited for the device where it may alone."""
    assert set(ran.codes) == {0}, ran.output
    assert [len(report["steps"]) for report in ran.reports] == [steps] * len(ran.codes)
    assert not (waits := unexpected(ran, **first)), dict(waits)
