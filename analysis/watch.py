"""Show how all runs below some folders go on: `python report.py --watch FOLDER`.

Everything is read from files, which may be written meanwhile, by other machines too. Nothing is
written, locked or waited for. No torch, numpy, pandas or yaml here: it starts at once.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from experiments import manifest as manifests
from run_folder import lock
from run_folder.folder import RunFolder
from run_folder.metrics import METRICS
from run_folder.records import read_records
from run_folder.result_lines import Record
from run_folder.search import folders_below
from run_folder.status import DIVERGED, FINISHED, Status, status_of
from utils import UserError, printable

REFRESH = 2  # seconds between two looks
SEARCH = 10  # seconds between two looks for further runs
RUNNING, SILENT, WAITING, STOPPED = "running", "silent", "waiting", "stopped"
UNREADABLE, PLANNED = "unreadable", "planned"
# In the order in which they are shown.
STATES = (RUNNING, SILENT, WAITING, STOPPED, UNREADABLE, DIVERGED, FINISHED, PLANNED)
HEADINGS = ("run", "state", "epoch", "step", "loss", "result", "rate", "data", "left", "")
LEFT_ALIGNED = ("run", "state", "result", "")
CLEAR, HOME, TO_END_OF_LINE, TO_END = "\x1b[2J\x1b[H", "\x1b[H", "\x1b[K", "\x1b[J"

T = TypeVar("T")


def watch(folders: list[Path]) -> None:
    """Show a table of the runs in these folders and below, on a terminal until it is interrupted.

    Elsewhere it is printed once.

    Raises:
        UserError: one of them is no folder.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no folder; give run folders, or folders that hold some")
    watcher = Watcher(folders)
    if not sys.stdout.isatty():
        print("\n".join(watcher.lines()))
        return
    print(CLEAR, end="")
    try:
        while True:
            columns, rows = shutil.get_terminal_size()
            lines = [line[: columns - 1] for line in watcher.lines(rows - 1)]
            frame = "".join(f"{line}{TO_END_OF_LINE}\n" for line in lines)
            print(f"{HOME}{frame}{TO_END}", end="", flush=True)
            time.sleep(REFRESH)
    except KeyboardInterrupt:
        print()


@dataclass(frozen=True)
class Row:
    """Hold what is shown of one run."""

    name: str
    state: str
    cells: tuple[str, ...] = ("",) * 7  # from HEADINGS' epoch on
    note: str = ""

    def texts(self) -> tuple[str, ...]:
        return (self.name, self.state, *self.cells, self.note)


