"""Find the text of a corpus: in the data folder, at Hugging Face or in Python itself."""

import hashlib
import platform
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from pipelines.text import hub
from pipelines.text.forms import (
    MemorySplit,
    ParquetSplit,
    SavedSplit,
    Split,
    TextSplit,
    reading,
)
from utils import UserError

# {our name of a split: the names that its files may have}
SPLITS = {"train": ("train",), "val": ("valid", "val", "validation"), "test": ("test",)}

WIKITEXT_REPOSITORIES = ("Salesforce/wikitext", "wikitext")
FORMS = {"wikitext103": "wikitext-103-v1", "wikitext103-raw": "wikitext-103-raw-v1"}
WIKITEXT_START = b" \n = "  # a blank line and the title of an article

# [path, size, mtime in ns, ctime in ns, inode] of a file: no change leaves all of them the same. A
# list, because it is compared with what was stored as JSON.
Stamp: TypeAlias = list[str | int]


@dataclass(frozen=True)
class Corpus:
    """Hold a text that was found.

    Attributes:
        form: what text it is, for results: "wikitext-103-v1".
        origin: where it was found.
        splits: its splits by our names.
    """

    form: str
    origin: str
    splits: Mapping[str, Split]

    def stamps(self) -> list[Stamp]:
        """Return the stamp of every file."""
        return [_stamp(path) for split in self.splits.values() for path in split.files]


def _stamp(path: Path) -> Stamp:
    with reading(path):
        stat = path.stat()
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def find(name: str, data_path: str | Path) -> Corpus | None:
    """Find the corpus called `name` in `data_path`; None where nothing of it is there.

    Raises:
        UserError: only a part of it is there.
    """
    if name == "pydoc":
        return _pydoc()
    folder = Path(data_path)
    if name == "text":
        splits = _text_files(folder, "{}.txt")
        return _complete(name, Corpus("text", str(folder), splits)) if splits else None
    for place in _wikitext_folders(name, folder):
        splits = _wikitext_splits(name, place)
        if splits and not (place == folder and _is_other_text(splits)):
            return _complete(name, Corpus(FORMS[name], str(place), splits))
    return None


def fetch(name: str, data_path: str | Path) -> Corpus:
    """Download the corpus called `name` from Hugging Face, or take it from its cache.

    Raises:
        UserError: it is not available there.
    """
    if name == "text":
        raise _missing(name, "train", data_path)
    form = FORMS[name]
    try:
        copy = hub.fetch(WIKITEXT_REPOSITORIES, "dataset", [f"{form}/*"], _whole_copy_of(form))
    except OSError as error:
        raise UserError(
            f"--dataset {name}: nothing in {Path(data_path, form)}, and not available from Hugging"
            f" Face ({error}); copy the folder {form} of"
            f" https://huggingface.co/datasets/{WIKITEXT_REPOSITORIES[0]} there (or"
            " wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens)"
        ) from None
    return Corpus(form, f"{copy / form}", _parquet_files(copy / form))


def _whole_copy_of(form: str) -> Callable[[Path], bool]:
    """Return a function that says of a copy of the repository whether it has all of `form`."""

    def usable(copy: Path) -> bool:
        try:
            return len(_parquet_files(copy / form)) == len(SPLITS)
        except UserError:  # a download that was broken off
            return False

    return usable


def check(name: str, corpus: Corpus) -> None:
    """Refuse a corpus with an empty split, or with another text than `name` says.

    Raises:
        UserError: with the remedy.
    """
    heads = []
    for split in corpus.splits.values():
        heads.append(_head(split))
        if not heads[-1]:
            raise UserError(f"{split.files[0]}: holds no text; each split needs some")
    if name not in FORMS:
        return
    if not all(head.startswith(WIKITEXT_START) for head in heads):
        raise UserError(
            f"--dataset {name}: {corpus.origin} does not hold WikiText, which begins with a blank"
            " line and a title; take --dataset text for other texts"
        )
    unknown_words = any(b" <unk> " in head for head in heads)
    held = "wikitext103" if unknown_words else "wikitext103-raw"
    if held != name:
        raise UserError(
            f"--dataset {name}: {corpus.origin} holds {FORMS[held]}, with"
            f"{'' if unknown_words else 'out'} <unk>; take --dataset {held}"
        )


def _complete(name: str, corpus: Corpus) -> Corpus:
    """Return the corpus; raise UserError where a split is missing."""
    for split in SPLITS:
        if split not in corpus.splits:
            raise _missing(name, split, corpus.origin)
    return corpus


def _missing(name: str, split: str, folder: str | Path) -> UserError:
    stem = SPLITS[split][0]
    if name == "text":
        return UserError(
            f"{Path(folder, stem)}.txt: no such file; --dataset text takes train.txt, valid.txt"
            " and test.txt from --data_path"
        )
    return UserError(
        f"{folder}: has other splits of {FORMS[name]}, but not {stem} (wiki.{stem}.tokens,"
        f" {stem}.txt or {SPLITS[split][-1]}-*.parquet); put it there too"
    )


