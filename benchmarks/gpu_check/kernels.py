"""Check the kernels' numbers against float64, and that they can be captured and take any size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.accuracy import largest_errors
from benchmarks.arms import Arm
from benchmarks.gpu_check.found import Finding, Found
from benchmarks.names import DTYPES
from zilu import functional as F
from zilu import kernels, reference
from zilu.names import FUSED_NAMES

SIGMAS = (0.5, 1.0, 1.253)
# Largest errors of value and slope in ulp, of the units whose tails are powers of x; exponential
# tails magnify the rounding of the input, and have a limit of their absolute error alone.
ULP = {"fp32": (4.0, 8.0), "bf16": (0.55, 0.55), "fp16": (0.55, 0.55)}
COMPILED_ULP = {"fp32": (8.0, 16.0), "bf16": (0.55, 0.55), "fp16": (0.55, 0.55)}
POWER_TAILS = ("ZiLU", "ZiLU_Approx")
SIGMA_ERROR = 1e-5  # of its gradient, relative to the sum of the terms' magnitudes

Unit = Callable[..., Tensor]


def numbers(device: torch.device) -> Found:
    """Compare every unit's kernels with float64, in every dtype that the GPU has."""
    found = Found()
    for name in available():
        backend = kernels.backend("cuda", torch_dtype(name))
        found.add(Finding(f"kernels for {name}", "fused", backend, backend == "fused"))
        for activation in FUSED_NAMES:
            found.add(*errors(activation, name, device, ULP, lambda module: module))
            found.add(limits(activation, name, device), sigma_gradient(activation, name, device))
            found.add(layouts(activation, name, device))
    return found


def compiled_numbers(device: torch.device) -> Found:
    """Compare what torch.compile makes of ZiLU with float64."""
    found = Found()
    for name in available():
        found.add(*errors("ZiLU", name, device, COMPILED_ULP, compiled))
    return found


def available() -> list[str]:
    """Return the names of the dtypes that the GPU computes in."""
    return [name for name in DTYPES if name != "bf16" or torch.cuda.is_bf16_supported(False)]


def torch_dtype(name: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, DTYPES[name])
    return dtype


def compiled(module: torch.nn.Module) -> Unit:
    torch.compiler.reset()  # or the compiler gives up after eight forms of one module
    made: Unit = torch.compile(module)
    return made


def errors(
    activation: str,
    dtype: str,
    device: torch.device,
    ulp: dict[str, tuple[float, float]],
    made: Callable[[torch.nn.Module], Unit],
) -> list[Finding]:
    """Return the largest errors of an activation's value and slope, over several sigmas."""
    worst: dict[str, float] = {}
    for sigma in SIGMAS:
        arm = Arm(activation, sigma)
        ours, exact = made(arm.build().to(device)), arm.build().double()
        for key, error in largest_errors(ours, exact, torch_dtype(dtype), device).items():
            worst[key] = max(worst.get(key, 0.0), error)
    what = f"{activation} {dtype}{'' if ulp is ULP else ' compiled'}"
    rounding = torch.finfo(torch_dtype(dtype)).eps / 2
    absolute = 1e-6 if dtype == "fp32" else 1.1 * rounding
    findings = [
        Finding.at_most(f"{what}, error of the {part}", absolute, worst[f"{part}_error"])
        for part in ("value", "slope")
    ]
    if activation in POWER_TAILS:
        findings += [
            Finding.at_most(f"{what}, error of the {part}", limit, worst[f"{part}_ulp"], "ulp")
            for part, limit in zip(("value", "slope"), ulp[dtype], strict=True)
        ]
    return findings


