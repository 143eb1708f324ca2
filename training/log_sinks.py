"""Send what a run records to the tools that people look at: TensorBoard, Weights & Biases, CSV.

A sink is given the records of metrics.jsonl and stats.jsonl in the order of the run: at the start
those that the files hold, then each one as it is written there. What an interrupted run recorded
after its last checkpoint has been cut off by then. So no point comes twice and none is missing,
however often a run is killed.

The packages are imported by name, when they are asked for. A sink that fails is reported once and
left out; the run goes on.
"""

import csv
import heapq
import importlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from cli.errors import DIVERGED
from run_folder import status
from run_folder.folder import RunFolder
from run_folder.result_lines import Record
from utils import replacing, warn

# What a record of stats.jsonl has numbers of for each path, and how these are called.
STATS_NAMES = {"sites": "{}", "channels": "{}_channels"}
# How long Weights & Biases may keep a run waiting, in seconds; their defaults are 90, for ever and
# until somebody types a key. What is not sent by the end lies on the disk, for `wandb sync`.
WAITS = {"WANDB_INIT_TIMEOUT": "30", "WANDB_FINISH_TIMEOUT": "30", "WANDB_LOGIN_TIMEOUT": "30"}


class Sink(Protocol):
    """Say what `following` asks of a sink."""

    def start(self, arguments: dict[str, Any], records: list[Record]) -> None:
        """Begin with args.txt and with what has been recorded so far."""

    def add(self, record: Record) -> None:
        """Take the next record."""

    def close(self, exit_code: int) -> None:
        """End the run."""


# --- records ---


def flat(record: Record) -> dict[str, Any]:
    """Return the values of a record by name, the keys joined by slashes.

    Names are `train/loss`, `val/top1`, `lr`, `sigma/layer1.0.act1`; of --stats `stats/std/PATH` and
    `stats/dead_channels/PATH`.
    """
    found = {}
    for key, value in record.items():
        if key in STATS_NAMES:
            for path, numbers in value.items():
                for name, number in numbers.items():
                    found[f"stats/{STATS_NAMES[key].format(name)}/{path}"] = number
        elif isinstance(value, dict):
            found |= {f"{key}/{name}": inner for name, inner in flat(value).items()}
        else:
            found[key] = value
    return found


def is_stats(record: Record) -> bool:
    """Return whether a record is one of stats.jsonl."""
    return not STATS_NAMES.keys().isdisjoint(record)


def recorded(folder: Path) -> list[Record]:
    """Return the records of a run folder's metrics.jsonl and stats.jsonl, in the run's order.

    An evaluation comes before the statistics of its step: those of its own channels, and those of
    the sites before the next step.
    """
    files = (folder / name for name in (RunFolder.METRICS, RunFolder.STATS))
    return list(heapq.merge(*map(_lines, files), key=lambda record: record.get("step", 2**62)))


def _lines(path: Path) -> Iterator[Record]:
    if path.exists():
        with open(path, encoding="utf-8") as file:
            yield from map(json.loads, file)


# --- sinks ---


class TensorBoard:
    """Write event files into the folder `tensorboard/`.

    They are written anew at each start. TensorBoard could hide what an interrupted run wrote last,
    but only from a step on, and its checkpoint may lie between two records of one step.
    """

    def __init__(self, folder: Path):
        self.folder, self.arguments_file = folder / RunFolder.TENSORBOARD, folder / RunFolder.ARGS
        self.step = 0
        self.is_listed = False

    def start(self, arguments: dict[str, Any], records: list[Record]) -> None:
        torch_side = importlib.import_module("torch.utils.tensorboard")
        self.summaries = importlib.import_module("torch.utils.tensorboard.summary")
        shutil.rmtree(self.folder, ignore_errors=True)
        # A TensorBoard that is open meanwhile drops what it has read of the old files.
        self.writer = torch_side.SummaryWriter(str(self.folder), purge_step=0)
        self.arguments = arguments
        text = self.arguments_file.read_text(encoding="utf-8")
        self.writer.add_text("args.txt", f"```\n{text}\n```", 0)
        for record in records:
            self._write(record)
        self.writer.flush()

    def add(self, record: Record) -> None:
        self._write(record)
        self.writer.flush()

    def close(self, exit_code: int) -> None:
        self.writer.close()

    def _write(self, record: Record) -> None:
        values = flat(record)
        self.step = values.pop("step", self.step)
        numbers = {name: value for name, value in values.items() if is_number(value)}
        if not self.is_listed and not is_stats(record):
            self._list_run(numbers)
        for name, number in numbers.items():
            self.writer.add_scalar(name, number, self.step)
        for name, text in values.items():
            if isinstance(text, str):
                self.writer.add_text(name, text, self.step)

    def _list_run(self, numbers: dict[str, float]) -> None:
        """List the run in the tab HPARAMS: its flags, and the metrics of an evaluation."""
        self.is_listed = True
        plain = (bool, str, int, float)
        flags = {name: value for name, value in self.arguments.items() if isinstance(value, plain)}
        metrics = {n: value for n, value in numbers.items() if n.startswith(("val/", "test/"))}
        for summary in self.summaries.hparams(flags, metrics):
            self.writer.file_writer.add_summary(summary)


