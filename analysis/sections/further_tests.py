"""Tell the results on test sets beside the test set, and those of averaged weights.

They are of the last epoch, as the runs' final results are.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas

from analysis.comparisons import Comparison
from analysis.document import Document, plain
from analysis.findings import GroupFindings
from analysis.measures import final_value
from analysis.run_folders import RunResult
from analysis.section import Section, estimate_columns, omission_note
from analysis.statistics import Paired, estimate, holm
from analysis.wording import ABSENT, interval, p_value
from run_folder.records import read_also

OWN = "test"  # the run's own test set, in the column beside the others
OWN_AVERAGED = "test EMA"
METHOD = (
    "**Further test sets** are tested with the weights of the last epoch; *EMA* is the moving "
    "average of the weights. Differences are paired by seed, with the paired t test, and Holm's "
    "correction is over all further sets and comparisons of a group; those on the test set itself "
    "are corrected by themselves, above. The same networks are tested on all sets, so the results "
    "are not independent. A mean over corruptions is over the 15 of Hendrycks and Dietterich "
    "(2019, arXiv 1903.12261) and five severities; the mean corruption error is 100 less it, not "
    "divided by AlexNet's."
)


@dataclass(frozen=True)
class SetComparison:
    """Compare two settings on one test set: the pairs' test, and its p corrected over the group."""

    name: str
    comparison: Comparison
    paired: Paired
    p_holm: float = math.nan


@dataclass(frozen=True)
class FurtherResults:
    """Hold the results of a group's runs.

    Attributes:
        of_runs: metrics by the name of the set, for each run by its folder.
        problems: sentences on files that cannot be used.
    """

    of_runs: dict[Any, dict[str, dict[str, Any]]]
    problems: list[str]

    @property
    def names(self) -> list[str]:
        """Return the names of the sets, in the order in which they were tested."""
        found = dict.fromkeys(name for results in self.of_runs.values() for name in results)
        return sorted(found, key=lambda name: name != OWN_AVERAGED)

    def values(self, runs: list[RunResult], name: str, metric: str) -> list[float]:
        """Return the results of these runs on a set; NaN for a run without it."""
        return [self.of_runs[run.path].get(name, {}).get(metric, math.nan) for run in runs]


class FurtherTests(Section):
    def write_group(self, document: Document, group: GroupFindings) -> None:
        found = self.results[group.number]
        if not (found.names or found.problems):
            return
        document.heading(3, "Further test sets")
        document.items([plain(text) for text in found.problems])
        if not found.names:
            return
        table = further_table(group, found)
        if table.empty:
            document.paragraph(f"None of {plain(', '.join(found.names))} has {group.metric.name}.")
            return
        document.table(f"further-{group.number}", readable_further(group, table))
        document.paragraph(
            f"Final {group.metric.axis()}: means and standard deviations over seeds. "
            "`further.csv` has the intervals."
        )
        if self.compared[group.number]:
            readable = readable_comparisons(group, self.compared[group.number])
            document.table(f"further-differences-{group.number}", readable)
            unit = group.metric.difference_unit or group.metric.words
            document.paragraph(f"Differences on each of these sets in {unit}, paired by seed.")
        for number, name in enumerate(corrupted(found), 1):
            self._write_corruptions(document, group, name, number)

    def _write_corruptions(
        self, document: Document, group: GroupFindings, name: str, number: int
    ) -> None:
        table = corruptions_table(group, self.results[group.number])
        table = table[table["test_set"] == name]
        there = set(table["setting"])
        shown = group.main_variants([v for v in group.group.variants if v.label in there])
        labels = [variant.label for variant in shown]
        note = omission_note(there, shown, "corruptions")
        readable = readable_corruptions(table, labels, group)
        document.table(f"corruptions-{group.number}-{number}", readable)
        document.paragraph(
            f"{plain(name)}: {group.metric.axis()} by corruption, means over severities and seeds."
            f"{note} `corruptions.csv` has each severity."
        )

    def methods(self) -> list[str]:
        return [METHOD] if any(found.names for found in self.results.values()) else []

    def csv_tables(self) -> dict[str, pandas.DataFrame]:
        return (
            self.csv_of_groups("further", lambda g: further_table(g, self.results[g.number]))
            | self.csv_of_groups(
                "further_comparisons", lambda g: comparisons_table(self.compared[g.number])
            )
            | self.csv_of_groups(
                "corruptions", lambda g: corruptions_table(g, self.results[g.number])
            )
        )

    @cached_property
    def results(self) -> dict[int, FurtherResults]:
        """Return the results of each group, by its number."""
        return {group.number: further_results(group) for group in self.findings.groups}

    @cached_property
    def compared(self) -> dict[int, list[SetComparison]]:
        """Return the comparisons on further sets of each group, by its number."""
        return {
            group.number: comparisons_of(group, self.results[group.number])
            for group in self.findings.groups
        }


