"""What the programs set before torch is loaded, as the OpenMP that it brings has understood it."""

import json
import re

import pytest

from training.before_torch import CHOSEN_BY

# Refused when torch has been loaded.
PROBE = {
    "vision_main.py": ("--device", "cuda:99"),
    "language_main.py": ("--device", "cuda:99", "--dataset", "pydoc", "--tokenizer", "bytes"),
}


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch):
    for name in CHOSEN_BY:
        monkeypatch.delenv(name, raising=False)


def spins(text):
    """The waiting time that GNU's OpenMP prints as it is loaded."""
    if "OPENMP DISPLAY ENVIRONMENT" in text and "GOMP_" not in text:
        pytest.skip("this torch has another OpenMP")
    return set(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", text))


def started(run_program, program, folder, **choice):
    flags = (*PROBE[program], "--output_dir", folder)
    done = run_program(program, *flags, OMP_DISPLAY_ENV="verbose", **choice)
    assert done.returncode == 2, done.stderr
    return spins(done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("program", PROBE)
def test_waiting_threads_sleep_soon(run_program, tmp_path, program):
    assert started(run_program, program, tmp_path / "run") == {"1000"}


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ({"OMP_WAIT_POLICY": "passive"}, "0"),
        pytest.param({"GOMP_SPINCOUNT": "77"}, "77", marks=pytest.mark.slow),
    ],
)
def test_the_users_choice_counts(run_program, tmp_path, choice, wanted):
    assert started(run_program, "vision_main.py", tmp_path / "run", **choice) == {wanted}


@pytest.mark.slow
def test_the_runs_of_a_sweep(run_program, tmp_path):
    grid = {"runs": {"dataset": "digits", "activation": "ReLU", "device": "cpu", "resize": 8,
                     "model": "resnet20", "max_steps": 1, "batch_size": 64}}  # fmt: skip
    (tmp_path / "grid.yaml").write_text(json.dumps(grid))
    flags = (tmp_path / "grid.yaml", "--output_dir", tmp_path / "out")
    done = run_program("sweep.py", *flags, OMP_DISPLAY_ENV="verbose")
    assert done.returncode == 0, done.stderr
    (log,) = (tmp_path / "out").rglob("sweep.log")
    assert spins(log.read_text()) == {"1000"}
