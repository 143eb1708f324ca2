"""vision_main.py as a user runs it, on digits at 8 pixels: seconds a run."""

import functools
import json
import re
import shlex
import shutil
import sys

import pytest
import torch
import yaml

import vision_main
from cli.vision import VisionConfig
from run_folder.checkpoint import load_checkpoint

QUICK = (
    "--model", "resnet20", "--dataset", "digits", "--resize", "8", "--batch_size", "256",
    "--num_epochs", "2", "--lr", "3e-3", "--device", "cpu",
)  # fmt: skip
LINE = re.compile(
    r"\[Epoch \d{3}\] Time: \d+\.\d{4}s"
    r"( \| \[(Train|Val|Test)\] Loss: \d+\.\d{8} "
    r"Accuracy: Top1: \d+\.\d{4}%, Top5: \d+\.\d{4}%)+"
)


def train(folder, *flags):
    assert vision_main.main([*QUICK, *flags, "--output_dir", str(folder)]) == 0
    return folder


def results(folder):
    """train_eval_results.txt without times."""
    return re.sub(r"Time: \S+", "", (folder / "train_eval_results.txt").read_text())


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder):
    return load_checkpoint(folder / "checkpoint.pt")["model"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One finished run; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("run") / "zilu"
    return train(folder, "--activation", "ZiLU", "--sigma", "0.5", "--val_fraction", "0.1")


@pytest.fixture
def images(image_folder):
    """Flags for a hundred images instead of digits, where a test does not look at the results."""
    return "--dataset", "imagefolder", "--data_path", str(image_folder), "--batch_size", "16"


@pytest.fixture
def mistake(mistake_in):
    """Run the program on flags that are a mistake; returns its one line."""
    return functools.partial(mistake_in, vision_main)


# --- the run folder ---


def test_the_run_folder(trained):
    names = {path.name for path in trained.iterdir()}
    assert names == {
        "args.txt", "model.txt", "train_eval_results.txt", "metrics.jsonl", "checkpoint.pt",
            "predictions.npz",
    }  # fmt: skip
    lines = (trained / "train_eval_results.txt").read_text().splitlines()
    assert all(LINE.fullmatch(line) for line in lines[:2])
    assert [line.split(":")[0] for line in lines[2:]] == [
        "[Summary] Final", "[Summary] Best validation",
        "[Summary] Best test (chosen on the test set)",
    ]  # fmt: skip
    first, second = records(trained)
    assert (first["epoch"], second["epoch"]) == (1, 2)
    assert f"[Test] Loss: {second['test']['loss']:.8f}" in lines[1]
    assert second["images_per_second"] > 0
    assert second["peak_memory_bytes"] > 1e8


def test_args_txt_holds_everything(trained):
    content = yaml.safe_load((trained / "args.txt").read_text())
    assert VisionConfig.flags().keys() <= content.keys()
    assert content["activation"] == "ZiLU"
    resolved, environment = content["resolved"], content["environment"]
    assert resolved["init_seed"] == resolved["data_seed"] == 0
    assert (resolved["stem"], resolved["image_size"], resolved["num_classes"]) == ("cifar", 8, 10)
    assert sum(resolved["samples"].values()) == 1797
    assert environment["torch"] == torch.__version__
    assert environment["threads"] == torch.get_num_threads()
    assert environment["command"] == shlex.join(["python", *sys.argv])


def test_model_txt_lists_every_site(trained):
    text = (trained / "model.txt").read_text()
    assert text.startswith(
        "Parameters: 272,474 (272,474 trainable)\n"
        "Operations: 5,102,848 FLOP per image forward (2 for a multiply and add)\n\n"
        "Activation sites: 19\n"
    )
    assert len(re.findall(r"^  [\w.]+: ZiLU\(sigma=0.5\)$", text, re.MULTILINE)) == 19
    assert "ReLU" not in text


# --- repeats and seeds ---


def test_the_same_command_twice_gives_the_same_results(trained, tmp_path):
    flags = (
        "--activation",
        "ZiLU",
        "--sigma",
        "0.5",
        "--val_fraction",
        "0.1",
        "--num_workers",
        "1",
    )
    again = train(tmp_path / "again", *flags)
    assert results(again) == results(trained)
    for mine, theirs in zip(weights(again).values(), weights(trained).values(), strict=True):
        assert torch.equal(mine, theirs)


def test_augmented_runs_in_mixed_precision_repeat_bit_for_bit(tmp_path, images):
    flags = (*images, "--augment", "--noise", "0.1", "--color_jitter", "--max_steps", "3")
    flags = (*flags, "--use_amp")
    first, second = (train(tmp_path / name, *flags) for name in "ab")
    assert results(first) == results(second)


def test_runs_pair_by_seed(tmp_path):
    """With one seed every activation starts from the same weights and sees the same batches."""
    # A learning rate this small changes nothing: the checkpoint holds the initial weights.
    still = ("--lr", "1e-30", "--max_steps", "1", "--optimizer", "sgd")
    relu = weights(train(tmp_path / "relu", "--activation", "ReLU", *still))
    prelu = weights(train(tmp_path / "prelu", "--activation", "PReLU", *still))
    other = weights(train(tmp_path / "other", "--activation", "ReLU", *still, "--init_seed", "1"))
    trainable = [name for name in relu if "running" not in name and "num_batches" not in name]
    assert all((relu[name] - prelu[name]).abs().max() < 1e-20 for name in trainable)
    # The statistics of the first norm see the batch, not yet an activation.
    assert torch.equal(relu["bn1.running_mean"], prelu["bn1.running_mean"])
    assert not torch.equal(relu["conv1.weight"], other["conv1.weight"])
    shuffled = weights(train(tmp_path / "data", "--activation", "ReLU", *still, "--data_seed", "1"))
    assert torch.equal(relu["conv1.weight"], shuffled["conv1.weight"])
    assert not torch.equal(relu["bn1.running_mean"], shuffled["bn1.running_mean"])


def test_args_txt_as_config_repeats_the_run(trained, tmp_path):
    again = tmp_path / "again"
    flags = ["--config", str(trained / "args.txt"), "--output_dir", str(again)]
    assert vision_main.main(flags) == 0
    assert results(again) == results(trained)


# --- what the flags do ---


@pytest.mark.parametrize(
    ("model", "activation"),
    [("vgg11", "PReLU"), ("resnet18", "ZiLU_Approx"), ("vit-tiny", "PReLU")],
)
def test_every_family_trains(tmp_path, images, model, activation):
    # The 359 images of digits' test set at 32 pixels would take the time, not the step.
    flags = (*images, "--model", model, "--resize", "32", "--max_steps", "1")
    folder = train(tmp_path / "run", *flags, "--activation", activation)
    assert activation in (folder / "model.txt").read_text()


def test_learned_sigma_is_recorded_and_saved(tmp_path):
    folder = train(tmp_path / "run", "--sigma", "0.5", "--learn_sigma", "--max_steps", "8")
    sigmas = records(folder)[-1]["sigma"]
    assert len(sigmas) == 19
    assert all(value > 0 and value != 0.5 for value in sigmas.values())
    assert "layer1.0.act1.rho" in weights(folder)
    assert vision_main.main(["--test_only", "--device", "cpu", "--output_dir", str(folder)]) == 0


def test_a_sigma_that_does_nothing_is_mentioned(tmp_path, capsys):
    train(tmp_path / "run", "--activation", "ReLU", "--sigma", "0.5", "--max_steps", "1")
    assert "ReLU has no sigma; --sigma 0.5 is ignored" in capsys.readouterr().out
    assert yaml.safe_load((tmp_path / "run" / "args.txt").read_text())["resolved"]["sigma"] is None


def test_divergence_ends_with_exit_code_3(tmp_path, capsys):
    folder = tmp_path / "run"
    flags = ("--lr", "1e30", "--clip_grad_norm", "0", "--optimizer", "sgd")
    assert vision_main.main([*QUICK, *flags, "--output_dir", str(folder)]) == 3
    assert "error: the run diverged: " in capsys.readouterr().err
    assert "[Diverged] " in (folder / "train_eval_results.txt").read_text()
    assert "diverged" in records(folder)[-1]


# --- evaluation alone ---


def test_test_only_repeats_the_final_result(trained, tmp_path, capsys):
    copy = shutil.copytree(trained, tmp_path / "copy")
    final = (copy / "train_eval_results.txt").read_text().splitlines()[1].split("[Test] ")[1]
    assert vision_main.main(["--test_only", "--device", "cpu", "--output_dir", str(copy)]) == 0
    assert f"[Test] {final} | " in capsys.readouterr().out
    assert (copy / "test_results.txt").read_text().startswith(f"[Test] {final} | ")
    assert results(copy) == results(trained)
    checkpoint = str(copy / "checkpoint.pt")
    assert vision_main.main(["--test_only", "--checkpoint", checkpoint, "--device", "cpu"]) == 0
    assert f"[Test] {final} | " in capsys.readouterr().out


def test_a_run_with_padded_shortcuts_is_evaluated_and_is_no_start_for_projections(
    tmp_path, mistake, capsys
):
    folder = tmp_path / "run"
    train(folder, "--shortcut", "pad", "--max_steps", "2")
    assert not [name for name in weights(folder) if "downsample" in name]
    content = yaml.safe_load((folder / "args.txt").read_text())
    assert content["shortcut"] == content["resolved"]["shortcut"] == "pad"
    capsys.readouterr()
    assert vision_main.main(["--test_only", "--device", "cpu", "--output_dir", str(folder)]) == 0
    loss = records(folder)[-1]["test"]["loss"]
    assert f"Loss: {loss:.8f}" in capsys.readouterr().out
    line = mistake(*QUICK, "--init_from", folder, "--output_dir", tmp_path / "new")
    assert "lacks layer2.0.downsample.0.weight" in line


def test_test_only_without_a_checkpoint_says_so(tmp_path, capsys):
    flags = ["--test_only", "--output_dir", str(tmp_path / "none")]
    assert vision_main.main([*QUICK, *flags]) == 0
    shown = capsys.readouterr().out
    assert "untrained resnet20, ZiLU" in shown
    assert "this is the untrained network" in shown
    # It does not stand in the way of a run in that folder.
    train(tmp_path / "none", "--max_steps", "1")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--activation", "ReLU"], "--activation ReLU contradicts the checkpoint, which has ZiLU"),
        (["--sigma", "1"], "--sigma 1.0 contradicts the checkpoint, which has 0.5"),
        (["--model", "vgg11"], "--model vgg11 contradicts the checkpoint, which has resnet20"),
        (["--criterion", "MSE"], "--criterion MSE contradicts the checkpoint"),
        (["--shortcut", "pad"], "--shortcut pad contradicts the checkpoint, which has conv"),
        (["--resize", "16"], "--resize 16 contradicts the checkpoint, which was trained on 8 px"),
    ],
)
def test_test_only_refuses_what_contradicts_the_checkpoint(trained, mistake, flags, message):
    assert message in mistake("--test_only", "--checkpoint", trained / "checkpoint.pt", *flags)


