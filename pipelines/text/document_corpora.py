"""Find corpora of documents: files of a pattern, copies of Hugging Face's data sets, its hub."""

import glob
import importlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cli.datasets import HUB_CORPORA, SourceName, source_name
from pipelines import datasets_library, hub
from pipelines.text.corpora import SPLITS, StampedPath, stamps_of
from pipelines.text.documents import (
    Documents,
    JsonLines,
    ParquetRows,
    SavedRows,
    StreamedRows,
    TextFiles,
)
from utils import UserError, printable

# Names that splits have, by our names of them.
NAMES = {
    "train": ("train", "training"),
    "val": (*SPLITS["val"], "dev"),
    "test": ("test",),
}
ENDINGS = {
    "jsonl": (".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson"),
    "parquet": (".parquet",),
    "folder": (".txt",),
    "bin": (".bin",),
}


@dataclass(frozen=True)
class DocumentCorpus:
    """Hold documents that were found.

    Attributes:
        form: what text it is, for results.
        origin: where it was found.
        splits: its documents by our names of splits, "train" among them.
    """

    form: str
    origin: str
    splits: Mapping[str, Documents]

    def stamps(self) -> list[StampedPath]:
        """Return the stamp of every file."""
        return stamps_of(path for split in self.splits.values() for path in split.files)


def find(dataset: str, data_path: str, column: str | None) -> DocumentCorpus | None:
    """Find a corpus on this machine; None where no file or folder of it is there.

    Raises:
        UserError: it is not what is needed; with the remedy.
    """
    where = f"--dataset {dataset}"
    library, name, variant = HUB_CORPORA.get(dataset, source_name(dataset))
    if library == "hf":
        name = dataset if dataset in HUB_CORPORA else name
        folders = (
            (Path(data_path, name), Path(name)) if name != dataset else (Path(data_path, name),)
        )
        folder = next((each for each in folders if each.is_dir()), None)
        return _in_folder(where, dataset, folder, variant, column) if folder else None
    found = files_by_split(dataset, data_path)
    if not found:
        return None
    splits = {split: _read_as(library, where, each, column) for split, each in found.items()}
    (first, *_), *_ = found.values()
    return _complete(where, dataset, str(first.parent), splits)


def _read_as(library: str, where: str, files: list[Path], column: str | None) -> Documents:
    if library == "jsonl":
        return JsonLines.of(where, files, column)
    return ParquetRows.of(where, files, column) if library == "parquet" else TextFiles(files)


def _complete(
    where: str, dataset: str, origin: str, splits: Mapping[str, Documents]
) -> DocumentCorpus:
    if "train" not in splits:
        raise UserError(
            f"{where}: has no training documents, only a split for {', '.join(splits)}; add"
            " the others, or name the file otherwise"
        )
    return DocumentCorpus(dataset, printable(origin), splits)


# --- patterns ---


def files_by_split(dataset: str, data_path: str) -> dict[str, list[Path]]:
    """Return the files of a pattern by our names of splits; all are "train" where no name is one.

    A split's name is a word of a file's name, or that of a folder below the pattern's first part
    without a wildcard; of `folder/` only the latter, since its files are called by their content.

    Raises:
        UserError: some have the name of a split and others have none, or a file is there twice.
    """
    library, pattern, _ = source_name(dataset)
    root, files = _matches(pattern, data_path, ENDINGS[library])
    _check_once(files)
    names = {path: _split_of(path, root, in_names=library != "folder") for path in files}
    unnamed = [path for path, split in names.items() if split is None]
    if len(unnamed) == len(files):
        return {"train": files} if files else {}
    if unnamed:
        raise UserError(
            f"{unnamed[0]}: its name says no split, as {next(x for x in files if names[x])} does;"
            " name all files so (train, val, test), or none"
        )
    return {
        split: [path for path in files if names[path] == split]
        for split in SPLITS
        if split in names.values()
    }


def _check_once(files: list[Path]) -> None:
    """Refuse a file beside its compressed form: its documents would count twice."""
    plain: dict[str, Path] = {}
    for path in files:
        name = str(path).removesuffix(".gz").removesuffix(".zst")
        if name in plain:
            raise UserError(f"{path} and {plain[name].name} are one file; keep one of them")
        plain[name] = path


def no_match(dataset: str) -> UserError:
    """Return the error of a pattern of which no file is there."""
    return UserError(
        f"--dataset {dataset}: no file matches; patterns are looked for below --data_path, then"
        f" from the current folder, and a folder stands for its"
        f" {ENDINGS[source_name(dataset).library][0]} files"
    )


def _matches(pattern: str, data_path: str, endings: Iterable[str]) -> tuple[Path, list[Path]]:
    """Return the files of a pattern, in order, and the folder that it begins with."""
    for folder in (data_path, ""):
        path = Path(folder, pattern)
        if path.is_dir():
            inside = (each for each in path.rglob("*") if each.name.endswith(tuple(endings)))
            return path, sorted(each for each in inside if each.is_file())
        below = str(Path(glob.escape(folder), pattern))
        found = sorted(Path(each) for each in glob.glob(below, recursive=True))
        if files := [each for each in found if each.is_file()]:
            fixed = re.split(r"[*?\[]", pattern)[0]
            place = Path(folder, fixed)
            return place if fixed.endswith("/") or not fixed else place.parent, files
    return Path(data_path), []


def _split_of(path: Path, root: Path, in_names: bool) -> str | None:
    parts = path.relative_to(root).parts
    words = [part.lower() for part in parts[:-1]]
    if in_names:
        words += re.split(r"[^a-z]+", parts[-1].lower())
    return next((split for split, names in NAMES.items() if {*names} & {*words}), None)


# --- Hugging Face ---