@dataclass
class Watcher:
    """Look at the runs again and again.

    Attributes:
        folders: where the runs are.
        known: the runs found by name, with their folders.
        found_at: when they were looked for.
        read: what files held, by path, with size and time of change.
        beats: the lock file of each run as it was seen last, and when it was seen to change.
    """

    folders: list[Path]
    known: dict[str, Path] = field(default_factory=dict)
    found_at: float = -math.inf
    read: dict[tuple[str, Path], tuple[Any, Any]] = field(default_factory=dict)
    beats: dict[Path, tuple[int, float]] = field(default_factory=dict)

    def lines(self, height: float = math.inf) -> list[str]:
        """Return the table of all runs, those first that run; at most `height` lines."""
        if time.monotonic() - self.found_at >= SEARCH:
            self.known, self.found_at = find(self.folders), time.monotonic()
        rows = [self.row(name, folder) for name, folder in self.known.items()]
        rows.sort(key=lambda row: (STATES.index(row.state), row.name))
        counts = Counter(row.state for row in rows)
        counted = [f"{counts[state]} {state}" for state in STATES if counts[state]]
        places = ", ".join(map(str, self.folders))
        heading = f"{time.strftime('%H:%M:%S')}  {places}: {', '.join(counted) or 'no run yet'}"
        if not rows:
            return [printable(heading)]
        shown = rows if len(rows) + 2 <= height else rows[: max(0, int(height) - 3)]
        more = len(rows) - len(shown)
        table = _table([HEADINGS, *(row.texts() for row in shown)])
        return [printable(each) for each in (heading, *table, *([f"and {more} more"] * bool(more)))]

    # --- one run ---

    def row(self, name: str, folder: Path) -> Row:
        """Return what the files of a run tell now; one that cannot be read says so."""
        try:
            return self._row(name, folder)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            return Row(name, UNREADABLE, note=" ".join(str(error).split()))

    def _row(self, name: str, folder: Path) -> Row:
        state, note = self.state(folder)
        if state == PLANNED:
            return Row(name, state)
        records: list[Record] = self._cached(
            "records", folder, lambda: read_records(folder), RunFolder.METRICS, RunFolder.RESULTS
        ) or []  # fmt: skip
        last = records[-1] if records else {}
        live = {} if state in (FINISHED, DIVERGED) else progress_of(folder)
        if live.get("total_step", 0) < last.get("step", 0):
            live = {}  # written before a result that came since, or of an earlier attempt
        text = self._cached("args", folder, lambda: _text(folder / RunFolder.ARGS), RunFolder.ARGS)
        return Row(name, state, cells_of(state, live, last, text or ""), note)

    def state(self, folder: Path) -> tuple[str, str]:
        """Return the state of a run, and a note on it."""
        status: Status = self._cached(
            "status", folder, lambda: status_of(folder), RunFolder.RESULTS
        ) or Status("")  # fmt: skip
        if status.kind in (FINISHED, DIVERGED):
            return status.kind, status.reason
        try:
            return self._by_lock(folder, lock.look(folder / lock.FILE))
        except FileNotFoundError:
            if (folder / RunFolder.MARKER).exists():
                return WAITING, "was asked to stop, goes on with --resume"
            if not (folder / RunFolder.ARGS).exists():
                return PLANNED, ""
            return STOPPED, "goes on with --resume"

    def _by_lock(self, folder: Path, seen: lock.Seen) -> tuple[str, str]:
        """Return the state of a run whose lock file exists: its process may be dead.

        The lock is not tried, since a process that starts would find it taken.
        """
        holder, now = seen.holder(), time.monotonic()
        before, moved_at = self.beats.get(folder, (seen.changed, -math.inf))
        if before != seen.changed:
            moved_at = now
        self.beats[folder] = seen.changed, moved_at
        if holder.get("host") == socket.gethostname() and not _exists(holder["pid"]):
            return STOPPED, f"its process was killed ({seen}); goes on with --resume"
        age = time.time() - seen.changed / 1e9  # another machine's clock may be another one
        if abs(age) < lock.STALE or now - moved_at < lock.STALE:
            return RUNNING, ""
        who = f" ({seen})" if holder else ""
        return SILENT, f"no sign of life for {duration(age)}{who}"

    def _cached(self, what: str, folder: Path, read: Callable[[], T], *names: str) -> T | None:
        """Return what `read` does, once for each state of these files; None where there is none."""
        stamps = [_stamp(folder / name) for name in names]
        if not any(stamps):
            return None
        known = self.read.get((what, folder))
        if known is None or known[0] != stamps:
            known = self.read[what, folder] = stamps, read()
        return known[1]


def find(folders: list[Path]) -> dict[str, Path]:
    """Return the folders of all runs there and below by name, planned ones of sweeps too."""
    found: dict[str, Path] = {}
    for top in folders:
        for folder in folders_below(top):
            runs = []
            try:
                manifest = manifests.load(folder)
            except UserError:
                manifest = None  # a report says what is wrong with it
            if manifest is not None:
                runs = [manifest.path(run) for run in manifest.runs]
            elif (folder / RunFolder.ARGS).exists() or (folder / lock.FILE).exists():
                runs = [folder]
            for run in runs:
                is_whole_path = len(folders) > 1 or run == top
                found[str(run if is_whole_path else run.relative_to(top))] = run
    return found


