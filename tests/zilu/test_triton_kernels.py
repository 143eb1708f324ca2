"""Compare the Triton kernels with zilu.functional in float64.

They run on the GPU, or where there is none in Triton's interpreter, which the operators for CUDA
tensors then call on CPU tensors. The interpreter shows whether
formulas, masks and layouts are right. It does not show how fast the GPU is and how it rounds: the
interpreter truncates to bf16, and before Triton 3.5 its fma rounds twice.
"""

import functools
import math

import numpy as np
import pytest
import torch

from zilu import functional as F

pytest.importorskip("triton")

from zilu import kernels
from zilu.kernels import operators
from zilu.kernels import triton_kernels as K

if kernels.backend("cpu") != "fused":
    pytest.skip("no C++ compiler on this machine", allow_module_level=True)
operators.load("cuda")

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
UNITS = ("zilu", "zilu_approx", "gelu_s", "silu_s")
SIGMAS = (1e-3, 0.5, 1.0, 1.253, 1e3)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TINY = torch.finfo(torch.float32).tiny
LEFT_LIMIT = {
    "zilu": lambda sigma: -1 / (math.pi * sigma),
    "zilu_approx": lambda sigma: -1 / (2 * sigma),
    "gelu_s": lambda sigma: 0.0,
    "silu_s": lambda sigma: 0.0,
}

# The interpreter's numpy warns about values that `where` then discards.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

by_unit = pytest.mark.parametrize("unit", UNITS)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
by_sigma = pytest.mark.parametrize("sigma", SIGMAS)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def has_true_fma() -> bool:
    if GPU:
        return True
    from triton.runtime.interpreter import TensorHandle, interpreter_builder, tl

    third = np.array([1 / 3], dtype=np.float32)
    x, y = TensorHandle(third, tl.float32), TensorHandle(-third * third, tl.float32)
    return interpreter_builder.create_fma(x, x, y).data.item() != 0


def magnitudes(dtype=torch.float32, count=600):
    """Return numbers of both signs and all magnitudes, dense around 1."""
    largest = torch.tensor([torch.finfo(dtype).max], dtype=torch.float64)
    spread = torch.logspace(-30, 38, count, dtype=torch.float64)
    near = torch.linspace(0.001, 20, count, dtype=torch.float64)
    positive = torch.cat([spread, near, largest]).to(dtype)
    return torch.cat([-positive, positive]).to(DEVICE)


def exact(unit, x, sigma, grad=None):
    """Return value, slope (times grad) and sigma's gradient, in float64."""
    x = x.detach().cpu().double().requires_grad_()
    sigma = torch.tensor(float(sigma), dtype=torch.float64, requires_grad=True)
    y = getattr(F, unit)(x, sigma)
    grad = torch.ones_like(y) if grad is None else grad.cpu().double()
    slope, by_sigma = torch.autograd.grad(y, (x, sigma), grad)
    return y.detach(), slope, by_sigma


def operator(name, sigma, rho=()):
    """Return the operator for CUDA tensors, of a fixed or a learned sigma, or a product."""
    packet = getattr(torch.ops.zilu, name)
    found = packet.learned if isinstance(sigma, torch.Tensor) else packet.default
    found = packet.product if rho else found
    if GPU:
        return found
    return functools.partial(found.redispatch, torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA))


def value_of(unit, x, sigma, *rho):
    return operator(unit, sigma, rho)(x, sigma, *rho)


def gradients_of(unit, grad, x, sigma, *rho):
    """Return the gradient for x; with a learned sigma also the gradient for it, or for rho."""
    return operator(f"{unit}_backward", sigma, rho)(grad, x, sigma, *rho)


def gradient(unit, x, sigma):
    return gradients_of(unit, torch.ones_like(x), x, sigma)


