"""A run that is made longer ends as one that was given that length; or it is refused, with the way
to a new run from its weights."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
import yaml
from helpers.resumable import FLAGS, KILL, TERM, TRY_AGAIN, assert_same_result, results

import report
from cli.language import LanguageConfig
from experiments.results import other_flags
from run_folder.checkpoint import load_checkpoint
from run_folder.status import status_of

STEPS = 5  # an epoch has, of both programs' data
STEP = ("--scheduler", "step", "--lr_step", "1", "--lr_gamma", "0.7", "--warmup", "1ep")
FREE = ("--scheduler", "none", "--warmup", "7")  # longer than the short run's first epoch
SCHEDULES = {
    "vision-plateau": ("vision_main",), "vision-step": ("vision_main", *STEP),
    "language-none": ("language_main", *FREE),
    "language-step": ("language_main", *STEP, "--warmup", "0%"),
    "language-plateau": ("language_main", *STEP, "--scheduler", "plateau"),
}  # fmt: skip


@pytest.fixture(scope="module")
def run(forked, data_path):
    """run("vision_main", folder, *more flags, fault=..., code=0) -> output"""

    def run(module, folder, *flags, fault=None, code=0, processes=1):
        where = ("--data_path", data_path[module], "--output_dir", folder)
        faults = {0: fault} if fault else {}
        codes, output = forked(
            module, *FLAGS[module], *where, *flags, faults=faults, processes=processes
        )
        assert codes == [code] * processes, output
        return output

    return run


@pytest.fixture(scope="module")
def made(run, tmp_path_factory):
    """made("vision-step", 2): the folder of a whole run of 2 epochs; to be left as it is."""
    folders = {}

    def made(name, epochs):
        if (name, epochs) not in folders:
            folder = folders[name, epochs] = tmp_path_factory.mktemp(name) / "run"
            module, *flags = SCHEDULES[name]
            run(module, folder, *flags, "--num_epochs", epochs)
        return folders[name, epochs]

    return made


@pytest.fixture
def short(made, tmp_path):
    """short("vision-step"): a copy of the run of 2 epochs."""
    return lambda name: Path(shutil.copytree(made(name, 2), tmp_path / "run"))


def arguments(folder):
    return yaml.safe_load((folder / "args.txt").read_text())


def assert_is(folder, whole, tested_at=()):
    """The run in `folder` is the one in `whole`, but for evaluations at some steps."""
    if not tested_at:
        assert_same_result(folder, whole)
    mine, theirs = (load_checkpoint(each / "checkpoint.pt") for each in (folder, whole))
    for name, value in theirs["model"].items():
        assert torch.equal(value, mine["model"][name]), name
    assert mine["ranks"][0]["random"]["torch"].equal(theirs["ranks"][0]["random"]["torch"])
    assert mine["plateau"] == theirs["plateau"]
    arrays = [np.load(each / "predictions.npz") for each in (folder, whole)]
    assert all(np.array_equal(arrays[0][name], arrays[1][name]) for name in arrays[1])
    kept = [
        [record for record in results(each)[1] if record["step"] not in tested_at]
        for each in (folder, whole)
    ]
    assert kept[0] == kept[1]
    lasts = [(each / "train_eval_results.txt").read_text().splitlines() for each in (folder, whole)]
    finals = [[line for line in lines if line.startswith("[Summary] Final")] for lines in lasts]
    assert finals[0] == finals[1]
    assert len(finals[0]) == 1
    stats = [
        [line for line in map(json.loads, (each / "stats.jsonl").open()) if "sites" in line]
        for each in (folder, whole)
    ]
    assert stats[0] == stats[1]


def at_the_end_of_the_short_run(name):
    """Where only the short run evaluated the test text; images are tested after each epoch."""
    return (2 * STEPS,) if name.startswith("language") else ()


# --- what goes on ---


@pytest.mark.parametrize(
    "name",
    [
        "language-none",
        "language-step",
        pytest.param("vision-plateau", marks=pytest.mark.slow),
        pytest.param("vision-step", marks=pytest.mark.slow),
        pytest.param("language-plateau", marks=pytest.mark.slow),
    ],
)
def test_a_finished_run_goes_on_as_one_of_the_new_length(run, made, short, name):
    folder, (module, *flags) = short(name), SCHEDULES[name]
    lines = (folder / "train_eval_results.txt").read_text().split("[Summary]")[0]
    run(module, folder, *flags, "--resume", "--num_epochs", 4)
    assert_is(folder, made(name, 4), at_the_end_of_the_short_run(name))
    # What the short run found stands there as it was, its test result included.
    text = (folder / "train_eval_results.txt").read_text()
    assert text.startswith(lines)
    assert "[Test]" in lines.splitlines()[-1]
    assert status_of(folder).kind == "finished"
    found = arguments(folder)
    assert (found["num_epochs"], found["resolved"]["total_steps"]) == (4, 4 * STEPS)
    (item,) = found["resumed"]
    assert (item["step"], item["num_epochs_before"]) == (2 * STEPS, 2)
    # The same command once more changes nothing.
    run(module, folder, *flags, "--resume", "--num_epochs", 4)
    assert_is(folder, made(name, 4), at_the_end_of_the_short_run(name))
    assert len(arguments(folder)["resumed"]) == 2
    assert "num_epochs_before" not in arguments(folder)["resumed"][1]


def test_its_path_and_the_number_are_enough(forked, made, short):
    folder = short("language-step")
    (code,), output = forked("language_main", "--resume", folder, "--num_epochs", 3)
    assert code == 0, output
    (code,), output = forked("language_main", "--resume", folder, "--num_epochs", 4)
    assert code == 0, output
    assert_is(folder, made("language-step", 4), tested_at=(10, 15))
    befores = [item["num_epochs_before"] for item in arguments(folder)["resumed"]]
    assert befores == [2, 3]


def test_a_file_may_give_the_number(forked, made, short, tmp_path):
    """The args.txt of the long run, for example, as --config."""
    folder = short("language-step")
    flags = ("--config", made("language-step", 4) / "args.txt", "--output_dir", folder)
    (code,), output = forked("language_main", "--resume", *flags)
    assert code == 0, output
    assert_is(folder, made("language-step", 4), tested_at=(10,))


def test_an_interrupted_run_may_become_longer_too(run, made, tmp_path):
    folder, (module, *flags) = tmp_path / "run", SCHEDULES["language-none"]
    short = ("--num_epochs", 2)
    run(module, folder, *flags, *short, fault=("step", TERM, 6), code=TRY_AGAIN)
    run(module, folder, *flags, "--resume", "--num_epochs", 4)
    assert_same_result(folder, made("language-none", 4))


def test_it_may_go_on_elsewhere_and_leaves_the_short_run(forked, made, short, tmp_path):
    folder, other = short("language-step"), tmp_path / "other"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    flags = ("--resume", folder, "--output_dir", other, "--num_epochs", 4)
    (code,), output = forked("language_main", *flags)
    assert code == 0, output
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    found, wanted = (
        [record for record in results(each)[1] if record["step"] != 10]
        for each in (other, made("language-step", 4))
    )
    assert found == wanted
    assert arguments(other)["resumed"][0]["num_epochs_before"] == 2


def test_two_processes_go_on_as_well(run, tmp_path):
    module, *flags = SCHEDULES["language-none"]
    folders = [tmp_path / "longer", tmp_path / "whole"]
    run(module, folders[0], *flags, "--num_epochs", 1, processes=2)
    run(module, folders[0], *flags, "--num_epochs", 2, "--resume", processes=2)
    run(module, folders[1], *flags, "--num_epochs", 2, processes=2)
    assert_is(*folders, tested_at=(5,))


# --- interrupted while it becomes longer ---

FAULTS = [
    ("start_up", KILL, 0), ("before_training", KILL, 0), ("half_a_save", KILL, 0),
    ("renaming", KILL, 0), ("renaming", KILL, 1), ("renaming", KILL, 2), ("step", TERM, 2),
    ("step", KILL, 6), ("result_line", KILL, 0),
]  # fmt: skip


@pytest.mark.parametrize(
    "fault", FAULTS, ids=lambda fault: f"{fault[0]}-{fault[1].name}-{fault[2]}"
)
def test_an_interruption_changes_nothing(run, forked, made, short, fault):
    folder, (module, *flags) = short("language-plateau"), SCHEDULES["language-plateau"]
    command = (*flags, "--resume", "--num_epochs", 4)
    run(module, folder, *command, fault=fault, code=-KILL if fault[1] == KILL else TRY_AGAIN)
    # Never the results of the short run as those of a long one.
    epochs, kind = arguments(folder)["num_epochs"], status_of(folder).kind
    assert (kind, epochs) in (("finished", 2), ("interrupted", 2), ("interrupted", 4))
    if load_checkpoint(folder / "checkpoint.pt")["settings"]["args"]["num_epochs"] == 4:
        (code,), output = forked(module, "--resume", folder)  # the number is not needed again
        assert code == 0, output
    else:
        run(module, folder, *command)
    assert_is(folder, made("language-plateau", 4), tested_at=(10,))
    found = arguments(folder)
    assert found["num_epochs"] == 4
    assert [x["num_epochs_before"] for x in found["resumed"] if "num_epochs_before" in x] == [2]


# --- what a report says ---


def test_a_report_tells_the_length_and_when_it_became_longer(run, short, tmp_path, quick_figures):
    folder, (module, *flags) = short("language-step"), SCHEDULES["language-step"]
    assert report.main([str(folder), "--output_dir", str(tmp_path / "before")]) == 0
    run(module, folder, *flags, "--resume", "--num_epochs", 3)
    assert report.main([str(folder), "--output_dir", str(tmp_path / "after")]) == 0
    texts = [(tmp_path / name / "report.md").read_text() for name in ("before", "after")]
    assert ["num_epochs 2;" in text for text in texts] == [True, False]
    assert ["num_epochs 3;" in text for text in texts] == [False, True]
    rows = [pandas.read_csv(tmp_path / name / "runs.csv") for name in ("before", "after")]
    (before,), (after,) = (each.to_dict("records") for each in rows)
    assert (before["epochs"], after["epochs"]) == (2, 3)
    at = arguments(folder)["resumed"][0]["at"]
    assert pandas.isna(before["longer_since"])
    assert after["longer_since"] == f"num_epochs 2 until step 10 ({at})"
    assert [f"num_epochs 2 until step 10 ({at})" in text for text in texts] == [False, True]
    # A sweep that wanted the short run does not take this one for it.
    known = {"num_epochs": LanguageConfig.flags()["num_epochs"]}
    assert other_flags(folder, {"num_epochs": 2}, known) == ["num_epochs 3, not 2"]


def test_a_test_of_the_checkpoint_says_of_which_step(run, short):
    """So that a line of the short run is not taken for one of the long run."""
    folder, (module, *flags) = short("language-step"), SCHEDULES["language-step"]
    run(module, folder, *flags, "--test_only")
    run(module, folder, *flags, "--resume", "--num_epochs", 3)
    run(module, folder, *flags, "--test_only")
    lines = (folder / "test_results.txt").read_text().splitlines()
    assert [re.search(r"\(step (\d+)\)", line)[1] for line in lines] == ["10", "15"]


# --- a limit in steps ---


def test_a_limit_in_steps_may_grow(run, tmp_path):
    """Also inside an epoch, where only the short run was evaluated."""
    module, *flags = SCHEDULES["language-plateau"]
    longer, whole = tmp_path / "longer", tmp_path / "whole"
    run(module, longer, *flags, "--max_steps", 7)
    run(module, longer, *flags, "--max_steps", 12, "--resume")
    run(module, whole, *flags, "--max_steps", 12)
    assert_is(longer, whole, tested_at=(7,))
    assert arguments(longer)["resumed"][0]["max_steps_before"] == 7
    assert (arguments(longer)["max_steps"], arguments(longer)["num_epochs"]) == (12, 3)


# --- what is refused ---


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def refused(run):
    """Return the one line of a mistake that leaves the folder as it was."""

    def refused(module, folder, *flags):
        before = content(folder)
        output = run(module, folder, *flags, code=2)
        assert content(folder) == before
        (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
        return line

    return refused


@pytest.mark.parametrize(
    ("module", "flags", "named"),
    [
        ("vision_main", ("--scheduler", "cosine"), "--scheduler cosine"),
        ("language_main", ("--scheduler", "plateau"), "--warmup 5%"),
        pytest.param(
            "vision_main", ("--scheduler", "step", "--warmup", "5%"), "--warmup 5%",
            marks=pytest.mark.slow,
        ),
        pytest.param("language_main", (), "--scheduler linear", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_learning_rates_that_depend_on_the_length(run, refused, tmp_path, module, flags, named):
    """The line names the flag; what it proposes starts a new run from these weights."""
    folder, new = tmp_path / "run", tmp_path / "new"
    run(module, folder, *flags, "--num_epochs", 1)
    line = refused(module, folder, *flags, "--num_epochs", 2, "--resume")
    assert f"with {named} " in line
    start = re.search(r"--init_from (\S+)", line)[1]
    run(module, new, *flags, "--num_epochs", 2, "--init_from", start, "--lr", "1e-30")
    mine, theirs = (load_checkpoint(each / "checkpoint.pt")["model"] for each in (new, folder))
    weights = [name for name in mine if "running" not in name and "num_batches" not in name]
    assert all((mine[name] - theirs[name]).abs().max() < 1e-6 for name in weights)
    assert (
        arguments(new)["resolved"]["init_from_sha256"]
        == hashlib.sha256((folder / "checkpoint.pt").read_bytes()).hexdigest()
    )
    if module == "language_main":  # whose evaluation depends on nothing but the weights
        first, last = results(new)[1][0], results(folder)[1][-1]
        assert first["val"]["loss"] == last["val"]["loss"]


def test_a_length_that_is_no_longer_one(run, refused, short):
    folder, (module, *flags) = short("language-step"), SCHEDULES["language-step"]
    assert "(the run has 2)" in refused(module, folder, *flags, "--resume", "--num_epochs", 1)
    # A first limit in steps shortens it, and other flags are still another run's.
    steps = ("--max_steps", 99, "--num_epochs", 4)
    assert "--max_steps 99" in refused(module, folder, *flags, "--resume", *steps)
    lr = ("--lr", "0.1", "--num_epochs", 4)
    line = refused(module, folder, *flags, "--resume", *lr)
    assert "--lr 0.1 (the run has 0.0006)" in line
    assert "num_epochs" not in line


def test_the_default_is_no_wish_for_more(forked, data_path, short):
    folder, (module, *flags) = short("language-step"), SCHEDULES["language-step"]
    words = list(FLAGS[module])
    place = words.index("--num_epochs")
    del words[place : place + 2]
    before = content(folder)
    where = ("--data_path", data_path[module], "--output_dir", folder)
    (code,), output = forked(module, *words, *where, *flags, "--resume")
    assert code == 2, output
    assert content(folder) == before


def test_the_other_limit_ends_it_where_it_is(run, refused, tmp_path):
    module, *flags = SCHEDULES["language-none"]
    folder = tmp_path / "run"
    run(module, folder, *flags, "--max_steps", 4, "--num_epochs", 1)
    flags = [*flags, "--resume"]
    line = refused(module, folder, *flags, "--max_steps", 4, "--num_epochs", 3)
    assert "--max_steps 4 end at step 4" in line
    line = refused(module, folder, *flags, "--max_steps", 3, "--num_epochs", 3)
    assert "(the run has 4)" in line
    run(module, folder, *flags, "--max_steps", 6, "--num_epochs", 3)
    assert load_checkpoint(folder / "checkpoint.pt")["step"] == 6