def progress_of(folder: Path) -> dict[str, Any]:
    """Return what progress.json holds; nothing where there is none that can be read."""
    try:
        content = json.loads(_text(folder / RunFolder.PROGRESS))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


# --- cells ---


def cells_of(state: str, live: dict[str, Any], last: Record, args: str) -> tuple[str, ...]:
    """Return a run's cells, from epoch to the time that is left.

    Args:
        state: of the run.
        live: the content of progress.json.
        last: the last evaluation.
        args: the text of args.txt.
    """
    planned = re.search(r"^num_epochs: *(\d+) *$", args, re.MULTILINE)
    epochs = live.get("epochs") or (int(planned[1]) if planned else None)
    epoch = _of(live.get("epoch", last.get("epoch")), epochs)
    step = _of(live["step"], live["steps"]) if live else ""
    if live.get("phase") == "evaluation" and state == RUNNING:
        step = "evaluates"
    loss = live.get("loss")
    if loss is None:
        loss = last.get("train", {}).get("loss")
    is_running = state == RUNNING
    share = live.get("data_share") if is_running else None
    return (
        epoch,
        step,
        "" if loss is None else f"{loss:.4f}",
        result_of(last),
        rate_of(live if is_running else {}, last),
        "" if share is None else f"{100 * share:.0f} %",
        time_left(live, last) if is_running else "",
    )


def result_of(record: Record) -> str:
    """Return the metric of an evaluation that counts: "test top1 91.25"."""
    for split in ("test", "val", "train"):
        for name, metric in METRICS.items():
            if name in record.get(split, {}):
                return f"{split} {name} {metric.number(record[split][name])}"
    return ""


def rate_of(live: dict[str, Any], last: Record) -> str:
    """Return the samples per second: of the last seconds, else of the last epoch."""
    for content in (live, last):
        for name, value in content.items():
            if name.endswith("_per_second") and name != "steps_per_second" and value:
                return f"{value:,.0f} {name.removesuffix('_per_second')}/s"
    steps = live.get("steps_per_second")
    return f"{steps:.3g} steps/s" if steps else ""


def time_left(live: dict[str, Any], last: Record) -> str:
    """Return how long a run will train and evaluate, at the rate of the last seconds."""
    steps = live.get("steps_per_second") or _steps_per_second(live, last)
    if not steps:
        return ""
    remaining = live["total_steps"] - live["total_step"]
    evaluations = math.ceil(remaining / live["steps"])
    return duration(remaining / steps + evaluations * _evaluation_seconds(last))


def _steps_per_second(live: dict[str, Any], last: Record) -> float | None:
    trained = last.get("seconds", 0.0) - _evaluation_seconds(last)
    return live["steps"] / trained if live and trained > 0 and "partial" not in last else None


def _evaluation_seconds(record: Record) -> float:
    """Return the part of an epoch's seconds in which nothing was trained."""
    rates = [value for name, value in record.items() if name.endswith("_per_second") and value]
    count = record.get("train", {}).get("count")
    return max(0.0, record["seconds"] - count / rates[0]) if rates and count else 0.0


def duration(seconds: float) -> str:
    """Return a time as 40 s, 12 min, 3 h 05 min or 2 d 4 h."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60:02} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _of(done: int | None, total: int | None) -> str:
    return "" if done is None else f"{done}/{total}" if total else str(done)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Return rows of texts as lines with columns; empty columns are left out."""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(
            text.ljust(width) if column[0] in LEFT_ALIGNED else text.rjust(width)
            for text, width, column in zip(line, widths, columns, strict=True)
        )
        for line in zip(*columns, strict=True)
    ]
    return [line.rstrip() for line in lines]


# --- files and processes ---


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return size and time of change of a file; None where there is none."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns


def _exists(pid: int) -> bool:
    """Return whether a process of this machine has that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is somebody else's
        return True
    return True
