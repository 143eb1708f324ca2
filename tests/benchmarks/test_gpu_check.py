"""The check for whoever has a GPU: its verdicts, its file, and that it goes on."""

from __future__ import annotations

import sys

import pytest
import torch

from benchmarks.gpu_check import __main__ as command
from benchmarks.gpu_check import kernels, programs
from benchmarks.gpu_check.found import Finding, Found
from benchmarks.gpu_check.result_file import ResultFile
from utils import UserError
from zilu import functional as F
from zilu.names import FUSED_NAMES

CPU = torch.device("cpu")
ROW = {"measured": "a step, ms", "GELU": "2", "ZiLU": "2.02", "ZiLU ÷ GELU": "1.010"}


# --- verdicts ---


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_right_numbers_are_as_promised(dtype):
    """The CPU's kernels hold the same limits."""
    assert len({arm.label for arm in kernels.ARMS}) == len(FUSED_NAMES) + 2
    for arm in kernels.ARMS:
        found = kernels.of_arm(arm, dtype, CPU)
        assert not [finding.line for finding in found if not finding.kept]


def less_slope(y, x, part):
    """Return y with less slope, by a part of 1."""
    return y + part * (x.detach() - x)


@pytest.mark.parametrize(
    ("save", "change", "broken"),
    [
        ("input", lambda y, x: y * (1 + 1e-5), {"the value", "the slope", "infinite"}),
        ("input", lambda y, x: y.nan_to_num(0), {"infinite"}),
        ("input", lambda y, x: less_slope(y, x, 1e-3), {"the slope", "infinite"}),
        ("input", lambda y, x: y if x.is_contiguous() else y + 1, {"layouts"}),
        (
            "output",
            lambda y, x: y * (1 + 1e-5),
            {"the value", "the slope", "infinite", "values", "layouts"},
        ),
        ("output", lambda y, x: y if y is x else y.nan_to_num(0), {"infinite"}),
        (
            "output",
            lambda y, x: y if y is x else less_slope(y, x, 3e-6),
            {"the slope", "infinite", "in place"},
        ),
        ("output", lambda y, x: y + 1e-3 if y is x else y, {"layouts", "in place"}),
        ("output", lambda y, x: y * 1 if y is x else y, {"layouts"}),
    ],
    ids=["value", "limits", "slope", "layouts", "output-value", "output-limits", "output-slope",
         "in-place", "not-in-place"],
)  # fmt: skip
def test_wrong_numbers_are_not(save, change, broken, monkeypatch):
    zilu = F.zilu

    def wrong(x, sigma=1.0, **options):
        y = zilu(x, sigma, **options)
        is_exact = x.dtype == torch.float64
        return y if is_exact or options.get("save", "input") != save else change(y, x)

    monkeypatch.setattr(F, "zilu", wrong)
    monkeypatch.setattr(kernels.Arm, "build", lambda arm: Wrong(arm))
    found = kernels.of_arm(kernels.Arm("ZiLU", save=save), "fp32", CPU)
    said = [finding.what.partition(" fp32, ")[2] for finding in found if not finding.kept]
    assert broken == {word for word in WORDS for what in said if word in what}


WORDS = ("the value", "the slope", "infinite", "layouts", "values", "in place")


class Wrong(torch.nn.Module):
    """ZiLU as the module of today's `functional.zilu`."""

    def __init__(self, arm):
        super().__init__()
        self.sigma, self.save, self.inplace = arm.sigma, arm.save, False

    def forward(self, x):
        return F.zilu(x, self.sigma, save=self.save, inplace=self.inplace)


# --- the file ---


def test_a_number_that_is_no_number_is_not_as_promised():
    assert Finding.at_most("x", 1, 1).kept
    assert not Finding.at_most("x", 1, 1.01).kept
    assert not Finding.at_most("x", 1, float("nan")).kept


def a_file(path, machine="device cuda (one)"):
    return ResultFile(path, machine)


