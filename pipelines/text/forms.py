"""The forms a split's text is kept in. A split has

files     the files that it is read from
size()    its bytes of text, roughly, for the progress bar
blocks()  an iterator over its text: bytes, a few MB at most, none of them empty
"""

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipelines.text import hub
from pipelines.text.lines import BLOCK
from utils import UserError

ROWS = 4096  # of a table, read at once


@contextmanager
def reading(path):
    """What goes wrong with a file in here becomes a UserError that names it."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow's are among these
        raise UserError(f"{path}: cannot be read ({hub.one_line(error)})") from None


@dataclass(frozen=True)
class TextSplit:
    """One text file, byte by byte as it is."""

    path: Path

    @property
    def files(self):
        return [self.path]

    def size(self):
        with reading(self.path):
            return self.path.stat().st_size

    def blocks(self):
        with reading(self.path), open(self.path, "rb") as file:
            while block := file.read(BLOCK):
                yield block


@dataclass(frozen=True)
class ParquetSplit:
    """Parquet files in order, with a line in each row of the column `text`."""

    files: list

    def size(self):
        from pyarrow.parquet import read_metadata

        size = 0
        for path in self.files:
            with reading(path):
                footer = read_metadata(path)
            size += sum(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))
        return size

    def blocks(self):
        from pyarrow.parquet import ParquetFile

        for path in self.files:
            with reading(path), ParquetFile(path) as table:
                yield from _rows_as_text(table.iter_batches(ROWS, columns=["text"]))


@dataclass(frozen=True)
class SavedSplit:
    """A split of a DatasetDict that `datasets` saved to disk, with a line in each row."""

    folder: Path
    name: str

    @property
    def files(self):
        return sorted((self.folder / self.name).glob("*.arrow"))

    def size(self):
        return sum(path.stat().st_size for path in self.files)

    def blocks(self):
        from datasets import load_from_disk

        with reading(self.folder / self.name):
            rows = load_from_disk(str(self.folder / self.name)).with_format("arrow")
            yield from _rows_as_text(rows.iter(ROWS))


@dataclass(frozen=True)
class HeldSplit:
    """A text in memory, made of `files`."""

    files: list
    text: bytes

    def size(self):
        return len(self.text)

    def blocks(self):
        return iter([self.text] if self.text else [])


def _rows_as_text(tables):
    """Rows of pyarrow tables or batches as lines of a text file, a block for each table."""
    for table in tables:
        if table.num_rows:
            yield "".join(map(_as_line, table["text"].to_pylist())).encode()


def _as_line(row):
    """Hugging Face's copies have an empty row where WikiText's files have the line " \\n"."""
    if not row:
        return " \n"
    return row if row.endswith("\n") else f"{row}\n"
