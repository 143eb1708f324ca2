"""Hold the command line of battery.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils import UserError


@dataclass(frozen=True)
class Options:
    """Hold the command line; battery.py explains the flags.

    Attributes:
        candidate: those of ACTIVATION_FLAGS that were given, by name; empty without --activation.
        budget: seconds.
    """

    candidate: dict[str, Any]
    gain: bool
    size: str
    tasks: tuple[str, ...] | None
    data_path: str | None
    max_seeds: int
    budget: float | None
    jobs: int | None
    output_dir: Path
    records: Path
    list: bool
    dry_run: bool
    table: bool
    index: int | None
    folder: bool

    def check(self) -> None:
        """Refuse flags that contradict each other.

        Raises:
            UserError: with the remedy.
        """
        if not self.candidate and not self.table:
            raise UserError("--activation is missing: which one is to be tried? (--help)")
        if self.candidate and self.table:
            raise UserError("--table is of all activations; leave out --activation")
        if self.folder and self.index is None:
            raise UserError("--folder is of one task; give its --index")
