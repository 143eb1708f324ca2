"""Test how gpu.cpp launches kernels: with a stand-in for the driver, and on the null device."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from zilu import kernels

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(
    kernels.backend("cpu") != "fused" or torch.cuda.is_available(),
    reason="needs a C++ compiler and no GPU, for which it stands in",
)
TESTS = Path(__file__).parents[1]


def ran(command, environment):
    """Return what a command prints last, as JSON: a process sets its driver up only once."""
    paths = {"PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS)))}
    done = subprocess.run(
        [sys.executable, *command],
        env=environment | paths,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# --- the arguments, as the stand-in reads them ---


def stood_in(name):
    return ran(["-m", "helpers.driver_stand_in", name], os.environ | {"TRITON_INTERPRET": "1"})


@pytest.mark.slow
def test_the_driver_is_given_what_triton_was():
    """Compare the numbers of both, for all units, dtypes, kinds of sigma, sizes and alignments."""
    found = stood_in("numbers")
    assert found["different"] == []
    kinds = 6 * 3 * 2  # units, dtypes, alignments
    # Value and gradient for each sigma, and for three the sums, which all units share; and those
    # of both products in two dtypes, for a fixed and a learned sigma. alpha's sum is one more.
    assert found["compiled"] == kinds * 2 * 4 + 3 + 2 * 2 * 2 * 2 + 1
    assert found["empty"] == kinds * 3 * 2  # of empty tensors, sigma's gradient is set to 0
    assert found["ways"] == [[256, 64, 4242]]  # threads, shared memory, stream


def test_a_kernel_is_compiled_once_for_each_kind():
    """Neither sigma, shape nor size makes a kind: dtypes and alignments do."""
    counts = stood_in("kinds")
    assert counts == [1, 1, 1, 2, 2, 3, 4, 4, 5, 6, 6, 6]


def test_errors_of_the_driver():
    """A thread without a context is given the kernel's; other errors are raised."""
    found = stood_in("failures")
    assert found["same"]
    assert found["contexts"] == [77]
    assert "CUDA's error 700" in found["said"]


def test_triton_launches_kernels_of_an_unexpected_form():
    assert stood_in("unexpected") == [3, 0]
