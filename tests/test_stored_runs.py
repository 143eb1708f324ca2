"""Resume, evaluate and report runs that an earlier version has made."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from helpers.resumable import assert_same_run, results

import report
from training.environment import environment
from training.resuming import changed_facts

STORED = Path(__file__).parent / "stored_runs"
PROGRAMS = {"vision": "vision_main", "language": "language_main"}


@pytest.fixture
def copies(tmp_path):
    shutil.copytree(STORED, tmp_path / "stored")
    return tmp_path / "stored"


def data_flags(kind, copies):
    return ("--data_path", copies / "text") if kind == "language" else ()


def is_same_machine(folder) -> bool:
    """Return whether the run was made where sums round as here."""
    made_on = yaml.safe_load((folder / "args.txt").read_text())["environment"]
    here = environment(torch.device("cpu")) | {"processes": 1}
    return not changed_facts(here, made_on) and here["cpu"] == made_on["cpu"]


@pytest.mark.parametrize("kind", PROGRAMS)
def test_an_interrupted_run_ends_as_the_finished_one(forked, copies, kind):
    """Bit for bit on the same kind of machine, elsewhere to tolerance."""
    folder, finished = copies / f"{kind}_interrupted", copies / f"{kind}_finished"
    exact = is_same_machine(finished)
    flags = ("--resume", folder, *data_flags(kind, copies))
    (code,), output = forked(PROGRAMS[kind], *flags)
    assert code == 0, output
    print(f"compared {'bit for bit' if exact else 'to tolerance'}")
    assert not (folder / "CONTINUE").exists()
    if exact:
        stats = folder / "stats.jsonl"  # the earlier version did not have these numbers
        text = re.sub(r' "tail_index_100": [^,]+,', "", stats.read_text())
        stats.write_text(text.replace(', "alpha": null', ""))
        assert_same_run(folder, finished)
        return
    (_, mine), (_, wanted) = results(folder), results(finished)
    assert [record["step"] for record in mine] == [record["step"] for record in wanted]
    for split in ("train", "val"):
        losses = [[record[split]["loss"] for record in each] for each in (mine, wanted)]
        assert losses[0] == pytest.approx(losses[1], rel=2e-3)


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_flag_that_the_earlier_version_did_not_have_is_another_run(forked, copies, kind):
    folder = copies / f"{kind}_interrupted"
    flags = ("--resume", folder, *data_flags(kind, copies), "--ema", "0.9")
    (code,), output = forked(PROGRAMS[kind], *flags)
    assert code == 2
    assert "--ema 0.9 (the run has None)" in output


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_finished_run_is_evaluated(forked, copies, kind):
    folder = copies / f"{kind}_finished"
    flags = ("--test_only", "--output_dir", folder, *data_flags(kind, copies), "--device", "cpu")
    (code,), output = forked(PROGRAMS[kind], *flags)
    assert code == 0, output
    found = float(re.search(r"\[Test\] Loss: (\S+)", output)[1])
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert found == pytest.approx(last["test"]["loss"], rel=1e-5)


def test_both_are_reported(copies, quick_figures):
    assert report.main([str(copies)]) == 0
    text = (copies / "report/report.md").read_text()
    assert "30.36" in text  # the test accuracy in percent
    assert "138.33" in text  # the test perplexity
    assert "it has come to epoch 2 of 3" in text  # the vision run that was interrupted
