"""Make run folders without training: files as the programs write them, with chosen numbers."""

import json
import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas
import pytest
from numpy.typing import ArrayLike, NDArray

import report
from analysis import drawing
from cli.args_file import args_text
from cli.language import LanguageConfig
from cli.parser import converted
from cli.vision import VisionConfig
from run_folder.folder import metrics_line
from run_folder.result_lines import result_line, summary
from tasks.classification import Classification

ENVIRONMENT = {"device": "cpu (test)", "torch": "2.15.0", "git_commit": "abc", "threads": 1}
BASE = {
    "model": "resnet20", "dataset": "cifar10", "num_epochs": 3, "batch_size": 100, "lr": 0.1,
    "val_fraction": 0.1,
}  # fmt: skip


def vision_run(
    folder: Path, top1: float | list[float], *, val: list[float] | None = None, **flags: Any
) -> Path:
    """Write a finished run; `top1` is the final test accuracy, or that of each epoch."""
    given = {name: value for name, value in {**BASE, **flags}.items() if value is not None}
    config = converted(VisionConfig, given)
    accuracies = top1 if isinstance(top1, list) else [top1 - 20, top1 - 5, top1]
    validation = val or accuracies
    records = [
        {
            "epoch": epoch,
            "step": 10 * epoch,
            "train": _metrics(test - 1),
            "val": _metrics(validated),
            "test": _metrics(test),
            "lr": 0.1,
            "seconds": 2.0,
            "images_per_second": 1000.0,
            "peak_memory_bytes": 2**30,
        }
        for epoch, (test, validated) in enumerate(zip(accuracies, validation, strict=True), 1)
    ]
    resolved = {
        "init_seed": config.run.weights_seed,
        "data_seed": config.run.order_seed,
        "samples": {"train": 45000, "val": 5000, "test": 10000},
        "amp_dtype": "off",
        "compile_mode": "off",
    }
    task = Classification("CrossEntropy")
    lines = [result_line(task.describe, record) for record in records]
    return write_run(
        folder,
        args=args_text(config, resolved, {**ENVIRONMENT, "processes": 1}),
        results=[*lines, *summary(task.describe, task.score, records, True)],
        metrics=[metrics_line(record) for record in records],
    )


def _metrics(top1: float) -> dict[str, float]:
    return {"loss": (101 - top1) / 50, "top1": top1, "top5": 99.0, "count": 10000}


def write_run(
    folder: Path, args: str, results: list[str], metrics: list[str] | None = None
) -> Path:
    """Write the files of a run; `results` and `metrics` are lines."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "args.txt").write_text(args)
    (folder / "train_eval_results.txt").write_text("".join(line + "\n" for line in results))
    if metrics is not None:
        (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in metrics))
    return folder


def add_predictions(
    folder: Path, labels: NDArray, accuracy: float, seed: Any, classes: int = 10
) -> Path:
    """Write predictions.npz of a network that is right on this share of the images.

    It is one image more or less, and the network is surer than it should be. Hard images are hard
    for every network.
    """
    rng = np.random.default_rng(seed)
    hardness = np.random.default_rng(7).uniform(0, 1, len(labels)) + rng.normal(
        0, 0.02, len(labels)
    )
    right = hardness.argsort().argsort() < round(accuracy * len(labels))
    chosen = np.where(right, labels, (labels + rng.integers(1, classes, len(labels))) % classes)
    logits = rng.normal(0, 0.5, (len(labels), classes))
    sure = rng.uniform(2.5, 9, len(labels)) * np.where(right, 1, 0.6)
    logits[np.arange(len(labels)), chosen] = logits.max(axis=1) + sure
    np.savez(folder / "predictions.npz", logits=logits.astype(np.float16), labels=labels)
    return folder


def add_blocks(folder: Path, loss: ArrayLike, tokens: ArrayLike) -> Path:
    """Write predictions.npz of a language model."""
    np.savez(
        folder / "predictions.npz",
        loss=np.asarray(loss, np.float32),
        tokens=np.asarray(tokens, np.int64),
    )
    return folder


def add_stats(folder: Path, lines: list[dict[str, Any]]) -> Path:
    """Write stats.jsonl; each of `lines` has "step" and "sites" or "channels"."""
    text = "".join(json.dumps({"epoch": 1, **line}) + "\n" for line in lines)
    (folder / "stats.jsonl").write_text(text)
    return folder


def report_on(folder: Path, *flags: Any) -> None:
    """Write the report of the runs in `folder` to `folder`/report."""
    assert report.main([str(folder), *map(str, flags)]) == 0


def table(folder: Path, name: str) -> pandas.DataFrame:
    return pandas.read_csv(folder / "report" / f"{name}.csv")


def text(folder: Path) -> str:
    return (folder / "report/report.md").read_text()


def without_figures(monkeypatch: pytest.MonkeyPatch, but: tuple[str, ...] = ()) -> None:
    """Make reports write empty figures, which take no time.

    Args:
        monkeypatch: of the test.
        but: The figures that are drawn, once each, by the beginnings of their names. A report is
            complete with them in PNG, SVG and PDF; each of these takes as long as the drawing.
    """

    def save(drawings: dict[str, Any], folder: Path) -> None:
        for name, draw in drawings.items():
            for ending in drawing.FORMATS:
                (folder / f"{name}.{ending}").write_bytes(b"")
            if name.startswith(but):
                with matplotlib.rc_context(drawing.STYLE):
                    draw().savefig(folder / f"{name}.svg")

    monkeypatch.setattr(drawing, "save", save)


def diverge(folder: Path) -> Path:
    """Make a finished run one that diverged in its second epoch."""
    results = folder / "train_eval_results.txt"
    first = results.read_text().splitlines()[0]
    results.write_text(f"{first}\n[Diverged] in epoch 2, step 7, the training loss is nan\n")
    return folder


def language_run(folder: Path, perplexity: float, activation: str, seed: int) -> Path:
    """Write a run of the language program, which evaluates the test text once, at the end."""
    given = {"activation": activation, "seed": seed, "dataset": "pydoc", "num_epochs": 2}
    config = converted(LanguageConfig, given)

    def metrics(value: float) -> dict[str, float]:
        return {"loss": math.log(value), "perplexity": value, "word_perplexity": value**2,
                "bits_per_byte": math.log2(value), "count": 1000}  # fmt: skip

    records = [
        {"epoch": 1, "step": 9, "train": metrics(30.0), "val": metrics(20.0), "seconds": 3.0},
        {"epoch": 2, "step": 18, "train": metrics(20.0), "val": metrics(11.0), "seconds": 3.0},
    ]
    records[1]["test"] = metrics(perplexity)
    return write_run(
        folder,
        args=args_text(config, {"init_seed": seed, "data_seed": seed}, ENVIRONMENT),
        results=["[Epoch 001] ...", "[Epoch 002] ...", "[Summary] Final: epoch 002"],
        metrics=[json.dumps(record) for record in records],
    )
