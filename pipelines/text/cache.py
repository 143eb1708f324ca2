"""Keep the tokens of a corpus on disk: they are made once, then mapped into memory.

{data_path}/tokens/{corpus}-{tokenizer}-{key}/ holds train.bin, val.bin, test.bin (ids as uint16 or
uint32, end of text first) and meta.json. The key is a hash of everything that the ids depend on.
A folder is renamed into place when it is whole. Of several processes one makes it.

Below, `stem` is the path of such folders without the key, and `wanted` what meta.json must say of
format, name and fingerprint.
"""

import hashlib
import json
import os
import re
import shutil
import time
import uuid
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np

from pipelines.stamps import are_settled
from pipelines.text import corpora, encoding, tokenizer
from pipelines.text.corpora import Corpus, StampedPath
from pipelines.text.forms import Split, reading
from pipelines.text.lines import BLOCK_BYTES, Tally, in_lines
from pipelines.text.tokenizer import Ids, Tokenizer
from utils import UserError, one_at_a_time, progress_bar, replacing

FORMAT = 1  # part of the key: raise it when the same text would give other ids
META = "meta.json"
Meta: TypeAlias = Mapping[str, Any]
ABANDONED = 3600  # seconds without a write, after which a temporary folder is deleted


@dataclass(frozen=True)
class Counts:
    """Count what is in a split.

    Attributes:
        tokens: without the end of text in front.
        words: pieces between white space, and line ends (see lines.Tally).
        bytes: of the text as UTF-8.
        lossless: the tokens are the text: decoding them gives it back.
    """

    tokens: int
    words: int
    bytes: int
    lossless: bool = True

    def facts(self) -> dict[str, int]:
        """Return what results depend on, for args.txt."""
        numbers = {"tokens": self.tokens, "words": self.words, "bytes": self.bytes}
        return numbers if self.lossless else {**numbers, "lossless": False}


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
        return Counts(facts["tokens"], facts["words"], facts["bytes"], lossless)

    def digests(self) -> dict[str, str]:
        """Return a hash of the text that the ids were made of, by split."""
        return _digests(self.meta)

    def ids(self, split: str) -> Ids:
        """Return the ids of a split, end of text first, as an array that stays in its file."""
        return np.asarray(np.memmap(_bin(self.folder, split), self.meta["dtype"], mode="r"))


def load(name: str, tokenizer_name: str, data_path: str | Path, progress: bool = True) -> Tokens:
    """Return the tokens of the corpus called `name`: from the cache, or made and cached now.

    Text in data_path decides what the tokens must be. Where there is none the cache is taken as it
    is, and where there is no cache either the text comes from Hugging Face.

    Raises:
        UserError: the text or the tokenizer is missing or broken, or the cache cannot be written.
    """
    fingerprint = tokenizer.fingerprint(tokenizer_name)
    wanted = {"format": FORMAT, "name": name, "fingerprint": fingerprint}
    stem = Path(data_path, "tokens", f"{name}-{_slug(tokenizer_name)}-")
    cached = _cached(stem, wanted)
    with reading(data_path):
        corpus = corpora.find(name, data_path)
    if tokens := _valid_unread(cached, corpus):
        return tokens
    if corpus is None and name == "text":
        corpora.fetch(name, data_path)  # raises: nobody else has this text
    with one_at_a_time(stem.with_name(f".{stem.name}lock")):
        cached = _cached(stem, wanted)  # by now another process may have made them
        tokens = _valid_unread(cached, corpus) or _valid_by_content(cached, corpus, progress)
        return tokens or _create(stem, wanted, tokenizer_name, corpus, data_path, progress)


def _valid_unread(cached: list[Tokens], corpus: Corpus | None) -> Tokens | None:
    """Return the first of the cached tokens that are right by the stamps of the files, or None.

    Without a text the newest are right.
    """
    if corpus is None:
        return cached[0].alone() if cached else None
    stamps = _settled(corpus.stamps())
    return next((tokens for tokens in cached if stamps and tokens.meta["stamps"] == stamps), None)


