"""Read documents from each of the forms that they may be kept in, one after the other.

Documents are numbered in the order of the files and of what stands in them, so that a reader can
begin at any of them.
"""

import importlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from pipelines import datasets_library
from pipelines.text.forms import reading
from utils import UserError, printable

ROWS = 1024  # of a table, read at once
READ_BYTES = 2**22  # of a table or a file, read at once, roughly

Text: TypeAlias = str | None  # None where a row has none


class Documents(Protocol):
    """Describe the documents of a split, which may be kept in any form."""

    @property
    def files(self) -> list[Path]:
        """Return the files that they are read from."""
        ...

    def count(self) -> int | None:
        """Return how many there are, None where only reading them tells."""
        ...

    def read(self, first: int) -> Iterator[Text]:
        """Yield the texts from number `first` on."""
        ...


def text_column(where: str, columns: Mapping[str, bool], given: str | None) -> str:
    """Return the column of the text: the given one, `text`, or the only one that may be it.

    Args:
        where: what names the corpus in errors.
        columns: whether each holds texts, by name.
        given: --text_column.

    Raises:
        UserError: there is none, or there are several.
    """
    there = printable(", ".join(columns))
    if given is not None:
        if given not in columns:
            raise UserError(f"{where}: --text_column {given}: no such column; there are {there}")
        if not columns[given]:
            raise UserError(
                f"{where}: --text_column {given} holds no texts; name another of {there}"
            )
        return given
    texts = [name for name, holds_text in columns.items() if holds_text]
    if "text" in texts:
        return "text"
    if len(texts) != 1:
        found = f"several columns of texts ({printable(', '.join(texts))})" if texts else "no text"
        raise UserError(f"{where}: {found}; --text_column names one of {there}")
    return texts[0]


# --- JSON ---


@dataclass(frozen=True)
class JsonLines:
    """Read files with a JSON object in each line, compressed ones (.gz, .zst) as well."""

    files: list[Path]
    column: str

    @classmethod
    def of(cls, where: str, files: list[Path], column: str | None) -> "JsonLines":
        """Return these files, the text's key found in their first line.

        Raises:
            UserError: they are empty, or it cannot be told which key is the text's.
        """
        found = (_parsed(path, *numbered) for path in files for numbered in _lines(path))
        first = next(found, None)
        if first is None:
            raise UserError(f"{where}: {files[0]} holds no documents, nor do the others")
        # A row without a text (null) is left out later; its key may be the text's.
        columns = {name: value is None or isinstance(value, str) for name, value in first.items()}
        return cls(files, text_column(where, columns, column))

    def count(self) -> int | None:
        return None

    def read(self, first: int) -> Iterator[Text]:
        for path in self.files:
            for number, line in _lines(path):
                if first:
                    first -= 1
                else:
                    yield self._text(path, number, line)

    def _text(self, path: Path, number: int, line: bytes) -> Text:
        content = _parsed(path, number, line)
        text = content.get(self.column, False)
        if text is None or isinstance(text, str):
            return text
        raise UserError(
            f"{path}, line {number}: no text under the key {self.column!r}; --text_column names"
            f" another of {printable(', '.join(content))}"
        )


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file that are not blank, with their numbers from 1."""
    arrow = importlib.import_module("pyarrow")  # slow, and it reads compressed files too
    with reading(path), arrow.input_stream(str(path), buffer_size=READ_BYTES) as stream:
        for number, line in enumerate(io.BufferedReader(stream, READ_BYTES), 1):
            if not line.isspace():
                yield number, line


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(
            f'{path}, line {number}: is no JSON object; each line needs one, as {{"text": "..."}}'
        )
    return content


# --- tables ---


@dataclass(frozen=True)
class ParquetRows:
    """Read Parquet files, of which only the column of the text is read."""

    files: list[Path]
    column: str

    @classmethod
    def of(cls, where: str, files: list[Path], column: str | None) -> "ParquetRows":
        """Return these files, the text's column found in the first and checked in all."""
        found = None
        for path in files:
            with reading(path), _parquet(path) as table:
                schema = table.schema_arrow
            columns = {field.name: _holds_text(field.type) for field in schema}
            found = text_column(where if found is None else str(path), columns, found or column)
        assert found is not None, "there is a file"
        return cls(files, found)

    def count(self) -> int:
        total = 0
        for path in self.files:
            with reading(path), _parquet(path) as table:
                total += table.metadata.num_rows
        return total

    def read(self, first: int) -> Iterator[Text]:
        for path in self.files:
            with reading(path), _parquet(path) as table:
                for group in range(table.num_row_groups):
                    footer = table.metadata.row_group(group)
                    if first >= footer.num_rows:
                        first -= footer.num_rows
                        continue
                    rows = _rows_at_once(footer.total_byte_size, footer.num_rows)
                    batches = table.iter_batches(rows, row_groups=[group], columns=[self.column])
                    for batch in batches:
                        yield from batch.column(self.column)[first:].to_pylist()
                        first = max(0, first - batch.num_rows)


