"""Keep the list of the files that a report wrote, by which the next report removes them."""

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

LIST = "report_files.txt"
HEADER = "# The files of this report. Writing the report again removes them, and no other file."

# Reports did not always leave a list. These are the names that they had before, apart from those
# that every report writes again.
NAMES_WITHOUT_LIST = re.compile(
    r"figures/((curves|differences|scan|time|classes|reliability|std|tail_ratio|flat_share|"
    r"gradient_norm|dead_share|sigma)-\d+|functions)\.(png|svg|pdf)"
    r"|tables/((settings|comparisons|divergence|calibration|bands|classes|images|mcnemar|blocks|"
    r"layers)-\d+|differences|tuning)\.tex"
    r"|(tuning|divergence|calibration|bands|classes|reliability|mcnemar|blocks|layers)\.csv"
)


def write_list(folder: Path, names: Iterable[str]) -> None:
    """Write the list of a report's files, whose names are relative to `folder`."""
    text = "".join(f"{line}\n" for line in (HEADER, *sorted(names)))
    (folder / LIST).write_text(text, encoding="utf-8")


def earlier_files(folder: Path) -> list[Path]:
    """Return the files that are there of an earlier report in `folder`.

    They are the ones that its list names. Without a list they are those with a name that reports
    had before there were lists, and only beside a report.md and a report.html of ours.
    """
    names = _listed(folder)
    if names is None:
        names = _known_by_name(folder) if _holds_a_report(folder) else []
    return [folder / name for name in names if (folder / name).is_file()]


def _listed(folder: Path) -> list[str] | None:
    """Return the names in the list, without any that leads out of the folder; None without one."""
    path = folder / LIST
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    if not lines or lines[0] != HEADER:
        return None
    return [line for line in lines[1:] if line and not _leads_out(PurePosixPath(line))]


def _leads_out(path: PurePosixPath) -> bool:
    return path.is_absolute() or ".." in path.parts


def _holds_a_report(folder: Path) -> bool:
    text = folder / "report.md"
    if not (text.is_file() and (folder / "report.html").is_file()):
        return False
    return text.read_text(encoding="utf-8", errors="replace").startswith("# Report: ")


def _known_by_name(folder: Path) -> list[str]:
    paths = [path for pattern in ("*", "figures/*", "tables/*") for path in folder.glob(pattern)]
    names = [path.relative_to(folder).as_posix() for path in paths]
    return [name for name in names if NAMES_WITHOUT_LIST.fullmatch(name)]
