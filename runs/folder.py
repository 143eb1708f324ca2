"""The files of one run."""

import json
import math
import os
from pathlib import Path

from utils import UserError


class RunFolder:
    """The files of one run.

    args.txt (every argument, as YAML), model.txt, train_eval_results.txt (a line per epoch,
    appended as it happens), metrics.jsonl (the same for machines), checkpoint.pt.
    """

    ARGS, MODEL, RESULTS = "args.txt", "model.txt", "train_eval_results.txt"
    METRICS, CHECKPOINT, TEST = "metrics.jsonl", "checkpoint.pt", "test_results.txt"

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @property
    def checkpoint(self) -> Path:
        return self.path / self.CHECKPOINT

    def check_free(self, overwrite: bool) -> None:
        """Refuse a folder that holds a run already, or that cannot be written.

        Raises:
            UserError: with the remedy.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--output_dir {self.path}: is a file; choose another folder")
        held = [name for name in (self.ARGS, self.RESULTS, self.CHECKPOINT) if self._has(name)]
        if held and not overwrite:
            raise UserError(
                f"{self.path} holds a run already ({', '.join(held)}); choose another "
                "--output_dir, or give --overwrite to replace it"
            )
        existing = next(p for p in (self.path, *self.path.absolute().parents) if p.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(f"--output_dir {self.path}: {existing} is not a writable folder")

    def _has(self, name: str) -> bool:
        return (self.path / name).exists()

    def start(self, args_text: str, model_text: str, overwrite: bool = False) -> None:
        """Make the folder and write args.txt and model.txt, in place of an old run's files.

        Raises:
            UserError: another run took the folder since `check_free`.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if overwrite:
            for name in (self.ARGS, self.CHECKPOINT, self.RESULTS, self.METRICS, self.TEST):
                (self.path / name).unlink(missing_ok=True)
        try:
            with open(self.path / self.ARGS, "x", encoding="utf-8") as file:
                file.write(args_text)
        except FileExistsError:
            raise UserError(
                f"{self.path}: another run has just started there; choose another --output_dir"
            ) from None
        (self.path / self.MODEL).write_text(model_text, encoding="utf-8")

    def add_result(self, line: str) -> None:
        self._append(self.RESULTS, line)

    def add_test_result(self, line: str) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self._append(self.TEST, line)

    def add_metrics(self, record: dict) -> None:
        self._append(self.METRICS, json.dumps(_json_ready(record), allow_nan=False))

    def _append(self, name: str, line: str) -> None:
        with open(self.path / name, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def _json_ready(value):
    """Infinities and NaN, which JSON lacks, as null."""
    if isinstance(value, dict):
        return {key: _json_ready(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
