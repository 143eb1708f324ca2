"""Read a split's text from each of the forms that it may be kept in."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipelines import datasets_library, hub
from pipelines.text.lines import BLOCK_BYTES
from utils import UserError

ROWS = 4096  # of a table, read at once


class Split(Protocol):
    """Describe the text of a split, which may be kept in any form."""

    @property
    def files(self) -> list[Path]:
        """Return the files that it is read from."""
        ...

    def size(self) -> int:
        """Return the bytes of its text, roughly, for the progress bar."""
        ...

    def blocks(self) -> Iterator[bytes]:
        """Yield its text in blocks of a few MB at most, none of them empty."""
        ...


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn what goes wrong with a file inside the block into a UserError that names `path`."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow's are among these
        raise UserError(f"{path}: cannot be read ({hub.one_line(error)})") from None


@dataclass(frozen=True)
class TextSplit:
    """Read one text file, byte by byte as it is."""

    path: Path

    @property
    def files(self) -> list[Path]:
        return [self.path]

    def size(self) -> int:
        with reading(self.path):
            return self.path.stat().st_size

    def blocks(self) -> Iterator[bytes]:
        with reading(self.path), open(self.path, "rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block


@dataclass(frozen=True)
class PartSplit:
    """Read `length` bytes of a text file, from byte `start` on."""

    path: Path
    start: int
    length: int

    @property
    def files(self) -> list[Path]:
        return [self.path]

    def size(self) -> int:
        return self.length

    def blocks(self) -> Iterator[bytes]:
        left = self.length
        with reading(self.path), open(self.path, "rb") as file:
            file.seek(self.start)
            while block := file.read(min(BLOCK_BYTES, left)):
                left -= len(block)
                yield block


@dataclass(frozen=True)
class ParquetSplit:
    """Read Parquet files in order, with a line in each row of the column `text`."""

    files: list[Path]

    def size(self) -> int:
        size = 0
        for path in self.files:
            with reading(path), _parquet_file(path) as table:
                footer = table.metadata
            size += sum(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))
        return size

    def blocks(self) -> Iterator[bytes]:
        for path in self.files:
            with reading(path), _parquet_file(path) as table:
                yield from _rows_as_text(table.iter_batches(ROWS, columns=["text"]))


def _parquet_file(path: Path) -> Any:
    from pyarrow.parquet import ParquetFile  # slow to import

    return ParquetFile(path)


@dataclass(frozen=True)
class SavedSplit:
    """Read a split of a DatasetDict that `datasets` saved to disk, with a line in each row."""

    folder: Path
    name: str

    @property
    def files(self) -> list[Path]:
        folder = self.folder / self.name
        return sorted(folder.glob("*.arrow")) or [folder]

    def size(self) -> int:
        return sum(path.stat().st_size for path in self.files)

    def blocks(self) -> Iterator[bytes]:
        library = datasets_library.load()
        with reading(self.folder / self.name):
            saved = library.load_from_disk(str(self.folder / self.name))  # not a DatasetDict here
            yield from _rows_as_text(saved.with_format("arrow").iter(ROWS))


@dataclass(frozen=True)
class MemorySplit:
    """Hold a text in memory, made of `files`."""

    files: list[Path]
    text: bytes

    def size(self) -> int:
        return len(self.text)

    def blocks(self) -> Iterator[bytes]:
        return iter([self.text] if self.text else [])


def _rows_as_text(tables: Iterable[Any]) -> Iterator[bytes]:
    """Yield the rows of pyarrow tables or batches as lines of a text file, a block for each."""
    for table in tables:
        if table.num_rows:
            yield "".join(map(_as_line, table["text"].to_pylist())).encode()


def _as_line(row: str | None) -> str:
    """Return a row with its line end.

    Hugging Face's copies have an empty row where WikiText's files have the line " \\n".
    """
    if not row:
        return " \n"
    return row if row.endswith("\n") else f"{row}\n"
