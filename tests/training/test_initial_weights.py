"""--init_from RUN: a new run that starts from the weights of another one."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from helpers.resumable import FLAGS, KILL, TERM, TRY_AGAIN, assert_same_run

from cli.parser import parse
from cli.run_names import default_output_dir
from cli.vision import VisionConfig
from run_folder.checkpoint import load_checkpoint, save_checkpoint
from tasks.starts import has_activation

STILL = ("--lr", "1e-30", "--weight_decay", "0", "--num_epochs", "1")


@pytest.fixture(scope="module")
def run(forked, data_path):
    """run("language_main", folder, *more flags, fault=None, code=0) -> output"""

    def run(module, folder, *flags, fault=None, code=0):
        where = ("--data_path", data_path[module], "--output_dir", folder)
        faults = {0: fault} if fault else {}
        codes, output = forked(module, *FLAGS[module], *where, *flags, faults=faults)
        assert codes == [code], output
        return output

    return run


@pytest.fixture(scope="module")
def source(run, tmp_path_factory):
    """The folder of a finished run of each program; to be left as it is."""
    folders = {}

    def source(module):
        if module not in folders:
            folders[module] = tmp_path_factory.mktemp(module) / "source"
            run(module, folders[module], "--num_epochs", 1, "--eval_interval", 99)
        return folders[module]

    return source


def weights(folder):
    return load_checkpoint(folder / "checkpoint.pt")["model"]


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("module", FLAGS)
def test_it_starts_from_the_weights_and_from_nothing_else(run, source, tmp_path, module):
    """Epoch, optimizer and learning rate begin anew; the digest says which weights they were."""
    old, new = source(module), tmp_path / "new"
    output = run(module, new, *STILL, "--init_from", old, "--seed", 5)
    assert f"Starting from {old}/checkpoint.pt, its step 5" in output
    for name, value in weights(old).items():
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(value, weights(new)[name]), name
    saved = load_checkpoint(new / "checkpoint.pt")
    assert (saved["step"], [record["epoch"] for record in saved["records"]][-1]) == (5, 1)
    found = yaml.safe_load((new / "args.txt").read_text())
    assert found["init_from"] == f"{old}/checkpoint.pt"
    digest = hashlib.sha256((old / "checkpoint.pt").read_bytes()).hexdigest()
    assert found["resolved"]["init_from_sha256"] == digest
    if module == "language_main":  # no statistics of norms: the same numbers
        assert records(new)[-1]["test"] == records(old)[-1]["test"]


def test_the_folder_and_its_file_are_one_start(run, source, tmp_path):
    """And another activation is no other network, where it has no parameters."""
    old = source("language_main")
    flags = (*STILL, "--activation", "GELU")
    run("language_main", tmp_path / "a", *flags, "--init_from", old)
    file = shutil.copy(old / "checkpoint.pt", tmp_path / "best")  # by any name
    run("language_main", tmp_path / "b", *flags, "--init_from", file)
    mine, theirs = (weights(tmp_path / name) for name in "ab")
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
    assert records(tmp_path / "a")[-1]["test"]["loss"] != records(old)[-1]["test"]["loss"]


def test_runs_from_other_weights_have_other_folders(source):
    def name(*flags):
        return default_output_dir(parse(VisionConfig, "A.", list(flags)).config)

    folder = str(source("vision_main"))
    assert name("--init_from", folder) == name("--init_from", f"{folder}/checkpoint.pt") != name()


@pytest.mark.parametrize("module", FLAGS)
def test_it_goes_on_when_the_source_is_gone(run, forked, source, tmp_path, module):
    """Interrupted, and resumed in both ways; also where the source has changed meanwhile."""
    old = Path(shutil.copytree(source(module), tmp_path / "old"))
    flags = ("--init_from", old, "--num_epochs", 2)
    run(module, tmp_path / "whole", *flags)
    folder = tmp_path / "new"
    run(module, folder, *flags, fault=("step", TERM, 2), code=TRY_AGAIN)
    saved = load_checkpoint(old / "checkpoint.pt")
    saved["model"] = {name: value + 1 for name, value in saved["model"].items()}
    save_checkpoint(old / "checkpoint.pt", saved)
    run(module, folder, *flags, "--resume", fault=("step", KILL, 3), code=-KILL)
    shutil.rmtree(old)
    (code,), output = forked(module, "--resume", folder)
    assert code == 0, output
    assert_same_run(folder, tmp_path / "whole")
    digests = [load_checkpoint(each / "checkpoint.pt")["settings"]["init_from_sha256"]
               for each in (folder, tmp_path / "whole")]  # fmt: skip
    assert digests[0] == digests[1]
    (code,), output = forked(module, "--test_only", "--output_dir", folder, "--device", "cpu")
    assert code == 0, output


def test_the_weights_are_evaluated_as_they_are(run, source, tmp_path):
    old, other = source("language_main"), tmp_path / "other"
    run("language_main", other, "--test_only", "--init_from", old)
    line = (other / "test_results.txt").read_text()
    assert f"Loss: {records(old)[-1]['test']['loss']:.8f} " in line
    assert f"pretrained ({old}/checkpoint.pt)" in line
    run("language_main", old, "--test_only", "--init_from", old, code=2)  # there is a checkpoint


@pytest.mark.parametrize(
    ("module", "flags", "named"),
    [
        ("language_main", ("--embedding_dim", "32"), "wpe is (32, 16)"),
        ("language_main", ("--num_layers", "1"), "also has h.1."),
        ("language_main", ("--num_layers", "3"), "lacks h.2."),
        ("language_main", ("--max_seq_length", "16"), "wpe"),
        ("language_main", ("--learn_sigma",), "lacks "),
        ("vision_main", ("--no-learn_sigma",), "also has "),
        ("vision_main", ("--model", "resnet32"), "lacks "),
        ("vision_main", ("--init_gain", "unit"), "--init_gain"),
        ("vision_main", ("--rescale_init", "2"), "--rescale_init"),
    ],
)
def test_another_network_is_refused_by_name(run, source, tmp_path, module, flags, named):
    """Before the run folder is touched; the weights of a run go with its flags."""
    old, new = source(module), tmp_path / "new"
    output = run(module, new, *flags, "--init_from", old, code=2)
    assert named in output.splitlines()[-1]
    assert not new.exists()


def test_what_is_no_start(run, source, tmp_path):
    """Nothing there, a folder without a run, another program's run, a damaged file."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged.pt").write_bytes(
        (source("vision_main") / "checkpoint.pt").read_bytes()[:99]
    )
    others = (tmp_path / "none", tmp_path / "none.pt", tmp_path / "empty", tmp_path / "damaged.pt")
    for module, other in zip(FLAGS, reversed(FLAGS), strict=True):
        for start in (*others, source(other)):
            output = run(module, tmp_path / "new", "--init_from", start, code=2)
            assert str(start) in output.splitlines()[-1]
            assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("before", "now", "is_same"),
    [
        ({}, {}, True),
        ({"sigma": 0.5}, {"sigma": 0.5}, True),
        ({"sigma": 0.5}, {}, False),
        ({}, {"sigma": 0.5}, False),
        ({"sigma": 0.5, "learn_sigma": True}, {"learn_sigma": True}, True),
        ({"activation": "GELU_s"}, {}, False),
    ],
)
def test_another_sigma_is_another_activation(before, now, is_same):
    """It is said, and --test_only shows both: the network does not notice a fixed one."""
    flags = [f"--{name}" if value is True else f"--{name}={value}" for name, value in now.items()]
    config = parse(VisionConfig, "A.", ["--activation", "ZiLU", *flags]).config
    args = {"activation": "ZiLU", **before}
    assert has_activation({"args": args}, config) == is_same
