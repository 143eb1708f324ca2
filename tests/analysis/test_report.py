"""Test report.py on run folders whose numbers are known: what it computes, says and names."""

import json
import math
import re
import shutil

import numpy as np
import pytest
from helpers.made_runs import (
    diverge,
    language_run,
    table,
    text,
    vision_run,
    without_figures,
    write_run,
)
from helpers.made_runs import report_on as run
from scipy import stats

import report
from analysis.arguments import read_arguments
from analysis.grouping import group_runs
from analysis.run_folders import find_runs, read_run
from analysis.written_files import earlier_files
from experiments import grid
from experiments import manifest as manifests
from run_folder.metrics import METRICS
from run_folder.result_lines import record_of

RELU = [91.2, 91.9, 91.4, 91.7, 91.5, 91.3]
ZILU = [91.9, 92.1, 92.2, 92.2, 91.9, 92.0]


pytestmark = pytest.mark.usefixtures("quick_figures")


def made(folder, relu=RELU, zilu=ZILU, **flags):
    """Make runs of ReLU and ZiLU, a seed for each number."""
    for seed, (a, b) in enumerate(zip(relu, zilu, strict=True)):
        vision_run(folder / f"ReLU_{seed}", a, activation="ReLU", seed=seed, **flags)
        vision_run(folder / f"ZiLU_{seed}", b, activation="ZiLU", seed=seed, **flags)
    return folder


# --- the numbers ---


def test_numbers_are_scipys(tmp_path):
    run(made(tmp_path), "--margin", 1, "--mde", 0.3)
    relu, zilu = np.array(RELU), np.array(ZILU)
    rows = table(tmp_path, "settings").set_index("setting")
    for name, values in (("ReLU", relu), ("ZiLU (σ = 1)", zilu)):
        row = rows.loc[name]
        low, high = stats.t.interval(0.95, 5, values.mean(), stats.sem(values))
        wanted = {"n": 6, "mean": values.mean(), "sd": values.std(ddof=1), "low": low, "high": high}
        assert {key: row[key] for key in wanted} == pytest.approx(wanted, rel=1e-9)
        assert row["selected_mean"] == pytest.approx(values.mean())
        # 100 images a batch at 1000 images/s; the median of the epochs; 2^30 bytes.
        assert (row["step_ms"], row["epoch_seconds"], row["memory_gib"]) == (100, 2, 1)
    (row,) = table(tmp_path, "comparisons").to_dict("records")
    test, unpaired = stats.ttest_rel(zilu, relu), stats.ttest_ind(zilu, relu, equal_var=False)
    interval, welch = test.confidence_interval(), unpaired.confidence_interval()
    difference = zilu - relu
    shifted = [stats.ttest_1samp(difference + 1, 0, alternative="greater").pvalue,
               stats.ttest_1samp(difference - 1, 0, alternative="less").pvalue]  # fmt: skip
    wanted = {
        "pairs": 6, "difference": difference.mean(), "sd": difference.std(ddof=1),
        "low": interval.low, "high": interval.high, "p_paired_t": test.pvalue,
        "p_holm": test.pvalue, "p_wilcoxon": stats.wilcoxon(zilu, relu, method="exact").pvalue,
        "correlation": np.corrcoef(zilu, relu)[0, 1],
        "effect_size_dz": difference.mean() / difference.std(ddof=1),
        "p_equivalence": max(shifted), "p_welch": unpaired.pvalue,
        "welch_low": welch.low, "welch_high": welch.high,
    }  # fmt: skip
    assert {key: row[key] for key in wanted} == pytest.approx(wanted, rel=1e-7)
    seen = row["detectable_80"]
    assert _power(seen, wanted["sd"], 6) == pytest.approx(0.8, abs=1e-6)
    n = int(row["seeds_needed"])
    assert _power(0.3, wanted["sd"], n) >= 0.8 > _power(0.3, wanted["sd"], n - 1)
    assert row["seeds_needed_low"] <= n <= row["seeds_needed_high"]


def _power(difference, sd, n):
    critical, shift = stats.t.ppf(0.975, n - 1), difference / sd * math.sqrt(n)
    return stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)


