"""The product of any activation and a second tensor, and the fused one of expanded gates."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import nn

import zilu
from benchmarks.timing import saved_bytes
from zilu import functional as F
from zilu import kernels
from zilu.gating import gated
from zilu.names import ACTIVATIONS, EXPANDED_NAMES, GATED_NAMES

FUSED = kernels.backend("cpu") == "fused"
needs_kernels = pytest.mark.skipif(not FUSED, reason="no fused kernels on this machine")

by_name = pytest.mark.parametrize("name", GATED_NAMES)
by_learned = pytest.mark.parametrize("learned", [False, True])
# Triton's kernels run in its interpreter, which truncates to bf16.
by_path = pytest.mark.parametrize("path", ["fused", "plain", "triton"])

FUSED_MODULES = {
    **{name: functools.partial(zilu.create_activation, name, 0.7) for name in GATED_NAMES},
    **{name: functools.partial(zilu.create_activation, name) for name in EXPANDED_NAMES},
    "learned": lambda: zilu.ZiLU(0.7, learnable=True),
    "learned, expanded": lambda: zilu.ZiLU(0.7, learnable=True, expand_gate=True),
    "SiLU": nn.SiLU,
    "SiLU in place": lambda: nn.SiLU(inplace=True),
    "GELU": nn.GELU,
}


def with_alpha(unit):
    """Give an expanded unit an alpha that counts."""
    if getattr(unit, "expand_gate", False):
        with torch.no_grad():
            unit.alpha.fill_(0.3)
    return unit


def pair(*shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    a, b = (2 * torch.randn(2, *shape, generator=generator)).to(dtype)
    return a.requires_grad_(), b.requires_grad_()


# --- modules ---


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_it_is_the_product(name):
    """Compare value and all gradients with the activation's own, in float64."""
    activation = with_alpha(zilu.create_activation(name, 0.7)).double()
    a, b = pair(5, 40, dtype=torch.float64)
    found, want = gated(activation, a, b), copy.deepcopy(activation)(a.clone()) * b
    inputs = (a, b, *activation.parameters())
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)
    grad = torch.linspace(-1, 2, want.numel(), dtype=torch.float64).view(want.shape)
    mine = torch.autograd.grad(found, inputs, grad)
    theirs = torch.autograd.grad(activation(a.clone()) * b, inputs, grad)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("path", ["fused", "plain"])
@pytest.mark.parametrize("kind", FUSED_MODULES)
def test_a_and_b_are_all_that_is_kept(kind, path, monkeypatch):
    """Count by torch's saved_tensors_hooks what lies between two layers."""
    if path == "fused" and not FUSED:
        pytest.skip("no fused kernels on this machine")
    monkeypatch.setattr(kernels, "MODE", "auto" if path == "fused" else "plain")
    activation = FUSED_MODULES[kind]()
    a, b = pair(64, 256)
    constant = list(activation.state_dict().values())
    # Not a leaf, as a layer's output. A learned sigma and its parts are few bytes.
    kept = saved_bytes(lambda: gated(activation, a * 1, b * 1), constant)
    assert 2 * a.nbytes <= kept < 2 * a.nbytes + 64


def test_others_keep_what_autograd_keeps():
    a, b = pair(64, 256)
    kept = {
        name: saved_bytes(lambda act=act: gated(act, a * 1, b * 1)) // a.nbytes
        for name, act in (("ReLU", nn.ReLU()), ("GELU_tanh", zilu.create_activation("GELU_tanh")))
    }
    assert kept == {"ReLU": 2, "GELU_tanh": 3}  # ReLU's backward takes its output


class Doubled(zilu.ZiLU):
    def forward(self, input):
        return 2 * super().forward(input)


def test_a_subclass_or_a_forward_of_its_own_counts():
    a, b = pair(3, 5)
    torch.testing.assert_close(gated(Doubled(), a, b), 2 * zilu.ZiLU()(a) * b)
    unit = zilu.ZiLU()
    unit.forward = lambda x: 3 * x
    torch.testing.assert_close(gated(unit, a, b), 3 * a * b)


