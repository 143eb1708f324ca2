"""Write and parse the lines of train_eval_results.txt.

A record is a dictionary with "epoch" or "step", "seconds", and for each split that was evaluated
("train", "val", "test", and with --ema "val_ema", "test_ema") its metrics. metrics.jsonl holds the
records whole, the lines in short. Results of test sets beside the test split have records and lines
of their own, under "also" and "also_ema", which are no evaluations of the run.

Records of other code's lines may also have "remarks", on numbers that do not fit together, and
TEST_LINE where the test result stood in a line of its own.
"""

import math
import re
from collections.abc import Callable
from typing import Any

from run_folder.metrics import contradiction_in, metrics_in

Record = dict[str, Any]
Describe = Callable[[dict[str, float]], str]  # the metrics of a split as text

SPLITS = ("train", "val", "test")
AVERAGED = ("val_ema", "test_ema")  # the same splits, evaluated with averaged weights
SUMMARY, DIVERGED = "[Summary]", "[Diverged]"  # the last lines of a run begin so
ALSO = "Also"  # lines of test sets beside the test split begin so, in a bracket

TEST_LINE = "test_line"

_START = re.compile(r"\s*\[\s*(Epoch|Step)[\s:]+(\d+)\s*(?:/\s*\d+\s*)?\]", re.IGNORECASE)
_TIME = re.compile(r"Time:\s*([\d.]+)\s*s", re.IGNORECASE)
_SPLIT = re.compile(r"\[\s*((?:Train|Val|Valid|Validation|Test)(?: EMA)?)\s*\]", re.IGNORECASE)
_TEST = re.compile(r"\s*\[\s*Test\s*\]", re.IGNORECASE)


# --- writing ---


def accuracy_text(metrics: dict[str, float], with_balanced: bool) -> str:
    """Return the metrics of classification as a line holds them."""
    text = (
        f"Loss: {metrics['loss']:.8f} "
        f"Accuracy: Top1: {metrics['top1']:.4f}%, Top5: {metrics['top5']:.4f}%"
    )
    if with_balanced and "balanced" in metrics:
        text += f", Balanced: {metrics['balanced']:.4f}%"
    return text


def perplexity_text(metrics: dict[str, float]) -> str:
    """Return the metrics of language modelling as a line holds them."""
    text = f"Loss: {metrics['loss']:.8f} Perplexity: {metrics['perplexity']:.4f}"
    if "bits_per_byte" in metrics:
        text += (
            f" (per word {metrics['word_perplexity']:.6g}, "
            f"{metrics['bits_per_byte']:.4f} bits per byte)"
        )
    return text


def psnr_text(metrics: dict[str, float]) -> str:
    """Return the metrics of fitting an image as a line holds them."""
    return f"Loss: {metrics['loss']:.8f} PSNR: {metrics['psnr']:.4f} dB"


def moment(record: Record) -> str:
    """Return when a record was made: `epoch 001`, or inside an epoch `step 000500`."""
    return f"step {record['step']:06d}" if "partial" in record else f"epoch {record['epoch']:03d}"


def result_line(describe: Describe, record: Record) -> str:
    """Return the line of a record; its time and training metrics count from the epoch's start."""
    parts = [f"[{moment(record).capitalize()}] Time: {record['seconds']:.4f}s"]
    return " | ".join([*parts, *_split_texts(describe, record, (*SPLITS, *AVERAGED))])


def summary(
    describe: Describe,
    score: Callable[[dict[str, float]], float],
    records: list[Record],
    test_each_epoch: bool,
) -> list[str]:
    """Return the last lines of a run: the final epoch, then the best ones.

    Args:
        describe: metrics as text.
        score: what the best evaluation has most of.
        records: all evaluations, in order.
        test_each_epoch: the test split was evaluated each time, so there is a best one, which is
            labelled as chosen on the test set.
    """

    plain, averaged = ("val", "test"), AVERAGED
    lines = [_summary_line(describe, "Final", records[-1], (*plain, *averaged))]
    for splits, whose in ((plain, ""), (averaged, " of the averaged weights")):
        val, test = splits
        chosen = {f"Best validation{whose}": val} if val in records[-1] else {}
        if test_each_epoch and test in records[-1]:
            chosen[f"Best test{whose} (chosen on the test set)"] = test
        for label, split in chosen.items():
            ranks = [_rank(score(record[split])) for record in records]
            best = records[ranks.index(max(ranks))]
            lines.append(_summary_line(describe, label, best, splits))
    return lines