def _is_other_text(splits: Mapping[str, Split]) -> bool:
    """Return whether these are files of --dataset text, which has the same names of files."""
    files = [split for split in splits.values() if isinstance(split, TextSplit)]
    return bool(files) and not any(_head(split).startswith(WIKITEXT_START) for split in files)


def _head(split: Split) -> bytes:
    """Return the first block, b"" where there is none."""
    return next(split.blocks(), b"")


def _text_files(folder: Path, *patterns: str) -> dict[str, Split]:
    """Return the splits that are in `folder` as text files of such names."""
    splits: dict[str, Split] = {}
    for split, aliases in SPLITS.items():
        paths = [folder / pattern.format(alias) for pattern in patterns for alias in aliases]
        path = next(filter(Path.is_file, paths), None)
        if path:
            splits[split] = TextSplit(path)
    return splits


def _wikitext_folders(name: str, folder: Path) -> list[Path]:
    """Return where to look for it: archives and copies by name, then the folder itself."""
    form = FORMS[name]
    short = form.removesuffix("-v1")
    places = [form, short, name, f"wikitext/{form}", "."]
    return [folder / place for place in places]


def _wikitext_splits(name: str, folder: Path) -> dict[str, Split]:
    """Return the splits in one folder, in the first form that any of them has."""
    return _saved(folder) or _parquet_files(folder) or _wikitext_files(name, folder)


def _wikitext_files(name: str, folder: Path) -> dict[str, Split]:
    suffixes = [".tokens", ".txt", ".raw"]
    if name == "wikitext103-raw":
        suffixes.reverse()
    return _text_files(folder, *(f"{stem}{x}" for x in suffixes for stem in ("wiki.{}", "{}")))


def _saved(folder: Path) -> dict[str, Split]:
    """Return the splits of a DatasetDict that was saved in `folder`."""
    if not (folder / "dataset_dict.json").is_file():
        return {}
    found = {s: [a for a in aliases if (folder / a).is_dir()] for s, aliases in SPLITS.items()}
    return {split: SavedSplit(folder, names[0]) for split, names in found.items() if names}


def _parquet_files(folder: Path) -> dict[str, Split]:
    splits: dict[str, Split] = {}
    for split, aliases in SPLITS.items():
        for alias in aliases:
            paths = sorted(folder.glob(f"{alias}-*.parquet")) or [*folder.glob(f"{alias}.parquet")]
            if paths:
                splits[split] = ParquetSplit(_all_shards(paths))
    return splits


def _all_shards(paths: list[Path]) -> list[Path]:
    """Return `paths`, of names like train-00000-of-00002.parquet.

    Raises:
        UserError: by their names there should be more.
    """
    of = re.search(r"-of-(\d+)\.parquet$", paths[0].name)
    if of and len(paths) != int(of[1]):
        raise UserError(
            f"{paths[0]}: one of {int(of[1])} files that belong together, of which {len(paths)}"
            " are there; copy all of them"
        )
    return paths


def _pydoc() -> Corpus:
    """Take the topics of Python's own help(), a fixed twentieth each for validation and test."""
    try:
        from pydoc_data import topics  # some builds of Python leave it out
    except ImportError:
        raise UserError(
            f"--dataset pydoc: {sys.executable} has no module pydoc_data; install Python with its"
            " standard library whole, or take --dataset text"
        ) from None
    kept = _without_repeats(topics.topics)
    room = dict.fromkeys(("test", "val"), sum(map(len, kept.values())) / 20)
    texts = dict.fromkeys(SPLITS, "")
    for topic in sorted(kept, key=lambda name: hashlib.sha256(name.encode()).digest()):
        split = next((s for s in room if len(texts[s]) + len(kept[topic]) <= room[s]), "train")
        texts[split] += kept[topic]
    files = [Path(topics.__file__)]
    splits = {split: MemorySplit(files, text.encode()) for split, text in texts.items()}
    version = platform.python_version()
    return Corpus(f"pydoc of Python {version}", topics.__file__, splits)


def _without_repeats(topics: Mapping[str, str]) -> dict[str, str]:
    """Return the texts by topic, each paragraph once.

    Topics quote whole paragraphs of others, which any split of them would share.
    """
    seen: set[str] = set()
    kept: dict[str, str] = {}
    for topic in sorted(topics):
        paragraphs = []
        for paragraph in topics[topic].split("\n\n"):
            words = " ".join(paragraph.split())
            if words and words not in seen:
                seen.add(words)
                paragraphs.append(paragraph.strip("\n") + "\n\n")
        kept[topic] = "".join(paragraphs)
    return kept
