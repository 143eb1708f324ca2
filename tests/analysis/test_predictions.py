"""Test what reports make of predictions.npz, by scikit-learn, scipy and loops by hand."""

import math

import numpy as np
import pytest
import torch
from helpers.made_runs import (
    add_blocks,
    add_predictions,
    language_run,
    report_on,
    table,
    text,
    vision_run,
    without_figures,
)
from scipy import special, stats
from sklearn.metrics import balanced_accuracy_score, recall_score

from analysis import findings
from analysis.grouping import Group
from analysis.predictions import BINS, images_of, pooled_bins, read_predictions
from analysis.sections.calibration import FEW_IMAGES, reliability_figure
from analysis.variants import Variant
from analysis.written_files import earlier_files

LABELS = np.random.default_rng(0).integers(0, 10, 1000)
RELU, ZILU = [90.2, 90.9, 90.4], [91.9, 92.1, 92.4]


pytestmark = pytest.mark.usefixtures("quick_figures")


def made(folder, labels=LABELS, classes=10):
    """Make runs of ReLU and ZiLU with three seeds and predictions."""
    for seed in range(3):
        for name, accuracies in (("ReLU", RELU), ("ZiLU", ZILU)):
            accuracy = accuracies[seed]
            run = vision_run(folder / f"{name}_{seed}", accuracy, activation=name, seed=seed)
            add_predictions(run, labels, accuracy / 100, (seed, len(name), name == "ZiLU"), classes)
    return folder


def some_images(n=400, classes=7, missing=3):
    """Return logits in 16 bits and labels, of which one class has none."""
    rng = np.random.default_rng(1)
    labels = rng.choice([c for c in range(classes) if c != missing], n)
    logits = rng.normal(0, 2, (n, classes))
    logits[np.arange(n), labels] += 2
    return logits.astype(np.float16), labels


# --- one run ---


def test_accuracies_are_scikit_learns():
    logits, labels = some_images()
    found, chosen = images_of(logits, labels), logits.argmax(axis=1)
    assert found.correct.mean() == (chosen == labels).mean()
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        wanted = balanced_accuracy_score(labels, chosen)
    assert found.balanced_accuracy == pytest.approx(wanted, rel=1e-12)
    there = np.unique(labels)
    wanted = recall_score(labels, chosen, labels=there, average=None)
    assert found.recalls[there] == pytest.approx(wanted)
    assert math.isnan(found.recalls[3])
    assert found.class_counts[3] == 0


def test_the_confidence_is_the_softmax():
    logits, labels = some_images()
    wanted = special.softmax(logits.astype(float), axis=1).max(axis=1)
    assert images_of(logits, labels).confidence == pytest.approx(wanted, rel=1e-6)


def test_the_calibration_error_by_a_loop():
    """Equations 2 and 3 of Guo et al. 2017, image by image."""
    logits, labels = some_images()
    probabilities = special.softmax(logits.astype(float), axis=1)
    error = 0.0
    for m in range(1, 16):
        inside = [i for i, row in enumerate(probabilities) if (m - 1) / 15 < row.max() <= m / 15]
        if inside:
            accuracy = np.mean([probabilities[i].argmax() == labels[i] for i in inside])
            confidence = np.mean([probabilities[i].max() for i in inside])
            error += len(inside) / len(labels) * abs(accuracy - confidence)
    assert error > 0.02
    assert images_of(logits, labels).calibration_error == pytest.approx(error, rel=1e-5)


def test_the_calibration_error_by_hand():
    # Four images with a confidence of 0.8, of which one is right: |0.25 − 0.8|.
    logits = np.log(np.tile([0.8, 0.2], (4, 1)))
    assert images_of(logits, np.array([0, 1, 1, 1])).calibration_error == pytest.approx(0.55)
    # Half of those with an even chance are right: calibrated, at an edge of two classes.
    assert images_of(np.zeros((4, 2)), np.array([0, 0, 1, 1])).calibration_error == 0


