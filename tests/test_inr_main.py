"""inr_main.py as a user runs it, on a photograph of a few pixels: a second a run."""

import functools
import json
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.close_runs import assert_close
from helpers.commands import command
from helpers.resumable import KILL, TERM, TRY_AGAIN, assert_same_run, results
from PIL import Image
from scipy import ndimage

import inr_main
import report
import vision_main
from cli.inr import InrConfig
from cli.run_names import default_output_dir
from experiments import manifest as manifests
from experiments.grid import read_grid
from models.derivatives import derivatives
from pipelines.images.one_image import read_image
from pipelines.images.pixels import middles
from run_folder.checkpoint import load_checkpoint
from run_folder.metrics import metrics_in
from run_folder.records import read_records
from tasks.inr import InrProgram, psnr
from tasks.pictures import fields_of_image

ROOT = Path(__file__).parents[1]

# 45 pixels are trained on, in batches that go over the ends of passes: 20 steps an epoch.
SMALL = (
    "--side", "8", "--hidden_width", "16", "--hidden_layers", "2", "--num_epochs", "3",
    "--passes_per_epoch", "6", "--batch_size", "14", "--val_fraction", "0.3", "--device", "cpu",
)  # fmt: skip
RESULT = r"Loss: \d+\.\d{8} PSNR: -?\d+\.\d{4} dB"


def train(folder, *flags):
    argv = [*SMALL, "--output_dir", folder, *flags]
    assert inr_main.main([str(word) for word in argv]) == 0
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One finished run; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("run") / "siren"
    flags = ("--activation", "Sine", "--lr", "1e-2", "--omega", "10")
    return train(folder, *flags, "--eval_interval", "9", "--picture_interval", "2")


@pytest.fixture
def mistake(mistake_in):
    return functools.partial(mistake_in, inr_main, *SMALL)


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def last_line(folder, name="test_results.txt"):
    return (folder / name).read_text().splitlines()[-1]


# --- the run folder ---


def test_the_run_folder(trained):
    lines = (trained / "train_eval_results.txt").read_text().splitlines()
    labels = [line.split("]")[0][1:] for line in lines]
    assert labels == [
        "Step 000009", "Step 000018", "Epoch 001", "Step 000027", "Step 000036", "Epoch 002",
        "Step 000045", "Step 000054", "Epoch 003", "Summary", "Summary", "Summary",
    ]  # fmt: skip
    assert re.fullmatch(
        rf"\[Epoch 001\] Time: \d+\.\d{{4}}s \| \[Train\] {RESULT} \| \[Val\] {RESULT} "
        rf"\| \[Test\] {RESULT}",
        lines[2],
    )
    assert all(record["pixels_per_second"] > 0 for record in metrics(trained))
    content = yaml.safe_load((trained / "args.txt").read_text())
    assert InrConfig.flags().keys() <= content.keys()
    assert content["resolved"]["batch_size"] == 14
    assert content["resolved"]["steps_per_epoch"] == 20
    final = read_records(trained)[-1]
    assert metrics_in(lines[8].split("[Test]")[1])["psnr"] == pytest.approx(
        final["test"]["psnr"], abs=1e-4
    )


def test_the_picture_is_that_of_the_predictions(trained):
    arrays = np.load(trained / "predictions.npz")
    fit = np.array(Image.open(trained / "fit.png"), float)
    wanted = np.clip(127.5 * (arrays["fit"].reshape(8, 8, 3) + 1), 0, 255)
    assert np.abs(fit - wanted).max() <= 0.501
    names = sorted(path.name for path in (trained / "pictures").iterdir())
    assert names == [
        "epoch_002.png", "epoch_003.png", "step_000018.png", "step_000027.png", "step_000054.png",
    ]  # fmt: skip
    with Image.open(trained / "pictures/epoch_003.png") as picture:
        assert picture.size[1] > picture.size[0]
        assert len(picture.convert("L").getcolors()) > 20


# --- PSNR ---


def skimages_psnr(true, test, data_range):
    """skimage.metrics.peak_signal_noise_ratio, written out."""
    error = np.mean((true.astype(float) - test.astype(float)) ** 2)
    return 10 * np.log10(data_range**2 / error)


