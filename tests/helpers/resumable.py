"""Runs that draw in every way there is, and what two equal runs must have in common."""

import json
import re
import signal

import numpy as np
import torch

from run_folder.checkpoint import load_checkpoint

TRY_AGAIN = 75


KILL, TERM, USR1, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT


# Everything that draws: order, crop, flip, jitter, noise; dropout below. Evaluations inside epochs.
# Both want a --data_path: the fixture of that name has a folder for each.
VISION = (
    "--model", "resnet20", "--dataset", "imagefolder", "--batch_size", "16",
    "--num_epochs", "3", "--lr", "3e-3", "--device", "cpu", "--activation", "ZiLU",
    "--learn_sigma", "--augment", "--color_jitter", "--noise", "0.1", "--val_fraction", "0.3",
    "--scheduler", "plateau", "--lr_step", "1", "--eval_interval", "3", "--save_interval", "2,1ep",
    "--stats", "4",
)  # fmt: skip


LANGUAGE = (
    "--dataset", "text", "--tokenizer", "bytes", "--num_layers", "2", "--embedding_dim", "16",
    "--num_attention_heads", "2", "--max_seq_length", "32", "--batch_size", "8",
    "--num_epochs", "3", "--dropout", "0.2", "--grad_accum_steps", "2", "--device", "cpu",
    "--eval_interval", "3", "--save_interval", "2,1ep", "--stats", "4",
)  # fmt: skip


FLAGS = {"vision_main": VISION, "language_main": LANGUAGE}


def results(folder):
    """train_eval_results.txt and metrics.jsonl, without times, throughput and memory."""
    lines = re.sub(r"Time: \S+", "", (folder / "train_eval_results.txt").read_text())
    text = (folder / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    records = [json.loads(line) for line in text.splitlines()]
    costs = re.compile("seconds|.*_per_second|peak_memory_bytes|mfu")
    kept = [{k: v for k, v in record.items() if not costs.fullmatch(k)} for record in records]
    return lines, kept


def assert_same_run(folder, reference):
    assert_same_result(folder, reference)
    stats = [(each / "stats.jsonl").read_text() for each in (folder, reference)]
    assert stats[0] == stats[1]
    left = {path.name for path in folder.iterdir()} - {path.name for path in reference.iterdir()}
    assert not left


def assert_same_result(folder, reference):
    assert results(folder) == results(reference)
    predictions = [np.load(each / "predictions.npz") for each in (folder, reference)]
    for name in predictions[1]:
        assert np.array_equal(predictions[0][name], predictions[1][name])
    mine, theirs = (load_checkpoint(each / "checkpoint.pt") for each in (folder, reference))
    assert mine["step"] == theirs["step"]
    assert mine["model"].keys() == theirs["model"].keys()
    for name, value in mine["model"].items():
        assert torch.equal(value, theirs["model"][name]), name
    for name, state in mine["optimizer"]["state"].items():
        for key, value in state.items():
            assert torch.equal(value, theirs["optimizer"]["state"][name][key]), (name, key)
    assert mine["ranks"][0]["random"]["torch"].equal(theirs["ranks"][0]["random"]["torch"])


def without_times(out):
    names = ("train_eval_results.txt", "model.txt")
    texts = {path.relative_to(out): path.read_text() for name in names for path in out.rglob(name)}
    return {name: re.sub(r"Time: \S+", "", text) for name, text in texts.items()}