def test_confidences_at_the_edges_have_a_bin():
    logits = np.array([[60.0, 0.0], [0.0, 0.0]])
    (count, *_) = images_of(logits, np.array([0, 0])).bins.T
    assert count.sum() == 2
    assert count[BINS - 1] == 1  # sure, up to rounding
    # One of five classes is exactly 3/15, which belongs to the bin below.
    assert images_of(np.zeros((3, 5)), np.zeros(3, int)).bins[2, 0] == 3


def test_bins_of_several_runs_are_those_of_all_their_images():
    logits, labels = some_images()
    parts = [images_of(logits[part], labels[part]) for part in (slice(0, 90), slice(90, None))]
    assert pooled_bins(parts) == pytest.approx(images_of(logits, labels).bins, nan_ok=True)


# --- the tables ---


def test_tables_are_of_the_runs_files(tmp_path):
    report_on(made(tmp_path))
    recalls, balanced = {}, {}
    for name in ("ReLU", "ZiLU"):
        files = [np.load(tmp_path / f"{name}_{seed}/predictions.npz") for seed in range(3)]
        chosen = [file["logits"].argmax(axis=1) for file in files]
        label = "ReLU" if name == "ReLU" else "ZiLU (σ = 1)"
        recalls[label] = [100 * recall_score(LABELS, each, average=None) for each in chosen]
        balanced[label] = [100 * balanced_accuracy_score(LABELS, each) for each in chosen]
    rows = table(tmp_path, "calibration").set_index("setting")
    for name, values in balanced.items():
        low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
        row = rows.loc[name]
        found = row[["balanced_accuracy", "balanced_accuracy_low", "balanced_accuracy_high"]]
        assert found.tolist() == pytest.approx([np.mean(values), low, high])
        assert (row["n"], row["images"]) == (3, 1000)
    rows = table(tmp_path, "classes").set_index(["setting", "number"])
    for name, values in recalls.items():
        assert rows.loc[name]["accuracy"].tolist() == pytest.approx(np.mean(values, axis=0))
        high = np.mean(values, axis=0) + stats.t.ppf(0.975, 2) * stats.sem(values)
        assert rows.loc[name]["accuracy_high"].tolist() == pytest.approx(high)
    assert rows.loc["ReLU"]["images"].tolist() == np.bincount(LABELS).tolist()
    assert table(tmp_path, "reliability").groupby("setting")["images"].sum().tolist() == [3000] * 2


def test_mcnemar_by_seed(tmp_path):
    report_on(made(tmp_path))
    rows = table(tmp_path, "mcnemar")
    seeds = rows[rows["seed"] != "mean over seeds"]
    assert seeds["seed"].tolist() == ["0", "1", "2"]
    differences, p_values = [], []
    for seed, row in enumerate(seeds.to_dict("records")):
        mine, theirs = (
            np.load(tmp_path / f"{name}_{seed}/predictions.npz")["logits"].argmax(axis=1) == LABELS
            for name in ("ZiLU", "ReLU")
        )
        b, c = (mine & ~theirs).sum(), (theirs & ~mine).sum()
        assert (row["only_setting_right"], row["only_baseline_right"]) == (b, c)
        p_values.append(min(1, 2 * stats.binom.cdf(min(b, c), b + c, 0.5)))
        assert row["p_mcnemar"] == pytest.approx(p_values[-1])
        differences.append(100.0 * mine - 100.0 * theirs)
        assert row["difference"] == pytest.approx(ZILU[seed] - RELU[seed])
    wanted = np.empty(3)
    wanted[np.argsort(p_values)] = np.maximum.accumulate(np.sort(p_values) * [3, 2, 1])
    assert seeds["p_holm"].tolist() == pytest.approx(np.minimum(wanted, 1).tolist())
    # All seeds: by image, for the seeds share the images.
    (together,) = rows[rows["seed"] == "mean over seeds"].to_dict("records")
    by_image = np.mean(differences, axis=0)
    low, high = stats.t.interval(0.95, 999, by_image.mean(), stats.sem(by_image))
    assert together["standard_error"] == pytest.approx(stats.sem(by_image))
    assert (together["low"], together["high"]) == pytest.approx((low, high))
    # Seeds added up as if independent would claim more.
    pooled = np.concatenate(differences)
    assert stats.sem(pooled) < stats.sem(by_image)
    lines = text(tmp_path).splitlines()
    header = next(number for number, line in enumerate(lines) if "seeds better" in line)
    better, worse = map(int, lines[header + 2].split("|")[-3:-1])
    assert (better, worse) == (sum(seeds["p_holm"] < 0.05), 0)
    assert better > 0