def test_holm_over_all_comparisons_but_the_primary(tmp_path):
    made(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("GELU", "SiLU", "Mish"):
        for seed, value in enumerate(RELU):
            shift = rng.normal(0.2, 0.2)
            vision_run(tmp_path / f"{name}_{seed}", value + shift, activation=name, seed=seed)
    run(tmp_path, "--primary", "zilu")
    rows = table(tmp_path, "comparisons")
    assert rows[rows["primary"]]["setting"].tolist() == ["ZiLU (σ = 1)"]
    primary, others = rows[rows["primary"]], rows[~rows["primary"]]
    assert (primary["p_holm"] == primary["p_paired_t"]).all()
    p = np.sort(others["p_paired_t"])
    wanted = np.minimum(1, np.maximum.accumulate(p * [3, 2, 1]))
    assert np.sort(others["p_holm"]) == pytest.approx(wanted)
    assert "**Primary.** ZiLU (σ = 1) against ReLU" in text(tmp_path)
    assert "declared on the command line, when the runs were there" in text(tmp_path)


def test_the_validation_chooses_the_epoch_not_the_test(tmp_path):
    vision_run(tmp_path / "a", [80, 95, 70], val=[60, 50, 40], activation="ReLU", seed=0)
    run(tmp_path)
    (row,) = table(tmp_path, "settings").to_dict("records")
    assert (row["mean"], row["selected_mean"]) == (70, 80)


def test_perplexity_is_better_when_lower(tmp_path):
    for seed in range(4):
        language_run(tmp_path / f"g{seed}", 10 + seed / 10, "GELU", seed)
        language_run(tmp_path / f"z{seed}", 9 + seed / 11, "ZiLU", seed)
    run(tmp_path)
    (row,) = table(tmp_path, "comparisons").to_dict("records")
    assert (row["metric"], row["baseline"]) == ("perplexity", "GELU")
    assert re.search(r"ZiLU \(σ = 1\) against GELU: −1\.0\d\d, .* n = 4\): better", text(tmp_path))
    run(tmp_path, "--metric", "bits_per_byte")
    assert table(tmp_path, "comparisons")["metric"].tolist() == ["bits_per_byte"]


# --- the sentences ---


@pytest.mark.parametrize(
    ("zilu", "words"),
    [
        (ZILU, r"\+0\.55 points, 95 % interval \+0\.31 to \+0\.79; p = 0\.002 \(paired t test, "
               r"n = 6\): better\."),
        ([x - 0.7 + 0.01 * i for i, x in enumerate(RELU)], r"−0\.68 points, .*: worse\."),
        ([92.0, 91.0, 91.6, 91.2, 92.0, 91.0], r"−0\.03 points, .*p = 0\.\d+ .*: not "
         r"distinguishable at n = 6; this comparison could have detected 0\.\d\d points\."),
        ([x + 0.02 * (-1) ** i for i, x in enumerate(RELU)],
         r"not distinguishable at n = 6; .*; equivalent within ±0\.50 points\."),
    ],
)  # fmt: skip
def test_what_a_careful_author_would_write(tmp_path, zilu, words):
    run(made(tmp_path, zilu=zilu), "--margin", 0.5)
    line = next(line for line in text(tmp_path).splitlines() if line.startswith("- ZiLU"))
    assert re.search(words, line), line


def test_too_few_pairs_for_wilcoxon_is_said(tmp_path):
    run(made(tmp_path, RELU[:3], ZILU[:3]))
    warning = "With 3 pairs Wilcoxon's test can never reject at 0.05: its smallest p is 0.25."
    assert warning in text(tmp_path)
    run(made(tmp_path))
    assert "can never reject" not in text(tmp_path)


# --- what is compared with what ---


def test_runs_that_differ_are_not_pooled(tmp_path):
    made(tmp_path / "a")
    made(tmp_path / "b", lr=0.2)
    run(tmp_path)
    assert table(tmp_path, "settings")["n"].tolist() == [6] * 4
    assert len(table(tmp_path, "comparisons")) == 2
    assert "## What differed" in text(tmp_path)
    assert re.search(r"\| resnet20 on cifar10: lr 0.2 +\| +0.2 \|", text(tmp_path))


def test_optimizers_and_their_arguments_keep_runs_apart(tmp_path):
    """A library's own momentum follows from its name, and is no difference of its own."""
    made(tmp_path / "a")
    made(tmp_path / "b", optimizer="RMSprop", optimizer_args="{alpha: 0.9}")
    made(tmp_path / "c", optimizer="RMSprop", optimizer_args="{alpha: 0.5}")
    run(tmp_path)
    assert table(tmp_path, "settings")["n"].tolist() == [6] * 6
    titles = re.findall("^## (resnet20 on .*)", text(tmp_path), re.MULTILINE)
    assert titles == [
        "resnet20 on cifar10: optimizer adamw",
        'resnet20 on cifar10: optimizer RMSprop, optimizer_args {"alpha": 0.9}',
        'resnet20 on cifar10: optimizer RMSprop, optimizer_args {"alpha": 0.5}',
    ]
    made(tmp_path / "d", optimizer="RMSprop", momentum=0.9, optimizer_args="{alpha: 0.5}")
    run(tmp_path)
    assert 'optimizer_args {"alpha": 0.5}, momentum 0.9' in text(tmp_path)


@pytest.mark.parametrize("flags", [{"use_amp": True}, {"val_fraction": 0.2}, {"augment": True}])
def test_what_keeps_runs_apart(tmp_path, flags):
    vision_run(tmp_path / "a", 90, activation="ReLU", seed=0)
    vision_run(tmp_path / "b", 90, activation="ReLU", seed=1, **flags)
    assert len(group_runs(find_runs([tmp_path])).groups) == 2


def test_what_does_not(tmp_path):
    vision_run(tmp_path / "a", 90, activation="ReLU", seed=0)
    flags = {"data_path": "elsewhere", "num_workers": 3, "save_interval": "5", "inplace": True}
    vision_run(tmp_path / "b", 90, activation="ReLU", seed=1, device="cpu", **flags)
    args = tmp_path / "b/args.txt"
    args.write_text(args.read_text().replace("cpu (test)", "cuda (H100)"))
    (group,) = group_runs(find_runs([tmp_path])).groups
    assert group.notes == ["device: cpu (test), cuda (H100)"]
    run(tmp_path)
    assert "pooled although they differ in** device: cpu (test), cuda (H100)" in text(tmp_path)


def test_missing_and_failed_runs_are_named_and_never_averaged(tmp_path, capsys):
    made(tmp_path)
    results = tmp_path / "ZiLU_0/train_eval_results.txt"
    lines = results.read_text().splitlines()
    results.write_text("\n".join([*lines[:1], "[Diverged] in epoch 2, step 7, the training loss"]))
    results = tmp_path / "ZiLU_1/train_eval_results.txt"
    results.write_text("".join(results.read_text().splitlines(keepends=True)[:2]))
    (tmp_path / "ZiLU_2/metrics.jsonl").write_text("{\n")
    shutil.copytree(tmp_path / "ReLU_5", tmp_path / "again")
    run(tmp_path)
    rows = table(tmp_path, "settings").set_index("setting")
    assert rows["n"].to_dict() == {"ReLU": 6, "ZiLU (σ = 1)": 3}
    (comparison,) = table(tmp_path, "comparisons").to_dict("records")
    assert comparison["pairs"] == 3
    assert comparison["difference"] == pytest.approx(np.mean(ZILU[3:]) - np.mean(RELU[3:]))
    shown = text(tmp_path)
    assert "ZiLU_0`: diverged: in epoch 2, step 7" in shown
    assert "ZiLU_1`: interrupted: it has come to epoch" in shown
    assert "ZiLU_2`: unreadable: " in shown
    assert "again`: the same setting and seed as" in shown or "ReLU_5`: the same setting" in shown
    assert "only one of the two has seeds 0, 1, 2; they are left out of the pairs" in shown
    assert "ZiLU (σ = 1): 1 of 4 runs diverged (95 % interval 1 to 81 %)" in shown
    assert "ZiLU_0: diverged" in capsys.readouterr().out
    runs = table(tmp_path, "runs").set_index("run")
    assert runs["used"].sum() == 9
    assert len(runs) == 13


def test_a_run_that_is_older_than_a_flag(tmp_path):
    for seed in (0, 1):
        vision_run(tmp_path / str(seed), 90, activation="ReLU", seed=seed)
    args = tmp_path / "0/args.txt"
    args.write_text(re.sub("label_smoothing.*\n", "", args.read_text()))
    assert len(group_runs(find_runs([tmp_path])).groups) == 1


def test_settings(tmp_path):
    """Sigma distinguishes those that have one, the control, and gradients from the output."""
    for number, flags in enumerate(
        (
            {"activation": "ReLU"},
            {"activation": "ReLU", "sigma": 4, "seed": 1},
            {"activation": "ZiLU", "sigma": 4},
            {"activation": "ZiLU", "sigma": 4, "learn_sigma": True},
            {"activation": "ZiLU", "rescale_init": 4},
            {"activation": "ZiLU", "sigma": 4, "save_for_backward": "output"},
            {"activation": "ReLU", "save_for_backward": "output", "seed": 2},
        )
    ):
        vision_run(tmp_path / str(number), 90, **flags)
    (group,) = group_runs(find_runs([tmp_path])).groups
    assert {s.label: len(runs) for s, runs in group.runs.items()} == {
        "ReLU": 3, "ZiLU (σ = 4)": 1, "ZiLU (σ = 4, from output)": 1, "ZiLU (σ learned from 4)": 1,
        "ZiLU (σ = 1, rescaled by 4)": 1,
    }  # fmt: skip


def test_a_scan_of_sigma(tmp_path, monkeypatch):
    """It comes with rivals of the same slope, with the control, and with a sentence on σ."""
    without_figures(monkeypatch, but=("scan",))
    for seed in range(3):
        for name in ("ReLU", "GELU", "SiLU"):
            vision_run(tmp_path / f"{name}{seed}", 90 + seed / 9, activation=name, seed=seed)
        for sigma in (0.1, 0.785, 1.0, 1.253, 10):
            folder = tmp_path / f"ZiLU{sigma}_{seed}"
            vision_run(folder, 89 + sigma / 9, activation="ZiLU", sigma=sigma, seed=seed)
        vision_run(tmp_path / f"c{seed}", 91, activation="ZiLU", rescale_init=10, seed=seed)
    run(tmp_path)
    rows = table(tmp_path, "comparisons")
    found = {(row.setting, row.baseline, row.purpose) for row in rows.itertuples()}
    assert ("ZiLU (σ = 1.253)", "GELU", "same slope of the gate at 0") in found
    assert ("ZiLU (σ = 0.785)", "SiLU", "same slope of the gate at 0") in found
    control = "ZiLU (σ = 1, rescaled by 10)"
    assert ("ZiLU (σ = 10)", control, "same function at the start") in found
    assert "σ is a reparametrisation: f_σ(x) = f₁(σx)/σ." in text(tmp_path)
    assert "hold no control" not in text(tmp_path)
    assert (tmp_path / "report/figures/scan-1.pdf").exists()
    assert (tmp_path / "report/figures/scan-1.svg").stat().st_size > 0


# --- other code's runs ---

FOREIGN_LINES = [
    "[Epoch 001] Time: 12.3456s | [Train] Loss: 1.23456789 Accuracy: Top1: 55.1234%, Top5: 95.1%"
    " | [Test] Loss: 1.1 Accuracy: Top1: 50.5%, Top5: 94.0%",
    "[Epoch 002] Time: 12.0s | [Train] Loss: 0.9 Accuracy: Top1: 66.0%, Top5: 97.0%"
    " | [Test] Loss: 1.0 Accuracy: Top1: {}%, Top5: 96.0%",
    "Best Top1 accuracy: 99.9%",
]
FOREIGN_ARGUMENTS = {
    "namespace": "Namespace(model='vgg16', dataset='cifar100', activation='{}', sigma=0.5, "
    "epochs=2, lr=0.001, seed={}, save_path='x/{}')",
    "lines": "model: vgg16\ndataset: cifar100\nactivation: {}\nsigma: 0.5\nepochs: 2\nlr: 0.001\n"
    "seed: {}\nsave_path: x/{}\n",
    "equals": "--model = vgg16\ndataset = cifar100\nact = {}\nsigma = 0.5\nnum_epochs = 2\n"
    "lr = 0.001\nseed = {}\nsave_path = x/{}\n",
    "json": '{{"model": "vgg16", "dataset": "cifar100", "activation": "{}", "sigma": 0.5, '
    '"epochs": 2, "lr": 0.001, "seed": {}, "save_path": "x/{}"}}',
}  # fmt: skip


@pytest.mark.parametrize("form", FOREIGN_ARGUMENTS)
def test_folders_that_other_code_wrote(tmp_path, form):
    for seed, (relu, iglu) in enumerate(zip(RELU, ZILU, strict=True)):
        for name, value in (("relu", relu), ("IGLU", iglu)):
            arguments = FOREIGN_ARGUMENTS[form].format(name, seed, f"{name}{seed}")
            lines = [line.format(value) for line in FOREIGN_LINES]
            write_run(tmp_path / f"{name}{seed}", arguments, lines)
    run(tmp_path)
    rows = table(tmp_path, "settings").set_index("setting")
    assert rows["mean"].to_dict() == pytest.approx(
        {"ReLU": np.mean(RELU), "ZiLU (σ = 0.5)": np.mean(ZILU)}
    )
    assert table(tmp_path, "comparisons")["pairs"].tolist() == [6]


def test_foreign_runs_of_other_networks_are_not_pooled(tmp_path):
    for seed in range(4):
        for name, activation in (("a", "relu"), ("b", "gelu")):
            arguments = (
                f"model_name: resnet{seed % 2}\nrun_name: r{seed}\nepochs: 2\nseed: {seed}\n"
            )
            arguments += f"activation_name: {activation}\n"
            lines = [line.format(90 + seed) for line in FOREIGN_LINES]
            write_run(tmp_path / f"{name}{seed}", arguments, lines)
    run(tmp_path)
    rows = table(tmp_path, "settings")
    assert sorted(rows["setting"]) == ["GELU", "GELU", "ReLU", "ReLU"]
    assert sorted(rows["n"]) == [2, 2, 2, 2]


def test_foreign_runs_without_seeds_are_compared_unpaired(tmp_path):
    for number, (relu, zilu) in enumerate(zip(RELU, ZILU, strict=True)):
        for name, value in (("ReLU", relu), ("ZiLU", zilu)):
            lines = [line.format(value) for line in FOREIGN_LINES] + [f"run {number}"]
            write_run(tmp_path / f"{name}{number}", f"activation: {name}\nepochs: 2\n", lines)
    shutil.copytree(tmp_path / "ReLU0", tmp_path / "a copy")
    run(tmp_path)
    (row,) = table(tmp_path, "comparisons").to_dict("records")
    assert (row["pairs"], row["n_setting"], row["n_baseline"]) == (0, 6, 6)
    assert row["p_holm"] == pytest.approx(stats.ttest_ind(ZILU, RELU, equal_var=False).pvalue)
    assert "12 runs do not tell their seed, and pair with none" in text(tmp_path)


def test_a_foreign_nan_is_no_number(tmp_path):
    lines = ["[Epoch 001] Time: 1s | [Train] Loss: nan Perplexity: 1.00 | [Val] Loss: nan "
             "Perplexity: 1.00"]  # fmt: skip
    folder = write_run(tmp_path / "a", "activation: ReLU\nepochs: 1\n", lines)
    assert read_run(folder).kind == "diverged"


def test_a_grid_may_ask_for_every_metric_of_a_report():
    assert set(grid.METRICS) == set(METRICS)


def test_a_line_of_results_gives_its_record_back():
    line = (
        "[Epoch 007] Time: 12.5s | [Train] Loss: 1.25 Perplexity: 3.49 | [Val] Loss: 15e-1 "
        "Perplexity: 4.4817 (per word 12.5, 1.1000 bits per byte)"
    )
    assert record_of(line) == {
        "epoch": 7, "seconds": 12.5, "train": {"loss": 1.25, "perplexity": 3.49},
        "val": {"loss": 1.5, "perplexity": 4.4817, "word_perplexity": 12.5, "bits_per_byte": 1.1},
    }  # fmt: skip
    line = "[Epoch 007] [Test] Loss: 2 Accuracy: Top1: 33%, Top5: 83.5%, Balanced: 29.07%"
    assert record_of(line)["test"] == {"loss": 2, "top1": 33, "top5": 83.5, "balanced": 29.07}
    assert record_of("[Summary] Final: epoch 007") is None


def test_arguments_that_are_none(tmp_path):
    (tmp_path / "args.txt").write_text("nothing to see here")
    with pytest.raises(ValueError, match="no arguments can be read"):
        read_arguments(tmp_path / "args.txt")


TWO_VALUES = [
    "epochs: 2\nlr: 0.1\nlr: 0.2\n", "epochs: 2\nnum_epochs: 4\n", "lr = 0.1\n--lr = 0.2\n",
    "learning-rate: 0.1\nlr: 1\n", '{"lr": 0.1,\n "a": {"b": 1, "b": 2}}',
    "Namespace(epochs=2, lr=0.1, learning_rate=0.2)", "act: ReLU\nactivation: GELU\n",
    "lr: 0.1\nMade by: this: program\nlr: 0.2\n",
]  # fmt: skip
ONE_VALUE = [
    "epochs: 2\nlr: 0.1\nlr: 1.0e-1\n", "epochs: 2\nnum_epochs: 2.0\nlr: 0.1\n",
    "lr = 0.1\n--lr = '0.1'\n", "learning-rate: null\nlr: 0.1\n", "lr: 0.1\nlearning_rate: None\n",
    "Namespace(lr=0.1, learning_rate=0.1)", "lr: 0.1\nact: relu\nactivation: ReLU\n",
]  # fmt: skip


@pytest.mark.parametrize("arguments", TWO_VALUES)
def test_two_values_of_one_argument_are_none(tmp_path, arguments):
    """Neither counts; a last one that does, without a word, may be another run's."""
    assert read_run(foreign(tmp_path / "a", arguments, 91)).kind == "unreadable"
    lines = arguments.splitlines(keepends=True)
    if len(lines) > 1 and not arguments.startswith("{"):
        assert read_run(foreign(tmp_path / "b", "".join(lines[:-1]), 91)).kind != "unreadable"


def test_where_the_two_values_stand_is_said(tmp_path):
    reason = read_run(foreign(tmp_path / "a", "\nepochs: 2\nlr: 1\nn_epochs: 3\n", 91)).reason
    assert re.search(r"epochs 2 \(line 2\) and n_epochs 3 \(line 4\)", reason)


@pytest.mark.parametrize("arguments", ONE_VALUE)
def test_one_value_twice_counts_once(tmp_path, arguments):
    run = read_run(foreign(tmp_path / "a", arguments, 91))
    assert (run.kind, run.flags["lr"]) == ("finished", 0.1)


def foreign(folder, arguments, final, lines=FOREIGN_LINES, **more):
    """Make a run of other code; `more` are arguments."""
    text = arguments + "".join(f"{name}: {value}\n" for name, value in more.items())
    return write_run(folder, text, [line.format(final) for line in lines])


def test_a_line_that_was_cut_is_no_result(tmp_path):
    results = foreign(tmp_path / "a", "activation: ReLU\nepochs: 2\n", 91.4)
    path = results / "train_eval_results.txt"
    whole = path.read_text()
    for length in range(len(FOREIGN_LINES[0]) + 2, whole.index("Best") - 1):
        path.write_text(whole[:length])
        assert read_run(tmp_path / "a").kind == "interrupted", whole[:length]
    path.write_text(whole[: whole.index("Best")])
    assert read_run(tmp_path / "a").kind == "finished"
    path.write_text(whole.replace("| [Test] Loss: 1.0 Accuracy: Top1: 91.4%, Top5: 96.0%", ""))
    assert "lacks the test" in read_run(tmp_path / "a").reason


def test_test_and_validation_results_are_not_compared(tmp_path):
    lines = [line.replace("[Test]", "[Val]") for line in FOREIGN_LINES]
    foreign(tmp_path / "a", "activation: ReLU\nepochs: 2\nseed: 0\n", 91)
    foreign(tmp_path / "b", "activation: GELU\nepochs: 2\nseed: 0\n", 95, lines)
    assert len(group_runs(find_runs([tmp_path])).groups) == 2
    run(tmp_path)
    assert "Validation top-1 accuracy (%)" in text(tmp_path)


def test_sigma_of_an_unknown_activation_distinguishes(tmp_path):
    for sigma in (0.5, 2):
        foreign(tmp_path / str(sigma), "activation: MyGLU\nepochs: 2\n", 91, sigma=sigma)
    (group,) = group_runs(find_runs([tmp_path])).groups
    assert [v.label for v in group.variants] == ["MyGLU (σ = 0.5)", "MyGLU (σ = 2)"]


def test_notations_of_one_value_are_one(tmp_path):
    forms = ["seed: '0'\nlr: 1e-3\nlearn_sigma: false\n", "seed=1\nlr=0.001\nlearn_sigma=False\n"]
    for number, form in enumerate(forms):
        folder = tmp_path / str(number)
        foreign(folder, form, 91, activation="zilu", n_epochs=2, run_name=f"r{number}", sigma="1")
    (group,) = group_runs(find_runs([tmp_path])).groups
    assert [(s.label, sorted(r)) for s, r in group.runs.items()] == [
        ("ZiLU (σ = 1)", [(0, None, None), (1, None, None)])
    ]


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ("activation: ReLU\nmax_epochs: 9\n", "interrupted"),
        ("activation: ReLU\nepochs: many\n", "unreadable"),
        ("activation: ReLU\nsigma: [1]\n", "unreadable"),
        ("activation: ReLU\nseed: [0, 1]\n", "unreadable"),
        ("Namespace(a=<function f>)", "unreadable"),
        ("- a list", "unreadable"),
        ("", "unreadable"),
    ],
)
def test_odd_arguments(tmp_path, arguments, kind):
    assert read_run(foreign(tmp_path / "a", arguments, 91)).kind == kind
    run(tmp_path)


