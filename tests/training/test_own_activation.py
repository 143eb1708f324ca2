"""Runs with an activation of a user's own: as a named one, resumed, evaluated, swept, reported."""

import json
import shutil
import sys

import numpy as np
import pytest
from helpers.commands import command
from helpers.own_activations import MISTAKES, write
from helpers.resumable import KILL, assert_same_result, assert_same_run

import report
import sweep
import vision_main
from analysis.sections.functions import read_curve
from cli.vision import VisionConfig
from experiments import jobs
from experiments import manifest as manifests
from run_folder.checkpoint import load_checkpoint
from tasks.vision import VisionProgram

SMALL = (
    "--dataset", "digits", "--resize", "8", "--model", "resnet20", "--device", "cpu",
    "--batch_size", "128", "--num_epochs", "1", "--max_steps", "6", "--save_interval", "2",
)  # fmt: skip
NO_RUN = ("--model", "resnet20", "--device", "cpu", "--dataset", "digits", "--resize", "8")
TRAP = "\nfrom pathlib import Path\n\n(Path(__file__).parent / 'was_run').touch()\n"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = write(tmp_path_factory.mktemp("own"))
    with (folder / "mine.py").open("a") as file:
        file.write(TRAP)
    return folder


@pytest.fixture(scope="module")
def trained(own, forked):
    """A run with mine.py:Squash, and what a folder of it is."""
    spec = f"{own}/mine.py:Squash"
    args = ("--activation", spec, "--activation_args", "{beta: 2}")
    codes, said = forked("vision_main", *SMALL, *args, "--stats", 4, "--output_dir", own / "run")
    assert codes == [0], said
    return own / "run", args


@pytest.fixture(autouse=True)
def fresh_neighbours():
    """Let each test import the file `scales.py` that lies beside its own."""
    sys.modules.pop("scales", None)


def without(folder, name):
    (folder / name).unlink(missing_ok=True)


@pytest.mark.slow
def test_torchs_own_is_the_named_one_to_the_bit_killed_and_resumed_too(forked, tmp_path):
    names = {"named": "Mish", "own": "torch.nn:Mish", "killed": "torch.nn:Mish"}
    for folder, name in names.items():
        flags = (*SMALL, "--activation", name, "--output_dir", tmp_path / folder, "--stats", 2)
        faults = {0: ("step", KILL, 3)} if folder == "killed" else None
        codes, said = forked("vision_main", *flags, faults=faults)
        assert codes == [-KILL if faults else 0], said
        if faults:
            assert forked("vision_main", *flags, "--resume")[0] == [0]
    assert_same_result(tmp_path / "own", tmp_path / "named")
    assert_same_run(tmp_path / "killed", tmp_path / "own")


def test_a_network_starts_from_the_same_weights_whatever_an_activation_draws(own):
    def weights(*flags):
        program = VisionProgram(command(VisionConfig, *SMALL, *flags).config)
        return program.network_for(10, 8).state_dict()

    mine = weights("--activation", f"{own}/mine.py:Squash")
    gains = [value for name, value in mine.items() if name.endswith(".gain")]
    assert len({value.item() for value in gains}) == len(gains)
    assert all(mine[name].equal(value) for name, value in weights("--activation", "ReLU").items())
    again = weights("--activation", f"{own}/mine.py:Squash")
    assert all(again[name].equal(value) for name, value in mine.items())


def test_what_a_run_keeps(own, trained):
    folder, _ = trained
    source = load_checkpoint(folder / "checkpoint.pt")["settings"]["activation_source"]
    assert set(source["sha256"]) == {"mine.py", "scales.py"}
    args = (folder / "args.txt").read_text()
    assert all(digest in args for digest in source["sha256"].values())
    assert (own / "mine.py").read_text() in (folder / "activation_source.txt").read_text()
    assert "Activation sites: 19" in (folder / "model.txt").read_text()
    sites = json.loads((folder / "stats.jsonl").read_text().splitlines()[0])["sites"]
    assert len(sites) == 19
    x, f, slope = read_curve(folder / "activation.json")
    np.testing.assert_allclose(np.gradient(f, x)[1:-1], slope[1:-1], atol=5e-3)
    assert slope.max() > 3  # 2 beta


