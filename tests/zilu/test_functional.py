"""Test the functions against many-digit arithmetic, torch's own functions, and autograd."""

import math
import re

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special
from torch.autograd import forward_ad

from zilu import functional as F
from zilu import kernels

SIGMAS = (1e-3, 0.5, 1.0, 1.253, 1e3)
GATED = (F.zilu, F.zilu_approx, F.gelu_s, F.silu_s)
ALL = (*GATED, F.arctan, F.arctan_approx)
LEFT_LIMIT = {
    F.zilu: lambda sigma: -1 / (math.pi * sigma),
    F.zilu_approx: lambda sigma: -1 / (2 * sigma),
    F.gelu_s: lambda sigma: 0.0,
    F.silu_s: lambda sigma: 0.0,
}

by_function = pytest.mark.parametrize("function", ALL, ids=lambda f: f.__name__)
by_gated = pytest.mark.parametrize("function", GATED, ids=lambda f: f.__name__)


@pytest.fixture(params=["plain", "fused"], autouse=True)
def backend(request, monkeypatch):
    """Run each test with plain operations, and with the fused operators where there are any."""
    if request.param == "fused" and kernels.backend("cpu") != "fused":
        pytest.skip("no fused kernels on this machine")
    monkeypatch.setattr(kernels, "MODE", request.param)
    return request.param


def exact(function, x: float, sigma: float) -> mpmath.mpf:
    """Compute the textbook formula in 60 digits."""
    z = mpmath.mpf(sigma) * mpmath.mpf(x)
    gate = {
        "arctan": lambda: mpmath.mpf(1) / 2 + mpmath.atan(z) / mpmath.pi,
        "arctan_approx": lambda: (mpmath.mpf(1) / 2 + max(z, 0)) / (1 + abs(z)),
        "gelu_s": lambda: mpmath.erfc(-z / mpmath.sqrt(2)) / 2,
        "silu_s": lambda: 1 / (1 + mpmath.exp(-z)),
    }
    name = {"zilu": "arctan", "zilu_approx": "arctan_approx"}.get(function.__name__)
    if name is None:
        name = function.__name__
    return gate[name]() * (mpmath.mpf(x) if function in GATED else 1)


def exact_slope(function, x: float, sigma: float) -> mpmath.mpf:
    z = mpmath.mpf(sigma) * mpmath.mpf(x)
    if function is F.zilu:
        return mpmath.mpf(1) / 2 + mpmath.atan(z) / mpmath.pi + z / (mpmath.pi * (1 + z * z))
    d = 1 / (1 + abs(z))
    return d * d / 2 if z < 0 else 1 - d * d / 2


def ulps(got: float, want: mpmath.mpf, dtype: torch.dtype) -> float:
    """Return the error in units of the last place of `dtype` at `want`; subnormals may be 0."""
    info = torch.finfo(dtype)
    if abs(want) < info.tiny:
        return 0 if abs(got) <= info.tiny else math.inf
    spacing = info.eps * mpmath.mpf(2) ** mpmath.floor(mpmath.log(abs(want), 2))
    return float(abs(mpmath.mpf(got) - want) / spacing)


def slope_of(function, x, sigma):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x, sigma).sum(), x)[0]


def magnitudes(dtype, count=160):
    """Return numbers of both signs and all magnitudes, dense around 1."""
    positive = torch.cat(
        [torch.logspace(-30, 37, count, dtype=torch.float64), torch.linspace(0.01, 12, count)]
    ).to(dtype)
    return torch.cat([-positive, positive])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("function", [F.zilu, F.zilu_approx, F.arctan, F.arctan_approx])
def test_values_hold_four_ulp_over_all_magnitudes(function, sigma, dtype):
    x = magnitudes(dtype)
    with mpmath.workdps(60):
        errors = [
            ulps(got, exact(function, at, sigma), dtype)
            for at, got in zip(x.tolist(), function(x, sigma).tolist(), strict=True)
        ]
    assert max(errors) <= 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("function", [F.zilu, F.zilu_approx])
