"""Write what was found as one text file, and read from it which parts are done.

The file is written anew after each part. It begins with the machine; each part is a section; the
end counts the verdicts, names what is left, and repeats the rows of all parts as one table.
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks import tables
from benchmarks.gpu_check.found import Found
from utils import UserError, replacing

TITLE = "# ZiLU on a GPU: what was promised, and what was seen"
SUMMARY = "Summary"


class ResultFile:
    """Hold the sections of the file, in order.

    Args:
        path: of the file; it may be there from a check that was interrupted.
        machine: a line about hardware and versions.

    Raises:
        UserError: the file is of another machine, or no result of this check.
    """

    def __init__(self, path: Path, machine: str):
        self.path, self.machine = path, machine
        self.sections: dict[str, str] = {}
        if path.exists():
            self.sections = self._read(path.read_text(encoding="utf-8"))

    def _read(self, text: str) -> dict[str, str]:
        head, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
        if not head.startswith(TITLE):
            raise UserError(f"--output {self.path}: that file is no result of this check")
        if self.machine not in head:
            raise UserError(
                f"--output {self.path}: that result is of another machine or version; "
                "move it, or name another file"
            )
        parts = (section.split("\n", 1) for section in sections)
        return {name: content.strip("\n") for name, content in parts if name != SUMMARY}

    def has(self, part: str) -> bool:
        """Return whether a part is done."""
        return part in self.sections

    def add(self, part: str, found: Found, seconds: float) -> str:
        """Add the section of a part, without writing the file; return its text."""
        lines = [finding.line for finding in found.findings] + found.remarks
        if found.rows:
            lines += ["", tables.markdown(found.rows), ""]
        self.sections[part] = "\n".join([*lines, f"({seconds:.0f} s)"])
        return self.sections[part]

    def write(self, parts: list[str]) -> str:
        """Write the file; return its summary.

        Args:
            parts: the names of all, done or not.
        """
        done = [f"## {name}\n\n{self.sections[name]}\n" for name in parts if self.has(name)]
        summary = self.summary([name for name in parts if not self.has(name)])
        text = "\n".join([TITLE, "", self.machine, "", *done, f"## {SUMMARY}", "", summary, ""])
        with replacing(self.path) as path:
            path.write_text(text, encoding="utf-8")
        return summary

    def summary(self, left: list[str]) -> str:
        """Return the count of verdicts, those that are not as promised, and the table."""
        lines = [line for text in self.sections.values() for line in text.splitlines()]
        kept = sum(line.startswith("as promised ") for line in lines)
        broken = [line for line in lines if line.startswith("NOT PROMISED")]
        rows = list(dict.fromkeys(line for line in lines if line.startswith("| ")))
        text = [f"{kept} as promised, {len(broken)} not.", *broken]
        if left:
            text.append(f"Not done yet: {', '.join(left)}. The same command goes on with them.")
        return "\n".join([*text, "", *rows]).rstrip("\n")
