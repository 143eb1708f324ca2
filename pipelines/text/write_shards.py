"""Write the tokens of a corpus as files that nanoGPT, modded-nanogpt and llm.c read.

python -m pipelines.text.write_shards Data/my_ids --dataset openwebtext --form nanogpt
python -m pipelines.text.write_shards Data/my_shards --dataset "jsonl/my/*" --form llmc

nanogpt: train.bin, val.bin and test.bin, ids as uint16, end of text behind each document. llmc:
shards train_000000.bin and so on, as modded-nanogpt's too, with a header, end of text in front of
each document; ids are uint16, or uint32 where the tokenizer has more than 65,536. Between documents
stands what separates them in such files: what the tokenizer puts in front of an empty text, if
anything, else its end of text. `--dataset bin/FOLDER` reads all of them.
"""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from cli.converters import file_path, number, one_of, path, share
from cli.datasets import DEFAULT_DATA_PATH, HELD_OUT, text_dataset
from cli.errors import one_line_errors
from cli.language import LanguageDataConfig
from cli.parser import Parser, checked, parsed_into, tool_parser
from pipelines.text import tokenizer
from pipelines.text.corpora import SPLITS
from pipelines.text.load import prepare_text
from pipelines.text.token_files import HEADER, KNOWN, SCANNED
from pipelines.text.token_folders import to_disk
from pipelines.text.tokenizer import Ids
from utils import UserError

SHARD_TOKENS = 10**8  # llm.c's
MOST = 2**31 - 1  # that a header's int32 can count
MAGIC = {dtype: (magic, version) for magic, (version, dtype) in KNOWN.items()}


@dataclass(frozen=True)
class Options:
    """Hold the command line; build_parser explains the flags."""

    folder: Path
    form: str
    dataset: str
    tokenizer: str
    data_path: str
    text_column: str | None
    held_out: float
    shard_tokens: int


@dataclass(frozen=True)
class _Split:
    """Hold the ids of a split, and what stands between documents here and in the files."""

    ids: Ids
    end_of_text: int
    separator: int

    def parts(self, first: int, last: int) -> Iterator[Ids]:
        """Yield the ids in these places, some at a time."""
        for start in range(first, last, SCANNED):
            part = np.asarray(self.ids[start : min(start + SCANNED, last)])
            yield np.where(part == self.end_of_text, self.separator, part)


def main(argv: list[str] | None = None) -> int:
    """Write the files; return the exit code.

    Raises:
        UserError: the corpus or the tokenizer cannot be used, or the folder is there already.
    """
    options = parsed_into(Options, build_parser(), argv)
    if options.folder.exists():
        raise UserError(f"{options.folder}: is there already; name a new folder")
    if options.form == "nanogpt" and options.shard_tokens != SHARD_TOKENS:
        raise UserError("--shard_tokens has no effect with --form nanogpt; leave it out")
    config = LanguageDataConfig(
        dataset=options.dataset, tokenizer=options.tokenizer, data_path=options.data_path,
        text_column=options.text_column, held_out=options.held_out,
    )  # fmt: skip
    config.check_documents()
    vocab_size, separator = tokenizer.sizes(options.tokenizer, options.data_path)
    dtype = "<u2" if vocab_size <= 2**16 else "<u4"
    if options.form == "nanogpt" and dtype != "<u2":
        raise UserError(
            f"--form nanogpt: its ids have 16 bits, and --tokenizer {options.tokenizer} has"
            f" {vocab_size:,} ids; give --form llmc"
        )
    tokens = prepare_text(config)
    with _whole(options.folder) as folder:
        for name in SPLITS:
            split = _Split(tokens.ids(name), tokens.meta["end_of_text"], separator)
            if options.form == "nanogpt":
                _write_nanogpt(split, folder / f"{name}.bin")
            else:
                _write_shards(split, dtype, folder, name, options.shard_tokens)
            print(f"{name}: {len(split.ids):,} tokens")
    print(f"Tokens: {options.folder} (--dataset bin/{options.folder})")
    return 0


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = tool_parser("%(prog)s FOLDER --dataset NAME --form FORM [flags]", str(__doc__))
    parser.add_argument("folder", type=checked(file_path), metavar="FOLDER", help="a new folder")
    for name, convert, default, text in (
        ("form", one_of("nanogpt", "llmc"), None, "nanogpt or llmc"),
        ("dataset", text_dataset, None, "a corpus, as language_main.py takes it"),
        ("tokenizer", path, "gpt2", "gpt2, bytes, or a tokenizer's folder (gpt2)"),
        ("data_path", path, DEFAULT_DATA_PATH, "folder of the data and of its tokens"),
        ("text_column", str, None, "the column or key of the text (as language_main.py's)"),
        ("held_out", share, HELD_OUT, "share of the training documents (as language_main.py's)"),
        ("shard_tokens", number(int, at_least=1, at_most=MOST), SHARD_TOKENS,
         "of llmc: in a shard; the last one has fewer (100,000,000)"),
    ):  # fmt: skip
        parser.add_argument(
            f"--{name}", type=checked(convert), default=default, metavar="VALUE", help=text,
            required=name in ("form", "dataset"),
        )  # fmt: skip
    return parser


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """Give a temporary folder; it becomes `target` if nothing goes wrong, and is removed if not."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        os.rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_nanogpt(split: _Split, file: Path) -> None:
    """Write what nanoGPT's data/openwebtext/prepare.py does: end of text behind each document."""
    with open(file, "wb") as opened:
        _write(opened, split.parts(1, len(split.ids)), "<u2")
        _write(opened, iter([np.array([split.separator], np.uint16)]), "<u2")


def _write_shards(split: _Split, dtype: str, folder: Path, name: str, shard_tokens: int) -> None:
    """Write what llm.c's dev/data/data_common.py does; a document may go on in the next shard."""
    for shard, first in enumerate(range(0, len(split.ids), shard_tokens)):
        last = min(first + shard_tokens, len(split.ids))
        header = np.zeros(HEADER, "<i4")
        header[:3] = *MAGIC[dtype], last - first
        with open(folder / f"{name}_{shard:06}.bin", "wb") as opened:
            opened.write(header.data)
            _write(opened, split.parts(first, last), dtype)


def _write(opened: IO[bytes], parts: Iterator[Ids], dtype: str) -> None:
    for part in parts:
        opened.write(part.astype(dtype).data)
    to_disk(opened)


if __name__ == "__main__":
    with one_line_errors():
        code = main()
    sys.exit(code)