def test_test_only_takes_criterion_precision_and_normalisation_from_the_run(tmp_path, capsys):
    images = write_images(tmp_path / "images", count=6)
    folder = tmp_path / "run"
    flags = ["--dataset", "imagefolder", "--data_path", str(images), "--resize", "8"]
    flags += ["--criterion", "MSE", "--use_amp", "--val_fraction", "0.2"]
    train(folder, *flags)
    final = (folder / "train_eval_results.txt").read_text().splitlines()[1].split("[Test] ")[1]
    # The training images are others now, and so would be their mean.
    write_images(images, count=3, shade=90, splits=("train",))
    assert vision_main.main(["--test_only", "--device", "cpu", "--output_dir", str(folder)]) == 0
    assert f"[Test] {final} | " in capsys.readouterr().out
    assert "| MSE, bfloat16 | imagefolder: " in (folder / "test_results.txt").read_text()
    flags = ["--test_only", "--no-use_amp", "--device", "cpu", "--output_dir", str(folder)]
    assert vision_main.main(flags) == 0
    assert "| MSE, float32 | " in capsys.readouterr().out
    config = ["--test_only", "--config", str(folder / "args.txt")]
    assert vision_main.main(config) == 0
    assert f"[Test] {final} | " in capsys.readouterr().out


