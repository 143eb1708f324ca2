"""Share what tests of the kernels have in common."""

import pytest

from zilu import kernels


@pytest.fixture
def compute(path, monkeypatch, request):
    """Return the module's function that gives value and gradients by one of the implementations.

    It has `by_autograd` for "plain" and "fused", and `by_triton`.
    """
    if path != "plain" and kernels.backend("cpu") != "fused":
        pytest.skip("no fused kernels on this machine")
    if path == "triton":
        pytest.importorskip("triton")
        from zilu.kernels import operators

        operators.load("cuda")
        return request.module.by_triton
    monkeypatch.setattr(kernels, "MODE", "auto" if path == "fused" else "plain")
    return request.module.by_autograd
