"""Losses and metrics of mixed labels, and trainings with all that can be done to images."""

import json

import numpy as np
import pytest
import torch
import yaml
from helpers.close_runs import losses
from helpers.resumable import KILL, TERM, TRY_AGAIN, assert_same_run
from torch import nn
from torch.nn import functional as F

import vision_main
from tasks.classification import Classification

CLASSES = 7


@pytest.fixture
def batch():
    """Return logits, two classes for each image, and their mixture, (12, classes)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, CLASSES, generator=generator)
    first, second = torch.randint(CLASSES, (2, 12), generator=generator)
    soft = 0.3 * F.one_hot(first, CLASSES) + 0.7 * F.one_hot(second, CLASSES)
    return logits, first, second, soft


def loss_of(task, logits, targets):
    return task(nn.Identity(), (logits, targets))[0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_are_timms(batch, smoothing):
    """Whose targets are smoothed before they are mixed."""
    timm = pytest.importorskip("timm.loss")
    mixup_target = pytest.importorskip("timm.data.mixup").mixup_target
    logits, first, _, _ = batch
    flipped = 0.3 * F.one_hot(first, CLASSES) + 0.7 * F.one_hot(first.flip(0), CLASSES)
    smoothed = mixup_target(first, CLASSES, 0.3, smoothing)
    bce = timm.BinaryCrossEntropy(smoothing)
    expected = {
        "BCE": (bce(logits, first), bce(logits, smoothed)),
        "CrossEntropy": (
            timm.LabelSmoothingCrossEntropy(smoothing)(logits, first),
            timm.SoftTargetCrossEntropy()(logits, smoothed),
        ),
        "MSE": (
            F.mse_loss(logits, mixup_target(first, CLASSES, 1.0, smoothing)),
            F.mse_loss(logits, smoothed),
        ),
    }
    for criterion, (single, mixed) in expected.items():
        task = Classification(criterion, smoothing)
        torch.testing.assert_close(loss_of(task, logits, first), single)
        torch.testing.assert_close(loss_of(task, logits, flipped), mixed)
    if smoothing:
        with torch.no_grad():
            loss, _ = Classification("BCE", smoothing)(nn.Identity().eval(), (logits, first))
        torch.testing.assert_close(loss, timm.BinaryCrossEntropy(0.0)(logits, first))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_mixture_has_the_losses_of_its_classes(batch, smoothing):
    """Each with the weight of its class."""
    logits, first, second, soft = batch
    weights = torch.linspace(0.1, 2, CLASSES)
    for criterion, task_weights in (
        ("CrossEntropy", weights),
        ("CrossEntropy", None),
        ("BCE", None),
    ):
        task = Classification(criterion, smoothing, task_weights)
        parts = 0.3 * loss_of(task, logits, first) + 0.7 * loss_of(task, logits, second)
        torch.testing.assert_close(loss_of(task, logits, soft), parts)


def test_the_class_with_the_largest_label_is_the_right_one(batch):
    logits, _, second, soft = batch
    _, mixed = Classification("CrossEntropy")(nn.Identity(), (logits, soft))
    _, single = Classification("CrossEntropy")(nn.Identity(), (logits, second))
    assert torch.equal(mixed[1:], single[1:])
    assert 0 < single[1] < len(logits)


@pytest.mark.parametrize("criterion", ["CrossEntropy", "BCE", "MSE"])
def test_compiled_it_is_one_graph(batch, criterion):
    logits, _, _, soft = batch
    task = Classification(criterion, 0.1)
    network = nn.Linear(CLASSES, CLASSES)
    compiled = torch.compile(
        lambda batch: task(network, batch), backend="eager", fullgraph=True, dynamic=False
    )
    for mine, plain in zip(compiled((logits, soft)), task(network, (logits, soft)), strict=True):
        torch.testing.assert_close(mine, plain)


# --- whole trainings ---

EVERYTHING = (
    "--model", "resnet20", "--dataset", "imagefolder", "--batch_size", "14", "--lr", "3e-3",
    "--device", "cpu", "--activation", "ZiLU", "--augment", "--random_resized_crop", "0.3",
    "--color_jitter", "--rotate", "10", "--noise", "0.1",
    "--auto_augment", "rand-m9-mstd0.5-inc1", "--random_erasing", "0.5", "--erasing_mode", "pixel",
    "--repeated_augmentation", "3", "--mixup", "0.8", "--cutmix", "1", "--criterion", "BCE",
    "--label_smoothing", "0.1", "--stats", "4",
)  # fmt: skip
STREAMED = ("--dataset", "imagenet", "--resize", "8", "--num_workers", "1")


# What one process alone draws, and what it goes on from.
FINE_TUNING = ("--drop_rate", "0.2", "--layer_decay", "0.8", "--ema", "0.9")


@pytest.fixture(scope="module")
def source(forked, image_folder, tmp_path_factory):
    """Return the folder of a run with other activations, to be left as it is."""
    folder = tmp_path_factory.mktemp("source") / "run"
    flags = (*EVERYTHING, "--activation", "PReLU", "--max_steps", "1")
    codes, output = forked("vision_main", *flags, "--data_path", image_folder,
                           "--output_dir", folder)  # fmt: skip
    assert codes == [0], output
    return folder


@pytest.mark.parametrize("where", ["memory", "files"])
def test_killed_and_resumed_it_ends_as_if_nothing_had_happened(
    forked, image_folder, source, tmp_path, where
):
    """Killed on the way to the new activations, and after it."""
    flags = (*EVERYTHING, "--data_path", image_folder, "--max_steps", "10", "--save_interval", "3")
    flags = (*flags, *FINE_TUNING, "--init_from", source, "--replace_gradually", "5")
    flags = (*flags, *(STREAMED if where == "files" else ()))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    codes, output = forked("vision_main", *flags, "--output_dir", whole)
    assert codes == [0], output
    for fault, code in ((("step", KILL, 4), -KILL), (("step", TERM, 2), TRY_AGAIN)):
        command = (*flags, "--output_dir", parts, "--resume")
        codes, output = forked("vision_main", *command, faults={0: fault})
        assert codes == [code], output
    codes, output = forked("vision_main", *flags, "--output_dir", parts, "--resume")
    assert codes == [0], output
    assert_same_run(parts, whole)
    first, second = (json.loads(x) for x in (whole / "metrics.jsonl").read_text().splitlines())
    assert (first["train"]["count"], second["train"]["count"]) == (100, 28)
    assert np.load(whole / "predictions.npz")["labels"].dtype == np.int64


def test_two_processes_have_the_losses_of_one(forked, image_folder, tmp_path):
    """The last of 100 images, in batches of 9, is alone: one process has none of it."""
    flags = (*EVERYTHING, "--norm", "gn", "--data_path", image_folder, "--num_epochs", "1")
    flags = (*flags, "--stats", "100")
    for count in (1, 2):
        codes, output = forked(
            "vision_main", *flags, "--batch_size", "9", "--output_dir", tmp_path / str(count),
            processes=count,
        )  # fmt: skip
        assert codes == [0] * count, output
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "1"), rel=2e-5)


def test_a_run_trained_at_one_size_is_tested_at_another(forked, image_folder, tmp_path):
    """--test_only finds the size in the checkpoint."""
    flags = ("--model", "resnet20", *STREAMED, "--data_path", image_folder, "--device", "cpu",
             "--max_steps", "2", "--batch_size", "16")  # fmt: skip
    runs = {"plain": (), "larger": ("--test_size", "12", "--crop_pct", "0.9")}
    lines = {}
    for name, more in runs.items():
        codes, output = forked("vision_main", *flags, *more, "--output_dir", tmp_path / name)
        assert codes == [0], output
        lines[name] = json.loads((tmp_path / name / "metrics.jsonl").read_text())
    assert lines["plain"]["train"] == lines["larger"]["train"]
    assert lines["plain"]["test"] != lines["larger"]["test"]
    codes, output = forked("vision_main", "--test_only", "--output_dir", tmp_path / "larger")
    assert codes == [0], output
    assert f"Loss: {lines['larger']['test']['loss']:.8f}" in output
    settings = yaml.safe_load((tmp_path / "larger" / "args.txt").read_text())
    assert (settings["test_size"], settings["resolved"]["image_size"]) == (12, 8)


MISTAKES = [
    (("--auto_augment", "randaugmnt"), "did you mean randaugment?"),
    (("--auto_augment", "randaugment-m31"), "a whole number of at least 0 and of at most 30"),
    (("--auto_augment", "randaugment-p0.5"), "unknown setting 'p0.5' of randaugment"),
    (("--auto_augment", "trivialaugment-m3"), "known: none"),
    (("--auto_augment", "autoaugment-cifar"), "did you mean cifar10?"),
    (("--auto_augment", "rand-m9-m8"), "has m twice"),
    (("--random_resized_crop", "0.3"), "--random_resized_crop has no effect without --augment"),
    (("--interpolation", "bicubic"), "--interpolation has no effect"),
    (
        ("--interpolation", "nearest", "--augment", "--random_resized_crop", "0.3"),
        "--interpolation nearest is for --auto_augment alone",
    ),
    (("--erasing_mode", "pixel"), "--erasing_mode has no effect without --random_erasing"),
    (("--mixup_switch", "0.3", "--mixup", "1"), "--mixup_switch has no effect without both"),
    (("--crop_pct", "0.9"), "--crop_pct is for --dataset imagenet"),
    (("--test_size", "12"), "--test_size is for --dataset imagenet"),
    (("--class_balanced", "0.9", "--criterion", "BCE"), "--class_balanced is for"),
    (("--repeated_augmentation", "0"), "--repeated_augmentation"),
]


@pytest.mark.parametrize(("flags", "line"), MISTAKES)
def test_a_mistake_is_one_line(mistake_in, flags, line):
    assert line in mistake_in(vision_main, "--dataset", "digits", *flags)


def test_a_network_for_one_size_alone(mistake_in, image_folder, tmp_path):
    line = mistake_in(
        vision_main, "--model", "vit-tiny", "--dataset", "imagenet", "--resize", 8, "--test_size",
        12, "--data_path", image_folder, "--output_dir", tmp_path / "run", "--device", "cpu",
        "--num_workers", 0,
    )  # fmt: skip
    assert "--test_size 12: the network takes images of its training size alone" in line
    assert not (tmp_path / "run").exists()
