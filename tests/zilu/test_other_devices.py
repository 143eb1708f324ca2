"""Which path AMD's and Apple's devices take; nothing has run on one."""

from __future__ import annotations

import warnings

import pytest
import torch

from zilu import kernels
from zilu.kernels import operators

GPU = torch.device("cuda", 0)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def rocm(monkeypatch):
    """Let torch be a build for AMD's GPUs, in which nothing has been looked for yet."""
    monkeypatch.setattr(torch.version, "hip", "6.3")
    monkeypatch.setattr(kernels, "_READY", {})
    monkeypatch.setattr(kernels, "ON_GPU", {})
    kernels.backend("cpu")  # what a CPU has is there
    monkeypatch.setattr(operators, "_libraries", operators._libraries[:1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rocm_takes_plain_operations_and_says_so(rocm, dtype):
    with pytest.warns(RuntimeWarning, match="they need an NVIDIA GPU and Triton"):
        assert not kernels._ready(GPU, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not kernels._ready(GPU, dtype)  # it is said once
    assert not kernels.ON_GPU


def test_rocm_refuses_to_be_forced(rocm, monkeypatch):
    monkeypatch.setattr(kernels, "MODE", "fused")
    with pytest.raises(RuntimeError, match="ZILU_KERNELS=fused, but there are no kernels"):
        kernels._ready(GPU, torch.float32)


@pytest.mark.parametrize("device", ["mps", "xpu", "meta"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_others_take_plain_operations_without_a_word(device, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kernels.backend(device, dtype) == "plain"
        assert not kernels._ready(torch.device(device), dtype)