def limits(activation: str, dtype: str, device: torch.device) -> Finding:
    """Look at infinity, NaN, and the greatest numbers there are."""
    greatest = torch.finfo(torch_dtype(dtype)).max
    values = [-torch.inf, torch.inf, torch.nan, -greatest, greatest, 0.0]
    x = torch.tensor(values, dtype=torch_dtype(dtype), device=device, requires_grad=True)
    y = unit_of(activation)(x, 1.0)
    (slope,) = torch.autograd.grad(y, x, torch.ones_like(y))
    _, top, nan, *finite = y.tolist()
    kept = top == torch.inf and nan != nan and all(abs(value) <= greatest for value in finite)
    kept &= slope[:2].tolist() == [0.0, 1.0] and bool(slope[3:].isfinite().all())
    return Finding(f"{activation} {dtype}, infinite, NaN, greatest", "limits", str(kept), kept)


def sigma_gradient(activation: str, dtype: str, device: torch.device) -> Finding:
    """Compare the gradient for sigma, a sum over a million numbers, with float64."""
    generator = torch.Generator().manual_seed(0)
    x, grad = torch.randn(2, 2**20, generator=generator).to(torch_dtype(dtype))
    sigma = torch.tensor(0.7, device=device, requires_grad=True)
    y = unit_of(activation)(x.to(device), sigma)
    (seen,) = torch.autograd.grad(y, sigma, grad.to(device))
    formulas = getattr(reference, activation.upper())
    terms = formulas.sigma_slope(x.double(), 0.7) * grad.double()
    error = abs(seen.item() - terms.sum().item()) / terms.abs().sum().item()
    return Finding.at_most(f"{activation} {dtype}, gradient of sigma", SIGMA_ERROR, error)


def layouts(activation: str, dtype: str, device: torch.device) -> Finding:
    """Compare channels last, transposed, sliced and misaligned tensors with a contiguous one."""
    unit = unit_of(activation)
    x = torch.randn(4, 7, 6, 5, device=device).to(torch_dtype(dtype))
    views = {
        "channels last": x.to(memory_format=torch.channels_last),
        "transposed": x.transpose(0, 3).contiguous().transpose(0, 3),
        "sliced": torch.stack([x, x], -1)[..., 0],
        "misaligned": torch.cat([x.new_zeros(1), x.flatten()])[1:].view_as(x),
    }
    wanted = unit(x, 0.7)
    differ = [name for name, view in views.items() if not torch.equal(unit(view, 0.7), wanted)]
    return Finding(f"{activation} {dtype}, layouts", "equal", str(differ or "equal"), not differ)


def capture(device: torch.device) -> Found:
    """Capture forward and backward in a CUDA graph, and compare its replay with eager calls."""
    found = Found()
    for activation in FUSED_NAMES:
        module = Arm(activation, 0.7, learned=True).build().to(device)
        x = torch.randn(2**16, device=device, requires_grad=True)
        leaves, grad = [x, *module.parameters()], torch.ones_like(x)

        def both() -> tuple[Tensor, ...]:
            y = module(x)  # noqa: B023  # called in this round alone
            return y, *torch.autograd.grad(y, leaves, grad)  # noqa: B023

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
        found.add(Finding(f"{activation} in a CUDA graph", "equal to eager", str(kept), kept))
    return found


def large(device: torch.device) -> Found:
    """Look at both ends of tensors of more than 2^31 numbers."""
    count, needed = 2**31 + 1000, 6 * 2 * 2**31
    if torch.cuda.mem_get_info(device)[0] < needed:
        return Found(remarks=[f"left out: it takes {needed / 2**30:.0f} GiB of free memory"])
    found = Found()
    ends = torch.linspace(-3, 3, 1000, device=device, dtype=torch.float16)
    x = torch.zeros(count, device=device, dtype=torch.float16)
    x[:1000], x[-1000:] = ends, ends
    for activation in FUSED_NAMES:
        unit = unit_of(activation)
        wanted, y = unit(ends, 0.7), unit(x, 0.7)
        kept = torch.equal(y[:1000], wanted) and torch.equal(y[-1000:], wanted)
        found.add(Finding(f"{activation}, {count:,} numbers", "equal", str(kept), kept))
        del y
    return found


def unit_of(activation: str) -> Unit:
    """Return the function of a gated unit."""
    unit: Unit = getattr(F, activation.lower())
    return unit
