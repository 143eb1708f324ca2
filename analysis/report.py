"""Write a report: its text out of the sections, and its files."""

import math
import os
from pathlib import Path
from typing import Any

from analysis import drawing
from analysis.document import Document, plain
from analysis.findings import Findings, analyse
from analysis.plan import make_plan
from analysis.run_folders import find_runs
from analysis.section import Section
from analysis.sections import SECTIONS
from analysis.sections.summary import verdict
from analysis.written_files import earlier_files, write_list
from run_folder.folder import RunFolder
from utils import UserError, replacing, writable

FIGURES, TABLES = "figures", "tables"


def report_on(folders: list[Path], output_dir: Path | None, declared: dict[str, Any]) -> None:
    """Write the report of the runs in `folders`, and print its verdicts.

    Args:
        folders: where the runs are.
        output_dir: where the report is written; None for the usual place.
        declared: what the flags declare, which override the sweeps' own declarations.

    Raises:
        UserError: there are no runs, or the report cannot be written.
    """
    runs = find_runs(folders)
    findings = analyse(title_of(folders), runs, make_plan(declared, runs))
    folder = output_dir or default_folder(folders)
    write(findings, folder)
    for group in findings.groups:
        if len(findings.groups) > 1:
            print(f"{group.title}:")
        for each in group.comparisons:
            if math.isfinite(each.difference):
                print(("Primary: " if each.primary else "") + verdict(findings, each))
    for run, reason in findings.grouping.left_out:
        if run.kind != "finished":
            print(f"Left out: {run.path}: {reason}")
    print(f"Report: {folder / 'report.html'}")


def write(findings: Findings, folder: Path) -> None:
    """Write report.md, report.html, the CSV files, figures/ and tables/ into `folder`.

    Files of an earlier report there are removed first.

    Raises:
        UserError: The folder cannot be written.
    """
    sections = [section(findings) for section in SECTIONS]
    document = compose(findings, sections)
    csv_texts = _csv_texts(sections)
    table_texts = {f"{TABLES}/{name}.tex": document.latex(name) for name in document.tables}
    figures = [f"{FIGURES}/{name}.{end}" for name in document.figures for end in drawing.FORMATS]
    texts = {**csv_texts, **table_texts, "report.md": document.markdown()}
    try:
        for name in (FIGURES, TABLES):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for path in earlier_files(folder):
            path.unlink()
        # Before the files: of a report that is cut short the list names all that there are.
        write_list(folder, [*figures, *texts, "report.html"])
        drawing.save(document.figures, folder / FIGURES)
        for name, text in texts.items():
            _write(folder / name, text)
        _write(folder / "report.html", document.html(folder))
    except OSError as error:
        raise UserError(f"{folder}: the report cannot be written ({error.strerror})") from None


def compose(findings: Findings, sections: list[Section]) -> Document:
    """Return the whole text, and what draws its figures."""
    document = Document()
    document.heading(1, findings.title)
    for section in sections:
        section.write_opening(document)
    for group in findings.groups:
        document.heading(2, plain(group.title))
        for section in sections:
            section.write_group(document, group)
    for section in sections:
        section.write_closing(document)
    document.heading(2, "How to read this")
    document.items([text for section in sections for text in section.methods()])
    return document


def _csv_texts(sections: list[Section]) -> dict[str, str]:
    return {
        f"{name}.csv": table.to_csv(index=False, lineterminator="\n")
        for section in sections
        for name, table in section.csv_tables().items()
    }


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(writable(text), encoding="utf-8")


def default_folder(paths: list[Path]) -> Path:
    """Return the report's folder: beside the runs where they are in one, else Output/report."""
    if len(paths) == 1 and not (paths[0] / RunFolder.ARGS).exists():
        return paths[0] / "report"
    return Path("Output") / "report"


def title_of(paths: list[Path]) -> str:
    names = [os.path.basename(os.path.normpath(path.absolute())) for path in paths]
    return f"Report: {', '.join(names)}"