def test_psnr_is_that_of_scikit_image(trained):
    """With a range of 2 on [-1, 1], nothing clipped; of 1 on [0, 1] it is the same."""
    arrays = np.load(trained / "predictions.npz")
    fit, pixels = arrays["fit"], arrays["pixels"]
    assert np.abs(fit).max() > 1  # or clipping would change nothing
    said = read_records(trained)[-1]["test"]["psnr"]
    assert said == pytest.approx(skimages_psnr(pixels, fit, 2), abs=1e-4)
    assert said == pytest.approx(skimages_psnr((pixels + 1) / 2, (fit + 1) / 2, 1), abs=1e-4)
    assert said == pytest.approx(skimages_psnr(pixels, fit, 1) + 6.0206, abs=1e-3)
    photograph = read_image(command(InrConfig, "--side", "8").config.data)
    assert np.allclose(pixels.reshape(8, 8, 3), photograph / 127.5 - 1, atol=1e-6)


def test_psnr_by_scikit_image_itself(trained):
    skimage = pytest.importorskip("skimage.metrics")
    arrays = np.load(trained / "predictions.npz")
    wanted = skimage.peak_signal_noise_ratio(
        arrays["pixels"].astype(float), arrays["fit"].astype(float), data_range=2
    )
    assert read_records(trained)[-1]["test"]["psnr"] == pytest.approx(wanted, abs=1e-4)


def test_psnr_at_the_ends():
    assert psnr(4.0) == 0
    assert psnr(0.0) == math.inf
    assert psnr(math.inf) == -math.inf
    assert math.isnan(psnr(math.nan))


# --- gradient and Laplacian of what was fitted ---


def test_derivatives_of_the_fit_are_those_of_the_fine_image(trained):
    """By scipy's differences of the network at many more points."""
    saved = load_checkpoint(trained / "checkpoint.pt")
    config = InrConfig.from_values(saved["settings"]["args"])
    model = InrProgram(config).network_for(3)
    model.load_state_dict(saved["model"])
    side = 400
    found = derivatives(model, middles(side).double())
    image = found.values.mean(1).view(side, side).numpy()
    step = 2 / side
    inside = np.s_[2:-2, 2:-2]
    laplacian = (ndimage.laplace(image) / step**2)[inside]
    mine = found.laplacian.view(side, side).numpy()[inside]
    assert np.abs(mine - laplacian).max() < 0.02 * np.abs(laplacian).max()
    central = [ndimage.correlate1d(image, [-0.5, 0, 0.5], axis) / step for axis in (1, 0)]
    for number, wanted in enumerate(central):
        each = found.gradient[:, number].view(side, side).numpy()[inside]
        assert np.abs(each - wanted[inside]).max() < 0.02 * np.abs(wanted).max()


def test_the_target_is_differentiated_as_by_scipy():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    fields = fields_of_image(image)
    values = image.mean(2) / 127.5 - 1
    wanted = ndimage.laplace(values, mode="nearest") * 8**2
    assert np.allclose(fields.laplacian, wanted, rtol=1e-9)
    y, x = (ndimage.correlate1d(values, [-0.5, 0, 0.5], axis) * 8 for axis in (0, 1))
    assert np.allclose(fields.slope[1:-1, 1:-1], np.hypot(x, y)[1:-1, 1:-1])


# --- resuming, several processes ---

EVERYTHING = (
    *SMALL, "--activation", "ZiLU", "--learn_sigma", "--encoding", "fourier",
    "--fourier_features", "8", "--ema", "0.9", "--stats", "5", "--eval_interval", "7",
    "--save_interval", "4,1ep", "--picture_interval", "3", "--scheduler", "plateau",
    "--lr_step", "1",
)  # fmt: skip


def pictures(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.png"))
    }


