"""battery.py by its command line: what it runs, how it decides, and that it goes on."""

import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from helpers import quick_program
from scipy import stats

import battery
from analysis.sequential import BOUNDARY, LOOKS
from batteries import command, findings
from batteries.comparing import is_at_edge
from batteries.tasks import SIZES, tasks_of
from experiments import runner
from experiments.grid import read_grid
from experiments.manifest import planned
from experiments.runner import Runner

ROOT = Path(__file__).parents[2]


def task_of(found, name):
    return next(task for task in found.tasks if task.name == name)


def directly(differences, margin):
    """Return (verdict, n, mean, low, high) by the definition, look by look."""
    for n in [look for look in LOOKS if look <= len(differences)]:
        part = np.asarray(differences[:n])
        half = BOUNDARY[n] * part.std(ddof=1) / np.sqrt(n)
        low, high = part.mean() - half, part.mean() + half
        if -margin < low and high < margin:
            return "equivalent", n, part.mean(), low, high
        if low > 0 or high < 0:
            return ("better" if low > 0 else "worse"), n, part.mean(), low, high
    return "undecided", n, part.mean(), low, high


def test_a_battery_from_its_command_to_its_findings(made, capsys):
    made.add("two", baseline="GELU")
    made.run("ELU")
    found = made.found("ELU")
    assert [task.name for task in found.tasks] == ["one", "two"]
    for task, baseline in ((found.tasks[0], "ReLU"), (found.tasks[1], "GELU")):
        decision = task.decision
        differences = [
            made.measured(task.name, "ELU", seed) - made.measured(task.name, baseline, seed)
            for seed in range(decision.n)
        ]
        verdict, *numbers = directly(differences, 0.5)
        assert decision.verdict == verdict != "undecided"
        assert numbers == pytest.approx(
            [decision.n, decision.difference, decision.low, decision.high]
        )
        # Every arm chose by validation, and the candidate and the baseline alone went on.
        assert {arm.label: len(arm.seeds) for arm in task.arms} == {
            "ReLU": 6, "GELU": 6, "SiLU": 6, "ELU": decision.n, baseline: decision.n
        }  # fmt: skip
        for arm in task.arms:
            scores = {t.flags["lr"]: t.score for t in arm.trials}
            assert scores == pytest.approx(
                {lr: quick_program.top1(arm.label, lr, 100, "val") for lr in (0.01, 0.02, 0.03)}
            )
            assert arm.chosen == {"lr": max(scores, key=scores.get)}
        # The other rivals: Student's interval over six seeds.
        other = next(c for c in task.further if c.other == "SiLU")
        pairs = [
            made.measured(task.name, "ELU", s) - made.measured(task.name, "SiLU", s)
            for s in range(6)
        ]
        interval = stats.t.interval(0.95, 5, np.mean(pairs), stats.sem(pairs))
        assert (other.difference, other.low, other.high) == pytest.approx(
            (np.mean(pairs), *interval)
        )
    assert found.tasks[0].decision.n != found.tasks[1].decision.n or len(found.tasks) == 2
    assert f"one: {found.tasks[0].decision.verdict}" in capsys.readouterr().out
    # All of it with one thread, once.
    assert set(made.starts().values()) == {1}
    assert sum(made.starts().values()) == sum(task.runs for task in found.tasks)

    text = (made.folder / "out/made/ELU/findings.json").read_text()
    made.run("ELU")
    assert (made.folder / "out/made/ELU/findings.json").read_text() == text
    assert set(made.starts().values()) == {1}


def test_more_seeds_until_it_is_decided_or_they_are_used_up(made):
    """CELU is a thousandth of a point better than ReLU: no look finds it, six seeds are few."""
    made.add("one", margin=0.0001)
    made.run("CELU", "--max_seeds", 12)
    task = made.found("CELU").tasks[0]
    assert (task.decision.verdict, task.decision.n, task.stopped) == ("undecided", 10, "max_seeds")
    made.run("CELU", "--max_seeds", 15)
    task = made.found("CELU").tasks[0]
    assert (task.decision.n, len(task.candidate.seeds), len(task.arm("ReLU").seeds)) == (15, 15, 15)
    assert len(task.arm("GELU").seeds) == 6
    assert set(made.starts().values()) == {1}


def test_a_budget_ends_the_looks_and_not_the_first_six_seeds(made):
    made.add("one", margin=0.0001)
    made.run("CELU", "--budget", "1s")
    task = made.found("CELU").tasks[0]
    assert (task.decision.verdict, task.decision.n, task.stopped) == ("undecided", 6, "budget")
    assert all(len(arm.seeds) == 6 for arm in task.arms)
    assert {arm.failure for arm in task.arms} == {""}


