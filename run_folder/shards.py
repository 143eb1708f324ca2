"""Save tensors that several processes hold the rows of: a file for each process.

The rows of process 0, 1, ... lie in `shards/NAME/0.pt`, `1.pt`, ... beside the checkpoint, which
has the name, and marks in the place of the tensors. They are written first, and count from the
moment in which the checkpoint is in its place; what was saved before stays until then. The files
have the form of checkpoints: checksums are verified, and no code in them is run.

torch.distributed.checkpoint is not used. Its index is a pickle that may hold anything, its files
have no checksums, and its save is no single step from one whole state to the next.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils import UserError

FOLDER = "shards"
KEY = "shards"  # of a checkpoint: what it names
MARK = "rows in shards"  # in a tensor's place: its shape


@dataclass(frozen=True)
class Rows:
    """Hold this process's rows of a tensor.

    Attributes:
        local: the rows; none where there are too few for every process.
        shape: of the whole tensor.
    """

    local: Tensor
    shape: tuple[int, ...]


def rows_of(count: int, rank: int, ranks: int) -> slice:
    """Return which of `count` rows a process has: those of torch.chunk, as fully_shard has them."""
    size = -(-count // ranks)
    return slice(min(rank * size, count), min((rank + 1) * size, count))


def file_of(checkpoint: Path, name: str, rank: int) -> Path:
    """Return where a process's rows are."""
    return checkpoint.parent / FOLDER / name / f"{rank}.pt"


def apart(content: Any) -> tuple[Any, dict[str, Tensor]]:
    """Return nested content with marks in the place of Rows, and the rows by their place."""
    rows: dict[str, Tensor] = {}

    def put_aside(place: str, value: Any) -> Any:
        if not isinstance(value, Rows):
            return value
        rows[place] = value.local
        return {MARK: list(value.shape)}

    return _mapped(content, put_aside), rows


def _mapped(content: Any, change: Callable[[str, Any], Any], place: str = "") -> Any:
    """Return nested dictionaries and lists with each value changed, marks counting as values."""
    if isinstance(content, dict) and MARK not in content:
        return {key: _mapped(each, change, f"{place}/{key}") for key, each in content.items()}
    if isinstance(content, list):
        return [_mapped(each, change, f"{place}/{n}") for n, each in enumerate(content)]
    return change(place, content)


def is_mark(value: Any) -> bool:
    """Return whether a value stands for a tensor whose rows are in shards."""
    return isinstance(value, dict) and MARK in value


class Shards:
    """Read the rows of the tensors that a checkpoint has marks for.

    Args:
        checkpoint: where it is.
        content: its content.
        load: returns what is in a file of rows, verified.
    """

    def __init__(self, checkpoint: Path, content: dict[str, Any], load: Callable[[Path], Any]):
        self.checkpoint, self.load = checkpoint, load
        self.name, self.ranks = content[KEY]["name"], content[KEY]["files"]
        self._read: dict[int, dict[str, Tensor]] = {}

    def files(self) -> list[Path]:
        """Return the files of rows, whether they are there or not."""
        return [file_of(self.checkpoint, self.name, rank) for rank in range(self.ranks)]

    def rows(self, place: str, shape: list[int], wanted: slice) -> Tensor:
        """Return some rows of the tensor whose mark is at `place`; other files are not read.

        Raises:
            UserError: a file is missing or damaged, or of another checkpoint.
        """
        parts = []
        for rank in range(self.ranks):
            has = rows_of(shape[0], rank, self.ranks)
            start, stop = max(has.start, wanted.start), min(has.stop, wanted.stop)
            # Where no row is wanted, the first file tells type and width.
            if start < stop or (rank == 0 and wanted.start >= wanted.stop):
                own = slice(start - has.start, max(start, stop) - has.start)
                parts.append(self._tensors(rank)[place][own])
        return torch.cat(parts)

    def _tensors(self, rank: int) -> dict[str, Tensor]:
        if rank not in self._read:
            path = file_of(self.checkpoint, self.name, rank)
            if not path.is_file():
                raise UserError(
                    f"{self.checkpoint}: its part {path.relative_to(self.checkpoint.parent)} is "
                    f"missing; keep the folder {FOLDER}/ beside the checkpoint"
                )
            content = self.load(path)
            if content.get("of") != [self.name, rank, self.ranks]:
                raise UserError(f"{path}: of another checkpoint; put back the one that was there")
            self._read[rank] = content["tensors"]
        return self._read[rank]

    def restored(self, content: Any, change: Callable[[str, Any], Any]) -> Any:
        """Return the checkpoint's content without the name of its shards, each value changed."""
        rest = {key: value for key, value in content.items() if key != KEY}
        return _mapped(rest, change)

    def whole(self, content: dict[str, Any]) -> dict[str, Any]:
        """Return the checkpoint's content with whole tensors, as if one process had saved it."""

        def put_back(place: str, value: Any) -> Any:
            if not is_mark(value):
                return value
            shape = value[MARK]
            return self.rows(place, shape, slice(0, shape[0]))

        return self.restored(content, put_back)


def copy_shards(content: dict[str, Any], source: Path, target: Path) -> None:
    """Copy the shards that a checkpoint names to where it is to be."""
    if KEY in content and source.parent.resolve() != target.parent.resolve():
        name = content[KEY]["name"]
        before, after = (path.parent / FOLDER / name for path in (source, target))
        shutil.copytree(before, after, dirs_exist_ok=True)


def remove_others(checkpoint: Path, content: dict[str, Any]) -> None:
    """Remove shards that the checkpoint in its place does not name."""
    folder = checkpoint.parent / FOLDER
    kept = content[KEY]["name"] if KEY in content else None
    for each in _inside(folder):
        if each.name != kept:
            shutil.rmtree(each, ignore_errors=True)
    if kept is None and folder.is_dir():
        shutil.rmtree(folder, ignore_errors=True)


def _inside(folder: Path) -> Iterator[Path]:
    return folder.iterdir() if folder.is_dir() else iter(())
