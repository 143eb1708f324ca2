"""Test sweeps that get seeds until they are decided, and their reports, on known results."""

import json
import math

import numpy as np
import pytest
import yaml
from helpers.made_runs import BASE, diverge, table, text, vision_run
from helpers.made_runs import report_on as report

import sweep
from analysis.looks import LOOKS
from analysis.sequential import critical_value, decide
from experiments import command, runner
from experiments import manifest as manifests
from experiments.jobs import flags_of, share_folder
from experiments.runner import FAILED, Outcome
from run_folder.status import ENDED, FINISHED, status_of

RUNS = {**BASE, "seed": [3, 0], "activation": ["ReLU", "GELU", "ZiLU"]}
DECLARED = {"baseline": "GELU", "primary": "ZiLU (σ = 1)", "margin": 0.3}


@pytest.fixture
def world(tmp_path, monkeypatch, quick_figures):
    """A grid, and programs that give each run the result that `results` says.

    `results(flags)` is an accuracy, NaN for a run that diverges, None for one that fails.
    """
    return World(tmp_path, monkeypatch)


class World:
    def __init__(self, folder, monkeypatch):
        self.patch = monkeypatch
        self.grid, self.out = folder / "grid.yaml", folder / "out"
        self.made, self.results = [], lambda flags: accuracy(flags, 0.0)
        monkeypatch.setattr(command, "do", self.do)
        monkeypatch.setattr(runner, "places", lambda *_, **__: [{}])
        self.write()

    def write(self, report=DECLARED, tune=None, **runs):
        content = {"runs": {**RUNS, **runs}, "report": report, "tune": tune}
        self.grid.write_text(yaml.safe_dump({k: v for k, v in content.items() if v}))

    def do(self, _runner, manifest, runs):
        outcomes = []
        for run in runs:
            path = manifest.path(run)
            if status_of(path).kind not in ENDED:
                flags = flags_of(manifest, run)
                value = self.results(flags)
                self.made.append(run.name)
                if value is None:
                    outcomes.append(Outcome(run.name, FAILED, "no room"))
                    continue
                vision_run(path, 50 if math.isnan(value) else value, **flags)
                if math.isnan(value):
                    diverge(path)
            outcomes.append(Outcome(run.name, FINISHED))
        return outcomes

    def sweep(self, *flags):
        words = [self.grid, "--output_dir", self.out, *flags]
        return sweep.main([str(word) for word in words])

    def manifest(self):
        return manifests.load(self.out)

    def seeds(self, activation, role="grid"):
        """The seeds of a setting, in their order."""
        return [
            run.flags["seed"]
            for run in self.manifest().runs
            if run.flags["activation"] == activation and run.role == role
        ]


def accuracy(flags, effect, spread=0.4):
    """The result of a run: ZiLU is better by `effect`, and runs of one seed are alike."""
    seed = flags["seed"]
    shared = np.random.default_rng([1, seed]).normal(0, 1)
    name = ["ReLU", "GELU", "ZiLU", "SiLU"].index(flags["activation"])
    own = np.random.default_rng([2, seed, name]).normal(0, spread)
    return 90 + shared + own + effect * (flags["activation"] == "ZiLU")


def differences(world, results, other="GELU"):
    """ZiLU's results less those of another, in the order of the seeds."""
    return [
        results({"activation": "ZiLU", "seed": seed}) - results({"activation": other, "seed": seed})
        for seed in world.seeds("ZiLU")
        if seed in world.seeds(other)
    ]


