"""Say in sentences what a battery has found."""

import math
from collections.abc import Sequence

from analysis.document import plain
from analysis.sequential import BETTER, EQUIVALENT, ERROR, UNDECIDED, WORSE, Decision
from analysis.wording import ABSENT, value_text
from batteries.findings import (
    BUDGET,
    ITSELF,
    MOST_SEEDS,
    ArmFindings,
    Findings,
    TaskFindings,
)
from run_folder.metrics import Metric, minus

NO_RESULT = "no result"
# In words and in a sign, so that no colour is needed to tell them apart.
SIGNS = {BETTER: "▲", WORSE: "▼", EQUIVALENT: "=", UNDECIDED: "○", ITSELF: "·", NO_RESULT: "×"}
SHOWN = {ITSELF: "is the usual one"}
NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def verdict_of(task: TaskFindings) -> str:
    """Return BETTER, WORSE, EQUIVALENT, UNDECIDED, ITSELF or NO_RESULT."""
    if task.decision and task.decision.n:
        return task.decision.verdict
    return ITSELF if task.stopped == ITSELF else NO_RESULT


def shown_verdict(task: TaskFindings) -> str:
    """Return a verdict with its sign, for a table."""
    verdict = verdict_of(task)
    return f"{SIGNS[verdict]} {SHOWN.get(verdict, verdict)}"


def summary(findings: Findings) -> list[str]:
    """Return three sentences: what was found, how sure that is, and what it does not show."""
    return [found(findings), certainty(findings), limits(findings)]


# --- the first sentence ---


def found(findings: Findings) -> str:
    """Return on which tasks the activation was better, worse, equivalent, undecided."""
    tasks = findings.tasks
    counted = f"{count(len(tasks))} {findings.size} task" + "s" * (len(tasks) != 1)
    by_verdict = {name: [t for t in tasks if verdict_of(t) == name] for name in SIGNS}
    compared = [
        f"better than the task's usual activation on {named(by_verdict[BETTER])}",
        f"worse on {named(by_verdict[WORSE])}",
    ]
    if by_verdict[EQUIVALENT]:
        compared.append(f"equivalent within the margin on {named(by_verdict[EQUIVALENT])}")
    if by_verdict[UNDECIDED]:
        compared.append(f"undecided on {named(by_verdict[UNDECIDED])}")
    text = f"On {counted}, {how(findings)}, **{plain(findings.label)}** was {listed(compared)}"
    if by_verdict[ITSELF]:
        text += f"; on {named(by_verdict[ITSELF])} it is itself the usual activation"
    if by_verdict[NO_RESULT]:
        text += f"; on {named(by_verdict[NO_RESULT])} there is no result"
    return f"{text}."


def how(findings: Findings) -> str:
    """Return how the runs were made fair, as far as that is so."""
    numbers = {len(arm.trials) for task in findings.tasks for arm in task.arms if arm.trials}
    flags = tuned_flags(findings)
    tuned = f"with {in_words(flags)} tuned for every activation" if flags else "with nothing tuned"
    equal = " by equally many trials" if len(numbers) == 1 and flags else ""
    return f"{tuned}{equal} and the number of seeds decided sequentially"


def tuned_flags(findings: Findings) -> list[str]:
    """Return the flags that were tuned in any task."""
    arms = [arm for task in findings.tasks for arm in task.arms]
    return list(dict.fromkeys(flag for arm in arms for each in arm.trials for flag in each.flags))


def in_words(flags: Sequence[str]) -> str:
    return listed(["the learning rate" if flag == "lr" else f"`--{flag}`" for flag in flags])


def named(tasks: Sequence[TaskFindings]) -> str:
    """Return how many tasks these are, with their names."""
    names = ", ".join(plain(task.name) for task in tasks)
    return count(len(tasks)) + (f" ({names})" if names else "")


def count(number: int) -> str:
    return NUMBERS[number] if number < len(NUMBERS) else str(number)


