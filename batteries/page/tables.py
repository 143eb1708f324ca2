"""Make the tables of a battery's page."""

import math

import pandas

from analysis.statistics import estimate
from analysis.wording import ABSENT, value_text
from batteries.findings import ArmFindings, Comparison, Findings, TaskFindings
from batteries.page.words import direction, shown_verdict, signed_interval, unit_gain


def verdicts(findings: Findings) -> pandas.DataFrame:
    """Return a row for each task."""
    return pandas.DataFrame([verdict_row(task) for task in findings.tasks])


def verdict_row(task: TaskFindings) -> dict[str, str]:
    found, metric = task.decision, task.metric
    if found and not found.n:
        found = None
    return {
        "task": task.name,
        "network and data": task.title,
        "verdict": shown_verdict(task),
        "against": task.baseline,
        "difference": metric.difference(found.difference) if found else ABSENT,
        "interval over all looks": (
            signed_interval(metric, found.low, found.high) if found else ABSENT
        ),
        "margin": f"±{metric.difference(task.margin, signed=False)}",
        "n": str(found.n) if found else ABSENT,
        "metric": f"{metric.words}, {direction(metric)}",
    }


def arms(task: TaskFindings) -> pandas.DataFrame:
    """Return a row for each activation of a task."""
    return pandas.DataFrame([arm_row(task, arm) for arm in task.arms])


def arm_row(task: TaskFindings, arm: ArmFindings) -> dict[str, str]:
    metric, found = task.metric, estimate(finite(arm))
    chosen = ", ".join(f"{name} {value_text(value)}" for name, value in arm.chosen.items())
    low, high = metric.number(found.low), metric.number(found.high)
    return {
        "activation": arm.label + unit_gain(arm),
        "n": str(found.n),
        metric.axis("test"): metric.number(found.mean),
        "sd": metric.number(found.sd),
        # Of runs some of which diverged, a mean's interval says nothing.
        "95 % interval": (ABSENT if math.isnan(found.low) or arm.diverged else f"{low} to {high}"),
        "chosen": chosen + (" (edge)" if arm.at_edge else "") or ABSENT,
        "diverged": f"{arm.diverged} of {len(arm.seeds)}" if arm.seeds else ABSENT,
        "dead channels (%)": share([each.dead for each in arm.seeds]),
        "flat units (%)": share([each.flat for each in arm.seeds]),
    }


def finite(arm: ArmFindings) -> list[float]:
    """Return the values of an arm's seeds, without those of which the run has none."""
    return [value for value in arm.values if math.isfinite(value)]


def share(values: list[float | None]) -> str:
    """Return the mean of shares in percent, over the runs that recorded one."""
    known = [each for each in values if each is not None and math.isfinite(each)]
    return f"{100 * sum(known) / len(known):.1f}" if known else ABSENT


def further(task: TaskFindings) -> pandas.DataFrame:
    """Return a row for each further comparison of a task."""
    return pandas.DataFrame([further_row(task, each) for each in task.further])


def further_row(task: TaskFindings, found: Comparison) -> dict[str, str]:
    metric = task.metric
    has_interval = found.low is not None and found.high is not None
    return {
        "difference": f"{found.label} − {found.other}",
        "mean": metric.difference(found.difference),
        "95 % interval": (
            signed_interval(metric, found.low or 0.0, found.high or 0.0) if has_interval else ABSENT
        ),
        "n": str(found.n),
    }
