"""Gated units whose gate's range is widened by a trained alpha: numbers, modules, runs."""

from __future__ import annotations

import math

import pytest
import torch

import zilu
from benchmarks.timing import saved_bytes
from zilu import functional as F
from zilu import kernels, reference
from zilu.names import EXPANDED_NAMES, GATED_NAMES

FUSED = kernels.backend("cpu") == "fused"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]

by_name = pytest.mark.parametrize("name", GATED_NAMES)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
by_learned = pytest.mark.parametrize("learned", [False, True])
# Triton's kernels run in its interpreter, which truncates to bf16.
by_path = pytest.mark.parametrize("path", ["fused", "plain", "triton"])
interpreted = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def by_autograd(x, name, sigma, alpha, grad):
    x, alpha = x.detach().requires_grad_(), torch.tensor(alpha, requires_grad=True)
    inputs = [x, alpha, sigma.requires_grad_()] if isinstance(sigma, torch.Tensor) else [x, alpha]
    y = F.expanded(x, alpha, name, sigma)
    return y.detach(), *torch.autograd.grad(y, inputs, grad)


def by_triton(x, name, sigma, alpha, grad):
    unit, alpha = GATED_NAMES.index(name), torch.tensor([alpha])
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    kind = "learned" if isinstance(sigma, torch.Tensor) else "default"
    forward = getattr(torch.ops.zilu.expanded, kind)
    backward = getattr(torch.ops.zilu.expanded_backward, kind)
    sigma = sigma.detach() if kind == "learned" else sigma
    by_x, *by_sigma, by_alpha = backward.redispatch(keys, grad, x, sigma, alpha, unit)
    return forward.redispatch(keys, x, sigma, alpha, unit), by_x, by_alpha, *by_sigma


def exact(x, name, sigma, alpha, grad):
    """Return value and gradients of (1 + 2 alpha) f(x) - alpha x, by autograd in float64."""
    x, sigma, alpha = (
        torch.as_tensor(each, dtype=torch.float64).detach().requires_grad_()
        for each in (x, sigma, alpha)
    )
    y = (1 + 2 * alpha) * reference.UNITS[name.lower()].differentiable(x, sigma) - alpha * x
    return y.detach(), *torch.autograd.grad(y, (x, alpha, sigma), grad.double())


# --- numbers ---


@by_path
@by_name
@by_dtype
@interpreted
def test_alpha_0_is_the_unit_itself(path, name, dtype, compute):
    magnitudes = torch.logspace(-30, 38, 1401)
    ends = torch.tensor([math.inf, -math.inf, math.nan, 0.0])
    x = torch.cat([-magnitudes, torch.linspace(-12, 12, 4801), magnitudes, ends]).to(dtype)
    grad = torch.ones_like(x)
    y, by_x = compute(x, name, 1.253, 0.0, grad)[:2]
    x.requires_grad_()
    if path == "triton":
        keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
        packet = getattr(torch.ops.zilu, name.lower())
        want = packet.default.redispatch(keys, x.detach(), 1.253)
        backward = getattr(torch.ops.zilu, f"{name.lower()}_backward").default
        slope = backward.redispatch(keys, grad, x.detach(), 1.253)
    else:
        want = getattr(F, name.lower())(x, 1.253)
        (slope,) = torch.autograd.grad(want, x, grad)
    # The compiler rounds GELU's and SiLU's last product once or twice.
    rounding = 0 if name in ("ZiLU", "ZiLU_Approx") else torch.finfo(torch.float32).eps
    for one, other in ((y, want), (by_x, slope)):
        torch.testing.assert_close(one, other, rtol=rounding, atol=rounding, equal_nan=True)