@pytest.fixture(scope="module")
def whole(forked, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    (code,), output = forked("inr_main", *EVERYTHING, "--output_dir", folder)
    assert code == 0, output
    return folder


@pytest.mark.parametrize(
    ("fault", "passes"),
    [("step", 11), ("evaluation", 9), ("renaming", 9), ("renaming", 17), ("result_line", 6)],
)
def test_a_killed_run_goes_on_as_if_it_had_not_been(forked, whole, tmp_path, fault, passes):
    """Its pictures too, a few of which are being renamed when it is killed."""
    folder = tmp_path / "run"
    flags = (*EVERYTHING, "--output_dir", folder, "--resume")
    (code,), output = forked("inr_main", *flags, faults={0: (fault, KILL, passes)})
    assert code == -KILL, output
    (code,), output = forked("inr_main", *flags)
    assert code == 0, output
    assert_same_run(folder, whole)
    assert pictures(folder) == pictures(whole)
    assert len(pictures(whole)) >= 4


def test_a_signal_stops_it_and_it_goes_on_elsewhere(forked, whole, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    flags = (*EVERYTHING, "--output_dir", first)
    (code,), output = forked("inr_main", *flags, faults={0: ("step", TERM, 20)})
    assert code == TRY_AGAIN, output
    (code,), output = forked("inr_main", "--resume", first, "--output_dir", second)
    assert code == 0, output
    assert results(second) == results(whole)
    assert (second / "fit.png").read_bytes() == (whole / "fit.png").read_bytes()


def test_two_processes_give_what_one_gives(forked, whole, tmp_path):
    """Odd batches, and a last one of one pixel, which one process has nothing of."""
    flags = (*EVERYTHING, "--side", "7", "--batch_size", "7", "--num_epochs", "2")
    for count in (1, 2):
        codes, output = forked(
            "inr_main", *flags, "--output_dir", tmp_path / str(count), processes=count
        )
        assert codes == [0] * count, output
    assert_close(tmp_path / "2", tmp_path / "1", 2e-5)
    assert pictures(tmp_path / "2").keys() == pictures(tmp_path / "1").keys()
    two, one = (np.load(tmp_path / count / "predictions.npz") for count in ("2", "1"))
    assert np.allclose(two["fit"], one["fit"], atol=1e-4)
    assert np.array_equal(two["pixels"], one["pixels"])


def test_overwriting_leaves_no_picture(trained, tmp_path):
    folder = train(tmp_path / "run", "--picture_interval", "1")
    assert len(list((folder / "pictures").iterdir())) == 3
    train(folder, "--overwrite", "--picture_interval", "0")
    assert not (folder / "pictures").exists()
    assert (folder / "fit.png").exists()


# --- what else the loop gives ---


def test_sine_is_siren_with_or_without_its_encoding(tmp_path):
    plain = train(tmp_path / "plain", "--activation", "sine")
    encoded = train(tmp_path / "encoded", "--activation", "Sine", "--encoding", "siren")
    by_place = train(tmp_path / "class", "--activation", "models.coordinate_mlp:Sine")
    assert results(plain) == results(encoded) == results(by_place)


def test_all_pixels_per_step_is_one_step_a_pass(tmp_path):
    folder = train(tmp_path / "run", "--batch_size", "0", "--val_fraction", "1")
    records = metrics(folder)
    assert [record["step"] for record in records] == [6, 12, 18]
    assert all(record["val"] == record["test"] for record in records)
    assert records[-1]["train"]["count"] == 6 * 64


def test_evaluation_alone(trained, capsys):
    flags = ("--test_only", "--output_dir", str(trained), "--device", "cpu")
    assert inr_main.main([*flags]) == 0
    assert metrics_in(last_line(trained)) == pytest.approx(
        {name: read_records(trained)[-1]["test"][name] for name in ("loss", "psnr")}, abs=1e-4
    )
    assert inr_main.main([*flags, "--side", "16"]) == 0  # between the pixels
    assert "16x16" in last_line(trained)
    assert inr_main.main([*flags, "--dataset", "flower"]) == 0
    assert "flower: 64x64" in last_line(trained)
    capsys.readouterr()


def test_another_number_of_channels_is_refused(trained, mistake_in):
    line = mistake_in(inr_main, "--test_only", "--output_dir", trained, "--gray")
    assert "--no-gray" in line


def test_a_start_from_another_fit(trained, tmp_path, mistake):
    start = ("--init_from", trained, "--activation", "Sine")
    folder = train(tmp_path / "run", *start, "--lr", "1e-12", "--num_epochs", "1")
    before, after = (load_checkpoint(each / "checkpoint.pt")["model"] for each in (trained, folder))
    assert all(torch.allclose(value, after[name], atol=1e-6) for name, value in before.items())
    line = mistake("--output_dir", tmp_path / "b", *start, "--hidden_width", "8")
    assert "first.weight" in line


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_mixed_precision(tmp_path, dtype):
    flags = ("--use_amp", "--amp_dtype", dtype, "--encoding", "fourier", "--lr", "1e-2")
    folder = train(tmp_path / "run", *flags)
    first, *_, last = read_records(folder)
    assert last["train"]["psnr"] > first["train"]["psnr"]
    assert (folder / "fit.png").exists()


@pytest.mark.slow
def test_compiled(tmp_path):
    plain, compiled = (
        train(tmp_path / name, *flags)
        for name, flags in (("plain", ()), ("compiled", ("--use_compiled",)))
    )
    a, b = (read_records(each)[-1]["test"]["loss"] for each in (plain, compiled))
    assert a == pytest.approx(b, rel=1e-4)


def test_run_names_have_what_differs():
    def name(*flags):
        return str(default_output_dir(command(InrConfig, *flags).config))

    assert name() == "Output/china/mlp/ZiLU_sigma1_seed0"
    assert name("--activation", "Sine") == "Output/china/mlp/Sine_seed0"
    assert name("--picture_interval", "0") == name()
    photos = {name("--dataset", "image", "--data_path", path) for path in ("a.png", "b.png")}
    assert len({*photos, name("--side", "32"), name("--gray"), name("--encoding", "siren")}) == 5


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--dataset", "image", "--data_path", "no_such.png"), "no_such.png: no such file"),
        (("--dataset", "image", "--data_path", __file__), "cannot be read as an image"),
        (("--data_path", __file__), "add --dataset image"),
        (("--batch_size", "46"), "45 pixels are trained on"),
        (("--val_fraction", "0.001"), "holds out 0 of 64 pixels"),
        (("--val_fraction", "1.5"), "of at most 1"),
        (("--norm", "bn"), "has no norms"),
        (("--omega", "20"), "has no effect without --activation Sine"),
        (("--fourier_scale", "2"), "has no effect without --encoding fourier"),
        (("--encoding", "fourrier"), "did you mean fourier?"),
        (("--activation", "Sinus"), "unknown activation 'Sinus'"),
        (("--side", "1"), "of at least 2"),
        (("--shard",), "leave it out"),
        (("--activation_checkpointing",), "no repeated blocks"),
        (("--learn_sigma", "--activation", "Sine"), "Sine has no sigma"),
    ],
)
def test_a_mistake_ends_in_one_line(mistake, tmp_path, flags, words):
    line = mistake("--output_dir", tmp_path / "run", *flags)
    assert words in line
    assert not (tmp_path / "run").exists()


