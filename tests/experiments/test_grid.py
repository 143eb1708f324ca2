"""Grid files: the runs that they come to, tuning, and the manifest that keeps them."""

import itertools
import json
import re
from pathlib import Path

import pytest
import yaml
from helpers.commands import values
from helpers.made_runs import vision_run
from hypothesis import given, settings
from hypothesis import strategies as st

import sweep
from analysis.run_folders import find_runs
from cli.language import LanguageConfig
from cli.vision import VisionConfig
from experiments import jobs
from experiments import manifest as manifests
from experiments.grid import Checker, name_of, products, read_grid
from experiments.tuning import Trial, choose, edge_of, groups, trials, tuned_flags
from run_folder.status import status_of
from utils import UserError

BASE = {"model": "resnet20", "dataset": "digits", "device": "cpu", "val_fraction": 0.1}


@pytest.fixture
def grid_file(tmp_path):
    """Writes a grid, given as keyword arguments, and returns its path."""

    def write(**content):
        path = tmp_path / "grid.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


def plan(path):
    return manifests.planned(read_grid(path), path, path.parent / "out")


def some(runs, *names):
    return [tuple(run.flags[name] for name in names) for run in runs]


# --- combinations ---


def test_every_combination_of_the_lists():
    found = list(products({"a": 1, "b": [1, 2], "c": ["x", "y"]}))
    assert found == [{"a": 1, "b": b, "c": c} for b, c in itertools.product([1, 2], "xy")]


def test_flags_that_belong_together_count_more_than_those_around_them():
    found = list(products({"pick": [{"lr": 3, "seed": [0, 1]}, {"lr": 4}], "lr": [1, 2]}))
    assert found == [{"lr": 3, "seed": 0}] * 2 + [{"lr": 3, "seed": 1}] * 2 + [{"lr": 4}] * 2


@given(
    st.dictionaries(
        st.sampled_from("abcd"), st.lists(st.integers(), min_size=1, max_size=4, unique=True)
    )
)
def test_as_many_combinations_as_the_product_of_the_lengths(axes):
    found = list(products(axes))
    expected = {
        tuple(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())
    }
    assert {tuple(each.items()) for each in found} == expected
    assert len(found) == len(expected)


def test_sigma_is_no_axis_of_an_activation_without_one(grid_file):
    runs = {**BASE, "activation": ["ReLU", "ZiLU"], "sigma": [0.5, 1], "learn_sigma": [False, True]}
    found = plan(grid_file(runs=runs)).runs
    assert some(found, "activation", "sigma", "learn_sigma") == [
        ("ReLU", 1.0, False), ("ZiLU", 0.5, False), ("ZiLU", 0.5, True), ("ZiLU", 1.0, False),
        ("ZiLU", 1.0, True),
    ]  # fmt: skip


def test_only_what_can_be_computed_from_its_output_is_computed_so(grid_file):
    runs = {**BASE, "activation": ["ReLU", "ZiLU"], "save_for_backward": ["input", "output"]}
    manifest = manifests.frozen(plan(grid_file(runs=runs)))
    assert [run.name for run in manifest.runs] == [
        "ReLU_seed0", "ZiLU_sigma1_seed0", "ZiLU_sigma1_from_output_seed0",
    ]  # fmt: skip