def _valid_by_content(cached: list[Tokens], corpus: Corpus | None, progress: bool) -> Tokens | None:
    """Return those of the cached tokens that are of the text as it is now; None if it changed."""
    if not cached or corpus is None:
        return None
    stamps = _settled(corpus.stamps())
    tallies = {split: Tally() for split in corpus.splits}
    with _bar(f"reading {corpus.origin} for changes", corpus, progress) as bar:
        for split, text in corpus.splits.items():
            for block in tallies[split].watch(text.blocks()):
                bar.update(len(block))
    digests = {split: tally.digest for split, tally in tallies.items()}
    for tokens in cached:
        if _digests(tokens.meta) == digests:
            with suppress(OSError):  # if that cannot be noted, the text is read again next time
                _write_meta(tokens.folder, {**tokens.meta, "stamps": stamps})
            return tokens
    return None


def _settled(stamped: list[StampedPath]) -> list[StampedPath] | None:
    """Return the stamps; None where a file is so new that a next change might not show in them."""
    return stamped if are_settled(tuple(rest) for _, *rest in stamped) else None


# --- names and checks of a folder ---


def _slug(tokenizer_name: str) -> str:
    """Return the tokenizer's name as part of a folder's."""
    return re.sub(r"[^A-Za-z0-9._]+", "_", Path(tokenizer_name).resolve().name)


def _folder(stem: Path, key: str) -> Path:
    return stem.with_name(stem.name + key)


def _bin(folder: Path, split: str) -> Path:
    return folder / f"{split}.bin"


def _key(meta: Meta) -> str:
    facts = repr((meta["format"], meta["fingerprint"], sorted(_digests(meta).items())))
    return hashlib.blake2b(facts.encode(), digest_size=8).hexdigest()


def _digests(meta: Meta) -> dict[str, str]:
    return {split: facts["digest"] for split, facts in meta["splits"].items()}


def _cached(stem: Path, wanted: Meta) -> list[Tokens]:
    """Return the intact tokens of that name and tokenizer, newest first."""
    folders = [(folder, _read_meta(folder)) for folder in stem.parent.glob(stem.name + "*")]
    found = [
        Tokens(folder, meta, f"{meta['origin']} (its cache)")
        for folder, meta in folders
        if wanted.items() <= meta.items() and _is_intact(stem, folder, meta)
    ]
    return sorted(found, key=lambda tokens: -tokens.meta["made"])


def _read_meta(folder: Path) -> dict[str, Any]:
    """Return the content of meta.json, {} where it is missing or damaged."""
    try:
        meta, checksum = json.loads((folder / META).read_text("utf-8"))
    except (OSError, ValueError, TypeError):
        return {}
    return meta if checksum == _checksum_of(meta) else {}


def _checksum_of(meta: Any) -> int:
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())


def _is_intact(stem: Path, folder: Path, meta: Meta) -> bool:
    """Return whether the folder is named after what it holds, and holds it undamaged."""
    try:
        return folder == _folder(stem, _key(meta)) and all(
            _file_checksum(_bin(folder, split)) == meta["splits"][split]["checksum"]
            for split in corpora.SPLITS
        )
    except (OSError, KeyError):
        return False


def _file_checksum(path: Path) -> int:
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
    return checksum


# --- making a folder ---


def _create(
    stem: Path,
    wanted: Meta,
    tokenizer_name: str,
    corpus: Corpus | None,
    data_path: str | Path,
    progress: bool,
) -> Tokens:
    """Tokenise the corpus into the cache; download it where it is None."""
    if corpus is not None:
        corpora.check(wanted["name"], corpus)
    # Before a download: without a tokenizer it would be for nothing.
    encoder = tokenizer.load(tokenizer_name, data_path)
    if corpus is None:
        corpus = corpora.fetch(wanted["name"], data_path)
        corpora.check(wanted["name"], corpus)
    meta = {**wanted, "tokenizer": str(Path(tokenizer_name).resolve())}
    try:
        return _write_folder(stem, meta, corpus, encoder, progress)
    except OSError as error:
        raise UserError(
            f"--data_path {data_path}: the tokens cannot be written to {stem.parent}"
            f" ({error.strerror or error}); make room there, or put the text in another folder"
        ) from None


