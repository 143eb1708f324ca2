"""Check the kernels' numbers against float64, and that they can be captured and take any size."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.accuracy import inputs, largest_errors
from benchmarks.activations import torch_dtype
from benchmarks.arms import Arm
from benchmarks.gpu_check.found import Finding, Found
from benchmarks.names import DTYPES
from zilu import functional as F
from zilu import kernels, reference
from zilu.names import FUSED_NAMES, OUTPUT_NAMES

ARMS = (
    *(Arm(name) for name in FUSED_NAMES),
    *(Arm(name, save="output") for name in FUSED_NAMES if name in OUTPUT_NAMES),
)
SIGMAS = (0.5, 1.0, 1.253)
# Largest errors of value and slope in ulp, of the units whose tails are powers of x; exponential
# tails magnify the rounding of the input, and have a limit of their absolute error alone.
ULP = {"fp32": (4.0, 8.0), "bf16": (0.55, 0.55), "fp16": (0.55, 0.55)}
COMPILED_ULP = {"fp32": (8.0, 16.0), "bf16": (0.55, 0.55), "fp16": (0.55, 0.55)}
POWER_TAILS = ("ZiLU", "ZiLU_Approx")
SIGMA_ERROR = 1e-5  # of its gradient, relative to the sum of the terms' magnitudes
# What docs/activations.md promises of slopes from the output: the largest error in fp32, and the
# constant in which they may end far left in 16 bits.
FROM_OUTPUT_ERROR = {"ZiLU": 1e-6, "ZiLU_Approx": 3e-7}
FROM_OUTPUT_END = 3e-4

Unit = Callable[..., Tensor]


def numbers(device: torch.device) -> Found:
    """Compare every unit's kernels with float64, in every dtype that the GPU has."""
    found = Found()
    for name in available():
        backend = kernels.backend("cuda", torch_dtype(name))
        found.add(Finding(f"kernels for {name}", "fused", backend, backend == "fused"))
        for arm in ARMS:
            found.add(*of_arm(arm, name, device))
    return found


def of_arm(arm: Arm, dtype: str, device: torch.device) -> list[Finding]:
    """Compare one unit's kernels with float64, in one dtype."""
    findings = errors(arm, dtype, device, ULP, lambda module: module)
    findings += [check(arm, dtype, device) for check in (limits, sigma_gradient, layouts)]
    if arm.save == "output":
        findings += [as_from_input(arm, dtype, device), in_place(arm, dtype, device)]
    return findings


def compiled_numbers(device: torch.device) -> Found:
    """Compare what torch.compile makes of ZiLU with float64."""
    found = Found()
    for name in available():
        for arm in ARMS:
            if arm.activation == "ZiLU":
                found.add(*errors(arm, name, device, COMPILED_ULP, compiled))
    return found


def expanded_numbers(device: torch.device) -> Found:
    """Compare units whose gate is expanded, and the gradients of alpha and sigma, with float64."""
    found = Found()
    for dtype in available():
        for name in FUSED_NAMES:
            found.add(of_expanded(name, dtype, device), of_expanded(name, dtype, device, True))
    return found


def of_expanded(name: str, dtype: str, device: torch.device, as_product: bool = False) -> Finding:
    """Compare one unit's value and gradients for x, alpha and sigma, over a million numbers.

    As a product, f(x) b, with the gradient for b too.
    """
    generator = torch.Generator().manual_seed(0)
    x, grad, b = torch.randn(3, 2**20, generator=generator).to(torch_dtype(dtype))

    def gradients(x: Tensor, grad: Tensor, b: Tensor, wide: torch.dtype) -> list[Tensor]:
        numbers = [torch.tensor(v, dtype=wide, device=x.device) for v in (0.3, 0.7)]
        x, alpha, sigma = (each.requires_grad_() for each in (x.detach(), *numbers))
        if not as_product:
            y = F.expanded(x, alpha, name, sigma)
            return [y.detach(), *torch.autograd.grad(y, (x, alpha, sigma), grad)]
        b = b.detach().requires_grad_()
        y = F.gated_product(x, b, name, sigma, alpha)
        return [y.detach(), *torch.autograd.grad(y, (x, alpha, sigma, b), grad)]

    seen = gradients(x.to(device), grad.to(device), b.to(device), torch.float32)
    exact = gradients(x.double(), grad.double(), b.double(), torch.float64)
    rounding = max(torch.finfo(torch_dtype(dtype)).eps, SIGMA_ERROR)
    # Sums are judged by the square root of their number of terms, which is what they come to.
    scales = (1.0, 1.0, 2.0**10, 2.0**10, 1.0)[: len(seen)]
    errors = [
        float(((one.double().cpu() - other).abs() / (other.abs() + scale)).max())
        for one, other, scale in zip(seen, exact, scales, strict=True)
    ]
    what = "gate expanded, times b" if as_product else "gate expanded"
    return Finding.at_most(f"{name} {dtype}, {what}, all errors", rounding, max(errors))