def listed(parts: Sequence[str]) -> str:
    """Return parts as "a, b and c"."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


# --- the second ---


def certainty(findings: Findings) -> str:
    """Return what the verdicts are worth, and what went wrong on the way."""
    decided = [task.decision for task in findings.tasks if task.decision and task.decision.look]
    if not decided:
        text = "No comparison with a usual activation was made"
    else:
        seeds = sorted({each.n for each in decided})
        n = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        text = (
            f"Each verdict rests on n = {n} seeds, paired, and by itself errs with a probability "
            f"of at most {100 * ERROR:.0f}\u00a0% over all looks"
        )
        if len(decided) > 1:
            any_wrong = 1 - (1 - ERROR) ** len(decided)
            text += (
                f", so that of {count(len(decided))} such verdicts at least one is wrong with a "
                f"probability of up to about {100 * any_wrong:.0f}\u00a0% if the tasks are "
                "independent"
            )
    return f"{text}{trouble(findings)}."


def trouble(findings: Findings) -> str:
    """Return what went wrong with the candidate's runs; empty if nothing."""
    arms = [task.candidate for task in findings.tasks]
    diverged, made = sum(arm.diverged for arm in arms), sum(len(arm.seeds) for arm in arms)
    failed = [task.name for task in findings.tasks if task.candidate.failure]
    edges = [task.name for task in findings.tasks if task.candidate.at_edge]
    parts = []
    if diverged:
        parts.append(f"{diverged} of its {made} reported runs diverged")
    if failed:
        parts.append(f"it could not be trained as planned on {plain(', '.join(failed))}")
    if edges:
        parts.append(
            f"its tuned value lies at the edge of those tried on {plain(', '.join(edges))}, so "
            "that a better one may lie beyond"
        )
    return f"; {listed(parts)}" if parts else ""


# --- the third ---


def limits(findings: Findings) -> str:
    """Return what the battery does not show."""
    flags = tuned_flags(findings)
    more = f"when more than {in_words(flags)} is tuned" if flags else "when settings are tuned"
    others = listed(
        list(dict.fromkeys(plain(t.baseline) for t in findings.tasks if t.stopped != ITSELF))
    )
    usual = f"the usual activation is one per task (here {others})" if others else (
        "no task has another usual activation here"
    )  # fmt: skip
    return (
        "What this does not show is how the activation does in larger networks, on more data, over "
        f"longer training, with other optimizers or {more}; {usual}, and the comparisons with the "
        "other rivals below do not account for their number or for the looks."
    )


# --- of a task ---


def verdict_sentence(task: TaskFindings, label: str) -> str:
    """Return the comparison of a task in a sentence."""
    verdict = verdict_of(task)
    if verdict == ITSELF:
        return f"{plain(label)} is this task's usual activation: there is nothing to compare."
    found = task.decision
    if found is None or verdict == NO_RESULT:
        reason = task.candidate.failure or task.stopped
        return f"**{SIGNS[NO_RESULT]} no result:** {plain(reason)}."
    metric = task.metric
    within = f" within ±{metric.difference(task.margin, signed=False)}"
    if found.excludes_zero:
        within += ", though not equal"
    words = {
        BETTER: "better", WORSE: "worse", EQUIVALENT: f"equivalent{within}",
        UNDECIDED: f"undecided{why_undecided(task)}",
    }[verdict]  # fmt: skip
    return (
        f"**{SIGNS[verdict]} {words}:** {plain(label)} − {plain(task.baseline)} = "
        f"{metric.difference(found.difference)} in {metric.words} "
        f"({direction(metric)}); {over_all_looks(metric, found)}; n = {found.n} pairs of "
        f"seeds{left_out(found)}."
    )


def left_out(found: Decision) -> str:
    """Return how many pairs do not count, since a run of theirs diverged."""
    return f", {found.left_out} more left out that diverged" if found.left_out else ""


def why_undecided(task: TaskFindings) -> str:
    if task.stopped == MOST_SEEDS:
        return " at the most seeds allowed"
    if task.stopped == BUDGET:
        return " when the time allowed was used up"
    return ""


def over_all_looks(metric: Metric, found: Decision) -> str:
    return f"interval over all looks {signed_interval(metric, found.low, found.high)}"


def signed_interval(metric: Metric, low: float, high: float) -> str:
    if math.isnan(low):
        return ABSENT
    return f"{metric.signed(low)} to {metric.signed(high)}"


def direction(metric: Metric) -> str:
    return "higher is better" if metric.higher_is_better else "lower is better"


def trials_line(arm: ArmFindings, metric: Metric) -> str:
    """Return what was tried for an arm, with the metric on validation, and what was chosen."""
    parts, sign = [], 1 if metric.higher_is_better else -1
    for trial in arm.trials:
        flags = ", ".join(f"{name} {value_text(value)}" for name, value in trial.flags.items())
        score = "diverged" if trial.score is None else minus(f"{sign * trial.score:.4g}")
        chosen = " (chosen)" if trial.flags == arm.chosen else ""
        parts.append(f"{plain(flags)}: {score}{chosen}")
    text = f"{plain(arm.label)}{unit_gain(arm)}: {'; '.join(parts) or 'nothing was tried'}"
    notes = ["the chosen value is at the edge"] if arm.at_edge else []
    notes += [plain(arm.failure)] if arm.failure else []
    return f"{text}. {'; '.join(notes).capitalize()}." if notes else f"{text}."


def unit_gain(arm: ArmFindings) -> str:
    """Return a mark of the arm whose weights have the activation's own gain."""
    return " with unit gain" if "unit gain" in arm.role and "unit gain" not in arm.label else ""
