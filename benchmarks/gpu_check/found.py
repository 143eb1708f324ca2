"""Hold what a part of the check finds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """Hold a promise and what was seen of it.

    Attributes:
        what: the thing that was looked at.
        promised: in words or as a limit.
        seen: what there was.
        kept: it is as promised.
    """

    what: str
    promised: str
    seen: str
    kept: bool

    @classmethod
    def at_most(cls, what: str, limit: float, seen: float, unit: str = "") -> Finding:
        """Return the finding of a number that has an upper limit; NaN is above it."""
        unit = unit and f" {unit}"
        return cls(what, f"at most {limit:.3g}{unit}", f"{seen:.3g}{unit}", seen <= limit)

    @property
    def line(self) -> str:
        """Return it as a line of the result file."""
        verdict = "as promised " if self.kept else "NOT PROMISED"
        return f"{verdict} | {self.what}: {self.seen} (promised: {self.promised})"


@dataclass
class Found:
    """Hold what a part has found.

    Attributes:
        findings: the promises it has looked at.
        rows: what it adds to the table; the keys are the columns.
        remarks: further lines, without a verdict.
    """

    findings: list[Finding] = field(default_factory=list)
    rows: list[dict[str, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Found:
        """Return the Found that `dataclasses.asdict` has made plain values of."""
        findings = [Finding(**finding) for finding in values["findings"]]
        return cls(findings, values["rows"], values["remarks"])

    def add(self, *findings: Finding) -> None:
        self.findings.extend(findings)

    @classmethod
    def joined(cls, founds: Iterable[Found]) -> Found:
        """Return several as one."""
        whole = cls()
        for found in founds:
            whole.findings += found.findings
            whole.rows += found.rows
            whole.remarks += found.remarks
        return whole