def test_slopes_hold_eight_ulp_over_all_magnitudes(function, sigma, dtype, backend):
    """Allow ten ulp in plain operations, whose arctan is torch's."""
    limit = 8 if backend == "fused" and dtype == torch.float32 else 10
    x = magnitudes(dtype)
    with mpmath.workdps(160):
        errors = [
            ulps(got, exact_slope(function, at, sigma), dtype)
            for at, got in zip(x.tolist(), slope_of(function, x, sigma).tolist(), strict=True)
        ]
    assert max(errors) <= limit


@by_function
@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.253])
def test_values_equal_the_textbook_formula(function, sigma):
    x = torch.linspace(-8, 8, 321, dtype=torch.float64)
    want = [float(exact(function, at, sigma)) for at in x.tolist()]
    torch.testing.assert_close(function(x, sigma), torch.tensor(want, dtype=torch.float64))


@by_function
def test_first_and_second_derivatives(function):
    x = torch.tensor([-30.0, -3.0, -1.1, -0.9, -0.2, 0.3, 0.8, 1.5, 40.0], dtype=torch.float64)
    sigma = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, (x.requires_grad_(), sigma))
    assert torch.autograd.gradgradcheck(function, (x, sigma))


@by_function
@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_finite_for_every_finite_input(function, sigma, dtype):
    largest = torch.finfo(dtype).max
    tiny = torch.finfo(dtype).tiny
    x = torch.tensor([-largest, -1e3, -1.0, -tiny, 0.0, tiny, 1.0, 1e3, largest], dtype=dtype)
    x.requires_grad_()
    learned = torch.tensor(sigma, requires_grad=True)
    y = function(x, learned)
    y.backward(torch.ones_like(y))
    assert y.dtype == x.grad.dtype == dtype
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
    assert learned.grad.isfinite()
    torch.testing.assert_close(y.detach(), function(x.detach(), sigma))


def test_half_precision_is_fp32_rounded_once(backend):
    """Compare every finite fp16 and bf16 number with the rounded fp32 result.

    Plain operations must give the same number. The operators have shorter polynomials for 16 bits,
    and may in few cases give its neighbour.
    """
    bits = torch.arange(-(2**15), 2**15).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        x = bits.view(dtype)
        x = x[x.isfinite()]
        for function in ALL:
            is_exact = backend == "plain" or function not in GATED
            share, ulp, atol = (0, 0, 0) if is_exact else (0.02, 1, 1e-4)
            for call in (function, lambda x, sigma, f=function: slope_of(f, x, sigma)):
                got, want = call(x, 0.7), call(x.float(), 0.7).to(dtype)
                assert (got != want).double().mean() <= share
                rtol = 1.01 * ulp * torch.finfo(dtype).eps
                torch.testing.assert_close(got, want, rtol=rtol, atol=atol)


@by_gated
@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_infinities_give_the_limits_and_nan_stays(function, sigma):
    x = torch.tensor([-math.inf, math.inf, math.nan], requires_grad=True)
    learned = torch.tensor(sigma, requires_grad=True)
    y = function(x, learned)
    y[:2].sum().backward()
    assert y[0].item() == pytest.approx(LEFT_LIMIT[function](sigma), rel=1e-6)
    assert y[1].item() == math.inf
    assert y[2].isnan()
    assert x.grad[:2].tolist() == pytest.approx([0, 1], abs=1e-30)
    assert slope_of(function, x.detach(), sigma)[2].isnan()


@given(st.floats(-1e4, 1e4), st.floats(0, 10), st.floats(1e-2, 1e2))
def test_zilu_is_monotone_and_convex(start, step, sigma):
    x = torch.tensor([start, start + step / 2, start + step], dtype=torch.float64)
    for function in (F.zilu, F.zilu_approx):
        left, middle, right = function(x, sigma).tolist()
        slack = 1e-12 * max(1, abs(start))
        assert left <= middle + slack <= right + 2 * slack
        assert middle <= (left + right) / 2 + slack
        slopes = slope_of(function, x, sigma)
        assert (slopes > 0).all()
        assert (slopes <= 1).all()


