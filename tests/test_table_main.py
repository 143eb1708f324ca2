"""table_main.py as a user runs it, on scikit-learn's tables: a second a run."""

import copy
import functools
import json
import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from helpers.commands import command
from helpers.resumable import KILL, TERM, TRY_AGAIN, USR1, assert_same_run, results
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss
from torch import nn

import export
import report
import table_main
from analysis.grouping import group_runs
from analysis.run_folders import find_runs
from cli.table import TableConfig
from dataset import load_table
from experiments.grid import read_grid
from models import build_table_model
from models.init_gain import unit_gain
from run_folder.checkpoint import load_checkpoint
from tasks.table import TableProgram
from zilu import ZiLU

QUICK = (
    "--dataset", "wine", "--hidden_layers", "2", "--hidden_width", "8", "--batch_size", "32",
    "--num_epochs", "3", "--lr", "1e-2", "--device", "cpu",
)  # fmt: skip
LINE = re.compile(
    r"\[Epoch \d{3}\] Time: \d+\.\d{4}s"
    r"( \| \[(Train|Val|Test)\] Loss: \d+\.\d{8} Accuracy: Top1: \d+\.\d{4}%, "
    r"Top5: 100.0000%(, Balanced: \d+\.\d{4}%)?)+"
)


def train(folder, *flags):
    argv = [*QUICK, *flags, "--output_dir", folder]
    assert table_main.main([str(word) for word in argv]) == 0
    return folder


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder):
    return load_checkpoint(folder / "checkpoint.pt")["model"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One finished run; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("run") / "zilu"
    return train(folder, "--sigma", "0.5", "--val_fraction", "0.2", "--norm", "bn", "--ema", "0.9")


@pytest.fixture
def mistake(mistake_in):
    """Run the program on flags that are a mistake; returns its one line."""
    return functools.partial(mistake_in, table_main)


# --- the run folder ---


def test_the_run_folder(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"args.txt", "model.txt", "train_eval_results.txt", "predictions.npz"} < names
    lines = (trained / "train_eval_results.txt").read_text().splitlines()
    assert all(LINE.match(line) for line in lines[:3])
    assert records(trained)[-1]["rows_per_second"] > 0
    text = (trained / "model.txt").read_text()
    products = 2 * (13 * 8 + 8 * 8 + 8 * 3)
    assert f"Operations: {products} FLOP per row forward" in text
    assert "Activation sites: 2\n  hidden1.act: ZiLU(sigma=0.5)\n  hidden2.act: ZiLU" in text
    content = yaml.safe_load((trained / "args.txt").read_text())
    assert TableConfig.flags().keys() <= content.keys()
    resolved = content["resolved"]
    assert resolved["num_features"] == 13
    assert resolved["class_names"] == ["class_0", "class_1", "class_2"]
    assert sum(resolved["samples"].values()) == 178
    assert sum(resolved["class_sizes"]) == resolved["samples"]["train"]
    assert len(resolved["data_digest"]) == 16


def test_predictions_are_the_results(trained):
    """Loss, accuracy and balanced accuracy, computed by scikit-learn from the logits."""
    found = np.load(trained / "predictions.npz")
    logits, labels = found["logits"].astype(float), found["labels"]
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    test = records(trained)[-1]["test"]
    assert test["count"] == len(labels) == 36
    assert log_loss(labels, shares) == pytest.approx(test["loss"], rel=1e-3)
    assert 100 * (logits.argmax(1) == labels).mean() == pytest.approx(test["top1"])
    balanced = 100 * balanced_accuracy_score(labels, logits.argmax(1))
    assert balanced == pytest.approx(test["balanced"])


def test_without_flags_it_learns_digits(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert table_main.main(["--num_epochs", "3"]) == 0
    said = capsys.readouterr().out
    assert "digits: 1,437 train, 360 test rows" in said or "digits: 1,438 train, 359 test" in said
    assert "64 features, from scikit-learn" in said
    (folder,) = (tmp_path / "Output/digits/mlp").iterdir()
    assert folder.name.startswith("ZiLU_sigma1_seed0_")
    assert records(folder)[-1]["test"]["top1"] > 80


# --- against others' code ---


def test_the_linear_network_is_scikit_learns_logistic_regression(tmp_path):
    """At the optimum w1 = -w2: a penalty on both is half of that on w = w1 - w2."""
    penalty = 0.1
    flags = (
        "--dataset", "breast_cancer", "--hidden_layers", "0", "--batch_size", "1000",
        "--optimizer", "sgd", "--lr", "0.5", "--clip_grad_norm", "0", "--num_epochs", "200",
        "--weight_decay", penalty, "--save_interval", "10min",
    )  # fmt: skip
    train(tmp_path / "run", *flags)
    data = load_table("breast_cancer", batch_size=1000)
    (features, targets), (test_features, test_targets) = (
        next(iter(each.batches(0))) for each in (data.train, data.test)
    )
    theirs = LogisticRegression(C=2 / (penalty * len(targets)), tol=1e-8, max_iter=10_000)
    theirs.fit(features.double().numpy(), targets.numpy())
    found = weights(tmp_path / "run")
    assert (found["head.weight"][1] - found["head.weight"][0]).numpy() == pytest.approx(
        theirs.coef_[0], abs=2e-3
    )
    loss = log_loss(test_targets, theirs.predict_proba(test_features.double().numpy()))
    assert records(tmp_path / "run")[-1]["test"]["loss"] == pytest.approx(loss, abs=2e-4)


@pytest.mark.parametrize(("norm", "activation"), [("none", "GELU"), ("layer", "Tanh")])
def test_training_is_that_of_a_plain_loop(tmp_path, norm, activation):
    flags = ("--norm", norm, "--activation", activation, "--seed", "5", "--weight_decay", "0.1")
    train(tmp_path / "run", *flags)
    config = command(TableConfig, *QUICK, *flags).config
    program = TableProgram(config)
    data = load_table("wine", batch_size=32, data_seed=5)
    start = program.network(data).state_dict()
    layers = []
    for width in (13, 8):
        layers += [nn.Linear(width, 8), *([nn.LayerNorm(8)] if norm == "layer" else [])]
        layers += [getattr(nn, activation)()]
    plain = nn.Sequential(*layers, nn.Linear(8, 3))
    plain.load_state_dict(dict(zip(plain.state_dict(), copy.deepcopy(start).values(), strict=True)))
    matrices = [p for p in plain.parameters() if p.dim() > 1]
    others = [p for p in plain.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    for epoch in (1, 2, 3):
        for features, targets in data.train.batches(epoch):
            loss = nn.functional.cross_entropy(plain(features), targets)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
            optimizer.step()
    pairs = zip(weights(tmp_path / "run").values(), plain.state_dict().values(), strict=True)
    assert all(mine.numpy() == pytest.approx(theirs.numpy(), abs=1e-5) for mine, theirs in pairs)
    assert not torch.equal(start["head.weight"], plain[-1].weight)


# --- the network ---


def network(activation, **options):
    torch.manual_seed(0)
    sizes = {"num_features": 512, "num_classes": 10, "hidden_layers": 3, "hidden_width": 1024}
    return build_table_model("mlp", activation, **sizes | options)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU, ZiLU])
def test_unit_gain_keeps_the_second_moment(activation):
    """That of what each hidden layer's activation reads: 1, within what 1,024 units leave open."""
    model = network(activation)
    plain = copy.deepcopy(model.state_dict())
    unit_gain(model, activation)
    moments = []
    for block in list(model)[:-1]:
        block.linear.register_forward_hook(lambda *x: moments.append(x[2].square().mean().item()))
    with torch.no_grad():
        model(torch.randn(400, 512))
    assert moments == pytest.approx([1, 1, 1], abs=0.1)
    assert torch.equal(model.hidden1.linear.weight, plain["hidden1.linear.weight"])
    same = torch.equal(model.head.weight, plain["head.weight"])
    assert same == (activation is nn.ReLU)


@pytest.mark.parametrize("norm", ["none", "bn", "layer"])
def test_weights_depend_on_neither_activation_nor_norm(norm):
    mine, theirs = network(nn.Tanh, norm=norm).state_dict(), network(nn.ReLU).state_dict()
    assert theirs.keys() <= mine.keys()
    assert all(torch.equal(mine[name], value) for name, value in theirs.items())


@pytest.mark.parametrize("norm", ["none", "bn", "layer"])
def test_rescaled_weights_are_another_sigma(tmp_path, norm):
    """--rescale_init 2 with sigma 1 begins as sigma 2 would."""
    still = ("--lr", "1e-30", "--norm", norm, "--max_steps", "1", "--optimizer", "sgd")
    one = train(tmp_path / "one", *still, "--sigma", "2")
    two = train(tmp_path / "two", *still, "--sigma", "1", "--rescale_init", "2")
    losses = [records(folder)[-1]["test"]["loss"] for folder in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert not torch.equal(*(weights(folder)["head.weight"] for folder in (one, two)))


def test_each_activation_is_a_module_of_its_own():
    model = network(nn.PReLU, dropout=0.3)
    sites = [m for m in model.modules() if isinstance(m, nn.PReLU)]
    assert len({*map(id, sites)}) == 3
    assert [type(m) for m in model.hidden2] == [nn.Linear, nn.PReLU, nn.Dropout]


# --- what the loop gives ---

# Everything that draws, and evaluations inside epochs: five steps an epoch.
RESUMED = (
    *QUICK, "--learn_sigma", "--dropout", "0.2", "--val_fraction", "0.2", "--norm", "bn",
    "--scheduler", "plateau", "--lr_step", "1", "--eval_interval", "2", "--save_interval",
    "2,1ep", "--stats", "2", "--ema", "0.9",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(forked, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    (code,), output = forked("table_main", *RESUMED, "--output_dir", folder)
    assert code == 0, output
    return folder


@pytest.mark.parametrize(
    "fault",
    [("step", KILL, 3), ("evaluation", USR1, 5), ("half_a_save", KILL, 2), ("step", TERM, 7)],
    ids=lambda fault: f"{fault[0]}-{fault[1].name}",
)
def test_a_killed_run_goes_on_exactly(forked, whole, tmp_path, fault):
    folder = tmp_path / "run"
    (code,), output = forked("table_main", *RESUMED, "--output_dir", folder, faults={0: fault})
    assert code == (-KILL if fault[1] == KILL else TRY_AGAIN), output
    (code,), output = forked("table_main", "--resume", folder)
    assert code == 0, output
    assert_same_run(folder, whole)


def test_a_run_is_not_resumed_on_another_table(forked, tmp_path):
    path, folder = tmp_path / "t.csv", tmp_path / "run"
    lines = ["x,y", *(f"{i},{'ab'[i % 2]}" for i in range(60))]
    path.write_text("\n".join(lines))
    flags = (*QUICK, "--dataset", "csv", "--data_path", path, "--output_dir", folder)
    (code,), output = forked("table_main", *flags, faults={0: ("step", TERM, 3)})
    assert code == TRY_AGAIN, output
    path.write_text("\n".join([*lines[:-1], "60,b"]))
    (code,), output = forked("table_main", "--resume", folder)
    assert code == 2
    assert "the data or the network have changed" in output


def test_two_processes_train_as_one(forked, tmp_path):
    flags = (*QUICK, "--val_fraction", "0.2", "--norm", "layer")
    losses = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        codes, output = forked("table_main", *flags, "--output_dir", folder, processes=count)
        assert codes == [0] * count, output
        losses.append([r[split]["loss"] for r in records(folder) for split in ("train", "test")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    pair = [np.load(tmp_path / name / "predictions.npz") for name in "12"]
    assert np.array_equal(pair[0]["labels"], pair[1]["labels"])


def test_mixed_precision_repeats_and_is_near(trained, tmp_path):
    flags = ("--sigma", "0.5", "--val_fraction", "0.2", "--norm", "bn", "--ema", "0.9")
    first, second = (train(tmp_path / name, *flags, "--use_amp") for name in "ab")
    assert results(first) == results(second)
    mine, theirs = (records(folder)[-1]["test"]["loss"] for folder in (first, trained))
    assert mine == pytest.approx(theirs, rel=0.05)
    assert mine != theirs


@pytest.mark.slow
def test_compiled_training_is_the_same_to_rounding(tmp_path):
    plain, compiled = train(tmp_path / "a"), train(tmp_path / "b", "--use_compiled")
    losses = [records(folder)[-1]["test"]["loss"] for folder in (plain, compiled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_test_only_repeats_the_final_result(trained, tmp_path, capsys):
    folder = shutil.copytree(trained, tmp_path / "copy")
    line = (folder / "train_eval_results.txt").read_text().splitlines()[2]
    final = line.split("[Test] ")[1].split(" | ")[0]
    argv = ["--test_only", "--batch_size", "32", "--device", "cpu", "--output_dir", str(folder)]
    assert table_main.main(argv) == 0
    assert f"[Test] {final} | " in capsys.readouterr().out
    assert "| CrossEntropy, float32 | wine: " in (folder / "test_results.txt").read_text()
    assert "[Test EMA] " in (folder / "test_results.txt").read_text()


def test_a_start_from_another_run(trained, tmp_path, mistake):
    """With the activation's place kept and the rest of the weights taken over."""
    still = ("--lr", "1e-30", "--max_steps", "1", "--optimizer", "sgd", "--norm", "bn")
    folder = train(tmp_path / "new", *still, "--activation", "GELU", "--init_from", trained)
    assert torch.allclose(weights(folder)["head.weight"], weights(trained)["head.weight"])
    line = mistake(*QUICK, "--init_from", trained, "--output_dir", tmp_path / "x")
    assert "also has hidden1.norm.bias" in line


@pytest.mark.slow
@torch.no_grad()
def test_an_exported_network_gives_the_same(trained, tmp_path, mistake_in):
    path = tmp_path / "model.pt2"
    assert export.main([str(trained), "--to", "pt2", str(path), "--no_check"]) == 0
    data = load_table("wine", batch_size=64, val_fraction=0.2)
    features, _ = next(iter(data.test.batches(0)))
    logits = np.load(trained / "predictions.npz")["logits"]
    found = torch.export.load(path).module()(features)
    assert found.numpy() == pytest.approx(logits.astype(float), abs=2e-3)  # which are in fp16
    line = mistake_in(export, trained, "--to", "timm", tmp_path / "model")
    assert "of a table model; take onnx or pt2" in line


# --- sweeps and reports ---

GRID = """
program: table
runs:
  dataset: wine
  hidden_width: [8, 16]
  val_fraction: 0.2
  seed: [0, 1]
  activation: [ReLU, {activation: ZiLU, sigma: [0.5, 1]}]
tune:
  lr: [0.01, 0.1]
report:
  baseline: ReLU
  metric: loss
"""


def test_a_grid_of_tables(tmp_path):
    (tmp_path / "grid.yaml").write_text(GRID)
    grid = read_grid(tmp_path / "grid.yaml")
    assert len(grid.combinations) == 2 * 2 * 3
    assert all(flags["dataset"] == "wine" for flags in grid.combinations)


@pytest.mark.slow
def test_a_sweep_tunes_on_validation(run_program, tmp_path):
    (tmp_path / "tables.yaml").write_text(
        "program: table\nruns:\n  dataset: iris\n  num_epochs: 2\n  val_fraction: 0.2\n"
        "  device: cpu\n  seed: [0, 1]\n  activation: [ReLU, Tanh]\n"
        "tune:\n  lr: [0.001, 0.1]\n  seeds: [100]\n"
    )
    done = run_program("sweep.py", "tables.yaml", "--jobs", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "Output/tables/manifest.json").read_text())
    assert manifest["program"] == "table"
    done = run_program("report.py", "Output/tables", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("quick_figures")
def test_reports_group_and_compare_tables(tmp_path):
    for activation in ("ReLU", "Tanh"):
        for seed in (0, 1):
            folder = tmp_path / f"{activation}{seed}"
            train(folder, "--activation", activation, "--seed", seed, "--max_steps", "4")
    train(tmp_path / "wide", "--hidden_width", "9", "--max_steps", "4")
    groups = group_runs(find_runs([tmp_path])).groups
    assert sorted(len(group.all_runs()) for group in groups) == [1, 4]
    assert report.main([str(tmp_path), "--baseline", "ReLU", "--metric", "loss"]) == 0
    text = (tmp_path / "report/report.md").read_text()
    assert "mlp on wine" in text
    assert "Tanh against ReLU" in text
    assert "class_2" in text  # the accuracy of a class, from its predictions


# --- mistakes ---


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset", "wines"], "--dataset: unknown value 'wines'; did you mean wine?"),
        (["--dataset", "csv"], "--dataset csv is a file of yours; name it by --data_path"),
        (["--dataset", "csv", "--data_path", "nowhere.csv"], "nowhere.csv: no such file"),
        (["--data_path", "mine.csv"], "--data_path is for --dataset csv, and wine comes with"),
        (["--label", "x"], "--label is for --dataset csv"),
        (["--model", "resnet20"], "--model: unknown value 'resnet20'"),
        (["--hidden_layers", "-1"], "--hidden_layers: expected a whole number of at least 0"),
        (["--hidden_layers", "0", "--norm", "bn"], "--norm is for hidden layers"),
        (["--norm", "gn"], "--norm: unknown value 'gn'; known: none, bn, layer"),
        (["--test_fraction", "0"], "--test_fraction: expected a number above 0 and below 1"),
        (["--val_fraction", "0.999"], "--val_fraction 0.999: would leave no training row"),
        (["--norm", "bn", "--batch_size", "47"], "--batch_size 47: of 142 training rows it"),
        (["--augment"], "unknown argument '--augment'"),
        (["--init_from", "nowhere"], "--init_from nowhere: no such checkpoint"),
    ],
)
def test_mistakes(mistake, tmp_path, flags, message):
    assert message in mistake(*QUICK, "--output_dir", tmp_path / "run", *flags)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--activation", "ReLU"], "--activation ReLU contradicts the checkpoint, which has ZiLU"),
        (["--hidden_width", "9"], "--hidden_width 9 contradicts the checkpoint, which has 8"),
        (["--dataset", "iris"], "has 4 features, and the network was trained on 13"),
    ],
)
def test_test_only_refuses_what_contradicts_the_checkpoint(trained, mistake, flags, message):
    assert message in mistake("--test_only", "--checkpoint", trained / "checkpoint.pt", *flags)


def test_a_checkpoint_of_another_program_is_refused(mistake, tmp_path):
    content = {"settings": {"kind": "vision", "args": {}, "model_options": {}}, "model": {}}
    torch.save(content, tmp_path / "checkpoint.pt")
    line = mistake("--test_only", "--checkpoint", tmp_path / "checkpoint.pt")
    assert "not a checkpoint of a table model" in line
