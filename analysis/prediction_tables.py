"""The tables of the predictions: numbers as they are for CSV, formatted for reading."""

import math

import numpy as np
import pandas

from analysis.paired_predictions import OnUnits
from analysis.predictions import BINS, Images, Predicted, pooled_bins
from analysis.sentences import p_value
from analysis.settings import Group, Setting
from analysis.statistics import Estimate, estimate
from run_folder.metrics import METRICS, Metric

ACCURACY, LOSS = METRICS["top1"], METRICS["loss"]
# By the training images of a class, from the first to the last number (Liu et al. 2019, arXiv
# 1904.05160).
BANDS = {
    "many (over 100)": (101, math.inf),
    "medium (20 to 100)": (20, 100),
    "few (under 20)": (0, 19),
}


def images_by_setting(group: Group, predicted: Predicted) -> dict[Setting, list[Images]]:
    """Of the settings that have any."""
    found = {
        setting: [
            predicted.images[run.path]
            for run in group.runs[setting].values()
            if run.path in predicted.images
        ]
        for setting in group.settings
    }
    return {setting: images for setting, images in found.items() if images}


def calibration_table(images: dict[Setting, list[Images]]) -> pandas.DataFrame:
    """A row for each setting: balanced accuracy and expected calibration error in percent, means
    over its runs with Student's 95 % interval."""
    rows = []
    for setting, runs in images.items():
        rows.append(
            {"setting": setting.label, "n": len(runs), "images": len(runs[0].labels)}
            | _columns("balanced_accuracy", [100 * run.balanced_accuracy for run in runs])
            | _columns("calibration_error", [100 * run.calibration_error for run in runs])
        )
    return pandas.DataFrame(rows)


def _columns(name: str, values: list[float]) -> dict[str, float]:
    found = estimate(values)
    return {
        name: found.mean, f"{name}_sd": found.sd, f"{name}_low": found.low,
        f"{name}_high": found.high,
    }  # fmt: skip


def readable_calibration(table: pandas.DataFrame) -> pandas.DataFrame:
    columns = {"setting": table["setting"], "n": table["n"].astype(str)}
    for name, heading, gap in (
        ("balanced_accuracy", "balanced accuracy (%)", ""),
        ("calibration_error", "expected calibration error (%)", " "),
    ):
        columns[heading] = table[name].map(ACCURACY.number)
        ends = zip(table[f"{name}_low"], table[f"{name}_high"], strict=True)
        columns[f"95 % interval{gap}"] = [_interval(ACCURACY.number, *each) for each in ends]
    return pandas.DataFrame(columns)


def _interval(number, low: float, high: float) -> str:
    return "–" if math.isnan(low) else f"{number(low)} to {number(high)}"


def classes_table(
    images: dict[Setting, list[Images]], names: list[str], sizes: list[int] | None
) -> pandas.DataFrame:
    """A row for each setting and class: accuracy on the class's images in percent, the mean over
    the setting's runs with Student's 95 % interval; NaN for a class without images.

    sizes: training images of each class, where they are known.
    """
    rows = []
    for setting, runs in images.items():
        recalls = 100 * np.array([run.recalls for run in runs])
        for number, name in enumerate(names):
            rows.append(
                {
                    "setting": setting.label,
                    "number": number,
                    "class": name,
                    "training_images": sizes[number] if sizes else pandas.NA,
                    "images": int(runs[0].class_counts[number]),
                    "n": len(runs),
                }
                | _columns("accuracy", recalls[:, number].tolist())
            )
    return pandas.DataFrame(rows)


def readable_classes(table: pandas.DataFrame, settings: list[Setting]) -> pandas.DataFrame:
    """A row for each class, and a column for each setting."""
    columns = {}
    for setting in settings:
        mine = table[table["setting"] == setting.label]
        columns["class"] = mine["class"].tolist()
        if mine["training_images"].notna().all():
            columns["training images"] = mine["training_images"].astype(str).tolist()
        columns["images"] = mine["images"].astype(str).tolist()
        columns[setting.label] = [
            _mean_and_interval(*each)
            for each in zip(
                mine["accuracy"], mine["accuracy_low"], mine["accuracy_high"], strict=True
            )
        ]
    return pandas.DataFrame(columns)


