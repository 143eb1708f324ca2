"""Read tokens that other programs have made: nanoGPT's, modded-nanogpt's and llm.c's files.

nanoGPT's train.bin is ids as uint16 and nothing else. The other two write shards, which begin with
256 numbers of int32: a magic number, a version, and how many ids follow. The files stay where they
are, and are mapped; what is known of them is kept in a folder of tokens (token_folders.py).
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.text import document_corpora, token_folders, tokenizer
from pipelines.text.corpora import stamps_of
from pipelines.text.forms import reading
from pipelines.text.token_folders import Counts, Tokens
from pipelines.text.tokenizer import Ids
from utils import UserError, one_at_a_time, usable_cpus

FORMAT = "token files 2"  # change it when meta.json would say something else of the same files
HEADER = 256  # numbers of int32
# {magic number: version, type of the ids}: llm.c's dev/data/data_common.py, which modded-nanogpt's
# shards follow.
KNOWN = {20240520: (1, "<u2"), 20240801: (7, "<u4")}
SCANNED = 2**22  # ids looked at together


@dataclass(frozen=True)
class _File:
    """Hold where the ids of a file are."""

    path: Path
    dtype: str
    offset: int
    count: int

    def ids(self) -> Ids:
        return np.memmap(self.path, self.dtype, "r", self.offset, (self.count,))


class Joined:
    """Join arrays of ids into one, which reads them where they are.

    Args:
        parts: one or more arrays, none of them empty.
    """

    def __init__(self, parts: Sequence[Ids]):
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])
        self.dtype = parts[-1].dtype

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, places: Any) -> Any:
        if isinstance(places, slice):
            places = np.arange(*places.indices(len(self)))
        places = np.asarray(places)
        found = np.empty(places.shape, self.dtype)
        numbers = np.searchsorted(self._ends, places, side="right")
        for number in np.unique(numbers):
            part = self._parts[number]
            here = numbers == number
            found[here] = part[places[here] - (self._ends[number] - len(part))]
        return found


@dataclass(frozen=True)
class TokenFiles(Tokens):
    """Read the tokens of a corpus of which only these are there."""

    def counts(self, split: str) -> Counts:
        facts = self.meta["splits"][split]
        return Counts(
            facts["tokens"], 0, 0, lossless=False, documents=facts["documents"], has_text=False
        )

    def ids(self, split: str) -> Ids:
        """Return the ids of a split, end of text first.

        It is put in front where it is missing, as in nanoGPT's files, at whose end it stands: there
        it is left out, so that their ids are those of the documents in any other form.
        """
        files = [_opened(Path(path)) for path in self.meta["splits"][split]["files"]]
        joined = _in_order([file.ids() for file in files], self.meta["end_of_text"])
        return joined  # type: ignore[return-value] # an array, as far as loaders use it


def _in_order(parts: list[Ids], end_of_text: int) -> Joined:
    if parts[0][0] == end_of_text:
        return Joined(parts)
    front = np.array([end_of_text], parts[0].dtype)
    if parts[-1][-1] == end_of_text:
        parts[-1] = parts[-1][:-1]
    return Joined([front, *(part for part in parts if len(part))])


def load(dataset: str, tokenizer_name: str, data_path: str | Path) -> TokenFiles:
    """Return the tokens in the files of `bin/PATTERN`; they are read once, to check them.

    Raises:
        UserError: a file is none of these, is damaged, or is another tokenizer's.
    """
    found = document_corpora.files_by_split(dataset, str(data_path))
    if not found:
        raise document_corpora.no_match(dataset)
    _check_splits(dataset, found)
    wanted = {
        "format": FORMAT, "name": dataset, "fingerprint": tokenizer.fingerprint(tokenizer_name),
    }  # fmt: skip
    stem = token_folders.stem_of(data_path, dataset, tokenizer_name)
    folder = token_folders.folder_of(stem, "files")
    with one_at_a_time(stem.with_name(f".{stem.name}lock")):
        stamped = token_folders.settled(
            stamps_of(path for paths in found.values() for path in paths)
        )
        meta = token_folders.read_meta(folder)
        if stamped and (wanted | {"stamps": stamped}).items() <= meta.items():
            return TokenFiles(folder, meta, meta["origin"])
        meta = wanted | {"stamps": stamped} | _facts(dataset, found, tokenizer_name, data_path)
        with suppress(OSError):  # if it cannot be noted, the files are read again next time
            folder.mkdir(parents=True, exist_ok=True)
            token_folders.write_meta(folder, meta)
    return TokenFiles(folder, meta, meta["origin"])


def _check_splits(dataset: str, found: dict[str, list[Path]]) -> None:
    if "train" not in found or len(found) == 1:
        there = ", ".join(str(path) for paths in found.values() for path in paths[:1])
        raise UserError(
            f"--dataset {dataset}: needs files for training and for validation, by their names"
            f" (train.bin, val.bin), and has {there}; give a pattern that has both"
        )


def _facts(
    dataset: str, found: dict[str, list[Path]], tokenizer_name: str, data_path: str | Path
) -> dict[str, Any]:
    """Return what meta.json says of the files, after reading all of them."""
    files = {split: [_opened(path) for path in paths] for split, paths in found.items()}
    kinds = {file.dtype: file.path for each in files.values() for file in each}
    if len(kinds) > 1:
        one, other = kinds.items()
        raise UserError(
            f"--dataset {dataset}: {one[1]} has ids of {_bits(one[0])} bits, {other[1]} of"
            f" {_bits(other[0])}; they are not of one corpus: give a pattern for one"
        )
    vocab_size, end_of_text = tokenizer.sizes(tokenizer_name, data_path)
    print(f"reading the tokens of {dataset}")
    splits = {
        split: _scanned(each, vocab_size, end_of_text, tokenizer_name)
        for split, each in files.items()
    }
    # Nothing can be held out of files that are read where they are.
    only = splits["val"] if "val" in splits else splits["test"]
    return {
        "form": dataset,
        "origin": ", ".join(sorted({str(path.parent) for each in found.values() for path in each})),
        "splits": {"val": only, "test": only} | splits,
        "vocab_size": vocab_size,
        "end_of_text": end_of_text,
    }


def _bits(dtype: str) -> int:
    return 8 * np.dtype(dtype).itemsize


def _opened(path: Path) -> _File:
    """Return where the ids of a file are.

    Raises:
        UserError: it is of an unknown kind, or damaged.
    """
    with reading(path):
        size = path.stat().st_size
        header = np.fromfile(path, "<i4", HEADER)
    magic, version, count = (header[i] if i < len(header) else 0 for i in range(3))
    if magic in KNOWN and len(header) == HEADER:
        known, dtype = KNOWN[magic]
        if version != known:
            raise UserError(
                f"{path}: has the magic number {magic} of shards, but version {version} in place of"
                f" {known}; write it again with today's llm.c or modded-nanogpt"
            )
        there = (size - 4 * HEADER) / np.dtype(dtype).itemsize
        if there != count:
            raise UserError(
                f"{path}: its header says {count:,} tokens, and {there:,.10g} are there; it is"
                " damaged: copy or download it again"
            )
        file = _File(path, dtype, 4 * HEADER, int(count))
    elif len(header) == HEADER and not header[4:].any():
        raise UserError(
            f"{path}: begins with a header of the unknown magic number {magic}; known are"
            f" {', '.join(map(str, KNOWN))}, and files without a header (nanoGPT's)"
        )
    elif size % 2:
        raise UserError(
            f"{path}: has {size:,} bytes, and ids take 2 each; it is damaged: copy it again"
        )
    else:
        file = _File(path, "<u2", 0, size // 2)
    if not file.count:
        raise UserError(f"{path}: holds no tokens; leave it out of the pattern")
    return file


def _scanned(
    files: list[_File], vocab_size: int, end_of_text: int, tokenizer_name: str
) -> dict[str, Any]:
    """Return the facts of a split; its files are read at once, a thread for each processor."""
    with ThreadPoolExecutor(usable_cpus()) as pool:
        found = list(pool.map(lambda file: _scan(file, end_of_text), files))
    digest = hashlib.blake2b(digest_size=16)
    for file, (greatest, _, each) in zip(files, found, strict=True):
        if greatest >= vocab_size:
            raise UserError(
                f"{file.path}: holds the id {greatest}, and --tokenizer {tokenizer_name} has"
                f" {vocab_size} ids; give the tokenizer that the file was made with"
            )
        digest.update(each)
    ids = _in_order([file.ids() for file in files], end_of_text)
    if len(ids) < 2:
        raise UserError(f"{files[0].path}: holds no tokens but end of text")
    return {
        "files": [str(file.path.resolve()) for file in files],
        "tokens": len(ids) - 1,
        "documents": max(1, sum(count for _, count, _ in found)),
        "digest": digest.hexdigest(),
    }


def _scan(file: _File, end_of_text: int) -> tuple[int, int, bytes]:
    """Return the greatest id of a file, how often end of text is in it, and a hash of the ids."""
    ids, greatest, ends = file.ids(), 0, 0
    digest = hashlib.blake2b(digest_size=16)
    for start in range(0, len(ids), SCANNED):
        part = np.asarray(ids[start : start + SCANNED])
        greatest = max(greatest, int(part.max()))
        ends += int((part == end_of_text).sum())
        digest.update(part.data)
    return greatest, ends, digest.digest()
