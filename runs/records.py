"""The records of a run's evaluations, read back: from metrics.jsonl, or where other code wrote
the run, from the lines of train_eval_results.txt.

A record has "epoch" or "step", "seconds", and per split ("train", "val", "test") its metrics.
"""

import json
import re
from pathlib import Path

from runs.folder import RunFolder

_START = re.compile(r"\[(Epoch|Step)\s+(\d+)\]")
_TIME = re.compile(r"Time:\s*([\d.]+)\s*s")
_SPLIT = re.compile(r"\[(Train|Val|Valid|Validation|Test)\]", re.IGNORECASE)
_NUMBER = r"\s*:?\s*([-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|nan|inf))"
_METRICS = {
    "loss": re.compile("Loss" + _NUMBER, re.IGNORECASE),
    "top1": re.compile("Top-?1" + _NUMBER, re.IGNORECASE),
    "top5": re.compile("Top-?5" + _NUMBER, re.IGNORECASE),
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
        return [each for each in _from_json(metrics) if "diverged" not in each]
    results = folder / RunFolder.RESULTS
    lines = (
        results.read_text(encoding="utf-8", errors="replace").splitlines()
        if results.exists()
        else []
    )
    return [record for line in lines if (record := record_of(line))]


def _from_json(path: Path) -> list[dict]:
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error})") from None


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
        record[split] = {metric: float(match[1]) for metric, match in found if match}
    return record


def score(metrics: dict) -> float:
    """What the best evaluation has most of: accuracy, else the loss's negative."""
    return metrics["top1"] if "top1" in metrics else -metrics["loss"]


def best_on_validation(records: list[dict]) -> dict | None:
    """The record with the best score on validation, if there is any."""
    validated = [record for record in records if record.get("val")]
    return max(validated, key=lambda record: score(record["val"]), default=None)
