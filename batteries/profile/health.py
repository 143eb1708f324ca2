"""Look at how an activation computes: finite, exact to how many digits, with the right gradient."""

import copy
import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError
from torch.func import functional_call

from batteries.profile.found import (
    FormatHealth,
    GradientCheck,
    Interval,
    Kink,
    LargestError,
    NotFinite,
    Shape,
)
from batteries.profile.subject import Subject, seeded
from benchmarks.accuracy import errors_of_each, inputs, ulp, value_and_slope

FORMATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
MOST_INTERVALS = 3
EVERY = 8  # of the numbers that fill samples, where elements are mixed
# The reference is evaluated at neighbours so far away, as a share of x. Its second difference is
# rounding alone: that of the function is 2^-88 x² f″ / 2.
NEIGHBOUR = 2.0**-44
TRUSTED = 0.1  # ulp of the format up to which the reference itself may be wrong
LARGEST_POINT, AWAY = 4.0, 1e-3  # of the points of gradcheck, and their distance from jumps
DIFFERENCE = 1e-5  # of gradcheck: half a step
Function = Callable[[Tensor], Tensor]


def health(subject: Subject, elementwise: bool) -> tuple[FormatHealth, ...]:
    """Return how the activation computes in each of FORMATS."""
    return tuple(format_health(subject, name, elementwise) for name in FORMATS)


def every_finite(dtype: torch.dtype) -> Tensor:
    """Return all finite numbers of a type of 16 bits, in order; (n,)."""
    bits = torch.arange(-(2**15), 2**15).to(torch.int16)
    x = bits.view(dtype).float()
    return x[x.isfinite()].sort().values.to(dtype)


def format_health(subject: Subject, name: str, elementwise: bool) -> FormatHealth:
    """Return how the activation computes in one format, forward and backward."""
    dtype = FORMATS[name]
    whole = name != "fp32"
    numbers = every_finite(dtype) if whole else inputs(dtype)
    which = f"all {len(numbers):,} finite numbers" if whole else (
        f"{len(numbers):,} numbers: 100 per factor of 10 from 1e-30 to 1e38 with both signs, and "
        "every thousandth from −12 to 12"
    )  # fmt: skip
    if not elementwise:
        numbers = numbers[::EVERY]
        which = (
            f"{len(numbers):,} numbers, each in all places of a sample: every {EVERY}th of {which}"
        )
    try:
        return _computed(subject, name, which, numbers, elementwise)
    except Exception as error:  # the user's code may raise anything
        text = " ".join(str(error).split())
        failure = f"{type(error).__name__}: {text[:200]}".removesuffix(": ")
        return FormatHealth(name, len(numbers), which, failure)


def _computed(
    subject: Subject, name: str, which: str, numbers: Tensor, elementwise: bool
) -> FormatHealth:
    dtype = FORMATS[name]
    module = subject.module(dtype)
    # Its trained numbers are rounded to the format too: that is no error of the computation.
    exact = copy.deepcopy(module).double()
    if elementwise:
        ours, reference = subject.function(module), subject.function(exact)
    else:
        ours, reference = in_company(subject, module), in_company(subject, exact)
    results = value_and_slope(ours, numbers.clone())
    x = numbers.double()
    wanted = value_and_slope(reference, x.clone())
    near = [value_and_slope(reference, x * (1 + sign * NEIGHBOUR)) for sign in (-1, 1)]
    found = []
    for result, exactly, below, above in zip(results, wanted, *near, strict=True):
        if result.dtype != dtype:
            kinds = [str(kind).removeprefix("torch.") for kind in (result.dtype, dtype)]
            return FormatHealth(name, len(numbers), which, f"it gives {kinds[0]} for {kinds[1]}")
        rounding = (below - 2 * exactly + above).abs() / 2
        found.append((not_finite(result, exactly, x), largest(result, exactly, rounding, x)))
    (values, value_error), (slopes, slope_error) = found
    return FormatHealth(
        name, len(numbers), which, "", values, slopes, value_error, slope_error
    )  # fmt: skip


def in_company(subject: Subject, module: nn.Module) -> Function:
    """Return a function of numbers (n,), each of which fills a sample: the mean of what it gives.

    The slope is that with respect to all elements of the sample together.
    """

    def call(x: Tensor) -> Tensor:
        rest = subject.shape[1:]
        samples = x.view(-1, *(1 for _ in rest)).expand(-1, *rest)
        return module(samples * 1).reshape(len(x), -1).mean(1)

    return call


def not_finite(result: Tensor, exactly: Tensor, x: Tensor) -> NotFinite:
    """Count what is not finite among results (n,) at inputs x in order."""
    bad = ~result.isfinite()
    avoidable = bad & (exactly.abs() <= torch.finfo(result.dtype).max)
    places = intervals(x, bad)
    shown = tuple(places[:MOST_INTERVALS])
    return NotFinite(int(bad.sum()), int(avoidable.sum()), shown, len(places) - len(shown))