def test_over_other_seeds_and_other_images(tmp_path):
    """Accuracy and cross-entropy of the files, by a fit of both factors (least squares)."""
    labels = LABELS[:200]
    report_on(made(tmp_path, labels))
    rows = table(tmp_path, "hierarchical").set_index("metric")
    per_run = {}
    for name in ("ReLU", "ZiLU"):
        files = [np.load(tmp_path / f"{name}_{seed}/predictions.npz") for seed in range(3)]
        logits = np.array([file["logits"].astype(float) for file in files])
        loss = -special.log_softmax(logits, axis=-1)[:, np.arange(200), labels]
        per_run[name] = {"top1": 100.0 * (logits.argmax(-1) == labels), "loss": loss}
    factors = np.zeros((600, 203))
    factors[np.arange(600), np.repeat(np.arange(3), 200)] = 1
    factors[np.arange(600), 3 + np.tile(np.arange(200), 3)] = 1
    for metric in ("top1", "loss"):
        values = per_run["ZiLU"][metric] - per_run["ReLU"][metric]
        fit = factors @ np.linalg.lstsq(factors, values.ravel(), rcond=None)[0]
        rest = np.sum((values.ravel() - fit) ** 2) / (2 * 199) / 600
        seeds, images = (stats.sem(values.mean(axis=axis)) for axis in (1, 0))
        row = rows.loc[metric]
        assert row["difference"] == pytest.approx(values.mean())
        assert (row["error_seeds"], row["error_units"]) == pytest.approx((seeds, images))
        both = seeds**2 + images**2 - rest
        assert row["error_both"] == pytest.approx(max(both, seeds**2, images**2) ** 0.5)
        assert row["low"] < row["difference"] - 1.96 * row["error_both"]
    assert "SE, both" in text(tmp_path)


def test_names_of_classes_are_the_checkpoints(tmp_path):
    made(tmp_path)
    names = [f"<{number}>" for number in range(10)]
    torch.save({"settings": {"class_names": names}}, tmp_path / "ZiLU_2/checkpoint.pt")
    (tmp_path / "ReLU_0/checkpoint.pt").write_bytes(b"damaged")
    report_on(tmp_path)
    assert table(tmp_path, "classes")["class"].tolist() == names * 2
    assert "| &lt;9&gt;" in text(tmp_path)


def test_accuracies_by_training_images(tmp_path):
    sizes = [500, 300, 101, 100, 50, 20, 19, 5, 1, 1]
    for path in made(tmp_path).glob("*_?/args.txt"):
        path.write_text(path.read_text().replace("resolved:", f"resolved:\n  class_sizes: {sizes}"))
    report_on(tmp_path)
    recalls = []
    for seed in range(3):
        file = np.load(tmp_path / f"ZiLU_{seed}/predictions.npz")
        recalls.append(100 * recall_score(LABELS, file["logits"].argmax(axis=1), average=None))
    by_band = [
        np.mean(recalls, axis=0)[part].mean() for part in (slice(3), slice(3, 6), slice(6, 10))
    ]
    rows = table(tmp_path, "bands")
    rows = rows[rows["setting"] == "ZiLU (σ = 1)"]
    assert rows["accuracy"].tolist() == pytest.approx(by_band)
    few = [each[6:].mean() for each in recalls]
    assert rows["accuracy_high"].iloc[2] == pytest.approx(
        stats.t.interval(0.95, 2, np.mean(few), stats.sem(few))[1]
    )
    assert rows["classes"].tolist() == [3, 3, 4]
    assert "few (under 20): 4 classes" in text(tmp_path)
    assert table(tmp_path, "classes")["training_images"].tolist() == sizes * 2
    header = next(line for line in text(tmp_path).splitlines() if line.startswith("| class"))
    assert [x.strip() for x in header.split("|")[1:4]] == ["class", "training images", "images"]


