"""What other code printed: perplexities with all digits of the loss, and test results apart."""

import math
import os
import shutil
from pathlib import Path

import pytest
from helpers.made_runs import language_run, table, text, write_run
from helpers.made_runs import report_on as run

from analysis.grouping import group_runs
from analysis.run_folders import find_runs, read_run

pytestmark = pytest.mark.usefixtures("quick_figures")

DATA = Path(os.environ.get("ZILU_TEST_DATA", "nowhere"))
EPOCHS = (
    "[Epoch 001] Time: 9.5s | [Train] Loss: 4.88571902 Perplexity: 132.39 | "
    "[Val] Loss: 3.57602382 Perplexity: 35.73",
    "[Epoch 002] Time: 9.4s | [Train] Loss: 2.40578588 Perplexity: 11.09 | "
    "[Val] Loss: 2.75404636 Perplexity: 15.71",
)
TEST = "[Test] Loss: 2.76148387 Perplexity: 15.82"
ARGUMENTS = "activation: {}\nepochs: 2\nseed: {}\n"


def made(folder, lines, activation="gelu", seed=42):
    """Make the folder of a run of other code."""
    return write_run(folder, ARGUMENTS.format(activation, seed), list(lines))


# --- perplexities ---


def test_perplexity_is_that_of_the_loss(tmp_path):
    """Two runs whose printed perplexities are the same are told apart."""
    for seed, nudge in enumerate((0.0, 1e-4)):
        for name, loss in (("GELU", 2.75404636), ("ZiLU", 2.75404636 + nudge)):
            last = f"[Epoch 002] [Train] Loss: 2 Perplexity: 7.39 | [Val] Loss: {loss:.8f} " \
                   f"Perplexity: {math.exp(2.75404636):.2f}"  # fmt: skip
            made(tmp_path / f"{name}{seed}", [EPOCHS[0], last], name, seed)
    run(tmp_path)
    rows = table(tmp_path, "runs").set_index("run")["final"]
    found = {Path(path).name: value for path, value in rows.items()}
    assert found["GELU0"] == found["ZiLU0"] == pytest.approx(math.exp(2.75404636), rel=1e-12)
    (row,) = table(tmp_path, "comparisons").to_dict("records")
    difference = (math.exp(2.75414636) - math.exp(2.75404636)) / 2
    assert row["difference"] == pytest.approx(difference, rel=1e-5)


@pytest.mark.parametrize(
    ("printed", "perplexity", "remarked"),
    [
        ("Loss: 2.75404636 Perplexity: 15.71", math.exp(2.75404636), False),
        ("Loss: 2.75404636 Perplexity: 15.70", math.exp(2.75404636), False),  # cut, not rounded
        ("loss = 2.75404636, PPL = 15.706", math.exp(2.75404636), False),
        ("LOSS 2.75404636   perplexity 1.57e+01", math.exp(2.75404636), False),
        ("Perplexity: 15.71 Loss: 2.75404636", math.exp(2.75404636), False),
        ("Loss: 7.12345678 Perplexity: 1,240.73", math.exp(7.12345678), False),
        # The loss has fewer digits than the perplexity.
        ("Loss: 2.75 Perplexity: 15.71", 15.71, False),
        ("Loss: 3 Perplexity: 19.9", 19.9, False),
        # By more than rounding: bits, a mean over batches, a cap.
        ("Loss: 3.97325 Perplexity: 15.71", 15.71, True),
        ("Loss: 2.75404636 Perplexity: 15.75", 15.75, True),
        ("Loss: 25.0 Perplexity: 485165195.41", 485165195.41, True),
        ("Loss: 2.75404636 Perplexity: nan", math.exp(2.75404636), True),
        ("Loss: 2.75404636 Perplexity: inf", math.exp(2.75404636), True),
        # Too large for exp, or no number: not the 1.00 that stands beside it.
        ("Loss: 800.5 Perplexity: inf", math.inf, False),
        ("Loss: inf Perplexity: inf", math.inf, False),
        ("Loss: nan Perplexity: 1.00", math.nan, False),
        ("Loss: -inf Perplexity: 0.00", math.nan, False),
        # There is one of the two alone.
        ("Perplexity: 15.71", 15.71, False),
    ],
)
def test_of_a_line(tmp_path, printed, perplexity, remarked):
    line = "[Epoch 00{}] Time: 9s | [Train] Loss: 2 Perplexity: 7.39 | [Val] {}"
    lines = [line.format(epoch, printed) for epoch in (1, 2)]
    found = read_run(made(tmp_path / "a", lines))
    assert found.final["val"]["perplexity"] == pytest.approx(perplexity, rel=1e-12, nan_ok=True)
    assert bool(found.remarks) == remarked
    numbers = [value for split in ("train", "val") for value in found.final[split].values()]
    assert (found.kind == "finished") == all(map(math.isfinite, numbers))