@given(st.floats(-1e3, 1e3), st.floats(1e-2, 1e2))
def test_sigma_is_a_reparametrisation(x, sigma):
    x = torch.tensor(x, dtype=torch.float64)
    for function in GATED:
        torch.testing.assert_close(
            function(x, sigma), function(sigma * x) / sigma, rtol=1e-9, atol=1e-12
        )


def test_limits_in_sigma():
    x = torch.linspace(-5, 5, 101, dtype=torch.float64)
    for function in GATED:
        torch.testing.assert_close(function(x, 1e9), torch.relu(x), rtol=0, atol=1e-8)
        torch.testing.assert_close(function(x, 1e-9), x / 2, rtol=0, atol=1e-7)


def test_sigma_one_is_torchs_gelu_and_silu():
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    torch.testing.assert_close(F.gelu_s(x), torch.nn.functional.gelu(x))
    torch.testing.assert_close(F.silu_s(x), torch.nn.functional.silu(x))


def test_distance_between_exact_and_approximate():
    near = torch.linspace(-100, 100, 400_001, dtype=torch.float64)
    far = torch.logspace(2, 5, 1000, dtype=torch.float64)
    x = torch.cat([-far, near, far])
    assert (F.arctan(x) - F.arctan_approx(x)).abs().max().item() == pytest.approx(0.0226, abs=5e-5)
    for sigma in (0.5, 1.0, 2.0):
        difference = (F.zilu(x, sigma) - F.zilu_approx(x, sigma)).abs().max().item()
        bound = (0.5 - 1 / math.pi) / sigma
        assert 0.999 * bound < difference <= bound + 1e-10


def test_slopes_at_zero_match_where_the_design_says():
    zero = torch.zeros(1, dtype=torch.float64)

    def gate_slope(gate, sigma):
        return slope_of(gate, zero, sigma).item()

    gelu = 1 / math.sqrt(2 * math.pi)
    assert gate_slope(F.arctan, 1.253) == pytest.approx(gelu, rel=1e-3)
    assert gate_slope(F.arctan_approx, 0.798) == pytest.approx(gelu, rel=1e-3)
    assert gate_slope(F.arctan, 0.785) == pytest.approx(1 / 4, rel=1e-3)
    assert gate_slope(F.arctan_approx, 0.5) == pytest.approx(1 / 4, rel=1e-3)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("x", [-3.0, -0.5, 0.7, 4.0])
def test_the_gate_is_the_mean_of_gelu_gates(x, sigma):
    """Check g(sigma x) = E Phi(a x) over a = |N(0, sigma^2)|, by numerical integration."""

    def integrand(a):
        density = math.sqrt(2 / math.pi) / sigma * math.exp(-0.5 * (a / sigma) ** 2)
        return special.ndtr(a * x) * density

    mean, _ = integrate.quad(integrand, 0, 40 * sigma)
    assert F.arctan(torch.tensor(x, dtype=torch.float64), sigma).item() == pytest.approx(
        mean, abs=1e-7
    )


@by_function
@pytest.mark.parametrize(
    "compiled",
    [
        pytest.param(False, id="eager"),
        pytest.param(True, marks=pytest.mark.slow, id="compiled"),
    ],
)
@pytest.mark.parametrize("learnable", [False, True], ids=["fixed", "learnable"])
def test_backward_saves_the_input_alone(function, compiled, learnable):
    torch._dynamo.reset()
    x = torch.randn(64, 33, requires_grad=True)
    sigma = torch.tensor(0.7, requires_grad=True) if learnable else 0.7
    # This backend decides what to save as Inductor does.
    backend = "aot_eager_decomp_partition"
    run = torch.compile(function, backend=backend, fullgraph=True) if compiled else function
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        run(x, sigma)
    assert [t.data_ptr() for t in saved if t.numel() > 1] == [x.data_ptr()]


@pytest.mark.slow
@by_function
def test_compiled_equals_eager(function):
    torch._dynamo.reset()
    x = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last).mul(4).requires_grad_()
    sigma = torch.tensor(0.7, requires_grad=True)
    run = torch.compile(function, fullgraph=True)
    results = []
    for call in (function, run):
        y = call(x, sigma)
        results.append((y, *torch.autograd.grad(y.square().sum(), (x, sigma))))
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager)