@pytest.mark.parametrize("sizes", [[100, 99], [100] * 9 + [19.5], ["a"] * 10, 7, [600] * 9 + [101]])
def test_no_bands_where_sizes_do_not_tell(tmp_path, sizes):
    """They are of other code or another number of classes, or all classes are in one band."""
    for path in made(tmp_path).glob("*_?/args.txt"):
        path.write_text(path.read_text().replace("resolved:", f"resolved:\n  class_sizes: {sizes}"))
    report_on(tmp_path)
    assert not (tmp_path / "report/bands.csv").exists()
    assert "training images of" not in text(tmp_path)


def test_many_classes_are_a_figure(tmp_path, monkeypatch):
    without_figures(monkeypatch, but=("classes",))
    labels = np.arange(1000) % 25
    report_on(made(tmp_path, labels, classes=25))
    assert (tmp_path / "report/figures/classes-1.svg").stat().st_size > 0
    assert not (tmp_path / "report/tables/classes-1.tex").exists()
    assert len(table(tmp_path, "classes")) == 50


def test_many_settings_have_their_baseline_and_primary_first(tmp_path, monkeypatch):
    monkeypatch.setattr(findings, "MOST_SHOWN", 2)
    made(tmp_path)
    for name in ("GELU", "SiLU"):
        add_predictions(
            vision_run(tmp_path / name, 90, activation=name, seed=0), LABELS, 0.9, len(name)
        )
    report_on(tmp_path, "--baseline", "SiLU", "--primary", "ZiLU")
    header = next(line for line in text(tmp_path).splitlines() if line.startswith("| class"))
    assert [x.strip() for x in header.split("|")[3:-1]] == ["SiLU", "ZiLU (σ = 1)"]
    assert "2 of 4 settings are shown; `classes.csv` has all." in text(tmp_path)
    assert len(table(tmp_path, "classes")) == 40


def test_the_reliability_figure_shows_the_bins():
    logits, labels = some_images(2000)
    runs = [images_of(logits[:1000], labels[:1000]), images_of(logits[1000:], labels[1000:])]
    group, variant = _group_of_one()
    above, below = reliability_figure(group, {variant: runs}).axes
    count, confidence, accuracy = images_of(logits, labels).bins.T
    shown = count >= FEW_IMAGES
    line = above.get_lines()[-1]
    assert line.get_xdata() == pytest.approx(100 * confidence[shown])
    assert line.get_ydata() == pytest.approx(100 * accuracy[shown])
    assert below.patches[0].get_data().values == pytest.approx(count / 2)


def _group_of_one():
    variant = Variant("ReLU")
    return Group({}, {variant: {}}), variant


# --- what does not fit ---


def test_older_runs_have_no_such_section(tmp_path):
    for seed in range(2):
        vision_run(tmp_path / str(seed), 90, activation="ReLU", seed=seed)
    report_on(tmp_path)
    assert "### Predictions" not in text(tmp_path)
    assert "McNemar" not in text(tmp_path)
    assert not (tmp_path / "report/calibration.csv").exists()


