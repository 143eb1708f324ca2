"""The tokens of a corpus on disk: made once, then mapped into memory.

{data_path}/tokens/{corpus}-{tokenizer}-{key}/ holds train.bin, val.bin, test.bin (ids as uint16 or
uint32, end of text first) and meta.json. The key is a hash of everything that the ids depend on.
A folder is renamed into place when it is whole. Of several processes one makes it.
"""

import hashlib
import json
import os
import re
import shutil
import time
import uuid
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipelines.text import corpora, tokenizer
from pipelines.text.forms import reading
from pipelines.text.lines import BLOCK, Tally, in_lines
from utils import UserError, one_at_a_time, progress_bar, replacing

FORMAT = 1  # part of the key: raise it when the same text would give other ids
META = "meta.json"
# A file can change twice within a tick of its file system's clock, the second time unseen.
CLOCK_TICK = 2  # seconds, which is FAT's; others are finer
AHEAD = 2  # chunks given to the tokenizer while the one before is written
ABANDONED = 3600  # seconds without a write: what a killed process has left


@dataclass(frozen=True)
class Counts:
    """tokens: without the end of text in front; bytes: of the text as UTF-8."""

    tokens: int
    words: int
    bytes: int


@dataclass(frozen=True)
class Tokens:
    """The cached tokens of a corpus.

    meta: what meta.json says, "form", "vocab_size" and "end_of_text" among it; origin: where they
    come from, for the log.
    """

    folder: Path
    meta: dict
    origin: str

    def alone(self):
        """The same, found without the text that they were made of."""
        return replace(self, origin=f"{self.folder} alone, made of {self.meta['origin']}")

    def counts(self, split):
        facts = self.meta["splits"][split]
        return Counts(facts["tokens"], facts["words"], facts["bytes"])

    def digests(self):
        """Of the text that the ids were made of, by split."""
        return _digests(self.meta)

    def ids(self, split):
        """The ids of a split, end of text first: an array that lives in its file."""
        return np.asarray(np.memmap(_bin(self.folder, split), self.meta["dtype"], mode="r"))


def load(name, tokenizer_name, data_path, progress=True):
    """The Tokens of the corpus called `name`: from the cache, or made and cached now.

    Text that lies in data_path is what counts. Where there is none the cache is taken as it is,
    and without that too the text comes from Hugging Face. UserError for what the user can mend.
    """
    fingerprint = tokenizer.fingerprint(tokenizer_name)
    wanted = {"format": FORMAT, "name": name, "fingerprint": fingerprint}
    stem = Path(data_path, "tokens", f"{name}-{_slug(tokenizer_name)}-")
    cached = _cached(stem, wanted)
    with reading(data_path):
        corpus = corpora.find(name, data_path)
    if tokens := _at_hand(cached, corpus):
        return tokens
    if corpus is None and name == "text":
        corpora.fetch(name, data_path)  # which nobody else has: it says what is missing
    with one_at_a_time(stem.with_name(f".{stem.name}lock")):
        cached = _cached(stem, wanted)  # by now another process may have made them
        tokens = _at_hand(cached, corpus) or _current(cached, corpus, progress)
        return tokens or _new(stem, wanted, tokenizer_name, corpus, data_path, progress)


def _at_hand(cached, corpus):
    """The first of the cached Tokens that are right without a look into the text, or None."""
    if corpus is None:
        return cached[0].alone() if cached else None
    stamps = _settled(corpus.stamps())
    return next((tokens for tokens in cached if stamps and tokens.meta["stamps"] == stamps), None)


def _new(stem, wanted, tokenizer_name, corpus, data_path, progress):
    # Before a download: without a tokenizer it would be for nothing.
    encoder = tokenizer.load(tokenizer_name, data_path)
    corpus = corpus or corpora.fetch(wanted["name"], data_path)
    corpora.check(wanted["name"], corpus)
    wanted["tokenizer"] = str(Path(tokenizer_name).resolve())
    try:
        return _make(stem, wanted, corpus, encoder, progress)
    except OSError as error:
        raise UserError(
            f"--data_path {data_path}: the tokens cannot be written to {stem.parent}"
            f" ({error.strerror or error}); make room there, or put the text in another folder"
        ) from None


def _slug(tokenizer_name):
    """The tokenizer's name as part of a folder's."""
    return re.sub(r"[^A-Za-z0-9._]+", "_", Path(tokenizer_name).resolve().name)


def _folder(stem, key):
    return stem.with_name(stem.name + key)


def _bin(folder, split):
    return folder / f"{split}.bin"


def _key(meta):
    facts = repr((meta["format"], meta["fingerprint"], sorted(_digests(meta).items())))
    return hashlib.blake2b(facts.encode(), digest_size=8).hexdigest()