def test_what_diverges_counts_as_a_guess(made):
    made.run("Softplus", "--max_seeds", 6)
    task = made.found("Softplus").tasks[0]
    values = task.candidate.values
    assert [seed.diverged for seed in task.candidate.seeds] == [False, True] * 3
    assert values[1::2] == [10] * 3
    pairs = [value - made.measured("one", "ReLU", seed) for seed, value in enumerate(values)]
    assert task.decision.difference == pytest.approx(np.mean(pairs))


def test_what_diverges_in_every_trial_has_no_result(made, capsys):
    made.run("Mish")
    task = made.found("Mish").tasks[0]
    assert task.candidate.seeds == ()
    assert task.decision.look == 0
    assert "in every setting" in task.stopped
    assert "one: no verdict (in every setting" in capsys.readouterr().out
    assert len(task.arm("ReLU").seeds) == 6


def test_a_rival_is_not_run_twice_nor_compared_with_itself(made, capsys):
    made.run("relu")
    task = made.found("ReLU").tasks[0]
    assert [arm.label for arm in task.arms] == ["ReLU", "GELU", "SiLU"]
    assert (task.decision, task.stopped) == (None, "is the baseline")
    assert [each.other for each in task.further] == ["GELU", "SiLU"]
    assert "nothing to compare it with" in capsys.readouterr().out


def test_its_own_gain_stands_beside_the_default(made):
    made.run("ELU", "--gain", "--max_seeds", 6)
    task = made.found("ELU").tasks[0]
    assert [arm.label for arm in task.arms] == ["ELU", "ELU, unit gain", "ReLU", "GELU", "SiLU"]
    assert [(each.label, each.other) for each in task.further][-1] == ("ELU, unit gain", "ReLU")
    flags = json.loads(
        next((made.folder / "out/made/one/ELU_unit_gain").glob("tuned*/args.txt")).read_text()
    )
    assert flags["init_gain"] == "unit"


def test_records_stand_for_runs(made, monkeypatch, capsys):
    made.run("ELU")
    first = made.found("ELU")
    made.run(None, "--table")
    lines = (made.folder / "kept/made/one.jsonl").read_text().splitlines()
    assert len(lines) == first.tasks[0].runs
    made.run(None, "--table")  # once more adds nothing
    assert (made.folder / "kept/made/one.jsonl").read_text().splitlines() == lines

    # In a fresh clone nothing is run again, and the numbers are the same.
    made.run("ELU", out="fresh")
    again = made.found("ELU", out="fresh")
    assert made.starts("fresh") == {}
    for task, before in zip(again.tasks, first.tasks, strict=True):
        assert (task.decision, task.further) == (before.decision, before.further)
        assert [arm.values for arm in task.arms] == [arm.values for arm in before.arms]
        assert task.stored == task.runs == before.runs
    assert "are records of earlier ones" in capsys.readouterr().out
    # Of another candidate its own are.
    made.run("Tanh", out="fresh")
    assert {name.split("/")[2] for name in made.starts("fresh")} == {"Tanh"}

    # By other code one trial of each arm is made, and where that differs from its record the rest.
    other = replace(made.here, versions=made.here.versions | {"code": "def"})
    monkeypatch.setattr(command, "here", lambda device: other)
    made.run("ELU", out="other_code")
    assert len(made.starts("other_code")) == 4
    assert made.found("ELU", "other_code").tasks[0].decision == first.tasks[0].decision
    path = made.folder / "kept/made/one.jsonl"
    number = json.loads(lines[0])["metrics"]["top1"]  # ELU's, of its first trial
    path.write_text(path.read_text().replace(repr(number), repr(number + 1e-12)))
    made.run("ELU", out="other_numbers")
    again = [name.split("/")[2] for name in made.starts("other_numbers")]
    assert again.count("ELU") == 3 + first.tasks[0].decision.n
    assert again.count("GELU") == 1
    path.write_text("".join(line + "\n" for line in lines))
    # By another torch or another recipe nothing stands.
    other = replace(made.here, versions=made.here.versions | {"torch": "2.1"})
    monkeypatch.setattr(command, "here", lambda device: other)
    made.run("ELU", out="other_torch")
    assert len(made.starts("other_torch")) == first.tasks[0].runs
    monkeypatch.setattr(command, "here", lambda device: made.here)
    path = made.tasks / "one.yaml"
    path.write_text(path.read_text().replace("dataset: digits", "dataset: digits\n  num_epochs: 9"))
    made.run("ELU", out="other_recipe")
    assert len(made.starts("other_recipe")) == first.tasks[0].runs


