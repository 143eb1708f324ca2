"""The sections of a report that only some runs have data for: divergence, predictions, layers."""

from dataclasses import dataclass
from functools import cached_property

import pandas

from analysis import layer_figures, prediction_figures
from analysis import prediction_tables as tables
from analysis.comparisons import Comparison, main_settings
from analysis.divergence import Share, readable_divergence
from analysis.document import Document, plain
from analysis.layer_figures import QUANTITIES
from analysis.layers import Layers, layers_table, readable_layers
from analysis.paired_predictions import OnUnits, on_blocks, on_images
from analysis.predictions import BINS, Predicted, class_names
from analysis.settings import Group, Setting

MOST_SETTINGS = 6  # beside each other, in a table of classes or in maps
MOST_CLASSES = 20  # in a table
MOST_PAIRS = 40  # seeds of all comparisons, in a table
DIVERGENCE_METHOD = (
    "**Divergence.** A share is of the runs that ended, by finishing or by diverging; interrupted "
    "ones tell nothing. Its interval is the exact one (Clopper and Pearson 1934), its p Fisher's "
    "exact test (1935) against the baseline, which takes the runs as unpaired, with Holm's "
    "correction over all of these in the report. Diverged runs are in no mean: where many "
    "diverged, a mean is of the lucky ones."
)
IMAGES_METHOD = (
    "**By class.** Balanced accuracy is the mean of the accuracies in the classes that have test "
    "images; many, medium and few training images are as in Liu et al. (2019, arXiv 1904.05160). "
    "**Calibration.** The confidence is the largest softmax probability. The expected calibration "
    "error is the mean over images of |accuracy − confidence| of their bin, in "
    f"{BINS} bins of equal width (Guo et al. 2017, arXiv 1706.04599, equation 3), of each run by "
    "itself.",
    "**Same images.** McNemar's test (1947), exact, asks of two networks of one seed whether they "
    "err equally often on images of this kind. It says nothing of other seeds, which is what the "
    "paired t test is for (Dietterich 1998). All seeds share one test set, so their counts are not "
    "independent and are not added up; Holm's correction, over all of a group's pairs, holds all "
    "the same. The interval over images is of each image's mean over the seeds: these networks, "
    "other images.",
)
BLOCKS_METHOD = (
    "**Same text.** Differences in loss between runs of one seed on the same blocks of text, "
    "weighted by tokens. Standard error and interval are over blocks as if these were independent; "
    "neighbours from one document are not quite, so they are somewhat too small. These networks, "
    "other text: it says nothing of other seeds."
)
LAYERS_METHOD = (
    "**Layers.** Means over the seeds at equal steps. The colours of a figure mean the same for "
    "every setting in it; a hundredth of the values at each end may lie beyond the scale. Grey: no "
    "value."
)


@dataclass(frozen=True)
class GroupEvidence:
    """What a group's runs hold besides their results."""

    group: Group
    comparisons: list[Comparison]
    predicted: Predicted
    layers: Layers

    @cached_property
    def images(self) -> dict[Setting, list]:
        return tables.images_by_setting(self.group, self.predicted)

    @cached_property
    def calibration(self) -> pandas.DataFrame:
        return tables.calibration_table(self.images)

    @cached_property
    def classes(self) -> pandas.DataFrame:
        if not self.images:
            return pandas.DataFrame()
        names = class_names(self.predicted.images, self._number_of_classes)
        return tables.classes_table(self.images, names, self._training_sizes)

    @cached_property
    def bands(self) -> pandas.DataFrame:
        return tables.bands_table(self.images, self._training_sizes)

    @property
    def _number_of_classes(self) -> int:
        return max(run.classes for run in self.predicted.images.values())

    @property
    def _training_sizes(self) -> list[int] | None:
        """Training images of each class, where the runs say that these differ."""
        sizes = self.group.any_run().resolved.get("class_sizes")
        if not (isinstance(sizes, list) and all(isinstance(size, int) for size in sizes)):
            return None
        return sizes if self.images and len(sizes) == self._number_of_classes else None

    @cached_property
    def on_images(self) -> list[OnUnits]:
        return on_images(self.comparisons, self.predicted)

    @cached_property
    def on_blocks(self) -> list[OnUnits]:
        return on_blocks(self.comparisons, self.predicted)

    def main(self, settings) -> list[Setting]:
        """Up to MOST_SETTINGS of these."""
        return main_settings(list(settings), self.comparisons, MOST_SETTINGS)


def data_frames(evidence: list[GroupEvidence]) -> dict[str, pandas.DataFrame]:
    """What stands in the CSV files, unrounded, of the groups that have it."""
    found = {}
    for name, frame_of in (
        ("calibration", lambda each: each.calibration),
        ("classes", lambda each: each.classes),
        ("bands", lambda each: each.bands),
        ("reliability", lambda each: tables.reliability_table(each.images)),
        ("mcnemar", lambda each: tables.units_table(each.on_images)),
        ("blocks", lambda each: tables.units_table(each.on_blocks)),
        ("layers", lambda each: layers_table(each.layers)),
    ):
        frames = [(each.group.title, frame_of(each)) for each in evidence]
        kept = [frame.assign(group=title) for title, frame in frames if len(frame)]
        if kept:
            frame = pandas.concat(kept)
            found[name] = frame[["group", *frame.columns.drop("group")]]
    return found


