"""What has become of a run, as its folder tells."""

from dataclasses import dataclass
from pathlib import Path

from run_folder.folder import RunFolder

NEW, INTERRUPTED, FINISHED, DIVERGED = "new", "interrupted", "finished", "diverged"
ENDED = (FINISHED, DIVERGED)  # to start them again would give the same


@dataclass(frozen=True)
class Status:
    kind: str
    reason: str = ""  # how it diverged


def status_of(folder: Path) -> Status:
    """By the last line of the results, which a run writes when it ends."""
    path = folder / RunFolder.RESULTS
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    last = lines[-1] if lines else ""
    if last.startswith("[Summary]"):
        return Status(FINISHED)
    if last.startswith("[Diverged]"):
        return Status(DIVERGED, last.removeprefix("[Diverged] "))
    started = lines or (folder / RunFolder.CHECKPOINT).exists()
    return Status(INTERRUPTED if started else NEW)