@pytest.mark.parametrize(
    "content",
    ["1\n", "null\n", '{"test": null}\n', '{"epoch": 1, "test": {"loss": null}}\n', '{"a": 1}\n',
     '{"epoch": 1, "val": {"perplexity": 4}, "images_per_second": null}\n', "\n", '"diverged"\n'],
)  # fmt: skip
def test_odd_metrics(tmp_path, content):
    made(tmp_path, RELU[:2], ZILU[:2])
    (tmp_path / "ZiLU_0/metrics.jsonl").write_text(content)
    run(tmp_path)
    assert "ZiLU" in text(tmp_path)


def test_early_infinities_are_left_out_of_curves(tmp_path, monkeypatch):
    without_figures(monkeypatch, but=("curves",))
    lines = [FOREIGN_LINES[0].replace("1.23456789", "inf").replace("Loss: 1.1", "Loss: nan")]
    for seed in (0, 1):
        arguments = f"activation: ReLU\nepochs: 2\nseed: {seed}\n"
        foreign(tmp_path / str(seed), arguments, 90 + seed, [*lines, *FOREIGN_LINES[1:]])
    run(tmp_path)
    assert table(tmp_path, "settings")["n"].tolist() == [2]
    assert (tmp_path / "report/figures/curves-1.svg").stat().st_size > 0