def test_runs_of_other_versions_are_shown_and_not_gone_on_with(made, monkeypatch, mistake_in):
    """As on a cluster's login node, which has no GPU, once the jobs have ended."""
    made.add("one", margin=0.0001)
    made.run("CELU", "--max_seeds", 6)
    first = made.found("CELU")
    other = replace(made.here, versions={"torch": "2.1"})
    monkeypatch.setattr(command, "here", lambda device: other)
    made.run("CELU", "--max_seeds", 6)
    assert made.found("CELU") == first
    line = mistake_in(battery, *made.words("CELU", "--max_seeds", 10))
    assert "torch 2.0, not 2.1" in line
    assert set(made.starts().values()) == {1}


def test_runs_of_another_recipe_are_not_gone_on_with(made, mistake_in):
    made.run("ELU", "--max_seeds", 6)
    before, path = made.starts(), made.tasks / "one.yaml"
    text = path.read_text()
    for old, new, told in (
        ("dataset: digits", "dataset: digits\n  num_epochs: 9", "num_epochs None, not 9"),
        ("metric: top1", "metric: loss", "metric top1, not loss"),
        ("[0.01, 0.02, 0.03]", "[0.01, 0.02]", "tune "),
    ):
        path.write_text(text.replace(old, new))
        for activation in ("ELU", "Tanh"):  # Tanh's rivals have been run
            line = mistake_in(battery, *made.words(activation, "--max_seeds", 6))
            assert told in line
            assert "--table" in line
    assert made.starts() == before
    # Where the data lie is no part of it, and neither are comments.
    path.write_text("# Another comment\n" + text)
    made.run("ELU", "--max_seeds", 6, "--data_path", made.folder / "elsewhere")
    assert made.starts() == before


def test_records_stand_after_the_probe_is_one_of_them(made, monkeypatch):
    """New code repeats a trial, which --table keeps; the older records go on standing."""
    made.run("ELU", "--max_seeds", 6)
    made.run(None, "--table")
    new = replace(made.here, versions=made.here.versions | {"code": "def"})
    monkeypatch.setattr(command, "here", lambda device: new)
    made.run("ELU", "--max_seeds", 6, out="second")
    assert len(made.starts("second")) == 4
    battery.main(["--table", "--size", str(made.tasks), "--output_dir", str(made.folder / "second"),
                  "--records", str(made.folder / "kept")])  # fmt: skip
    made.run("ELU", "--max_seeds", 6, out="third")
    assert made.starts("third") == {}


def test_records_stand_only_with_those_of_their_own_code(made, monkeypatch):
    """A code whose trial this one does not repeat is not mixed with one whose it does."""
    made.run("ELU", "--max_seeds", 6)
    made.run(None, "--table")
    path = made.folder / "kept/made/one.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    differing = []  # of an older code with other numbers: trials, and a seed that "abc" lacks
    for each in lines:
        versions = each["environment"]["versions"] | {"code": "old"}
        environment = each["environment"] | {"versions": versions}
        metrics = {name: value + 1 for name, value in each["metrics"].items()}
        differing.append(each | {"environment": environment, "metrics": metrics})
    lines = [each for each in lines if (each["label"], each["seed"]) != ("ELU", 5)]
    path.write_text("".join(json.dumps(each) + "\n" for each in [*lines, *differing]))
    new = replace(made.here, versions=made.here.versions | {"code": "def"})
    monkeypatch.setattr(command, "here", lambda device: new)
    made.run("ELU", "--max_seeds", 6, out="second")
    assert len(made.starts("second")) == 4 + 1
    assert any("ELU_seed5" in name for name in made.starts("second"))


OWN = """
import torch


class Soft(torch.nn.Module):
    def __init__(self, sigma=1.0):
        super().__init__()
        self.sigma = sigma

    def forward(self, x):
        return x * torch.sigmoid(self.sigma * x)


def two(x, y):
    return x * y


def power(x):
    return torch.relu(x) ** 2


def pole(x):
    return x + (x + 4).log()


def nil(x):
    return 0 * x
"""