def test_other_programs_have_no_sine(mistake_in):
    assert "unknown activation 'Sine'" in mistake_in(vision_main, "--activation", "Sine")


# --- sweeps and reports ---


def test_the_grids_of_the_battery_can_be_run(tmp_path):
    path = ROOT / "batteries/small/image.yaml"
    grid = read_grid(path)
    manifest = manifests.planned(grid, path, tmp_path / "out")
    trials = Counter(
        run.flags["activation"] for run in manifest.runs if run.role == manifests.TRIAL
    )
    assert trials == dict.fromkeys(("ReLU", "GELU", "SiLU"), len(grid.tune["lr"]))
    assert grid.report["metric"] == "psnr"


def test_a_report_judges_by_psnr(tmp_path, quick_figures):
    for seed in (0, 1):
        for activation in ("ReLU", "Sine"):
            folder = tmp_path / f"{activation}_{seed}"
            train(folder, "--activation", activation, "--seed", seed, "--picture_interval", "0")
    assert report.main([str(tmp_path)]) in (0, None)
    text = (tmp_path / "report/report.md").read_text()
    assert "PSNR" in text
    assert "left out" not in text


# --- the published experiment ---

FIT = ("--hidden_width", "128", "--scheduler", "cosine", "--picture_interval", "0")


@pytest.mark.slow
def test_siren_beats_a_relu_network_by_far(tmp_path):
    """By the kind of margin of the paper's figure 1: at least 10 dB on a photograph."""
    found = {}
    for activation in ("ReLU", "Sine"):
        folder = tmp_path / activation
        argv = [*FIT, "--activation", activation, "--output_dir", str(folder)]
        assert inr_main.main(argv) == 0
        found[activation] = read_records(folder)[-1]["test"]["psnr"]
    print(found)
    assert found["Sine"] >= found["ReLU"] + 10
