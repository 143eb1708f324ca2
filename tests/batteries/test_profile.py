"""Test what is found of activations against closed forms, scipy, numpy and made mistakes."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.special
import scipy.stats
import torch

from batteries.profile import __main__ as command
from batteries.profile import found as data
from batteries.profile.health import every_finite, format_health, gradient_check
from batteries.profile.mixing import mixing
from batteries.profile.moments import drawn_moments, moments
from batteries.profile.profile import profile_of
from batteries.profile.shape import shape
from batteries.profile.subject import Subject
from batteries.profile.text import properties
from benchmarks.arms import Arm

OWN = """
import torch
from torch import nn


def overflowing(x):
    return x * x * x / (1 + x * x)


def snake(x):
    return x + torch.sin(x) ** 2


def sine(x):
    return torch.sin(x)


def logarithm(x):
    return torch.log1p(torch.relu(x))


def root(x):
    return torch.sqrt(1 + torch.relu(x)) - 1


def exponential(x):
    return torch.exp(x)


def swinging(x):
    return x * torch.sin(x)


def stairs(x):
    return torch.floor(x) + 0 * x


def narrow_dip(x):
    return x - 0.5 * torch.exp(-((x - 2) / 0.05) ** 2)


def negative(x):
    return -nn.functional.softplus(x)


def half_only(x):
    return (x.float() * torch.sigmoid(x.float())).float()


class WrongSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.tanh(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (1 - torch.tanh(x)) ** 2


def wrong_slope(x):
    return WrongSlope.apply(x)


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x, scale)
        return scale * x

    @staticmethod
    def backward(ctx, gradient):
        x, scale = ctx.saved_tensors
        return gradient * scale, 2 * (gradient * x).sum().view(1)


class WrongScale(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return Scaled.apply(x, self.scale)


class OutsideKink(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.abs()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * torch.where(x == 0, 7.0, x.sign())


def outside(x):
    return OutsideKink.apply(x)


def clipped(x):
    return x.clamp(-1, 1)


def by_batch(x):
    return x * torch.sigmoid(x.mean(0, keepdim=True))


class Places(nn.Module):
    def __init__(self):
        super().__init__()
        self.slopes = nn.Parameter(torch.linspace(0, 1, 8))

    def forward(self, x):
        return x * self.slopes.view(-1, *(1 for _ in x.shape[2:]))
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "own.py"
    path.write_text(OWN)
    return lambda name: Subject.of(Arm.of(f"{path}:{name}", 1.0))


def subject(name, sigma=1.0, **options):
    return Subject.of(Arm(name, Arm.of(name, sigma).sigma, **options))


def close(x, digits=6):
    return pytest.approx(x, abs=10.0**-digits, rel=10.0**-digits)


# --- moments ---


def gelu(x):
    return x * scipy.stats.norm.cdf(x)


def zilu(x, sigma):
    return x * (0.5 + np.arctan(sigma * x) / math.pi)


def expected(function):
    """Return E[h(z)] by scipy's quadrature."""
    weighted = lambda z: function(z) * scipy.stats.norm.pdf(z)  # noqa: E731
    parts = [(-np.inf, 0), (0, np.inf)]
    return sum(scipy.integrate.quad(weighted, *part, epsabs=1e-12)[0] for part in parts)


def test_moments_of_relu_are_those_of_closed_form():
    found = moments(subject("ReLU"))
    assert found.mean == close(1 / math.sqrt(2 * math.pi))
    assert (found.second, found.slope_second) == (close(0.5), close(0.5))
    assert found.gain == close(math.sqrt(2))
    assert found.backward_factor == close(1)


@pytest.mark.parametrize(
    ("name", "sigma", "function"),
    [
        ("GELU", 1.0, gelu),
        ("ZiLU", 1.253, lambda x: zilu(x, 1.253)),
        ("Tanh", 1.0, np.tanh),
        ("ELU", 1.0, lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0)))),
    ],
)
def test_moments_are_those_of_quadrature(name, sigma, function):
    found = moments(subject(name, sigma))

    def slope(z):
        return (function(z + 1e-5) - function(z - 1e-5)) / 2e-5

    assert found.mean == close(expected(function))
    assert found.second == close(expected(lambda z: function(z) ** 2))
    assert found.slope_second == close(expected(lambda z: slope(z) ** 2))