def test_the_source_of_ones_own_is_part_of_its_arm(made):
    path = made.folder / "mine.py"
    path.write_text(OWN)
    made.run(f"{path}:Soft", "--max_seeds", 6, "--sigma", 2)
    made.run(None, "--table")
    before = made.starts()
    assert len([each for each in before if "Soft_sigma2_" in each]) == 9
    (folder,) = (made.folder / "out/made").glob("Soft_sigma2_*")
    assert findings.load(folder / findings.FILE).label == "Soft (σ = 2)"
    # The same file elsewhere is the same activation, and another one is not.
    for folder, text in (
        ("same", OWN),
        ("other", OWN.replace("self.sigma * x", "-self.sigma * x")),
    ):
        assert made.starts() == before
        path = made.folder / folder / "mine.py"
        path.parent.mkdir()
        path.write_text(text)
        made.run(f"{path}:Soft", "--max_seeds", 6, "--sigma", 2)
    assert len(made.starts()) == len(before) + 9


def test_ones_own_may_be_called_as_a_rival_is(made):
    path = made.folder / "mine.py"
    path.write_text(OWN.replace("class Soft", "class ReLU"))
    made.run(f"{path}:ReLU", "--max_seeds", 6)
    made.run(None, "--table")
    (folder,) = (made.folder / "out/made").glob("ReLU_sigma*")
    task = findings.load(folder / findings.FILE).tasks[0]
    assert [arm.label for arm in task.arms] == ["mine.py:ReLU (σ = 1)", "ReLU", "GELU", "SiLU"]
    assert task.decision.n == 6
    assert "| mine.py:ReLU (σ = 1) | undecided, n = 6 |" in (made.folder / "kept.md").read_text()


def test_ones_own_that_changes_meanwhile_is_not_mixed(made, monkeypatch, mistake_in):
    path = made.folder / "mine.py"
    path.write_text(OWN)
    train = quick_program.train

    def train_and_change(flags, *rest):
        train(flags, *rest)
        if flags["seed"] == 2:
            path.write_text(OWN + "# changed\n")

    monkeypatch.setattr(quick_program, "train", train_and_change)
    line = mistake_in(battery, *made.words(f"{path}:Soft", "--max_seeds", 6))
    assert "Soft (σ = 1) was changed while the battery ran" in line
    assert "Soft (σ = 1) was changed" in mistake_in(battery, *made.words(None, "--table"))


def test_texts_can_be_tuned(made, capsys):
    path = made.tasks / "one.yaml"
    path.write_text(path.read_text().replace("lr: [0.01, 0.02, 0.03]", "optimizer: [adamw, sgd]"))
    made.run("ELU", "--max_seeds", 6)
    made.run(None, "--table")
    assert "| optimizer adamw | 6 |" in (made.folder / "kept.md").read_text()
    assert "edge" not in capsys.readouterr().out


class Started:
    """Run a battery in a fork of this process, its programs in processes of their own."""

    def __init__(self, words, seconds, log):
        self.log = log
        self.pid = os.fork()
        if self.pid:
            return
        os.environ["QUICK_SECONDS"] = seconds
        runner.Runner = Runner
        code = 1
        try:
            with log.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            sys.stdout = os.fdopen(1, "w", buffering=1)
            code = battery.main(words)
        finally:
            os._exit(code)

    def send(self, number):
        os.kill(self.pid, number)

    def wait(self):
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.mark.slow
def test_stopped_and_killed_it_goes_on(made):
    """By SIGTERM, then by SIGKILL; two at the same time share the rivals' runs."""
    made.run("ELU", "--max_seeds", 6, out="whole")

    def start(activation="ELU", seconds="0.1"):
        words = made.words(activation, "--max_seeds", 6, "--jobs", 2, out="broken")
        return Started(words, seconds, made.folder / f"{activation}.txt")

    def wait_for(runs):
        until = time.monotonic() + 60
        while len(made.starts("broken")) < runs and time.monotonic() < until:
            time.sleep(0.02)

    first = start()
    wait_for(5)
    first.send(signal.SIGTERM)
    shown = first.log.read_text if first.wait() == 75 else None
    assert shown is not None, first.log.read_text()
    assert "the same command goes on" in shown()
    assert " left)" in shown()
    second = start()
    wait_for(15)
    second.send(signal.SIGKILL)
    assert second.wait() == -signal.SIGKILL
    both = start(seconds="0"), start("Tanh", "0")
    assert [each.wait() for each in both] == [0, 0], [each.log.read_text() for each in both]
    whole, broken = (made.found("ELU", out) for out in ("whole", "broken"))
    assert broken == whole
    assert made.found("Tanh", "broken").tasks[0].decision.verdict == "better"


