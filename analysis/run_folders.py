"""Run folders, this project's and those of other code: arguments, records, what became of them."""

import hashlib
import math
import os
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from analysis.arguments import read_arguments
from experiments import manifest as manifests
from run_folder.folder import RunFolder
from run_folder.records import SPLITS, best_on_validation, read_records
from run_folder.status import DIVERGED, FINISHED, INTERRUPTED, status_of
from utils import UserError

MISSING, UNREADABLE = "missing", "unreadable"


@dataclass(frozen=True)
class RunResult:
    """One run. `flags` are its arguments, `resolved` what they came to, `environment` the machine,
    the last two empty for other code's runs; `manifest` and `entry` tell what it is in a sweep."""

    path: Path
    kind: str  # finished, diverged, interrupted, unreadable, missing
    reason: str = ""
    flags: dict = field(default_factory=dict)
    resolved: dict = field(default_factory=dict)
    environment: dict = field(default_factory=dict)
    records: list[dict] = field(default_factory=list)
    manifest: manifests.Manifest | None = None
    entry: manifests.Run | None = None

    @property
    def role(self) -> str:
        return self.entry.role if self.entry else manifests.GRID

    @property
    def is_ours(self) -> bool:
        return bool(self.environment)

    @property
    def final(self) -> dict:
        return self.records[-1]

    @property
    def judged(self) -> dict:
        """The final metrics that the run is judged by."""
        return self.final[split_of(self)]

    @cached_property
    def best(self) -> dict | None:
        """The record with the best validation score."""
        return best_on_validation(self.records)

    def digest(self) -> str:
        """SHA-256 of the results file, to know it again."""
        path = self.path / RunFolder.RESULTS
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def split_of(run: RunResult) -> str:
    """The split that a run is judged on: test, or where other code has none, what it has."""
    return next(split for split in ("test", "val", "train") if split in run.final)


def find_runs(paths: list[Path]) -> list[RunResult]:
    """All runs in these folders and below; of a sweep also those that its manifest alone has.

    Raises:
        UserError: a path is no folder, or there is no run at all.
    """
    # By where they are, so that a folder with two names counts once.
    found: dict[Path, RunResult] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path}: no folder; give run folders, or folders that hold some")
        folders = _folders_below(path)
        # A run, or a part of a sweep, can be given alone.
        for folder in (*folders, *path.resolve().parents):
            found |= {k: run for k, run in _runs_of_sweep(folder, path).items() if k not in found}
        for folder in folders:
            place = folder.parent.resolve() / folder.name
            if (folder / RunFolder.ARGS).exists() and not {place, folder.resolve()} & set(found):
                found[folder.resolve()] = read_run(folder)
    if not found:
        raise UserError(
            f"{', '.join(map(str, paths))}: no run there: a run folder holds {RunFolder.ARGS} and "
            f"{RunFolder.RESULTS}"
        )
    return list(found.values())


def _folders_below(path: Path) -> list[Path]:
    """`path` and all folders in it, through links too."""
    found, seen = [], set()
    for folder, names, _ in os.walk(path, followlinks=True):
        names.sort()
        found.append(Path(folder))
        # A link to a folder above would lead around for ever.
        names[:] = [name for name in names if os.path.realpath(Path(folder, name)) not in seen]
        seen.update(os.path.realpath(Path(folder, name)) for name in names)
    return found


def _runs_of_sweep(folder: Path, within: Path) -> dict[Path, RunResult]:
    """Those of the sweep in `folder`, if there is one, that lie in `within`."""
    try:
        manifest = manifests.load(folder)
    except UserError as error:
        print(f"Note: {error}; it is ignored", file=sys.stderr)
        return {}
    if manifest is None:
        return {}
    runs = {folder.resolve() / run.name: run for run in manifest.runs}
    return {
        place: read_run(manifest.path(run), manifest, run)
        for place, run in runs.items()
        if place.is_relative_to(within.resolve()) or within.resolve() == place.resolve()
    }


def read_run(
    path: Path,
    manifest: manifests.Manifest | None = None,
    entry: manifests.Run | None = None,
) -> RunResult:
    """What the folder of a run tells. Nothing in it is an error: a run that cannot be read is
    reported as such."""
    where = {"path": path, "manifest": manifest, "entry": entry}
    if not (path / RunFolder.ARGS).exists():
        return RunResult(kind=MISSING, reason="it has not been run", **where)
    try:
        flags, resolved, environment = read_arguments(path / RunFolder.ARGS)
        records = read_records(path)
        _check_flags(flags)
        kind, reason = _outcome(path, flags, records, ours=bool(environment))
    except (OSError, ValueError, TypeError) as error:
        return RunResult(kind=UNREADABLE, reason=" ".join(str(error).split()), **where)
    return RunResult(
        kind=kind, reason=reason, flags=flags, resolved=resolved, environment=environment,
        records=records, **where,
    )  # fmt: skip


# What everything that follows counts on.
NUMBERS = ("sigma", "rescale_init", "num_epochs", "batch_size", "seed")


def _check_flags(flags: dict) -> None:
    """Refuse values that cannot be those of a run.

    Raises:
        ValueError: with the argument.
    """
    for name in NUMBERS:
        value = flags.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ValueError(f"its {name} is {value!r}, not a number")


def _outcome(path: Path, flags: dict, records: list[dict], ours: bool) -> tuple[str, str]:
    status = status_of(path)
    if status.kind == DIVERGED:
        return DIVERGED, status.reason
    if not records:
        return INTERRUPTED, "it has no results yet"
    last, planned = records[-1].get("epoch", 0), flags.get("num_epochs")
    if ours:
        whole = status.kind == FINISHED
    else:
        done = last + (records[0].get("epoch") == 0)  # some count from 0
        whole = not planned or done >= planned
    if not whole:
        return INTERRUPTED, f"it has come to epoch {last} of {planned}"
    missing = set(_metrics(records[0])) - set(_metrics(records[-1]))
    if not ours and missing:
        return INTERRUPTED, f"its last line lacks the {' '.join(min(missing))}"
    # Other code logs a NaN and goes on; such a number is none.
    if not ours and not all(map(math.isfinite, _metrics(records[-1]).values())):
        return DIVERGED, "its last results are not numbers"
    return FINISHED, ""


def _metrics(record: dict) -> dict[tuple[str, str], float]:
    """By split and name."""
    return {
        (split, name): value for split in SPLITS for name, value in record.get(split, {}).items()
    }
