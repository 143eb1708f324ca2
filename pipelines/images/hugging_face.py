"""Read images of Hugging Face's `datasets`: from its hub, a saved copy or Parquet files.

The library keeps them as Arrow files, which are mapped into memory; an image is a row of these.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines import datasets_library, hub
from pipelines.images.folders import VAL_NAMES, Files, OneSplit, Splits
from pipelines.images.interfaces import Indices, Targets
from pipelines.images.labels import Labels, matched, numbered, numbered_alone
from pipelines.stamps import stamp_of
from utils import UserError, is_main, may_draw, printable

SPLIT_NAMES = {"train": ("train", "training"), "val": (*VAL_NAMES, "dev"), "test": ("test",)}
IDENTIFIED = 100  # images whose content tells one set from another
TEXTS = ("string", "large_string")
LABEL_NAMES = ("label", "labels", "class", "target", "fine_label")  # without a type that says so


class Row(NamedTuple):
    """Hold an image in a row of a table."""

    table: Any
    number: int
    name: str

    def __str__(self) -> str:
        return self.name

    def read(self) -> bytes:
        """Return the image's bytes: those in the row, or of the file that it names."""
        # Past the library's own indexing, which takes 0.15 ms; this takes 0.006.
        value = self.table.data.column(0)[self.number].as_py()
        if value is None:
            raise ValueError("there is none in this row")
        content: bytes | None = value["bytes"]
        return Path(value["path"]).read_bytes() if content is None else content