def ulps(got, want, scale=None, flushed=TINY):
    """Return the largest error, in units of got's last place at `scale` (by default `want`).

    Values up to `flushed` may be off by as much, because subnormals have few digits or none.
    """
    info = torch.finfo(got.dtype)
    scale = (want if scale is None else scale).abs().clamp(min=info.tiny)
    error = (got.cpu().double() - want).abs()
    error[(want.abs() <= flushed) & (error <= flushed)] = 0
    return (error / (info.eps * torch.exp2(torch.floor(torch.log2(scale))))).max().item()


def largest_term(x, sigma, y, slope):
    """Return the larger of g(z) and z g'(z), which cancel where their sum, the slope, is 0."""
    return torch.maximum(slope.abs(), (slope - y / x.cpu().double()).abs())


def small_gates(x, y):
    """Return how far a value may be off where the gate or the value itself is subnormal in fp32."""
    by_gate = (x.cpu().double().abs() * TINY).clamp(min=TINY)
    return torch.where(y.abs() < by_gate, by_gate, TINY)


@by_sigma
@pytest.mark.parametrize("unit", ["zilu", "zilu_approx"])
def test_fp32_holds_four_and_eight_ulp_over_all_magnitudes(unit, sigma):
    x = magnitudes()
    value, slope, _ = exact(unit, x, sigma)
    assert ulps(value_of(unit, x, sigma), value) <= 4
    assert ulps(gradient(unit, x, sigma), slope) <= 8


@by_sigma
@pytest.mark.parametrize("unit", ["gelu_s", "silu_s"])
def test_fp32_with_exponential_tails(unit, sigma):
    """Check the tails, which magnify the error of z = sigma x. Compensating it takes a true fma."""
    x = magnitudes()
    value, slope, _ = exact(unit, x, sigma)
    limit = 6 if has_true_fma() else 200
    assert ulps(value_of(unit, x, sigma), value) <= limit
    scale = largest_term(x, sigma, value, slope)
    assert ulps(gradient(unit, x, sigma), slope, scale) <= limit


@by_unit
@pytest.mark.parametrize(
    "sigma", [0.01, 0.7, *(pytest.param(x, marks=pytest.mark.slow) for x in (1.253, 100.0))]
)
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_every_16_bit_number_is_rounded_once(unit, sigma, dtype):
    """Allow half an ulp, and a little for the short polynomials."""
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype).to(DEVICE)
    x = x[x.isfinite() & (x != 0)]
    value, slope, _ = exact(unit, x, sigma)
    limit = 0.55 if GPU or dtype == torch.float16 else 1.05  # the interpreter truncates bf16
    flushed = small_gates(x, value) if dtype == torch.bfloat16 else TINY
    assert ulps(value_of(unit, x, sigma), value, flushed=flushed) <= limit
    scale = largest_term(x, sigma, value, slope)
    assert ulps(gradient(unit, x, sigma), slope, scale, flushed=128 * TINY) <= limit


@by_unit
@by_dtype
@by_sigma
def test_finite_for_every_finite_input(unit, dtype, sigma):
    info = torch.finfo(dtype)
    positive = [info.smallest_normal / 2, info.tiny, 1e-3, 1.0, 1e3, info.max / 2, info.max]
    x = torch.tensor([0.0, *positive, *(-at for at in positive)], dtype=dtype, device=DEVICE)
    learned = torch.tensor(sigma, device=DEVICE)
    grad_x, grad_sigma = gradients_of(unit, torch.ones_like(x), x, learned)
    for result in (value_of(unit, x, sigma), gradient(unit, x, sigma), grad_x, grad_sigma):
        assert result.isfinite().all()


