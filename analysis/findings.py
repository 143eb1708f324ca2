"""Find everything that a report says of its runs, before a word of it is written."""

from dataclasses import dataclass
from functools import cached_property

from analysis.comparisons import (
    AGAINST_BASELINE,
    Comparison,
    all_comparisons,
    check_plan,
    corrected,
)
from analysis.grouping import Group, Grouping, group_runs, group_started_runs
from analysis.measures import metric_of
from analysis.plan import AnalysisPlan
from analysis.predictions import GroupPredictions, Images, group_predictions
from analysis.run_folders import RunResult
from analysis.until_decided import with_decisions
from analysis.variants import Variant
from run_folder.metrics import Metric

MOST_SHOWN = 6  # variants beside each other, in a table of classes or in maps


@dataclass(frozen=True, eq=False)
class GroupFindings:
    """Hold the findings in one group.

    Attributes:
        number: The place of the group in the report, from 1; its tables and figures end in it.
        group: The runs.
        metric: The metric that the runs are judged by.
        comparisons: The comparisons in this group.
    """

    number: int
    group: Group
    metric: Metric
    comparisons: list[Comparison]

    @property
    def title(self) -> str:
        return self.group.title

    @cached_property
    def predictions(self) -> GroupPredictions:
        """Return the runs' predictions, which are read when they are first asked for."""
        return group_predictions(self.group)

    @cached_property
    def images(self) -> dict[Variant, list[Images]]:
        """Return the predictions of each variant's classifiers, for the variants that have any."""
        known = self.predictions.images
        found = {
            variant: [known[run.path] for run in self.group.runs_of(variant) if run.path in known]
            for variant in self.group.variants
        }
        return {variant: images for variant, images in found.items() if images}

    def comparisons_of(self, kind: str) -> list[Comparison]:
        return [each for each in self.comparisons if each.kind == kind]

    def main_variants(self, variants: list[Variant]) -> list[Variant]:
        """Return up to MOST_SHOWN of these, in their order: the baseline and the primary always."""
        first = [each.baseline for each in self.comparisons_of(AGAINST_BASELINE)]
        first += [each.variant for each in self.comparisons if each.primary]
        kept = sorted(variants, key=lambda variant: variant not in first)[:MOST_SHOWN]
        return [variant for variant in variants if variant in kept]


@dataclass(frozen=True, eq=False)
class Findings:
    """Hold the findings of a report.

    Attributes:
        title: The title of the report.
        runs: All runs that were found.
        plan: What is asked of them.
        grouping: The finished runs in groups, and the runs left out.
        started: All runs that were started, finished or not, in groups.
        groups: The findings in each group of `grouping`, in its order.
    """

    title: str
    runs: list[RunResult]
    plan: AnalysisPlan
    grouping: Grouping
    started: list[Group]
    groups: list[GroupFindings]

    @property
    def comparisons(self) -> list[Comparison]:
        return [each for group in self.groups for each in group.comparisons]


def analyse(title: str, runs: list[RunResult], plan: AnalysisPlan) -> Findings:
    """Group the runs, and make the comparisons that the plan asks for.

    Raises:
        UserError: The plan names a setting or a metric that no run has.
    """
    grouping, started = group_runs(runs), group_started_runs(runs)
    check_plan(grouping.groups, plan, started)
    metrics = [metric_of(group, plan.metric) for group in grouping.groups]
    found = all_comparisons(grouping.groups, plan, metrics)
    comparisons = corrected(with_decisions(found, plan))
    groups = [
        GroupFindings(number, group, metric, [c for c in comparisons if c.group is group])
        for number, (group, metric) in enumerate(zip(grouping.groups, metrics, strict=True), 1)
    ]
    return Findings(title, runs, plan, grouping, started, groups)
