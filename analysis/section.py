"""Define the interface of a section: one subject of a report, in one file of `sections/`.

A new section is a new file there, and its place in `analysis.sections.SECTIONS`.
"""

from collections.abc import Callable, Collection, Sequence

import pandas

from analysis.document import Document
from analysis.findings import Findings, GroupFindings
from analysis.statistics import estimate


class Section:
    """Write one subject of a report. A subclass overrides the parts that its subject has.

    The report is written in this order: the openings of all sections, for each group of runs its
    part of every section, the closings of all sections, and last the methods.
    """

    def __init__(self, findings: Findings) -> None:
        self.findings = findings

    def write_opening(self, document: Document) -> None:
        """Write what stands before the groups."""

    def write_group(self, document: Document, group: GroupFindings) -> None:
        """Write what is said of one group."""

    def write_closing(self, document: Document) -> None:
        """Write what stands behind the groups."""

    def methods(self) -> Sequence[str]:
        """Return paragraphs on how the numbers of this section were computed."""
        return ()

    def csv_tables(self) -> dict[str, pandas.DataFrame]:
        """Return tables of unrounded numbers, by the names of their CSV files without ending."""
        return {}

    def csv_of_groups(
        self, name: str, table_of: Callable[[GroupFindings], pandas.DataFrame]
    ) -> dict[str, pandas.DataFrame]:
        """Return the groups' tables as one, by its name; nothing where all of them are empty."""
        tables = [(group.title, table_of(group)) for group in self.findings.groups]
        known = [table.assign(group=title) for title, table in tables if len(table)]
        if not known:
            return {}
        table = pandas.concat(known)
        return {name: table[["group", *table.columns.drop("group")]]}


def omission_note(known: Collection[object], shown: Collection[object], csv_name: str) -> str:
    """Return the sentence that has to follow a caption where not every variant is shown."""
    if len(shown) == len(known):
        return ""
    return f" {len(shown)} of {len(known)} settings are shown; `{csv_name}.csv` has all."


def estimate_columns(name: str, values: Sequence[float]) -> dict[str, float]:
    """Return the cells of a row: the mean of the values as `name`, its sd and its interval."""
    found = estimate(values)
    return {
        name: found.mean, f"{name}_sd": found.sd, f"{name}_low": found.low,
        f"{name}_high": found.high,
    }  # fmt: skip