def test_a_final_infinity_is_a_divergence(tmp_path):
    lines = [*FOREIGN_LINES[:1], FOREIGN_LINES[1].replace("Loss: 0.9", "Loss: inf")]
    foreign(tmp_path / "a", "activation: ReLU\nepochs: 2\n", 91, lines)
    assert read_run(tmp_path / "a").kind == "diverged"


def test_one_folder_with_two_names_counts_once(tmp_path):
    made(tmp_path / "runs", RELU[:2], ZILU[:2])
    (tmp_path / "link").symlink_to("runs")
    paths = [tmp_path / "runs", tmp_path / "link", tmp_path / "runs/../runs", tmp_path]
    assert len(find_runs(paths)) == 4
    assert len(find_runs([tmp_path / "link"])) == 4


def test_names_are_shown_as_they_are(tmp_path):
    for seed in range(2):
        for name in ("a|b_c*", "<i>x</i>&"):
            arguments = f"activation: '{name}'\nepochs: 2\nseed: {seed}\n"
            foreign(tmp_path / f"{seed}{len(name)}", arguments, 90 + len(name))
    run(tmp_path)
    page = (tmp_path / "report/report.html").read_text()
    assert "<td>a|b_c*</td>" in page.replace(' style="text-align: left;"', "")
    assert "&lt;i&gt;x&lt;/i&gt;&amp;" in page
    assert "<i>x" not in page