def further_results(group: GroupFindings) -> FurtherResults:
    """Read the results of all runs of a group; those on other images than most are left out."""
    of_runs: dict[Any, dict[str, dict[str, Any]]] = {}
    problems = []
    for run in group.group.all_runs():
        try:
            also = read_also(run.path) if run.is_ours else {}
        except ValueError as error:
            problems.append(f"{error}; its further test sets are left out")
            also = {}
        own = {OWN_AVERAGED: run.final["test_ema"]} if "test_ema" in run.final else {}
        of_runs[run.path] = own | also
    found = FurtherResults(of_runs, problems)
    for name in found.names:
        counts = [each[name].get("count") for each in of_runs.values() if name in each]
        usual = max(counts, key=counts.count)
        for path, each in of_runs.items():
            if name in each and each[name].get("count") != usual:
                problems.append(
                    f"{path}: {name} has {each[name].get('count')} samples there, and {usual} in "
                    "most runs; left out"
                )
                del each[name]
    return found


def further_table(group: GroupFindings, found: FurtherResults) -> pandas.DataFrame:
    """Return a row for each set and variant that was tested on it, unrounded.

    `fall` is the mean of the run's own test result less that of the set.
    """
    metric, rows = group.metric, []
    for name in found.names:
        for variant in group.group.variants:
            runs = group.group.runs_of(variant)
            values = found.values(runs, name, metric.name)
            known = [x for x in values if not math.isnan(x)]
            if not known:
                continue
            falls = [
                final_value(run, metric) - value
                for run, value in zip(runs, values, strict=True)
                if not math.isnan(value)
            ]
            row: dict[str, Any] = {
                "test_set": name,
                "metric": metric.name,
                "setting": variant.label,
            }
            row |= {"n": len(known)} | estimate_columns("mean", known)
            rows.append(row | {"fall": estimate(falls).mean})
    return pandas.DataFrame(rows)


def readable_further(group: GroupFindings, table: pandas.DataFrame) -> pandas.DataFrame:
    """Return a row for each variant, and a column for each set, the run's own first."""
    metric, rows = group.metric, []
    cells = {(row.test_set, row.setting): row for row in table.itertuples()}
    for variant in group.group.variants:
        if variant.label not in set(table["setting"]):
            continue
        runs = group.group.runs_of(variant)
        own = estimate([final_value(run, metric) for run in runs])
        row = {"setting": variant.label, "n": str(len(runs))}
        row[OWN] = _mean_and_sd(metric.number(own.mean), metric.number(own.sd))
        for name in dict.fromkeys(table["test_set"]):
            cell = cells.get((name, variant.label))
            row[name] = ABSENT
            if cell is not None:
                row[name] = _mean_and_sd(metric.number(cell.mean), metric.number(cell.mean_sd))
                row[name] += f" (n = {cell.n})" if cell.n != len(runs) else ""
        rows.append(row)
    return pandas.DataFrame(rows)


def _mean_and_sd(mean: str, sd: str) -> str:
    return mean if sd == ABSENT else f"{mean} ± {sd}"