def test_test_only_refuses_other_data(mistake, tmp_path):
    folder = tmp_path / "run"
    images = write_images(tmp_path / "a")
    own_size = [flag for flag in QUICK if flag not in ("--resize", "8")]
    flags = [*own_size, "--dataset", "imagefolder", "--output_dir", str(folder), "--data_path"]
    assert vision_main.main([*flags, str(images)]) == 0
    other_size = write_images(tmp_path / "b", size=12)
    other_names = write_images(tmp_path / "c", classes=("x", "y"))
    flags = ("--test_only", "--device", "cpu", "--output_dir", folder, "--data_path")
    assert "its 2 classes (a, ...) are not the 2 of" in mistake(*flags, other_names)
    assert "was trained on 8 px, imagefolder has 12" in mistake(*flags, other_size)


def test_test_only_of_a_run_without_checkpoint(trained, mistake, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy")
    (copy / "checkpoint.pt").unlink()
    assert "left no checkpoint" in mistake("--test_only", "--output_dir", copy)
    content = torch.load(trained / "checkpoint.pt", weights_only=True)
    del content["settings"]["kind"]  # as checkpoints were before language came
    torch.save(content, copy / "checkpoint.pt")
    argv = ["--test_only", "--device", "cpu", "--output_dir", str(copy)]
    assert vision_main.main(argv) == 0
    torch.save({"settings": {}, "model": {}}, copy / "checkpoint.pt")
    assert "not a checkpoint of a vision model" in mistake("--test_only", "--output_dir", copy)


# --- mistakes ---


def write_images(folder, size=8, classes=("a", "b"), splits=("train", "test"), count=3, shade=0):
    from PIL import Image

    for split in splits:
        for number, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                image = Image.new("RGB", (size, size), (number * 100, i * 30, shade + i))
                image.save(folder / split / name / f"{i}.png")
    return folder


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "vgg11"], "vgg11 needs images of at least 32 px"),
        (["--model", "vit-tiny", "--resize", "30"], "vit-tiny cannot cut images of 30 px"),
        (["--resize", "4"], "resnet20 with --stem cifar needs images of at least 8 px"),
        (["--patch_size", "4"], "--patch_size 4 does not apply to resnet20"),
        (["--stem", "imagenet"], "--stem imagenet does not apply to resnet20"),
        (["--device", "cuda"], "--device cuda: torch .* finds no cuda device"),
        (["--activation", "ReLU", "--learn_sigma"], "--learn_sigma: ReLU has no sigma"),
        (["--config", "nowhere.yaml"], "--config nowhere.yaml: not a readable YAML file"),
        (["--test_only", "--checkpoint", "nowhere.pt"], "nowhere.pt: no such file"),
        (["--val_fraction", "0.999"], "--val_fraction"),
    ],
)
def test_mistakes_in_flags(mistake, tmp_path, flags, message):
    if "cuda" in flags and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    assert re.search(message, mistake(*QUICK, "--output_dir", tmp_path / "run", *flags))
    assert not (tmp_path / "run").exists()