@pytest.mark.parametrize("kind", ["ZiLU", "SiLU", "learned, expanded"])
def test_hooks(kind):
    activation = with_alpha(FUSED_MODULES[kind]())
    a, b = pair(3, 5)
    want = gated(activation, a, b)
    seen = []
    with_hook = activation.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    assert torch.equal(gated(activation, a, b), want)  # to the bit
    assert seen == [a]
    with_hook.remove()
    for register in (activation.register_forward_pre_hook, activation.register_forward_hook):
        handle = register(lambda *args: 2 * (args[-1][0] if len(args) == 2 else args[-1]))
        changed = gated(activation, a, b)
        handle.remove()
        assert not torch.allclose(changed, want)
    calls = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, *_: calls.append(m))
    gated(activation, a, b)
    handle.remove()
    assert calls == [activation]


@pytest.mark.parametrize("kind", FUSED_MODULES)
def test_compiled_as_one_graph(kind):
    activation = with_alpha(FUSED_MODULES[kind]())
    a, b = pair(4, 6)

    def run(function):
        y = function(activation, a, b)
        return y, *torch.autograd.grad(y.square().sum(), (a, b, *activation.parameters()))

    torch.compiler.reset()
    compiled = torch.compile(gated, fullgraph=True, backend="aot_eager")
    for one, other in zip(run(compiled), run(gated), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


# --- the fused product of expanded gates ---


def by_autograd(a, b, name, sigma, alpha, grad):
    a, b = (x.detach().requires_grad_() for x in (a, b))
    alpha = torch.tensor(alpha, requires_grad=True)
    inputs = [a, b, alpha]
    if isinstance(sigma, torch.Tensor):
        inputs.append(sigma.requires_grad_())
    y = F.gated_product(a, b, name, sigma, alpha)
    return y.detach(), *torch.autograd.grad(y, inputs, grad)


def by_triton(a, b, name, sigma, alpha, grad):
    unit, alpha = GATED_NAMES.index(name), torch.tensor([alpha])
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    kind = "learned" if isinstance(sigma, torch.Tensor) else "default"
    forward = getattr(torch.ops.zilu.expanded_product, kind)
    backward = getattr(torch.ops.zilu.expanded_product_backward, kind)
    sigma = sigma.detach() if kind == "learned" else sigma
    gradients = backward.redispatch(keys, grad, a, b, sigma, alpha, unit)
    by_a, by_b, *by_sigma, by_alpha = gradients
    return forward.redispatch(keys, a, b, sigma, alpha, unit), by_a, by_b, by_alpha, *by_sigma


def exact(a, b, name, sigma, alpha, grad):
    """Return value and gradients of ((1 + 2 alpha) f(a) - alpha a) b, by autograd in float64."""
    a, b, sigma, alpha = (
        torch.as_tensor(each, dtype=torch.float64).detach().requires_grad_()
        for each in (a, b, sigma, alpha)
    )
    y = ((1 + 2 * alpha) * getattr(F, name.lower())(a, sigma) - alpha * a) * b
    return y.detach(), *torch.autograd.grad(y, (a, b, alpha, sigma), grad.double())


@by_path
@by_name
@by_learned
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_value_and_gradients(path, name, dtype, learned, compute):
    a, b, grad = (torch.randn(3, 4999) * 2).to(dtype)
    sigma = torch.tensor(0.7) if learned else 0.7
    found = compute(a, b, name, sigma, 0.7, grad)
    y, by_a, by_b, by_alpha, by_sigma = exact(a, b, name, sigma, 0.7, grad)
    rounding = max(torch.finfo(dtype).eps * (1.05 if path == "triton" else 0.55), 2e-6)
    # The short polynomials' 2^-16, times 1 + 2 alpha: the terms cancel where the unit is 0.
    short = 2**-16 * 2.4 if dtype != torch.float32 else 3e-6
    largest = short * (a.abs().max() * b.abs().max() * grad.abs().max()).double()
    for got, want in zip(found, (y, by_a, by_b), strict=False):
        assert got.dtype == dtype
        assert ((got.double() - want).abs() <= rounding * want.abs() + largest).all()
    magnitudes = exact(a, b.abs(), name, sigma, 0.7, grad.abs())[3:]  # the terms are positive then
    for got, want, scale in zip(found[3:], (by_alpha, by_sigma), magnitudes, strict=False):
        assert abs(got.item() - want.item()) <= 2e-5 * scale.item()
    assert len(found) == 4 + learned


@by_path
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_layouts(path, compute):
    base = torch.randn(6, 4, 10, 6)
    views = {
        "transposed": base.transpose(0, 3), "broadcast": base[:, :1].expand(6, 4, 10, 6),
        "channels last": base.to(memory_format=torch.channels_last), "empty": base[:0],
    }  # fmt: skip
    for name, a in views.items():
        b, grad = a.contiguous().flip(-1), a.sin()
        found = compute(a, b, "ZiLU", torch.tensor(0.7), 0.3, grad)
        flat = compute(
            a.reshape(-1), b.reshape(-1), "ZiLU", torch.tensor(0.7), 0.3, grad.reshape(-1)
        )
        for got, want in zip(found[:3], flat, strict=False):
            assert torch.equal(got.reshape(-1), want), name
        torch.testing.assert_close(found[3:], flat[3:], rtol=1e-5, atol=1e-5)


@by_name
def test_derivatives_to_the_second(name):
    a, b = pair(3, 5, dtype=torch.float64)
    numbers = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.7, 0.3)]

    def product(a, b, sigma, alpha):
        return F.gated_product(a, b, name, sigma, alpha)

    assert torch.autograd.gradcheck(product, (a, b, *numbers))
    assert torch.autograd.gradgradcheck(product, (a, b, *numbers))


