"""--replace_gradually: from the activations of the start to the new ones, over some steps."""

import re
import shutil

import pytest
import torch
from helpers.resumable import FLAGS, KILL, TERM, TRY_AGAIN, assert_same_run

from run_folder.checkpoint import load_checkpoint

LEARNED = ("--activation", "ZiLU", "--learn_sigma")
OLD = ("--activation", "PReLU", "--no-learn_sigma")


@pytest.fixture(scope="module")
def run(forked, image_folder):
    """run(folder, *further flags, fault=None, code=0) -> output; five steps an epoch, three."""

    def run(folder, *flags, fault=None, code=0):
        argv = (*FLAGS["vision_main"], "--data_path", image_folder, "--output_dir", folder, *flags)
        codes, output = forked("vision_main", *argv, faults={0: fault} if fault else {})
        assert codes == [code], output
        return output

    return run


@pytest.fixture(scope="module")
def source(run, tmp_path_factory):
    """A run with PReLU, whose slopes it has trained; to be left as it is."""
    folder = tmp_path_factory.mktemp("source") / "run"
    run(folder, *OLD, "--num_epochs", 1)
    return folder


def weights(folder):
    return load_checkpoint(folder / "checkpoint.pt")["model"]


def final(folder):
    text = (folder / "train_eval_results.txt").read_text()
    return re.search(r"Final: .*\[Test\] (Loss: \S+)", text)[1]


@pytest.mark.slow
def test_killed_and_resumed_on_the_way_and_after_it(run, source, tmp_path):
    """Bit for bit, though the start is gone; and then it is a plain network's checkpoint."""
    old = shutil.copytree(source, tmp_path / "old")
    flags = ("--init_from", old / "checkpoint.pt", "--replace_gradually", "8")
    output = run(tmp_path / "whole", *flags)
    note = r"activations of the weights \(PReLU\) are replaced by ZiLU, sigma .*, gradually, over 8"
    assert re.search(note, output)
    folder = tmp_path / "killed"
    run(folder, *flags, fault=("step", TERM, 3), code=TRY_AGAIN)
    saved = load_checkpoint(folder / "checkpoint.pt")
    assert saved["gradual"]["t"] == saved["step"] / 8
    slopes = {n: x for n, x in weights(source).items() if n not in saved["model"]}
    assert [x["weight"] for x in saved["gradual"]["old"]] == list(slopes.values())
    assert len(slopes) == len([n for n in saved["model"] if n.endswith("rho")]) == 19
    shutil.rmtree(old)
    run(folder, *flags, "--resume", fault=("step", KILL, 3), code=-KILL)
    run(folder, *flags, "--resume", fault=("step", KILL, 5), code=-KILL)
    run(folder, *flags, "--resume")
    assert_same_run(folder, tmp_path / "whole")
    saved = load_checkpoint(folder / "checkpoint.pt")
    assert "gradual" not in saved
    still = ("--lr", "1e-30", "--num_epochs", 1)
    output = run(tmp_path / "next", "--init_from", folder, *still)
    assert all(
        torch.equal(x, weights(tmp_path / "next")[n])
        for n, x in saved["model"].items()
        if "running" not in n and "num_batches" not in n
    )
    assert final(folder) in run(folder, "--test_only")


def test_a_checkpoint_on_the_way_is_evaluated_on_the_way(run, source, tmp_path):
    """As the run was, and not as either end would be."""
    flags = ("--init_from", source, "--replace_gradually", "2ep", "--max_steps", 4)
    output = run(tmp_path / "run", *flags)
    assert "whose network will have 40% of the new activations" in output
    output = run(tmp_path / "run", "--test_only")
    assert final(tmp_path / "run") in output
    assert "(step 4), 40.0% of the way to its activation | " in output
    saved = load_checkpoint(tmp_path / "run/checkpoint.pt")
    torch.save({n: x for n, x in saved.items() if n != "gradual"}, tmp_path / "end.pt")
    output = run(tmp_path / "end", "--test_only", "--checkpoint", tmp_path / "end.pt")
    assert final(tmp_path / "run") not in output


def test_its_first_step_is_that_of_the_old_network(run, source, tmp_path):
    """A run of the old activation, and one that is about to leave it, whose slopes do not move."""
    still = ("--lr", "1e-30", "--weight_decay", "0", "--max_steps", 1)
    run(tmp_path / "old", *OLD, "--init_from", source, *still)
    run(tmp_path / "new", *LEARNED, "--init_from", source, *still, "--replace_gradually", "999")
    texts = [(tmp_path / name / "train_eval_results.txt").read_text() for name in ("old", "new")]
    losses = [re.search(r"\[Train\] (Loss: \S+)", text)[1] for text in texts]
    assert losses[0] == losses[1]


def test_a_start_of_several_forms(run, source, tmp_path):
    """What it costs at once; a share of the length binds a run to it."""
    output = run(tmp_path / "swap", "--test_only", "--init_from", source)
    own, swapped = re.findall(r"\[Test\] (Loss: \S+) .* \| pretrained", output)
    assert own == final(source) != swapped
    flags = ("--init_from", source, "--replace_gradually", "20%", "--num_epochs", 1)
    run(tmp_path / "run", *flags, "--max_steps", 2)
    output = run(tmp_path / "run", *flags, "--max_steps", 4, "--resume", code=2)
    assert "with --replace_gradually 20%" in output.splitlines()[-1]
