"""Measure tokenising a text file against the library `datasets`."""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import datasets
import torch
from transformers import GPT2TokenizerFast

import dataset
from benchmarks.tables import print_rates
from benchmarks.timing import Call, interleaved
from utils import UserError

BLOCK = 1024  # tokens of a packed sequence


def measure(text: Path, data_path: str, rounds: int) -> None:
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
    datasets.disable_progress_bars()
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