# --- plans ---


def test_a_primary_in_several_groups_is_corrected_and_says_so(tmp_path):
    made(tmp_path / "a")
    made(tmp_path / "b", lr=0.2)
    run(tmp_path, "--primary", "ZiLU")
    rows = table(tmp_path, "comparisons")
    assert rows["primary"].all()
    assert rows["p_holm"].tolist() == pytest.approx((2 * rows["p_paired_t"]).tolist())
    assert text(tmp_path).count("(paired t test, Holm, n = 6)") == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--primary", "ZiLU (σ = 2)"], r"--primary ZiLU \(σ = 2\): no such setting; did you mean"),
        (["--baseline", "ReLU (x)"], r"--baseline ReLU \(x\): no such setting"),
        (["--primary", "ReLU"], r"--primary ReLU: it is the baseline"),
        (["--metric", "perplexity"], r"--metric perplexity: these runs have top1, loss, top5"),
    ],
)
def test_plans_that_fit_no_run(mistake_in, tmp_path, flags, message):
    made(tmp_path, RELU[:2], ZILU[:2])
    assert re.search(message, mistake_in(report, tmp_path, *flags))


def test_two_sweeps_that_declare_different_things(mistake_in, tmp_path):
    for name, margin in (("a", 1.0), ("b", 2.0)):
        made(tmp_path / name, RELU[:2], ZILU[:2], lr=margin)
        runs = [(path.name, "grid", {}, {}) for path in sorted((tmp_path / name).iterdir())]
        sweep_of(tmp_path / name, runs, report={"margin": margin})
    message = mistake_in(report, tmp_path)
    assert "two sweeps declare --margin 1.0 and 2.0; give the flag" in message
    run(tmp_path, "--margin", 3)


