"""Find the text of a corpus: in the data folder, at Hugging Face or in Python itself."""

import codecs
import hashlib
import os
import platform
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from pipelines import hub
from pipelines.stamps import stamp
from pipelines.text import standard_sets
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
FORMS = {
    "wikitext103": "wikitext-103-v1",
    "wikitext103-raw": "wikitext-103-raw-v1",
    "wikitext2": "wikitext-2-v1",
    "wikitext2-raw": "wikitext-2-raw-v1",
}
WIKITEXT_START = b" \n = "  # a blank line and the title of an article
# {name: the ending of its own files, the ending of the other form's}
ENDINGS = {name: (".raw", ".tokens") if "raw" in name else (".tokens", ".raw") for name in FORMS}

# [path, *stamp] of a file. A list, because it is compared with what was stored as JSON.
StampedPath: TypeAlias = list[Any]


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

    def stamps(self) -> list[StampedPath]:
        """Return the stamp of every file."""
        return stamps_of(path for split in self.splits.values() for path in split.files)


def stamps_of(files: Iterable[Path]) -> list[StampedPath]:
    """Return the stamps of files."""
    return [_stamp(path) for path in files]


def _stamp(path: Path) -> StampedPath:
    with reading(path):
        return [str(path.resolve()), *stamp(path.stat())]


@dataclass(frozen=True)
class _Folder:
    """Hold a folder's path and the names in it, which are many where images lie there too."""

    path: Path
    names: frozenset[str]


def _listed(path: Path) -> _Folder:
    """Return the folder, without names where there is none.

    Raises:
        OSError: it cannot be read, or is a file or a link to nowhere.
    """
    try:
        return _Folder(path, frozenset(os.listdir(path)))
    except FileNotFoundError:
        if path.is_symlink():
            raise
        return _Folder(path, frozenset())


def find(name: str, data_path: str | Path) -> Corpus | None:
    """Find the corpus called `name` in `data_path`; None where nothing of it is there.

    Raises:
        UserError: only a part of it is there, or it is there twice, or under names not looked for.
        OSError: a folder cannot be read.
    """
    if name == "pydoc":
        return _pydoc()
    folder = _listed(Path(data_path))
    if name in FORMS:
        return _find_wikitext(name, folder)
    if name in standard_sets.SOURCES:
        splits = standard_sets.find(name, data_path)
        return Corpus(name, str(data_path), splits) if splits else None
    return _complete(name, folder, _text_files(folder, ["{}.txt"]))


def _find_wikitext(name: str, folder: _Folder) -> Corpus | None:
    """Find WikiText: in a folder or in files of its own names, else in files of other names.

    The files of WikiText-2 have the names of WikiText-103's: without a folder that says which they
    are, they are the latter.
    """
    places = [_listed(path) for path in _wikitext_folders(name, folder.path)]
    if "103" not in name and folder.path.resolve().name not in {each.path.name for each in places}:
        folder = _Folder(places[0].path / "none", frozenset())
    patterns = [*_own_names(name), "{}.txt", *_other_names(name)]
    copies = [(place, _splits_in(place, patterns)) for place in places]
    here = _splits_in(folder, _own_names(name))
    if any(file.name.startswith("wiki.") for split in here.values() for file in split.files):
        copies.append((folder, here))
    found = [(place, splits) for place, splits in copies if splits]
    if len(found) > 1:
        one, other = (place.path for place, _ in found[:2])
        raise UserError(f"{one}: holds {name}, as {other} does; move one of them away")
    for place, splits in found:
        return _complete(name, place, splits)
    for place in places:
        _refuse_other_names(name, place, r"(.*[\W_])?{}([\W_]|$)")
    # train.txt and so on may be --dataset text's: check() sees to it.
    here = here or _text_files(folder, ["{}.txt"]) or _text_files(folder, _other_names(name))
    if not here:
        archives = "|".join(re.escape(place.path.name) for place in places)
        _refuse_other_names(name, folder, rf"({archives})\.")
    return _complete(name, folder, here)


