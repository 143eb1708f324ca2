"""Kills at random moments, in whatever phase they fall: the run ends as if there had been none."""

import collections
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.resumable import LANGUAGE, TRY_AGAIN, VISION, assert_same_run

KILLS = 25  # of each program
START_UP = "start-up or end"
# A save after each step and an evaluation after every other: about as much time in each phase.
BUSY = {
    "vision_main": (*VISION, "--save_interval", "1", "--eval_interval", "2", "--num_epochs", "20"),
    "language_main": (*LANGUAGE, "--save_interval", "1", "--eval_interval", "2",
                      "--num_epochs", "80"),
}  # fmt: skip
IN_START_UP = 0.2  # of the kills; the others fall after it


def start(module, folder, *flags):
    traced = Path(__file__).parents[1] / "helpers/traced.py"
    command = [sys.executable, traced, folder.with_suffix(".phase"), module,
               *flags, "--output_dir", folder, "--resume"]  # fmt: skip
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def phase(folder):
    path = folder.with_suffix(".phase")
    return path.read_text().strip() if path.exists() else ""


def wait_for_training(process, folder):
    while process.poll() is None and phase(folder) in ("", START_UP):
        time.sleep(0.01)


def ends_within(process, seconds):
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("module", ["vision_main", "language_main"])
def test_killed_at_random_moments(module, tmp_path, data_path, capsys):
    flags = [*BUSY[module], "--data_path", data_path[module]]
    reference = tmp_path / "reference"
    process = start(module, reference, *flags)
    began = time.monotonic()
    wait_for_training(process, reference)
    start_up = time.monotonic() - began
    errors = process.communicate(timeout=280)[1]
    assert process.returncode == 0, errors
    training = time.monotonic() - began - start_up

    moments, phases = random.Random(0), collections.Counter()
    number = 0
    while sum(phases.values()) < KILLS:
        number += 1
        folder = tmp_path / str(number)
        while True:
            folder.with_suffix(".phase").unlink(missing_ok=True)
            process = start(module, folder, *flags)
            if moments.random() < IN_START_UP:
                wait = moments.uniform(0, start_up)
            else:
                wait_for_training(process, folder)
                wait = moments.uniform(0, 0.4 * training)
            if not ends_within(process, wait):
                sent, where = moments.choice([signal.SIGKILL, signal.SIGTERM]), phase(folder)
                process.send_signal(sent)
                code = process.wait(60)
                assert code in (0, -sent, TRY_AGAIN), process.stderr.read()
                phases[f"{where or START_UP}, {sent.name}"] += code != 0
            if process.returncode == 0:
                break
        assert_same_run(folder, reference)
    with capsys.disabled():
        counts = ", ".join(f"{n} in {name}" for name, n in sorted(phases.items()) if n)
        print(f"\n{module}: {sum(phases.values())} kills in {number} runs: {counts}")