@by_path
@by_name
@by_dtype
@by_learned
@pytest.mark.parametrize("alpha", [-0.2, 0.7])
@interpreted
def test_value_and_gradients(path, name, dtype, learned, alpha, compute):
    x, grad = (torch.randn(2, 4999) * 4).to(dtype)
    sigma = torch.tensor(0.7) if learned else 0.7
    found = compute(x, name, sigma, alpha, grad)
    y, by_x, by_alpha, by_sigma = exact(x, name, sigma, alpha, grad)
    # Half an ulp of the result; one in the interpreter; and the terms' own, which cancel at a zero.
    rounding = max(torch.finfo(dtype).eps * (1.05 if path == "triton" else 0.55), 1e-6)
    # The short polynomials' 2^-16, times 1 + 2 alpha. 6e-8: fp16's smallest number.
    short = 2**-16 * 2.4 if dtype != torch.float32 else 1e-6
    for got, want, scale in ((found[0], y, x), (found[1], by_x, grad)):
        assert got.dtype == dtype
        error = (got.double() - want).abs()
        assert (error <= rounding * want.abs() + short * scale.double().abs() + 6e-8).all()
    magnitudes = exact(x, name, sigma, alpha, grad.abs())[2:]  # the terms are positive then
    for got, want, scale in zip(found[2:], (by_alpha, by_sigma), magnitudes, strict=False):
        assert abs(got.item() - want.item()) <= 2e-5 * scale.item()


@by_path
@by_name
@by_dtype
@interpreted
def test_it_is_finite_where_its_value_is(path, name, dtype, compute):
    largest = torch.finfo(dtype).max
    x = torch.tensor([-largest, largest, 0.0, -math.inf, math.inf, math.nan], dtype=dtype)
    y, by_x = compute(x, name, 1.0, -0.25, torch.ones_like(x))[:2]
    assert y[:3].isfinite().all()
    assert by_x[:5].isfinite().all()
    assert y[4] == math.inf
    assert y[5].isnan()
    want = x[:2].float() * torch.tensor([0.25, 0.75])
    torch.testing.assert_close(y[:2].float(), want, rtol=torch.finfo(dtype).eps, atol=0)


@by_path
@by_learned
@interpreted
def test_layouts(path, learned, compute):
    base = torch.randn(6, 4, 10, 6)
    sigma = torch.tensor(0.7) if learned else 0.7
    views = {
        "transposed": base.transpose(0, 3), "broadcast": base[:, :1].expand(6, 4, 10, 6),
        "channels last": base.to(memory_format=torch.channels_last), "empty": base[:0],
    }  # fmt: skip
    for name, x in views.items():
        found = compute(x, "ZiLU", sigma, 0.3, x)
        flat = compute(x.reshape(-1), "ZiLU", sigma, 0.3, x.reshape(-1))
        for got, want in zip(found[:2], flat, strict=False):
            assert torch.equal(got.reshape(-1), want), name
        torch.testing.assert_close(found[2:], flat[2:], rtol=1e-5, atol=1e-5)


@by_name
@pytest.mark.parametrize("mode", ["auto", "plain"])
def test_second_derivatives(name, mode, monkeypatch):
    monkeypatch.setattr(kernels, "MODE", mode)

    def call(x, alpha, sigma):
        return F.expanded(x, alpha, name, sigma)

    x = (torch.randn(40, dtype=torch.float64) * 2).requires_grad_()
    numbers = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.3, 1.2)]
    assert torch.autograd.gradcheck(call, (x, *numbers))
    assert torch.autograd.gradgradcheck(call, (x, *numbers))
    # Of the kernels, through operators in fp32.
    x32 = torch.linspace(-3, 3, 33, requires_grad=True)
    numbers = [torch.tensor(v, requires_grad=True) for v in (0.3, 1.2)]
    first = torch.autograd.grad(call(x32, *numbers).sum(), (x32, *numbers), create_graph=True)
    got = torch.autograd.grad(sum(each.square().sum() for each in first), (x32, *numbers))
    wide = [each.detach().double().requires_grad_() for each in (x32, *numbers)]
    first = torch.autograd.grad(call(*wide).sum(), wide, create_graph=True)
    want = torch.autograd.grad(sum(each.square().sum() for each in first), wide)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not FUSED, reason="no fused kernels on this machine")
def test_backward_keeps_the_input_alone():
    x = torch.randn(1 << 16, requires_grad=True)
    unit = zilu.ZiLU(learnable=True, expand_gate=True)
    assert saved_bytes(lambda: unit(x)) <= x.nbytes + 64