@by_learned
def test_second_derivatives_of_the_kernels(learned):
    results = []
    for function in (
        lambda a, b, sigma, alpha: F.gated_product(a, b, "ZiLU", sigma, alpha),
        lambda a, b, sigma, alpha: ((1 + 2 * alpha) * F.zilu(a, sigma) - alpha * a) * b,
    ):
        a, b = torch.linspace(-3, 3, 24).view(2, 12).requires_grad_()
        sigma = torch.tensor(0.7, requires_grad=True) if learned else 0.7
        alpha = torch.tensor([0.3], requires_grad=True)
        y = function(a, b, sigma, alpha)
        (first,) = torch.autograd.grad(y.square().sum(), a, create_graph=True)
        inputs = (a, b, alpha, sigma) if learned else (a, b, alpha)
        results.append(torch.autograd.grad(first.square().sum(), inputs))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_transforms_and_export():
    unit = with_alpha(zilu.ZiLU(0.7, expand_gate=True))
    a, b = (x.detach() for x in pair(4, 6))

    def plain(a, b):
        return unit(a) * b

    for transform in (
        lambda f: torch.func.grad(lambda a, b: f(a, b).sum())(a, b),
        lambda f: torch.func.jvp(f, (a, b), (b, a)),
        lambda f: torch.vmap(f)(a, b),
    ):
        torch.testing.assert_close(transform(unit.product), transform(plain))

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.unit = unit

        def forward(self, a, b):
            return gated(self.unit, a, b)

    exported = torch.export.export(Gated(), (a, b)).module()
    torch.testing.assert_close(exported(a, b), plain(a, b))


@needs_kernels
@by_learned
def test_operators_are_well_made(learned):
    a, b, grad = torch.randn(3, 2, 5).requires_grad_()
    sigma = torch.tensor(0.7, requires_grad=True) if learned else 0.7
    alpha = torch.tensor([0.3], requires_grad=True)
    kind = "learned" if learned else "default"
    torch.library.opcheck(getattr(torch.ops.zilu.expanded_product, kind), (a, b, sigma, alpha, 0))
    backward = getattr(torch.ops.zilu.expanded_product_backward, kind)
    torch.library.opcheck(backward, (grad, a, b, sigma, alpha, 0))