def _own_names(name: str) -> list[str]:
    ending, _ = ENDINGS[name]
    return [f"wiki.{{}}{ending}", f"{{}}{ending}", "wiki.{}.txt"]


def _other_names(name: str) -> list[str]:
    """Return the names that files of the other form have by themselves."""
    _, ending = ENDINGS[name]
    return [f"wiki.{{}}{ending}", f"{{}}{ending}"]


def _complete(name: str, folder: _Folder, splits: Mapping[str, Split]) -> Corpus | None:
    """Return the corpus that was found in `folder`, None where nothing of it was.

    Raises:
        UserError: a split is missing.
    """
    missing = [split for split in SPLITS if split not in splits]
    if missing:
        pattern = r"{}\.txt" if name == "text" else r"wiki[\W_](.*[\W_])?{}([\W_]|$)"
        _refuse_other_names(name, folder, pattern, missing)
    if missing and splits:
        raise _missing(name, missing[0], folder.path)
    return Corpus(FORMS.get(name, name), str(folder.path), splits) if splits else None


def _refuse_other_names(
    name: str, folder: _Folder, pattern: str, splits: Iterable[str] = SPLITS
) -> None:
    """Refuse a file that seems to be meant for the corpus but is not found by its name.

    Without this an older cache or the hub's copy would be taken in its place.

    Args:
        name: of the corpus.
        folder: where to look.
        pattern: of names in any case, `{}` standing for the names of splits.
        splits: those that are not found.

    Raises:
        UserError: there is such a file.
    """
    words = "|".join(alias for split in splits for alias in SPLITS[split])
    matches = re.compile(pattern.replace("{}", f"({words})"), re.IGNORECASE).match
    for file in sorted(filter(matches, folder.names)):
        looked_for = "train.txt" if name == "text" else f"wiki.train{ENDINGS[name][0]}"
        raise UserError(
            f"{folder.path / file}: --dataset {name} reads no file of this name; unpack it, name"
            f" it like {looked_for}, or move it away"
        )


def fetch(name: str, data_path: str | Path) -> Corpus:
    """Download the corpus called `name` from Hugging Face, or take it from its cache.

    Raises:
        UserError: it is not available there.
    """
    if name == "text":
        raise _missing(name, "train", data_path)
    if name in standard_sets.SOURCES:
        raise standard_sets.missing(name, data_path)
    form = FORMS[name]
    try:
        copy = hub.fetch(WIKITEXT_REPOSITORIES, "dataset", [f"{form}/*"], _whole_copy_of(form))
    except OSError as error:
        raise UserError(
            f"--dataset {name}: nothing in {Path(data_path, form)}, and not available from Hugging"
            f" Face ({error}); copy the folder {form} of"
            f" https://huggingface.co/datasets/{WIKITEXT_REPOSITORIES[0]} there (or put"
            " wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens into such a folder)"
        ) from None
    return Corpus(form, f"{copy / form}", _parquet_files(_listed(copy / form)))


def _whole_copy_of(form: str) -> Callable[[Path], bool]:
    """Return a function that says of a copy of the repository whether it has all of `form`."""

    def usable(copy: Path) -> bool:
        try:
            return len(_parquet_files(_listed(copy / form))) == len(SPLITS)
        except UserError:  # a download that was broken off
            return False

    return usable