def test_no_pair_is_compared_twice(tmp_path):
    for seed in range(2):
        vision_run(tmp_path / f"g{seed}", 90 + seed, activation="GELU", seed=seed)
        vision_run(tmp_path / f"z{seed}", 91, activation="ZiLU", sigma=1.25331, seed=seed)
    run(tmp_path, "--baseline", "ZiLU")
    assert len(table(tmp_path, "comparisons")) == 1
    vision_run(tmp_path / "r0", 91, activation="ReLU", seed=0)
    run(tmp_path, "--baseline", "ReLU")
    assert "same slope of the gate at 0" in set(table(tmp_path, "comparisons")["purpose"])


def test_a_report_while_a_tuning_runs(tmp_path):
    group = {"activation": "ReLU"}
    runs = [(f"tune/{lr}", "trial", {**group, "lr": lr, "seed": 9}, group) for lr in (0.1, 0.2)]
    sweep_of(tmp_path, runs, tune={"lr": [0.1, 0.2]})
    run(tmp_path)
    assert "ReLU: 2 trials have not ended." in text(tmp_path)


def test_each_sigma_that_is_tuned_by_itself_has_a_name_of_its_own(tmp_path):
    runs = []
    for sigma, expanded in ((1.0, False), (1.253, False), (1.0, True)):
        group = {"activation": "ZiLU", "sigma": sigma, "expand_gate": expanded}
        runs.append((f"tune/{sigma}{expanded}", "trial", {**group, "lr": 0.1, "seed": 9}, group))
    sweep_of(tmp_path, runs, tune={"lr": [0.1]})
    run(tmp_path)
    for name in ("ZiLU (σ = 1)", "ZiLU (σ = 1.253)", "ZiLU (σ = 1, expanded gate)"):
        assert f"{name}: 1 trials have not ended." in text(tmp_path)