def test_a_contradiction_is_in_the_report(tmp_path):
    """Once for a run, with the first case and the number of the others."""
    lines = [line.replace("15.71", "15.9").replace("35.73", "36.5") for line in EPOCHS]
    made(tmp_path / "a", lines)
    made(tmp_path / "b", EPOCHS, "relu")
    run(tmp_path)
    rows = table(tmp_path, "runs").set_index("run")["remarks"].fillna("")
    assert rows[str(tmp_path / "b")] == ""
    remark = rows[str(tmp_path / "a")]
    assert "exp(loss 3.57602) is 35.7" in remark
    assert "printed 36.5 (epoch 1), and 1 more" in remark
    assert text(tmp_path).count("printed 36.5") == 1


def test_the_best_epoch_is_not_one_without_a_number(tmp_path):
    line = "[Epoch 001] [Train] Loss: 2.5 Perplexity: 12.18 | [Val] Loss: nan Perplexity: 1.00"
    found = read_run(made(tmp_path / "a", [line, EPOCHS[1]]))
    assert found.best["epoch"] == 2
    assert math.isnan(found.records[0]["val"]["perplexity"])


# --- the test result ---


def test_a_test_line_is_the_runs_test_result(tmp_path):
    for name, shift in (("GELU", 0.0), ("ZiLU", 0.1)):
        for seed in (0, 1):
            loss = 2.7 + shift + seed / 7
            line = f"[Test] Loss: {loss:.8f} Perplexity: {math.exp(loss):.2f}"
            made(tmp_path / f"{name}{seed}", [*EPOCHS, "", line, "", "Min: 3"], name, seed)
    run(tmp_path)
    rows = table(tmp_path, "settings").set_index("setting")
    losses = (2.7, 2.7 + 1 / 7)
    assert rows.loc["GELU", "mean"] == pytest.approx(sum(map(math.exp, losses)) / 2, rel=1e-7)
    validation = math.exp(2.75404636)
    assert rows["validation_mean"].tolist() == pytest.approx([validation] * 2, rel=1e-9)
    (row,) = table(tmp_path, "comparisons").to_dict("records")
    wanted = sum(math.exp(loss + 0.1) - math.exp(loss) for loss in losses) / 2
    assert row["difference"] == pytest.approx(wanted, rel=1e-6)
    shown = text(tmp_path)
    assert "Test perplexity per token: final" in shown
    (heading,) = [line for line in shown.splitlines() if "final validation: mean" in line]
    (line,) = [line for line in shown.splitlines() if line.startswith("| GELU")][:1]
    cells = dict(zip(*([cell.strip() for cell in row.split("|")] for row in (heading, line)),
                     strict=True))  # fmt: skip
    assert (cells["final: mean"], cells["final validation: mean"]) == ("16.022", "15.706")


@pytest.mark.parametrize(
    "line",
    ["  [test]  loss:2.76148387  PERPLEXITY:15.82", "[TEST] | Loss = 2.76148387 | PPL = 15.82",
     "[ Test ] Perplexity: 15.82, Loss: 2.76148387", "[Test] Loss 2.76148387\tPerplexity 15.82"],
)  # fmt: skip
def test_however_it_is_spaced(tmp_path, line):
    epochs = [
        "  [epoch 1/2] time: 9s | [ train ] loss: 2 ppl: 7.39 | [VAL] LOSS: 2.8 PPL: 16.44",
        "[EPOCH: 2 / 2] Time: 9.4 S | [train] loss 1.9 PPL 6.69 | [validation] loss=2.7 ppl=14.88",
    ]
    found = read_run(made(tmp_path / "a", [*epochs, line]))
    assert found.kind == "finished", found.reason
    assert found.judged == {"loss": 2.76148387, "perplexity": math.exp(2.76148387)}
    assert [record["val"]["loss"] for record in found.records] == [2.8, 2.7]
    assert [record["seconds"] for record in found.records] == [9, 9.4]


