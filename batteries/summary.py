"""Say in a few lines what a battery has found."""

from analysis.sequential import Decision
from analysis.wording import value_text
from batteries.findings import (
    BUDGET,
    ITSELF,
    MOST_SEEDS,
    Comparison,
    Findings,
    TaskFindings,
)
from run_folder.metrics import Metric, minus

WHY = {MOST_SEEDS: "all seeds are used", BUDGET: "the budget is used up"}


def text(found: Findings) -> str:
    """Return a line for each task with its verdict, and the further comparisons under it."""
    lines = [f"{found.label}, {found.size} battery:"]
    for task in found.tasks:
        lines.append(f"  {task.name}: {verdict(task)}")
        lines += [f"    {comparison(each, task)}" for each in task.further]
        lines += [f"    {each}" for each in remarks(task)]
    stored, runs = (sum(getattr(t, name) for t in found.tasks) for name in ("stored", "runs"))
    if stored:
        lines.append(f"  {stored} of the {runs} runs are records of earlier ones.")
    return "\n".join(lines) + "\n"


def verdict(task: TaskFindings) -> str:
    """Return the primary comparison in words."""
    if task.stopped == ITSELF:
        return f"{task.baseline} is this task's baseline: nothing to compare it with"
    found = task.decision
    if found is None or not found.look:
        return f"no verdict ({task.stopped})"
    how = f"{found.verdict} than" if found.verdict in ("better", "worse") else found.verdict
    how = {"equivalent": "equivalent to", "undecided": "undecided against"}.get(found.verdict, how)
    words = f"{how} {task.baseline}: {task.metric.words} {interval(found, task.metric)}"
    words += f", n = {found.n}, margin {task.metric.number(task.margin)}"
    return words if found.is_decided else f"{words} ({WHY.get(task.stopped, task.stopped)})"


def interval(found: Decision | Comparison, metric: Metric) -> str:
    """Return a difference with its interval: "+0.3 points (−0.1 to +0.7)"."""
    difference = metric.difference(found.difference)
    if found.low is None or found.high is None:
        return difference
    return f"{difference} ({metric.signed(found.low)} to {metric.signed(found.high)})"


def comparison(each: Comparison, task: TaskFindings) -> str:
    return f"{each.label} less {each.other}: {interval(each, task.metric)}, n = {each.n}"


def remarks(task: TaskFindings) -> list[str]:
    """Return what must be known with a task's results: divergence, edges, what is missing."""
    found = []
    for arm in task.arms:
        if arm.diverged:
            found.append(f"{arm.label}: {arm.diverged} of {len(arm.seeds)} runs diverged")
        if arm.failure:
            found.append(f"{arm.label}: {arm.failure}")
        if arm.at_edge:
            chosen = ", ".join(f"{n} {minus(value_text(v))}" for n, v in arm.chosen.items())
            found.append(f"{arm.label}: its {chosen} is at the edge of what was tried")
    return found