def test_a_recipe_is_part_of_the_manifest(grid_file, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("lr: 0.5\nbatch_size: 7\n")
    path = grid_file(runs={**BASE, "config": str(recipe), "batch_size": 9})
    manifest = manifests.frozen(plan(path))
    recipe.write_text("lr: 0.1\n")
    again = manifests.load(manifest.folder)
    assert some(again.runs, "lr", "batch_size") == [(0.5, 9)]
    assert jobs.command(again, again.runs[0])[2:] == [
        "--model=resnet20", "--dataset=digits", "--val_fraction=0.1", "--batch_size=9", "--lr=0.5",
        "--device=cpu", f"--output_dir={manifest.folder}/ZiLU_sigma1_seed0", "--resume",
    ]  # fmt: skip


def test_the_command_gives_the_flags_of_the_run(grid_file):
    """Whatever they are: the program reads the same from its command line."""
    runs = {
        **BASE, "augment": True, "lr": 1e-07, "warmup": "5%", "activation": "ZiLU_Approx",
        "sigma": 1 / 3, "learn_sigma": True, "max_steps": 5, "clip_grad_norm": 0,
    }  # fmt: skip
    manifest = plan(grid_file(runs=runs))
    run = manifest.runs[0]
    args = values(VisionConfig, *jobs.command(manifest, run)[2:])
    assert {name: getattr(args, name) for name in run.flags} == run.flags


def test_names_tell_the_runs_apart(grid_file):
    runs = {
        "config": ["recipes/cifar10_resnet20.yaml", "recipes/cifar100_vit_tiny.yaml"],
        "activation": ["ReLU", {"activation": "ZiLU", "sigma": [0.5, 1.253]}], "seed": [0, 1],
        "label_smoothing": [0, 0.1],
    }  # fmt: skip
    names = [run.name for run in plan(grid_file(runs=runs)).runs]
    assert len(set(names)) == len(names) == 24
    assert any("cifar100_vit-tiny" in n and n.endswith("ZiLU_sigma1.253_seed1") for n in names)
    assert all(
        re.fullmatch(r"cifar\d+_(resnet20|vit-tiny)_[0-9a-f]{8}_.*_seed\d", n) for n in names
    )


def test_values_that_a_folders_name_cannot_hold(grid_file):
    runs = {"dataset": "text", "tokenizer": ["a/b", "a b", "c" * 300, "bytes"], "sample": 1,
            "prompt": "--once = upon"}  # fmt: skip
    manifest = plan(grid_file(program="language", runs=runs))
    names = [run.name for run in manifest.runs]
    assert len(set(names)) == 4
    assert all(len(name) < 255 and "/" not in name for name in names)
    words = jobs.command(manifest, manifest.runs[0])[2:]
    args = values(LanguageConfig, *words)
    assert (args.prompt, args.tokenizer) == ("--once = upon", "a/b")


# --- the manifest ---


def test_an_edited_grid_changes_no_run(grid_file, capsys):
    path = grid_file(runs={**BASE, "activation": ["ReLU", "ZiLU"], "seed": [0, 1]})
    out = ["--output_dir", str(path.parent / "out")]
    assert sweep.main([str(path), "--count", *out]) == 0
    assert capsys.readouterr().out == "4\n"
    grid_file(runs={**BASE, "activation": ["GELU", "ReLU"], "seed": [0, 1]})
    assert sweep.main([str(path), "--index", "4", "--folder", *out]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip().endswith("ZiLU_sigma1_seed1")
    assert "has changed since its sweep began (2 more runs, 2 gone)" in shown.err
    with pytest.raises(UserError, match=r"--extend adds the new ones"):
        sweep.main([str(path), *out])
    assert sweep.main([str(path), "--count", "--extend", *out]) == 0
    assert capsys.readouterr().out == "6\n"
    names = [run.name for run in manifests.load(path.parent / "out").runs]
    assert [n.split("_")[0] for n in names] == ["ReLU", "ReLU", "ZiLU", "ZiLU", "GELU", "GELU"]


def test_looking_writes_nothing(grid_file, capsys):
    path = grid_file(runs=BASE)
    for flag in ("--list", "--dry_run"):
        assert sweep.main([str(path), flag, "--output_dir", str(path.parent / "out")]) == 0
    shown = capsys.readouterr().out
    assert "1 new         ZiLU_sigma1_seed0" in shown
    assert "python vision_main.py --model=resnet20 --dataset=digits" in shown.replace("../", "")
    assert not (path.parent / "out").exists()


def test_a_manifest_that_is_older_than_a_flag(grid_file):
    path = grid_file(runs=BASE)
    old = manifests.frozen(plan(path))
    content = json.loads((old.folder / "manifest.json").read_text())
    del content["runs"][0]["flags"]["label_smoothing"]
    (old.folder / "manifest.json").write_text(json.dumps(content))
    assert manifests.added(manifests.load(old.folder), plan(path)) == []


def test_a_job_goes_on_without_its_grid_and_recipe(grid_file, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("lr: 0.5\n")
    path = grid_file(runs={**BASE, "config": str(recipe), "seed": [0, 1]})
    words = [str(path), "--output_dir", str(tmp_path / "out")]
    sweep.main([*words, "--count"])
    recipe.unlink()
    with pytest.raises(UserError, match="not a readable YAML file"):
        sweep.main([*words, "--list"])
    path.write_text("runs: [")
    capsys.readouterr()
    sweep.main([*words, "--index", "2", "--folder"])
    shown = capsys.readouterr()
    assert shown.out.endswith("ZiLU_sigma1_seed1\n")
    assert "manifest.json counts" in shown.err


TUNED_RUNS = {**BASE, "activation": "ReLU", "seed": [0, 1]}


@pytest.mark.parametrize(
    ("runs", "more", "reason"),
    [
        ({**TUNED_RUNS, "seed": [0, 1, 2]}, {}, "would have more trials"),
        (TUNED_RUNS, {"tune": {"lr": [0.1, 0.2], "weight_decay": [0.1, 0.2]}}, "its tuning has"),
        ({**TUNED_RUNS, "activation": ["ReLU", "GELU"]}, {"tune": {}}, "its tuning has changed"),
        ({"dataset": "pydoc"}, {"program": "language", "tune": {}}, "it was of the program vision"),
    ],
)  # fmt: skip
def test_what_cannot_be_added(grid_file, mistake_in, runs, more, reason):
    manifests.frozen(plan(grid_file(runs=TUNED_RUNS, tune={"lr": [0.1, 0.2]})))
    path = grid_file(**{"runs": runs, "tune": {"lr": [0.1, 0.2]}, **more})
    before = (path.parent / "out/manifest.json").read_bytes()
    error = mistake_in(sweep, path, "--count", "--extend", "--output_dir", path.parent / "out")
    assert re.search(f"cannot be extended: .*({reason})", error), error
    assert (path.parent / "out/manifest.json").read_bytes() == before


def test_an_activation_is_added_to_a_tuned_sweep(grid_file):
    tune = {"lr": [0.1, 0.2], "seeds": [9]}
    old = manifests.frozen(plan(grid_file(runs=TUNED_RUNS, tune=tune)))
    runs = {**TUNED_RUNS, "activation": ["ReLU", "GELU"]}
    new = manifests.frozen(plan(grid_file(runs=runs, tune=tune)), extend=True)
    assert new.runs[: len(old.runs)] == old.runs
    added = new.runs[len(old.runs) :]
    assert [run.role for run in added] == ["trial"] * 2 + ["grid"] * 2 + ["tuned"] * 2
    assert {run.flags["activation"] for run in added} == {"GELU"}


# --- tuning ---

AXES = st.lists(st.sampled_from([1e-4, 1e-3, 1e-2, 1e-1]), min_size=2, max_size=4, unique=True)
SIGMAS = st.lists(st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0]), min_size=2, max_size=5, unique=True)
CHECKER = Checker("vision", "grid.yaml")


@settings(max_examples=25, deadline=None)
@given(AXES, SIGMAS, st.lists(st.integers(10, 99), min_size=1, max_size=3, unique=True))
def test_every_activation_has_the_same_number_of_trials(lrs, sigmas, seeds):
    tune = {"lr": lrs, "sigma": sigmas, "seeds": seeds}
    runs = {**BASE, "activation": ["ReLU", "ZiLU", "GELU"], "seed": [0, 1]}
    combinations = [CHECKER.complete(each) for each in products(runs)]
    found = trials(tune, combinations, CHECKER)
    for group in groups(tune, combinations):
        mine = [flags for each, flags in found if each == group]
        assert len(mine) == len(lrs) * len(sigmas) * len(seeds)
        assert len({(f["lr"], f["sigma"], f["seed"]) for f in mine}) == len(mine)
        tried = [(f["lr"], f["sigma"]) for f in mine]
        counts = [tried.count(each) for each in set(tried)]
        assert max(counts) - min(counts) <= 1
        assert not {f["seed"] for f in mine} & {0, 1}


@pytest.mark.parametrize(
    ("value", "tried", "edge"),
    [
        (0.1, [0.1, 0.2, 0.3], "smallest"), (0.2, [0.1, 0.2, 0.3], None),
        (3, [1, 2, 3, None], "largest"), (None, [1, 2, None], None), (0.1, [0.1, 0.1], None),
        (True, [True, False], None), ("adam", ["adam", "sgd"], None),
    ],
)  # fmt: skip
def test_only_numbers_lie_at_an_edge(value, tried, edge):
    assert edge_of(value, tried) == edge


def test_the_best_mean_is_chosen_and_divergence_never():
    def trial(lr, score):
        return Trial({"lr": lr, "seed": 0}, score)

    results = [trial(1, 90), trial(2, 80), trial(2, 98), trial(3, 99), trial(3, float("-inf"))]
    assert choose(["lr"], results) == {"lr": 1}
    with pytest.raises(UserError, match="diverged"):
        choose(["lr"], [trial(3, float("-inf"))])


def test_tuned_runs_wait_for_their_trials(grid_file):
    runs = {**BASE, "activation": ["ReLU", "ZiLU"], "seed": [0, 1]}
    manifest = plan(grid_file(runs=runs, tune={"lr": [0.1, 0.2], "sigma": [1, 2]}))
    roles = [run.role for run in manifest.runs]
    assert roles == ["trial"] * 8 + ["grid"] * 4 + ["tuned"] * 4
    tuned = manifest.runs[-1]
    assert not set(tuned.flags) & {"lr", "sigma"}
    assert [t.flags["activation"] for t in manifest.trials_of(tuned)] == ["ZiLU"] * 4
    with pytest.raises(UserError, match="4 of the 4 trials that decide its flags have not ended"):
        jobs.command(manifest, tuned)
    alone = plan(grid_file(runs=runs, tune={"lr": [0.1, 0.2], "equal_settings": False}))
    assert [run.role for run in alone.runs] == ["trial"] * 4 + ["tuned"] * 4


def test_a_choice_that_is_the_grids_own_is_not_trained_twice(grid_file):
    runs = {**BASE, "activation": "ReLU", "seed": [0, 1], "lr": 0.2}
    manifest = manifests.frozen(plan(grid_file(runs=runs, tune={"lr": [0.1, 0.2]})))
    for run in manifest.runs:
        if run.role != "tuned":
            vision_run(manifest.path(run), 70 + 10 * run.flags["lr"], **run.flags)
    for run in manifest.runs[-2:]:
        jobs.share_folder(manifest, run)
        same = manifest.path(run).resolve()
        assert same.name == f"lr0.2_ReLU_seed{run.flags['seed']}"
        assert status_of(manifest.path(run)).kind == "finished"
    found = {each.path.name: each.role for each in find_runs([manifest.folder])}
    assert (found["tuned_ReLU_seed0"], found["lr0.2_ReLU_seed0"]) == ("tuned", "grid")


# --- mistakes ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"run": BASE}, r"unknown key 'run'; did you mean runs\?"),
        ({}, r"not a grid file|`runs:` must hold"),
        ({"runs": [1]}, r"`runs:` must hold lines"),
        ({"runs": {**BASE, "lrr": 1}}, r"unknown flag 'lrr'; did you mean --lr\?"),
        ({"runs": {**BASE, "lr": [1, "fast"]}}, r"--lr: expected a number .*in the run model: "),
        ({"runs": {**BASE, "activation": "Zilu2"}}, r"--activation: .*did you mean ZiLU\?"),
        ({"runs": {**BASE, "output_dir": "x"}}, r"output_dir is the sweep's to decide"),
        ({"runs": {**BASE, "stem": "imagenet"}}, r"--stem imagenet does not apply to resnet20"),
        ({"runs": {**BASE, "device": "cuda:1"}}, r"a sweep shares out the devices"),
        ({"runs": {**BASE, "config": "none.yaml"}}, r"--config none.yaml: not a readable YAML"),
        ({"runs": {**BASE, "seed": []}}, r"seed: nothing to choose from"),
        ({"runs": BASE, "program": "visual"}, r"unknown program 'visual'; known: vision"),
        ({"runs": BASE, "name": "a/b"}, r"name 'a/b' must be that of a folder"),
        ({"runs": BASE, "tune": {"lr": 1}}, r"lr in `tune:` must be a list of two"),
        ({"runs": BASE, "tune": {"device": ["cpu", "cuda"]}}, r"'device' .* no flag that can be"),
        ({"runs": BASE, "tune": {"lr": [1, 2], "seeds": [0]}}, r"seed 0 is both tuned and"),
        ({"runs": {**BASE, "val_fraction": 0}, "tune": {"lr": [1, 2]}}, r"give val_fraction"),
        ({"runs": BASE, "tune": {"activation": ["ReLU", "GELU"]}}, r"no flag that can be tuned"),
        ({"runs": BASE, "tune": {"lr": [{"lr": 1}, {"lr": 2}]}}, r"a list of plain values"),
        ({"runs": BASE, "tune": {"lr": [1, 1]}}, r"lr in `tune:` must be a list of two"),
        ({"runs": BASE, "tune": {"lr": [1, 2], "seeds": [7, 7]}}, r"a list of different whole"),
        ({"runs": BASE, "tune": {"lr": [1, 2], "seeds": [-7]}}, r"a list of different whole"),
        ({"runs": BASE, "tune": {"lr": [1, 2], "equal_settings": "2"}}, r"must be true or false"),
        ({"runs": {**BASE, "activation": "ReLU"}, "tune": {"sigma": [1, 2]}}, r"one setting for"),
        ({"runs": BASE, "program": ["vision"]}, r"unknown program \['vision'\]"),
        ({"runs": {**BASE, "config": [["a"]]}}, r"--config: expected one value"),
        ({"runs": BASE, "report": {1: 2}}, r"unknown key '1' in report"),
        ({"runs": BASE, "report": {"margin": "wide"}}, r"margin in report: expected a number"),
        ({"runs": BASE, "report": {"margn": 1}}, r"unknown key 'margn' in report; did you mean"),
    ],
)  # fmt: skip
def test_mistakes_get_one_line(grid_file, mistake_in, content, message):
    path = grid_file(**content)
    error = mistake_in(sweep, path, "--count", "--output_dir", path.parent / "out")
    assert not (path.parent / "out").exists()
    assert re.search(message, error), error


