"""Tell from its folder how far a run has come."""

from dataclasses import dataclass
from pathlib import Path

from run_folder import result_lines
from run_folder.folder import RunFolder

NEW, INTERRUPTED, FINISHED, DIVERGED = "new", "interrupted", "finished", "diverged"
ENDED = (FINISHED, DIVERGED)  # starting them again would give the same


@dataclass(frozen=True)
class Status:
    """Say what has become of a run, and if it diverged, how."""

    kind: str
    reason: str = ""


def status_of(folder: Path) -> Status:
    """Return the status by the last line of the results, which a run writes when it ends."""
    path = folder / RunFolder.RESULTS
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    last = lines[-1] if lines else ""
    if last.startswith(result_lines.SUMMARY):
        return Status(FINISHED)
    if last.startswith(result_lines.DIVERGED):
        return Status(DIVERGED, last.removeprefix(result_lines.DIVERGED).strip())
    started = lines or (folder / RunFolder.CHECKPOINT).exists()
    return Status(INTERRUPTED if started else NEW)