# --- sweeps ---


def sweep_of(folder, runs, **content):
    """Write the manifest of a sweep with these runs: (name, role, flags, group) each."""
    entries = [manifests.Run(i, *each) for i, each in enumerate(runs, 1)]
    plan = manifests.Manifest(
        folder, "vision", content.get("tune", {}), content.get("report", {}), entries, "", "today"
    )
    return manifests.frozen(plan)


def test_what_the_grid_declared_counts(tmp_path):
    made(tmp_path)
    runs = [(path.name, "grid", {}, {}) for path in sorted(tmp_path.iterdir())]
    declared = {"baseline": "ZiLU", "primary": "ReLU", "margin": 0.25}
    sweep_of(tmp_path, [*runs, ("GELU_0", "grid", {}, {})], report=declared)
    run(tmp_path)
    (row,) = table(tmp_path, "comparisons").to_dict("records")
    assert (row["setting"], row["baseline"], row["primary"]) == ("ReLU", "ZiLU (σ = 1)", True)
    assert "declared in the grid file, before the runs" in text(tmp_path)
    assert "Differences within ±0.25 count as equivalent" in text(tmp_path)
    assert "GELU_0`: missing: it has not been run" in text(tmp_path)
    run(tmp_path, "--baseline", "ReLU", "--primary", "ZiLU")
    (row,) = table(tmp_path, "comparisons").to_dict("records")
    assert (row["setting"], row["primary"]) == ("ZiLU (σ = 1)", True)
    assert "declared on the command line" in text(tmp_path)
    run(tmp_path, "--margin", 3)
    assert "declared on the command line" in text(tmp_path)


def test_what_one_grid_declared_does_not_pass_for_what_all_did(tmp_path):
    made(tmp_path / "declared")
    runs = [(path.name, "grid", {}, {}) for path in sorted((tmp_path / "declared").iterdir())]
    sweep_of(tmp_path / "declared", runs, report={"primary": "ZiLU", "margin": 0.25})
    made(tmp_path / "other", model="resnet32")
    run(tmp_path)
    assert "declared for some of these runs alone, in their grid file" in text(tmp_path)


def test_a_margin_counts_for_its_own_metric(tmp_path):
    """0.25 points of accuracy are not 0.25 nats."""
    made(tmp_path)
    runs = [(path.name, "grid", {}, {}) for path in sorted(tmp_path.iterdir())]
    sweep_of(tmp_path, runs, report={"margin": 0.25, "mde": 0.5})
    run(tmp_path, "--metric", "loss")
    assert "count as equivalent" not in text(tmp_path)
    run(tmp_path, "--metric", "top1")
    assert "Differences within ±0.25 count as equivalent" in text(tmp_path)


@pytest.mark.parametrize("declared", [{}, {"metric": "top1"}])
def test_runs_without_results_do_not_decide_whose_unit_a_margin_has(tmp_path, declared):
    """One that is planned, and one that diverged before its first evaluation."""
    made(tmp_path)
    early = diverge(vision_run(tmp_path / "ZiLU_6", 50, activation="ZiLU", seed=6))
    (early / "train_eval_results.txt").write_text("[Diverged] in epoch 1, step 2, the loss is nan")
    (early / "metrics.jsonl").unlink()
    runs = [(path.name, "grid", {}, {}) for path in sorted(tmp_path.iterdir())]
    planned = ("GELU_0", "grid", {}, {})
    sweep_of(tmp_path, [*runs, planned], report={"margin": 0.25, **declared})
    run(tmp_path, "--metric", "loss")
    assert "count as equivalent" not in text(tmp_path)
    run(tmp_path, "--metric", "top1")
    assert "Differences within ±0.25 count as equivalent" in text(tmp_path)


def test_a_tuning_is_told(tmp_path):
    """Trials are no results; the budget, the choice and an optimum at the edge are stated."""
    runs = []
    for name in ("ReLU", "GELU"):
        group = {"activation": name}
        for lr, value in ((0.1, 80), (0.2, 85), (0.3, 82 if name == "GELU" else 90)):
            flags = {"activation": name, "lr": lr, "seed": 9}
            vision_run(tmp_path / f"tune/{name}_{lr}", value, **flags)
            runs.append((f"tune/{name}_{lr}", "trial", flags, group))
        for seed in (0, 1, 2):
            chosen = {"activation": name, "lr": 0.2 if name == "GELU" else 0.3, "seed": seed}
            vision_run(tmp_path / f"tuned_{name}_{seed}", 90 + seed + (name == "GELU"), **chosen)
            runs.append((f"tuned_{name}_{seed}", "tuned", {"activation": name}, group))
            equal = {"activation": name, "lr": 0.1, "seed": seed}
            vision_run(tmp_path / f"{name}_{seed}", 80 + seed, **equal)
            runs.append((f"{name}_{seed}", "grid", equal, {}))
    sweep_of(tmp_path, runs, tune={"lr": [0.1, 0.2, 0.3]})
    run(tmp_path)
    rows = table(tmp_path, "comparisons")
    assert rows["setting"].tolist() == ["GELU", "GELU (tuned)"]
    assert rows["difference"].tolist() == pytest.approx([0, 1])
    shown = text(tmp_path)
    assert "Each activation had 3 trials" in shown
    assert "ReLU: lr = 0.3 is the largest tried; a better value may lie beyond." in shown
    assert "GELU: lr" not in shown
    assert "6 are [left out]" in shown
    assert table(tmp_path, "tuning")["chosen"].dropna().tolist() == ["chosen"] * 2