def test_no_grid_file(mistake_in, tmp_path):
    assert "cannot be read as a grid file" in mistake_in(sweep, tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("runs: [")
    assert "not a YAML file" in mistake_in(sweep, tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_text("runs: {lr: 1, lr: 2}")
    assert "'lr' stands there twice" in mistake_in(sweep, tmp_path / "bad.yaml")


def test_shipped_grids_are_sound():
    """Every grid in sweeps/ comes to runs, and names no tuned flag that is not one."""
    files = sorted((Path(__file__).parents[2] / "sweeps").glob("*.yaml"))
    assert len(files) >= 5
    for file in files:
        grid = read_grid(file)
        assert len(grid.combinations) > 1
        assert set(tuned_flags(grid.tune)) <= set(grid.combinations[0])


# --- optimizers, and flags that are mappings ---


def test_lists_in_a_mapping_are_choices(grid_file):
    runs = BASE | {
        "optimizer": [
            "adamw",
            {"optimizer": "rmsprop", "optimizer_args": {"alpha": [0.9, 0.99], "centered": True}},
            {"optimizer": "timm/adan", "optimizer_args": {"betas": [[0.9, 0.8, 0.7]]}},
        ]
    }
    found = some(plan(grid_file(runs=runs)).runs, "optimizer", "optimizer_args", "momentum")
    assert found == [
        ("adamw", None, 0.9),
        ("RMSprop", '{"alpha": 0.9, "centered": true}', None),
        ("RMSprop", '{"alpha": 0.99, "centered": true}', None),
        ("timm/adan", '{"betas": [0.9, 0.8, 0.7]}', None),
    ]


def test_a_run_of_an_optimizers_arguments_is_given_them(grid_file):
    runs = BASE | {
        "optimizer": "RMSprop", "momentum": [None, 0.9], "optimizer_args": [None, {"alpha": 0.9}],
    }  # fmt: skip
    there = plan(grid_file(runs=runs))
    found = [vars(values(VisionConfig, *jobs.command(there, run)[2:])) for run in there.runs]
    for run, args in zip(there.runs, found, strict=True):
        assert {name: args[name] for name in run.flags} == run.flags
    given = [(args["momentum"], args["optimizer_args"]) for args in found]
    assert given == list(itertools.product([None, 0.9], [None, '{"alpha": 0.9}']))
    assert [run.name for run in there.runs] == [
        "ZiLU_sigma1_seed0", "alpha0.9_ZiLU_sigma1_seed0", "momentum0.9_ZiLU_sigma1_seed0",
        "alpha0.9_momentum0.9_ZiLU_sigma1_seed0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"optimizer": "RMSprop", "optimizer_args": {"alhpa": 1}}, "takes no alhpa"),
        ({"optimizer": "RMSprop", "optimizer_args": {"alpha": [0.9, -1]}}, "Invalid alpha"),
        ({"optimizer": ["adamw", "Adagrad"], "momentum": 0.5}, "Adagrad takes no momentum"),
        ({"optimizer": "LBFGS"}, "closure"),
        ({"optimizer_args": {"eps": []}}, "nothing to choose from"),
        ({"optimizer_args": 3}, "expected a mapping"),
    ],
)
def test_what_no_optimizer_takes_is_refused_before_a_run(grid_file, flags, words):
    with pytest.raises(UserError, match=words):
        read_grid(grid_file(runs=BASE | flags))


@pytest.mark.parametrize(
    "values",
    [[{"eps": 1e-8}, {"eps": 1e-3}], {"eps": [1e-8, 1e-3]}, ["{eps: 1e-8}", {"eps": "1e-3"}]],
)
def test_tuned_arguments(grid_file, values):
    path = grid_file(runs=BASE | {"activation": ["ReLU", "GELU"]}, tune={"optimizer_args": values})
    tried = [run for run in plan(path).runs if run.role == "trial"]
    found = some(tried, "activation", "optimizer_args")
    texts = ['{"eps": 1e-08}', '{"eps": 0.001}']
    assert found == list(itertools.product(["ReLU", "GELU"], texts))


def test_a_tuned_optimizer_brings_its_own_settings(grid_file, monkeypatch):
    grid = {"runs": BASE | {"activation": "ReLU"}, "tune": {"optimizer": ["adamw", "RMSprop"]}}
    there = plan(grid_file(**grid))
    tried = [run for run in there.runs if run.role == "trial"]
    assert some(tried, "optimizer", "momentum", "beta1") == [
        ("adamw", 0.9, 0.9), ("RMSprop", None, None),
    ]  # fmt: skip
    tuned = next(run for run in there.runs if run.role == "tuned")
    for name, momentum in (("adamw", 0.9), ("RMSprop", None)):
        monkeypatch.setattr(jobs, "chosen_flags", lambda *_, name=name: {"optimizer": name})
        assert jobs.flags_of(there, tuned)["momentum"] == momentum
        args = values(VisionConfig, *jobs.command(there, tuned)[2:])
        assert (args.optimizer, args.momentum) == (name, momentum)
    grid["runs"] |= {"momentum": 0.5}
    with pytest.raises(UserError, match="momentum belongs to one optimizer"):
        plan(grid_file(**grid))


def test_settings_of_a_recipes_optimizer_are_not_anothers(grid_file, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("optimizer: sgd\nmomentum: 0.8\nlr: 0.1\n")
    runs = BASE | {"config": str(recipe), "optimizer": ["sgd", "adamw", "RMSprop"]}
    found = some(plan(grid_file(runs=runs)).runs, "optimizer", "momentum", "lr")
    assert found == [("sgd", 0.8, 0.1), ("adamw", 0.8, 0.1), ("RMSprop", None, 0.1)]
    flags = ("--config", recipe, "--optimizer")
    assert values(VisionConfig, *flags, "RMSprop").momentum is None
    assert values(VisionConfig, *flags, "RMSprop", "--momentum", "0.7").momentum == 0.7
    assert values(VisionConfig, *flags, "adamw").momentum == 0.8


def test_the_name_of_a_grid_whose_recipe_is_gone(tmp_path):
    """A job of an array goes on in the folder that the name says."""
    path = tmp_path / "grid.yaml"
    path.write_text("name: other\nruns:\n  config: gone.yaml\n  activation: [ReLU, GELU]\n")
    with pytest.raises(UserError):
        read_grid(path)
    assert name_of(path) == "other"
    path.write_text("[")
    assert name_of(path) == name_of(tmp_path / "gone/grid.yaml") == "grid"
