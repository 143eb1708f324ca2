"""Read images in place from tar files, as the webdataset package writes them: shards.

A sample is a run of members with one name up to its first dot: 000017.jpg and 000017.cls. Each tar
file is gone through once and its samples' places are kept in the cache, so that an image is a part
of a file, and reading on in the middle of an epoch is a seek.
"""

import glob
import io
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipelines.images.cache import cached
from pipelines.images.folders import VAL_NAMES, Files, OneSplit, Splits, image_endings
from pipelines.images.interfaces import Images
from pipelines.images.labels import Labels, numbered, numbered_alone
from pipelines.images.readers import for_each
from pipelines.stamps import Stamp, stamp, stamp_of
from utils import UserError, printable

SPLIT_NAMES = {"train": ("train", "training"), "val": VAL_NAMES, "test": ("test",)}
KEY_AND_ENDING = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)  # webdataset's own
NAMES_FILE = "classes.txt"  # beside the shards: a class's name in each line
LABELS = ("cls", "label")  # an ending; else a key in the .json
REMEDY = "--label_column names the ending of the labels' members, or their key in the .json"


class Member(NamedTuple):
    """Hold an image in a tar file, as a part of that file."""

    tar: str
    stamp: Stamp
    offset: int
    length: int
    name: str

    def __str__(self) -> str:
        return f"{self.tar}, {printable(self.name)}"

    def read(self) -> bytes:
        """Return the member's bytes.

        Raises:
            UserError: the tar file is not what it was when it was gone through.
        """
        with open(self.tar, "rb", buffering=0) as file:
            if stamp(os.fstat(file.fileno())) != self.stamp:
                raise UserError(f"{self.tar}: has changed since the run began; start again")
            return os.pread(file.fileno(), self.length, self.offset)


@dataclass(frozen=True)
class Members:
    """Hold images in tar files: for each (N,) the file's number, the place in it and the name.

    Arrays throughout: a process that reads gets them as they are.
    """

    tars: tuple[str, ...]
    stamps: tuple[Stamp, ...]
    tar: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]
    name: npt.NDArray[np.bytes_]

    def __len__(self) -> int:
        return len(self.tar)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, int | np.integer):
            parts = ("tar", "offset", "length", "name")
            return replace(self, **{part: getattr(self, part)[index] for part in parts})
        tar = int(self.tar[index])
        place, length = int(self.offset[index]), int(self.length[index])
        return Member(
            self.tars[tar], self.stamps[tar], place, length, os.fsdecode(self.name[index])
        )

    def names(self) -> list[str]:
        """Return the names, with that of the tar file before them."""
        tars = [os.path.basename(tar) for tar in self.tars]
        pairs = zip(self.tar.tolist(), self.name.tolist(), strict=True)
        return [f"{tars[tar]}/{os.fsdecode(name)}" for tar, name in pairs]

    def identity(self) -> bytes:
        """Return the names and lengths: the same samples in other shards are the same."""
        return b"\n".join(self.name.tolist()) + self.length.tobytes()


# --- which tar files there are ---


def find(
    pattern: str,
    data_path: str,
    image_column: str | None,
    label_column: str | None,
    named: dict[str, str | None],
    progress: bool,
) -> Splits:
    """Find the shards of each split, and what is in them.

    Args:
        pattern: of the training shards, or a folder of all shards; below data_path, or else from
            the current folder.
        data_path: the folder of the data.
        image_column, label_column: endings of members, or a key in the .json.
        named: patterns of splits that are not called as the training shards are.
        progress: show a bar while the shards are gone through.

    Raises:
        UserError: shards are missing or damaged, or a sample lacks its image or label.
    """
    shards = _shards(pattern, Path(data_path), named)
    splits = {
        split: _Shards.of(split, tars, image_column, label_column, progress)
        for split, tars in shards.items()
    }
    labels = {split: each.labels for split, each in splits.items()}
    if len({values.dtype.kind for values in labels.values()}) > 1:  # "7" may be a name
        labels = {split: values.astype(str) for split, values in labels.items()}
    root = Path(shards["train"][0]).parent
    classes = numbered(labels, _class_names(root), f"wds/{pattern}", REMEDY)
    found = {split: each.files(classes.targets[split]) for split, each in splits.items()}
    return Splits(
        classes.names, found["train"], found.get("val"), found["test"], "", printable(str(root))
    )