def test_a_folder_alone_runs_no_code(own, trained, forked, tmp_path, mistake_in):
    """Neither resuming, nor a file of flags, nor evaluating, nor a report; with its name, each."""
    folder, args = trained
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    without(own, "was_run")
    for flags in (
        ("--resume", copy),
        ("--resume", copy, "--max_steps", 8),
        ("--config", copy / "args.txt", "--output_dir", tmp_path / "other"),
        ("--test_only", "--output_dir", copy),
        ("--test_only", "--checkpoint", copy / "checkpoint.pt"),
        ("--config", copy / "args.txt", "--test_only", "--output_dir", tmp_path / "other"),
    ):
        told = mistake_in(vision_main, *flags)
        assert f"the run uses {args[1]}; name --activation {args[1]} again" in told
    report.main([str(copy)])
    assert not (own / "was_run").exists()
    for flags in (
        ("--resume", copy, "--max_steps", 8),
        ("--config", copy / "args.txt", "--output_dir", tmp_path / "other"),
        ("--test_only", "--output_dir", copy),
    ):
        codes, said = forked("vision_main", *flags, *args[:2])
        assert codes == [0], said
    assert (own / "was_run").exists()
    assert load_checkpoint(copy / "checkpoint.pt")["step"] == 8


@pytest.mark.parametrize("changed", ["mine.py", "scales.py"])
def test_another_source_is_refused(trained, own, tmp_path, mistake_in, changed, forked):
    folder, _ = trained
    for name in ("mine.py", "scales.py"):
        shutil.copy(own / name, tmp_path)
    shutil.copytree(folder, tmp_path / "run")
    moved = ("--activation", f"{tmp_path}/mine.py:Squash")
    evaluate = ("--test_only", "--output_dir", tmp_path / "run")
    assert forked("vision_main", *evaluate, *moved)[0] == [0]  # the same code, elsewhere
    with (tmp_path / changed).open("a") as file:
        file.write("# another source\n")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    for flags in (evaluate, ("--resume", tmp_path / "run", "--max_steps", 8)):
        codes, said = forked("vision_main", *flags, *moved)
        assert codes == [2]
        told = said.splitlines()[-1]
        assert f"{changed} had SHA-256" in told
        assert "activation_source.txt" in told
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    changed_files = {path.name for path in after if after[path] != before.get(path)}
    assert changed_files <= {"lock"}


def test_mistakes_end_in_one_line_before_anything_is_touched(own, mistake_in, tmp_path):
    run = ("--output_dir", tmp_path / "run")
    names = [f"{own}/mistakes.py:{name}" for name in MISTAKES]
    for name in (*names, f"{own}/no.py:Squash", f"{own}/mine.py:Squosh", "no.such:Squash"):
        told = mistake_in(vision_main, *NO_RUN, "--activation", name, *run)
        assert name in told
        assert not list((tmp_path / "run").glob("*.txt"))
    squash = f"{own}/mine.py:Squash"
    for flags, word in (
        (("--activation_args", "{bta: 2}"), "bta"),
        (("--activation_args", "{inplace: true}"), "--inplace"),
        (("--activation_args", "[2]"), "--activation_args"),
        (("--learn_sigma",), "learn"),
        (("--sigma", 2), "sigma"),
        (("--rescale_init", 2), "--rescale_init"),
        (("--save_for_backward", "output", "--activation", "GELU", "--activation_args", "{a: 1}"),
         "torch.nn:"),
    ):  # fmt: skip
        told = mistake_in(vision_main, *NO_RUN, "--activation", squash, *flags, *run)
        assert word in told


def test_a_wrong_width_is_told_by_the_network(own, mistake_in, tmp_path):
    flags = ("--activation", "torch.nn:PReLU", "--activation_args", "{num_parameters: 7}")
    told = mistake_in(vision_main, *NO_RUN, *flags, "--output_dir", tmp_path / "run")
    assert "torch.nn:PReLU fails in this network" in told


