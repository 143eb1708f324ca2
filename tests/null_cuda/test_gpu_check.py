"""`make gpu-check` runs through; its numbers are not those of a GPU here."""

from __future__ import annotations

import json

import pytest

from benchmarks.gpu_check.found import Found

QUICK = ["capture", "large", "host", "sgd-fp16", "resnet20-eager"]
SLOW = ["kernels", "compiled", "activations", "resnet18-eager", "gpt2", "processes"]
SLOW += [f"{model}-{mode}" for model in ("resnet20", "resnet18") for mode in ("compiled", "graphs")]


@pytest.mark.parametrize("part", [*QUICK, *(pytest.param(p, marks=pytest.mark.slow) for p in SLOW)])
def test_parts(part, null_cuda):
    ran = null_cuda("benchmarks.gpu_check.__main__", "--part", part)
    assert ran.codes == [0], ran.output
    found = Found.from_values(json.loads(ran.output.splitlines()[-1]))
    assert found.findings or found.remarks
    assert all(row.keys() == found.rows[0].keys() for row in found.rows)
    waits = [finding for finding in found.findings if finding.promised == "none"]
    assert bool(waits) == part.startswith(("resnet", "gpt2"))
    assert all(finding.kept for finding in waits), waits