class WeightsAndBiases:
    """Send one row of history for each record to Weights & Biases.

    Rows are numbered by their place in the run, and a run that goes on begins with the first one
    that the server lacks. Offline, where nothing can be asked, it begins with the first of all, and
    takes the place of what lies there.

    The variables of wandb count: WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY, WANDB_NAME, WANDB_DIR...
    """

    def __init__(self, folder: Path):
        self.folder, self.rows = folder, 0

    def start(self, arguments: dict[str, Any], records: list[Record]) -> None:
        wandb = importlib.import_module("wandb")
        for name, seconds in WAITS.items():
            os.environ.setdefault(name, seconds)
        self.run = self._begun(wandb, arguments)
        self.run.define_metric("*", step_metric="step")  # the axis is the training's step
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        if self.rows >= self.run.step:
            values = flat(record).items()
            self.run.log({k: v for k, v in values if v is not None}, step=self.rows)
        self.rows += 1

    def close(self, exit_code: int) -> None:
        self.run.finish(exit_code=exit_code)

    def _begun(self, wandb: Any, arguments: dict[str, Any]) -> Any:
        """Return the run; offline where it cannot begin otherwise, as without a key or network."""
        name = self._run_id()
        where = Path(os.environ.get("WANDB_DIR") or self.folder)
        for old in (where / "wandb").glob(f"offline-run-*-{name}"):
            shutil.rmtree(old, ignore_errors=True)
        options = {
            "id": name,
            "dir": str(where),
            "name": os.environ.get("WANDB_NAME") or self.folder.name,
            "config": arguments,
        }
        mode = os.environ.get("WANDB_MODE") or "online"
        if mode == "online":
            try:
                return wandb.init(**options, resume="allow")
            except Exception as error:
                warn(
                    f"--log wandb: {first_line(error)}; the run is logged offline, in "
                    f"{where / 'wandb'}, and `wandb sync` sends it later"
                )
                mode = "offline"
                wandb.teardown()  # it holds the id of the run that did not begin
        return wandb.init(**options, mode=mode)

    def _run_id(self) -> str:
        """Return the id of the run, which it keeps when it goes on."""
        path = self.folder / RunFolder.WANDB
        if path.exists():
            return path.read_text(encoding="utf-8").strip()
        name = os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:8]
        with replacing(path) as temporary:
            temporary.write_text(f"{name}\n", encoding="utf-8")
        return name


class Csv:
    """Write metrics.csv, a row for each evaluation, and stats.csv, a row for each number.

    Both are written anew at each start, and metrics.csv where a record has a new column.
    """

    STATS_COLUMNS = ("step", "epoch", "name", "value")

    def __init__(self, folder: Path):
        self.metrics, self.stats = folder / RunFolder.METRICS_CSV, folder / RunFolder.STATS_CSV
        self.columns: list[str] = []

    def start(self, arguments: dict[str, Any], records: list[Record]) -> None:
        self._write_metrics([flat(record) for record in records if not is_stats(record)])
        self.stats.unlink(missing_ok=True)
        self._append_stats(record for record in records if is_stats(record))

    def add(self, record: Record) -> None:
        if is_stats(record):
            self._append_stats([record])
            return
        row = flat(record)
        if {*row} <= {*self.columns}:
            _append_rows(self.metrics, [[row.get(name) for name in self.columns]])
            return
        rows: list[dict[str, Any]] = []
        if self.columns:
            with open(self.metrics, encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        self._write_metrics([*rows, row])

    def close(self, exit_code: int) -> None:
        """Leave the files, which are whole after each record."""

    def _write_metrics(self, rows: list[dict[str, Any]]) -> None:
        self.columns = list(dict.fromkeys(name for row in rows for name in row))
        if not rows:
            self.metrics.unlink(missing_ok=True)
            return
        with replacing(self.metrics) as temporary:
            lines = [[row.get(name) for name in self.columns] for row in rows]
            _append_rows(temporary, [self.columns, *lines])

    def _append_stats(self, records: Iterable[Record]) -> None:
        rows: list[Any] = []
        for record in records:
            values = flat(record)
            step, epoch = values.pop("step"), values.pop("epoch")
            rows += [[step, epoch, name, value] for name, value in values.items()]
        if rows:
            is_new = not self.stats.exists()
            _append_rows(self.stats, [self.STATS_COLUMNS, *rows] if is_new else rows)


def _append_rows(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    with open(path, "a", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def first_line(error: Exception) -> str:
    """Return what an error says, on one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


SINKS: dict[str, Callable[[Path], Sink]] = {
    "tensorboard": TensorBoard, "wandb": WeightsAndBiases, "csv": Csv,
}  # fmt: skip


# --- all of them ---


@contextmanager
def following(folder: RunFolder, names: Iterable[str]) -> Iterator[None]:
    """Give the sinks of these names what is recorded in the block, and what was before.

    Only the main process, which writes the folder, has sinks.

    Args:
        folder: the run's, with args.txt, and with its records at the last checkpoint.
        names: among SINKS.
    """
    sinks = {name: SINKS[name](folder.path) for name in names} if folder.writes else {}

    def tell(what: Callable[[Sink], None]) -> None:
        for name, sink in list(sinks.items()):
            try:
                what(sink)
            except Exception as error:
                del sinks[name]
                warn(f"--log {name}: {first_line(error)}; it gets no more, and the run goes on")

    if sinks:
        arguments, records = folder.arguments(), recorded(folder.path)
        tell(lambda sink: sink.start(arguments, records))
        folder.follow = lambda line: tell(lambda sink: sink.add(json.loads(line)))
    try:
        yield
    finally:
        kind = status.status_of(folder.path).kind
        code = {status.FINISHED: 0, status.DIVERGED: DIVERGED}.get(kind, 1)
        tell(lambda sink: sink.close(code))
