"""Compare the forms that torch.compile takes on GPUs with float64, and say where they are taken."""

import math
from types import SimpleNamespace

import pytest
import torch

from zilu import compiled, reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
UNITS = {
    "zilu": reference.ZILU,
    "arctan": reference.ARCTAN,
    "gelu_s": reference.GELU_S,
    "silu_s": reference.SILU_S,
    "zilu_approx": reference.ZILU_APPROX,
}
OTHERS = [("zilu", dtype) for dtype in DTYPES] + [("arctan", dtype) for dtype in DTYPES]
OTHERS += [("gelu_s", dtype) for dtype in DTYPES[1:]]
SIGMAS = (1e-3, 0.5, 1.253, 1e3)
TINY = torch.finfo(torch.float32).tiny

by_form = pytest.mark.parametrize(("name", "dtype"), OTHERS, ids=str)
by_sigma = pytest.mark.parametrize("sigma", SIGMAS)


@pytest.fixture(autouse=True)
def compiling(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)


def on_gpu(dtype):
    """Stand in for a tensor on a GPU."""
    return SimpleNamespace(is_cuda=True, dtype=dtype)


def form(name, dtype):
    return compiled.shortest(UNITS[name], on_gpu(dtype))


def numbers(dtype, count=3000):
    """Return numbers of both signs and all magnitudes, dense around 1."""
    spread = torch.logspace(-30, 38, count, dtype=torch.float64)
    near = torch.linspace(0.001, 20, count, dtype=torch.float64)
    positive = torch.cat([spread, near]).to(dtype)
    positive = positive[positive.isfinite() & (positive > 0)]
    return torch.cat([-positive, positive])


def errors(got, want, relative_to=None, flushed=TINY):
    """Return the largest relative error; one up to `flushed` counts as none."""
    scale = (want if relative_to is None else relative_to).abs().clamp(min=TINY)
    error = (got.double() - want).abs()
    return torch.where(error <= flushed, 0, error / scale).max().item()


@by_form
@by_sigma
@pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned"])
def test_against_float64(name, dtype, sigma, learned):
    """Allow 3 ulp of fp32 for values and 5 for slopes; the short forms' 2^-16 for 16-bit tensors.

    GELU's slope crosses zero, so its error counts beside the larger of its terms.
    """
    x = numbers(dtype).float()
    given = torch.tensor(sigma) if learned else sigma
    exact = float(torch.tensor(sigma)) if learned else sigma
    unit, wide = UNITS[name], x.double()
    found = form(name, dtype)
    value, slope = unit.value(wide, exact), unit.slope(wide, exact)
    by_sigma = unit.sigma_slope(wide, exact)
    short = dtype != torch.float32
    assert errors(found.value(x, given), value) <= (5e-5 if short else 2.5e-7)
    terms = torch.maximum(slope.abs(), (slope - value / wide).abs())
    limit = 5e-5 if short else 6e-7
    if name != "arctan":  # whose slopes are those of zilu.reference
        assert errors(found.slope(x, given), slope, terms) <= limit
        # GELU's exponential, times x^2, has few digits where it is subnormal.
        flushed = TINY * (1 + wide * wide) if name == "gelu_s" else TINY
        found_slope = found.sigma_slope(x, given)
        assert errors(found_slope, by_sigma, flushed=flushed) <= (5e-5 if short else 3e-7)


@by_form
def test_limits(name, dtype):
    x = torch.tensor([-math.inf, math.inf, math.nan, 0.0])
    found = form(name, dtype)
    y = found.value(x, 0.5)
    left = -2 / math.pi if name == "zilu" else 0
    assert y[0].item() == pytest.approx(left, rel=1e-5)
    assert y[1].item() == (1 if name == "arctan" else math.inf)
    assert y[3].item() == (0.5 if name == "arctan" else 0)
    assert y[2].isnan()
    if name != "arctan":
        slope = found.slope(x, 0.5)
        assert slope[:2].tolist() == [0, 1]
        assert slope[2].isnan()
        assert slope[3].item() == pytest.approx(0.5, rel=2e-5)
        assert found.sigma_slope(x[:2], 0.5).isfinite().all()


@by_form
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_a_sigma_of_another_dtype(name, dtype, kind):
    """A learned sigma of a 16-bit network is no reason to compute in 16 bits."""
    x = numbers(torch.float32, 300)
    found, sigma = form(name, dtype), torch.tensor(0.7, dtype=kind)
    for formula in ("value", "slope", "sigma_slope"):
        got, want = getattr(found, formula)(x, sigma), getattr(found, formula)(x, sigma.item())
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("name", UNITS)
def test_where_the_forms_are_taken(name, monkeypatch):
    unit = UNITS[name]
    assert compiled.shortest(unit, torch.zeros(3)) is unit  # a CPU's programs stay as they are
    assert compiled.shortest(unit, on_gpu(torch.float64)) is unit
    others = {dtype for dtype in DTYPES if form(name, dtype) is not unit}
    assert others == {dtype for known, dtype in OTHERS if known == name}
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: False)
    assert all(form(name, dtype) is unit for dtype in DTYPES)
