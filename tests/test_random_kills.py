"""Kills at random moments, in whatever phase they fall: the run ends as if there had been none."""

import collections
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_resume import LANGUAGE, TRY_AGAIN, VISION, assert_same_run, text_folder  # noqa: F401

KILLS = 25  # of each program
# A save after each step and an evaluation after every other: about as much time in each phase.
BUSY = ("--save_interval", "1", "--eval_interval", "2", "--num_epochs", "12")


def start(module, folder, *flags):
    command = [sys.executable, Path(__file__).parent / "traced.py", folder.with_suffix(".phase"),
               module, *flags, "--output_dir", folder, "--resume"]  # fmt: skip
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    errors = process.communicate(timeout=280)[1]
    assert process.returncode == 0, errors


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("module", ["vision_main", "language_main"])
def test_killed_at_random_moments(module, tmp_path, text_folder, capsys):  # noqa: F811
    flags = [*(VISION if module == "vision_main" else LANGUAGE), *BUSY]
    flags += ["--data_path", text_folder] if module == "language_main" else []
    reference = tmp_path / "reference"
    started = time.monotonic()
    finish(start(module, reference, *flags))
    whole = time.monotonic() - started

    moments, phases = random.Random(0), collections.Counter()
    number = 0
    while sum(phases.values()) < KILLS:
        number += 1
        folder = tmp_path / str(number)
        while True:
            process = start(module, folder, *flags)
            try:
                process.wait(moments.uniform(0.2, 1.1) * whole)
            except subprocess.TimeoutExpired:
                sent = moments.choice([signal.SIGKILL, signal.SIGTERM])
                phase = folder.with_suffix(".phase").read_text().strip()
                process.send_signal(sent)
                code = process.wait(60)
                assert code in (0, -sent, TRY_AGAIN), process.stderr.read()
                phases[f"{phase}, {sent.name}"] += code != 0
            if process.returncode == 0:
                break
        assert_same_run(folder, reference)
    with capsys.disabled():
        counts = ", ".join(f"{n} in {name}" for name, n in sorted(phases.items()) if n)
        print(f"\n{module}: {sum(phases.values())} kills in {number} runs: {counts}")