@by_unit
@by_dtype
def test_infinities_give_the_limits_and_nan_stays(unit, dtype):
    x = torch.tensor([-math.inf, math.inf, math.nan], dtype=dtype, device=DEVICE)
    for sigma in (0.5, 1.0, 3.0):
        y = value_of(unit, x, sigma)
        assert y[0].item() == pytest.approx(LEFT_LIMIT[unit](sigma), rel=torch.finfo(dtype).eps)
        assert y[1].item() == math.inf
        assert y[2].isnan()
        learned = torch.tensor(sigma, device=DEVICE)
        grad_x, grad_sigma = gradients_of(unit, torch.ones_like(x[:2]), x[:2], learned)
        assert grad_x.tolist() == [0, 1]
        assert grad_sigma.item() == pytest.approx(exact(unit, x[:2], sigma)[2].item())
        assert gradient(unit, x, sigma)[2].isnan()
        assert gradients_of(unit, torch.ones_like(x), x, learned)[1].isnan()


def sigma_error(grad_sigma, unit, x, sigma, grad):
    """Return the error relative to the terms' total magnitude; df/dsigma is never negative."""
    want = exact(unit, x, sigma, grad)[2].item()
    total = exact(unit, x, sigma, grad.abs())[2].item()
    return abs(grad_sigma.item() - want) / (total or 1)


def channels_last(base):
    return base.contiguous(memory_format=torch.channels_last)


# Views of a tensor of shape (6, 4, 10, 7), each with whether its memory is dense.
LAYOUTS = {
    "contiguous": (lambda base: base, True),
    "channels_last": (channels_last, True),
    "channels_last_slice": (lambda base: channels_last(base)[:, 1:3], False),
    "strided": (lambda base: base[:, :, ::2, 1::3], False),
    "transposed": (lambda base: base.transpose(1, 3), True),
    "expanded": (lambda base: base[:, :1].expand(6, 5, 10, 7), False),
    "unaligned": (lambda base: base.flatten()[1:], True),
    "padded_rows": (lambda base: base.flatten(1)[:, :70], False),
    "one_number": (lambda base: base[0, 0, 0, 0], True),
    "empty": (lambda base: base[:, :0], True),
}
GRADS = {
    "alike": lambda x: torch.empty_like(x).copy_(torch.linspace(-1, 1, x.numel()).view(x.shape)),
    "contiguous": lambda x: torch.linspace(-1, 1, x.numel()).view(x.shape).to(x),
    "expanded": lambda x: torch.tensor(0.7).to(x).expand(x.shape),
}


@by_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, dtype):
    view, dense = LAYOUTS[layout]
    x = view(torch.randn(6, 4, 10, 7, dtype=dtype, device=DEVICE).mul_(3))
    like = torch.empty_like(x)
    assert (like.stride() == x.stride()) == dense
    flat = x.reshape(-1).clone()
    y = value_of("zilu", x, 0.7)
    assert y.stride() == like.stride()
    assert y.dtype == dtype
    assert torch.equal(y.reshape(-1), value_of("zilu", flat, 0.7))
    assert torch.equal(x.reshape(-1), flat)
    sigma = torch.tensor(0.7, device=DEVICE)
    for make in GRADS.values():
        grad = make(x)
        want = gradients_of("zilu", grad.reshape(-1).clone(), flat, 0.7)
        fixed = gradients_of("zilu", grad, x, 0.7)
        learned, grad_sigma = gradients_of("zilu", grad, x, sigma)
        for result in (fixed, learned):
            assert result.stride() == like.stride()
            assert result.dtype == dtype
            torch.testing.assert_close(result.reshape(-1), want, rtol=1e-6, atol=0)
        assert sigma_error(grad_sigma, "zilu", x, 0.7, grad) <= 2e-5