@dataclass(frozen=True)
class Rows:
    """Hold images in rows of a table.

    Attributes:
        table: a `datasets.Dataset` of the images' column alone, encoded. Processes are given the
            paths of its files, which they map.
        origin: what names it in messages, with its split.
        rows: the numbers of the rows, (N,).
    """

    table: Any
    origin: str
    rows: Indices

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, int | np.integer):
            return replace(self, rows=self.rows[index])
        row = int(self.rows[index])
        return Row(self.table, row, f"{self.origin}, row {row}")

    def names(self) -> list[str]:
        """Return the numbers of the rows, with the column and the origin."""
        (column,) = self.table.column_names
        return [f"{self.origin}, {column} of row {row}" for row in self.rows.tolist()]

    def identity(self) -> bytes:
        """Return a hash of some images, which are the same in a copy of any form."""
        digest = hashlib.blake2b()
        for number in range(0, len(self), -(-len(self) // IDENTIFIED)):
            try:
                content = self[number].read()
            except (OSError, ValueError):
                content = b""  # broken; reading it says so
            digest.update(hashlib.blake2b(content).digest())
        return digest.digest()


# --- finding and loading ---


class _Loaded(NamedTuple):
    """Hold the splits of a set by their own names.

    `root` is where a cache is kept, None for beside the Arrow files.
    """

    tables: dict[str, Any]
    root: Path | None
    origin: str


def is_copy(folder: Path) -> bool:
    """Return whether a folder holds what save_to_disk wrote, or Parquet files of a repository."""
    places = (folder, folder / "data", folder / "train")
    return any((folder / name).is_file() for name in datasets_library.SAVED) or any(
        any(place.glob("*.parquet")) for place in places
    )


def is_copy_alone(folder: Path) -> bool:
    """Return whether a folder holds such a copy, and not training images in folders by class."""
    train = folder / "train"
    has_classes = train.is_dir() and any(each.is_dir() for each in train.iterdir())
    return is_copy(folder) and not has_classes


def find(
    name: str,
    variant: str,
    data_path: str,
    image_column: str | None,
    label_column: str | None,
    named: dict[str, str | None],
    progress: bool,
) -> Splits:
    """Find the splits of a set, and the columns of images and classes in them.

    Args:
        name: a folder, below data_path or from the current one; or else a repository of the hub.
        variant: the configuration; "" for the only one.
        data_path: the folder of the data.
        image_column, label_column: their names, where they are not found.
        named: the splits to use, where they are not found; a part of one is "train[:90%]".
        progress: show bars while it is downloaded and prepared.

    Raises:
        UserError: it is not there, or is not what is needed; with the remedy.
    """
    dataset = f"--dataset hf/{name}" + (f":{variant}" if variant else "")
    with datasets_library.one_line(dataset), _bars(progress):
        loaded = _load(dataset, name, variant, Path(data_path))
    return _splits(dataset, loaded, image_column, label_column, named)


def find_copy(folder: Path, progress: bool) -> Splits:
    """Find the splits of a copy that lies in a folder: ImageNet's Parquet files.

    Raises:
        UserError: it is not what is needed.
    """
    with datasets_library.one_line(str(folder)), _bars(progress):
        loaded = _load_folder(folder, "")
    return _splits(str(folder), loaded, None, None, {})


def find_test(
    name: str,
    variant: str,
    split: str,
    data_path: str,
    image_column: str | None,
    label_column: str | None,
    known: Sequence[str],
    progress: bool,
) -> OneSplit:
    """Find the split of a set that is tested on alone, and the columns of images and classes.

    Args:
        name, variant, data_path, progress: as for `find`.
        split: its name, or a part of it; "" for the test split, else validation, else the only one.
        image_column, label_column: their names where the set has such columns.
        known: the classes that the network knows, which decide between several columns.

    Raises:
        UserError: it is not there, or is not what is needed; with the remedy.
    """
    where = f"hf/{name}" + (f":{variant}" if variant else "")
    with datasets_library.one_line(where), _bars(progress):
        loaded = _load(where, name, variant, Path(data_path))
    return _one_split(where, loaded, split, image_column, label_column, known)


def find_test_in_copy(folder: Path, known: Sequence[str], progress: bool) -> OneSplit:
    """Find the split that is tested on alone in a copy that lies in a folder.

    Raises:
        UserError: it is not what is needed.
    """
    with datasets_library.one_line(str(folder)), _bars(progress):
        loaded = _load_folder(folder, "")
    return _one_split(str(folder), loaded, "", None, None, known)


@contextmanager
def _bars(progress: bool) -> Iterator[None]:
    library = datasets_library.load()
    draws = library.utils.logging.is_progress_bar_enabled()
    if not (progress and may_draw()):
        library.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if draws:
            library.utils.logging.enable_progress_bar()


def _load(dataset: str, name: str, variant: str, data_path: Path) -> _Loaded:
    for folder in (data_path / name, Path(name)):
        if folder.is_dir() and (is_copy(folder) or any(folder.rglob("*.parquet"))):
            return _load_folder(folder, variant)
    if Path(name).is_absolute() or not datasets_library.REPOSITORY.fullmatch(name):
        raise UserError(
            f"{dataset}: no folder with a saved data set (dataset_dict.json) or Parquet files, and"
            " no name of a repository; folders are looked for below --data_path, then from the"
            " current folder"
        )
    tables = _from_hub(dataset, name, variant)
    return _Loaded(tables, None, f"Hugging Face's {name}")


def _load_folder(folder: Path, variant: str) -> _Loaded:
    library = datasets_library.load()
    origin = printable(str(folder))
    if any((folder / name).is_file() for name in datasets_library.SAVED):
        saved = library.load_from_disk(str(folder), keep_in_memory=False)
        tables = saved if isinstance(saved, dict) else {str(saved.split or "train"): saved}
        return _Loaded(dict(tables), folder, origin)
    datasets_library.check_all_shards(folder)
    tables = library.load_dataset(str(folder), variant or None, keep_in_memory=False)
    return _Loaded(dict(tables), folder, origin)


def _from_hub(dataset: str, name: str, variant: str) -> dict[str, Any]:
    """Return the splits of a repository: prepared on this machine before, or else downloaded."""
    library = datasets_library.load()
    with datasets_library.offline(library):
        try:
            return dict(library.load_dataset(name, variant or None, keep_in_memory=False))
        except Exception:  # of many kinds: it has not been prepared here
            pass
    try:
        hub.probe(name, "dataset")
    except OSError as error:
        raise UserError(
            f"{dataset}: there is no such folder, and it is not available from Hugging Face"
            f" ({error}); download it where there is a network (hf download --repo-type dataset"
            f" {name} --local-dir FOLDER), and give hf/FOLDER"
        ) from None
    if is_main():
        print(f"loading {name} from Hugging Face")
    return dict(library.load_dataset(name, variant or None, keep_in_memory=False))


# --- splits and columns ---


class _Part(NamedTuple):
    """Hold a split, or a part of one."""

    name: str
    table: Any
    rows: Indices


def _splits(
    dataset: str,
    loaded: _Loaded,
    image_column: str | None,
    label_column: str | None,
    named: dict[str, str | None],
) -> Splits:
    first = next(iter(loaded.tables.values()))
    image = _image_column(dataset, first, image_column)
    label = _label_column(dataset, first, label_column)
    remedy = "--label_column names another column, --splits other splits"
    unlabelled = [name for name, table in loaded.tables.items() if _is_unlabelled(table, label)]
    parts = _parts(dataset, loaded.tables, named, unlabelled)
    labels = {
        role: _labels(f"{dataset}, {part.name}", part, label, remedy)
        for role, part in parts.items()
    }
    names = getattr(first.features[label], "names", None)
    classes = numbered(labels, names, dataset, remedy)

    def files(role: str) -> Files | None:
        if role not in parts:
            return None
        return _files(dataset, loaded, parts[role], role, image, classes.targets[role])

    train, val, test = files("train"), files("val"), files("test")
    assert train
    assert test
    passed_over = f"splits without labels ({', '.join(unlabelled)})" if unlabelled else ""
    return Splits(classes.names, train, val, test, passed_over, loaded.origin)


def _files(
    dataset: str, loaded: _Loaded, part: _Part, role: str, image: str, targets: Targets
) -> Files:
    """Return the images of a part; `role` names them in the cache."""
    holders = tuple(file["filename"] for file in part.table.cache_files)
    root = loaded.root or Path(holders[0]).parent
    table = _encoded(dataset, part.table, image)
    rows = Rows(table, f"{loaded.origin}, {part.name}", part.rows)
    return Files(root, role, rows, tuple(map(stamp_of, holders)), targets, holders)


def _one_split(
    where: str,
    loaded: _Loaded,
    split: str,
    image_column: str | None,
    label_column: str | None,
    known: Sequence[str],
) -> OneSplit:
    first = next(iter(loaded.tables.values()))
    there = first.features
    image = _image_column(where, first, image_column if image_column in there else None)
    given = label_column if label_column in there else None
    label = given or _fitting_column(where, first, known)
    part = _test_part(where, loaded.tables, split, label)
    remedy = "--label_column names another column, NAME:CONFIG:SPLIT another split"
    origin = f"{where}, {part.name}"
    names = getattr(there[label], "names", None)
    labels = _labels(origin, part, label, remedy)
    names, targets = numbered_alone(labels, names, origin, remedy)
    files = _files(where, loaded, part, part.name, image, targets)
    return OneSplit(names, files, f"{loaded.origin}, {part.name}")


def _fitting_column(where: str, table: Any, known: Sequence[str]) -> str:
    """Return the column of classes: of several, the one whose classes the network knows."""
    texts = [name for name, feature in table.features.items() if _dtype(feature) in TEXTS]
    found = _label_columns(table) or texts
    if len(found) > 1:
        fitting = [name for name in found if matched(_classes(table, name), known) is not None]
        found = fitting or found
    return _the_one(where, table, "label_column", "classes", found)


def _dtype(feature: Any) -> str:
    return str(getattr(feature, "dtype", ""))


def _classes(table: Any, column: str) -> list[str]:
    names = getattr(table.features[column], "names", None)
    return names or [str(value) for value in _column(table, column).unique().to_pylist()]


def _test_part(where: str, tables: dict[str, Any], split: str, label: str) -> _Part:
    """Return the split that is named, else the test split, else validation, else the only one."""
    if split:
        return _part(f"{where}: {split}", tables, split)
    names = [*SPLIT_NAMES["test"], *SPLIT_NAMES["val"]]
    found = [name for name in names if name in tables and not _is_unlabelled(tables[name], label)]
    if not found and len(tables) > 1:
        raise UserError(
            f"{where}: no test or validation split with labels among {_lengths(tables)}; name one: "
            f"{where}{'' if ':' in where else ':'}:SPLIT"
        )
    return _part(where, tables, (found or [*tables])[0])


def _lengths(tables: dict[str, Any]) -> str:
    return ", ".join(f"{name} ({len(table):,})" for name, table in tables.items())


def _parts(
    dataset: str, tables: dict[str, Any], named: dict[str, str | None], unlabelled: list[str]
) -> dict[str, _Part]:
    """Return the split of each role: those that are named, else those that have its name."""
    found = {
        role: _part(f"{dataset}: --splits {spec}", tables, spec)
        for role, spec in named.items()
        if spec
    }
    taken = {part.name for part in found.values()} | {*unlabelled}
    for role, aliases in SPLIT_NAMES.items():
        names = [name for name in aliases if name in tables and name not in taken]
        if role not in named and names:
            found[role] = _part(dataset, tables, names[0])
    if "test" not in found and "val" in found:
        found["test"] = found.pop("val")
    for role in ("train", "test"):
        if role not in found:
            raise UserError(
                f"{dataset}: no {role} split with labels among {_lengths(tables)}; name one, or"
                ' parts of one: --splits \'{train: "train[:90%]", test: "train[90%:]"}\''
            )
    return found


def _part(where: str, tables: dict[str, Any], spec: str) -> _Part:
    """Return the part of a split that `name`, `name[:90%]` or `name[100:]` stands for."""
    lengths = {name: len(table) for name, table in tables.items()}
    try:
        (part,) = datasets_library.load().ReadInstruction.from_spec(spec).to_absolute(lengths)
    except (AssertionError, ValueError) as error:
        there = ", ".join(lengths)
        reason = hub.one_line(error)
        raise UserError(f"{where}: {reason}; there are {there}") from None
    start, end = part.from_ or 0, lengths[part.splitname] if part.to is None else part.to
    if end <= start:
        raise UserError(f"{where}: has no image of {lengths[part.splitname]:,}")
    return _Part(part.splitname, tables[part.splitname], np.arange(start, end))


def _image_column(dataset: str, table: Any, given: str | None) -> str:
    if given:
        return _known_column(dataset, table, "image_column", given)
    features = table.features
    found = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    found = found or [name for name, feature in features.items() if _may_hold_images(feature)]
    return _the_one(dataset, table, "image_column", "images", found)


def _may_hold_images(feature: Any) -> bool:
    is_binary = _dtype(feature) in ("binary", "large_binary")
    return is_binary or (isinstance(feature, dict) and "bytes" in feature)


def _label_column(dataset: str, table: Any, given: str | None) -> str:
    if given:
        return _known_column(dataset, table, "label_column", given)
    return _the_one(dataset, table, "label_column", "classes", _label_columns(table))


def _label_columns(table: Any) -> list[str]:
    """Return the columns that are typed as classes, else the one that is called so."""
    features = table.features
    found = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    return found or [name for name in LABEL_NAMES if name in features][:1]


def _known_column(dataset: str, table: Any, flag: str, name: str) -> str:
    if name not in table.features:
        raise UserError(
            f"{dataset}: --{flag} {name}: no such column; there are {', '.join(table.features)}"
        )
    return name


def _the_one(dataset: str, table: Any, flag: str, what: str, found: list[str]) -> str:
    if len(found) != 1:
        several = (
            f"several columns of {what} ({', '.join(found)})" if found else f"no column of {what}"
        )
        raise UserError(f"{dataset}: {several}; --{flag} names one of {', '.join(table.features)}")
    return found[0]


def _column(table: Any, name: str) -> Any:
    """Return a whole column, as Arrow has it."""
    return table.select_columns([name]).with_format("arrow")[:].column(0)


def _is_unlabelled(table: Any, label: str) -> bool:
    """Return whether no row has a label: the test splits of competitions have -1 everywhere."""
    if label not in table.features:
        return True
    values = _column(table, label)
    if values.null_count == len(values):
        return True
    return str(values.type).startswith("int") and set(values.unique().to_pylist()) <= {-1, None}


def _labels(where: str, part: _Part, label: str, remedy: str) -> Labels:
    values = _column(part.table, label).take(part.rows)
    if values.null_count:
        row = int(part.rows[np.flatnonzero(values.is_null().to_numpy())[0]])
        raise UserError(f"{where}: row {row} has no label in the column {label}; {remedy}")
    kind = str(values.type)
    if kind == "bool" or re.match(r"u?int", kind):
        return values.to_numpy().astype(np.int64)
    if "string" in kind and "<" not in kind:
        return np.array(values.to_pylist(), np.str_)
    raise UserError(
        f"{where}: the column {label} holds {kind}, where a class is a number or a name; {remedy}"
    )


def _encoded(dataset: str, table: Any, column: str) -> Any:
    """Return a table of the images alone, as they are encoded."""
    image = datasets_library.load().Image(decode=False)
    with datasets_library.one_line(f"{dataset}, column {column}"):
        if table._indices is not None:  # rows chosen out of a file, which was saved so
            table = table.flatten_indices()
        return table.select_columns([column]).cast_column(column, image)
