"""Show the result against the time of a training step."""

import math

from matplotlib.figure import Figure

from analysis.document import Document
from analysis.drawing import add_legend, half_width, labels_of, new_figure, short, styles
from analysis.findings import GroupFindings
from analysis.grouping import Group
from analysis.measures import final_estimate, judged_axis, step_ms
from analysis.section import Section
from analysis.statistics import estimate
from run_folder.metrics import Metric

METHOD = (
    "**Times** are those of the runs as they were made. Runs that shared a machine with others "
    "slowed each other down; `benchmark.py` measures speed."
)


class StepTime(Section):
    def write_group(self, document: Document, group: GroupFindings) -> None:
        if any(not math.isnan(step_ms(run)) for run in group.group.all_runs()):
            document.figure(
                f"time-{group.number}",
                "Result against the time of a training step; bars are 95 % intervals.",
                lambda: accuracy_and_time(group.group, group.metric),
            )

    def methods(self) -> list[str]:
        return [METHOD]


def accuracy_and_time(group: Group, metric: Metric) -> Figure:
    """Draw the metric against a step's time: means over seeds, with 95 % intervals."""
    figure = new_figure(3.2, labels_of(group.variants))
    axes = figure.subplots()
    for variant, look in styles(group.variants).items():
        final = final_estimate(group, variant, metric)
        time = estimate([step_ms(run) for run in group.runs_of(variant)])
        axes.errorbar(
            time.mean,
            final.mean,
            xerr=half_width(time),
            yerr=half_width(final),
            label=short(variant.label),
            capsize=2,
            elinewidth=0.9,
            linestyle="none",
            **look.point,
        )
    if metric.unit == "%":
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, 0), min(high, 100.5))
    axes.set(xlabel="time of a training step (ms)", ylabel=judged_axis(group, metric))
    add_legend(figure, axes)
    return figure