def test_a_task_by_its_number_as_in_an_array(made, capsys):
    made.add("two")
    made.run("ELU", "--index", 2, "--folder")
    folder = Path(capsys.readouterr().out.strip())
    assert folder == made.folder / "out/made/ELU/two"
    assert not (made.folder / "out").exists()
    made.run("ELU", "--index", 2)
    assert {name.split("/")[1] for name in made.starts()} == {"two"}
    before = made.starts()
    made.run("ELU")
    assert {k: v for k, v in made.starts().items() if "/two/" in k} == before


def test_an_interrupted_task_asks_to_be_started_again(made, monkeypatch):
    """Also between two programs, which have written nothing for the job then."""
    marker = made.folder / "slurm-1.continue"
    monkeypatch.setenv("ZILU_CONTINUE", str(marker))
    task = Started(made.words("ELU", "--index", 1, "--jobs", 1), "0.1", made.folder / "log.txt")
    until = time.monotonic() + 60
    while not made.starts() and time.monotonic() < until:
        time.sleep(0.02)
    task.send(signal.SIGUSR1)
    assert task.wait() == 75
    assert marker.exists()
    marker.unlink()
    made.run("ELU", "--index", 1)
    assert not marker.exists()


def test_list_and_dry_run_write_nothing(made, capsys):
    made.run("ELU", "--list")
    shown = capsys.readouterr().out
    assert "   1 one: A made task\n       ELU: 0 of 3 trials, 0 of 6 seeds" in shown
    made.run("ELU", "--dry_run")
    assert capsys.readouterr().out.count("python ") == 4 * 3
    assert not (made.folder / "out").exists()
    made.run("ELU", "--max_seeds", 6)
    capsys.readouterr()
    made.run("ELU", "--list")
    assert "GELU: 3 of 3 trials, 6 of 6 seeds" in capsys.readouterr().out