def test_an_earlier_reports_files_go(tmp_path):
    """But not the user's: a folder without an earlier report holds none of ours."""
    made(tmp_path)
    (tmp_path / "report").mkdir()
    (tmp_path / "report/layers.csv").write_text("mine")
    report_on(tmp_path)
    assert (tmp_path / "report/layers.csv").read_text() == "mine"
    written = set((tmp_path / "report").glob("*/*"))
    assert {"reliability-1.svg", "images-1.tex"} <= {path.name for path in written}
    assert written <= set(earlier_files(tmp_path / "report"))
    for path in tmp_path.glob("*/predictions.npz"):
        path.unlink()
    report_on(tmp_path)
    left = {path.name for path in (tmp_path / "report").rglob("*")}
    assert not left & {"mcnemar.csv", "classes.csv", "reliability-1.svg", "images-1.tex"}
    assert "runs.csv" in left


def test_other_labels_are_named_and_not_paired(tmp_path):
    made(tmp_path)
    add_predictions(tmp_path / "ZiLU_1", LABELS[::-1], ZILU[1] / 100, 5)
    report_on(tmp_path)
    assert (
        "ZiLU_1/predictions.npz: it is of other data, or in another order, than those of most "
        "runs; left out of the pairs"
    ) in text(tmp_path)
    assert table(tmp_path, "mcnemar")["seed"].tolist() == ["0", "2", "mean over seeds"]
    assert table(tmp_path, "calibration")["n"].tolist() == [3, 3]


