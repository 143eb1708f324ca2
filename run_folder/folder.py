"""Name and write the files of one run."""

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from run_folder.lock import FolderLock
from utils import UserError, replacing, torchrun_id, writable

JOB_MARKER = "ZILU_CONTINUE"  # the environment variable that names a job's own file

# In args.txt an item of `resumed:` has num_epochs_before where the run was made longer then.
BEFORE = "_before"


class RunFolder:
    """Write args.txt, model.txt, results, metrics and checkpoint of one run.

    args.txt holds every flag as YAML, train_eval_results.txt a line for each epoch, appended as it
    happens, and metrics.jsonl the same for machines; predictions.npz comes at the end, stats.jsonl
    with --stats, lm_eval.json of evaluate_lm.py, pictures/ and fit.png of inr_main.py, and what
    --log asks for beside them. progress.json tells others how far an epoch has come.
    activation_source.txt and activation.json are of a user's own activation, and never run.
    CONTINUE exists after a run was interrupted that wants to go on.

    Nothing but the lock is written before the folder is claimed.

    Args:
        path: the folder.
        writes: off in all processes of a run but the main one, where nothing is read or written.
    """

    ARGS, MODEL, RESULTS = "args.txt", "model.txt", "train_eval_results.txt"
    METRICS, CHECKPOINT, TEST = "metrics.jsonl", "checkpoint.pt", "test_results.txt"
    STATS, PREDICTIONS, TENSORBOARD = "stats.jsonl", "predictions.npz", "tensorboard"
    METRICS_CSV, STATS_CSV = "metrics.csv", "stats.csv"
    WANDB = "wandb_id.txt"
    EVALUATIONS = "lm_eval.json"
    MARKER, PROGRESS = "CONTINUE", "progress.json"
    SHARDS = "shards"
    PICTURES, FIT = "pictures", "fit.png"
    SOURCE, ACTIVATION = "activation_source.txt", "activation.json"  # of a user's own

    def __init__(self, path: str | Path, writes: bool = True):
        self.path, self.writes = Path(path), writes
        self.claimed = False
        self.follow: Callable[[str], None] = lambda line: None  # gets each record that is written

    @property
    def checkpoint(self) -> Path:
        return self.path / self.CHECKPOINT

    def _has(self, name: str) -> bool:
        return (self.path / name).exists()

    # --- whose it is ---

    def locked(self) -> AbstractContextManager[Any]:
        """Return a context in which no other process can write here.

        Raises:
            UserError: another process does already, or the folder cannot be written.
        """
        return FolderLock(self.path) if self.writes else nullcontext()

    def check_free(self, overwrite: bool) -> None:
        """Refuse a folder that holds a run already, unless it is to be overwritten.

        Raises:
            UserError: with the remedy.
        """
        held = self._held()
        if self.writes and held and not overwrite:
            raise UserError(
                f"{self.path} holds a run already ({', '.join(held)}); give --resume to go on "
                "with it, --overwrite to replace it, or choose another --output_dir"
            )

    def _held(self) -> list[str]:
        names = (self.ARGS, self.RESULTS, self.METRICS, self.CHECKPOINT)
        return [name for name in names if self._has(name)]

    def claim(self, resume: bool) -> None:
        """Make the folder this run's, if it holds no other. The lock must be held.

        Args:
            resume: the run in it is this one.
        """
        self.claimed = self.writes and (resume or not self._held())

    def check_unstarted(self) -> None:
        """Refuse to start from the beginning where there are results whose checkpoint is gone.

        Raises:
            UserError: with the remedy.
        """
        if self.writes and self._size(self.RESULTS):
            raise UserError(
                f"{self.path} holds results, but no {self.CHECKPOINT} to go on from; choose "
                "another --output_dir, or give --overwrite instead of --resume"
            )

    def mark_unfinished(self) -> bool:
        """Leave the marker, if the folder is this run's, and return whether it is.

        The marker names the torchrun that was stopped. The lock must be held: only then is it this
        process that decides whether the run wants to go on.
        """
        if self.claimed:
            (self.path / self.MARKER).write_text(str(torchrun_id()), encoding="utf-8")
            tell_job_script()
        return self.claimed

    def is_marked_by_us(self) -> bool:
        """Return whether this torchrun has left the marker."""
        marker = self.path / self.MARKER
        return marker.exists() and marker.read_text(encoding="utf-8") == str(torchrun_id())

    # --- from start to end ---

    def clear(self) -> None:
        """Remove what an old run left."""
        if not self.writes:
            return
        # In this order: results without a checkpoint are a run that nobody goes on with.
        names = [self.CHECKPOINT, self.METRICS, self.STATS, self.PREDICTIONS, self.TEST]
        names += [self.METRICS_CSV, self.STATS_CSV, self.WANDB, self.EVALUATIONS]
        names += [self.SOURCE, self.ACTIVATION, self.PROGRESS, self.FIT]
        names += [path.name for path in self.path.glob("predictions_*.npz")]
        for name in [*names, self.MARKER, self.ARGS, self.RESULTS]:
            (self.path / name).unlink(missing_ok=True)
        for name in (self.TENSORBOARD, "wandb", self.SHARDS, self.PICTURES):
            shutil.rmtree(self.path / name, ignore_errors=True)
        self.claimed = True

    def described(self) -> bool:
        """Return whether args.txt exists, or another process writes it."""
        return not self.writes or self._has(self.ARGS)

    def is_started_by_us(self) -> bool:
        """Return whether args.txt is of a run that this torchrun has started."""
        if torchrun_id() is None or not self._has(self.ARGS):
            return False
        return self.arguments()["environment"].get("torchrun") == torchrun_id()

    def arguments(self) -> Any:
        """Return the content of args.txt: the flags, and what stands under them.

        Raises:
            OSError: it cannot be read.
            ValueError: it is no YAML.
        """
        from cli.yaml_files import read_values  # loads yaml, which --help works without

        return read_values((self.path / self.ARGS).read_text(encoding="utf-8"))

    def describe(
        self, args_text: str, model_text: str, further: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Write args.txt and model.txt, and before them `further` files."""
        for name, text in further.items():
            self._replace(name, text)
        self._replace(self.MODEL, model_text)
        self._replace(self.ARGS, args_text)

    def resume(
        self,
        lengths: dict[str, int],
        lines: dict[str, list[str]],
        note: str,
        planned: dict[str, int | None],
    ) -> None:
        """Take back what was written after a checkpoint, and note in args.txt that the run goes on.

        A summary is taken back first: the results of a run that is to be longer do not look whole.

        Args:
            lengths: the sizes of the result files in bytes when the checkpoint was made.
            lines: their lines at that time, for a folder that lacks them.
            note: an item of a YAML list.
            planned: how long the run is to be from now on, by the names in args.txt.
        """
        if not self.writes:
            return
        (self.path / self.MARKER).unlink(missing_ok=True)
        # The statistics begin after the first checkpoint, and not every run has them.
        for name, length in ({self.STATS: 0} | lengths).items():
            if self._has(name) and self._size(name) >= length:
                os.truncate(self.path / name, length)
            elif name in lengths:
                self._replace(name, "".join(line + "\n" for line in lines.get(name, ())))
        text = (self.path / self.ARGS).read_text(encoding="utf-8")
        for name, value in planned.items():
            line = rf"^( *{name}:) .*$"
            text = re.sub(line, rf"\1 {json.dumps(value)}", text, count=1, flags=re.MULTILINE)
        heading = "" if "\nresumed:\n" in text else "resumed:\n"
        self._replace(self.ARGS, f"{text}{heading}{note}\n")

    def take_stats(self, other: Path, lengths: dict[str, int]) -> bool:
        """Copy the statistics that a run in another folder had at a checkpoint, if they are there.

        Args:
            other: its folder.
            lengths: the sizes of its result files in bytes when the checkpoint was made.
        """
        length, path = lengths.get(self.STATS), other / self.STATS
        if length is None or not path.exists() or path.stat().st_size < length:
            return False
        with path.open("rb") as file, self._replacing(self.STATS) as temporary:
            temporary.write_bytes(file.read(length))
        return True

    def result_lengths(self) -> dict[str, int]:
        """Return the sizes of the result files in bytes."""
        names = [self.RESULTS, self.METRICS, *([self.STATS] if self._has(self.STATS) else [])]
        return {name: self._size(name) for name in names}

    def _size(self, name: str) -> int:
        return (self.path / name).stat().st_size if self._has(name) else 0

    def _replace(self, name: str, text: str) -> None:
        with self._replacing(name) as temporary:
            temporary.write_text(writable(text), encoding="utf-8")

    @contextmanager
    def _replacing(self, name: str) -> Iterator[Path]:
        with self._writing(name), replacing(self.path / name, unique=False) as temporary:
            yield temporary

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """Raise a UserError in place of an OSError."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.path / name} cannot be written ({error.strerror}); what was saved before "
                "is kept: make room, see that the folder can be written, and go on with --resume"
            ) from None

    # --- lines ---

    def add_result(self, line: str) -> None:
        self._append(self.RESULTS, line)

    def add_test_result(self, line: str) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self._append(self.TEST, line)

    def add_metrics(self, record: dict[str, Any]) -> None:
        self._add_record(self.METRICS, record)

    def add_stats(self, record: dict[str, Any]) -> None:
        self._add_record(self.STATS, record)

    def _add_record(self, name: str, record: dict[str, Any]) -> None:
        line = metrics_line(record)
        self._append(name, line)
        self.follow(line)

    def write_predictions(self, arrays: dict[str, Any], ending: str = "") -> None:
        """Replace predictions.npz.

        Args:
            arrays: NumPy arrays by name, a row for each sample.
            ending: of the file's name before the dot, where it is of other weights or images.
        """
        if not self.writes:
            return
        import numpy as np  # --help works without it

        name = predictions_file(ending)
        with self._replacing(name) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)

    def write_picture(self, name: str, png: bytes) -> None:
        """Replace a picture.

        Args:
            name: of the file, which may be in a folder here.
            png: its content.
        """
        if not self.writes:
            return
        with self._writing(name):
            (self.path / name).parent.mkdir(exist_ok=True)
        with self._replacing(name) as temporary:
            temporary.write_bytes(png)

    def write_progress(self, content: dict[str, Any]) -> None:
        """Replace progress.json, where that is possible: no run ends because it is not."""
        if not self.writes:
            return
        path = self.path / self.PROGRESS
        with suppress(OSError), replacing(path, unique=False) as temporary:
            temporary.write_text(metrics_line(content) + "\n", encoding="utf-8")

    def remove_progress(self) -> None:
        """Remove progress.json."""
        if self.writes:
            (self.path / self.PROGRESS).unlink(missing_ok=True)

    def _append(self, name: str, line: str) -> None:
        if not self.writes:
            return
        with self._writing(name), open(self.path / name, "a", encoding="utf-8") as file:
            file.write(writable(line) + "\n")
            file.flush()
            os.fsync(file.fileno())  # a checkpoint that counts on the line may be whole sooner


def tell_job_script() -> None:
    """Write the job's own file, if it has one: interrupted, it wants to be started again.

    The marker in a run folder is the run's, and whoever goes on with the run removes it, perhaps
    before the job has looked.
    """
    if job := os.environ.get(JOB_MARKER):
        Path(job).write_text("", encoding="utf-8")


def predictions_file(ending: str) -> str:
    """Return predictions.npz, or with an ending predictions_NAME.npz: a name may hold anything."""
    letters = re.sub(r"[^\w.+-]+", "-", ending)
    return RunFolder.PREDICTIONS.replace(".npz", f"{letters}.npz")


def metrics_line(record: dict[str, Any]) -> str:
    """Return a record as a line of JSON."""
    return json.dumps(json_ready(record), allow_nan=False)


def json_ready(value: Any) -> Any:
    """Replace infinities and NaN, which JSON lacks, by null."""
    if isinstance(value, dict):
        return {key: json_ready(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
