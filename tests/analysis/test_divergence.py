"""Test how a report counts, tests and tells runs that diverged."""

import math
import shutil

import pytest
from helpers.made_runs import (
    diverge,
    language_run,
    report_on,
    table,
    text,
    vision_run,
    without_figures,
)
from scipy import stats

from experiments import manifest as manifests


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    without_figures(monkeypatch)


def made(folder, name, finished, diverged=0, **flags):
    """Make runs of one setting, seed by seed; the first ones diverge."""
    for seed in range(finished + diverged):
        run = vision_run(folder / f"{name}_{seed}", 90 + seed, activation=name, seed=seed, **flags)
        if seed < diverged:
            diverge(run)
    return folder


def test_shares_are_of_the_runs_that_ended(tmp_path):
    made(tmp_path, "ReLU", 10)
    made(tmp_path, "ZiLU", 4, 6)
    made(tmp_path, "GELU", 9, 1)
    results = tmp_path / "GELU_9/train_eval_results.txt"
    results.write_text(results.read_text().splitlines(keepends=True)[0])  # it was interrupted
    report_on(tmp_path)
    rows = table(tmp_path, "divergence").set_index("setting")
    counts = rows[["started", "ended", "diverged"]]
    assert counts.loc["ReLU"].tolist() == [10, 10, 0]
    assert counts.loc["GELU"].tolist() == [10, 9, 1]
    assert counts.loc["ZiLU (σ = 1)"].tolist() == [10, 10, 6]
    zilu, gelu = rows.loc["ZiLU (σ = 1)"], rows.loc["GELU"]
    # Of Clopper and Pearson by quantiles of beta; Fisher's by the hypergeometric.
    ends = stats.beta.ppf(0.025, 6, 5), stats.beta.ppf(0.975, 7, 4)
    assert (zilu["share"], zilu["low"], zilu["high"]) == pytest.approx((0.6, *ends))
    # 6 of 20 diverged, all of them on one side of ten: twice as likely as on that side alone.
    alone = stats.hypergeom(20, 6, 10).pmf(6)
    assert zilu["p_fisher"] == pytest.approx(2 * alone)
    assert gelu["p_fisher"] == pytest.approx(stats.fisher_exact([[1, 8], [0, 10]]).pvalue)
    assert zilu["p_holm"] == pytest.approx(min(1, 2 * zilu["p_fisher"]))
    # They are in no mean: seeds 6 to 9 of ZiLU have 96 to 99.
    assert table(tmp_path, "settings").set_index("setting").loc["ZiLU (σ = 1)", "mean"] == 97.5


def test_an_infinite_perplexity_is_a_divergence(tmp_path, capsys):
    """Its loss is a number, and exp of it is none; the other runs are compared."""
    for seed in range(6):
        language_run(tmp_path / f"ReLU_{seed}", 9 + seed / 10, "ReLU", seed)
        perplexity = math.inf if seed == 2 else 8 + seed / 10
        language_run(tmp_path / f"ZiLU_{seed}", perplexity, "ZiLU", seed)
    report_on(tmp_path)
    printed = capsys.readouterr().out
    assert "against ReLU: −1.000, 95 % interval −1.000 to −1.000; p < 0.001" in printed
    assert "(paired t test, n = 5)" in printed
    diverged = table(tmp_path, "divergence").set_index("setting")["diverged"]
    assert diverged["ZiLU (σ = 1)"] == 1


def test_sentences(tmp_path, capsys):
    made(tmp_path, "ReLU", 10)
    made(tmp_path, "ZiLU", 4, 6)
    made(tmp_path, "GELU", 8, 2)
    made(tmp_path, "SiLU", 10)
    report_on(tmp_path)
    assert (
        "- ZiLU (σ = 1): 6 of 10 runs diverged (95 % interval 26 to 88 %); against ReLU "
        "p = 0.033 (Fisher's exact test, Holm): more often."
    ) in text(tmp_path)
    assert (
        "- GELU: 2 of 10 runs diverged (95 % interval 3 to 56 %); against ReLU p = 0.95 (Fisher's "
        "exact test, Holm): not distinguishable."
    ) in text(tmp_path)
    assert "- SiLU: 0 of 10" not in text(tmp_path)
    lines = text(tmp_path).splitlines()
    zilu = next(line for line in lines if line.startswith("- ZiLU (σ = 1) against ReLU: "))
    assert zilu.endswith(". Only of runs that finished: 6 of 10 runs of ZiLU (σ = 1) diverged.")
    silu = next(line for line in lines if line.startswith("- SiLU against ReLU: "))
    assert "Only of runs" not in silu
    assert zilu.removeprefix("- ") in capsys.readouterr().out
    assert (tmp_path / "report/tables/divergence-1.tex").read_text().count("ReLU") == 4


def test_a_baseline_that_diverged_altogether(tmp_path):
    made(tmp_path, "ReLU", 0, 4)
    made(tmp_path, "GELU", 4)
    report_on(tmp_path, "--baseline", "ReLU")
    rows = table(tmp_path, "divergence").set_index("setting")
    assert rows.loc["GELU", "baseline"] == "ReLU"
    assert rows.loc["GELU", "p_fisher"] == pytest.approx(2 / 70)
    assert "GELU: 0 of 4 runs diverged (95 % interval 0 to 60 %); against ReLU" in text(tmp_path)
    assert "Nothing to compare: it has one setting, or lacks the baseline." in text(tmp_path)


def test_where_no_run_finished(tmp_path):
    made(tmp_path / "a", "ReLU", 2)
    made(tmp_path / "b", "ReLU", 0, 2, lr=9.0)
    report_on(tmp_path)
    rows = table(tmp_path, "divergence")
    assert rows["group"].tolist() == ["resnet20 on cifar10: lr 9 (no run finished)"]
    assert "Diverged, **resnet20 on cifar10: lr 9 (no run finished)**:" in text(tmp_path)
    shutil.rmtree(tmp_path / "a")
    report_on(tmp_path)
    assert "No run has finished: there is nothing to compare." in text(tmp_path)
    assert "ReLU: 2 of 2 runs diverged (95 % interval 16 to 100 %)." in text(tmp_path)


def test_a_copy_counts_once_and_a_trial_never(tmp_path):
    made(tmp_path, "ReLU", 1, 1)
    shutil.copytree(tmp_path / "ReLU_0", tmp_path / "again")
    flags = {"activation": "ReLU", "seed": 9, "lr": 0.1}
    diverge(vision_run(tmp_path / "trial", 10, **flags))
    entry = manifests.Run(1, "trial", "trial", flags, {"activation": "ReLU"})
    plan = manifests.Manifest(tmp_path, "vision", {"lr": [0.1]}, {}, [entry], "", "today")
    manifests.frozen(plan)
    report_on(tmp_path)
    (row,) = table(tmp_path, "divergence").to_dict("records")
    assert (row["started"], row["ended"], row["diverged"]) == (2, 2, 1)


def test_nothing_is_said_where_nothing_diverged(tmp_path):
    report_on(made(tmp_path, "ReLU", 2))
    assert "iverge" not in text(tmp_path)
    assert not (tmp_path / "report/divergence.csv").exists()
