"""Test the benchmark's files, and its figures of memory and error; no time is judged here."""

import csv
import gc
import math
import re
import weakref

import pytest
import torch
from torch import nn

import benchmark
from benchmarks.accuracy import inputs, largest_errors, ulp
from benchmarks.arms import Arm, to_compare
from benchmarks.timing import in_rounds, quartiles, ratio, repeats_for, saved_bytes

CPU = torch.device("cpu")


def read_rows(path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def measured(run_loaded, tmp_path_factory):
    """Return the folder, the rows by arm and the output of a small run with the plain path."""
    folder = tmp_path_factory.mktemp("benchmark")
    done = run_loaded(
        "benchmark.py", "--activations", "zilu", "--sizes", "2^4", "--dtypes", "fp32",
        "--rounds", 2, "--device", "cpu", "--learn_sigma", "--from_output", "--compare_plain",
        "--output_dir", folder,
        ZILU_KERNELS="auto",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = read_rows(folder / "activations.csv")
    return folder, {row["arm"]: row for row in rows}, done.stdout


ZILU = ["ZiLU", "ZiLU, σ learned", "ZiLU, from output", "ZiLU, σ learned, from output"]
ARMS = ["ReLU", "GELU", "SiLU", *ZILU, *(f"{arm}, plain" for arm in ZILU)]


def test_files_hold_every_arm(measured):
    folder, rows, output = measured
    assert list(rows) == ARMS
    text = (folder / "activations.md").read_text()
    assert text.strip() in output.replace("\r", "")
    assert all(f"| {arm} |" in text for arm in ARMS)
    assert (folder / "activations.png").read_bytes().startswith(b"\x89PNG")


def test_what_a_figure_depends_on_is_stated(measured):
    folder, rows, _ = measured
    text = (folder / "activations.md").read_text()
    for fact in ("cpu", f"torch {torch.__version__}", "threads ", "n = 2", "σ = 0.5", "=auto"):
        assert fact in text
    row = rows["ZiLU, σ learned, plain"]
    assert (row["device"], row["dtype"], row["size"]) == ("cpu", "fp32", "16")
    assert (row["sigma"], row["learned"], row["kernels"]) == ("0.5", "True", "plain")
    assert rows["ZiLU"]["kernels"] == "auto"
    assert (row["rounds"], row["torch"]) == ("2", torch.__version__)
    assert row["hardware"].startswith("cpu (")


def test_ratios_to_itself_are_one(measured):
    _, rows, _ = measured
    for way in ("forward", "backward", "both"):
        for name in ("GELU", "SiLU", "ReLU"):
            assert float(rows[name][f"{way}_over_{name}"]) == 1
        assert float(rows["ZiLU, plain"][f"{way}_over_plain"]) == 1
        assert float(rows["ZiLU"][f"{way}_over_plain"]) > 0
        assert rows["ZiLU"][f"{way}_over_input"] == ""
        assert float(rows["ZiLU, σ learned, from output, plain"][f"{way}_over_input"]) > 0
        low, middle, high = (float(rows["ZiLU"][f"{way}_us{x}"]) for x in ("_q1", "", "_q3"))
        assert 0 < low <= middle <= high
        assert float(rows["ZiLU"][f"{way}_of_copy"]) > 0


def test_saved_bytes_of_a_row(measured):
    _, rows, _ = measured
    for name in ("ReLU", "GELU", "SiLU", "ZiLU", "ZiLU, plain"):
        assert rows[name]["saved_bytes"] == "64"
        assert float(rows[name]["saved_tensors"]) == 1


def test_errors_of_a_row(measured):
    _, rows, _ = measured
    assert float(rows["ReLU"]["value_ulp"]) == float(rows["ReLU"]["slope_ulp"]) == 0
    assert 0 < float(rows["GELU"]["value_error"]) < 1e-5
    for name in ("ZiLU", "ZiLU, plain"):
        assert 0.4 < float(rows[name]["value_ulp"]) <= 4
        assert 0.4 < float(rows[name]["slope_ulp"]) <= 8


# --- the parts ---


def test_a_wrong_activation_is_found_out():
    exact = nn.SiLU().double()
    errors = largest_errors(
        lambda x: nn.functional.silu(x) * (1 + 2**-12), exact, torch.float32, CPU
    )
    assert errors["value_ulp"] > 1000
    assert errors["slope_error"] == pytest.approx(2**-12, rel=0.2)
    flat = largest_errors(lambda x: x * torch.nan, exact, torch.float32, CPU)
    assert flat["value_ulp"] == flat["slope_error"] == math.inf


def test_a_rounded_activation_is_half_an_ulp_off():
    exact = nn.Tanh().double()

    def rounded(x):
        return exact(x.double()).to(x.dtype)

    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        errors = largest_errors(rounded, exact, dtype, CPU)
        assert 0.49 < errors["value_ulp"] <= 0.5
        assert 0.49 < errors["slope_ulp"] <= 0.5


def test_inputs_cover_all_magnitudes():
    x = inputs(torch.float32)
    assert x.isfinite().all()
    assert x.min() == -x.max() < -9e37
    assert 0 < x[x > 0].min() < 2e-30
    assert inputs(torch.float16).abs().max() <= 65504


def test_ulp_is_the_distance_to_the_next_number():
    x = torch.tensor([1.0, 1.5, -3.0, 1e-30, 1e38])
    next_up = torch.nextafter(x.abs(), torch.tensor(math.inf))
    assert torch.equal(ulp(x.double(), torch.float32), next_up.double() - x.abs().double())


def test_saved_bytes_count_a_tensor_once():
    x = torch.ones(100, requires_grad=True)
    assert saved_bytes(lambda: x * x) == 400
    assert saved_bytes(lambda: x * x, ignored=[x]) == 0
    assert saved_bytes(lambda: nn.functional.gelu(x).relu()) == 800


def test_what_counted_the_bytes_lets_go_of_them():
    x = torch.ones(100, requires_grad=True)
    outputs = []

    def forward():
        y = x.sigmoid()  # keeps its output
        outputs.append(weakref.ref(y))
        return y

    assert saved_bytes(forward) == 400
    gc.collect()
    assert outputs[0]() is None


def test_rounds_are_shuffled_and_the_first_does_not_count():
    order = []
    samples = {name: lambda n=name: order.append(n) or float(len(order)) for name in "abcd"}
    values = in_rounds(samples, 5)
    assert all(len(found) == 5 for found in values.values())
    assert min(min(found) for found in values.values()) == 5
    rounds = [tuple(order[i : i + 4]) for i in range(0, len(order), 4)]
    assert all(sorted(names) == list("abcd") for names in rounds)
    assert len(set(rounds)) > 1


def test_repeats_fill_a_sample():
    assert repeats_for(lambda repeats: 0.001, 0.01) == 10
    assert repeats_for(lambda repeats: 1.0, 0.01) == 1


def test_ratio_is_within_the_rounds():
    assert ratio([2.0, 20.0, 3.0], [1.0, 10.0, 3.0]) == 2
    assert quartiles([3.0]) == (3.0, 3.0, 3.0)


def test_baselines_are_always_there_and_only_gated_units_learn():
    found = to_compare(
        ("ZiLU", "GELU"), ("ReLU", "GELU"), sigma=0.5, learn_sigma=True, compare_plain=True
    )
    assert [arm.label for arm in found] == [
        "ReLU", "GELU", "ZiLU", "ZiLU, σ learned", "ZiLU, plain", "ZiLU, σ learned, plain",
    ]  # fmt: skip
    assert Arm("GELU") in found


# --- training ---


def test_training_steps(run_loaded, tmp_path):
    done = run_loaded(
        "benchmark.py", "--training", "--models", "resnet20", "--modes", "eager",
        "--precisions", "fp32", "--batch_size", 2, "--rounds", 1, "--activations", "ZiLU",
        "--from_output", "--device", "cpu", "--output_dir", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row["arm"]: row for row in read_rows(tmp_path / "training.csv")}
    assert list(rows) == ["ReLU", "GELU", "ZiLU", "ZiLU, from output"]
    assert rows["ZiLU, from output"]["saved_bytes"] == rows["ReLU"]["saved_bytes"]
    assert float(rows["GELU"]["over_GELU"]) == float(rows["ReLU"]["over_ReLU"]) == 1
    assert int(rows["ReLU"]["saved_bytes"]) < int(rows["GELU"]["saved_bytes"])
    assert rows["ZiLU"]["saved_bytes"] == rows["GELU"]["saved_bytes"]
    assert "resnet20, eager, fp32, batch 2" in (tmp_path / "training.md").read_text()


def test_what_statistics_add(run_loaded):
    done = run_loaded(
        "benchmark.py", "--stats", "--models", "resnet20", "--modes", "eager", "--precisions",
        "amp", "--batch_size", 2, "--rounds", 3, "--device", "cpu", "--activation", "ZiLU",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    _, header, _, row, *_ = [line for line in done.stdout.splitlines() if line]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (header, row)]
    found = dict(zip(*cells, strict=True))
    assert found["model"] == "resnet20, eager, amp, batch 2"
    assert all(float(found[f"{name}, ms"].split(" ")[0]) > 0 for name in ("step", "statistics"))
    assert re.fullmatch(r"\d+\.\d%", found["--stats 100 adds"])
    assert float(found["evaluation"]) > 0


def test_gated_products(run_loaded, tmp_path):
    done = run_loaded(
        "benchmark.py", "--glu", "--activations", "ZiLU,GELU_tanh", "--sizes", "2^12", "--dtypes",
        "fp32,bf16", "--rounds", 2, "--device", "cpu", "--output_dir", tmp_path,
        ZILU_KERNELS="auto",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "gated_products.csv")
    assert [row["arm"] for row in rows] == 2 * ["ReLU", "GELU", "SiLU", "ZiLU", "GELU_tanh"]
    for row in rows:
        of_one = 4096 * {"fp32": 4, "bf16": 2}[row["dtype"]]
        kept = [int(row[f"{side}_saved_bytes"]) / of_one for side in ("fused", "plain")]
        fused = row["arm"] in ("GELU", "SiLU", "ZiLU")
        assert kept == ([2, 2] if row["arm"] == "ReLU" else [2 if fused else 3, 3]), row["arm"]
        assert float(row["fused_both_us"]) > 0
    assert "2.00 / 3.00" in (tmp_path / "gated_products.md").read_text()


# --- mistakes ---


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--sizes", "0"], "--sizes"),
        (["--sizes", "2^x"], "--sizes"),
        (["--sizes", "2^12,"], "--sizes"),
        (["--activations", "ZiLO"], "did you mean ZiLU?"),
        (["--dtypes", "fp8"], "known: fp32, bf16, fp16"),
        (["--sigma", "0"], "--sigma"),
        (["--rounds", "0"], "--rounds"),
        (["--device", "cpu,gpu"], "unknown device 'gpu'"),
        (["--device", "cpu,cuda", "--training"], "--training takes one --device"),
        (["--training", "--models", "resnet-20"], "did you mean resnet20?"),
        (["--training", "--compare_plain"], "--compare_plain"),
        (["--tokenizing"], "needs --text"),
        (["--output_dir", __file__], "is not a writable folder"),
        (["--sizes", "2^59", "--rounds", "1", "--device", "cpu"], "does not fit into the memory"),
    ],
)
def test_mistakes_get_one_line(mistake_in, tmp_path, monkeypatch, flags, named):
    monkeypatch.chdir(tmp_path)
    assert named in mistake_in(benchmark, *flags)
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_compare_is_said(mistake_in, monkeypatch):
    monkeypatch.setenv("ZILU_KERNELS", "plain")
    assert "ZILU_KERNELS=plain" in mistake_in(benchmark, "--compare_plain")