def find_test(
    pattern: str,
    data_path: str,
    image_column: str | None,
    label_column: str | None,
    progress: bool,
) -> OneSplit:
    """Find the shards that are tested on alone, and what is in them.

    Args:
        pattern: of these shards, or as for `find`, where test or validation shards are beside the
            training shards.
        data_path, progress: as for `find`.
        image_column, label_column: as for `find`, where the samples have such members or keys.

    Raises:
        UserError: shards are missing or damaged, or a sample lacks its image or label.
    """
    tars = _shards_to_test(pattern, Path(data_path))
    image, label = _those_there(tars[0], image_column, label_column)
    cached_as = Path(tars[0]).name.partition(".")[0]
    found = _Shards.of(cached_as, tars, image, label, progress)
    root = Path(tars[0]).parent
    names, targets = numbered_alone(found.labels, _class_names(root), f"wds/{pattern}", REMEDY)
    return OneSplit(names, found.files(targets), printable(str(root)))


def _shards_to_test(pattern: str, data_path: Path) -> tuple[str, ...]:
    """Return the shards of the test split, else of validation, else those of the pattern."""
    for place in (data_path / pattern, Path(pattern)):
        if place.is_dir():
            return _shards_to_test_in(place)
        if beside := _others(place, "test") or _others(place, "val"):
            return beside
        if _matches(str(place)):
            return tuple(_complete(str(place)))
    return tuple(_complete(pattern))


def _shards_to_test_in(folder: Path) -> tuple[str, ...]:
    found, every = _shards_in(folder), _tars_in(folder)
    tars = found.get("test") or found.get("val") or every
    if not every:
        raise UserError(f"{printable(str(folder))}: no shards (*.tar) in it")
    if tars is every and len(found.get("train", every)) < len(every):
        raise UserError(
            f"{printable(str(folder))}: shards of several splits, none of them called test; give "
            "the pattern of those to test on"
        )
    return tars


def _shards(
    pattern: str, data_path: Path, named: dict[str, str | None]
) -> dict[str, tuple[str, ...]]:
    """Return the tar files of each split."""
    place = data_path / pattern
    if not _matches(str(place)):
        place = Path(pattern)
    if place.is_dir():
        found = _shards_in(place)
    else:
        found = {"train": tuple(_complete(str(place)))}
        others = {split: _others(place, split) for split in ("val", "test")}
        found |= {split: tars for split, tars in others.items() if tars}
    for split, other in named.items():
        found.pop(split, None)
        if other is not None:
            beside = data_path / other
            found[split] = tuple(_complete(str(beside) if _matches(str(beside)) else other))
    if "test" not in found and "val" in found:
        found["test"] = found.pop("val")
    for split in ("train", "test"):
        if split not in found:
            raise UserError(
                f"--dataset wds/{pattern}: no shards of a {split} split; call them like"
                f" {split}-000.tar in the place of train-000.tar, or give"
                f" --splits '{{{split}: PATTERN}}'"
            )
    used = Counter(tar for tars in found.values() for tar in tars)
    for tar, count in used.items():
        if count > 1:
            raise UserError(f"{printable(tar)}: would belong to two splits; name them by --splits")
    return found


