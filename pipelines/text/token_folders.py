"""Keep tokens in folders: their names, what says that they are whole, and how they are read.

{data_path}/tokens/{corpus}-{tokenizer}-{key}/ holds train.bin, val.bin, test.bin (ids as uint16 or
uint32, end of text first) and meta.json. The key is a hash of everything that the ids depend on.
A folder is renamed into place when it is whole.

Below, `stem` is the path of such folders without the key, and `wanted` what meta.json must say of
format, name and fingerprint.
"""

import hashlib
import json
import math
import os
import re
import shutil
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np

from pipelines.stamps import are_settled, stamp
from pipelines.text import corpora
from pipelines.text.corpora import StampedPath
from pipelines.text.lines import BLOCK_BYTES
from pipelines.text.tokenizer import Ids
from utils import replacing

META = "meta.json"
Meta: TypeAlias = Mapping[str, Any]
UNFINISHED = ".unfinished"  # ends the name of a folder that another process may go on with
SAME = ("name", "tokenizer", "held_out", "text_column")  # facts of folders that replace each other
ABANDONED = 3600  # seconds without a write, after which a temporary folder is deleted


@dataclass(frozen=True)
class Counts:
    """Count what is in a split.

    Attributes:
        tokens: without the end of text in front.
        words: pieces between white space, and line ends (see lines.Tally).
        bytes: of the text as UTF-8.
        lossless: the tokens are the text: decoding them gives it back.
        documents: how many there are, where the corpus consists of them.
        has_text: the text that the tokens were made of is known, so that words and bytes are.
    """

    tokens: int
    words: int
    bytes: int
    lossless: bool = True
    documents: int | None = None
    has_text: bool = True

    def facts(self) -> dict[str, int]:
        """Return what results depend on, for args.txt."""
        numbers = {"tokens": self.tokens}
        if self.has_text:
            numbers |= {"words": self.words, "bytes": self.bytes}
        if self.documents is not None:
            numbers["documents"] = self.documents
        return numbers if self.lossless or not self.has_text else {**numbers, "lossless": False}


@dataclass(frozen=True)
class Tokens:
    """Read the cached tokens of a corpus.

    Attributes:
        folder: where they are.
        meta: the content of meta.json, "form", "vocab_size" and "end_of_text" among it.
        origin: where they come from, for the log.
    """

    folder: Path
    meta: Meta
    origin: str

    def alone(self) -> "Tokens":
        """Return the same tokens, marked as found without the text that they were made of."""
        return replace(self, origin=f"{self.folder} alone, made of {self.meta['origin']}")

    def counts(self, split: str) -> Counts:
        """Return the numbers of tokens, words and bytes of a split."""
        facts = self.meta["splits"][split]
        # An earlier version did not note it; its tokens are used for gpt2 and bytes alone.
        lossless = facts.get("lossless", True)
        return Counts(
            facts["tokens"], facts["words"], facts["bytes"], lossless, facts.get("documents")
        )

    def digests(self) -> dict[str, str]:
        """Return a hash of the text that the ids were made of, by split."""
        return digests_of(self.meta)

    def ids(self, split: str) -> Ids:
        """Return the ids of a split, end of text first, as an array that stays in its file."""
        return np.asarray(np.memmap(bin_path(self.folder, split), self.meta["dtype"], mode="r"))


# --- names ---


def slug(tokenizer_name: str) -> str:
    """Return the tokenizer's name as part of a folder's."""
    return _plain(Path(tokenizer_name).resolve().name)


def stem_of(data_path: str | Path, dataset: str, tokenizer_name: str) -> Path:
    """Return the stem of a corpus's folders, whose name may be a pattern."""
    return Path(data_path, "tokens", f"{_plain(dataset)[-100:]}-{slug(tokenizer_name)}-")


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "_", name)


def folder_of(stem: Path, key: str) -> Path:
    return stem.with_name(stem.name + key)


def bin_path(folder: Path, split: str) -> Path:
    return folder / f"{split}.bin"