def test_a_run_without_predictions_is_not_paired(tmp_path):
    made(tmp_path)
    (tmp_path / "ReLU_0/predictions.npz").unlink()
    report_on(tmp_path)
    assert table(tmp_path, "mcnemar")["seed"].tolist() == ["1", "2", "mean over seeds"]
    assert table(tmp_path, "calibration")["n"].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be read"),
        (b"PK\x03\x04 cut", "cannot be read"),
        ({"a": [1]}, "neither logits and labels nor loss and tokens"),
        ({"logits": np.zeros((5, 3)), "labels": np.zeros(4, int)}, "do not fit together"),
        ({"logits": np.zeros((0, 3)), "labels": np.zeros(0, int)}, "do not fit together"),
        ({"logits": np.full((5, 3), np.inf), "labels": np.zeros(5, int)}, "not all finite"),
        ({"logits": np.zeros((5, 3)), "labels": np.zeros(5)}, "its labels no integers"),
        ({"logits": np.full((5, 3), "a"), "labels": np.zeros(5, int)}, "its logits are no floats"),
        ({"loss": np.ones(3, complex), "tokens": np.ones(3, int)}, "its losses are no floats"),
        ({"loss": np.ones(3), "tokens": np.full(3, np.nan)}, "its tokens no integers"),
        ({"logits": np.zeros((5, 3)), "labels": np.full(5, 3)}, "not all from 0 to 2"),
        ({"loss": np.ones(3), "tokens": np.ones(2, int)}, "do not fit together"),
        ({"loss": np.ones(3), "tokens": np.zeros(3, int)}, "blocks without tokens"),
        ({"loss": np.full(3, np.nan), "tokens": np.ones(3, int)}, "not all finite"),
        ({"logits": np.eye(3)[LABELS % 3], "labels": LABELS % 3}, "its accuracy is 100.00 %, and"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_named(tmp_path, content, reason):
    path = made(tmp_path) / "ReLU_0/predictions.npz"
    path.write_bytes(content) if isinstance(content, bytes) else np.savez(path, **content)
    report_on(tmp_path)
    (line,) = [x for x in text(tmp_path).splitlines() if "ReLU_0/predictions.npz: " in x]
    assert reason in line
    assert line.endswith("left out")
    assert table(tmp_path, "calibration")["n"].tolist() == [2, 3]


def test_a_file_cut_anywhere_is_named(tmp_path):
    path = made(tmp_path) / "ReLU_0/predictions.npz"
    whole = path.read_bytes()
    for length in range(1, len(whole), len(whole) // 37):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cannot be read"):
            read_predictions(path)


def test_damage_anywhere_is_told_or_harmless(tmp_path):
    path = made(tmp_path) / "ReLU_0/predictions.npz"
    whole, random = path.read_bytes(), np.random.default_rng(0)
    told = 0
    for _ in range(300):
        damaged = bytearray(whole)
        start = random.integers(0, len(whole) - 64)
        damaged[start : start + 64] = random.bytes(64)
        path.write_bytes(damaged)
        try:
            read_predictions(path)
        except ValueError:
            told += 1
    assert told > 290  # zip's check sums do not cover all of its own headers


def test_other_classes_are_left_out(tmp_path):
    made(tmp_path)
    add_predictions(tmp_path / "ZiLU_1", LABELS, ZILU[1] / 100, 5, classes=12)
    report_on(tmp_path)
    assert "ZiLU_1/predictions.npz: it has other classes than most runs; left" in text(tmp_path)
    assert table(tmp_path, "calibration")["n"].tolist() == [3, 2]


# --- text ---


def test_losses_of_the_same_blocks(tmp_path):
    rng = np.random.default_rng(0)
    tokens = np.array([1024] * 30 + [200])
    losses = {}
    for seed in range(3):
        hard = rng.normal(3, 0.5, 31)  # which blocks are hard is the text's
        for name, shift in (("GELU", 0), ("ZiLU", -0.05)):
            losses[name, seed] = (hard + shift + rng.normal(0, 0.02, 31)).astype(np.float32)
            perplexity = math.exp(np.average(losses[name, seed], weights=tokens))
            run = language_run(tmp_path / f"{name}_{seed}", perplexity, name, seed)
            add_blocks(run, losses[name, seed], tokens)
    report_on(tmp_path)
    rows = table(tmp_path, "blocks").set_index("seed")
    d = [losses["ZiLU", seed].astype(float) - losses["GELU", seed] for seed in range(3)]
    assert rows.loc["0", "difference"] == pytest.approx(np.average(d[0], weights=tokens), abs=1e-9)
    by_block = np.mean(d, axis=0)
    mean = np.average(by_block, weights=tokens)
    # The jackknife of a ratio is its linearised error, up to a term in 1/n.
    left_out = [np.average(np.delete(by_block, i), weights=np.delete(tokens, i)) for i in range(31)]
    jackknife = math.sqrt(30 / 31 * np.sum((left_out - np.mean(left_out)) ** 2))
    together = rows.loc["mean over seeds"]
    assert together["difference"] == pytest.approx(mean)
    assert together["standard_error"] == pytest.approx(jackknife, rel=0.02)
    assert "Losses on the same blocks of text" in text(tmp_path)
    assert "McNemar" not in text(tmp_path)


def test_other_blocks_are_not_paired(tmp_path):
    for name in ("GELU", "ZiLU"):
        for seed in range(2):
            tokens = [3, 4 + (name == "ZiLU" and seed)]
            perplexity = math.exp(np.average([1, 2], weights=tokens))
            run = language_run(tmp_path / f"{name}_{seed}", perplexity, name, seed)
            add_blocks(run, [1, 2], tokens)
    report_on(tmp_path)
    assert table(tmp_path, "blocks")["seed"].tolist() == ["0", "mean over seeds"]
    assert "ZiLU_1/predictions.npz: it is of other data" in text(tmp_path)


def test_blocks_of_another_loss_are_left_out(tmp_path):
    for name, loss in (("GELU", 2.0), ("ZiLU", 2.02)):
        add_blocks(language_run(tmp_path / name, math.exp(2), name, 0), [loss] * 3, [8, 8, 2])
    report_on(tmp_path)
    assert "ZiLU/predictions.npz: its loss is 2.02, and the run's results say 2.00; left" in text(
        tmp_path
    )
    assert not (tmp_path / "report/blocks.csv").exists()