def test_of_an_accuracy(tmp_path):
    """Beside validation accuracies; and a run that was tested in each epoch keeps those results."""
    line = "[Epoch 00{}] [Train] Loss: 1 Top1: 60% | [{}] Loss: 1.5 Accuracy: Top1: {}%, Top5: 95%"
    test = "[Test] Loss: 1.25 Accuracy: Top1: 72.5%, Top5: 97.0%"
    epochs = [line.format(1, "Val", 70), line.format(2, "Val", 71)]
    found = read_run(made(tmp_path / "a", [*epochs, test]))
    assert (found.judged["top1"], found.final["val"]["top1"]) == (72.5, 71)
    assert not found.remarks
    epochs = [line.format(1, "Test", 70), line.format(2, "Test", 71)]
    found = read_run(made(tmp_path / "b", [*epochs, test]))
    assert found.judged["top1"] == 71
    (remark,) = found.remarks
    assert "71 and 72.5" in remark or "1.5 and 1.25" in remark
    same = test.replace("1.25", "1.5").replace("72.5", "71").replace("97.0", "95")
    assert not read_run(made(tmp_path / "c", [*epochs, same])).remarks


def test_tested_twice(tmp_path):
    """After a resume: the last one counts, and one that is not the same is told."""
    other = TEST.replace("2.76148387", "2.75").replace("15.82", "15.64")
    found = read_run(made(tmp_path / "a", [*EPOCHS, TEST, TEST]))
    assert (found.judged["loss"], found.remarks) == (2.76148387, [])
    found = read_run(made(tmp_path / "b", [*EPOCHS, other, "", TEST]))
    assert found.judged["loss"] == 2.76148387
    assert "2.75 and 2.76148" in found.remarks[0]
    # Each belongs to the epoch before it: this one was trained for longer after its first test.
    found = read_run(made(tmp_path / "c", [EPOCHS[0], other, EPOCHS[1], TEST]))
    assert [record["test"]["loss"] for record in found.records] == [2.75, 2.76148387]
    assert not found.remarks
    found = read_run(made(tmp_path / "d", [EPOCHS[0], other, EPOCHS[1]]))
    assert (found.kind, found.judged["loss"]) == ("finished", 2.75404636)


def test_a_test_line_that_tells_nothing(tmp_path):
    lines = ["[Test] 3 batches", "[Test]", "Test: Loss: 1", "# [Test] Loss: 1", "[Tests] Loss: 1"]
    found = read_run(made(tmp_path / "a", [TEST, *EPOCHS, *lines]))
    assert "test" not in found.final
    assert (found.kind, found.judged["loss"]) == ("finished", 2.75404636)
    path = made(tmp_path / "b", [*EPOCHS, TEST]) / "train_eval_results.txt"
    path.write_text(path.read_text()[:-4])  # a line that was cut
    assert "test" not in read_run(tmp_path / "b").final
    found = read_run(made(tmp_path / "c", [*EPOCHS, "[Test] Loss: nan Perplexity: nan"]))
    assert found.kind == "diverged"


def test_tested_and_validated_runs_are_not_compared(tmp_path):
    made(tmp_path / "a", [*EPOCHS, TEST])
    made(tmp_path / "b", EPOCHS, "relu")
    assert len(group_runs(find_runs([tmp_path])).groups) == 2
    run(tmp_path)
    assert "judged_on" in text(tmp_path)


def test_our_runs_that_are_tested_once_show_both_too(tmp_path):
    for seed in range(2):
        language_run(tmp_path / f"g{seed}", 10 + seed, "GELU", seed)
    run(tmp_path)
    (row,) = table(tmp_path, "settings").to_dict("records")
    assert (row["mean"], row["validation_mean"]) == (10.5, 11.0)


@pytest.mark.skipif(not (DATA / "author_runs").is_dir(), reason="needs ZILU_TEST_DATA")
def test_the_runs_of_the_original_code(tmp_path):
    """It printed its best validation perplexity with four digits, once: an independent value."""
    for name in ("gpt2_gelu", "gpt2_gelu_s50"):
        folder = shutil.copytree(DATA / "author_runs" / name, tmp_path / name)
        lines = (folder / "train_eval_results.txt").read_text().splitlines()
        (least,) = [line.split()[2] for line in lines if line.startswith("Min Perplexity")]
        (tested,) = [line.split()[2] for line in lines if line.startswith("[Test]")]
        found = read_run(folder)
        assert f"{found.final['val']['perplexity']:.4f}" == least
        assert found.judged["perplexity"] == math.exp(float(tested))
        assert not found.remarks
    run(tmp_path)
    rows = table(tmp_path, "runs").set_index("run")
    row = rows.loc[str(tmp_path / "gpt2_gelu")]
    assert row["final"] == pytest.approx(15.8233, abs=5e-5)
    assert row["validation"] == pytest.approx(15.7061, abs=5e-5)