def key_of(meta: Meta) -> str:
    facts = repr((meta["format"], meta["fingerprint"], sorted(digests_of(meta).items())))
    return hashlib.blake2b(facts.encode(), digest_size=8).hexdigest()


def digests_of(meta: Meta) -> dict[str, str]:
    return {split: facts["digest"] for split, facts in meta["splits"].items()}


def cached(stem: Path, wanted: Meta) -> list[Tokens]:
    """Return the intact tokens of that name and tokenizer, newest first."""
    folders = [(folder, read_meta(folder)) for folder in stem.parent.glob(stem.name + "*")]
    found = [
        Tokens(folder, meta, f"{meta['origin']} (its cache)")
        for folder, meta in folders
        if wanted.items() <= meta.items() and is_intact(stem, folder, meta)
    ]
    return sorted(found, key=lambda tokens: -tokens.meta["made"])


def read_meta(folder: Path, name: str = META) -> dict[str, Any]:
    """Return the content of meta.json, {} where it is missing or damaged."""
    try:
        meta, checksum = json.loads((folder / name).read_text("utf-8"))
    except (OSError, ValueError, TypeError):
        return {}
    return meta if checksum == _checksum_of(meta) else {}


def _checksum_of(meta: Any) -> int:
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())


def is_intact(stem: Path, folder: Path, meta: Meta) -> bool:
    """Return whether the folder is named after what it holds, and holds it undamaged."""
    try:
        if folder != folder_of(stem, key_of(meta)):
            return False
        if meta.get("bins") == bin_stamps(folder):  # unchanged since they were written
            return True
        return all(
            file_checksum(bin_path(folder, split)) == meta["splits"][split]["checksum"]
            for split in corpora.SPLITS
        )
    except (OSError, KeyError):
        return False


def bin_stamps(folder: Path) -> list[list[int]]:
    """Return the stamps of the files of ids; they stay the same when the folder is renamed."""
    return [list(stamp(bin_path(folder, split).stat())) for split in corpora.SPLITS]


def file_checksum(path: Path, size: float = math.inf) -> int:
    """Return the checksum of a file, or of its first `size` bytes."""
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(int(min(BLOCK_BYTES, size))):
            checksum = zlib.crc32(block, checksum)
            size -= len(block)
    return checksum


def settled(stamped: list[StampedPath]) -> list[StampedPath] | None:
    """Return the stamps; None where a file is so new that a next change might not show in them."""
    return stamped if are_settled(tuple(rest) for _, *rest in stamped) else None


# --- writing ---


def write_meta(folder: Path, meta: Meta, name: str = META) -> None:
    """Write facts into a file of the folder, with their checksum."""
    with replacing(folder / name) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump([meta, _checksum_of(meta)], file, indent=1)
        to_disk(file)


def to_disk(file: IO[Any]) -> None:
    """Write the file through to the disk, before its folder is renamed.

    A power cut must not leave empty files under the folder's name.
    """
    file.flush()
    os.fsync(file.fileno())


def remove_older(stem: Path, folder: Path, meta: Meta) -> None:
    """Delete what earlier states of the text have left behind, and killed processes."""
    for other in stem.parent.glob(stem.name + "*"):
        if other.suffix in (".tmp", UNFINISHED):
            old = time.time() - max(p.stat().st_mtime for p in (other, *other.iterdir()))
            if old > ABANDONED:
                shutil.rmtree(other, ignore_errors=True)
            continue
        theirs = read_meta(other)
        same = all(theirs.get(fact) == meta.get(fact) for fact in SAME)
        if same and other != folder:
            shutil.rmtree(other, ignore_errors=True)


def put_in_place(temporary: Path, stem: Path, folder: Path) -> None:
    """Rename the folder; what another process has put there meanwhile is as good."""
    try:
        temporary.rename(folder)
    except OSError:
        if is_intact(stem, folder, read_meta(folder)):
            return
        shutil.rmtree(folder)
        temporary.rename(folder)