@pytest.mark.slow
@pytest.mark.parametrize("name", GATED_NAMES)
def test_compiled_it_is_the_same(name):
    unit = zilu.create_activation(name, 0.8, learnable=True, expand_gate=True)
    with torch.no_grad():
        unit.alpha.fill_(0.3)
    x = torch.linspace(-9, 9, 999, requires_grad=True)
    inputs = (x, unit.alpha, unit.rho)
    want = torch.autograd.grad(unit(x).square().sum(), inputs)
    compiled = torch.compile(unit, fullgraph=True)
    got = torch.autograd.grad(compiled(x).square().sum(), inputs)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


# --- modules ---


@pytest.mark.parametrize(
    ("name", "unit"), list(zip(EXPANDED_NAMES, ("ZiLU", "GELU_s", "SiLU_s"), strict=True))
)
def test_names_of_the_paper(name, unit):
    x = torch.linspace(-20, 20, 4001)
    module = zilu.create_activation(name)
    assert torch.equal(module(x), zilu.create_activation(unit)(x))
    assert [key for key, _ in module.named_parameters()] == ["alpha"]
    module(x).sum().backward()
    assert module.alpha.grad.item() == pytest.approx((2 * module(x) - x).double().sum().item())
    with torch.no_grad():
        module.alpha.fill_(0.25)
    expanded = F.expanded(x, 0.25, unit)
    assert torch.equal(module(x), expanded)


def test_acon_c_starts_as_silu_and_is_its_formula():
    module = zilu.ACON_C()
    x = torch.linspace(-5, 5, 101)
    torch.testing.assert_close(module(x), torch.nn.functional.silu(x))
    assert torch.autograd.gradcheck(zilu.ACON_C().double(), x.double().requires_grad_())
    with torch.no_grad():
        module.p1.fill_(1.2), module.p2.fill_(-0.3), module.beta.fill_(0.8)
    want = 1.5 * x.double() / (1 + torch.exp(-0.8 * 1.5 * x.double())) - 0.3 * x.double()
    torch.testing.assert_close(module(x).double(), want, rtol=1e-5, atol=1e-6)
    assert module(x.bfloat16()).dtype == torch.bfloat16


def test_expanded_silu_is_a_case_of_acon_c():
    x = torch.linspace(-5, 5, 101)
    acon = zilu.ACON_C()
    with torch.no_grad():  # p1 - p2 = 1 + 2 alpha scales x in the gate too, which beta takes back
        acon.p1.fill_(1.3), acon.p2.fill_(-0.3), acon.beta.fill_(1 / 1.6)
    torch.testing.assert_close(acon(x), F.expanded(x, 0.3, "SiLU_s"))


@by_name
def test_state_copies_and_scripts(name, tmp_path):
    unit = zilu.create_activation(name, 0.8, expand_gate=True)
    with torch.no_grad():
        unit.alpha.fill_(0.3)
    x = torch.linspace(-9, 9, 99)
    other = zilu.create_activation(name, 0.8, expand_gate=True)
    other.load_state_dict(unit.state_dict())
    torch.save(unit, tmp_path / "unit.pt")
    loaded = torch.load(tmp_path / "unit.pt", weights_only=False)
    for each in (other, loaded):
        assert torch.equal(each(x), unit(x))
    torch.testing.assert_close(torch.jit.script(unit)(x), unit(x))
    exported = torch.export.export(unit, (x,)).module()
    torch.testing.assert_close(exported(x), unit(x))
    torch.testing.assert_close(torch.vmap(unit)(x.view(9, 11)).flatten(), unit(x))
    assert "expand_gate=True, alpha=0.3" in repr(unit)
    unit.reset_parameters()
    assert unit.alpha.item() == 0
    b = torch.randn(99)
    torch.testing.assert_close(other.product(x, b), other(x) * b)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ReLU",), "no gated unit"),
        (("ArcTan",), "no gated unit"),
        (("ZiLU", 1.0, False, False, "output"), "does not go with save='output'"),
    ],
)
def test_refusals(arguments, said):
    with pytest.raises(ValueError, match=said):
        zilu.create_activation(*arguments, expand_gate=True)


@pytest.mark.parametrize("alpha", ["wide", torch.ones(2), torch.ones(1, dtype=torch.int64)])
def test_alpha_is_one_number(alpha):
    with pytest.raises((TypeError, ValueError)):
        F.expanded(torch.ones(3), alpha)