def intervals(x: Tensor, mask: Tensor) -> list[Interval]:
    """Return the stretches of x (n,), in order, where mask holds: their first x and last x."""
    padded = torch.cat([mask.new_zeros(1), mask, mask.new_zeros(1)]).int().diff()
    starts, ends = (padded == 1).nonzero().flatten(), (padded == -1).nonzero().flatten() - 1
    return [
        Interval(low, high) for low, high in zip(x[starts].tolist(), x[ends].tolist(), strict=True)
    ]


def largest(result: Tensor, exactly: Tensor, rounding: Tensor, x: Tensor) -> LargestError:
    """Return the largest errors of finite results (n,).

    Args:
        exactly: the results in float64.
        rounding: of `exactly`; where it is above a tenth of an ulp, the error in ulp is not known.
    """
    dtype = result.dtype
    in_ulp, absolute = errors_of_each(result, exactly, dtype)
    known = result.isfinite() & exactly.isfinite()
    trusted = known & (rounding <= TRUSTED * ulp(exactly, dtype))
    in_ulp, absolute = in_ulp.where(trusted, 0.0), absolute.where(known, 0.0)
    first, second = int(in_ulp.argmax()), int(absolute.argmax())
    return LargestError(
        in_ulp[first].item(), x[first].item(), absolute[second].item(), x[second].item()
    )


# --- gradcheck ---


def gradient_check(subject: Subject, of_function: Shape | None) -> GradientCheck:
    """Compare the gradient in float64 with differences of values, also by the trained numbers.

    Args:
        subject: the activation.
        of_function: its properties; None where it is no function of one number.
    """
    module = subject.module()
    breaks = of_function.breaks if of_function else ()
    x = _points(subject, breaks)
    names = [name for name, _ in module.named_parameters()]
    values = [each.detach().clone().requires_grad_() for each in module.parameters()]

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        return functional_call(module, dict(zip(names, parameters, strict=True)), (x * 1,))

    kinks: tuple[Kink, ...] = ()
    if of_function and of_function.smoothness == 0:
        kinks = tuple(_kink(subject, at) for at in breaks)
    reason = _disagreement(torch.autograd.gradcheck, function, (x, *values))
    if reason and of_function:
        reason = _wrong_slope(subject, x) or reason
    again = functools.partial(torch.autograd.gradgradcheck, fast_mode=True)
    twice = not reason and not _disagreement(again, function, (x, *values))
    return GradientCheck(not reason, reason, twice, kinks)


def _points(subject: Subject, breaks: tuple[float, ...]) -> Tensor:
    """Return points of the subject's shape, spread evenly, none of them near a jump."""
    count = math.prod(subject.shape)
    x = torch.linspace(-LARGEST_POINT, LARGEST_POINT, count, dtype=torch.float64)
    with seeded():
        x = x[torch.randperm(count)]
    for at in breaks:
        x = torch.where((x - at).abs() < AWAY, at + 2 * AWAY, x)
    return x.view(subject.shape).requires_grad_()


def _disagreement(check: Callable[..., bool], function: Function, points: tuple) -> str:
    """Return what gradcheck or gradgradcheck finds wrong, in a line; empty if nothing."""
    try:
        with seeded():
            check(function, points, eps=DIFFERENCE)
    except GradcheckError as error:
        return " ".join(str(error).partition("numerical:")[0].split()).rstrip(",")
    except Exception as error:  # of the user's code, or an operation without a second derivative
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return ""


def _wrong_slope(subject: Subject, points: Tensor) -> str:
    """Return where backward's slope of a function of one number differs most from differences."""
    x = points.detach().flatten()
    f, slopes = subject.exact(), subject.slopes()(x)
    measured = (f(x + DIFFERENCE) - f(x - DIFFERENCE)) / (2 * DIFFERENCE)
    wrong = (slopes - measured).abs() - 1e-3 * measured.abs()
    worst = int(wrong.argmax())
    if not wrong[worst] > 1e-5:
        return ""
    return (
        f"at x = {x[worst]:.4g} backward's slope is {slopes[worst]:.6g}, and that of differences "
        f"{measured[worst]:.6g}"
    )


def _kink(subject: Subject, at: float) -> Kink:
    f = subject.exact()
    steps = torch.tensor([-2, -1, 1, 2], dtype=torch.float64)
    values = f(at + steps * DIFFERENCE)
    left, right = (values[1] - values[0]).item(), (values[3] - values[2]).item()
    taken = subject.slopes()(torch.tensor([at], dtype=torch.float64)).item()
    return Kink(at, left / DIFFERENCE, right / DIFFERENCE, taken)