def test_learned_sigmas_are_logged(own, forked, tmp_path):
    flags = ("--activation", f"{own}/mine.py:Soft", "--learn_sigma", "--sigma", "0.5", "--stats", 4)
    codes, said = forked("vision_main", *SMALL, *flags, "--output_dir", tmp_path, "--lr", "0.01")
    assert codes == [0], said
    record = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    weights = load_checkpoint(tmp_path / "checkpoint.pt")["model"]
    assert len(record["sigma"]) == 19
    for path, value in record["sigma"].items():
        assert value == pytest.approx(weights[f"{path}.sigma"].mean().item())
        assert value != 0.5
    line = json.loads((tmp_path / "stats.jsonl").read_text().splitlines()[0])
    assert {site["sigma"] for site in line["sites"].values()} == {0.5}


GRID = """
runs:
  dataset: digits
  resize: 8
  device: cpu
  model: resnet20
  batch_size: 128
  num_epochs: 1
  max_steps: 2
  val_fraction: 0.2
  activation:
    - ReLU
    - {{activation: {own}/mine.py:Squash, activation_args: {{beta: [1, 2]}}}}
    - {{activation: {own}/mine.py:Soft, sigma: 2, learn_sigma: true}}
tune:
  activation_args: {{beta: [0.5, 1]}}
report:
  baseline: ReLU
  primary: Squash(beta=2)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("quick_figures")
def test_a_sweep_with_tuning_and_its_report(own, tmp_path, forked, mistake_in):
    grid, out = tmp_path / "grid.yaml", tmp_path / "out"
    grid.write_text(GRID.format(own=own))
    assert sweep.main([str(grid), "--output_dir", str(out), "--count"]) == 0
    manifest = manifests.load(out)
    for run in manifest.runs:  # the trials are the first
        jobs.share_folder(manifest, run)
        codes, said = forked("vision_main", *jobs.command(manifest, run)[2:])
        assert codes == [0], said
    assert [run.name for run in manifest.runs if run.role != "trial"] == [
        "ReLU_seed0", "Squash_beta1_seed0", "Squash_beta2_seed0", "Soft_sigma2-learned_seed0",
        "tuned_ReLU_seed0", "tuned_Squash_seed0", "tuned_Soft_sigma2-learned_seed0",
    ]  # fmt: skip
    trials = [run.flags["activation_args"] for run in manifest.runs if run.role == "trial"]
    assert trials == [None, None, '{"beta": 0.5}', '{"beta": 1}', None, None]
    without(own, "was_run")
    report.main([str(out)])
    assert not (own / "was_run").exists()
    text = (out / "report/report.md").read_text()
    for label in ("Squash(beta=1)", "Squash(beta=2) against ReLU", "Soft (σ learned from 2)"):
        assert label in text
    # A manifest, which lies among results, names no code.
    grid.write_text(GRID.format(own=own).replace("mine.py:Soft", "mine.py:Squash"))
    grid.write_text(grid.read_text().replace(", sigma: 2, learn_sigma: true", ""))
    soft = next(run.index for run in manifest.runs if run.name.startswith("Soft"))
    told = mistake_in(sweep, grid, "--output_dir", out, "--index", soft)
    assert "name it in" in told
    grid.unlink()
    assert "name it in" in mistake_in(sweep, grid, "--output_dir", out, "--index", soft)


def test_a_sweep_does_not_go_on_with_another_source(own, tmp_path, mistake_in, capsys):
    for name in ("mine.py", "scales.py"):
        shutil.copy(own / name, tmp_path)
    grid, out = tmp_path / "grid.yaml", tmp_path / "out"
    grid.write_text(f"runs: {{activation: [ReLU, '{tmp_path}/mine.py:power']}}\n")
    assert sweep.main([str(grid), "--output_dir", str(out), "--count"]) == 0
    content = json.loads((out / "manifest.json").read_text())
    (source,) = content["sources"].values()
    then = source["sha256"]["mine.py"]
    source["sha256"]["mine.py"] = "0" * 64
    (out / "manifest.json").write_text(json.dumps(content))
    told = mistake_in(sweep, grid, "--output_dir", out)
    assert "0" * 64 in told
    assert then in told
    capsys.readouterr()