# --- properties ---


@pytest.fixture(scope="module")
def shapes():
    known = {}

    def found(name, sigma=1.0, **options):
        key = name, sigma, *options.items()
        if key not in known:
            known[key] = shape(subject(name, sigma, **options))
        return known[key]

    return found


def test_gelu(shapes):
    found = shapes("GELU")
    assert found.lowest.value == close(-0.169971, 6)
    assert found.lowest.at == close(-0.751792, 5)
    (falls,) = found.falls.nearest
    assert falls.high == close(-0.751792, 5)
    assert -9 < falls.low < -6  # where it falls by less than rounding
    assert found.largest_fall == close(0.169971, 5)
    # f'' = φ(x)(2 − x²), and the largest slope at √2.
    largest = gelu(math.sqrt(2)) / math.sqrt(2) + math.sqrt(2) * scipy.stats.norm.pdf(math.sqrt(2))
    assert found.slope_highest.value == close(largest)
    assert found.slope_highest.at == close(math.sqrt(2), 5)
    assert found.slope_lowest.value == close(1 - largest)
    inflections = [abs(e) for each in found.bends_down.nearest for e in (each.low, each.high)]
    assert sorted(inflections)[:2] == [close(math.sqrt(2), 2)] * 2
    assert (found.highest.value, found.highest.side) == (None, "right")
    assert found.smoothness == 2


def test_silu_has_its_minimum_where_scipy_finds_it(shapes):
    found = shapes("SiLU")
    there = scipy.optimize.minimize_scalar(
        lambda x: x * scipy.special.expit(x), bounds=(-3, 0), method="bounded",
        options={"xatol": 1e-10},
    )  # fmt: skip
    assert found.lowest.value == close(there.fun, 9)
    assert found.lowest.at == close(there.x, 5)
    assert there.fun == close(-0.278465)


@pytest.mark.parametrize(
    ("name", "rises", "falls", "convex", "lowest", "highest", "smoothness"),
    [
        ("ReLU", True, False, True, (0.0, "left"), None, 0),
        ("ReLU2", True, False, True, (0.0, "left"), None, 1),
        ("ELU", True, False, True, (-1.0, "left"), None, 1),
        ("Tanh", True, False, False, (-1.0, "left"), (1.0, "right"), 2),
        ("Softplus", True, False, True, (0.0, "left"), None, 2),
        ("ZiLU", True, False, True, (-1 / math.pi, "left"), None, 2),
        ("ZiLU_Approx", True, False, True, (-0.5, "left"), None, 2),
        ("SquarePlus", True, False, True, (0.0, "left"), None, 2),
        ("Hardtanh", True, False, False, (-1.0, "left"), (1.0, "right"), 0),
        ("Hardswish", True, True, False, (-0.375, ""), None, 0),
        ("Hardshrink", True, False, False, None, None, -1),
        ("PReLU", True, False, True, None, None, 0),
        ("Identity", True, False, True, None, None, 2),
        ("LogSigmoid", True, False, False, None, (0.0, "right"), 2),
    ],
)
def test_properties_are_those_of_closed_form(
    shapes, name, rises, falls, convex, lowest, highest, smoothness
):
    found = shapes(name)
    assert bool(found.rises.nearest) == rises
    assert bool(found.falls.nearest) == falls
    assert (not found.bends_down.nearest) == convex
    for extreme, known in ((found.lowest, lowest), (found.highest, highest)):
        if known is None:
            assert extreme.value is None
        else:
            assert extreme.value == close(known[0])
            assert extreme.side == known[1]
    assert found.smoothness == smoothness


def test_kinks_and_jumps_are_found_where_they_are(shapes, own):
    assert shapes("ReLU").breaks == (0.0,)
    assert shapes("Hardtanh").breaks == (-1.0, 1.0)
    assert shapes("Hardshrink").breaks == (-0.5, 0.5)
    assert shapes("ELU").breaks == (0.0,)
    stairs = shape(own("stairs"))
    assert stairs.smoothness == -1
    assert stairs.breaks == tuple(map(float, range(-11, 13)))


