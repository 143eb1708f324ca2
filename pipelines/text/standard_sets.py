"""Find small corpora of papers, which lie in the data folder: PTB, enwik8 and text8."""

from collections.abc import Mapping
from pathlib import Path

from pipelines.text.forms import PartSplit, Split, TextSplit, reading
from utils import UserError

PTB = {"train": "ptb.train.txt", "val": "ptb.valid.txt", "test": "ptb.test.txt"}
# {name: where it is from}
SOURCES = {
    "ptb": "https://www.fit.vutbr.cz/~imikolov/rnnlm/simple-examples.tgz (simple-examples/data)",
    "enwik8": "http://mattmahoney.net/dc/enwik8.zip",
    "text8": "http://mattmahoney.net/dc/text8.zip",
}
# Bytes of enwik8 and of text8: the split of all papers since Mikolov et al. 2012 (subword language
# modeling with neural networks).
SIZES = {"train": 90_000_000, "val": 5_000_000, "test": 5_000_000}


def find(name: str, data_path: str | Path) -> Mapping[str, Split] | None:
    """Find the corpus in data_path or in a folder of its name there; None where it is in neither.

    Raises:
        UserError: a part of it is missing, or it is not what was published.
    """
    places = [Path(data_path), Path(data_path, name)]
    if name == "ptb":
        return _ptb([*places, Path(data_path, "simple-examples", "data")])
    for place in places:
        path = place / name
        if path.is_file():
            return _parts(path)
        if (archive := place / f"{name}.zip").is_file():
            raise UserError(f"{archive}: --dataset {name} reads the file in it; unpack it")
    return None


def _ptb(places: list[Path]) -> Mapping[str, Split] | None:
    for place in places:
        found = {split: place / name for split, name in PTB.items() if (place / name).is_file()}
        if found:
            for name in PTB.values():
                if not (place / name).is_file():
                    raise UserError(f"{place / name}: no such file; --dataset ptb needs it too")
            return {split: TextSplit(path) for split, path in found.items()}
    return None


def _parts(path: Path) -> Mapping[str, Split]:
    with reading(path):
        size = path.stat().st_size
    if size != sum(SIZES.values()):
        raise UserError(
            f"{path}: has {size:,} bytes, and {path.name} has {sum(SIZES.values()):,}; unpack it"
            " again, or take --dataset text for another text"
        )
    splits, start = {}, 0
    for split, length in SIZES.items():
        splits[split] = PartSplit(path, start, length)
        start += length
    return splits


def missing(name: str, data_path: str | Path) -> UserError:
    """Return the error of a corpus that is not there."""
    files = ", ".join(PTB.values()) if name == "ptb" else name
    return UserError(
        f"--dataset {name}: no {files} in {data_path}; they are in {SOURCES[name]}: unpack them"
        " there"
    )
