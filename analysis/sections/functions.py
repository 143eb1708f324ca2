"""Draw the activations that were compared, as functions."""

import json
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.document import Document
from analysis.drawing import COLORS, add_legend, labels_of, new_figure, styles
from analysis.section import Section
from analysis.variants import Variant, variant_of
from run_folder.folder import RunFolder
from zilu import create_activation
from zilu.names import ACTIVATIONS

MOST_FUNCTIONS = 2 * len(COLORS)
Curve: TypeAlias = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]  # x, f(x), f'(x)


class Functions(Section):
    def write_closing(self, document: Document) -> None:
        everything = {each for group in self.findings.groups for each in group.group.variants}
        known = [v for v in everything if v.activation in ACTIVATIONS and v.rescaled is None]
        functions: dict[Variant, Curve | None] = {
            Variant(each.activation, each.sigma): None for each in known
        }
        functions |= self.own_curves()
        shown = sorted(functions, key=lambda variant: variant.order)[:MOST_FUNCTIONS]
        if not shown:
            return
        document.heading(2, "The functions")
        learned = " A learned σ as it starts." if any(each.learned for each in everything) else ""
        document.figure(
            "functions",
            f"The activations compared, and their derivatives.{learned}",
            lambda: activation_functions({variant: functions[variant] for variant in shown}),
        )

    def own_curves(self) -> dict[Variant, Curve | None]:
        """Return the curves of users' own activations, which training wrote: no code is run."""
        found: dict[Variant, Curve | None] = {}
        for group in self.findings.groups:
            for run in group.group.all_runs():
                variant = Variant(run.custom_name, variant_of(run).sigma)
                if run.custom_name and variant not in found:
                    curve = read_curve(run.path / RunFolder.ACTIVATION)
                    found |= {variant: curve} if curve else {}
        return found


def read_curve(path: Path) -> Curve | None:
    """Return x, f(x) and f'(x); None where the file lacks them."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))["curve"]
        x, f, slope = (np.array(content[name], dtype=float) for name in ("x", "f", "slope"))
    except (OSError, ValueError, TypeError, LookupError):
        return None
    return (x, f, slope) if x.ndim == 1 and x.shape == f.shape == slope.shape else None


def curve_of(variant: Variant) -> Curve:
    """Return x, f(x) and f'(x) of an activation by name."""
    x = torch.linspace(-5, 3, 801, requires_grad=True)
    y = create_activation(variant.activation, variant.sigma or 1.0)(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    return x.detach().numpy(), y.detach().numpy(), slope.numpy()


def activation_functions(curves: dict[Variant, Curve | None]) -> Figure:
    """Draw activations beside their derivatives; those without a curve are computed by name."""
    variants = list(curves)
    figure = new_figure(3.0, labels_of(variants))
    left, right = figure.subplots(1, 2)
    for variant, look in styles(variants).items():
        x, y, slope = curves[variant] or curve_of(variant)
        for axes, values in ((left, y), (right, slope)):
            axes.plot(x, values, label=variant.label, **look.line)
    left.set(xlabel="x (no unit)", ylabel="f(x)", ylim=(-0.8, 3))
    right.set(xlabel="x (no unit)", ylabel="f′(x)")
    add_legend(figure, left)
    return figure
