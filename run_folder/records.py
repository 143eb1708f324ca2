"""The records of a run's evaluations, read back: from metrics.jsonl, or where other code wrote
the run, from the lines of train_eval_results.txt.

A record has "epoch" or "step", "seconds", and per split ("train", "val", "test") its metrics.
"""

import json
import math
import re
from pathlib import Path

from run_folder.folder import RunFolder

SPLITS = ("train", "val", "test")
_START = re.compile(r"\[(Epoch|Step)\s+(\d+)\]")
_TIME = re.compile(r"Time:\s*([\d.]+)\s*s")
_SPLIT = re.compile(r"\[(Train|Val|Valid|Validation|Test)\]", re.IGNORECASE)
_NUMBER = r"\s*:?\s*([-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|nan|inf))"
_METRICS = {
    "loss": re.compile("Loss" + _NUMBER, re.IGNORECASE),
    "top1": re.compile("Top-?1" + _NUMBER, re.IGNORECASE),
    "top5": re.compile("Top-?5" + _NUMBER, re.IGNORECASE),
    "balanced": re.compile("Balanced" + _NUMBER, re.IGNORECASE),
    "perplexity": re.compile("Perplexity" + _NUMBER, re.IGNORECASE),
    "word_perplexity": re.compile("per word" + _NUMBER, re.IGNORECASE),
    "bits_per_byte": re.compile(r"([\d.]+) bits per byte"),
}


def read_records(folder: Path) -> list[dict]:
    """Of every evaluation, in order; none where there are no results.

    Raises:
        ValueError: a file is damaged; the message names it.
    """
    metrics = folder / RunFolder.METRICS
    if metrics.exists():
        return _from_json(metrics)
    results = folder / RunFolder.RESULTS
    lines = _whole_lines(results) if results.exists() else []
    return [record for line in lines if (record := record_of(line))]


def read_flags(folder: Path) -> dict:
    """The flags of this project's run, by its args.txt."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load((folder / RunFolder.ARGS).read_text(encoding="utf-8"), loader)


def _whole_lines(path: Path) -> list[str]:
    """Without a last one that has no end: it may have been cut within a number."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    return [line.rstrip("\r\n") for line in lines if line.endswith("\n")]


def _from_json(path: Path) -> list[dict]:
    found = []
    for number, line in enumerate(_whole_lines(path), 1):
        try:
            content = json.loads(line)
            splits = {split: _numbers(content.pop(split, None) or {}) for split in SPLITS}
            if any(splits.values()):
                found.append(content | {split: each for split, each in splits.items() if each})
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: line {number} is damaged ({error})") from None
    return found


def _numbers(metrics: dict) -> dict[str, float]:
    """JSON has no NaN and no infinity, which are null there."""
    return {name: math.nan if value is None else value for name, value in metrics.items()}


def record_of(line: str) -> dict | None:
    """The record that a line of results was written from, without what the line leaves out; None
    for other lines."""
    start = _START.match(line)
    if start is None:
        return None
    record = {start[1].lower(): int(start[2])}
    if time := _TIME.search(line):
        record["seconds"] = float(time[1])
    parts = _SPLIT.split(line)[1:]
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        split = "val" if name.lower().startswith("val") else name.lower()
        found = ((metric, pattern.search(text)) for metric, pattern in _METRICS.items())
        if metrics := {metric: float(match[1]) for metric, match in found if match}:
            record[split] = metrics
    return record if any(record.get(split) for split in SPLITS) else None


def score(metrics: dict) -> float:
    """What the best evaluation has most of: accuracy, else the loss's negative."""
    value = metrics.get("top1", -metrics.get("loss", metrics.get("perplexity", math.nan)))
    return -math.inf if math.isnan(value) else value


def best_on_validation(records: list[dict]) -> dict | None:
    """The record with the best score on validation, if there is any."""
    validated = [record for record in records if record.get("val")]
    return max(validated, key=lambda record: score(record["val"]), default=None)