def _parquet(path: Path) -> Any:
    # Without the buffer it reads the whole column of a row group at once.
    parquet = importlib.import_module("pyarrow.parquet")  # slow
    return parquet.ParquetFile(path, buffer_size=READ_BYTES, pre_buffer=False)


def _holds_text(kind: Any) -> bool:
    return str(kind) in ("string", "large_string", "string_view")


def _rows_at_once(size: int, rows: int) -> int:
    """Return how many rows to read at once, given what `rows` of them take in bytes."""
    return max(1, min(ROWS, READ_BYTES * rows // max(size, 1)))


@dataclass(frozen=True)
class SavedRows:
    """Read a split that `datasets` has prepared as Arrow files: a `datasets.Dataset`."""

    table: Any
    column: str

    @classmethod
    def of(cls, where: str, table: Any, column: str | None) -> "SavedRows":
        return cls(table, text_column(where, feature_columns(table.features), column))

    @property
    def files(self) -> list[Path]:
        return [Path(file["filename"]) for file in self.table.cache_files]

    def count(self) -> int:
        return len(self.table)

    def read(self, first: int) -> Iterator[Text]:
        rows = _rows_at_once(self.table.data.nbytes, len(self.table))
        table = self.table.select_columns([self.column]).with_format("arrow")
        for start in range(first, len(table), rows):
            yield from table[start : start + rows].column(0).to_pylist()


def feature_columns(features: Mapping[str, Any]) -> dict[str, bool]:
    """Return whether each column of a table of `datasets` holds texts."""
    kinds = {name: getattr(feature, "dtype", "") for name, feature in features.items()}
    return {name: kind in ("string", "large_string") for name, kind in kinds.items()}


@dataclass(frozen=True)
class StreamedRows:
    """Read a split of any files that `datasets` knows, without a prepared copy.

    Attributes:
        table: a `datasets.IterableDataset`.
        files: those that it reads.
        column: of the text.
    """

    table: Any
    files: list[Path]
    column: str

    @classmethod
    def of(cls, where: str, table: Any, files: list[Path], column: str | None) -> "StreamedRows":
        features = table.features or table._resolve_features().features
        return cls(table, files, text_column(where, feature_columns(features), column))

    def count(self) -> int | None:
        return None

    def read(self, first: int) -> Iterator[Text]:
        with datasets_library.one_line(str(self.files[0].parent)):
            for row in self.table.select_columns([self.column]).skip(first):
                yield row[self.column]


# --- text files ---


@dataclass(frozen=True)
class TextFiles:
    """Read text files, each of which is a document."""

    files: list[Path]

    def count(self) -> int:
        return len(self.files)

    def read(self, first: int) -> Iterator[Text]:
        for path in self.files[first:]:
            with reading(path):
                content = path.read_bytes()
            try:
                yield content.decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}: not UTF-8 at byte {error.start:,}; convert it (iconv -t utf-8)"
                ) from None


def in_batches(texts: Iterable[Text], size: int, most: int) -> Iterator[list[Text]]:
    """Yield lists of documents, of `size` characters or `most` documents at most, or of one."""
    batch: list[Text] = []
    held = 0
    for text in texts:
        length = len(text or "")
        if batch and (held + length > size or len(batch) == most):
            yield batch
            batch, held = [], 0
        batch.append(text)
        held += length
    if batch:
        yield batch
