"""The fused product f(a) b: its numbers, what it keeps, and its ways as a function of torch."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import nn

import zilu
from benchmarks.timing import saved_bytes
from zilu import functional as F
from zilu import kernels
from zilu.names import GATED_NAMES

FUSED = kernels.backend("cpu") == "fused"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]

by_name = pytest.mark.parametrize("name", GATED_NAMES)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
by_learned = pytest.mark.parametrize("learned", [False, True])
# Triton's kernels run in its interpreter, which truncates to bf16.
by_path = pytest.mark.parametrize("path", ["fused", "plain", "triton"])


def by_autograd(a, b, name, sigma, grad):
    inputs = [x.detach().requires_grad_() for x in (a, b)]
    if isinstance(sigma, torch.Tensor):
        inputs.append(sigma)
        sigma.requires_grad_()
    y = F.gated_product(*inputs[:2], name, sigma)
    return y.detach(), *torch.autograd.grad(y, inputs, grad)


def by_triton(a, b, name, sigma, grad):
    unit = GATED_NAMES.index(name)
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    kind = "learned" if isinstance(sigma, torch.Tensor) else "default"
    forward = getattr(torch.ops.zilu.gated_product, kind)
    backward = getattr(torch.ops.zilu.gated_product_backward, kind)
    sigma = sigma.detach() if kind == "learned" else sigma
    gradients = backward.redispatch(keys, grad, a, b, sigma, unit)
    return forward.redispatch(keys, a, b, sigma, unit), *gradients


def exact(a, b, name, sigma, grad):
    """Return value and gradients by autograd's own product, in float64."""
    a, b = (x.detach().double().requires_grad_() for x in (a, b))
    sigma = torch.as_tensor(sigma, dtype=torch.float64).detach().requires_grad_()
    y = getattr(F, name.lower())(a, sigma) * b
    return y.detach(), *torch.autograd.grad(y, (a, b, sigma), grad.double())


# --- numbers ---


@by_path
@by_name
@by_dtype
@by_learned
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_value_and_gradients(path, name, dtype, learned, compute):
    a, b, grad = (torch.randn(3, 4999) * 2).to(dtype)
    sigma = torch.tensor(0.7) if learned else 0.7
    found = compute(a, b, name, sigma, grad)
    y, by_a, by_b, by_sigma = exact(a, b, name, sigma, grad)
    # Half an ulp of the result; one in the interpreter; and the kernels' own error.
    rounding = torch.finfo(dtype).eps * (1.05 if path == "triton" else 0.55)
    rounding = max(rounding, 2e-6)
    for got, want in zip(found, (y, by_a, by_b), strict=False):
        assert got.dtype == dtype
        error = (got.double() - want).abs()
        # 3e-6: where GELU's and SiLU's slope crosses 0, fp32's digits of its terms are left.
        assert (error <= rounding * want.abs() + 3e-6 * grad.double().abs().max()).all()
    if learned:
        terms = exact(a, b.abs(), name, sigma, grad.abs())[3]
        assert abs(found[3].item() - by_sigma.item()) <= 2e-5 * abs(terms.item())


# Views of a tensor of shape (6, 4, 10, 6).
LAYOUTS = {
    "contiguous": lambda base: base,
    "halves of one": lambda base: base.chunk(2, dim=-1)[1],
    "channels_last": lambda base: base.to(memory_format=torch.channels_last),
    "transposed": lambda base: base.transpose(0, 3),
    "expanded": lambda base: base[:, :1].expand(6, 4, 10, 6),
    "one number": lambda base: base[0, 0, 0, 0],
    "empty": lambda base: base[:0],
}