@pytest.mark.parametrize("sigma", [0.5, 1.253, 50])
def test_slopes_and_tails_of_zilu(shapes, sigma):
    found = shapes("ZiLU", sigma)
    assert found.lowest.value == close(-1 / (math.pi * sigma), 8)
    assert (found.slope_lowest.value, found.slope_highest.value) == (close(0), close(1))
    for tail, line in ((found.left, 0.0), (found.right, 1.0)):
        assert tail.kind == data.LINE
        assert tail.slope == close(line, 9)
        assert tail.offset == close(-1 / (math.pi * sigma), 7)
        assert tail.order == 2
        assert tail.coefficient == pytest.approx(1 / (3 * math.pi * sigma**3), rel=1e-2)


def test_tails_of_other_kinds(shapes, own):
    slow = shapes("SiLU_s", 0.1).left  # e^(−0.1 |x|) is no power
    assert (slow.kind, slow.offset, slow.order) == (data.LINE, 0, None)
    approx = shapes("ZiLU_Approx").left
    assert (approx.order, approx.coefficient) == (1, pytest.approx(0.5, rel=1e-2))
    softsign = shapes("Softsign").right
    assert (softsign.offset, softsign.order) == (close(1), 1)
    assert softsign.coefficient == pytest.approx(-1, rel=1e-2)
    gelu_left = shapes("GELU").left
    assert gelu_left.order is None
    # x Φ(x) is below 1e-12 of x from there on.
    there = scipy.optimize.brentq(lambda x: scipy.stats.norm.cdf(x) - 1e-12, -9, -5)
    assert gelu_left.reached == pytest.approx(there, rel=0.02)
    assert shapes("PReLU").left.slope == close(0.25, 9)
    assert (shapes("ReLU2").right.kind, shapes("ReLU2").right.power) == (data.POWER, 2)
    assert shapes("ReLU2").slope_highest.value is None
    snake = shape(own("snake")).right
    assert (snake.kind, snake.slope) == (data.BETWEEN, close(1))
    assert (snake.low, snake.high) == (pytest.approx(0, abs=0.02), pytest.approx(1, abs=0.02))
    sine = shape(own("sine"))
    assert (sine.right.kind, sine.falls.more > 0) == (data.BETWEEN, True)
    assert (sine.lowest.value, sine.highest.value) == (close(-1, 3), close(1, 3))
    assert shape(own("logarithm")).right.kind == data.SLOW
    root = shape(own("root")).right
    assert (root.kind, root.power) == (data.POWER, pytest.approx(0.5, abs=0.01))
    exponential = shape(own("exponential"))
    assert exponential.right.kind == data.OVERFLOW
    assert 700 < exponential.right.reached < 740
    assert (exponential.lowest.value, exponential.highest.value) == (close(0), None)
    swinging = shape(own("swinging"))
    assert swinging.right.kind == data.SWINGS
    assert (swinging.lowest.value, swinging.highest.value) == (None, None)


def test_a_dip_between_two_rises_is_found(own):
    found = shape(own("narrow_dip"))
    (falls,) = found.falls.nearest
    slope = lambda x: 1 + (x - 2) / 0.05**2 * math.exp(-(((x - 2) / 0.05) ** 2))  # noqa: E731
    ends = [scipy.optimize.brentq(slope, *part) for part in ((1.85, 1.95), (1.97, 2.0))]
    assert (falls.low, falls.high) == (close(ends[0], 4), close(ends[1], 4))
    text = " ".join(properties(found))
    assert "no, it falls from 1.9046 to 1.9975" in text


def test_what_falls_everywhere_is_monotone_too(own):
    found = shape(own("negative"))
    assert not found.rises.nearest
    assert not found.bends_up.nearest
    text = " ".join(properties(found))
    assert "yes, it never rises" in text
    assert "it is concave" in text


# --- numerical health ---


def test_every_finite_number_is_there_once_in_order():
    for dtype, count in ((np.float16, 63_488), ("bfloat16", 65_280)):
        x = every_finite(torch.float16 if dtype is np.float16 else torch.bfloat16)
        assert len(x) == count
        numbers = x.double().numpy()
        assert (np.diff(numbers) >= 0).all()
        assert len(np.unique(numbers)) == count - 1  # 0 and -0
    all_bits = np.arange(2**16, dtype=np.uint16).view(np.float16)
    ours = every_finite(torch.float16).numpy()
    assert np.array_equal(np.sort(all_bits[np.isfinite(all_bits)]), np.sort(ours))


