"""Sum up: how many runs there are, what was declared, and a sentence for each comparison."""

import math

from analysis.comparisons import ALPHA, Comparison
from analysis.document import Document, plain
from analysis.findings import Findings
from analysis.looks import FIRST, LOOKS
from analysis.section import Section
from analysis.sections.divergence import (
    DivergenceShare,
    divergence_sentence,
    divergence_shares,
    survivors_note,
)
from analysis.sequential import EQUIVALENT, Decision
from analysis.wording import p_equation


class Summary(Section):
    def write_opening(self, document: Document) -> None:
        findings = self.findings
        document.paragraph(_counts(findings))
        document.heading(2, "In short")
        if findings.groups:
            document.paragraph(_declaration(findings))
        else:
            document.paragraph("No run has finished: there is nothing to compare.")
        for group in findings.groups:
            if len(findings.groups) > 1:
                document.paragraph(f"**{plain(group.title)}**")
            if not group.comparisons:
                document.paragraph("Nothing to compare: it has one setting, or lacks the baseline.")
            primary_first = sorted(group.comparisons, key=lambda each: not each.primary)
            document.items(
                [
                    ("**Primary.** " if each.primary else "") + plain(verdict(findings, each))
                    for each in primary_first
                ]
            )
        _write_diverged(document, divergence_shares(findings))


def _write_diverged(document: Document, shares: list[DivergenceShare]) -> None:
    """Name the runs that diverged: they are in no mean, but they are results."""
    for title in dict.fromkeys(share.title for share in shares):
        document.paragraph(f"Diverged, **{plain(title)}**:")
        document.items(
            [
                plain(divergence_sentence(share))
                for share in shares
                if share.title == title and share.is_worth_a_sentence
            ]
        )


def _counts(findings: Findings) -> str:
    left_out = len(findings.grouping.left_out)
    used = sum(len(group.group.all_runs()) for group in findings.groups)
    text = f"{len(findings.runs)} runs were found, {used} of them are compared here"
    if left_out:
        text += f"; {left_out} are [left out](#runs-left-out), each with its reason"
    return f"{text}. `runs.csv` lists all of them."


def _declaration(findings: Findings) -> str:
    plan = findings.plan
    primary = (
        f"The primary comparison is {plain(plan.primary)} against the baseline, declared "
        f"{plan.declared}."
        if plan.primary
        else "No primary comparison was declared: all are corrected together, and a finding asks "
        "for new seeds to confirm it."
    )
    margin = f" Differences within ±{plan.margin:g} count as equivalent." if plan.margin else ""
    looks = ""
    if any(each.decision for each in findings.comparisons):
        looks = (
            f" It gets seeds until it is decided, with looks after {', '.join(map(str, LOOKS))} "
            "pairs; its interval holds over all looks together, at 95 %."
        )
    return primary + margin + looks


def verdict(findings: Findings, comparison: Comparison) -> str:
    """Return what a careful author would write of a comparison.

    It is a sentence with the difference, how sure it is, and the difference that could have been
    seen; where runs diverged, a second one says so.
    """
    note = survivors_note(comparison, divergence_shares(findings))
    return _sentence(comparison, findings.plan.margin) + note


def _sentence(comparison: Comparison, margin: float | None) -> str:
    metric = comparison.metric
    if not math.isfinite(comparison.difference):
        return f"{comparison.title}: too few runs to compare."
    if comparison.decision is not None:
        return f"{comparison.title}: {_decided(comparison, comparison.decision, margin)}."
    low, high = comparison.interval
    facts = metric.difference(comparison.difference)
    if not math.isnan(low):
        facts += f", 95 % interval {metric.signed(low)} to {metric.signed(high)}"
    start = f"{comparison.title}: {facts}"
    if math.isnan(comparison.p):
        return f"{start}; one pair of runs says nothing about chance."
    return f"{start}; {_test(comparison)}: {_conclusion(comparison, margin)}."


def _decided(comparison: Comparison, decision: Decision, margin: float | None) -> str:
    metric = comparison.metric
    text = metric.difference(decision.difference)
    if not decision.look:
        return f"{text}; undecided: {decision.n} pairs of seeds, and the first look is at {FIRST}"
    low, high = metric.signed(decision.low), metric.signed(decision.high)
    text += f", 95 % interval over all looks {low} to {high}; "
    if not decision.is_decided:
        return f"{text}undecided after {decision.n} pairs of seeds"
    text += decision.verdict
    if decision.verdict == EQUIVALENT and margin:
        text += f" within ±{metric.difference(margin, signed=False)}"
        text += " (there is a difference, and a smaller one)" if decision.excludes_zero else ""
    return f"{text}, decided at look {decision.look}, after {decision.n} pairs of seeds"


def _test(comparison: Comparison) -> str:
    n = f"n = {comparison.paired.n}"
    name = "paired t test"
    if not comparison.is_paired:
        n, name = "n = {} and {}".format(*comparison.counts), "Welch's t test, unpaired"
    corrected = ", Holm" if comparison.family > 1 else ""
    return f"{p_equation(comparison.p_holm)} ({name}{corrected}, {n})"


def _conclusion(comparison: Comparison, margin: float | None) -> str:
    metric = comparison.metric
    parts = []
    if comparison.p_holm < ALPHA:
        better = (comparison.difference > 0) == metric.higher_is_better
        parts.append("better" if better else "worse")
    else:
        n = comparison.paired.n if comparison.is_paired else min(comparison.counts)
        parts.append(f"not distinguishable at n = {n}")
        if comparison.is_paired and comparison.detectable > 0:
            seen = metric.difference(comparison.detectable, signed=False)
            parts.append(f"this comparison could have detected {seen}")
    if margin and comparison.equivalence < ALPHA:
        parts.append(f"equivalent within ±{metric.difference(margin, signed=False)}")
    return "; ".join(parts)