@by_dtype
def test_sizes_around_the_block_stay_inside_their_memory(dtype):
    """Put the results at the start of a buffer whose rest must not change."""
    block = K.BLOCK_BYTES // dtype.itemsize
    sigma = torch.tensor(0.7, device=DEVICE)
    for size in (1, 2, 15, 16, 17, block - 1, block, block + 1, 2 * block + 16, 3 * block - 8):
        x = torch.linspace(-9, 5, size, dtype=torch.float32).to(DEVICE, dtype)
        grad = torch.linspace(1, -2, size, dtype=torch.float32).to(DEVICE, dtype)
        value, slope, by_sigma = exact("zilu_approx", x, 0.7, grad)
        buffers = torch.full((3, size + 2 * block), math.nan, dtype=dtype, device=DEVICE)
        y, grad_x, again = buffers[:, :size]
        programs = -(-size // block)
        partials = torch.full((programs + 100,), math.nan, device=DEVICE)
        K.launch(0, 1, [x, y], 0.7, None, programs)
        K.launch(1, 1, [grad, x, again, again], 0.7, None, programs)
        K.launch(1, 1, [grad, x, grad_x, partials[:programs]], sigma, None, programs)
        assert buffers[:, size:].isnan().all()
        assert partials[programs:].isnan().all()
        close = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 1e-6}
        torch.testing.assert_close(y.cpu().double(), value, **close)
        torch.testing.assert_close(grad_x.cpu().double(), slope, **close)
        torch.testing.assert_close(again.cpu().double(), slope, **close)
        assert partials[:programs].sum().item() == pytest.approx(by_sigma.item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
@pytest.mark.parametrize("count", [0, 1, 4095, 4096, 4097, 10_000])
def test_sigmas_gradient_is_added_up_in_fp64(count, dtype):
    """Take 1 and numbers that fp32 loses beside it, and each type that sigma may have."""
    partials = torch.full((count,), 2.0**-30, device=DEVICE)
    partials[:1] = 1
    found = torch.full((3,), math.nan, dtype=dtype, device=DEVICE)
    sigma = torch.tensor(0.7, device=DEVICE)
    K.launch(2, 0, [partials, found[:1]], sigma, None, 1)
    limit = torch.finfo(dtype).eps * (1 if dtype == torch.bfloat16 else 0.5)
    assert found[0].item() == pytest.approx(partials.double().sum().item(), rel=limit)
    assert found[1:].isnan().all()


@by_unit
@by_dtype
@pytest.mark.parametrize("sigma", [1e-3, 1.253, 1e3])
def test_gradient_for_sigma(unit, dtype, sigma):
    """Sum over several programs and a remainder, with x where all of the units still vary."""
    x = torch.randn(9001).mul_(2 / sigma).to(DEVICE, dtype)
    grad = torch.randn(9001).to(DEVICE, dtype)
    for learned in (
        torch.tensor(sigma, dtype=torch.float32),
        torch.tensor([sigma], dtype=torch.float64),
    ):
        learned = learned.to(DEVICE)
        grad_x, grad_sigma = gradients_of(unit, grad, x, learned)
        assert grad_sigma.dtype == learned.dtype
        assert grad_sigma.shape == learned.shape
        limit = 1e-6 if dtype == torch.float32 else 2e-5
        assert sigma_error(grad_sigma, unit, x, learned, grad) <= limit
        slope = exact(unit, x, learned, grad)[1]
        # Slopes reach 1.13, and the interpreter's bf16 is up to an ulp off.
        rounding = 1e-6 if dtype == torch.float32 else 1.2 * torch.finfo(dtype).eps
        error = (grad_x.cpu().double() - slope).abs()
        smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
        assert (error <= rounding * grad.cpu().double().abs() + smallest).all()


@by_unit
def test_a_learned_sigma_gives_what_the_fixed_one_does(unit):
    """Compare also for a sigma that is no fp32 number, and so is passed as two."""
    x = magnitudes()
    learned = torch.tensor(1.253, dtype=torch.float64, device=DEVICE)
    assert torch.equal(value_of(unit, x, learned), value_of(unit, x, 1.253))
    grad_x, _ = gradients_of(unit, torch.ones_like(x), x, learned)
    torch.testing.assert_close(grad_x, gradient(unit, x, 1.253), rtol=1e-6, atol=1e-37)


@by_unit
@by_dtype
@pytest.mark.parametrize("rho", [0.0, -0.3, 2.0])
def test_a_product_gives_what_its_value_does(unit, dtype, rho):
    """Take sigma e^rho: exactly sigma at first, and in fp64 too, and with one dimension."""
    x, grad = torch.randn(3000).mul_(3), torch.randn(3000)
    x, grad = x.to(DEVICE, dtype), grad.to(DEVICE, dtype)
    for kind in (torch.float32, torch.float64):
        sigma = torch.tensor(0.7, dtype=kind, device=DEVICE)
        exponent = torch.tensor([rho], dtype=kind, device=DEVICE)
        product = sigma.float() * exponent.float().exp().reshape(())
        close = {"rtol": 1e-6 if dtype == torch.float32 else torch.finfo(dtype).eps, "atol": 1e-6}
        y, want = value_of(unit, x, sigma, exponent), value_of(unit, x, product)
        torch.testing.assert_close(y, want, **close)
        assert rho or torch.equal(y, want)
        grad_x, grad_rho = gradients_of(unit, grad, x, sigma, exponent)
        want_x, want_sigma = gradients_of(unit, grad, x, product)
        torch.testing.assert_close(grad_x, want_x, **close)
        assert (grad_rho.dtype, grad_rho.shape) == (kind, (1,))
        torch.testing.assert_close(grad_rho[0].float(), want_sigma * product, rtol=1e-5, atol=1e-6)


@by_unit
@by_dtype
def test_twice_the_same_bits(unit, dtype):
    x = torch.randn(10_007).mul_(3).to(DEVICE, dtype)
    grad = torch.randn(10_007).to(DEVICE, dtype)
    sigma = torch.tensor(0.7, device=DEVICE)
    first, second = (
        (value_of(unit, x, sigma), *gradients_of(unit, grad, x, sigma)) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@by_dtype
def test_16_bit_tensors_take_the_fast_forms(dtype, monkeypatch):
    """Check the options: the slow forms would pass every other test."""
    launched = []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *tensors, **options: launched.append(options)

    monkeypatch.setattr(K, "_value_kernel", Kernel())
    x = torch.zeros(3, dtype=dtype, device=DEVICE)
    K.launch(0, 0, [x, x], 1.0, None, 1)
    assert [options["SHORT"] for options in launched] == [dtype != torch.float32]


@by_unit
@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a CUDA device")
def test_nothing_waits_and_a_graph_captures_it(unit):
    x = torch.randn(100_003, device="cuda")
    grad = torch.randn_like(x)
    sigma = torch.tensor(0.7, device="cuda")

    def run():
        return value_of(unit, x, sigma), *gradients_of(unit, grad, x, sigma)

    run()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    sigma.fill_(1.3)
    x.neg_()
    graph.replay()
    for got, want in zip(captured, run(), strict=True):
        assert torch.equal(got, want)


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a CUDA device")
def test_more_elements_than_32_bits_count():
    n = 2**31 + 4099
    if torch.cuda.mem_get_info()[0] < 8 * n:
        pytest.skip("needs 16 GiB of GPU memory")
    x = torch.zeros(n, dtype=torch.bfloat16, device="cuda")
    x[-1], x[2**31 - 1], x[2**31] = -1, -2, -3
    y = value_of("zilu", x, 1.0)
    want = value_of("zilu", torch.tensor([-1, -2, -3], dtype=x.dtype, device="cuda"), 1.0)
    assert torch.equal(y[[n - 1, 2**31 - 1, 2**31]], want)
    assert y.count_nonzero() == 3
    del y
    sigma = torch.tensor(1.0, device="cuda")
    grad_x, grad_sigma = gradients_of(
        "zilu", torch.ones((), device="cuda").to(x).expand(n), x, sigma
    )
    assert grad_x[-1].item() == gradients_of("zilu", x[:1] + 1, x[-1:], 1.0).item()
    assert grad_sigma.item() == pytest.approx((1 / 2 + 4 / 5 + 9 / 10) / math.pi, rel=1e-5)
