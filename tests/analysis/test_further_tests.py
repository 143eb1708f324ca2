"""What reports make of further test sets and averaged weights, by numpy and scipy."""

import json
import re

import numpy as np
import pytest
from helpers.further_sets import COUNTED, EXTRA
from helpers.made_runs import report_on, table, text, vision_run
from scipy import stats

from run_folder.records import read_also, read_records

pytestmark = pytest.mark.usefixtures("quick_figures")

SEEDS = 4
# Of ReLU and ZiLU, by seed.
TEST = {"ReLU": [90.0, 90.6, 90.3, 90.9], "ZiLU": [91.0, 91.8, 91.1, 91.7]}
SHIFTED = {"ReLU": [70.0, 71.0, 69.0, 72.0], "ZiLU": [75.0, 74.0, 74.5, 76.5]}
AVERAGED = {"ReLU": [90.5, 90.7, 90.4, 91.0], "ZiLU": [91.1, 91.7, 91.3, 91.8]}


def add(run, key, name, top1, without="", **more):
    result = {"loss": 1.0, "top1": top1, "top5": 99.0, "count": 100} | more
    result.pop(without, None)
    line = {"epoch": 3, "step": 30, key: {name: result}}
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")


def corruption(name, severity, accuracy):
    """An accuracy that falls with severity, from corruption to corruption further."""
    return accuracy - 2 * severity - (*COUNTED, *EXTRA).index(name)