@by_path
@by_dtype
@by_learned
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("other", ["contiguous", "alike"])
def test_layouts(path, dtype, learned, layout, other, compute):
    a, b, grad = (LAYOUTS[layout](torch.randn(6, 4, 10, 6).to(dtype)) for _ in range(3))
    if other == "contiguous":
        b = b.contiguous()
    sigma = torch.tensor(0.7) if learned else 0.7
    found = compute(a, b, "ZiLU", sigma, grad)
    flat = compute(*(x.reshape(-1) for x in (a, b)), "ZiLU", sigma, grad.reshape(-1))
    for got, want in zip(found[:3], flat, strict=False):
        assert got.shape == a.shape
        assert torch.equal(got.reshape(-1), want)
    if learned:
        torch.testing.assert_close(found[3], flat[3])


@by_path
@by_name
@by_dtype
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_limits(path, name, dtype, compute):
    """Large numbers stay finite where their product is; NaN of a or b is NaN."""
    largest = torch.finfo(dtype).max
    a = torch.tensor([-largest, largest, 0, 1, math.nan, -1, 0], dtype=dtype)
    b = torch.tensor([0.5, 0.5, largest, 0, 1, math.nan, -largest], dtype=dtype)
    y, by_a, by_b = compute(a, b, name, 1.0, torch.ones_like(a))[:3]
    for found in (y, by_a, by_b):
        assert found[:4].isfinite().all()
    assert y[1] == largest / 2
    assert y[4:6].isnan().all()
    assert by_a[4:6].isnan().all()
    assert by_b[4].isnan()


@pytest.mark.parametrize("name", GATED_NAMES)
def test_second_derivatives(name):
    a, b = torch.randn(2, 3, 5, dtype=torch.float64).requires_grad_()
    sigma = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def product(a, b, sigma):
        return F.gated_product(a, b, name, sigma)

    assert torch.autograd.gradcheck(product, (a, b, sigma))
    assert torch.autograd.gradgradcheck(product, (a, b, sigma))


@by_learned
def test_second_derivatives_of_the_kernels(learned):
    results = []
    for function in (F.gated_product, lambda a, b, name, sigma: F.zilu(a, sigma) * b):
        a, b = torch.linspace(-3, 3, 24).view(2, 12).requires_grad_()
        sigma = torch.tensor(0.7, requires_grad=True) if learned else 0.7
        y = function(a, b, "ZiLU", sigma)
        (first,) = torch.autograd.grad(y.square().sum(), a, create_graph=True)
        inputs = (a, b, sigma) if learned else (a, b)
        results.append(torch.autograd.grad(first.square().sum(), inputs))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_sigmas_gradient_does_not_depend_on_threads():
    a, b, grad = torch.randn(3, 300_000)
    threads = torch.get_num_threads()
    found = []
    for count in (1, 3):
        torch.set_num_threads(count)
        found.append(by_autograd(a, b, "ZiLU", torch.tensor(0.7), grad))
    torch.set_num_threads(threads)
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


# --- what is kept ---


@by_learned
@pytest.mark.parametrize("path", ["fused", "plain"])
def test_a_and_b_are_all_that_is_kept(path, learned, compute):
    first, second = nn.Linear(128, 256), nn.Linear(128, 256)
    last = nn.Linear(256, 128)
    unit = zilu.ZiLU(learnable=learned)
    x = torch.randn(64, 128)
    constant = [x, *(p for m in (first, second, last, unit) for p in m.state_dict().values())]
    size = 64 * 256 * 4

    def kept(block):
        return saved_bytes(lambda: last(block(first(x), second(x))), constant) // size

    assert kept(unit.product) == 3  # a, b, and the product, which the last layer keeps
    assert kept(lambda a, b: unit(a) * b) == 4


# --- as a function of torch ---


@by_name
def test_a_modules_product(name):
    unit = zilu.create_activation(name, sigma=0.7, learnable=True)
    a, b = torch.randn(2, 3, 5)
    y = unit.product(a, b)
    torch.testing.assert_close(y, unit(a) * b)
    (mine,) = torch.autograd.grad(y.sum(), unit.rho)
    (theirs,) = torch.autograd.grad((unit(a) * b).sum(), unit.rho)
    torch.testing.assert_close(mine, theirs)