@by_function
def test_transforms_see_the_same_derivatives(function):
    """Compare eager's formulas with torch.func and forward mode, which differentiate operations."""
    x = torch.tensor([-1e6, -50, -2, -1, -0.3, 0, 0.3, 1, 2, 50.0], dtype=torch.float64)
    slope = slope_of(function, x, 0.7)

    def scalar(v):
        return function(v, 0.7)

    close = {"rtol": 1e-9, "atol": 0}
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(scalar))(x), slope, **close)
    _, tangent = torch.func.jvp(scalar, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, slope, **close)
    with forward_ad.dual_level():
        dual = scalar(forward_ad.make_dual(x, torch.ones_like(x)))
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, slope, **close)
    transformed = torch.func.hessian(lambda v: scalar(v).sum())(x).diag()
    eager = torch.autograd.functional.hessian(lambda v: scalar(v).sum(), x).diag()
    torch.testing.assert_close(transformed, eager, rtol=1e-7, atol=1e-15)
    by_sigma = torch.func.grad(lambda s: function(x, s).sum())(torch.tensor(0.7).double())
    sigma = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    function(x, sigma).sum().backward()
    torch.testing.assert_close(by_sigma, sigma.grad)


@by_function
@pytest.mark.parametrize("strict", [False, True])
def test_export_holds_plain_operations(function, strict):
    class Network(torch.nn.Module):
        def forward(self, x):
            return function(x, 0.7)

    x = torch.randn(3, 4)
    program = torch.export.export(Network(), (x,), strict=strict)
    torch.testing.assert_close(program.module()(x), function(x, 0.7))
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets
    assert all(target.startswith("aten.") for target in targets)


@by_function
def test_a_trace_repeats(function):
    """Trace: torch.jit.trace itself compares a trace with gradients to one without."""
    x = torch.randn(5)
    traced = torch.jit.trace(lambda v: function(v, 0.7), x)
    torch.testing.assert_close(traced(x + 1), function(x + 1, 0.7))


def test_empty_scalar_and_strided_inputs():
    for function in ALL:
        assert function(torch.empty(0, 3)).shape == (0, 3)
        assert function(torch.tensor(1.5)).shape == ()
        x = torch.randn(6, 8)
        torch.testing.assert_close(function(x.t()[::2]), function(x).t()[::2])


@by_function
@pytest.mark.parametrize(
    "sigma", [0, -1.0, math.nan, math.inf, None, [1.0], 1j, 10**400, "wide", {}], ids=type
)
def test_a_bad_sigma_is_refused(function, sigma):
    with pytest.raises(ValueError, match="sigma must be a finite number above 0"):
        function(torch.zeros(1), sigma)


@by_function
@pytest.mark.parametrize("shape", [(0,), (2,), (1, 3)])
def test_a_sigma_of_several_numbers_is_refused(function, shape):
    with pytest.raises(ValueError, match="sigma must hold one number"):
        function(torch.zeros(3), torch.ones(shape))


NO_INPUT = {
    "int64": torch.ones(3, dtype=torch.int64),
    "uint8": torch.ones(3, dtype=torch.uint8),
    "bool": torch.ones(3, dtype=torch.bool),
    "complex": torch.ones(3, dtype=torch.complex64),
    "float8": torch.ones(3).to(torch.float8_e4m3fn),
    "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "sparse": torch.ones(3).to_sparse(),
    "csr": torch.eye(3).to_sparse_csr(),
    "mkldnn": torch.ones(3).to_mkldnn(),
    "nested": torch.nested.nested_tensor([torch.ones(3), torch.ones(2)]),
    "list": [1.0, 2.0],
    "number": 2.0,
    "None": None,
}


