"""Read the evaluations of a run back: from metrics.jsonl, or else from the lines of results.

Other code's runs have the lines alone. result_lines.py says what a record is.
"""

import json
import math
from pathlib import Path
from typing import Any

from run_folder.folder import RunFolder
from run_folder.result_lines import AVERAGED, SPLITS, Record, records_of


def read_records(folder: Path) -> list[Record]:
    """Return the records of every evaluation, in order; none where there are no results.

    Raises:
        ValueError: a file is damaged; the message names it.
    """
    metrics = folder / RunFolder.METRICS
    if metrics.exists():
        return _from_json(metrics)
    results = folder / RunFolder.RESULTS
    lines = _whole_lines(results) if results.exists() else []
    return records_of(lines)


def _whole_lines(path: Path) -> list[str]:
    """Return the lines of a file but a last one without an end, which may be cut in a number."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    return [line.rstrip("\r\n") for line in lines if line.endswith("\n")]


def _from_json(path: Path) -> list[Record]:
    found = []
    for number, line in enumerate(_whole_lines(path), 1):
        try:
            content = json.loads(line)
            names = (*SPLITS, *AVERAGED)
            splits = {split: _numbers(content.pop(split, None) or {}) for split in names}
            if any(splits.values()):
                found.append(content | {split: each for split, each in splits.items() if each})
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: line {number} is damaged ({error})") from None
    return found


def split_of(final: Record) -> str:
    """Return the split that a run is judged on: test, else the one that other code's run has."""
    return next(split for split in ("test", "val", "train") if split in final)


def read_also(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the results of test sets beside the test split, by name; the last of each counts.

    Those of averaged weights have the name with " EMA" behind it. NaN stands for null.

    Raises:
        ValueError: the file is damaged; the message names it.
    """
    path = folder / RunFolder.METRICS
    found: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(_whole_lines(path) if path.exists() else [], 1):
        try:
            content = json.loads(line)
            for key, words in (("also", ""), ("also_ema", " EMA")):
                for name, result in (content.get(key) or {}).items():
                    parts = {part: _numbers(each) for part, each in result.pop("parts", {}).items()}
                    found[name + words] = _numbers(result) | ({"parts": parts} if parts else {})
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: line {number} is damaged ({error})") from None
    return found


def _numbers(metrics: dict[str, float | None]) -> dict[str, float]:
    """Replace null, which stands for NaN and infinity in JSON, by NaN."""
    return {name: math.nan if value is None else value for name, value in metrics.items()}


def score(metrics: dict[str, float]) -> float:
    """Return what the best evaluation has most of: accuracy, PSNR, else the negative loss."""
    loss = metrics.get("loss", metrics.get("perplexity", math.nan))
    value = metrics.get("top1", metrics.get("psnr", -loss))
    return -math.inf if math.isnan(value) else value


def best_on_validation(records: list[Record]) -> Record | None:
    """Return the record with the best score on validation, if any was validated."""
    validated = [record for record in records if record.get("val")]
    return max(validated, key=lambda record: score(record["val"]), default=None)