def test_an_overflow_is_caught_with_its_inputs(own):
    found = format_health(own("overflowing"), "fp16", True)
    numbers = every_finite_of_numpy()
    with np.errstate(all="ignore"):
        broken = ~np.isfinite(numbers * numbers * numbers / (1 + numbers * numbers))
    assert found.values.count == found.values.avoidable == broken.sum() > 0
    (left, right) = found.values.inputs
    smallest = float(np.abs(numbers[broken]).min())
    assert (right.low, left.high) == (smallest, -smallest)
    assert smallest**3 > 65504 > (smallest * 0.999) ** 3
    assert right.high == 65504
    assert found.slopes.count > 0
    assert format_health(own("overflowing"), "fp32", True).values.count > 0


def every_finite_of_numpy():
    numbers = np.arange(2**16, dtype=np.uint16).view(np.float16)
    return np.sort(numbers[np.isfinite(numbers)])


def test_an_overflow_of_the_function_itself_is_told_from_a_fault():
    found = format_health(subject("ReLU2"), "fp16", True)
    exact = every_finite_of_numpy().astype(float).clip(min=0) ** 2
    assert found.values.count == (exact > 65520).sum()  # which rounds to infinity
    assert found.values.avoidable == 0
    assert found.slopes.count == (every_finite_of_numpy().astype(float) * 2 > 65520).sum()


def test_the_libraries_own_are_finite_and_exact_to_rounding():
    for name in ("ZiLU", "ZiLU_Approx"):
        for kind in ("fp16", "bf16"):
            found = format_health(subject(name, 1.253), kind, True)
            assert (found.values.count, found.slopes.count) == (0, 0)
            assert found.value_error.ulp < 0.6
            assert found.slope_error.ulp < 0.6


def test_errors_of_gelu_in_fp32_are_those_of_its_cancellation():
    """torch's GELU forms 1 + erf, which loses the digits of what is left for x ≪ 0."""
    found = format_health(subject("GELU"), "fp32", True)
    assert found.value_error.ulp > 1e4
    assert found.value_error.ulp_at < -3
    assert found.value_error.absolute < 1e-6
    exact = format_health(subject("GELU_s"), "fp32", True)
    assert exact.value_error.ulp < 30


def test_an_activation_that_leaves_the_format_says_so(own):
    found = format_health(own("half_only"), "fp16", True)
    assert found.failure == "it gives float32 for float16"


def test_gradcheck(shapes, own):
    relu = gradient_check(subject("ReLU"), shapes("ReLU"))
    assert relu.passed
    (kink,) = relu.kinks
    assert (kink.at, kink.left, kink.right, kink.taken) == (0, close(0), close(1), 0)
    assert kink.is_between
    assert gradient_check(subject("ZiLU", 2.0, learned=True), shapes("ZiLU", 2.0)).passed
    assert gradient_check(subject("ZiLU", expanded=True), shapes("ZiLU")).passed
    found = gradient_check(own("clipped"), shape(own("clipped"))).kinks
    slopes = [(each.at, each.left, each.right) for each in found]
    assert slopes == [pytest.approx((-1, 0, 1), abs=1e-6), pytest.approx((1, 1, 0), abs=1e-6)]
    outside = gradient_check(own("outside"), shape(own("outside")))
    assert [each.is_between for each in outside.kinks] == [False]


def test_a_wrong_slope_fails_gradcheck_with_its_place(own):
    found = gradient_check(own("wrong_slope"), shape(own("wrong_slope")))
    assert not found.passed
    at = float(found.reason.split("x = ")[1].split()[0])
    ours = float(found.reason.split("slope is ")[1].split(",")[0])
    measured = float(found.reason.split("differences ")[1])
    assert ours == pytest.approx((1 - math.tanh(at)) ** 2, rel=1e-2)
    assert measured == pytest.approx(1 - math.tanh(at) ** 2, rel=1e-2)


