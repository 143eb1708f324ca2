"""Tell the calibration: balanced accuracy, expected calibration error, reliability figure."""

import numpy as np
import pandas
from matplotlib.figure import Figure

from analysis.document import Document
from analysis.drawing import add_legend, labels_of, new_figure, plain_log, short, styles
from analysis.findings import GroupFindings
from analysis.grouping import Group
from analysis.predictions import BINS, Images, pooled_bins
from analysis.section import Section, estimate_columns, omission_note
from analysis.variants import Variant
from analysis.wording import interval
from run_folder.metrics import METRICS

ACCURACY = METRICS["top1"]
FEW_IMAGES = 10  # a bin's accuracy of fewer, over all seeds, is noise
METHOD = (
    "**Calibration.** The confidence is the largest softmax probability. The expected calibration "
    "error is the mean over images of |accuracy − confidence| of their bin, in "
    f"{BINS} bins of equal width (Guo et al. 2017, arXiv 1706.04599, equation 3), of each run by "
    "itself."
)


class Calibration(Section):
    def write_group(self, document: Document, group: GroupFindings) -> None:
        images = group.images
        if not images:
            return
        table = readable_calibration(calibration_table(images))
        document.table(f"calibration-{group.number}", table)
        document.paragraph("Means over seeds, of the whole test set after the last epoch.")
        shown = {variant: images[variant] for variant in group.main_variants(list(images))}
        document.figure(
            f"reliability-{group.number}",
            "Reliability: below the diagonal a network is surer than it is right. All seeds "
            f"together; bins of fewer than {FEW_IMAGES} images are not drawn above."
            + omission_note(images, shown, "reliability"),
            lambda: reliability_figure(group.group, shown),
        )

    def methods(self) -> list[str]:
        return [METHOD] if any(group.images for group in self.findings.groups) else []

    def csv_tables(self) -> dict[str, pandas.DataFrame]:
        calibration = self.csv_of_groups("calibration", lambda g: calibration_table(g.images))
        return calibration | self.csv_of_groups("reliability", lambda g: bins_table(g.images))


def calibration_table(images: dict[Variant, list[Images]]) -> pandas.DataFrame:
    """Return a row for each variant: balanced accuracy and calibration error in percent.

    They are means over its runs, with Student's 95 % interval.
    """
    rows = []
    for variant, runs in images.items():
        rows.append(
            {"setting": variant.label, "n": len(runs), "images": len(runs[0].labels)}
            | estimate_columns("balanced_accuracy", [100 * run.balanced_accuracy for run in runs])
            | estimate_columns("calibration_error", [100 * run.calibration_error for run in runs])
        )
    return pandas.DataFrame(rows)


def readable_calibration(table: pandas.DataFrame) -> pandas.DataFrame:
    """Return the calibration table rounded."""
    columns = {"setting": table["setting"], "n": table["n"].astype(str)}
    # The second interval's heading ends in a blank: a frame's columns differ.
    for name, heading, blank in (
        ("balanced_accuracy", "balanced accuracy (%)", ""),
        ("calibration_error", "expected calibration error (%)", " "),
    ):
        columns[heading] = table[name].map(ACCURACY.number)
        ends = zip(table[f"{name}_low"], table[f"{name}_high"], strict=True)
        columns[f"95 % interval{blank}"] = [interval(*each, ACCURACY.number) for each in ends]
    return pandas.DataFrame(columns)


def bins_table(images: dict[Variant, list[Images]]) -> pandas.DataFrame:
    """Return a row for each variant and bin of the confidence, over all its runs together.

    Confidence and accuracy are from 0 to 1, and NaN for a bin without images.
    """
    edges = np.linspace(0, 1, BINS + 1)
    tables = []
    for variant, runs in images.items():
        table = pandas.DataFrame(pooled_bins(runs), columns=["images", "confidence", "accuracy"])
        table.insert(0, "setting", variant.label)
        table.insert(1, "above", edges[:-1])
        table.insert(2, "up_to", edges[1:])
        tables.append(table.astype({"images": int}))
    return pandas.concat(tables) if tables else pandas.DataFrame()


def reliability_figure(group: Group, images: dict[Variant, list[Images]]) -> Figure:
    """Draw accuracy against confidence, in bins over all seeds, above the images in each bin."""
    figure = new_figure(4.6, labels_of(list(images)))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.4, 1))
    looks = styles(group.variants)
    above.plot([0, 100], [0, 100], color="black", linewidth=0.8)
    edges = np.linspace(0, 100, BINS + 1)
    for variant, runs in images.items():
        count, confidence, accuracy = pooled_bins(runs).T
        drawn = count >= FEW_IMAGES
        above.plot(
            100 * confidence[drawn],
            100 * accuracy[drawn],
            label=short(variant.label),
            marker=looks[variant].marker,
            markersize=4,
            **looks[variant].line,
        )
        below.stairs(count / len(runs), edges, **looks[variant].line)
    above.set(ylabel="accuracy (%)", ylim=(0, 101))
    below.set(xlabel="confidence (%)", ylabel="images per run", yscale="log", xlim=(0, 101))
    plain_log(below)
    add_legend(figure, above)
    return figure
