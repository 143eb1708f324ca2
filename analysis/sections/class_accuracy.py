"""Tell the accuracy by class, and for long tails by how many training images a class has."""

import math
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.document import Document
from analysis.drawing import add_legend, labels_of, new_figure, short, styles
from analysis.findings import GroupFindings
from analysis.grouping import Group
from analysis.predictions import Images
from analysis.section import Section, estimate_columns, omission_note
from analysis.variants import Variant
from analysis.wording import ABSENT
from run_folder.folder import RunFolder

MOST_CLASSES = 20  # in a table
# By the training images of a class, from the first to the last number (Liu et al. 2019, arXiv
# 1904.05160).
BANDS = {
    "many (over 100)": (101, math.inf),
    "medium (20 to 100)": (20, 100),
    "few (under 20)": (0, 19),
}
METHOD = (
    "**By class.** Balanced accuracy is the mean of the accuracies in the classes that have test "
    "images; many, medium and few training images are as in Liu et al. (2019, arXiv 1904.05160)."
)


class ClassAccuracy(Section):
    def write_group(self, document: Document, group: GroupFindings) -> None:
        if not group.images:
            return
        bands = bands_table(group.images, training_sizes(group))
        if len(bands):
            document.table(f"bands-{group.number}", readable_bands(bands))
            document.paragraph(
                "Accuracy (%) by how many training images a class has: the mean over the classes, "
                "with 95 % intervals over seeds."
            )
        table = self.class_tables[group.number]
        shown = group.main_variants(list(group.images))
        omitted = omission_note(group.images, shown, "classes")
        if table["number"].max() < MOST_CLASSES:
            document.table(f"classes-{group.number}", readable_classes(table, shown))
            document.paragraph(
                f"Accuracy (%) in each class: means and 95 % intervals over seeds.{omitted}"
            )
        else:
            document.figure(
                f"classes-{group.number}",
                f"Accuracy in each class, means over seeds; `classes.csv` has the names.{omitted}",
                lambda: class_accuracies(group.group, table, shown),
            )

    def methods(self) -> list[str]:
        return [METHOD] if any(group.images for group in self.findings.groups) else []

    def csv_tables(self) -> dict[str, pandas.DataFrame]:
        classes = self.csv_of_groups("classes", lambda g: self.class_tables[g.number])
        bands = self.csv_of_groups("bands", lambda g: bands_table(g.images, training_sizes(g)))
        return classes | bands

    @cached_property
    def class_tables(self) -> dict[int, pandas.DataFrame]:
        """Return the table of classes of each group, by its number."""
        return {group.number: classes_table_of(group) for group in self.findings.groups}


def classes_table_of(group: GroupFindings) -> pandas.DataFrame:
    if not group.images:
        return pandas.DataFrame()
    names = class_names(group.predictions.images, number_of_classes(group))
    return classes_table(group.images, names, training_sizes(group))


def number_of_classes(group: GroupFindings) -> int:
    return max(run.classes for run in group.predictions.images.values())


def training_sizes(group: GroupFindings) -> list[int] | None:
    """Return the training images of each class, where the runs say that these differ."""
    sizes = group.group.any_run().resolved.get("class_sizes")
    if not (isinstance(sizes, list) and all(isinstance(size, int) for size in sizes)):
        return None
    return sizes if group.images and len(sizes) == number_of_classes(group) else None


def class_names(run_folders: Iterable[Path], classes: int) -> list[str]:
    """Return the names that the first readable checkpoint of the runs has, else numbers."""
    import torch  # slow, and only predictions of images need it

    for folder in run_folders:
        try:
            # Mapped, not read: a checkpoint is large, and the names are a few bytes of it.
            content = torch.load(
                folder / RunFolder.CHECKPOINT, map_location="cpu", mmap=True, weights_only=True
            )
            names = [str(name) for name in content["settings"]["class_names"]]
        except Exception:  # a name is not worth a report: any checkpoint may be damaged or foreign
            continue
        if len(names) == classes:
            return names
    return [str(number) for number in range(classes)]