def _digests(meta):
    return {split: facts["digest"] for split, facts in meta["splits"].items()}


def _cached(stem, wanted):
    """The intact Tokens of that name and tokenizer, newest first."""
    folders = [(folder, _read_meta(folder)) for folder in stem.parent.glob(stem.name + "*")]
    found = [
        Tokens(folder, meta, f"{meta['origin']} (its cache)")
        for folder, meta in folders
        if wanted.items() <= meta.items() and _is_intact(stem, folder, meta)
    ]
    return sorted(found, key=lambda tokens: -tokens.meta["made"])


def _read_meta(folder):
    """meta.json, {} where it is missing or damaged."""
    try:
        meta, checksum = json.loads((folder / META).read_text("utf-8"))
    except (OSError, ValueError, TypeError):
        return {}
    return meta if checksum == _checksum_of(meta) else {}


def _checksum_of(meta):
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())


def _is_intact(stem, folder, meta):
    """Whether the folder is named after what it holds, and holds it undamaged."""
    try:
        return folder == _folder(stem, _key(meta)) and all(
            _file_checksum(_bin(folder, split)) == meta["splits"][split]["checksum"]
            for split in corpora.SPLITS
        )
    except (OSError, KeyError):
        return False


def _file_checksum(path):
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _settled(stamps):
    """The stamps, or None where a file is so new that a next change might not show in them."""
    newest = max(ctime for _, _, _, ctime, _ in stamps)
    return stamps if time.time_ns() - newest > CLOCK_TICK * 1e9 else None


def _current(cached, corpus, progress):
    """Those of the cached Tokens that are of the text as it is now; None where it has changed."""
    if not cached:
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
                _write_meta(tokens.folder, tokens.meta | {"stamps": stamps})
            return tokens
    return None


def _write_meta(folder, meta):
    with replacing(folder / META) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump([meta, _checksum_of(meta)], file, indent=1)
        _to_disk(file)


def _to_disk(file):
    """Before the folder is renamed: a power cut must not leave empty files under its name."""
    file.flush()
    os.fsync(file.fileno())


def _bar(what, corpus, progress):
    total = sum(split.size() for split in corpus.splits.values())
    return progress_bar(what, progress, total=total, unit="B", unit_scale=True)


def _make(stem, meta, corpus, encoder, progress):
    """Tokenise a corpus into the cache, in place of what an older text or tokenizer left there."""
    meta = meta | {
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
                split: _write(text, encoder, _bin(temporary, split), meta["dtype"], bar)
                for split, text in corpus.splits.items()
            }
        _write_meta(temporary, meta)
        folder = _folder(stem, _key(meta))
        _put_in_place(temporary, stem, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _remove_older(stem, folder, meta)
    return Tokens(folder, meta, corpus.origin)


def _remove_older(stem, folder, meta):
    """Delete what earlier states of the text have left, and killed processes."""
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


def _put_in_place(temporary, stem, folder):
    """Rename; what another process has put there meanwhile is as good."""
    try:
        temporary.rename(folder)
    except OSError:
        if _is_intact(stem, folder, _read_meta(folder)):
            return
        shutil.rmtree(folder)
        temporary.rename(folder)


def _write(text, encoder, path, dtype, bar):
    """Write the ids of one split; its part of meta.json."""
    tally, tokens, done = Tally(), 0, 0
    with open(path, "wb") as file:
        file.write(np.array([encoder.end_of_text], dtype))
        for lines, encoded in _encoded(in_lines(tally.watch(text.blocks())), encoder):
            try:
                ids = encoded.result()
            except UnicodeDecodeError:
                raise _not_utf8(text, done, lines) from None
            file.write(ids.astype(dtype))
            tokens += len(ids)
            size = sum(map(len, lines))
            done += size
            bar.update(size)
        _to_disk(file)
    if not tokens:
        raise UserError(f"{text.files[0]}: the tokenizer finds no token in it")
    return {
        "tokens": tokens,
        "words": tally.words,
        "bytes": tally.bytes,
        "digest": tally.digest,
        "checksum": _file_checksum(path),
    }


def _encoded(chunks, encoder):
    """(lines, future of their ids) of each list of lines, in order.

    While the library works on some lines in its own threads, Python makes an array of others'.
    """
    waiting = deque()
    with ThreadPoolExecutor(AHEAD) as pool:
        for lines in chunks:
            waiting.append((lines, pool.submit(encoder.encode_lines, lines)))
            if len(waiting) > AHEAD:
                yield waiting.popleft()
        yield from waiting


def _not_utf8(text, start, lines):
    try:
        b"".join(lines).decode()
    except UnicodeDecodeError as error:
        return UserError(
            f"{text.files[0]}: not UTF-8 at byte {start + error.start:,}; convert it (iconv -t"
            " utf-8), or take --tokenizer bytes"
        )