def methods(shares: list[Share], evidence: list[GroupEvidence]) -> list[str]:
    """How to read the sections that there are."""
    found = [DIVERGENCE_METHOD] if shares else []
    if any(each.predicted.images for each in evidence):
        found += IMAGES_METHOD
    if any(each.on_blocks for each in evidence):
        found.append(BLOCKS_METHOD)
    if any(each.layers.means for each in evidence):
        found.append(LAYERS_METHOD)
    return found


def divergence(document: Document, shares: list[Share], number: int) -> None:
    if shares:
        document.table(f"divergence-{number}", readable_divergence(shares))
        document.paragraph("Runs that diverged, of those that ended.")


def predictions(document: Document, evidence: GroupEvidence, number: int) -> None:
    """Of images by class, calibrated, and in pairs; of text in pairs."""
    if not (evidence.images or evidence.on_blocks or evidence.predicted.problems):
        return
    document.heading(3, "Predictions")
    document.items([plain(text) for text in evidence.predicted.problems])
    if evidence.images:
        _calibration(document, evidence, number)
        _classes(document, evidence, number)
    if evidence.on_images:
        _pairs_of_images(document, evidence, number)
    if evidence.on_blocks:
        document.table(
            f"blocks-{number}", tables.readable_units(evidence.on_blocks, tables.LOSS, "blocks")
        )
        document.paragraph(
            "Losses on the same blocks of text, in nats per token; `blocks.csv` has every seed."
        )


def _calibration(document: Document, evidence: GroupEvidence, number: int) -> None:
    document.table(f"calibration-{number}", tables.readable_calibration(evidence.calibration))
    document.paragraph("Means over seeds, of the whole test set after the last epoch.")
    chosen = {setting: evidence.images[setting] for setting in evidence.main(evidence.images)}
    document.figure(
        f"reliability-{number}",
        "Reliability: below the diagonal a network is surer than it is right. All seeds together; "
        f"bins of fewer than {prediction_figures.FEW_IMAGES} images are not drawn above."
        + _others(evidence.images, chosen, "reliability"),
        lambda: prediction_figures.reliability(evidence.group, chosen),
    )


def _classes(document: Document, evidence: GroupEvidence, number: int) -> None:
    if len(evidence.bands):
        document.table(f"bands-{number}", tables.readable_bands(evidence.bands))
        document.paragraph(
            "Accuracy (%) by how many training images a class has: the mean over the classes, with "
            "95 % intervals over seeds."
        )
    chosen = evidence.main(evidence.images)
    others = _others(evidence.images, chosen, "classes")
    if evidence.classes["number"].max() < MOST_CLASSES:
        document.table(f"classes-{number}", tables.readable_classes(evidence.classes, chosen))
        document.paragraph(
            f"Accuracy (%) in each class: means and 95 % intervals over seeds.{others}"
        )
        return
    document.figure(
        f"classes-{number}",
        f"Accuracy in each class, means over seeds; `classes.csv` has the names.{others}",
        lambda: prediction_figures.class_accuracies(evidence.group, evidence.classes, chosen),
    )


def _pairs_of_images(document: Document, evidence: GroupEvidence, number: int) -> None:
    found = evidence.on_images
    document.table(f"images-{number}", tables.readable_units(found, tables.ACCURACY, "images"))
    document.paragraph(
        "The same images, network by network (McNemar's exact test for each seed): how many seeds "
        "differ by themselves, and the mean difference in points with its interval over images."
    )
    if sum(len(each.seeds) for each in found) > MOST_PAIRS:
        document.paragraph("`mcnemar.csv` has every seed.")
        return
    document.table(f"mcnemar-{number}", tables.readable_seeds(found))
    document.paragraph("Images that only one of the two networks has right, by seed.")


def layers(document: Document, evidence: GroupEvidence, number: int) -> None:
    """Depth against time, of the runs that recorded it."""
    found = evidence.layers
    if not (found.means or found.problems):
        return
    document.heading(3, "Layers")
    document.items([plain(text) for text in found.problems])
    if not found.means:
        return
    document.table(f"layers-{number}", readable_layers(found))
    document.paragraph("At the last step recorded: medians over the layers, means over seeds.")
    for quantity in QUANTITIES:
        known = found.of(quantity.name)
        if known and not any(frame.any(axis=None) for frame in known.values()):
            document.paragraph(f"{quantity.caption} It is 0 everywhere, at all times.")
        elif known:
            chosen = evidence.main(known)
            document.figure(
                f"{quantity.name}-{number}",
                quantity.caption + _others(known, chosen, "layers"),
                lambda q=quantity, chosen=chosen: layer_figures.heat_maps(found, q, chosen),
            )
    learned = [setting for setting in found.of("sigma") if setting.learned]
    if learned:
        chosen = evidence.main(learned)
        document.figure(
            f"sigma-{number}",
            "Learned σ of each layer." + _others(learned, chosen, "layers"),
            lambda chosen=chosen: layer_figures.sigmas(found, chosen),
        )


def _others(known, chosen, name: str) -> str:
    if len(chosen) == len(known):
        return ""
    return f" {len(chosen)} of {len(known)} settings are shown; `{name}.csv` has all."