def made(folder):
    """Runs with a shifted set, a corrupted one, and averaged weights."""
    for name in TEST:
        for seed in range(SEEDS):
            run = vision_run(folder / f"{name}{seed}", TEST[name][seed], activation=name, seed=seed)
            lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
            lines[-1]["test_ema"] = lines[-1]["test"] | {"top1": AVERAGED[name][seed]}
            (run / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
            shifted = SHIFTED[name][seed]
            add(run, "also", "shifted", 1.0)  # of a run that was interrupted and went on
            add(run, "also", "shifted", shifted)
            add(run, "also_ema", "shifted", shifted + 1)
            parts = {
                f"{each}/{severity}": {"loss": 1.0, "top1": corruption(each, severity, shifted)}
                for each in (*COUNTED, *EXTRA)
                for severity in range(1, 6)
            }
            mean = np.mean([parts[f"{c}/{s}"]["top1"] for c in COUNTED for s in range(1, 6)])
            add(run, "also", "cifar10-c", float(mean), averaged=75, parts=parts)
    return folder


@pytest.fixture
def reported(tmp_path):
    report_on(made(tmp_path), "--baseline", "ReLU")
    return tmp_path


def test_the_tables_are_of_the_runs_files(reported):
    rows = table(reported, "further").set_index(["test_set", "setting"])
    assert {*rows.index.get_level_values(0)} == {"test EMA", "shifted", "shifted EMA", "cifar10-c"}
    variants = {name: next(x for x in rows.index.levels[1] if x.startswith(name)) for name in TEST}
    for name, label in variants.items():
        for of, values in (("shifted", SHIFTED), ("test EMA", AVERAGED)):
            row = rows.loc[of, label]
            assert row["mean"] == pytest.approx(np.mean(values[name]))
            assert row["mean_sd"] == pytest.approx(np.std(values[name], ddof=1))
            error = stats.t.ppf(0.975, SEEDS - 1) * stats.sem(values[name])
            assert row["mean_high"] - row["mean"] == pytest.approx(error)
            fall = np.mean(np.subtract(TEST[name], values[name]))
            assert row["fall"] == pytest.approx(fall)
    cells = [f"{np.mean(x):.2f} ± {np.std(x, ddof=1):.2f}" for x in (
        each["ZiLU"] for each in (TEST, AVERAGED, SHIFTED)
    )]  # fmt: skip
    assert f"| {' | '.join(cells)} |" in re.sub(" +", " ", text(reported))


def test_differences_are_paired_tests_with_holms_correction(reported):
    rows = table(reported, "further_comparisons").set_index("test_set")
    p_values = {}
    for name, values in (("shifted", SHIFTED), ("test EMA", AVERAGED)):
        found = stats.ttest_rel(values["ZiLU"], values["ReLU"])
        assert rows.loc[name, "p_paired_t"] == pytest.approx(found.pvalue)
        assert rows.loc[name, "difference"] == pytest.approx(
            np.mean(values["ZiLU"]) - np.mean(values["ReLU"])
        )
        p_values[name] = found.pvalue
    # shifted EMA and the corrupted set have the differences of the shifted one.
    order = sorted([p_values["test EMA"], *[p_values["shifted"]] * 3])
    largest = max(factor * p for factor, p in zip((4, 3, 2, 1), order, strict=True))
    assert rows["p_holm"].max() == pytest.approx(min(1, largest))
    assert (rows["p_holm"] >= rows["p_paired_t"]).all()


def test_corruptions_have_a_table(reported):
    rows = table(reported, "corruptions")
    assert len(rows) == 2 * 95
    zilu = rows[rows["setting"].str.startswith("ZiLU")].set_index(["corruption", "severity"])
    assert zilu.loc[("fog", 3), "top1"] == pytest.approx(
        np.mean([corruption("fog", 3, each) for each in SHIFTED["ZiLU"]])
    )
    mean = np.mean([corruption("snow", s, each) for s in range(1, 6) for each in SHIFTED["ZiLU"]])
    assert any(
        line.startswith("| snow") and f"{mean:.2f} |" in line for line in text(reported).split("\n")
    )
    whole = table(reported, "further").set_index(["test_set", "setting"])["mean"]
    counted = zilu[zilu.index.get_level_values(0).isin(COUNTED)]["top1"].mean()
    label = next(x for x in rows["setting"] if x.startswith("ZiLU"))
    assert whole["cifar10-c", label] == pytest.approx(counted)


def test_the_runs_own_results_stay_as_they_are(reported):
    run = reported / "ZiLU0"
    records = read_records(run)
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert records[-1]["test"]["top1"] == TEST["ZiLU"][0]
    settings = table(reported, "settings").set_index("setting")["mean"]
    label = next(x for x in settings.index if x.startswith("ZiLU"))
    assert settings[label] == pytest.approx(np.mean(TEST["ZiLU"]))


def test_runs_without_and_damaged_ones(tmp_path):
    made(tmp_path)
    add(tmp_path / "ReLU1", "also", "shifted", 50.0, count=99)  # other images
    add(tmp_path / "ZiLU2", "also", "shifted", None)  # a result that is no number
    report_on(tmp_path, "--baseline", "ReLU")
    found = text(tmp_path)
    assert "ReLU1: shifted has 99 samples there, and 100 in most runs; left out" in found
    rows = table(tmp_path, "further_comparisons").set_index("test_set")
    assert rows.loc["shifted", "pairs"] == SEEDS - 2
    assert rows.loc["shifted EMA", "pairs"] == SEEDS
    path = tmp_path / "ZiLU0/metrics.jsonl"
    path.write_text(path.read_text() + '{"also": {"shifted": 3}}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl: line \d+ is damaged"):
        read_also(tmp_path / "ZiLU0")


def test_sets_without_the_reports_metric_are_named(tmp_path):
    """Of some of them, the others have a table; of all, there is none."""
    parts = {"fog/1": {"loss": 1.0, "top1": 70.0}}
    for name in TEST:
        for seed in range(SEEDS):
            run = vision_run(tmp_path / f"{name}{seed}", 90 + seed, activation=name, seed=seed)
            add(run, "also", "shifted", SHIFTED[name][seed], without="top5")
            add(run, "also", "cifar10-c", 70.0, without="top5", parts=parts)
    report_on(tmp_path, "--metric", "top5")
    assert "None of shifted, cifar10-c has top5." in text(tmp_path)
    assert not (tmp_path / "report/further.csv").exists()
    for run in tmp_path.glob("*U[0-9]"):
        add(run, "also", "other", 60.0)
    report_on(tmp_path, "--metric", "top5")
    assert set(table(tmp_path, "further")["test_set"]) == {"other"}


def test_reports_without_further_sets_have_no_such_part(tmp_path):
    for name in TEST:
        for seed in range(2):
            vision_run(tmp_path / f"{name}{seed}", TEST[name][seed], activation=name, seed=seed)
    report_on(tmp_path)
    assert "Further test sets" not in text(tmp_path)
    assert not (tmp_path / "report/further.csv").exists()