def bands_table(images: dict[Setting, list[Images]], sizes: list[int] | None) -> pandas.DataFrame:
    """A row for each setting and band of BANDS that has classes: the mean of their accuracies in
    percent, over the setting's runs. Empty where the classes are all of one band."""
    members = {
        band: [number for number, size in enumerate(sizes or []) if first <= size <= last]
        for band, (first, last) in BANDS.items()
    }
    members = {band: numbers for band, numbers in members.items() if numbers}
    if len(members) < 2:
        return pandas.DataFrame()
    return pandas.DataFrame(
        {"setting": setting.label, "band": band, "classes": len(numbers), "n": len(runs)}
        | _columns("accuracy", [100 * np.nanmean(run.recalls[numbers]) for run in runs])
        for setting, runs in images.items()
        for band, numbers in members.items()
    )


def readable_bands(table: pandas.DataFrame) -> pandas.DataFrame:
    """A row for each setting, and a column for each band."""
    rows = {}
    for row in table.itertuples():
        heading = f"{row.band}: {row.classes} class{'es' if row.classes > 1 else ''}"
        cell = _mean_and_interval(row.accuracy, row.accuracy_low, row.accuracy_high)
        rows.setdefault(row.setting, {"setting": row.setting})[heading] = cell
    return pandas.DataFrame(rows.values())


def _mean_and_interval(mean: float, low: float, high: float) -> str:
    interval = "" if math.isnan(low) else f" ({max(low, 0):.1f} to {min(high, 100):.1f})"
    return "–" if math.isnan(mean) else f"{mean:.1f}{interval}"


def units_table(found: list[OnUnits]) -> pandas.DataFrame:
    """A row for each comparison and seed, and one for all seeds together; differences in percent
    of the images, or in nats per token."""
    rows = []
    for each in found:
        names = {"setting": each.comparison.setting.label}
        names |= {"baseline": each.comparison.baseline.label}
        for pair in each.seeds:
            row = names | {"seed": pair.seed} | _difference(pair.difference)
            if not math.isnan(pair.p):
                row |= {"only_setting_right": pair.only_setting}
                row |= {"only_baseline_right": pair.only_baseline}
                row |= {"p_mcnemar": pair.p, "p_holm": pair.p_holm}
            rows.append(row)
        rows.append(names | {"seed": "mean over seeds"} | _difference(each.together))
    counts = ("only_setting_right", "only_baseline_right")
    frame = pandas.DataFrame(rows)
    return frame.astype({name: "Int64" for name in counts if name in frame})


def _difference(found: Estimate) -> dict:
    error = found.sd / math.sqrt(found.n)
    return {
        "units": found.n, "difference": found.mean, "standard_error": error, "low": found.low,
        "high": found.high,
    }  # fmt: skip


def readable_units(found: list[OnUnits], metric: Metric, units: str) -> pandas.DataFrame:
    """A row for each comparison: all seeds together, and how many of them differ by themselves."""
    rows = []
    for each in found:
        together = each.together
        row = {
            "setting": each.comparison.setting.label,
            "against": each.comparison.baseline.label,
            "seeds": str(len(each.seeds)),
            "difference": metric.signed(together.mean),
            "standard error": metric.number(together.sd / math.sqrt(together.n)),
            f"95 % interval over {units}": _interval(metric.signed, together.low, together.high),
        }
        if metric is ACCURACY:
            better = sum(
                pair.differs and pair.only_setting > pair.only_baseline for pair in each.seeds
            )
            worse = sum(pair.differs for pair in each.seeds) - better
            row["seeds better, p < 0.05 (Holm)"] = str(better)
            row["seeds worse, p < 0.05 (Holm)"] = str(worse)
        rows.append(row)
    return pandas.DataFrame(rows)


def readable_seeds(found: list[OnUnits]) -> pandas.DataFrame:
    """McNemar's test of each seed."""
    return pandas.DataFrame(
        {
            "setting": each.comparison.setting.label,
            "against": each.comparison.baseline.label,
            "seed": pair.seed,
            "only the first right": str(pair.only_setting),
            "only the second right": str(pair.only_baseline),
            "difference": ACCURACY.signed(pair.difference.mean),
            "p, McNemar": p_value(pair.p),
            "p, Holm": p_value(pair.p_holm),
        }
        for each in found
        for pair in each.seeds
    )


def reliability_table(images: dict[Setting, list[Images]]) -> pandas.DataFrame:
    """A row for each setting and bin, over all its runs together; confidence and accuracy from 0
    to 1, NaN for a bin without images."""
    edges = np.linspace(0, 1, BINS + 1)
    frames = []
    for setting, runs in images.items():
        frame = pandas.DataFrame(pooled_bins(runs), columns=["images", "confidence", "accuracy"])
        frame.insert(0, "setting", setting.label)
        frame.insert(1, "above", edges[:-1])
        frame.insert(2, "up_to", edges[1:])
        frames.append(frame.astype({"images": int}))
    return pandas.concat(frames) if frames else pandas.DataFrame()