# --- differences ---


def comparisons_of(group: GroupFindings, found: FurtherResults) -> list[SetComparison]:
    """Return each of the group's comparisons on each set that both settings were tested on."""
    compared = []
    for name in found.names:
        for each in group.comparisons:
            pairs = each.run_pairs.values()
            values = [
                found.values([pair[side] for pair in pairs], name, group.metric.name)
                for side in (0, 1)
            ]
            both = [
                pair for pair in zip(*values, strict=True) if not any(math.isnan(x) for x in pair)
            ]
            if len(both) >= 2:
                mine, theirs = zip(*both, strict=True)
                compared.append(SetComparison(name, each, each.compare(mine, theirs)))
    adjusted = holm([each.paired.p for each in compared])
    return [
        SetComparison(each.name, each.comparison, each.paired, p)
        for each, p in zip(compared, adjusted, strict=True)
    ]


def comparisons_table(compared: list[SetComparison]) -> pandas.DataFrame:
    """Return a row for each comparison on each set, unrounded."""
    return pandas.DataFrame(
        {
            "test_set": each.name,
            "metric": each.comparison.metric.name,
            "setting": each.comparison.variant.label,
            "baseline": each.comparison.baseline.label,
            "pairs": each.paired.n,
            "difference": each.paired.mean,
            "sd": each.paired.sd,
            "low": each.paired.low,
            "high": each.paired.high,
            "p_paired_t": each.paired.p,
            "p_holm": each.p_holm,
            "p_wilcoxon": each.paired.wilcoxon_p,
        }
        for each in compared
    )


def readable_comparisons(group: GroupFindings, compared: list[SetComparison]) -> pandas.DataFrame:
    """Return a row for each comparison on each set, rounded."""
    metric = group.metric
    return pandas.DataFrame(
        {
            "test set": each.name,
            "setting": each.comparison.variant.label,
            "against": each.comparison.baseline.label,
            "pairs": str(each.paired.n),
            "difference": metric.signed(each.paired.mean),
            "95 % interval": interval(each.paired.low, each.paired.high, metric.signed),
            "p": p_value(each.paired.p),
            "p, Holm": p_value(each.p_holm) if len(compared) > 1 else "(one test)",
        }
        for each in compared
    )


# --- corruptions ---


def corrupted(found: FurtherResults) -> list[str]:
    """Return the names of the sets with parts CORRUPTION/SEVERITY."""
    return [
        name
        for name in found.names
        if any(each.get(name, {}).get("parts") for each in found.of_runs.values())
    ]


def corruptions_table(group: GroupFindings, found: FurtherResults) -> pandas.DataFrame:
    """Return a row for each set, variant, corruption and severity, unrounded."""
    rows = []
    for name in corrupted(found):
        for variant in group.group.variants:
            runs = group.group.runs_of(variant)
            results = (found.of_runs[run.path] for run in runs)
            tested = [each[name] for each in results if name in each]
            for part in tested[0]["parts"] if tested else ():
                values = [
                    each["parts"].get(part, {}).get(group.metric.name, math.nan) for each in tested
                ]
                corruption, _, severity = part.partition("/")
                row = {"test_set": name, "setting": variant.label, "corruption": corruption}
                row |= {"severity": severity, "n": len(values)}
                rows.append(row | estimate_columns(group.metric.name, values))
    return pandas.DataFrame(rows)


def readable_corruptions(
    table: pandas.DataFrame, labels: list[str], group: GroupFindings
) -> pandas.DataFrame:
    """Return a row for each corruption, means over severities, and a column for each setting."""
    metric = group.metric
    columns: dict[str, list[str]] = {"corruption": list(dict.fromkeys(table["corruption"]))}
    for label in labels:
        means = table[table["setting"] == label].groupby("corruption")[metric.name].mean()
        columns[label] = [
            metric.number(means.get(name, math.nan)) for name in columns["corruption"]
        ]
    return pandas.DataFrame(columns)
