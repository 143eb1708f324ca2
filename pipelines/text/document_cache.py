"""Make the tokens of a corpus of documents, once, and go on where a killed process stopped.

The ids are end of text and then a document's, for each document: llm.c's order. nanoGPT puts end of
text behind each document; its file is ours with the first id moved to the end. Folders are those of
token_folders.py, where `stem` and `wanted` are explained.

A document is tokenised whole and by itself, so the ids depend on the documents and their order
alone. While they are made, their folder is {stem}{key}.unfinished, and state.json in it says how
much of its files holds, of how many documents. The next process cuts the files there and goes on.
"""

import hashlib
import shutil
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from cli.datasets import HELD_OUT
from pipelines import stamps
from pipelines.text import cache, document_corpora, token_folders, tokenizer
from pipelines.text.corpora import SPLITS
from pipelines.text.document_corpora import DocumentCorpus
from pipelines.text.documents import Text, in_batches
from pipelines.text.encoding import Encoded, computed_ahead, encode_documents
from pipelines.text.lines import words_of
from pipelines.text.token_folders import Meta, Tokens
from pipelines.text.tokenizer import Tokenizer
from utils import UserError, one_at_a_time, progress_bar

FORMAT = "documents 1"  # part of the key: change it when the same documents would give other ids
STATE = "state.json"
SAVE_SECONDS = 30  # between two saves, which write through to the disk
# Of a batch: the tokenizer's threads share its documents, and its objects take a hundred times
# as much memory.
BATCH_CHARACTERS, BATCH_DOCUMENTS = 2**21, 2**12


def load(
    dataset: str,
    tokenizer_name: str,
    data_path: str | Path,
    text_column: str | None = None,
    held_out: float = HELD_OUT,
    progress: bool = True,
) -> Tokens:
    """Return the tokens of a corpus of documents: from the cache, or made and cached now.

    Raises:
        UserError: documents or tokenizer are missing or broken, or the cache cannot be written.
    """
    fingerprint = tokenizer.fingerprint(tokenizer_name)
    wanted = {
        "format": f"{FORMAT}, held out {held_out}, column {text_column}", "name": dataset,
        "fingerprint": fingerprint, "text_column": text_column, "held_out": held_out,
    }  # fmt: skip
    stem = token_folders.stem_of(data_path, dataset, tokenizer_name)
    cached = token_folders.cached(stem, wanted)
    corpus = document_corpora.find(dataset, str(data_path), text_column)
    if tokens := cache.valid_unread(cached, corpus):
        return tokens
    with one_at_a_time(stem.with_name(f".{stem.name}lock")):
        cached = token_folders.cached(stem, wanted)  # by now another process may have made them
        tokens = cache.valid_unread(cached, corpus) or _valid_by_content(cached, corpus, held_out)
        if tokens:
            return tokens
        # Before a download: without a tokenizer it would be for nothing.
        encoder = tokenizer.load_for_documents(tokenizer_name, data_path)
        corpus = corpus or document_corpora.fetch(dataset, text_column)
        meta = {**wanted, "tokenizer": str(Path(tokenizer_name).resolve())}
        try:
            return _Making(stem, meta, corpus, encoder, held_out).run(progress)
        except OSError as error:
            raise UserError(
                f"--data_path {data_path}: the tokens cannot be written to {stem.parent}"
                f" ({error.strerror or error}); make room there, and the same command goes on"
            ) from None


def _valid_by_content(
    cached: list[Tokens], corpus: DocumentCorpus | None, held_out: float
) -> Tokens | None:
    """Return those of the cached tokens that are of the documents as they are now, or None."""
    if not cached or corpus is None:
        return None
    stamped = token_folders.settled(corpus.stamps())
    digests = dict.fromkeys(SPLITS, "")
    print(f"reading {corpus.origin} for changes")
    for role, documents in corpus.splits.items():
        for text in documents.read(0):
            if text is not None:
                digest = _digest(text)
                split = _split_of(digest, _missing(corpus, role), held_out, role)
                digests[split] = _chained(digests[split], digest)
    for tokens in cached:
        if tokens.digests() == digests:
            with suppress(OSError):  # if that cannot be noted, the text is read again next time
                token_folders.write_meta(tokens.folder, {**tokens.meta, "stamps": stamped})
            return tokens
    return None


