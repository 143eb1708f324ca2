"""The null device itself: what the other tests of this folder rely on."""

from __future__ import annotations

import json
from collections import Counter

import pytest


@pytest.fixture
def call(null_cuda):
    """Call a function of null_cuda/calls.py; returns its result and what was noted."""

    def call(name, looks=(), **arguments):
        ran = null_cuda("null_cuda.calls", name, json.dumps(arguments), **dict(looks))
        assert ran.codes == [0], ran.output
        return json.loads(ran.output.split("RESULT ")[1]), ran

    return call


def test_what_is_counted(call):
    result, ran = call("count", {"devices": 2, "capability": 75})
    # Ones, product, sum, reduction; the sum is read.
    assert ran.of_devices("launches") == [4, 0]
    assert ran.of_devices("waits") == [1, 0]
    assert ran.of_devices("contexts") == [1, 0]
    assert result == {"memory": 4096, "capability": [7, 5]}


def test_a_wait_ends_the_capture_of_a_graph(call):
    error, _ = call("capture")
    assert "capturing" in error


def test_graphs_are_replayed(call):
    _, ran = call("replay", times=3)
    assert ran.of_devices("graph_launches") == [3]


def test_memory_is_limited(call):
    error, _ = call("exhaust", {"mib": 4095})
    assert "out of memory" in error
    error, _ = call("exhaust", {"mib": 4097})
    assert error == ""


def test_every_wait_is_noted_where_it_is(null_cuda, tmp_path):
    """A loss that is read in every step and every batch of the evaluation."""
    flags = ["--dataset", "digits", "--model", "resnet20", "--batch_size", 192, "--max_steps", 5]
    ran = null_cuda(
        "null_cuda.waiting_program", *flags, "--device", "cuda", "--output_dir", tmp_path / "run"
    )
    assert ran.codes == [0], ran.output
    at = Counter(
        (event["phase"], event["number"])
        for event in ran.reports[0]["events"]
        if event["line"] == "return self.task(self.model, batch)"
    )
    assert at == {("training", step): 1 for step in range(1, 6)} | {
        ("evaluation", 1): 1,
        ("evaluation", 2): 1,
    }