def classes_table(
    images: dict[Variant, list[Images]], names: list[str], sizes: list[int] | None
) -> pandas.DataFrame:
    """Return a row for each variant and class: accuracy on the class's images in percent.

    It is the mean over the variant's runs with Student's 95 % interval; NaN for a class without
    images.

    Args:
        images: The predictions of each variant's runs.
        names: The names of the classes.
        sizes: The training images of each class, where they are known.
    """
    rows = []
    for variant, runs in images.items():
        recalls = 100 * np.array([run.recalls for run in runs])
        for number, name in enumerate(names):
            rows.append(
                {
                    "setting": variant.label,
                    "number": number,
                    "class": name,
                    "training_images": sizes[number] if sizes else pandas.NA,
                    "images": int(runs[0].class_counts[number]),
                    "n": len(runs),
                }
                | estimate_columns("accuracy", recalls[:, number].tolist())
            )
    return pandas.DataFrame(rows)


def readable_classes(table: pandas.DataFrame, variants: list[Variant]) -> pandas.DataFrame:
    """Return a row for each class, and a column for each variant."""
    columns = {}
    for variant in variants:
        mine = table[table["setting"] == variant.label]
        columns["class"] = mine["class"].tolist()
        if mine["training_images"].notna().all():
            columns["training images"] = mine["training_images"].astype(str).tolist()
        columns["images"] = mine["images"].astype(str).tolist()
        cells = zip(mine["accuracy"], mine["accuracy_low"], mine["accuracy_high"], strict=True)
        columns[variant.label] = [_mean_and_interval(*cell) for cell in cells]
    return pandas.DataFrame(columns)


def bands_table(images: dict[Variant, list[Images]], sizes: list[int] | None) -> pandas.DataFrame:
    """Return a row for each variant and band of BANDS that has classes.

    The accuracy is the mean of those of the band's classes in percent, over the variant's runs. The
    table is empty where the classes are all of one band.
    """
    bands = {
        band: [number for number, size in enumerate(sizes or []) if first <= size <= last]
        for band, (first, last) in BANDS.items()
    }
    bands = {band: numbers for band, numbers in bands.items() if numbers}
    if len(bands) < 2:
        return pandas.DataFrame()
    return pandas.DataFrame(
        {"setting": variant.label, "band": band, "classes": len(numbers), "n": len(runs)}
        | estimate_columns("accuracy", [100 * np.nanmean(run.recalls[numbers]) for run in runs])
        for variant, runs in images.items()
        for band, numbers in bands.items()
    )


def readable_bands(table: pandas.DataFrame) -> pandas.DataFrame:
    """Return a row for each variant, and a column for each band."""
    rows: dict[str, dict[str, str]] = {}
    for row in table.itertuples():
        heading = f"{row.band}: {row.classes} class{'es' if row.classes > 1 else ''}"
        cell = _mean_and_interval(row.accuracy, row.accuracy_low, row.accuracy_high)
        rows.setdefault(row.setting, {"setting": row.setting})[heading] = cell
    return pandas.DataFrame(rows.values())


def _mean_and_interval(mean: float, low: float, high: float) -> str:
    interval = "" if math.isnan(low) else f" ({max(low, 0):.1f} to {min(high, 100):.1f})"
    return ABSENT if math.isnan(mean) else f"{mean:.1f}{interval}"


def class_accuracies(group: Group, table: pandas.DataFrame, variants: list[Variant]) -> Figure:
    """Draw accuracy by class, means over seeds; the classes in the order of the first variant's."""
    figure = new_figure(3.2, labels_of(variants))
    axes = figure.subplots()
    looks, first = styles(group.variants), variants[0]
    accuracies = {v: table[table["setting"] == v.label]["accuracy"].to_numpy() for v in variants}
    order = np.argsort(accuracies[first])  # a class without images, NaN, comes last
    places = np.arange(1, len(order) + 1)
    for variant, values in accuracies.items():
        look = looks[variant]
        points = {**look.point, "linestyle": "none", "markersize": 3}
        style = look.line if variant == first else points
        axes.plot(places, values[order], label=short(variant.label), **style)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"classes, in the order of their accuracy with {short(first.label)}")
    axes.set_ylabel("accuracy in the class (%)")
    add_legend(figure, axes)
    return figure