def test_the_table_of_all(made):
    made.add("two", baseline="GELU")
    for activation in ("Tanh", "ELU"):
        made.run(activation, "--max_seeds", 6)
    made.run(None, "--table")
    text = (made.folder / "kept.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    overview = [row for row in rows if len(row) == 3]
    assert [row[0].strip("| ") for row in overview] == [
        "activation", "---", "ELU", "GELU", "ReLU", "SiLU", "Tanh",
    ]  # fmt: skip
    tanh = made.found("Tanh").tasks[0].decision
    assert overview[-1][1] == f"{tanh.verdict}, n = {tanh.n}" == "better, n = 6"
    assert overview[4][1] == "baseline"
    row = next(row for row in rows if row[0] == "| Tanh" and len(row) == 7)
    assert row[5] == f"+{tanh.difference:.2f} points (+{tanh.low:.2f} to +{tanh.high:.2f})"
    values = [made.measured("one", "Tanh", seed) for seed in range(6)]
    assert row[4].startswith(f"{np.mean(values):.2f} (")


def test_the_table_has_the_rate_that_the_trials_chose(made):
    """Not the one of the newest runs: a grid with fewer rates may have left those."""
    made.run("ELU", "--max_seeds", 6)
    made.run(None, "--table")
    before = (made.folder / "kept.md").read_text()
    (chosen,) = {arm.chosen["lr"] for arm in made.found("ELU").tasks[0].arms if arm.label == "ELU"}
    path = made.folder / "kept/made/one.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    other = {"tuned": {"lr": 0.01}, "date": "2999-01-01", "metrics": {"top1": 99.0}}
    assert chosen != 0.01
    later = [each | other for each in lines if each["label"] == "ELU" and not each["is_trial"]]
    path.write_text("".join(json.dumps(each) + "\n" for each in [*lines, *later]))
    made.run(None, "--table")
    assert (made.folder / "kept.md").read_text() == before


def test_findings_are_read_as_they_were_written(made):
    made.run("Softplus", "--max_seeds", 6)
    found = made.found("Softplus")
    path = findings.save(found, made.folder)
    assert findings.load(path) == found
    path.write_text("{}")
    with pytest.raises(Exception, match="run the battery again"):
        findings.load(path)


MISTAKES = {
    "an unknown activation": (["--activation", "RELUU"], "did you mean ReLU"),
    "none": (["--list"], "--activation is missing"),
    "no such file": (["--activation", "no.py:Squash"], "no.py"),
    "no such class": (["--activation", "{mine}:Sof"], "did you mean"),
    "two arguments": (["--activation", "{mine}:two"], "'y'"),
    "not finite": (["--activation", "{mine}:pole"], "not finite at x = "),
    "an unknown task": (["--activation", "ELU", "--tasks", "oen"], "did you mean one"),
    "an unknown size": (["--activation", "ELU", "--size", "medium"], "small, full"),
    "a budget of nonsense": (["--activation", "ELU", "--budget", "soon"], "--budget"),
    "too few seeds": (["--activation", "ELU", "--max_seeds", "5"], "--max_seeds"),
    "no sigma": (["--activation", "ELU", "--sigma", "2"], "--sigma: ELU has no sigma"),
    "no sigma of its own": (
        ["--activation", "{mine}:power", "--sigma", "2"],
        "has no argument `sigma`",
    ),
    "no gate": (["--activation", "ELU", "--expand_gate"], "--expand_gate: ELU has no gate"),
    "no gain": (["--activation", "{mine}:nil", "--gain"], "--gain: nil has no gain"),
    "a setting of nothing": (["--sigma", "2"], "give --activation"),
    "a table of one": (["--activation", "ELU", "--table"], "leave out --activation"),
    "a task too many": (["--activation", "ELU", "--index", "3"], "there are 2 tasks"),
    "a file for a folder": (["--activation", "ELU", "--output_dir", "{mine}"], "cannot be written"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_end_in_one_line(name, made, mistake_in):
    made.add("two")
    path = made.folder / "mine.py"
    path.write_text(OWN)
    words, expected = MISTAKES[name]
    given = [word.format(mine=path) for word in words]
    assert expected in mistake_in(battery, *made.words(None), *given)


def test_full_size_needs_its_images(made, mistake_in):
    words = ["--activation", "ELU", "--size", "full", "--tasks", "imagenet100"]
    words += ["--data_path", made.folder, "--output_dir", made.folder / "out"]
    line = mistake_in(battery, *words)
    assert f"{made.folder / 'imagenet100'} holds no images" in line
    assert not (made.folder / "out").exists()


@pytest.mark.parametrize("size", SIZES)
def test_the_tasks_are_what_a_battery_needs(size):
    for task in tasks_of(size):
        assert {"ReLU", "GELU", "SiLU"} == {each["activation"] for each in task.rivals}
        assert task.baseline in ("ReLU", "GELU")
        assert task.diverged is not None
        assert task.title != task.name
        plan = planned(read_grid(task.path), task.path, Path("anywhere"))
        roles = [run.role for run in plan.runs]
        rates = len(yaml.safe_load(task.path.read_text())["tune"]["lr"])
        assert rates >= 3
        assert (roles.count("trial"), roles.count("tuned")) == (3 * rates, 18)
        assert len(roles) == 3 * rates + 18
        assert size != "small" or task.device == "cpu"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_with_the_real_program(tmp_path, run_program):
    """Twice in two folders the numbers are the same."""
    (tmp_path / "tasks").mkdir()
    task = yaml.safe_load((ROOT / "batteries/small/tables.yaml").read_text())
    task["runs"] |= {"num_epochs": 1, "stats": 5}
    task["tune"]["lr"] = [1e-3, 1e-2]
    (tmp_path / "tasks/tiny.yaml").write_text(yaml.safe_dump(task))
    found = []
    for out in ("a", "b"):
        done = run_program(
            "battery.py", "--activation", "ZiLU", "--size", tmp_path / "tasks", "--max_seeds", 6,
            "--output_dir", tmp_path / out, "--records", tmp_path / "kept",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found.append(findings.load(tmp_path / out / "tasks/ZiLU_sigma1/findings.json"))
    first, second = (each.tasks[0] for each in found)
    assert [arm.values for arm in first.arms] == [arm.values for arm in second.arms]
    assert first.decision == second.decision
    assert first.stored == second.stored == 0
    assert all(0 <= seed.flat <= 1 and 0 <= seed.dead <= 1 for seed in first.candidate.seeds)
    assert len(first.candidate.seeds[0].curve) == 1


def test_a_switch_that_was_tuned_lies_at_no_edge():
    def run(**tuned):
        return SimpleNamespace(tuned=tuned)

    trials = [run(learn_sigma=switch, lr=lr) for switch in (True, False) for lr in (1, 2, 3)]
    assert not is_at_edge(SimpleNamespace(seeds=[run(learn_sigma=True, lr=2)], trials=trials))
    assert is_at_edge(SimpleNamespace(seeds=[run(learn_sigma=True, lr=3)], trials=trials))