def _shards_in(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the shards in a folder and in its subfolders, by the name of a split in their path."""
    tars = _tars_in(folder)
    found: dict[str, tuple[str, ...]] = {}
    for split, names in SPLIT_NAMES.items():
        word = re.compile(rf"(^|[\W_\d])({'|'.join(names)})($|[\W_\d])", re.IGNORECASE)
        mine = tuple(tar for tar in tars if word.search(os.path.relpath(tar, folder)))
        if mine:
            found[split] = mine
    return found


def _tars_in(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(map(str, [*folder.glob("*.tar"), *folder.glob("*/*.tar")])))


def _others(train: Path, split: str) -> tuple[str, ...]:
    """Return the shards of another split, called as the training shards are, in any number."""
    text = str(train)
    before, word, after = text.rpartition("train")
    if not word:
        return ()
    after = re.sub(r"\{[^{}]*\.\.[^{}]*\}|\[[^]]*\]|\d+", "*", after)
    for name in SPLIT_NAMES[split]:
        every = before.removesuffix("train/") + f"{name}/" if before.endswith("train/") else before
        tars = [tar for each in {before, every} for tar in _matches(f"{each}{name}{after}")]
        if tars:
            return tuple(sorted(tars))
    return ()


def _matches(pattern: str) -> list[str]:
    """Return the files or folders of a pattern that are there."""
    found = []
    for path in expanded(pattern):
        if any(letter in path for letter in "*?["):
            found += sorted(glob.glob(path))
        elif os.path.exists(path):
            found.append(path)
    return found


def _complete(pattern: str) -> list[str]:
    """Return the files of a pattern.

    Raises:
        UserError: one is missing.
    """
    for path in expanded(pattern):
        if not _matches(path):
            raise UserError(
                f"{printable(path)}: no such file; patterns are looked for below --data_path, then"
                " from the current folder"
            )
    return _matches(pattern)


def expanded(pattern: str) -> list[str]:
    """Return the texts that a pattern with braces stands for: {000..099}, {a,b}, one in another."""
    for match in re.finditer(r"\{([^{}]*)\}", pattern):
        choices = _choices(match[1])
        if choices is not None:
            before, after = pattern[: match.start()], pattern[match.end() :]
            return [*dict.fromkeys(x for each in choices for x in expanded(before + each + after))]
    return [pattern]


def _choices(text: str) -> Sequence[str] | None:
    """Return what stands between a pair of braces; None where it is no list and no range."""
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if not numbers:
        return text.split(",") if "," in text else None
    first, last = numbers.groups()
    width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
    step = 1 if int(first) <= int(last) else -1
    return [f"{number:0{width}}" for number in range(int(first), int(last) + step, step)]


def _class_names(folder: Path) -> list[str] | None:
    try:
        lines = (folder / NAMES_FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / NAMES_FILE}: cannot be read ({error})") from None
    return [line.strip() for line in lines if line.strip()]


# --- what is in them ---


class _Shards(NamedTuple):
    """Hold the shards of a split, their stamps, and the images and labels in them."""

    split: str
    tars: tuple[str, ...]
    stamps: tuple[Stamp, ...]
    members: Members
    labels: Labels

    @classmethod
    def of(
        cls,
        split: str,
        tars: tuple[str, ...],
        image_column: str | None,
        label_column: str | None,
        progress: bool,
    ) -> "_Shards":
        """Go through the shards of a split, or take what the cache has of them.

        Raises:
            UserError: one is damaged, or a sample lacks its image or label.
        """
        try:
            stamps = tuple(map(stamp_of, tars))
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from None
        wanted = _Wanted(image_column, label_column)
        paths = np.array(tars, object)
        whole = Files(Path(tars[0]).parent, split, paths, stamps, np.zeros(len(tars), np.int64))
        what = f"going through {len(tars):,} shards of {whole.folder}"
        kind = "-".join(["index", *(name.encode().hex() for name in wanted if name)])
        stored = cached(whole, kind, None, lambda: _packed(_index(tars, wanted, what, progress)))
        with np.load(io.BytesIO(stored.array.tobytes()), allow_pickle=False) as arrays:
            label = arrays["label"]
            places = {name: arrays[name] for name in ("tar", "offset", "length", "name")}
        members = Members(tars, stamps, **places)
        if not len(members):
            raise UserError(f"{tars[0]}: there is no image in it, nor in the shards beside it")
        return cls(split, tars, stamps, members, _labels(label))

    def files(self, targets: npt.NDArray[np.int64]) -> Files:
        root = Path(self.tars[0]).parent
        return Files(root, self.split, self.members, self.stamps, targets, self.tars)


class _Wanted(NamedTuple):
    image: str | None
    label: str | None


class _Sample(NamedTuple):
    name: str
    offset: int
    length: int
    label: str


def _index(
    tars: Sequence[str], wanted: _Wanted, what: str, progress: bool
) -> dict[str, npt.NDArray[Any]]:
    """Return for every sample the tar file's number, place, length, name and label."""
    samples: list[list[_Sample]] = [[] for _ in tars]

    def work(number: int) -> None:
        samples[number] = list(_samples(tars[number], wanted))

    for_each(len(tars), work, what, progress, unit="shard", chunk=1)
    all_samples = [sample for each in samples for sample in each]
    return {
        "tar": np.repeat(np.arange(len(tars), dtype=np.int32), list(map(len, samples))),
        "offset": np.array([sample.offset for sample in all_samples], np.int64),
        "length": np.array([sample.length for sample in all_samples], np.int64),
        "name": np.array([os.fsencode(sample.name) for sample in all_samples], np.bytes_),
        "label": np.array([sample.label for sample in all_samples], np.str_),
    }


def _packed(arrays: dict[str, npt.NDArray[Any]]) -> Images:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type] # NumPy's own types take no mapping here
    return np.frombuffer(file.getvalue(), np.uint8)