def _in_folder(
    where: str, dataset: str, folder: Path, variant: str, column: str | None
) -> DocumentCorpus:
    """Return what lies in a folder: what save_to_disk wrote, or files that `datasets` reads."""
    library = datasets_library.load()
    with datasets_library.one_line(where):
        if any((folder / name).is_file() for name in datasets_library.SAVED):
            saved = library.load_from_disk(str(folder), keep_in_memory=False)
            tables = saved if isinstance(saved, dict) else {str(saved.split or "train"): saved}
            splits: dict[str, Documents] = {
                name: SavedRows.of(where, tables[found], column)
                for name, found in _split_names(where, tables).items()
            }
        else:
            datasets_library.check_all_shards(folder)
            splits = _streamed(where, library, folder, variant, column)
    return _complete(where, dataset, str(folder), splits)


def _streamed(
    where: str, library: Any, folder: Path, variant: str, column: str | None
) -> dict[str, Documents]:
    builder = _builder(library, folder, variant)
    files = {
        str(split): [Path(each) for each in paths]
        for split, paths in (builder.config.data_files or {}).items()
    }
    splits: dict[str, Documents] = {}
    for name, found in _split_names(where, files).items():
        if all(path.suffix == ".parquet" for path in files[found]):
            splits[name] = ParquetRows.of(where, files[found], column)
        else:
            table = builder.as_streaming_dataset(split=found)
            splits[name] = StreamedRows.of(where, table, files[found], column)
    return splits


def _builder(library: Any, folder: Path, variant: str) -> Any:
    """Return the library's builder for a configuration, of which alone the files may be there.

    By itself the library would ask for those of the first one too.
    """
    if not variant or not (folder / "README.md").is_file():
        return library.load_dataset_builder(str(folder))
    files = _patterns(library, folder, variant)
    if files is None:
        return library.load_dataset_builder(str(folder), variant)  # says which there are
    return library.load_dataset_builder(str(folder), data_files=files)


def _patterns(library: Any, folder: Path, variant: str) -> dict[str, list[str]] | None:
    """Return which files of a repository its card counts to a configuration, by split."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    content = importlib.import_module("huggingface_hub").DatasetCard.load(card).data
    configs = library.utils.metadata.MetadataConfigs.from_dataset_card_data(content)
    only = next(iter(configs)) if len(configs) == 1 else "default"
    patterns = configs.get(variant or only, {}).get("data_files")
    return None if patterns is None else library.data_files.sanitize_patterns(patterns)


def _split_names(where: str, there: Mapping[str, Any]) -> dict[str, str]:
    """Return the name of each of our splits; the only one there is, is for training."""
    if len(there) == 1:
        return {"train": next(iter(there))}
    found = {
        split: [name for name in there if name.lower() in names] for split, names in NAMES.items()
    }
    chosen = {split: names[0] for split, names in found.items() if names}
    if "train" not in chosen:
        raise UserError(
            f"{where}: no split called train among {printable(', '.join(there))}; save the one that"
            " is meant by itself (save_to_disk), and give its folder"
        )
    return chosen


def fetch(dataset: str, column: str | None) -> DocumentCorpus:
    """Take a corpus from Hugging Face's cache on this machine, or download it there.

    Raises:
        UserError: it is not available.
    """
    where = f"--dataset {dataset}"
    source = HUB_CORPORA.get(dataset, source_name(dataset))
    if source.library != "hf":
        raise no_match(dataset)
    if Path(source.name).is_absolute() or not datasets_library.REPOSITORY.fullmatch(source.name):
        raise UserError(
            f"{where}: no such folder, and no name of a repository; folders are looked for below"
            " --data_path, then from the current folder"
        )
    try:
        copy = _copy_of(where, source)
    except OSError as error:
        folder = dataset if dataset in HUB_CORPORA else f"hf/{source.name.rpartition('/')[2]}"
        place = dataset if dataset in HUB_CORPORA else source.name.rpartition("/")[2]
        raise UserError(
            f"{where}: nothing of it in --data_path, and not available from Hugging Face ({error});"
            " download it where there is a network (hf download --repo-type dataset"
            f" {source.name} --local-dir {place}), put the folder into --data_path and give"
            f" --dataset {folder}"
        ) from None
    return _in_folder(where, dataset, copy, source.variant, column)


def _copy_of(where: str, source: SourceName) -> Path:
    """Return a folder with the files of a configuration: in the cache, or downloaded there.

    Where the hub can be asked, it says which files these are; else the cache has to do as it is.

    Raises:
        OSError: there is none.
    """
    library = datasets_library.load()
    try:
        hub.probe(source.name, "dataset")
    except OSError:
        return hub.fetch((source.name,), "dataset", [], partial(_has_data, library, source))
    with datasets_library.one_line(where):
        builder = library.load_dataset_builder(source.name, source.variant or None)
        urls = [str(url) for urls in builder.config.data_files.values() for url in urls]
    files = [re.sub(r"^hf://datasets/[^@]*@[^/]*/", "", url) for url in urls]

    def has_all(folder: Path) -> bool:
        return all((folder / file).is_file() for file in files)

    return hub.fetch((source.name,), "dataset", ["README.md", *files], has_all)


def _has_data(library: Any, source: SourceName, folder: Path) -> bool:
    """Return whether a copy holds more than a description, and all of it as far as can be told."""
    try:
        datasets_library.check_all_shards(folder)
    except UserError:
        return False
    by_split = _patterns(library, folder, source.variant) or {}
    patterns = [pattern for each in by_split.values() for pattern in each]
    if patterns and not hub.is_whole(source.name, "dataset", patterns):
        return False
    described = ("README.md", ".gitattributes")
    return any(path.is_file() and path.name not in described for path in folder.rglob("*"))
