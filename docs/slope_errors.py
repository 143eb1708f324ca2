"""Draw slope_errors.png, and print errors in bf16: python docs/slope_errors.py (matplotlib)."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from analysis.drawing import COLORS, STYLE, plain_log  # noqa: E402
from zilu import functional, reference  # noqa: E402

Function = Callable[[Tensor], Tensor]


def zilu_from_output(x: Tensor) -> Tensor:
    return functional.zilu(x, save="output")


def zilu_approx_from_output(x: Tensor) -> Tensor:
    return functional.zilu_approx(x, save="output")


# The colours of activations.png.
BLUE, ORANGE, GREEN, PINK, *_ = COLORS
FROM_INPUT: dict[str, Any] = {"linestyle": ":", "markerfacecolor": "white"}
CURVES: dict[str, tuple[Function, dict[str, Any]]] = {
    "ZiLU, from output": (zilu_from_output, {"color": ORANGE, "marker": "o"}),
    "ZiLU, from input": (functional.zilu, {"color": ORANGE, "marker": "o", **FROM_INPUT}),
    "ZiLU_Approx, from output": (zilu_approx_from_output, {"color": PINK, "marker": "s"}),
    "ZiLU_Approx, from input": (
        functional.zilu_approx,
        {"color": PINK, "marker": "s", **FROM_INPUT},
    ),
    "GELU": (torch.nn.functional.gelu, {"color": BLUE, "linestyle": "--"}),
    "SiLU": (torch.nn.functional.silu, {"color": GREEN, "linestyle": "-."}),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Of each interval the largest error is drawn. The leftmost have 8 numbers of bf16.
EDGES = torch.linspace(-12, 6, 37, dtype=torch.float64)
MIDDLES = (EDGES[1:] + EDGES[:-1]) / 2


def gradient(function: Function, x: Tensor, grad: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    (found,) = torch.autograd.grad(function(x), x, grad)
    return found.double()


def slope(function: Function, x: Tensor) -> Tensor:
    """Return what backward gives for a gradient of ones: of float64 x, the true slope."""
    return gradient(function, x, torch.ones_like(x))


def largest(values: Tensor, x: Tensor) -> Tensor:
    """Return the largest value in each interval of x."""
    places = (torch.bucketize(x.double(), EDGES, right=True) - 1).clamp(max=len(MIDDLES) - 1)
    return torch.zeros_like(MIDDLES).scatter_reduce(0, places, values, "amax")


def half_ulp(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return how far rounding to a dtype moves numbers of this size, at most."""
    return values.log2().floor().exp2() * torch.finfo(dtype).eps / 2


def draw(axes: Axes, dtype: torch.dtype) -> None:
    x = torch.linspace(-12, 6, 200_001, dtype=torch.float64).to(dtype)
    for label, (function, look) in CURVES.items():
        error = (slope(function, x) - slope(function, x.double())).abs()
        axes.plot(MIDDLES, largest(error, x), label=label, markersize=4, markevery=3, **look)
    true = slope(functional.zilu, x.double())
    rounding = largest(half_ulp(true, dtype), x)
    axes.plot(MIDDLES, rounding, color="#bbbbbb", zorder=1, label="half an ulp of ZiLU's slope")
    axes.plot(x.double(), true, color="black", linewidth=0.8, label="ZiLU's slope itself")
    eps = torch.finfo(dtype).eps
    axes.set(yscale="log", ylim=(eps * 2e-5, eps * 10), xlabel="x (σ = 1)")
    plain_log(axes)


def print_errors(dtype: torch.dtype) -> None:
    """Print root mean squares of errors, divided by those of the slopes or the gradients.

    Inputs and the gradients that come in are normal. Printed are the errors that rounding the input
    and rounding the output make in the slope, and those of the gradient, which is rounded too.
    """
    exact, grad = torch.randn(2, 10_000_000, generator=torch.Generator().manual_seed(0))
    x, grad = exact.to(dtype), grad.to(dtype)
    from_output = {
        "ZiLU, from output": reference.ZILU_FROM_OUTPUT,
        "ZiLU_Approx, from output": reference.ZILU_APPROX_FROM_OUTPUT,
    }
    for label, (function, _) in CURVES.items():
        true = slope(function, x.double())
        errors = [relative(true, slope(function, exact.double()))]
        if label in from_output:
            errors.append(relative(from_output[label].slope(function(x).float(), 1.0), true))
        errors.append(relative(gradient(function, x, grad), true * grad))
        print(f"{label:26}", *(f"{error:.2e}" for error in errors))


def relative(found: Tensor, true: Tensor) -> float:
    return ((found - true).norm() / true.norm()).item()


def main() -> None:
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 3, figsize=(10, 4.5), layout="constrained")
        for axes, (name, dtype) in zip(panels, DTYPES.items(), strict=True):
            draw(axes, dtype)
            axes.set(title=name)
        panels[0].set(ylabel="largest error of the slope")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        figure.savefig(HERE / "slope_errors.png", dpi=110)
    print_errors(torch.bfloat16)


if __name__ == "__main__":
    main()