def _write_meta(folder: Path, meta: Meta) -> None:
    with replacing(folder / META) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump([meta, _checksum_of(meta)], file, indent=1)
        _to_disk(file)


def _to_disk(file: IO[Any]) -> None:
    """Write the file through to the disk, before its folder is renamed.

    A power cut must not leave empty files under the folder's name.
    """
    file.flush()
    os.fsync(file.fileno())


def _bar(what: str, corpus: Corpus, progress: bool) -> Any:
    """Make a progress bar over the bytes of all splits."""
    total = sum(split.size() for split in corpus.splits.values())
    return progress_bar(what, progress, total=total, unit="B", unit_scale=True)


def _write_folder(
    stem: Path, meta: Meta, corpus: Corpus, encoder: Tokenizer, progress: bool
) -> Tokens:
    """Tokenise a corpus into the cache, in place of what an older text or tokenizer left there."""
    meta = {
        **meta,
        "form": corpus.form,
        "origin": corpus.origin,
        "stamps": _settled(corpus.stamps()),
        "made": time.time(),
        "vocab_size": encoder.vocab_size,
        "end_of_text": encoder.end_of_text,
        "dtype": "uint16" if encoder.vocab_size <= 2**16 else "uint32",
    }
    temporary = stem.with_name(f"{stem.name}{uuid.uuid4().hex}.tmp")
    temporary.mkdir(parents=True)
    try:
        with _bar(f"tokenising {corpus.origin}", corpus, progress) as bar:
            meta["splits"] = {
                split: _write_split(text, encoder, _bin(temporary, split), meta["dtype"], bar)
                for split, text in corpus.splits.items()
            }
        _write_meta(temporary, meta)
        folder = _folder(stem, _key(meta))
        _put_in_place(temporary, stem, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _remove_older(stem, folder, meta)
    return Tokens(folder, meta, corpus.origin)


def _remove_older(stem: Path, folder: Path, meta: Meta) -> None:
    """Delete what earlier states of the text have left behind, and killed processes."""
    for other in stem.parent.glob(stem.name + "*"):
        if other.suffix == ".tmp":
            old = time.time() - max(p.stat().st_mtime for p in (other, *other.iterdir()))
            if old > ABANDONED:
                shutil.rmtree(other, ignore_errors=True)
            continue
        theirs = _read_meta(other)
        same = all(theirs.get(fact) == meta[fact] for fact in ("name", "tokenizer"))
        if same and other != folder:
            shutil.rmtree(other, ignore_errors=True)


def _put_in_place(temporary: Path, stem: Path, folder: Path) -> None:
    """Rename the folder; what another process has put there meanwhile is as good."""
    try:
        temporary.rename(folder)
    except OSError:
        if _is_intact(stem, folder, _read_meta(folder)):
            return
        shutil.rmtree(folder)
        temporary.rename(folder)


def _write_split(
    text: Split, encoder: Tokenizer, path: Path, dtype: str, bar: Any
) -> dict[str, Any]:
    """Write the ids of one split; return its part of meta.json."""
    tally, tokens, lossless = Tally(), 0, True
    with open(path, "wb") as file:
        file.write(np.array([encoder.end_of_text], dtype).data)
        try:
            for part in encoding.encode(in_lines(tally.watch(text.blocks())), encoder):
                file.write(part.ids.astype(dtype).data)
                tokens += len(part.ids)
                lossless &= part.lossless
                bar.update(part.size)
        except UnicodeDecodeError as error:
            raise UserError(
                f"{text.files[0]}: not UTF-8 at byte {error.start:,}; convert it (iconv -t utf-8),"
                " or take --tokenizer bytes"
            ) from None
        _to_disk(file)
    if not tokens:
        raise UserError(f"{text.files[0]}: the tokenizer finds no token in it")
    return {
        "tokens": tokens,
        "words": tally.words,
        "bytes": tally.bytes,
        "lossless": lossless,
        "digest": tally.digest,
        "checksum": _file_checksum(path),
    }