def test_tunings_of_several_models_are_told_apart(tmp_path):
    """And while a trial has not ended, none is chosen."""
    runs = []
    for model in ("resnet20", "resnet32"):
        group = {"model": model, "activation": "GELU", "dataset": "cifar10"}
        for lr in (0.1, 0.2, 0.3):
            flags = {**group, "lr": lr, "seed": 9}
            runs.append((f"tune/{model}_{lr}", "trial", flags, group))
            if (model, lr) != ("resnet32", 0.3):
                vision_run(tmp_path / f"tune/{model}_{lr}", 80 + lr, **flags)
    sweep_of(tmp_path, runs, tune={"lr": [0.1, 0.2, 0.3]})
    run(tmp_path)
    rows = table(tmp_path, "tuning")
    assert list(rows) == ["model", "activation", "lr", "trials", "validation score", "chosen"]
    assert rows["model"].tolist() == ["resnet20"] * 3 + ["resnet32"] * 2
    assert rows["chosen"].fillna("").tolist() == ["", "", "chosen", "", "best so far"]


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """Runs, and a report of them with all figures; not to be changed."""
    folder = tmp_path_factory.mktemp("complete")
    run(made(folder / "runs"), "--output_dir", folder / "report")
    return folder


def test_the_same_runs_give_the_same_files(complete, tmp_path, drawn):
    run(complete / "runs", "--output_dir", tmp_path)
    report = complete / "report"
    names = sorted(p.relative_to(report) for p in report.rglob("*") if p.is_file())
    assert len(names) > 15
    for name in names:
        assert (report / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_an_earlier_reports_files_go_and_the_users_stay(tmp_path):
    made(tmp_path / "a", RELU[:2], ZILU[:2])
    made(tmp_path / "b", RELU[:2], ZILU[:2], lr=0.2)
    run(tmp_path)
    folder = tmp_path / "report"
    (folder / "figures/mine.png").write_text("mine")
    names = {path.name for path in folder.rglob("*")}
    assert {"curves-2.svg", "settings-2.tex"} <= names
    shutil.rmtree(tmp_path / "b")
    run(tmp_path)
    left = {path.name for path in folder.rglob("*")}
    assert not [name for name in left if "-2." in name]
    assert "mine.png" in left
    written = {path for path in folder.glob("*/*") if path.name != "mine.png"}
    assert len(written) == 4 * 3 + 2  # figures in three formats, and tables
    assert written <= set(earlier_files(folder))


def test_one_file_that_opens_offline(complete):
    html = (complete / "report/report.html").read_text()
    assert html.count("data:image/svg+xml;base64,") == 4
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', html)
    endings = {path.suffix for path in (complete / "report/figures").iterdir()}
    assert endings == {".png", ".svg", ".pdf"}
    tex = (complete / "report/tables/comparisons-1.tex").read_text()
    assert r"\toprule" in tex
    assert r"ZiLU ($\sigma$ = 1) & ReLU" in tex
    assert tex.isascii()


# --- mistakes ---


def test_mistakes_get_one_line(mistake_in, tmp_path):
    assert "no folder; give run folders" in mistake_in(report, tmp_path / "none")
    assert "no run there" in mistake_in(report, tmp_path)
    made(tmp_path, RELU[:2], ZILU[:2])
    message = mistake_in(report, tmp_path, "--baseline", "RLU")
    assert (
        "--baseline RLU: no such setting; did you mean ReLU? known: ReLU, ZiLU (σ = 1)" in message
    )
    assert "expected a number above 0" in mistake_in(report, tmp_path, "--margin", "-1")
    assert "did you mean top5?" in mistake_in(report, tmp_path, "--metric", "top")
    assert not (tmp_path / "report").exists()


def test_a_run_that_was_trained_beyond_its_end_is_left_out(tmp_path):
    vision_run(tmp_path / "good", 90.0, seed=0, max_steps=30)
    vision_run(tmp_path / "beyond", 10.0, seed=1, max_steps=25)
    run(tmp_path)
    assert "trained to step 30, beyond --max_steps 25" in text(tmp_path)
    assert "2 runs were found, 1 of them" in text(tmp_path)


def test_no_finished_run_is_said(tmp_path):
    write_run(tmp_path / "a", json.dumps({"activation": "ReLU", "epochs": 5}), FOREIGN_LINES[:1])
    run(tmp_path)
    assert "No run has finished: there is nothing to compare." in text(tmp_path)
    assert "it has come to epoch 1 of 5" in text(tmp_path)
