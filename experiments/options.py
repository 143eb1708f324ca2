"""Hold the command line of sweep.py."""

from dataclasses import dataclass
from pathlib import Path

from utils import UserError


@dataclass(frozen=True)
class Options:
    """Hold the command line; sweep.py explains the flags."""

    grid: Path
    jobs: int | None
    output_dir: Path | None
    extend: bool
    until_decided: bool
    max_seeds: int | None
    list: bool
    dry_run: bool
    count: str | None
    index: int | None
    folder: bool

    @property
    def only_looks(self) -> bool:
        """Return whether less is asked for than to run everything."""
        return bool(self.list or self.dry_run or self.count or self.index)

    @property
    def runs_nothing(self) -> bool:
        """Return whether no run is to be made."""
        return bool(self.list or self.dry_run or self.count or self.folder)

    def check(self) -> None:
        """Refuse flags that contradict each other.

        Raises:
            UserError: with the remedy.
        """
        if self.folder and self.index is None:
            raise UserError("--folder is of one run; give its --index")
        if self.extend and (self.list or self.dry_run):
            raise UserError(
                "--extend changes the sweep, and the other flag only looks; leave out one"
            )
        if self.max_seeds is not None and not self.until_decided:
            raise UserError("--max_seeds is the most that --until_decided adds; give both")
