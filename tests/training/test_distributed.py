"""Several processes: the numbers of one, and none left behind."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.close_runs import assert_close, losses
from helpers.resumable import TERM, TRY_AGAIN, results
from PIL import Image
from torch import nn

from run_folder.checkpoint import load_checkpoint
from training import processes

ROOT = Path(__file__).parents[2]

# 85 images: the last batch has one, so that all processes but the first have none.
VISION = (
    "--dataset", "imagefolder", "--batch_size", "14", "--num_epochs", "2", "--lr", "1e-3",
    "--device", "cpu", "--augment", "--color_jitter", "--noise", "0.1", "--stats", "2",
)  # fmt: skip
# Its norms do not see the batch, so that the number of processes changes no result. vit-tiny would
# do as well, but has twenty times the weights.
GROUPED = (
    *VISION, "--model", "resnet20", "--norm", "gn", "--grad_accum_steps", "3", "--max_steps", "3",
    "--drop_path", "0.3", "--drop_rate", "0.2",
)  # fmt: skip
LANGUAGE = (
    "--dataset", "text", "--tokenizer", "bytes", "--num_layers", "2", "--embedding_dim", "16",
    "--num_attention_heads", "2", "--max_seq_length", "32", "--batch_size", "7",
    "--num_epochs", "2", "--dropout", "0", "--grad_accum_steps", "2", "--device", "cpu",
    "--eval_interval", "3", "--learn_sigma", "--stats", "2",
)  # fmt: skip
FROM_OUTPUT = (*LANGUAGE, "--save_for_backward", "output", "--inplace", "--num_epochs", "1")


@pytest.fixture(scope="module")
def odd_images(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("images"), np.random.RandomState(0)
    for split, name, count in (
        ("train", "a", 45),
        ("train", "b", 40),
        ("test", "a", 9),
        ("test", "b", 8),
    ):
        (folder / split / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.randint(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def run(forked, text_folder, odd_images):
    folders = {"vision_main": odd_images, "language_main": text_folder}

    def run(module, folder, *flags, **options):
        flags = (*flags, "--data_path", folders[module], "--output_dir", folder)
        return forked(module, *flags, **options)

    return run


@pytest.mark.parametrize(
    ("module", "flags", "numbers"),
    [
        ("vision_main", GROUPED, [2]),
        ("language_main", LANGUAGE, [2, 3]),
        ("language_main", FROM_OUTPUT, [2]),
    ],
)
def test_any_number_of_processes_gives_the_same_losses(run, tmp_path, module, flags, numbers):
    """Uneven batches, shares without a sample and accumulated gradients included."""
    for count in (1, *numbers):
        codes, output = run(module, tmp_path / str(count), *flags, "--log", "csv", processes=count)
        assert codes == [0] * count, output
    for count in numbers:
        metrics = (tmp_path / str(count) / "metrics.jsonl").read_text().splitlines()
        rows = list(csv.DictReader((tmp_path / str(count) / "metrics.csv").open()))
        assert [int(row["step"]) for row in rows] == [json.loads(each)["step"] for each in metrics]
        assert_close(tmp_path / str(count), tmp_path / "1", 2e-5)


@pytest.mark.slow
def test_synchronised_norms_see_the_whole_batch(run, tmp_path):
    flags = (
        *VISION, "--batch_size", "15", "--model", "resnet20", "--max_steps", "4",
        "--sync_batchnorm",
    )  # fmt: skip
    for count in (1, 2):
        codes, output = run("vision_main", tmp_path / str(count), *flags, processes=count)
        assert codes == [0] * count, output
    assert_close(tmp_path / "2", tmp_path / "1", 2e-5)
    local = tmp_path / "local"
    run("vision_main", local, *flags, "--no-sync_batchnorm", processes=2)
    assert losses(local) != pytest.approx(losses(tmp_path / "1"), rel=2e-4)


def test_what_several_processes_cannot_do(run, tmp_path):
    """Each process ends with one line, whichever of them finds the mistake."""
    small = (*VISION, "--batch_size", "2", "--model", "resnet20", "--sync_batchnorm")
    codes, output = run("vision_main", tmp_path / "run", *small, processes=3)
    assert codes == [2, 2, 2], output
    assert "--batch_size 2 gives a batch of 1 images, too few for 3 processes" in output
    codes, output = run("vision_main", tmp_path / "run", *GROUPED, "--test_only", processes=2)
    assert codes == [2, 2], output
    assert "--test_only is for one process" in output
    assert "Traceback" not in output
    assert not (tmp_path / "run").exists()


def test_an_interrupted_run_of_several_processes_resumes_exactly(run, tmp_path):
    """A signal to any one of them stops all, at one step. Three sum in an order of their own."""
    processes = 3
    flags = (*LANGUAGE, "--dropout", "0.2", "--save_interval", "2")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    codes, output = run("language_main", whole, *flags, processes=processes)
    assert codes == [0] * processes, output
    for passes in (3, 2):
        fault = {processes - 1: ("step", TERM, passes)}
        codes, output = run(
            "language_main", parts, *flags, "--resume", processes=processes, faults=fault
        )
        assert codes == [TRY_AGAIN] * processes, output
        assert (parts / "CONTINUE").exists()
    codes, output = run("language_main", parts, *flags, "--resume", processes=processes)
    assert codes == [0] * processes, output
    assert results(parts) == results(whole)
    mine, theirs = (load_checkpoint(f / "checkpoint.pt")["model"] for f in (parts, whole))
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())


def test_all_end_at_the_step_in_which_one_diverges(run, tmp_path):
    """Which the others notice a step later, in their weights."""
    fault = {1: ("poisoned", 0, 1)}
    codes, output = run("language_main", tmp_path / "run", *LANGUAGE, processes=2, faults=fault)
    assert codes == [3, 3], output
    assert output.count("error: ") == 1
    assert "in epoch 1, step 2, the training loss is NaN" in output


def test_another_number_of_processes_goes_on_to_tolerance(run, tmp_path):
    codes, _ = run("language_main", tmp_path / "1", *LANGUAGE)
    stop = {1: ("step", TERM, 2)}
    codes, _ = run("language_main", tmp_path / "21", *LANGUAGE, processes=2, faults=stop)
    assert codes == [TRY_AGAIN] * 2
    codes, output = run("language_main", tmp_path / "21", *LANGUAGE, "--resume")
    assert codes == [0]
    assert "processes was 2 and is 1: results agree to tolerance only" in output
    assert_close(tmp_path / "21", tmp_path / "1", 2e-5)


def test_another_number_of_processes_drops_what_one_would(run, tmp_path):
    """Killed in the middle of an epoch, with everything that is drawn for an image."""
    flags = (
        *GROUPED, "--grad_accum_steps", "1", "--max_steps", "6", "--mixup", "0.8",
        "--cutmix", "1", "--random_erasing", "0.5", "--auto_augment", "trivialaugment",
        "--ema", "0.9", "--layer_decay", "0.8",
    )  # fmt: skip
    codes, output = run("vision_main", tmp_path / "1", *flags)
    assert codes == [0], output
    stop = {1: ("step", TERM, 1)}
    codes, _ = run("vision_main", tmp_path / "21", *flags, processes=2, faults=stop)
    assert codes == [TRY_AGAIN] * 2
    stop = {0: ("step", TERM, 1)}
    codes, _ = run("vision_main", tmp_path / "21", *flags, "--resume", processes=3, faults=stop)
    assert codes == [TRY_AGAIN] * 3
    codes, output = run("vision_main", tmp_path / "21", *flags, "--resume")
    assert codes == [0], output
    assert_close(tmp_path / "21", tmp_path / "1", 2e-5)


def test_another_number_of_processes_goes_on_in_an_evaluation(run, tmp_path):
    """The sums of the epoch, which all have, are added up before a step is made."""
    flags = (*LANGUAGE, "--stats", "100", "--num_epochs", "1")
    codes, _ = run("language_main", tmp_path / "1", *flags)
    stop = {1: ("evaluation", TERM, 0)}
    codes, _ = run("language_main", tmp_path / "23", *flags, processes=2, faults=stop)
    assert codes == [TRY_AGAIN] * 2
    saved = load_checkpoint(tmp_path / "23/checkpoint.pt")
    assert (saved["step"], saved["records"]) == (3, [])
    codes, output = run("language_main", tmp_path / "23", *flags, "--resume", processes=3)
    assert codes == [0] * 3, output
    assert_close(tmp_path / "23", tmp_path / "1", 2e-5)


@pytest.mark.parametrize(("count", "steps"), [(1, [0, 3, 6, 9, 10]), (2, [0, 4, 8, 10])])
def test_a_save_is_made_once_in_an_interval(run, tmp_path, count, steps):
    """Of several processes a step later, since flags travel while a step runs."""
    flags = (*LANGUAGE, "--eval_interval", "99", "--max_steps", "10", "--save_interval", "3min")
    clock = {0: ("minutes", 0, 0)}
    codes, output = run("language_main", tmp_path / "run", *flags, processes=count, faults=clock)
    assert codes == [0] * count, output
    assert [int(step) for step in re.findall(r"saved at step (\d+)", output)] == steps


def test_dropout_differs_between_processes(run, tmp_path):
    """Equal masks on all ranks would drop the same units of every share."""
    codes, _ = run(
        "language_main", tmp_path / "run", *LANGUAGE, "--dropout", "0.2", "--max_steps", "1",
        processes=2,
    )  # fmt: skip
    assert codes == [0, 0]
    states = [
        x["random"]["torch"] for x in load_checkpoint(tmp_path / "run/checkpoint.pt")["ranks"]
    ]
    assert not torch.equal(*states)


# --- torchrun itself ---


def torchrun(folder, images, *flags, processes=2, restarts=0):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc_per_node={processes}", f"--max_restarts={restarts}", "vision_main.py",
        *GROUPED, "--data_path", images, "--output_dir", folder, *flags,
    ]  # fmt: skip
    return subprocess.Popen(
        list(map(str, command)), cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


def children(process) -> list[int]:
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in text.split()]


LONG = ("--max_steps", "100000", "--num_epochs", "100000", "--save_interval", "1")


@pytest.mark.slow
def test_torchrun_ends_when_a_rank_dies_and_restarts_from_the_checkpoint(tmp_path, odd_images):
    folder = tmp_path / "run"
    process = torchrun(folder, odd_images, *LONG, restarts=1)
    saved = folder / "checkpoint.pt"
    wait_for(lambda: saved.exists() and load_checkpoint(saved)["step"] >= 2)
    os.kill(children(process)[-1], signal.SIGKILL)
    step = load_checkpoint(saved)["step"]
    wait_for(lambda: "\nresumed:\n" in (folder / "args.txt").read_text())
    wait_for(lambda: load_checkpoint(saved)["step"] > step + 1)
    os.kill(children(process)[-1], signal.SIGKILL)  # the second time it is over
    started = time.monotonic()
    output, _ = process.communicate(timeout=120)
    assert time.monotonic() - started < 60
    assert process.returncode == 1
    assert "Resuming from" in output
    assert "Signal 9 (SIGKILL)" in output


@pytest.mark.slow
def test_torchrun_passes_sigterm_on_and_the_run_leaves_its_marker(tmp_path, odd_images):
    folder = tmp_path / "run"
    process = torchrun(folder, odd_images, *LONG)
    saved = folder / "checkpoint.pt"
    wait_for(lambda: saved.exists() and load_checkpoint(saved)["step"] >= 1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert (folder / "CONTINUE").exists(), output
    assert not (folder / "lock").exists()


# --- parts ---


def test_synchronised_batchnorm_alone_is_batchnorm():
    """One process of its own: the statistics, gradients and buffers are torch's."""
    from training.sync_batchnorm import synchronise_norms

    torch.manual_seed(0)
    images = torch.randn(6, 5, 4, 4)
    reference = nn.BatchNorm2d(5)
    nn.init.normal_(reference.weight)
    model = nn.Sequential(nn.BatchNorm2d(5))
    model[0].load_state_dict(reference.state_dict())
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29555"}
    torch.distributed.init_process_group("gloo", rank=0, world_size=1)
    try:
        synchronise_norms(model, torch.device("cpu"))
        inputs = [images.clone().requires_grad_() for _ in range(2)]
        outputs = [model(inputs[0]), reference(inputs[1])]
        for output in outputs:
            output.square().sum().backward()
    finally:
        torch.distributed.destroy_process_group()
        del os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model[0].state_dict(), reference.state_dict())


def test_one_process_sends_nothing():
    assert processes.world_size() == 1
    value = torch.ones(2)
    assert processes.total(value) is value
    assert processes.gathered(3) == [3]
    assert processes.Agreement().exchange(True, False) == [True, False]