def _rank(score: float) -> float:
    """Return a score that can be compared: the loss of averaged weights may be no number."""
    return -math.inf if math.isnan(score) else score


def _summary_line(describe: Describe, label: str, record: Record, splits: tuple[str, ...]) -> str:
    results = _split_texts(describe, record, splits)
    return " | ".join([f"{SUMMARY} {label}: {moment(record)}", *results])


def also_lines(describe: Describe, name: str, ending: str, result: Record) -> list[str]:
    """Return the lines of a test set beside the test split: its result, then those of its parts.

    Args:
        describe: metrics as text.
        name: of the test set.
        ending: "_ema" of averaged weights, else "".
        result: its metrics, with those of its "parts" by name, where it has some.
    """
    weights = ending.replace("_", " ").upper()
    parts = result.get("parts", {})
    mean = f" (mean of {result['averaged']} parts)" if parts else ""
    head = f"[{ALSO} {name}{weights}] {describe(result)}{mean}"
    return [head, *(f"[{ALSO} {name}{weights}: {p}] {describe(m)}" for p, m in parts.items())]


def divergence_line(reason: str) -> str:
    """Return the last line of a run that diverged."""
    return f"{DIVERGED} {reason}"


def _split_texts(describe: Describe, record: Record, splits: tuple[str, ...]) -> list[str]:
    return [f"[{_title(s)}] {describe(record[s])}" for s in splits if s in record]


def _title(split: str) -> str:
    """Return `Test` of test, `Test EMA` of test_ema."""
    return split.title().replace("_Ema", " EMA")


# --- parsing ---


def records_of(lines: list[str]) -> list[Record]:
    """Return the records that these lines were written from, in order.

    A test result in a line of its own, without an epoch, is that of the record before it. The last
    one counts, but a test result with its epoch counts more.
    """
    records: list[Record] = []
    for line in lines:
        if record := record_of(line):
            records.append(record)
        elif records and _TEST.match(line):
            _add_test_line(records[-1], line)
    return records


def record_of(line: str) -> Record | None:
    """Return the record that a line was written from, without what the line leaves out.

    Returns None for other lines, as those of a summary.
    """
    start = _START.match(line)
    if start is None:
        return None
    record: Record = {start[1].lower(): int(start[2])}
    if time := _TIME.search(line):
        record["seconds"] = float(time[1])
    record |= _splits(line)
    return record if any(record.get(split) for split in SPLITS) else None


def _splits(line: str) -> Record:
    """Return the metrics of each split in a line, and the remarks on them, if any."""
    found: Record = {}
    remarks = []
    parts = _SPLIT.split(line)[1:]
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        split = name.lower().replace(" ", "_")
        split = re.sub("valid(ation)?", "val", split)
        if metrics := metrics_in(text):
            found[split] = metrics
        if contradiction := contradiction_in(text):
            remarks.append(f"perplexity of [{split.title()}]: {contradiction}")
    return found | ({"remarks": remarks} if remarks else {})


def _add_test_line(record: Record, line: str) -> None:
    """Put the test result of a line without an epoch into the record before it."""
    added = _splits(line)
    if "test" not in added:
        return
    there, is_new = record.get("test"), TEST_LINE in record or "test" not in record
    if is_new:
        record |= {"test": added["test"], TEST_LINE: True}
    remarks = [*record.get("remarks", ()), *added.get("remarks", ())]
    if there is not None and there != added["test"]:
        name = min(name for name in added["test"] if added["test"][name] != there.get(name))
        which = "the later line" if is_new else "the one in the epoch's line"
        values = f"{there.get(name, math.nan):g} and {added['test'][name]:g}"
        remarks.append(f"two test results, {name} {values}: {which} counts")
    if remarks:
        record["remarks"] = remarks
