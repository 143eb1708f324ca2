"""Draw the activations that were compared, as functions."""

from matplotlib.figure import Figure

from analysis.document import Document
from analysis.drawing import COLORS, add_legend, labels_of, new_figure, styles
from analysis.section import Section
from analysis.variants import Variant
from zilu.names import ACTIVATIONS

MOST_FUNCTIONS = 2 * len(COLORS)


class Functions(Section):
    def write_closing(self, document: Document) -> None:
        everything = {each for group in self.findings.groups for each in group.group.variants}
        known = [v for v in everything if v.activation in ACTIVATIONS and v.rescaled is None]
        functions = {Variant(each.activation, each.sigma) for each in known}
        shown = sorted(functions, key=lambda variant: variant.order)[:MOST_FUNCTIONS]
        if not shown:
            return
        document.heading(2, "The functions")
        learned = " A learned σ as it starts." if any(each.learned for each in known) else ""
        document.figure(
            "functions",
            f"The activations compared, and their derivatives.{learned}",
            lambda: activation_functions(shown),
        )


def activation_functions(variants: list[Variant]) -> Figure:
    """Draw activations beside their derivatives."""
    import torch  # slow, and only this figure needs it

    from zilu import create_activation  # loads torch

    figure = new_figure(3.0, labels_of(variants))
    left, right = figure.subplots(1, 2)
    x = torch.linspace(-5, 3, 801, requires_grad=True)
    for variant, look in styles(variants).items():
        y = create_activation(variant.activation, variant.sigma or 1.0)(x)
        (slope,) = torch.autograd.grad(y.sum(), x)
        for axes, values in ((left, y), (right, slope)):
            axes.plot(x.detach(), values.detach(), label=variant.label, **look.line)
    left.set(xlabel="x (no unit)", ylabel="f(x)", ylim=(-0.8, 3))
    right.set(xlabel="x (no unit)", ylabel="f′(x)")
    add_legend(figure, left)
    return figure