def available() -> list[str]:
    """Return the names of the dtypes that the GPU computes in."""
    return [name for name in DTYPES if name != "bf16" or torch.cuda.is_bf16_supported(False)]


def compiled(module: torch.nn.Module) -> Unit:
    torch.compiler.reset()  # or the compiler gives up after eight forms of one module
    made: Unit = torch.compile(module)
    return made


def errors(
    arm: Arm,
    dtype: str,
    device: torch.device,
    ulp: dict[str, tuple[float, float]],
    made: Callable[[torch.nn.Module], Unit],
) -> list[Finding]:
    """Return the largest errors of an activation's value and slope, over several sigmas.

    The slope is that at the true x. From the output, few of its digits are right far left.
    """
    worst: dict[str, float] = {}
    for sigma in SIGMAS:
        ours = made(replace(arm, sigma=sigma).build().to(device))
        exact = Arm(arm.activation, sigma).build().double()
        for key, error in largest_errors(ours, exact, torch_dtype(dtype), device).items():
            worst[key] = max(worst.get(key, 0.0), error)
    what = f"{arm.label} {dtype}{'' if ulp is ULP else ' compiled'}"
    rounding = torch.finfo(torch_dtype(dtype)).eps / 2
    absolute = dict.fromkeys(("value", "slope"), 1e-6 if dtype == "fp32" else 1.1 * rounding)
    in_ulp = dict(zip(absolute, ulp[dtype], strict=True)) if arm.activation in POWER_TAILS else {}
    if arm.save == "output":
        del in_ulp["slope"]
        if dtype == "fp32":
            absolute["slope"] = FROM_OUTPUT_ERROR[arm.activation]
    findings = [
        Finding.at_most(f"{what}, error of the {part}", limit, worst[f"{part}_error"])
        for part, limit in absolute.items()
    ]
    return findings + [
        Finding.at_most(f"{what}, error of the {part}", limit, worst[f"{part}_ulp"], "ulp")
        for part, limit in in_ulp.items()
    ]


def limits(arm: Arm, dtype: str, device: torch.device) -> Finding:
    """Look at infinity, NaN, and the greatest numbers there are."""
    greatest = torch.finfo(torch_dtype(dtype)).max
    values = [-torch.inf, torch.inf, torch.nan, -greatest, greatest, 0.0]
    x = torch.tensor(values, dtype=torch_dtype(dtype), device=device, requires_grad=True)
    y = unit_of(arm)(x, 1.0)
    (slope,) = torch.autograd.grad(y, x, torch.ones_like(y))
    _, top, nan, *finite = y.tolist()
    kept = top == torch.inf and nan != nan and all(abs(value) <= greatest for value in finite)
    end = FROM_OUTPUT_END if arm.save == "output" else 0.0
    kept &= 0.0 <= slope[0].item() <= end and slope[1].item() == 1.0
    kept &= bool(slope[3:].isfinite().all())
    return Finding(f"{arm.label} {dtype}, infinite, NaN, greatest", "limits", str(kept), kept)


def sigma_gradient(arm: Arm, dtype: str, device: torch.device) -> Finding:
    """Compare the gradient for sigma, a sum over a million numbers, with float64.

    From the output, that one's rounding is in each term.
    """
    generator = torch.Generator().manual_seed(0)
    x, grad = torch.randn(2, 2**20, generator=generator).to(torch_dtype(dtype))
    sigma = torch.tensor(0.7, device=device, requires_grad=True)
    y = unit_of(arm)(x.to(device), sigma)
    (seen,) = torch.autograd.grad(y, sigma, grad.to(device))
    formulas = getattr(reference, arm.activation.upper())
    terms = formulas.sigma_slope(x.double(), 0.7) * grad.double()
    error = abs(seen.item() - terms.sum().item()) / terms.abs().sum().item()
    limit = SIGMA_ERROR
    if arm.save == "output":
        limit = max(limit, torch.finfo(torch_dtype(dtype)).eps)
    return Finding.at_most(f"{arm.label} {dtype}, gradient of sigma", limit, error)


