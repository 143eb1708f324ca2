"""`make gpu-check` runs through; its numbers are not those of a GPU here."""

from __future__ import annotations

import json

import pytest

from benchmarks.gpu_check.found import Found
from benchmarks.gpu_check.steps import GIB, PREDICTED_GIB

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


def test_the_memory_that_it_promises_is_that_of_this_device(null_cuda):
    arguments = {"sequences": list(PREDICTED_GIB), "activations": ["GELU", "ZiLU"]}
    ran = null_cuda("null_cuda.calls", "peaks_of_gpt2_small", json.dumps(arguments), mib=1 << 20)
    assert ran.codes == [0], ran.output
    peaks = json.loads(ran.output.split("RESULT ")[1])
    for sequences, gib in PREDICTED_GIB.items():
        for peak in peaks[str(sequences)].values():
            assert peak / GIB == pytest.approx(gib, rel=0.02)