@pytest.mark.parametrize("x", NO_INPUT.values(), ids=NO_INPUT)
@pytest.mark.parametrize("function", [*ALL, F.squareplus, F.golu], ids=lambda f: f.__name__)
def test_inputs_without_a_meaning_are_refused_in_one_line(function, x):
    with pytest.raises(
        TypeError, match=rf"^{function.__name__}\(\) takes .*not|^.*jagged"
    ) as caught:
        function(x)
    assert "\n" not in str(caught.value)
    # The remedy that the line names is one.
    remedy = re.search(r"x\.(\w+)\(\)", str(caught.value))
    if remedy:
        y = function(getattr(x, remedy[1])())
        torch.testing.assert_close(
            y, function(torch.ones(y.shape) if y.dim() == 1 else x.to_dense())
        )


@by_function
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_a_sigma_tensor_of_another_type_is_refused(function, dtype):
    with pytest.raises(TypeError, match="sigma must be a float or a floating-point tensor"):
        function(torch.ones(3), torch.ones(()).to(dtype))


@by_function
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_the_shape_of_a_sigma_is_not_that_of_the_result(function, dtype):
    for x in (torch.tensor(1.5), torch.randn(3), torch.randn(2, 3)):
        for shape in ((), (1,), (1, 1, 1)):
            sigma = torch.full(shape, 0.5, dtype=dtype, requires_grad=True)
            y = function(x, sigma)
            assert y.shape == x.shape
            assert y.dtype == x.dtype
            torch.testing.assert_close(y, function(x, 0.5))
            y.sum().backward()
            assert sigma.grad.shape == shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_golu(dtype):
    """Compare with 60 digits; the double exponential magnifies the input's last digit by e^-x."""
    x = torch.cat([torch.linspace(-8, 30, 400), torch.tensor([-1e30, -90.0, 90.0, 1e4])]).to(dtype)
    x = x[x.isfinite()].requires_grad_()
    y = F.golu(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    rounding = torch.finfo(dtype).eps / 2
    tiny = torch.finfo(dtype).smallest_normal
    for at, value, derivative in zip(x.tolist(), y.tolist(), slope.tolist(), strict=True):
        with mpmath.workdps(60):
            e = mpmath.exp(-mpmath.mpf(max(at, -300)))
            gate = mpmath.exp(-e)
            want, scale = mpmath.mpf(at) * gate, gate * (1 + abs(at) * e)
            want_slope = gate * (1 + at * e)
        relative = rounding + 4 * eps * float(1 + min(e, 100))
        assert abs(value - want) <= relative * abs(want) + tiny
        assert abs(derivative - want_slope) <= relative * scale + tiny


def test_golus_limits_and_derivatives():
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        x = torch.tensor([-math.inf, math.inf, math.nan], dtype=dtype, requires_grad=True)
        y = F.golu(x)
        (slope,) = torch.autograd.grad(y.sum(), x)
        assert (y[0], slope[0], y[1], slope[1]) == (0, 0, math.inf, 1)
        assert y[2].isnan()
        assert slope[2].isnan()
        largest = torch.finfo(dtype).max
        x = torch.tensor([-largest, largest], dtype=dtype, requires_grad=True)
        (slope,) = torch.autograd.grad(F.golu(x).sum(), x)
        assert slope.tolist() == [0, 1]
    x = torch.linspace(-4, 4, 17, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(F.golu, x)
    assert torch.autograd.gradgradcheck(F.golu, x)


def test_squareplus():
    x = torch.tensor([-1e30, -1e4, -3.0, 0.0, 2.0, 1e30], dtype=torch.float32, requires_grad=True)
    want = []
    with mpmath.workdps(160):
        for at in x.tolist():
            want.append(float((mpmath.mpf(at) + mpmath.sqrt(mpmath.mpf(at) ** 2 + 4)) / 2))
    y = F.squareplus(x)
    torch.testing.assert_close(y, torch.tensor(want), rtol=1e-6, atol=0)
    y.sum().backward()
    slopes = [(1 + at / math.sqrt(at * at + 4)) / 2 for at in (-3, 0, 2)]
    torch.testing.assert_close(x.grad[2:5], torch.tensor(slopes))
    assert torch.autograd.gradcheck(F.squareplus, x.detach()[2:5].double().requires_grad_())