def check(name: str, corpus: Corpus) -> None:
    """Refuse a corpus with an empty split, or with another text than `name` says.

    Raises:
        UserError: with the remedy.
    """
    heads = [(split, _head(split)) for split in corpus.splits.values()]
    for split, head in heads:
        if not head:
            raise UserError(f"{split.files[0]}: holds no text; each split needs some")
        if name in FORMS and not head.startswith(WIKITEXT_START):
            raise UserError(
                f"{split.files[0]}: {_other_start(head)}; --dataset {name} reads WikiText byte for"
                " byte as it was published, so that figures are comparable; take --dataset text for"
                f" any other text, and put WikiText in a folder {FORMS[name]} of --data_path"
            )
    if name not in FORMS:
        return
    unknown_words = any(b" <unk> " in head for _, head in heads)
    held = name.removesuffix("-raw") + ("" if unknown_words else "-raw")
    if held != name:
        raise UserError(
            f"--dataset {name}: {corpus.origin} holds {FORMS[held]}, with"
            f"{'' if unknown_words else 'out'} <unk>; take --dataset {held}"
        )


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


def _other_start(head: bytes) -> str:
    """Say how a text begins that does not begin as WikiText."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "is UTF-16; convert it (iconv -f utf-16 -t utf-8)"
    if head.startswith(codecs.BOM_UTF8):
        return "begins with a byte order mark; remove it (dos2unix)"
    if b"\r" in head.partition(b"\n")[0]:
        return "has line ends with a carriage return; convert them (dos2unix)"
    if head.lstrip().startswith(b"= "):
        return 'begins otherwise than with the lines " " and " = Title = " of WikiText'
    return "does not begin as WikiText, with a blank line and a title"


def _head(split: Split) -> bytes:
    """Return the first block, b"" where there is none."""
    return next(split.blocks(), b"")


def _text_files(folder: _Folder, patterns: Iterable[str]) -> dict[str, Split]:
    """Return the splits that are in `folder` as text files of such names, earlier ones first.

    Raises:
        UserError: a split is there twice, as valid.txt and val.txt.
    """
    splits: dict[str, Split] = {}
    for split, aliases in SPLITS.items():
        for pattern in patterns:
            found = [name for alias in aliases if (name := pattern.format(alias)) in folder.names]
            if len(found) > 1:
                raise _twice(folder.path / found[0], folder.path / found[1])
            if found:
                splits[split] = TextSplit(folder.path / found[0])
                break
    return splits


def _twice(one: Path, other: Path) -> UserError:
    return UserError(f"{one}: the same split as {other}; move one of them away")


def _wikitext_folders(name: str, folder: Path) -> list[Path]:
    """Return the folders that are WikiText's by their names."""
    form = FORMS[name]
    return [folder / place for place in (form, form.removesuffix("-v1"), name, f"wikitext/{form}")]


def _splits_in(folder: _Folder, patterns: Iterable[str]) -> dict[str, Split]:
    """Return the splits of WikiText in one folder, each in whichever form it has.

    Raises:
        UserError: a split is there in two forms.
    """
    splits: dict[str, Split] = {}
    for form in (_saved(folder.path), _parquet_files(folder), _text_files(folder, patterns)):
        for split in form.keys() & splits:
            raise _twice(splits[split].files[0], form[split].files[0])
        splits |= form
    return splits


def _saved(folder: Path) -> dict[str, Split]:
    """Return the splits of a DatasetDict that was saved in `folder`."""
    if not (folder / "dataset_dict.json").is_file():
        return {}
    found = {s: [a for a in aliases if (folder / a).is_dir()] for s, aliases in SPLITS.items()}
    return {split: SavedSplit(folder, names[0]) for split, names in found.items() if names}


def _parquet_files(folder: _Folder) -> dict[str, Split]:
    """Return the splits that are in `folder` as Parquet files, one or several of each.

    Raises:
        UserError: a split is there twice, or a part of it.
    """
    names = sorted(name for name in folder.names if name.endswith(".parquet"))
    splits: dict[str, Split] = {}
    for split, aliases in SPLITS.items():
        stems = {name: re.split(r"-|\.parquet$", name)[0] for name in names}
        paths = [folder.path / name for name in names if stems[name] in aliases]
        found = {(stems[path.name], "-" in path.name): path for path in paths}
        if len(found) > 1:
            raise _twice(*[*found.values()][:2])
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