def test_mistakes_in_folders_of_images(mistake, tmp_path):
    flags = ("--model", "resnet20", "--dataset", "imagefolder", "--device", "cpu", "--data_path")

    def message(folder):
        return mistake(*flags, folder, "--output_dir", tmp_path / "run")

    assert "missing" in message(tmp_path / "missing")
    (tmp_path / "empty" / "train").mkdir(parents=True)
    assert "empty" in message(tmp_path / "empty")
    one_class = write_images(tmp_path / "one", classes=("a",))
    assert "class" in message(one_class)
    too_small = write_images(tmp_path / "small", size=4)
    assert "at least 8 px" in message(too_small)
    broken = write_images(tmp_path / "broken")
    (broken / "train" / "a" / "1.png").write_bytes(b"no image")
    assert "1.png" in message(broken)
    assert not (tmp_path / "run").exists()


def test_missing_cifar_is_named(mistake, tmp_path):
    line = mistake("--data_path", tmp_path, "--output_dir", tmp_path / "run", "--device", "cpu")
    assert "cifar-10-python.tar.gz" in line
    assert str(tmp_path) in line


def test_a_folder_that_holds_a_run_is_refused_unless_told(trained, mistake, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy")
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    assert "holds a run already" in mistake(*QUICK, "--output_dir", copy)
    # Even with --overwrite, a mistake leaves the old run whole.
    mistake(*QUICK, "--output_dir", copy, "--overwrite", "--val_fraction", "0.999")
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    train(copy, "--overwrite", "--activation", "ReLU", "--max_steps", "1")
    assert "ReLU" in (copy / "model.txt").read_text()
    assert len((copy / "metrics.jsonl").read_text().splitlines()) == 1


def test_folders_that_cannot_be_written(mistake, tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        assert f"{path}: cannot be made or written" in mistake(*QUICK, "--output_dir", path)


def test_broken_checkpoints(trained, mistake, tmp_path):
    whole = (trained / "checkpoint.pt").read_bytes()
    path = tmp_path / "checkpoint.pt"
    for content in (whole[: len(whole) // 2], b"", b"text"):
        path.write_bytes(content)
        assert "not a readable checkpoint" in mistake("--test_only", "--checkpoint", path)
    torch.save({"state_dict": {}}, path)
    assert "not a checkpoint of this project" in mistake("--test_only", "--checkpoint", path)


def test_a_batch_of_one_that_batchnorm_cannot_normalise(mistake, tmp_path):
    """Found before an old run is overwritten."""
    # 1,438 training images: the last batch of 479 is one image, and one pixel after three strides.
    flags = ("--model", "resnet18", "--batch_size", "479", "--num_epochs", "1")
    assert "--batch_size 479: gives a process a batch of one" in mistake(
        *QUICK, *flags, "--output_dir", tmp_path / "run"
    )
    assert not (tmp_path / "run").exists()


def test_no_compiler(mistake, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert "--use_compiled needs a C++ compiler" in mistake(*QUICK, "--use_compiled")