def test_seeds_are_added_until_it_is_decided(world, capsys):
    world.results = lambda flags: accuracy(flags, 0.5)
    assert world.sweep("--until_decided") == 0
    shown = capsys.readouterr().out
    # Two seeds of the grid, filled up to six for all; then the two alone.
    assert world.seeds("ReLU") == [3, 0, 4, 5, 6, 7]
    n = len(world.seeds("ZiLU"))
    assert world.seeds("ZiLU") == world.seeds("GELU") == [3, 0, *range(4, n + 2)]
    found = decide(differences(world, world.results), 0.3, True)
    assert (found.verdict, found.n) == ("better", n)
    assert n in LOOKS[1:-1]
    assert "undecided after 6 pairs of seeds" in shown
    assert f"better after {n} pairs of seeds" in shown
    assert len(world.made) == 6 + 2 * n
    assert "ZiLU_sigma1_seed9" in world.made
    # The same command finds everything done, without the flag too.
    assert world.sweep("--until_decided") == world.sweep() == 0
    assert len(world.made) == 6 + 2 * n

    report(world.out)
    (row,) = table(world.out, "decisions").to_dict("records")
    assert (row["verdict"], row["pairs"], row["look"]) == ("better", n, LOOKS.index(n) + 1)
    assert (row["low"], row["high"]) == pytest.approx((found.low, found.high), abs=1e-6)
    assert f"better, decided at look {row['look']}, after {n} pairs of seeds" in text(world.out)
    rows = table(world.out, "comparisons").set_index("setting")
    primary, other = rows.loc["ZiLU (σ = 1)"], rows.loc["ReLU"]
    fixed = ["p_paired_t", "p_holm", "p_wilcoxon", "p_welch", "p_equivalence", "welch_low"]
    assert primary[fixed].isna().all()
    assert (primary["low"], primary["high"]) == pytest.approx((found.low, found.high), abs=1e-6)
    assert (primary["pairs"], other["pairs"]) == (n, 6)
    assert not math.isnan(other["p_holm"])
    assert other["p_holm"] == other["p_paired_t"]  # of one test alone


def test_equivalent_and_undecided(world):
    world.results = lambda flags: accuracy(flags, 0.0, spread=0.05)
    assert world.sweep("--until_decided") == 0
    assert len(world.seeds("ZiLU")) == 6
    report(world.out)
    assert table(world.out, "decisions")["verdict"].tolist() == ["equivalent"]
    assert "equivalent within ±0.30 points, decided at look 1, after 6 pairs" in text(world.out)


def test_it_ends_at_max_seeds_and_may_go_on(world, capsys):
    assert world.sweep("--until_decided", "--max_seeds", 10) == 0
    assert len(world.seeds("ZiLU")) == 10
    assert "undecided after 10 pairs of seeds" in capsys.readouterr().out
    report(world.out)
    assert "undecided after 10 pairs of seeds" in text(world.out)
    before = list(world.made)
    assert world.sweep("--until_decided", "--max_seeds", 15) == 0
    assert len(world.seeds("ZiLU")) == 15
    assert world.made[: len(before)] == before
    assert len(world.made) == len(before) + 10


def test_a_grid_that_has_seeds_is_not_filled(world):
    world.write(seed=list(range(8)))
    world.results = lambda flags: accuracy(flags, 0.0, spread=0.05)
    assert world.sweep("--until_decided") == 0
    assert world.seeds("ZiLU") == world.seeds("ReLU") == list(range(8))
    report(world.out)
    (row,) = table(world.out, "decisions").to_dict("records")
    assert (row["verdict"], row["pairs"]) == ("equivalent", 6)  # the others are not looked at
    six = differences(world, world.results)[:6]
    assert row["difference"] == pytest.approx(np.mean(six), abs=1e-6)


def test_seeds_of_trials_are_not_taken(world):
    tune = {"lr": [0.1, 0.2], "seeds": [5, 8], "equal_settings": False}
    world.write(tune=tune, seed=[3, 0])
    world.results = lambda flags: accuracy(flags, 0.0) + (flags["lr"] == 0.2)
    assert world.sweep("--until_decided", "--max_seeds", 10) == 0
    seeds = world.seeds("ZiLU", "tuned")
    assert seeds == [3, 0, 4, 6, 7, 9, 10, 11, 12, 13]
    assert world.seeds("GELU", "tuned") == seeds
    assert world.seeds("ReLU", "tuned") == seeds[:6]
    args = [(world.out / run.name / "args.txt").read_text() for run in world.manifest().runs
            if run.role == "tuned"]  # fmt: skip
    assert all("\nlr: 0.2\n" in each for each in args)
    report(world.out)
    assert table(world.out, "decisions")["pairs"].tolist() == [10]


