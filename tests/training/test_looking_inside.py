"""--stats, predictions.npz and long-tailed training, through the command line."""

import json
import math

import numpy as np
import pandas
import pytest
import torch
import yaml
from sklearn.metrics import balanced_accuracy_score
from torch import nn

import report
import vision_main
from tasks import classification

FLAGS = (
    "--model", "resnet20", "--dataset", "digits", "--resize", "8", "--batch_size", "240",
    "--num_epochs", "1", "--device", "cpu", "--activation", "ZiLU",
)  # fmt: skip
TAIL = ("--imb_factor", "0.05", "--class_balanced", "0.9", "--stats", "2")


@pytest.fixture(scope="module")
def tailed(forked, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tail") / "run"
    (code,), output = forked("vision_main", *FLAGS, *TAIL, "--output_dir", folder)
    assert code == 0, output
    return folder


def test_balanced_accuracy_is_scikit_learns(tailed):
    predictions = np.load(tailed / "predictions.npz")
    guesses = predictions["logits"].argmax(1)
    expected = 100 * balanced_accuracy_score(predictions["labels"], guesses)
    record = json.loads((tailed / "metrics.jsonl").read_text().splitlines()[-1])
    assert record["test"]["balanced"] == pytest.approx(expected, abs=1e-9)
    assert f"Balanced: {expected:.4f}%" in (tailed / "train_eval_results.txt").read_text()
    assert record["test"]["top1"] == pytest.approx(100 * (guesses == predictions["labels"]).mean())
    assert len(guesses) == record["test"]["count"] == 359  # the test set stays whole
    assert "balanced" not in record["train"]


@pytest.mark.usefixtures("quick_figures")
def test_a_report_by_balanced_accuracy(tailed):
    assert report.main([str(tailed.parent), "--metric", "balanced"]) == 0
    (row,) = pandas.read_csv(tailed.parent / "report/settings.csv").to_dict("records")
    record = json.loads((tailed / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["mean"] == pytest.approx(record["test"]["balanced"])
    assert "Test balanced accuracy (%)" in (tailed.parent / "report/report.md").read_text()
    assert (tailed.parent / "report/bands.csv").exists()


def test_arguments_name_what_each_class_has_left(tailed):
    text = (tailed / "args.txt").read_text()
    resolved = yaml.safe_load(text)["resolved"]
    sizes = resolved["class_sizes"]
    assert len(sizes) == 10
    assert sum(sizes) == resolved["samples"]["train"]
    assert (sizes[0], sizes[9]) == (max(sizes), int(0.05 * max(sizes)))
    assert f"\n  class_sizes: {sizes}\n" in text  # in one line


def test_stats_of_every_site_and_dead_channels(tailed):
    records = [json.loads(line) for line in (tailed / "stats.jsonl").read_text().splitlines()]
    assert [("sites" in r, r["step"]) for r in records] == [
        (True, 0),
        (False, 3),
    ]  # step 2 has a short batch
    sites = records[0]["sites"]
    assert list(sites)[:2] == ["act1", "layer1.0.act1"]
    assert len(sites) == len(records[1]["channels"]) == 19
    for numbers in sites.values():
        assert numbers["sigma"] == 1
        assert all(value is None or math.isfinite(value) for value in numbers.values())
        assert numbers["gradient_norm"] > 0
    assert [c["total"] for c in records[1]["channels"].values()] == [16] * 7 + [32] * 6 + [64] * 6


def test_class_balanced_weights_are_the_papers():
    beta, sizes = 0.99, [100, 10, 1]
    effective = [(1 - beta**n) / (1 - beta) for n in sizes]
    weights = classification.class_balanced_weights(sizes, beta)
    assert np.allclose(np.array(weights) * effective, weights[0] * effective[0])
    assert sum(weights) == pytest.approx(3)
    assert classification.class_balanced_weights(sizes, 0.0) == [1, 1, 1]
    inverse = classification.class_balanced_weights([*sizes, 0], 1.0)  # a class may have no image
    assert inverse == pytest.approx([4 / 1.11 * share for share in (0.01, 0.1, 1, 0)])
    assert inverse == pytest.approx(
        classification.class_balanced_weights([*sizes, 0], 1 - 1e-9), rel=1e-6
    )
    task = classification.Classification("CrossEntropy", class_weights=torch.tensor(weights))
    logits, targets = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    loss, _ = task(nn.Identity(), (logits, targets))
    rows = nn.functional.cross_entropy(logits, targets, reduction="none")
    assert loss.item() == pytest.approx((rows * torch.tensor(weights)[targets]).mean().item())
    with torch.no_grad():
        loss, _ = task(nn.Identity().eval(), (logits, targets))
    assert loss.item() == pytest.approx(rows.mean().item())


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("--imb_type", "step"), "--imb_type has no effect without --imb_factor"),
        (("--imb_factor", "0"), "--imb_factor"),
        (("--class_balanced", "0.9", "--criterion", "MSE"), "--class_balanced is for"),
        (("--class_balanced", "1.1"), "of at least 0 and of at most 1"),
    ],
)
def test_a_mistake_is_one_line(mistake_in, flags, line):
    assert line in mistake_in(vision_main, *FLAGS, *flags)
