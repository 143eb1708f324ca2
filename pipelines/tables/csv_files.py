"""Read a table from a CSV file, whose first line names the columns.

A column of numbers is a feature. A column of texts is one for each text, 1 where it stands and 0
elsewhere. What is missing is never guessed: it is refused with the place.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.interfaces import Targets
from pipelines.tables.sources import Features, Table, library
from utils import UserError, nearest, printable

DELIMITERS = ",;\t"
MOST_TEXTS = 50  # of a column, each of which becomes a feature


def read_csv(path: str, label: str | None) -> Table:
    """Read a table.

    Args:
        path: of the file.
        label: the column of the classes; None for the last one.

    Raises:
        UserError: it cannot be read, or a column of it cannot be used.
    """
    file = _CsvFile(path)
    name = file.label(label)
    targets, class_names = file.classes(name)
    columns = [column for column in file.columns if column != name]
    if not columns:
        raise UserError(f"{file.where}: it has no column beside the label; add features")
    features = {column: each for part in columns for column, each in file.features(part).items()}
    return Table(
        features=np.stack([*features.values()], 1),
        targets=targets,
        columns=[*features],
        class_names=class_names,
        origin=printable(path),
    )


class _CsvFile:
    """Hold the columns of a file, numbers or texts.

    Args:
        path: of the file.

    Attributes:
        where: how messages name the file.
        columns: the names in its first line.
    """

    def __init__(self, path: str):
        self.where = f"--data_path {printable(path)}"
        self._pandas = library("pandas", "csv")
        delimiter = self._delimiter(path)
        too_long = self._pandas.errors.ParserWarning
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", too_long)
                # Nothing counts as missing: what is no number shall be named as it stands there.
                self._table = self._pandas.read_csv(
                    path, sep=delimiter, encoding="utf-8-sig", skipinitialspace=True,
                    index_col=False, keep_default_na=False, low_memory=False,
                )  # fmt: skip
        except too_long:
            raise UserError(
                f"{self.where}: its rows have more values than its first line has names; name "
                "every column"
            ) from None
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{self.where}: not a readable CSV file ({reason})") from None
        if not len(self._table):
            raise UserError(f"{self.where}: it has no rows below its first line")
        self.columns = [str(name) for name in self._table.columns]
        self._table.columns = self.columns

    def _delimiter(self, path: str) -> str:
        """Return what stands between the names in the first line, of which there must be some."""
        if not Path(path).is_file():
            raise UserError(f"{self.where}: no such file; give the CSV file")
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            first = file.readline()
        delimiter = max(DELIMITERS, key=first.count)
        names = [name.strip().strip('"') for name in first.split(delimiter)]
        if any(map(_is_number, names)):
            raise UserError(
                f"{self.where}: its first line has numbers ({printable(first.strip())[:40]}) where "
                "the names of the columns should be; put a line with names above it"
            )
        return delimiter

    def label(self, name: str | None) -> str:
        """Return the column of the classes."""
        if name is None:
            return self.columns[-1]
        if name not in self.columns:
            raise UserError(f"--label {name}: no such column; {nearest(name, self.columns)}")
        return name

    def classes(self, name: str) -> tuple[Targets, list[str]]:
        """Return the class of each row, (N,), and the classes' names in order.

        Raises:
            UserError: values are missing, or are measurements rather than classes.
        """
        column = self._table[name]
        if column.dtype.kind == "f":
            self._check_finite(name, column)
            if (column % 1).any():
                raise UserError(
                    f"{self.where}: the label {name} has measurements such as "
                    f"{column[column % 1 != 0].iloc[0]:g}, and rows are sorted into classes; name "
                    "another column by --label"
                )
            column = column.astype(np.int64)
        elif column.dtype.kind not in "biu":
            column = column.astype(str).str.strip()
            self._refuse(name, column, column == "", "no value")
        values, targets = np.unique(column.to_numpy(), return_inverse=True)
        if len(values) < 2:
            raise UserError(
                f"{self.where}: the label {name} is {values[0]} in all rows; name another column "
                "by --label"
            )
        if 2 * len(values) > len(targets):
            raise UserError(
                f"{self.where}: the label {name} has {len(values):,} different values in "
                f"{len(targets):,} rows, too many to be classes; name another column by --label"
            )
        return targets.astype(np.int64), [str(value) for value in values]

    def features(self, name: str) -> dict[str, Features]:
        """Return the features, (N,) each, that a column comes to.

        Raises:
            UserError: values are missing, or some are numbers and some are not, or there are more
                different texts than can be features.
        """
        column = self._table[name]
        if column.dtype.kind in "biuf":
            self._check_finite(name, column)
            return {name: column.to_numpy(np.float64)}
        texts = column.astype(str).str.strip()
        self._refuse(name, texts, texts == "", "no value")
        is_number = self._pandas.to_numeric(texts, errors="coerce").notna()
        if is_number.any():
            self._refuse(name, texts, ~is_number, "no number")
            return {name: texts.to_numpy(np.float64)}
        found = sorted(set(texts))
        if len(found) > MOST_TEXTS:
            raise UserError(
                f"{self.where}: the column {name} has {len(found):,} different texts, more than "
                f"the {MOST_TEXTS} that could be features; leave it out of the file, or group them"
            )
        return {f"{name}={text}": (texts == text).to_numpy(np.float64) for text in found}

    def _check_finite(self, name: str, column: Any) -> None:
        finite = np.isfinite(column.to_numpy(np.float64))
        self._refuse(name, column, self._pandas.Series(~finite), "no number")

    def _refuse(self, name: str, column: Any, refused: Any, what: str) -> None:
        """Refuse a column where any value is `refused`; the message has the first such row."""
        if not refused.any():
            return
        row = int(refused.to_numpy().argmax())
        raise UserError(
            f"{self.where}: the column {name} has {what} in {int(refused.sum()):,} of "
            f"{len(refused):,} rows (row {row + 1} below the names: {str(column.iloc[row])!r}); "
            "fill in or leave out such rows"
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