# --- which split a document belongs to ---


def _missing(corpus: DocumentCorpus, role: str) -> list[str]:
    """Return the splits that are held out of the documents of `role`."""
    return [split for split in ("val", "test") if split not in corpus.splits and role == "train"]


def _digest(text: str) -> bytes:
    return hashlib.blake2b(_as_utf8(text), digest_size=16).digest()


def _as_utf8(text: str) -> bytes:
    return text.encode(errors="replace")  # JSON may have halves of surrogate pairs


def _chained(before: str, digest: bytes) -> str:
    """Return a hash of all documents so far; unlike one of a stream it can be kept in a file."""
    return hashlib.blake2b(bytes.fromhex(before) + digest, digest_size=16).hexdigest()


def _split_of(digest: bytes, missing: Sequence[str], held_out: float, role: str) -> str:
    """Return the split of a document: a function of its content alone.

    So equal documents are in the same split, and others that are added or left out change nothing.
    """
    if not missing or not held_out:
        return role
    number = hashlib.blake2b(digest, digest_size=8, person=b"held out").digest()
    place = int(int.from_bytes(number, "big") / 2**64 / held_out)
    return missing[place] if place < len(missing) else role


# --- making a folder ---


@dataclass
class _Split:
    """Count what is in a split so far.

    Attributes:
        size, checksum: of its file.
        digest: a hash of its documents, in their order.
    """

    size: int = 0
    checksum: int = 0
    digest: str = ""
    documents: int = 0
    tokens: int = 0
    words: int = 0
    bytes: int = 0
    lossless: bool = True