def test_a_wrong_gradient_of_a_trained_number_fails(own):
    found = gradient_check(own("WrongScale"), shape(own("WrongScale")))
    assert not found.passed
    assert "input 1" in found.reason


# --- what is not elementwise ---


def test_elements_that_are_mixed(own):
    softmax = Subject.of(Arm.of("torch.nn:Softmax", 1.0, '{"dim": 1}'))
    found = mixing(softmax)
    assert (found.other_samples, found.other_channels, found.other_places) == (False, True, False)
    batch = mixing(own("by_batch"))
    assert (batch.other_samples, batch.other_channels, batch.other_places) == (True, False, False)
    assert mixing(own("Places")).by_place
    for each in (subject("PReLU"), subject("ZiLU", learned=True), own("snake")):
        assert mixing(each).is_elementwise
        assert not mixing(each).is_random
    assert mixing(Subject.of(Arm.of("torch.nn:RReLU", 1.0))).is_random


def test_the_profile_of_what_is_not_elementwise():
    found = profile_of(Arm.of("torch.nn:Softmax", 1.0, '{"dim": 1}'))
    assert found.shape is None
    assert found.gradient.passed
    assert [each.values.count for each in found.health] == [0, 0, 0]
    # Of 8 normal channels: E[p²] = E[e^{2z} / (Σ e^z)²], drawn once more.
    z = np.exp(np.random.default_rng(0).normal(size=(200_000, 8)))
    second = ((z / z.sum(1, keepdims=True)) ** 2).mean()
    assert found.moments.second == pytest.approx(second, rel=0.02)
    assert abs(found.moments.second - second) < 6 * found.moments.second_error
    assert found.moments.mean == close(1 / 8)


def test_the_profile_of_what_computes_in_float32_alone(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("import torch\n\ndef half(x):\n    return torch.tanh(x.float()).to(x.dtype)\n")
    found = profile_of(Arm.of(f"{path}:half", 1.0))
    assert found.mixing.is_single
    assert found.shape is None
    assert [each.values.count for each in found.health] == [0, 0, 0]
    assert not profile_of(Arm("ReLU")).mixing.is_single


def test_drawn_moments_agree_with_the_integral():
    exact, drawn = moments(subject("GELU")), drawn_moments(subject("GELU"))
    assert abs(drawn.second - exact.second) < 4 * drawn.second_error < 0.02
    assert abs(drawn.slope_second - exact.slope_second) < 4 * drawn.slope_second_error < 0.03


# --- the command ---


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profile")
    flags = ["--activation", "zilu", "--sigma", "1.253", "--output_dir", str(folder)]
    assert command.main(flags) == 0
    return folder


def test_the_command_writes_all_it_found(printed):
    text = (printed / "profile.md").read_text()
    assert text.startswith("# Profile: ZiLU (σ = 1.253)\n")
    assert "**Convex:** yes." in text
    assert "values and slopes are finite for every finite input" in text
    assert f"−{1 / (math.pi * 1.253):.5f}"[:7] in text
    for name in ("function", "tails"):
        assert (printed / "figures" / f"{name}.png").stat().st_size > 5000
    found = data.load(printed / data.FILE)
    assert found == profile_of_again(found)
    json.loads((printed / data.FILE).read_text(), parse_constant=pytest.fail)


def profile_of_again(found):
    """Return the profile once more, computed anew, apart from its time."""
    return replace(profile_of(Arm("ZiLU", 1.253)), seconds=found.seconds)


def test_it_is_quick(printed):
    assert data.load(printed / data.FILE).seconds < 15


def test_mistakes(mistake_in, tmp_path):
    assert "known:" in mistake_in(command, "--activation", "ZiLUU")
    assert "no sigma" in mistake_in(command, "--activation", "ReLU", "--learn_sigma")
    assert "no file" in mistake_in(command, "--activation", tmp_path / "none.py:F")
    own_file = tmp_path / "single.py"
    own_file.write_text(
        "import torch\n\ndef single(x):\n"
        "    return torch.nn.functional.prelu(x, torch.ones(1, dtype=torch.float32))\n"
    )
    assert "float64" in mistake_in(command, "--activation", f"{own_file}:single")
