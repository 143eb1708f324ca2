"""Keep the results of standard evaluations in a run folder: lm_eval.json, and lines beside it.

lm_eval.json is one object: a result by its label, which is the task's name with what else it was
asked for. A result has "task", "step" (the run's, when the weights were these), "metrics" (for each
its "value", "stderr", or null where lm_eval has none, and "higher_is_better"), "num_fewshot" and
"documents"; then how it was made. The lines of train_eval_results.txt are made of it.
"""

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from run_folder.folder import RunFolder, json_ready
from run_folder.result_lines import SUMMARY
from utils import one_at_a_time, read_json, replacing

Results = dict[str, dict[str, Any]]

_HEAD = "[lm_eval "  # of the lines


def label(task: str, num_fewshot: int, limit: int | None, ema: bool) -> str:
    """Return what a result is called: of one label there is one, the last."""
    details = [f"{num_fewshot}-shot"] if num_fewshot else []
    details += [f"first {limit}"] if limit else []
    name = f"{task} ({', '.join(details)})" if details else task
    return f"{name} EMA" if ema else name


def read_evaluations(folder: Path) -> Results:
    """Return the results in a run folder, by label.

    Raises:
        ValueError: the file is damaged; the message names it.
    """
    path = folder / RunFolder.EVALUATIONS
    if not path.exists():
        return {}
    try:
        found = read_json(path.read_text(encoding="utf-8"))
        for result in found.values():
            for metric in result["metrics"].values():
                metric["value"] = _number(metric["value"])
                metric["stderr"] = _number(metric["stderr"])
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error})") from None
    return found


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def add_evaluations(folder: Path, results: Results) -> None:
    """Put results beside those that a run folder has; each file is replaced whole.

    The lines stand before the summary, so that the run's last line says that it is finished.

    Raises:
        ValueError: the file that is there is damaged.
    """
    with one_at_a_time(folder / f".{RunFolder.EVALUATIONS}.lock"):
        every = read_evaluations(folder) | results
        with replacing(folder / RunFolder.EVALUATIONS) as temporary:
            temporary.write_text(json.dumps(json_ready(every), indent=1) + "\n", encoding="utf-8")
        path = folder / RunFolder.RESULTS
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if not line.startswith(_HEAD)]
        end = next((n for n, line in enumerate(kept) if line.startswith(SUMMARY)), len(kept))
        kept[end:end] = evaluation_lines(every)
        with replacing(path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def evaluation_lines(results: Results) -> list[str]:
    """Return a line for each result."""
    return [f"{_HEAD}{name}] {describe(result)}" for name, result in results.items()]


def kept_lines(folder: RunFolder, step: int) -> list[str]:
    """Return the lines of the results at this step; none where the file is damaged."""
    with suppress(ValueError):
        every = read_evaluations(folder.path)
        return evaluation_lines({k: x for k, x in every.items() if x.get("step") == step})
    return []


def describe(result: dict[str, Any]) -> str:
    """Return a result in short: metrics with their standard errors, and of what they are."""
    parts = []
    for name, metric in result["metrics"].items():
        error = metric["stderr"]
        known = error is not None and not math.isnan(error)
        parts.append(f"{name}: {metric['value']:.6g}" + (f" ± {error:.2g}" if known else ""))
    return (
        f"{', '.join(parts)} | {result['documents']:,} documents, {result['num_fewshot']}-shot, "
        f"step {result['step']}, {result['precision']}, lm_eval {result['lm_eval']}"
    )