def test_two_primary_comparisons_share_the_error(world):
    """Tuned and equal settings: each interval is wider, so that both hold together at 95 %."""
    world.write(tune={"lr": [0.1, 0.2]}, seed=[0])
    plain = lambda flags: accuracy(flags, 0.0, spread=1.0)  # noqa: E731
    world.results = lambda flags: plain(flags) + (flags["lr"] == 0.2)
    assert world.sweep("--until_decided", "--max_seeds", 6) == 0
    report(world.out)
    rows = table(world.out, "decisions")
    assert len(rows) == 2
    values = np.array(differences(world, plain))
    half = critical_value(6, 0.025) * values.std(ddof=1) / math.sqrt(6)
    assert rows["high"].tolist() == pytest.approx([values.mean() + half] * 2, abs=1e-6)
    assert critical_value(6, 0.025) > 1.1 * critical_value(6)


def test_tuned_runs_that_are_links_to_the_grids_are_of_their_own_comparison(world):
    """The chosen rate of GELU is the grid's own, and its runs count for both comparisons."""
    world.write(tune={"lr": [0.1, 0.2]}, seed=[0], activation=["GELU", "ZiLU"])

    def results(flags):
        better = {"GELU": 0.1, "ZiLU": 0.2}[flags["activation"]]
        return accuracy(flags, 0.0, spread=0.05) + 5 * (flags["lr"] == better)

    world.results = results

    def do(runner, manifest, runs):
        for run in runs:
            share_folder(manifest, run)
        return world.do(runner, manifest, runs)

    world.patch.setattr(command, "do", do)
    assert world.sweep("--until_decided", "--max_seeds", 6) == 0
    assert (world.out / "tuned_GELU_seed0").is_symlink()
    report(world.out)
    rows = table(world.out, "decisions")
    assert rows["verdict"].tolist() == ["worse", "equivalent"]


def test_a_diverged_run_is_left_out_and_replaced(world, capsys):
    def results(flags):
        gone = flags["activation"] == "ZiLU" and flags["seed"] in (0, 5)
        return math.nan if gone else accuracy(flags, 0.0, spread=0.05)

    world.results = results
    assert world.sweep("--until_decided") == 0
    assert world.seeds("ZiLU") == [3, 0, 4, 5, 6, 7, 8, 9]  # six pairs, two of them later
    assert "2 and 0 runs diverged, and their pairs are left out" in capsys.readouterr().out
    report(world.out)
    (row,) = table(world.out, "decisions").to_dict("records")
    assert (row["pairs"], row["left_out"]) == (6, 2)
    assert "2 of 8 runs of ZiLU (σ = 1)" in text(world.out).replace("\\", "")


def test_no_seed_is_trained_that_reaches_no_look(world):
    """Two of eight pairs are gone, so ten seeds are too few for the look at ten pairs."""

    def results(flags):
        gone = flags["activation"] == "ZiLU" and flags["seed"] in (0, 5)
        return math.nan if gone else accuracy(flags, 0.15)

    world.results = results
    assert world.sweep("--until_decided", "--max_seeds", 10) == 0
    assert world.seeds("ZiLU") == [3, 0, 4, 5, 6, 7, 8, 9]
    assert world.sweep("--until_decided", "--max_seeds", 12) == 0
    assert world.seeds("ZiLU") == [3, 0, *range(4, 14)]


def test_nothing_is_added_where_all_diverge(world):
    world.results = lambda flags: math.nan if flags["activation"] == "ZiLU" else accuracy(flags, 0)
    assert world.sweep("--until_decided") == 0
    assert len(world.seeds("ZiLU")) == 6


def test_a_run_that_fails_is_no_result(world, capsys):
    """It is not looked at what came after it, until it is there."""
    room = False

    def results(flags):
        fails = not room and (flags["activation"], flags["seed"]) == ("ZiLU", 5)
        return None if fails else accuracy(flags, 0.0, spread=0.05)

    world.results = results
    assert world.sweep("--until_decided") == 1
    assert "ZiLU_sigma1_seed5 has no result" in capsys.readouterr().out
    report(world.out)
    (row,) = table(world.out, "decisions").to_dict("records")
    assert (row["verdict"], row["pairs"], row["look"]) == ("undecided", 3, 0)
    room = True
    assert world.sweep("--until_decided") == 0
    report(world.out)
    assert table(world.out, "decisions")["verdict"].tolist() == ["equivalent"]