def _labels(texts: npt.NDArray[np.str_]) -> Labels:
    """Return numbers where all labels are written as such."""
    try:
        return texts.astype(np.int64)
    except ValueError:
        return texts


def _samples(path: str, wanted: _Wanted) -> Iterator[_Sample]:
    """Yield the samples of a tar file, in their order.

    Raises:
        UserError: it is damaged, or a sample lacks its image or label.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            _check_end(path)
            for members in _grouped(path, tar):
                yield _sample(path, tar, members, wanted)
    except (OSError, tarfile.TarError) as error:
        packed = " (decompress it: a part cannot be read from a compressed file)"
        hint = packed if _is_compressed(path) else "; copy it again"
        raise UserError(f"{path}: cannot be read as a tar file ({error}){hint}") from None


def _check_end(path: str) -> None:
    """Refuse a tar file that was cut off, the rest of which would seem to be all of it."""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - tarfile.BLOCKSIZE))
        if file.read() != tarfile.NUL * tarfile.BLOCKSIZE:
            raise tarfile.ReadError("its end is missing")


def _is_compressed(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(6).startswith(
                (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
            )
    except OSError:
        return False


def _grouped(path: str, members: Iterable[tarfile.TarInfo]) -> Iterator[dict[str, tarfile.TarInfo]]:
    """Yield the members of each sample by their endings in small letters, as webdataset does."""
    key, group = None, dict[str, tarfile.TarInfo]()
    for member in members:
        match = KEY_AND_ENDING.fullmatch(member.name)
        is_meta = member.name.startswith("__") and member.name.endswith("__")
        if not member.isreg() or is_meta or not match:
            continue
        ending = match[2].lower()
        if match[1] != key:
            if group:
                yield group
            key, group = match[1], {}
        if ending in group:
            raise UserError(f"{path}: {printable(member.name)} is in it twice; write it again")
        group[ending] = member
    if group:
        yield group


def _sample(
    path: str, tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], wanted: _Wanted
) -> _Sample:
    known = image_endings()
    images = [ending for ending in members if f".{ending.rpartition('.')[2]}" in known]
    if wanted.image:
        images = [wanted.image.lower()] if wanted.image.lower() in members else []
    name = printable(next(iter(members.values())).name)
    if len(images) != 1:
        found = ", ".join(members) if not images else ", ".join(images)
        raise UserError(
            f"{path}: sample {name} has {len(images) or 'no'} image"
            f"{'s' if images else ''} ({found}); --image_column names the ending of the images"
        )
    label = _label(tar, members, wanted.label)
    if label is None:
        raise UserError(f"{path}: sample {name} has no label ({', '.join(members)}); {REMEDY}")
    image = members[images[0]]
    return _Sample(image.name, image.offset_data, image.size, label)


def _label(
    tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], wanted: str | None
) -> str | None:
    """Return the text of a sample's label; None where there is none."""
    ending, key = (wanted, wanted) if wanted else LABELS
    if ending.lower() in members:
        return _content(tar, members[ending.lower()]) or None
    if "json" not in members:
        return None
    try:
        label = json.loads(_content(tar, members["json"])).get(key)
    except (ValueError, AttributeError):
        return None
    is_label = isinstance(label, int | str) and not isinstance(label, bool)
    return str(label) if is_label else None


def _those_there(
    path: str, image_column: str | None, label_column: str | None
) -> tuple[str | None, str | None]:
    """Return those of the run's endings and keys that the first sample of a tar file has.

    What is wrong with the file is said when it is gone through.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            members = next(_grouped(path, tar), {})
            has_label = label_column and _label(tar, members, label_column) is not None
    except (OSError, tarfile.TarError):
        return None, None
    has_image = image_column and image_column.lower() in members
    return image_column if has_image else None, label_column if has_label else None


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    assert file is not None  # a plain file
    return file.read().decode(errors="replace").strip()