class _Making:
    """Tokenise a corpus into the cache."""

    def __init__(
        self, stem: Path, meta: Meta, corpus: DocumentCorpus, encoder: Tokenizer, held_out: float
    ):
        self.stem, self.corpus, self.encoder, self.held_out = stem, corpus, encoder, held_out
        self.dtype = "uint16" if encoder.vocab_size <= 2**16 else "uint32"
        stamped = corpus.stamps()
        stamps.settle((a, b, c, d) for _, a, b, c, d in stamped)
        self.meta = {
            **meta,
            "form": corpus.form,
            "origin": corpus.origin,
            "stamps": stamped,
            "vocab_size": encoder.vocab_size,
            "end_of_text": encoder.end_of_text,
            "dtype": self.dtype,
        }
        facts = repr(sorted(self.meta.items())).encode()
        key = hashlib.blake2b(facts, digest_size=8).hexdigest()
        self.folder = token_folders.folder_of(stem, key + token_folders.UNFINISHED)
        self.read: dict[str, int] = {}
        self.left_out = 0
        self.splits: dict[str, _Split] = {}
        self.saved = time.monotonic()

    def run(self, progress: bool) -> Tokens:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._go_on()
        total = [documents.count() for documents in self.corpus.splits.values()]
        with ExitStack() as stack:
            bar = stack.enter_context(
                progress_bar(
                    f"tokenising {self.corpus.origin}",
                    progress,
                    total=None if None in total else sum(filter(None, total)),
                    initial=sum(self.read.values()),
                    unit=" documents",
                    unit_scale=True,
                )
            )
            files = {split: stack.enter_context(self._opened(split)) for split in SPLITS}
            for role in self.corpus.splits:
                self._tokenise(role, files, bar)
            self._save(files)
        self._check()
        return self._put_in_place()

    def _opened(self, split: str) -> IO[bytes]:
        """Return the file of a split, cut where its state says, at whose end it is written on."""
        path = token_folders.bin_path(self.folder, split)
        path.touch()
        file = open(path, "r+b")  # noqa: SIM115 - the caller closes it
        file.truncate(self.splits[split].size)
        file.seek(0, 2)
        return file

    def _go_on(self) -> None:
        """Take up the state that a process has left here, if it is intact."""
        state = token_folders.read_meta(self.folder, STATE)
        self.read = dict.fromkeys(self.corpus.splits, 0) | state.get("read", {})
        self.left_out = state.get("left_out", 0)
        self.splits = {split: _Split(**state.get("splits", {}).get(split, {})) for split in SPLITS}
        if state and not all(map(self._is_whole, SPLITS)):
            shutil.rmtree(self.folder)
            self.folder.mkdir()
            self._go_on()
        elif state:
            print(f"going on after {sum(self.read.values()):,} documents")

    def _is_whole(self, split: str) -> bool:
        path, part = token_folders.bin_path(self.folder, split), self.splits[split]
        with suppress(OSError):
            return token_folders.file_checksum(path, part.size) == part.checksum
        return False

    def _tokenise(self, role: str, files: Mapping[str, IO[bytes]], bar: Any) -> None:
        """Write the documents of a split of the corpus, to its file or to those held out of it."""
        missing = _missing(self.corpus, role)
        texts = self.corpus.splits[role].read(self.read[role])
        batches = in_batches(texts, BATCH_CHARACTERS, BATCH_DOCUMENTS)
        for batch, encoded in computed_ahead(self._encoded, batches):
            for found in encoded.result():
                if found is None:
                    self.left_out += 1
                    continue
                content, each = found
                digest = hashlib.blake2b(content, digest_size=16).digest()
                split = _split_of(digest, missing, self.held_out, role)
                self._write(files[split], self.splits[split], content, each, digest)
            self.read[role] += len(batch)
            bar.update(len(batch))
            if time.monotonic() - self.saved >= SAVE_SECONDS:
                self._save(files)

    def _encoded(self, texts: list[Text]) -> list[tuple[bytes, Encoded] | None]:
        contents = [None if text is None else _as_utf8(text) for text in texts]
        whole = [content.decode() for content in contents if content is not None]
        found = iter(encode_documents(whole, self.encoder))
        return [None if content is None else (content, next(found)) for content in contents]

    def _write(
        self, file: IO[bytes], split: _Split, content: bytes, encoded: Encoded, digest: bytes
    ) -> None:
        ids = np.empty(len(encoded.ids) + 1, self.dtype)
        ids[0], ids[1:] = self.encoder.end_of_text, encoded.ids
        file.write(ids.data)
        split.size += ids.nbytes
        split.checksum = zlib.crc32(ids.data, split.checksum)
        split.digest = _chained(split.digest, digest)
        split.documents += 1
        split.tokens += len(ids)
        split.words += words_of(content)
        split.bytes += len(content)
        split.lossless &= encoded.lossless

    def _save(self, files: Mapping[str, IO[bytes]]) -> None:
        for file in files.values():
            token_folders.to_disk(file)
        splits = {name: asdict(split) for name, split in self.splits.items()}
        state = {"read": self.read, "left_out": self.left_out, "splits": splits}
        token_folders.write_meta(self.folder, state, STATE)
        self.saved = time.monotonic()

    def _check(self) -> None:
        """Refuse a split without text, with the remedy."""
        documents = sum(self.read.values())
        for name, split in self.splits.items():
            if split.documents and not split.bytes:
                reason = f"the documents for {name} are empty; each split needs some text"
            elif split.documents:
                continue
            elif name == "train" or name in self.corpus.splits or not documents:
                reason = f"holds no documents for {name}"
            else:
                share = min(0.2, max(0.001, 20 / documents))
                reason = (
                    f"none of its {documents:,} documents is held out for {name} by --held_out"
                    f" {self.held_out:g}; give a larger share, as --held_out {share:.1g}"
                )
            shutil.rmtree(self.folder)
            raise UserError(f"--dataset {self.meta['name']}: {reason}")

    def _put_in_place(self) -> Tokens:
        if self.left_out:
            print(f"{self.left_out:,} rows without a text (null) are left out")
        (self.folder / STATE).unlink()
        stamps.settle(stamps.stamp(path.stat()) for path in self.folder.iterdir())
        # The end of text in front is not counted.
        splits = {
            name: {**asdict(split), "tokens": split.tokens - 1}
            for name, split in self.splits.items()
        }
        bins = token_folders.bin_stamps(self.folder)
        meta = {**self.meta, "made": time.time(), "splits": splits, "bins": bins}
        token_folders.write_meta(self.folder, meta)
        place = token_folders.folder_of(self.stem, token_folders.key_of(meta))
        token_folders.put_in_place(self.folder, self.stem, place)
        token_folders.remove_older(self.stem, place, meta)
        return Tokens(place, meta, self.corpus.origin)