def layouts(arm: Arm, dtype: str, device: torch.device) -> Finding:
    """Compare channels last, transposed, sliced and misaligned tensors with a contiguous one."""
    unit = unit_of(arm)
    x = torch.randn(4, 7, 6, 5, device=device).to(torch_dtype(dtype))
    views = {
        "channels last": x.to(memory_format=torch.channels_last),
        "transposed": x.transpose(0, 3).contiguous().transpose(0, 3),
        "sliced": torch.stack([x, x], -1)[..., 0],
        "misaligned": torch.cat([x.new_zeros(1), x.flatten()])[1:].view_as(x),
    }
    wanted = unit(x, 0.7)
    differ = [name for name, view in views.items() if not torch.equal(unit(view, 0.7), wanted)]
    if arm.save == "output":
        differ += [
            f"{name}, in place"
            for name, view in views.items()
            if unit(view, 0.7, inplace=True) is not view or not torch.equal(view, wanted)
        ]
    return Finding(f"{arm.label} {dtype}, layouts", "equal", str(differ or "equal"), not differ)


def as_from_input(arm: Arm, dtype: str, device: torch.device) -> Finding:
    """Compare the values with those of the unit that keeps its input."""
    x = inputs(torch_dtype(dtype)).to(device)
    unit, usual = unit_of(arm), unit_of(Arm(arm.activation))
    differ = [sigma for sigma in SIGMAS if not torch.equal(unit(x, sigma), usual(x, sigma))]
    what = f"{arm.label} {dtype}, values against those of {arm.activation}"
    return Finding(what, "equal", f"differ for sigma {differ}" if differ else "equal", not differ)


def in_place(arm: Arm, dtype: str, device: torch.device) -> Finding:
    """Compare value and gradients in place with those into new memory."""
    x = inputs(torch_dtype(dtype)).to(device)
    differ = []
    for learned in (False, True):
        results = []
        for inplace in (False, True):
            module: Any = replace(arm, sigma=0.7, learned=learned).build().to(device)
            module.inplace = inplace
            results.append(value_and_gradients(module, x.clone().requires_grad_()))
        if not all(map(torch.equal, *results)):
            differ.append("learned" if learned else "fixed")
    seen = f"differ for a sigma that is {' and '.join(differ)}" if differ else "equal"
    return Finding(f"{arm.label} {dtype}, in place", "equal", seen, not differ)


def capture(device: torch.device) -> Found:
    """Capture forward and backward in a CUDA graph, and compare its replay with eager calls."""
    found = Found()
    for arm in ARMS:
        module: Any = replace(arm, sigma=0.7, learned=True).build().to(device)
        module.inplace = True  # of those from the output
        x = torch.randn(2**16, device=device, requires_grad=True)
        both = functools.partial(value_and_gradients, module, x)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            both()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = both()
        with torch.no_grad():
            x.copy_(torch.randn_like(x))
        graph.replay()
        kept = all(map(torch.equal, captured, both()))
        found.add(Finding(f"{arm.label} in a CUDA graph", "equal to eager", str(kept), kept))
    return found


def value_and_gradients(module: torch.nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """Return a module's value, and the gradients for x and its parameters; it may be in place."""
    y = module(x * 1)
    return y, *torch.autograd.grad(y, [x, *module.parameters()], torch.ones_like(y))


def large(device: torch.device) -> Found:
    """Look at both ends of tensors of more than 2^31 numbers."""
    count, needed = 2**31 + 1000, 6 * 2 * 2**31
    if torch.cuda.mem_get_info(device)[0] < needed:
        return Found(remarks=[f"left out: it takes {needed / 2**30:.0f} GiB of free memory"])
    found = Found()
    ends = torch.linspace(-3, 3, 1000, device=device, dtype=torch.float16)
    x = torch.zeros(count, device=device, dtype=torch.float16)
    x[:1000], x[-1000:] = ends, ends
    for arm in ARMS:
        unit = unit_of(arm)
        wanted, y = unit(ends, 0.7), unit(x, 0.7)
        kept = torch.equal(y[:1000], wanted) and torch.equal(y[-1000:], wanted)
        found.add(Finding(f"{arm.label}, {count:,} numbers", "equal", str(kept), kept))
        del y
    return found


def unit_of(arm: Arm) -> Unit:
    """Return the function of a gated unit."""
    unit: Unit = getattr(F, arm.activation.lower())
    return functools.partial(unit, save="output") if arm.save == "output" else unit