def test_transforms():
    a, b = torch.randn(2, 4, 6)
    product = functools.partial(F.gated_product, activation="SiLU_s", sigma=0.7)

    def plain(a, b):
        return F.silu_s(a, 0.7) * b

    for transform in (
        lambda f: torch.func.grad(lambda a, b: f(a, b).sum())(a, b),
        lambda f: torch.func.jvp(f, (a, b), (b, a)),
        lambda f: torch.vmap(f)(a, b),
        lambda f: torch.func.jacrev(f)(a[0], b[0]),
    ):
        torch.testing.assert_close(transform(product), transform(plain))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(a, b)
        found, wanted = (
            torch.autograd.forward_ad.unpack_dual(f(dual, b)) for f in (product, plain)
        )
        torch.testing.assert_close(found, wanted)


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.unit = zilu.ZiLU(sigma=0.7, learnable=True)

    def forward(self, a, b):
        return self.unit.product(a, b)


def test_compiled_and_exported():
    model = Gated()
    a, b = torch.randn(2, 4, 6).requires_grad_()
    wanted = model(a, b)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(a, b)
    torch.testing.assert_close(compiled, wanted)
    inputs = (a, b, model.unit.rho)
    for mine, theirs in zip(
        torch.autograd.grad(compiled.sum(), inputs),
        torch.autograd.grad(wanted.sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)
    exported = torch.export.export(model, (a.detach(), b.detach()))
    torch.testing.assert_close(exported.module()(a.detach(), b.detach()), wanted)


def test_it_is_one_call_for_modes_and_fx():
    class Noting(torch.overrides.TorchFunctionMode):
        called = ()

        def __torch_function__(self, function, types, args=(), kwargs=None):
            self.called += (function,)
            return function(*args, **(kwargs or {}))

    a, b = torch.randn(2, 5)
    with Noting() as mode:
        F.gated_product(a, b)
    assert F.gated_product in mode.called

    class Block(nn.Module):
        def forward(self, a, b):
            return F.gated_product(a, b, "SiLU_s", 0.5)

    traced = torch.fx.symbolic_trace(Block())
    assert [node.target for node in traced.graph.nodes if node.op == "call_function"] == [
        F.gated_product
    ]
    torch.testing.assert_close(traced(a, b), F.silu_s(a, 0.5) * b)


@pytest.mark.skipif(not FUSED, reason="no fused kernels here")
@by_learned
def test_operators_are_well_made(learned):
    a, b, grad = torch.randn(3, 2, 5).requires_grad_()
    sigma = torch.tensor(0.7, requires_grad=True) if learned else 0.7
    kind = "learned" if learned else "default"
    torch.library.opcheck(getattr(torch.ops.zilu.gated_product, kind), (a, b, sigma, 0))
    backward = getattr(torch.ops.zilu.gated_product_backward, kind)
    torch.library.opcheck(backward, (grad, a, b, sigma, 0))


@pytest.mark.parametrize(
    ("a", "b", "options", "error", "words"),
    [
        (torch.ones(3), torch.ones(4), {}, ValueError, "two tensors alike"),
        (torch.ones(3), torch.ones(3).half(), {}, ValueError, "float32.*float16"),
        (torch.ones(3), torch.ones(3).long(), {}, TypeError, "int64"),
        (torch.ones(3), torch.ones(3), {"activation": "GELU"}, ValueError, "ZiLU_Approx.*not GELU"),
        (torch.ones(3), torch.ones(3), {"activation": "Zilu2"}, ValueError, "did you mean ZiLU"),
        (torch.ones(3), torch.ones(3), {"sigma": -1}, ValueError, "above 0"),
    ],
)
def test_bad_arguments(a, b, options, error, words):
    with pytest.raises(error, match=words):
        F.gated_product(a, b, **options)
