"""Measure language: training steps against a plain GPT's, tokenising against `datasets`."""

import functools
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import dataset
from benchmarks.plain_gpt import PlainGPT, plain_optimizer, plain_step
from benchmarks.tables import print_rates
from benchmarks.timing import Call, interleaved, own_processes
from benchmarks.trainers import (
    HEADS,
    LAYERS,
    LENGTH,
    VOCABULARY,
    WIDTH,
    language_config,
    language_trainer,
    ready_step,
    ready_tokens,
)
from cli.language import LanguageConfig
from training.devices import amp_dtype
from utils import UserError

STEPS = 3
BLOCK = 1024  # tokens of a packed sequence


# --- training steps ---


def measure_training(
    activation: str, batch_size: int, rounds: int, device: torch.device, args: str | None = None
) -> None:
    """Measure steps on a batch that lies ready, without dropout, and print their rates.

    A plain GPT as torch leaves it and the project's own run in processes of their own.
    """
    print(f"\nSteps: {LAYERS} layers of {WIDTH}, {LENGTH} tokens, batch {batch_size}")
    for name, fast in {"fp32": False, "AMP compiled": True}.items():
        flags = {"use_amp": fast, "use_compiled": fast, "activation_args": args}
        config = language_config(device, activation, batch_size, **flags)
        makers = {
            f"plain GPT, GELU, {name}": functools.partial(plain_steps, config, device),
            f"this project, {activation}, {name}": functools.partial(our_steps, config, device),
        }
        with own_processes(makers) as calls:
            times = interleaved(calls, rounds, device)
        print_rates(times, STEPS * batch_size * LENGTH, "tokens", next(iter(makers)))


def plain_steps(config: LanguageConfig, device: torch.device) -> Call:
    """Return steps of a plain GPT, in the configuration's precision and batch size."""
    if device.type == "cuda":  # as nanoGPT does
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    dtype = amp_dtype(config.training, device)
    plain = PlainGPT(VOCABULARY, LENGTH, WIDTH, HEADS, LAYERS).to(device)
    optimizer = plain_optimizer(plain, lr=6e-4)
    # torch.compile returns a module, and its type says a function.
    forward: Any = torch.compile(plain) if config.training.use_compiled else plain
    ids, targets = ready_tokens(config.data.batch_size, device)

    def steps() -> None:
        for _ in range(STEPS):
            plain_step(forward, optimizer, ids, targets, dtype)

    return finished(steps, device)


def our_steps(config: LanguageConfig, device: torch.device) -> Call:
    """Return steps of a trainer as language_main builds it."""
    trainer = language_trainer(config, ready_tokens(config.data.batch_size, device))

    def steps() -> None:
        for _ in range(STEPS):
            ready_step(trainer)

    return finished(steps, device)


def finished(steps: Call, device: torch.device) -> Call:
    """Return `steps` and then waiting for the device: another process cannot wait for it."""

    def call() -> None:
        steps()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return call


# --- tokens ---


def measure_tokenizing(text: Path, data_path: str, rounds: int) -> None:
    """Measure GPT-2's tokens of a text file, packed and on disk, and print the rates.

    Args:
        text: the file.
        data_path: the folder that holds gpt2/, the tokenizer.
        rounds: how often each is measured.

    Raises:
        UserError: there is no such file, or no tokenizer.
    """
    if not text.is_file():
        raise UserError(f"--text {text}: no such file")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "gpt2").symlink_to(Path(data_path, "gpt2").resolve())
        (folder / "train.txt").symlink_to(text.resolve())
        for split in ("valid", "test"):
            (folder / f"{split}.txt").write_text("short\n")
        numbers = itertools.count()
        calls: dict[str, Call] = {
            "datasets.map, 2 processes": library_call(text, folder, numbers),
            "this project": lambda: our_tokens(folder, next(numbers)),
        }
        times = interleaved(calls, rounds, torch.device("cpu"))
    print_rates(times, text.stat().st_size / 1e6, "MB", next(iter(calls)))


def our_tokens(folder: Path, number: int) -> None:
    """Go the whole way in a new folder: digest, counts, tokens, files."""
    copy = folder / str(number)
    copy.mkdir()
    for name in ("gpt2", "train.txt", "valid.txt", "test.txt"):
        (copy / name).symlink_to(folder / name)
    dataset.load_text("text", str(copy), block_size=BLOCK, batch_size=1, progress=False)


def library_call(text: Path, folder: Path, numbers: Iterator[int]) -> Call:
    """Return what transformers' language modelling examples do, on lines that lie ready.

    Args:
        text: the file.
        folder: holds gpt2/, and gets the lines and the results.
        numbers: give every result a name of its own.
    """
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    import datasets  # reads the variable above, and takes seconds that others need not wait
    from transformers import GPT2TokenizerFast  # takes seconds as well

    tokenizer = GPT2TokenizerFast.from_pretrained(folder / "gpt2")
    with open(text, newline="\n") as file:
        lines = datasets.Dataset.from_dict({"text": list(file)})
    lines.save_to_disk(folder / "lines")
    lines = datasets.load_from_disk(folder / "lines")

    def tokenise(rows: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return tokenizer(rows["text"])

    def pack(rows: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = {key: list(itertools.chain.from_iterable(rows[key])) for key in rows}
        length = len(joined["input_ids"]) // BLOCK * BLOCK
        return {
            key: [ids[i : i + BLOCK] for i in range(0, length, BLOCK)]
            for key, ids in joined.items()
        }

    def call() -> None:
        files = [str(folder / f"{next(numbers)}.arrow") for _ in range(2)]
        tokens = lines.map(
            tokenise, batched=True, num_proc=2, remove_columns="text", load_from_cache_file=False,
            cache_file_name=files[0],
        )  # fmt: skip
        tokens.map(
            pack, batched=True, num_proc=2, load_from_cache_file=False, cache_file_name=files[1]
        )

    return call
