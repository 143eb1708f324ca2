"""Keep the tokens of a corpus on disk: they are made once, then mapped into memory.

Where and how they are kept is in token_folders.py. Of several processes one makes them.
"""

import shutil
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.text import corpora, encoding, token_folders, tokenizer
from pipelines.text.corpora import Corpus
from pipelines.text.forms import Split, reading
from pipelines.text.lines import Tally, in_lines
from pipelines.text.token_folders import Meta, Tokens
from pipelines.text.tokenizer import Tokenizer
from utils import UserError, one_at_a_time, progress_bar

FORMAT = 1  # part of the key: raise it when the same text would give other ids


def load(name: str, tokenizer_name: str, data_path: str | Path, progress: bool = True) -> Tokens:
    """Return the tokens of the corpus called `name`: from the cache, or made and cached now.

    Text in data_path decides what the tokens must be. Where there is none the cache is taken as it
    is, and where there is no cache either the text comes from Hugging Face.

    Raises:
        UserError: the text or the tokenizer is missing or broken, or the cache cannot be written.
    """
    fingerprint = tokenizer.fingerprint(tokenizer_name)
    wanted = {"format": FORMAT, "name": name, "fingerprint": fingerprint}
    stem = Path(data_path, "tokens", f"{name}-{token_folders.slug(tokenizer_name)}-")
    cached = token_folders.cached(stem, wanted)
    with reading(data_path):
        corpus = corpora.find(name, data_path)
    if tokens := valid_unread(cached, corpus):
        return tokens
    if corpus is None and name not in corpora.FORMS:
        corpora.fetch(name, data_path)  # raises: nobody else has this text
    with one_at_a_time(stem.with_name(f".{stem.name}lock")):
        cached = token_folders.cached(stem, wanted)  # by now another process may have made them
        tokens = valid_unread(cached, corpus) or _valid_by_content(cached, corpus, progress)
        return tokens or _create(stem, wanted, tokenizer_name, corpus, data_path, progress)


def valid_unread(cached: list[Tokens], corpus: Any) -> Tokens | None:
    """Return the first of the cached tokens that are right by the stamps of the files, or None.

    Without a text the newest are right.

    Args:
        cached: tokens of that name and tokenizer.
        corpus: what has the stamps of the files of the text; None where there is none.
    """
    if corpus is None:
        return cached[0].alone() if cached else None
    stamps = token_folders.settled(corpus.stamps())
    return next((tokens for tokens in cached if stamps and tokens.meta["stamps"] == stamps), None)


def _valid_by_content(cached: list[Tokens], corpus: Corpus | None, progress: bool) -> Tokens | None:
    """Return those of the cached tokens that are of the text as it is now; None if it changed."""
    if not cached or corpus is None:
        return None
    stamps = token_folders.settled(corpus.stamps())
    tallies = {split: Tally() for split in corpus.splits}
    with _bar(f"reading {corpus.origin} for changes", corpus, progress) as bar:
        for split, text in corpus.splits.items():
            for block in tallies[split].watch(text.blocks()):
                bar.update(len(block))
    digests = {split: tally.digest for split, tally in tallies.items()}
    for tokens in cached:
        if token_folders.digests_of(tokens.meta) == digests:
            with suppress(OSError):  # if that cannot be noted, the text is read again next time
                token_folders.write_meta(tokens.folder, {**tokens.meta, "stamps": stamps})
            return tokens
    return None


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
        "stamps": token_folders.settled(corpus.stamps()),
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
                split: _write_split(
                    text, encoder, token_folders.bin_path(temporary, split), meta["dtype"], bar
                )
                for split, text in corpus.splits.items()
            }
        token_folders.write_meta(temporary, meta)
        folder = token_folders.folder_of(stem, token_folders.key_of(meta))
        token_folders.put_in_place(temporary, stem, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    token_folders.remove_older(stem, folder, meta)
    return Tokens(folder, meta, corpus.origin)


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
        token_folders.to_disk(file)
    if not tokens:
        raise UserError(f"{text.files[0]}: the tokenizer finds no token in it")
    return {
        "tokens": tokens,
        "words": tally.words,
        "bytes": tally.bytes,
        "lossless": lossless,
        "digest": tally.digest,
        "checksum": token_folders.file_checksum(path),
    }
