"""Test what `benchmark.py --memory` counts: bytes kept, peaks, and the largest batch."""

import csv
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import benchmark
from benchmarks import memory, trainers
from benchmarks.arms import Arm
from benchmarks.training import Setup, setups

CPU = torch.device("cpu")
MIB = 2**20
LABELS = ["ReLU", "GELU", "SiLU", "ZiLU", "ZiLU, from output"]
RELU, ZILU = Arm("ReLU"), Arm("ZiLU", 0.5)
FROM_OUTPUT = replace(ZILU, save="output")
RESNET = Setup("resnet20", "eager", "fp32", 8, 32)


def read_rows(path) -> dict[str, dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return {row["arm"]: row for row in csv.DictReader(file)}


def eager(model: str, batch_size: int) -> Setup:
    (setup,) = setups([model], ["eager"], ["fp32"], batch_size)
    return setup


@pytest.fixture
def tiny_gpt(monkeypatch):
    sizes = {"LENGTH": 32, "WIDTH": 64, "HEADS": 2, "LAYERS": 2}
    for name, size in sizes.items():
        monkeypatch.setattr(trainers, name, size)
    return sizes


@pytest.fixture(scope="module")
def measured(run_loaded, tmp_path_factory):
    """Return rows and text of ResNet-20, 8 images, and what fits into 64 MiB."""
    folder = tmp_path_factory.mktemp("memory")
    done = run_loaded(
        "benchmark.py", "--memory", "--models", "resnet20", "--modes", "eager", "--precisions",
        "fp32", "--batch_size", 8, "--memory_gib", 1 / 16, "--device", "cpu", "--output_dir",
        folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    text = (folder / "memory.md").read_text()
    assert text in done.stdout
    return read_rows(folder / "memory.csv"), text


# --- bytes kept ---


def test_rows_hold_every_arm(measured):
    rows, text = measured
    assert list(rows) == LABELS
    assert "resnet20, eager, fp32, batch 8" in text
    table = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert [line[0].removeprefix("| ") for line in table] == ["activation", "---", *LABELS]
    of_relu, of_zilu = (dict(zip(table[0], table[n], strict=True)) for n in (2, 5))
    assert of_relu["kept ÷ ReLU"] == of_relu["peak ÷ ReLU"] == "1.00"
    kept = int(rows["ZiLU"]["saved_bytes"])
    assert float(of_zilu["kept, MiB"]) == pytest.approx(kept / MIB, rel=0.01)
    ratio = kept / int(rows["ReLU"]["saved_bytes"])
    assert float(of_zilu["kept ÷ ReLU"]) == pytest.approx(ratio, abs=0.006)


def test_from_its_output_zilu_keeps_and_needs_what_relu_does(measured):
    rows, _ = measured
    for column in ("saved_bytes", "peak_bytes"):
        of = {label: int(row[column]) for label, row in rows.items()}
        assert abs(of["ZiLU, from output"] - of["ReLU"]) < MIB / 8, column
        # The inputs of 19 activations on 8 images, the last of which no convolution reads.
        assert of["ZiLU"] - of["ReLU"] > 5 * MIB, column
        assert of["ZiLU"] == pytest.approx(of["GELU"], rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ZiLU", "ZiLU_Approx"])
@pytest.mark.parametrize("learned", [False, True])
def test_from_output_in_gpt(tiny_gpt, name, learned):
    arm = replace(Arm.of(name, 0.5), learned=learned)
    setup = eager("gpt", 4)
    relu, ours, theirs = (
        memory.memory_of(setup, each, CPU)["saved_bytes"]
        for each in (RELU, replace(arm, save="output"), arm)
    )
    inner = 4 * 4 * tiny_gpt["LENGTH"] * 4 * tiny_gpt["WIDTH"]  # bytes of an activation's input
    assert abs(ours - relu) < 100  # a learned σ
    assert theirs - relu == pytest.approx(tiny_gpt["LAYERS"] * inner, abs=100)


@pytest.mark.slow
def test_a_compiled_step_is_measured_as_compiled(tiny_gpt):
    """The compiler chooses what is kept, and may have a part of it computed again."""
    (setup,) = setups(["gpt"], ["compiled"], ["fp32"], 4)
    compiled = memory.memory_of(setup, ZILU, CPU)
    plain = memory.memory_of(replace(setup, mode="eager"), ZILU, CPU)
    assert 0 < compiled["saved_bytes"] < compiled["peak_bytes"]
    assert compiled["saved_bytes"] != plain["saved_bytes"]


# --- the peak ---


def test_growth_is_the_most_that_is_there_at_once():
    x = torch.ones(MIB)  # 4 MiB

    def call():
        first = x + 1
        second = first + 1
        del first
        return second + 1

    assert memory.growth(call) == pytest.approx(8 * MIB, abs=1000)
    assert memory.growth(lambda: x.add_(1)) < 1000


def test_memory_behind_several_tensors_counts_once():
    x = torch.ones(100)
    assert memory.bytes_of_all([x, x.view(10, 10), x[5:], torch.ones(3)]) == 412


def test_the_peak_holds_parameters_and_state_of_the_optimizer():
    trainer = memory.stepped(replace(RESNET, batch_size=2), RELU, CPU)
    parameters = memory.bytes_of_all(trainer.model.parameters())
    standing = memory.bytes_of_all(memory.standing(trainer))
    images = 2 * 3 * 32 * 32 * 4
    # AdamW has two moments; then there are statistics of norms and counts of steps.
    assert 3 * parameters + images < standing < 3.2 * parameters + images
    assert memory.peak_of_step(trainer) > standing + parameters  # gradients


# --- the largest batch ---


@pytest.mark.parametrize(
    "label",
    [
        "ReLU",
        pytest.param("GELU", marks=pytest.mark.slow),
        pytest.param("ZiLU, from output", marks=pytest.mark.slow),
    ],
)
def test_the_largest_batch_fits_and_a_larger_one_does_not(measured, label):
    rows, _ = measured
    arms = {"ReLU": RELU, "GELU": Arm("GELU"), "ZiLU, from output": FROM_OUTPUT}
    largest = int(rows[label]["largest_batch"])
    assert largest > 20
    here, next_up = (
        memory.memory_of(replace(RESNET, batch_size=size), arms[label], CPU)["peak_bytes"]
        for size in (largest, largest + 1)
    )
    limit = 2**26
    assert int(rows[label]["limit_bytes"]) == limit
    assert here <= 1.005 * limit
    assert next_up > 0.995 * limit
    per_sample = float(rows[label]["bytes_per_sample"])
    assert next_up - here == pytest.approx(per_sample, rel=0.05)


def test_a_line_through_two_batches():
    assert memory.on_a_line({4: 140, 2: 120}, limit=209) == (10, 10)
    assert memory.on_a_line({1: 110, 2: 120}, limit=210) == (10, 11)
    assert memory.on_a_line({4: 140, 2: 120}, limit=90) == (10, 0)


# --- other packages' networks ---


@pytest.mark.slow
def test_a_network_of_timm():
    pytest.importorskip("timm")
    setup = eager("timm/resnet18", 2)
    assert setup.image_size == 32
    relu, ours, theirs = (
        memory.memory_of(setup, arm, CPU)["saved_bytes"] for arm in (RELU, FROM_OUTPUT, ZILU)
    )
    assert relu == ours < theirs


@pytest.mark.slow
def test_a_network_of_transformers_has_its_own_vocabulary(tmp_path, tiny_gpt):
    pytest.importorskip("transformers")
    sizes = {"n_embd": 32, "n_head": 2, "n_layer": 1, "n_positions": 64}
    kept = {}
    for vocabulary in (300, 1300):
        config = {"model_type": "gpt2", "vocab_size": vocabulary, **sizes}
        folder = tmp_path / str(vocabulary)
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        setup = eager(f"hf/{folder}", 4)
        assert setup.image_size is None
        kept[vocabulary] = memory.memory_of(setup, FROM_OUTPUT, CPU)["saved_bytes"]
    tokens = 4 * tiny_gpt["LENGTH"]
    assert kept[1300] - kept[300] >= tokens * 1000 * 4  # logits


def test_size_of_the_images():
    (setup,) = setups(["resnet20"], ["eager"], ["fp32"], 2, image_size=64)
    assert "64 px" in setup.title
    small, large = (
        memory.memory_of(each, RELU, CPU)["saved_bytes"] for each in (eager("resnet20", 2), setup)
    )
    assert large == pytest.approx(4 * small, rel=0.01)


# --- the command line ---


def test_models_that_are_taken():
    names = "gpt,resnet50,gpt2,timm/convnext_tiny,torchvision/resnet18,hf/folder"
    assert benchmark.parse(["--memory", "--models", names]).models == tuple(names.split(","))


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--models", "resnet-20"], "did you mean resnet20?"),
        (["--models", "tim/resnet18"], "--models"),
        (["--memory_gib", "0"], "--memory_gib"),
        (["--resize", "0"], "--resize"),
        (["--device", "cpu,cuda"], "--memory takes one --device"),
        (["--models", "timm/no_such_net", "--device", "cpu"], "unknown model"),
    ],
)
def test_mistakes_get_one_line(mistake_in, tmp_path, monkeypatch, flags, named):
    monkeypatch.chdir(tmp_path)
    assert named in mistake_in(benchmark, "--memory", *flags)
    assert list(tmp_path.iterdir()) == []


def test_arms_from_their_output():
    module = FROM_OUTPUT.build()
    assert FROM_OUTPUT.label == "ZiLU, from output"
    assert "save=output" in repr(module)
    assert "save" not in repr(ZILU.build())
    assert isinstance(RELU.build(), nn.ReLU)