def test_a_sweep_that_died_when_it_had_added_seeds_goes_on(world, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "do", lambda runner, manifest, runs: (
            killed() if any(run.added for run in runs) else world.do(runner, manifest, runs)
        ))  # fmt: skip
        with pytest.raises(KeyboardInterrupt):
            world.sweep("--until_decided", "--max_seeds", 10)
    assert len(world.seeds("ZiLU")) == 10
    assert len(world.made) == 18
    assert world.sweep("--until_decided") == 0
    assert len(world.made) == 26
    assert len({run.name for run in world.manifest().runs}) == len(world.manifest().runs) == 26


def test_another_metric_and_direction_of_the_report(world):
    """The interval at a look holds for whatever is compared of these runs."""
    assert world.sweep("--until_decided", "--max_seeds", 10) == 0
    flags = ("--metric", "loss", "--baseline", "ZiLU (σ = 1)", "--primary", "GELU")
    report(world.out, *flags, "--margin", 0.001)
    (row,) = table(world.out, "decisions").to_dict("records")
    assert (row["metric"], row["setting"], row["pairs"]) == ("loss", "GELU", 10)
    losses = np.array(differences(world, world.results)) / 50  # as vision_run makes them
    half = critical_value(10) * losses.std(ddof=1) / math.sqrt(10)
    assert (row["low"], row["high"]) == pytest.approx(
        (losses.mean() - half, losses.mean() + half), abs=1e-6
    )


def test_the_declared_metric_decides(world):
    world.write(report=DECLARED | {"metric": "loss", "margin": 0.1})
    world.results = lambda flags: accuracy(flags, 0.5, spread=0.05)
    assert world.sweep("--until_decided") == 0
    report(world.out)
    (row,) = table(world.out, "decisions").to_dict("records")
    assert (row["metric"], row["verdict"]) == ("loss", "equivalent")


def test_the_grid_may_be_extended(world):
    world.results = lambda flags: accuracy(flags, 0.0)
    assert world.sweep("--until_decided", "--max_seeds", 10) == 0
    world.write(activation=["ReLU", "GELU", "ZiLU", "SiLU"])
    assert world.sweep("--until_decided", "--max_seeds", 10, "--extend") == 0
    assert world.seeds("SiLU") == [3, 0, 4, 5, 6, 7]
    assert len(world.seeds("ZiLU")) == 10


def test_a_fixed_sweep_is_as_it_was(world):
    assert world.sweep() == 0
    content = json.loads((world.out / "manifest.json").read_text())
    assert "max_seeds" not in content
    assert not any("added" in run for run in content["runs"])
    assert world.seeds("ZiLU") == [3, 0]
    report(world.out)
    assert not (world.out / "report/decisions.csv").exists()


def test_counted_before_it_may_still_be_declared(world, capsys):
    assert world.sweep("--count") == 0
    assert world.sweep("--until_decided", "--count") == 0
    assert capsys.readouterr().out.split() == ["6", "18"]
    assert world.manifest().max_seeds == 40


@pytest.mark.parametrize(
    ("change", "flags", "told"),
    [
        ({"report": {"baseline": "GELU", "primary": "ZiLU"}}, (), "margin"),
        ({"report": None}, (), "baseline and primary and margin"),
        ({"report": DECLARED | {"primary": "Mish"}}, (), "primary: Mish"),
        ({"report": DECLARED | {"primary": "GELU"}}, (), "primary: GELU"),
        ({"seed": [0, 1], "init_seed": [0, 1]}, (), "init_seed"),
        ({}, ("--max_seeds", 41), "the last look is at 40"),
        ({}, ("--max_seeds", 5), "--max_seeds"),
    ],
)
def test_mistakes_end_in_one_line_before_anything_runs(change, flags, told, world, mistake_in):
    world.write(**change)
    words = (world.grid, "--output_dir", world.out, "--until_decided", *flags)
    assert told in mistake_in(sweep, *words)
    assert not world.made
    assert not world.out.exists()


def test_what_has_begun_with_fixed_seeds_stays_so(world, mistake_in):
    assert world.sweep() == 0
    words = (world.grid, "--output_dir", world.out, "--until_decided")
    assert "declared before the first run" in mistake_in(sweep, *words)
    assert "give both" in mistake_in(sweep, *words[:3], "--max_seeds", 10)