def test_the_file_is_what_a_second_start_goes_on_from(tmp_path):
    path, parts = tmp_path / "result.txt", ["one", "two", "three"]
    file = a_file(path)
    file.add("one", Found([Finding("a", "b", "c", True)], [ROW], ["remark"]), 1.0)
    assert "Not done yet: two, three" in file.write(parts)
    again = a_file(path)
    assert [again.has(name) for name in parts] == [True, False, False]
    again.add("two", Found([Finding("d", "e", "f", False)], [ROW | {"GELU": "3"}]), 1.0)
    again.add("three", Found(remarks=["left out"]), 1.0)
    summary = again.write(parts)
    assert summary.splitlines()[:2] == [
        "1 as promised, 1 not.",
        "NOT PROMISED | d: f (promised: e)",
    ]
    assert summary.count("| a step, ms |") == 2
    assert "Not done yet" not in summary
    whole = a_file(path)
    assert whole.sections == again.sections
    assert whole.write(parts) == summary


def test_results_of_other_machines_and_other_files_are_left_alone(tmp_path):
    path = tmp_path / "result.txt"
    a_file(path).write([])
    with pytest.raises(UserError, match="another machine"):
        a_file(path, "device cuda (two)")
    path.write_text("my notes\n")
    with pytest.raises(UserError, match="no result of this check"):
        a_file(path)
    assert path.read_text() == "my notes\n"


# --- the command ---


@pytest.fixture
def check(monkeypatch, tmp_path):
    """Make a check whose parts are shell scripts."""
    monkeypatch.setattr(command.tables, "machine", lambda device: "device cuda (one)")

    def run(minutes=1.0, **scripts):
        def process_of(name):
            return [sys.executable, "-c", scripts[name]]

        monkeypatch.setattr(command, "PARTS", dict.fromkeys(scripts))
        monkeypatch.setattr(command, "command_of", process_of)
        code = command.check(command.Options(tmp_path / "result.txt", minutes, None))
        return code, (tmp_path / "result.txt").read_text()

    return run


GOOD = (
    "import json; print('noise'); finding = dict(what='a', promised='b', seen='c', kept=True); "
    "print(json.dumps(dict(findings=[finding], rows=[], remarks=[])))"
)


def test_a_part_that_fails_is_a_finding_and_the_others_go_on(check):
    code, text = check(one=GOOD, two="raise RuntimeError('an illegal access')", three=GOOD)
    assert code == 1
    assert "NOT PROMISED | two: RuntimeError: an illegal access (promised: no error)" in text
    assert "2 as promised, 1 not." in text


def test_time_that_is_over_stops_the_part_and_the_next_start_makes_it(check, tmp_path):
    late = f"import time; time.sleep(60); {GOOD}"
    code, text = check(minutes=0.03, one=GOOD, two=late)
    assert code == 0
    assert "Not done yet: two." in text
    code, text = check(one="raise SystemExit('made twice')", two=GOOD)
    assert code == 0
    assert "2 as promised, 0 not." in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(mistake_in):
    assert "needs a GPU" in mistake_in(command)


# --- whole runs ---


@pytest.mark.slow
def test_repeats_on_a_cpu(monkeypatch):
    """They hold there always, so the comparison and the interruption can be seen to work."""
    small = ["--device", "cpu", "--batch_size", "256", "--num_epochs", "4", "--resize", "8"]
    monkeypatch.setattr(programs, "RUN", (*programs.RUN, *small))
    found = programs.repeats(CPU)
    assert found.remarks == []
    assert [finding.seen for finding in found.findings] == ["equal weights, equal results"] * 2
    assert all(finding.kept for finding in found.findings)


def test_runs_that_differ_are_seen(tmp_path):
    from run_folder.checkpoint import save_checkpoint

    folders = []
    for number, (weight, loss) in enumerate(
        [(1.0, "0.5"), (1.0, "0.5"), (1.0, "0.6"), (2.0, "0.5")]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        content = {"settings": {}, "model": {"w": torch.tensor([weight])}}
        save_checkpoint(folder / "checkpoint.pt", content)
        line = f"[Epoch 001] Time: {number}.5s | [Train] Loss: {loss} | [Test] Loss: 1.0\n"
        (folder / "train_eval_results.txt").write_text(line)
        folders.append(folder)
    kept = [programs.compared("runs", folders[0], other).kept for other in folders]
    assert kept == [True, True, False, False]
