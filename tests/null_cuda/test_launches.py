"""How the kernels' operators launch: once for each pass, on the tensors' device and stream."""

from __future__ import annotations

import json

import pytest

from zilu import kernels

pytestmark = pytest.mark.skipif(
    kernels.backend("cpu") != "fused", reason="no fused kernels on this machine"
)


@pytest.fixture
def launches(null_cuda):
    """Call a function of null_cuda/launches.py; returns its result and what was noted."""

    def call(name, **looks):
        ran = null_cuda("null_cuda.launches", name, **looks)
        assert ran.codes == [0], ran.output
        return json.loads(ran.output.split("RESULT ")[1]), ran

    return call


def test_triton_launches_a_kernel_once(launches):
    found, _ = launches("kinds")
    # Triton also launches the try-out; a learned sigma's gradient is added up by a third kernel.
    assert found == [[3, 0], [0, 2], [0, 2], [3, 0], [0, 3], [0, 3]]


def test_another_device_than_the_current_one(launches):
    found, ran = launches("elsewhere", devices=2)
    assert found == [1] * 5
    assert ran.of_devices("contexts") == [0, 1]


def test_the_current_stream_also_in_autograds_threads(launches):
    found, _ = launches("streams")
    assert found["own"] != 0
    assert found["streams"] == [found["own"]] * 2 + [0] * 2
    assert found["threads"] == 2


def test_a_graph_captures_the_launches(launches):
    found, ran = launches("captured")
    # A learned sigma's gradient is added up by a third kernel.
    assert found == [[0, 2]] * 5 + [[0, 3]] * 5
    assert ran.of_devices("graph_launches") == [10]


def test_sizes(launches):
    found, _ = launches("large")
    assert found == [[2**20 + 1], []]


def test_modules_with_a_learned_sigma_launch_one_kernel_more(launches):
    """It adds up sigma's gradient; the product sigma0 e^rho is computed in the other kernels."""
    found, _ = launches("modules")
    gates = {name: counts for name, counts in found.items() if name.startswith("ArcTan")}
    assert set(map(tuple, gates.values())) == {(0, 0)}  # plain operations
    for name in found.keys() - gates:
        assert found[name] == [1, 2 if name.endswith("True") else 1], name


def test_old_gpus_compute_by_plain_operations_what_does_not_compile(launches):
    found, _ = launches("old_gpu", capability=75)
    assert {name: backend for name, (_, backend) in found["found"].items()} == {
        "torch.bfloat16": "plain",
        "torch.float16": "fused",
        "torch.float32": "fused",
    }
    assert "Analytic" in found["found"]["torch.bfloat16"][0]
    assert "Analytic" not in found["found"]["torch.float16"][0]
    (said,) = found["said"]
    assert "no fused kernels on this cuda for torch.bfloat16 (ptxas: Feature" in said
