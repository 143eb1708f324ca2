"""Show a scan of sigma: the result against it, with the controls that such a scan needs."""

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.comparisons import CONTROL
from analysis.document import Document
from analysis.drawing import COLORS, DASHES, MARKERS, add_legend, half_width, labels_of, new_figure
from analysis.findings import GroupFindings
from analysis.grouping import Group
from analysis.measures import final_estimate, judged_axis
from analysis.section import Section
from analysis.variants import BUILT_IN, Variant
from run_folder.metrics import Metric

FEWEST_SIGMAS = 3  # of one activation that make a scan
APART = 1.03  # the factor between the points that two activations have at one sigma
TICK_RATIO = 1.6  # of neighbouring sigmas whose labels do not meet on a logarithmic axis
SIGMA_ONLY_RESCALES = (
    "σ is a reparametrisation: f_σ(x) = f₁(σx)/σ. Where a linear layer or a norm stands on both "
    "sides it can absorb σ; σ then changes the initialisation and the effective learning rate "
    "alone. A difference between two σ is one in function only if the control (σ = 1 with the "
    "neighbouring weights rescaled to the same function) does not show it as well."
)


class SigmaScan(Section):
    def write_group(self, document: Document, group: GroupFindings) -> None:
        activations = scanned_activations(group.group)
        if not activations:
            return
        document.heading(3, "Scan of σ")
        document.paragraph(SIGMA_ONLY_RESCALES)
        if not group.comparisons_of(CONTROL):
            document.paragraph(
                "These runs hold no control (`--sigma 1 --rescale_init S`), so they cannot tell "
                "the two apart."
            )
        document.figure(
            f"scan-{group.number}",
            "Means over seeds with 95 % intervals; lines are the activations without σ. What has "
            "one σ stands a little apart.",
            lambda: sigma_scan(group.group, group.metric, activations),
        )


def scanned_activations(group: Group) -> list[str]:
    """Return the activations that have runs at enough values of a fixed sigma."""
    fixed = [each for each in group.variants if each.sigma is not None and not each.learned]
    plain = {(each.activation, each.sigma) for each in fixed if each.rescaled is None}
    names = dict.fromkeys(each.activation for each in fixed)
    return [
        name
        for name in names
        if sum(activation == name for activation, _ in plain) >= FEWEST_SIGMAS
    ]


def sigma_scan(group: Group, metric: Metric, activations: list[str]) -> Figure:
    """Draw the metric against sigma.

    The built-in activations are lines, learned sigmas are stars, and a rescaled control stands at
    the sigma that it starts as.
    """
    rivals = [each for each in group.variants if each.activation in BUILT_IN]
    series = [each for name in activations for each in _series_of(group, name)]
    labels = [*(label for label, *_ in series), *labels_of(rivals)]
    figure = new_figure(3.2, labels)
    axes = figure.subplots()
    for label, variants, look in series:
        shift = APART ** activations.index(variants[0].activation)
        _draw_points(axes, group, metric, variants, shift, label=label, **look)
    for variant, dash in zip(rivals, DASHES, strict=False):
        mean = final_estimate(group, variant, metric).mean
        axes.axhline(mean, label=variant.label, color="#555555", linewidth=1.2, linestyle=dash)
    axes.set_xscale("log")
    ticks = _tick_sigmas([each for _, variants, _ in series for each in variants])
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set(xlabel="σ (no unit)", ylabel=judged_axis(group, metric))
    add_legend(figure, axes)
    return figure


def _series_of(group: Group, name: str) -> list[tuple[str, list[Variant], dict[str, Any]]]:
    """Return (label, variants, look) of each kind of point that an activation has."""
    mine = [each for each in group.variants if each.activation == name and each.sigma is not None]
    number = sorted({each.activation for each in group.variants}).index(name)
    look = {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number % len(MARKERS)]}
    kinds = (
        (name, [v for v in mine if not v.learned and not v.rescaled], {"linestyle": "-"}),
        (f"{name}, weights rescaled instead", [v for v in mine if v.rescaled and not v.learned],
         {"linestyle": ":", "markerfacecolor": "white"}),
        (f"{name}, σ learned from here", [v for v in mine if v.learned],
         {"linestyle": "none", "marker": "*", "markersize": 9}),
    )  # fmt: skip
    return [(label, variants, look | own) for label, variants, own in kinds if variants]


def _draw_points(
    axes: Axes, group: Group, metric: Metric, variants: list[Variant], shift: float, **look: Any
) -> None:
    ordered = sorted(variants, key=lambda variant: variant.starting_sigma)
    finals = [final_estimate(group, variant, metric) for variant in ordered]
    axes.errorbar(
        [shift * variant.starting_sigma for variant in ordered],
        [final.mean for final in finals],
        yerr=[half_width(final) for final in finals],
        **{"capsize": 2, "elinewidth": 0.9, "linewidth": 1.2, **look},
    )


def _tick_sigmas(variants: list[Variant]) -> list[float]:
    """Return the sigmas, those nearest to 1 first, without those whose labels would meet."""
    kept: list[float] = []
    for sigma in sorted({v.starting_sigma for v in variants}, key=lambda s: abs(math.log(s))):
        if all(max(sigma / other, other / sigma) >= TICK_RATIO for other in kept):
            kept.append(sigma)
    return kept
