"""Write the main table: final and validation-selected results of variants, time and memory."""

import math
import statistics

import pandas

from analysis.document import Document
from analysis.findings import GroupFindings
from analysis.grouping import Group
from analysis.measures import (
    SPLIT_WORDS,
    epoch_seconds,
    final_estimate,
    memory_gib,
    selected_value,
    step_ms,
    trained_number,
    validation_value,
)
from analysis.section import Section
from analysis.statistics import estimate
from analysis.wording import fixed, interval
from run_folder.metrics import Metric
from run_folder.records import split_of
from run_folder.result_lines import TEST_LINE

METHODS = (
    "**Unit.** A run is one seed of one setting; what is averaged are runs, never epochs. The "
    "final result is that of the last epoch. *At best validation* is the test result at the epoch "
    "whose validation score was best. No epoch is chosen by its test result.",
    "**Intervals** are Student's 95 % t intervals over seeds (Student 1908). They speak of the "
    "spread between seeds on this test set, not of other data.",
)


class FinalResults(Section):
    def write_group(self, document: Document, group: GroupFindings) -> None:
        table = results_table(group.group, group.metric)
        document.table(f"settings-{group.number}", readable_results(table, group.metric))
        split = SPLIT_WORDS[split_of(group.group.any_run().final)].capitalize()
        document.paragraph(
            f"{split} {group.metric.axis()}: final, and at the best validation epoch where there "
            "is any."
        )
        if any(TEST_LINE in run.final for run in group.group.all_runs()):
            document.paragraph(
                "The test results stand in lines of their own, which do not say of which epoch's "
                "weights they are."
            )

    def methods(self) -> tuple[str, ...]:
        return METHODS

    def csv_tables(self) -> dict[str, pandas.DataFrame]:
        tables = []
        for group in self.findings.groups:
            table = results_table(group.group, group.metric)
            table.insert(0, "group", group.title)
            table.insert(1, "metric", group.metric.name)
            tables.append(table)
        return {"settings": pandas.concat(tables) if tables else pandas.DataFrame()}


def results_table(group: Group, metric: Metric) -> pandas.DataFrame:
    """Return a row for each variant, unrounded."""
    rows = []
    for variant in group.variants:
        runs = group.runs_of(variant)
        final = final_estimate(group, variant, metric)
        validated = [x for run in runs if not math.isnan(x := validation_value(run, metric))]
        validation = estimate(validated)
        selected = [x for run in runs if not math.isnan(x := selected_value(run, metric))]
        chosen = estimate(selected)
        rows.append(
            {
                "setting": variant.label,
                "n": final.n,
                "mean": final.mean,
                "sd": final.sd,
                "low": final.low,
                "high": final.high,
                "validation_n": validation.n,
                "validation_mean": validation.mean,
                "validation_sd": validation.sd,
                "selected_n": chosen.n,
                "selected_mean": chosen.mean,
                "selected_sd": chosen.sd,
                "selected_low": chosen.low,
                "selected_high": chosen.high,
                "sigma_at_end": _mean([trained_number(run, "sigma") for run in runs]),
                "alpha_at_end": _mean([trained_number(run, "alpha") for run in runs]),
                "step_ms": _mean([step_ms(run) for run in runs]),
                "epoch_seconds": _mean([epoch_seconds(run) for run in runs]),
                "memory_gib": max((memory_gib(run) for run in runs), default=math.nan),
            }
        )
    return pandas.DataFrame(rows)


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan


def readable_results(table: pandas.DataFrame, metric: Metric) -> pandas.DataFrame:
    """Return the results table rounded, with headings, and without columns that say nothing."""

    def intervals(prefix: str) -> list[str]:
        ends = zip(table[f"{prefix}low"], table[f"{prefix}high"], strict=True)
        return [interval(*each, metric.number) for each in ends]

    # A heading that comes twice ends in a blank the second time: a frame's columns differ.
    columns = {
        "setting": table["setting"],
        "n": table["n"].astype(str),
        "final: mean": table["mean"].map(metric.number),
        "sd": table["sd"].map(metric.number),
        "95 % interval": intervals(""),
    }
    if table["validation_n"].any():
        columns["final validation: mean"] = table["validation_mean"].map(metric.number)
        columns["sd  "] = table["validation_sd"].map(metric.number)
    if table["selected_n"].any():
        columns["at best validation: mean"] = table["selected_mean"].map(metric.number)
        columns["sd "] = table["selected_sd"].map(metric.number)
        columns["95 % interval "] = intervals("selected_")
        if (table["selected_n"] != table["n"]).any():
            columns["n "] = table["selected_n"].astype(str)
    for name, heading, digits in (
        ("sigma_at_end", "σ at the end", 3),
        ("alpha_at_end", "α at the end", 3),
        ("step_ms", "step (ms)", 1),
        ("epoch_seconds", "epoch (s)", 1),
        ("memory_gib", "memory (GiB)", 2),
    ):
        if table[name].notna().any():
            columns[heading] = table[name].map(lambda x, digits=digits: fixed(x, digits))
    return pandas.DataFrame(columns)
