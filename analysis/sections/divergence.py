"""Tell how many runs diverged of those that ended, and whether a variant does so more often.

Diverged runs are left out of every mean, but that they diverged is a result.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import pandas

from analysis.comparisons import ALPHA, Comparison, baseline_of
from analysis.counts import fisher_p, share_interval
from analysis.document import Document
from analysis.findings import Findings, GroupFindings
from analysis.grouping import Group, group_title
from analysis.section import Section
from analysis.statistics import holm
from analysis.variants import Variant
from analysis.wording import ABSENT, p_equation, p_value
from run_folder.status import DIVERGED, FINISHED

METHOD = (
    "**Divergence.** A share is of the runs that ended, by finishing or by diverging; interrupted "
    "ones tell nothing. Its interval is the exact one (Clopper and Pearson 1934), its p Fisher's "
    "exact test (1935) against the baseline, which takes the runs as unpaired, with Holm's "
    "correction over all of these in the report. Diverged runs are in no mean: where many "
    "diverged, a mean is of the lucky ones."
)


class Divergence(Section):
    def write_group(self, document: Document, group: GroupFindings) -> None:
        shares = [each for each in divergence_shares(self.findings) if each.title == group.title]
        if shares:
            document.table(f"divergence-{group.number}", readable_divergence(shares))
            document.paragraph("Runs that diverged, of those that ended.")

    def methods(self) -> list[str]:
        return [METHOD] if divergence_shares(self.findings) else []

    def csv_tables(self) -> dict[str, pandas.DataFrame]:
        shares = divergence_shares(self.findings)
        return {"divergence": divergence_table(shares)} if shares else {}


@dataclass(frozen=True)
class DivergenceShare:
    """Hold the share of a variant's runs in one group that diverged.

    Attributes:
        title: The group's.
        variant: The variant.
        diverged: How many runs diverged.
        ended: How many diverged or finished. How the interrupted ones would have ended is unknown.
        started: All runs, interrupted ones included.
        baseline: The variant that p compares with; None for the baseline itself.
        baseline_share: The baseline's share.
        p: Fisher's, of equal shares.
        p_holm: p, corrected over the `family` tests of the report.
    """

    title: str
    variant: Variant
    diverged: int
    ended: int
    started: int
    baseline: Variant | None = None
    baseline_share: float = math.nan
    p: float = math.nan
    p_holm: float = math.nan
    family: int = 1

    @property
    def share(self) -> float:
        return self.diverged / self.ended if self.ended else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval, from 0 to 1 (Clopper and Pearson 1934)."""
        return share_interval(self.diverged, self.ended)

    @property
    def is_worth_a_sentence(self) -> bool:
        return self.diverged > 0 or self.p_holm < ALPHA


# Cached because every sentence on a comparison asks for them; a program writes one report.
@lru_cache(maxsize=1)
def divergence_shares(findings: Findings) -> list[DivergenceShare]:
    """Return the share of every variant, for the groups in which a run diverged.

    They come in the order of the report's groups; groups in which no run finished come last.
    """
    groups = [group.group for group in findings.groups]
    titles = {group.key: group.title for group in groups}
    places = {key: place for place, key in enumerate(titles)}
    affected = [
        group for group in findings.started if any(run.kind == DIVERGED for run in group.all_runs())
    ]
    found = []
    for group in sorted(affected, key=lambda group: places.get(group.key, len(places))):
        title = titles.get(group.key)
        title = title or f"{group_title(group, [*groups, group])} (no run finished)"
        found += _shares_of_group(group, title, findings.plan.baseline)
    adjusted = holm([each.p for each in found])
    family = sum(not math.isnan(p) for p in adjusted)
    return [replace(s, p_holm=p, family=family) for s, p in zip(found, adjusted, strict=True)]


def _shares_of_group(group: Group, title: str, baseline_name: str | None) -> list[DivergenceShare]:
    found = {}
    for variant in group.variants:
        kinds = [run.kind for run in group.runs_of(variant)]
        diverged = kinds.count(DIVERGED)
        ended = diverged + kinds.count(FINISHED)
        found[variant] = DivergenceShare(title, variant, diverged, ended, len(kinds))
    baseline = baseline_of(group, baseline_name)
    if baseline is not None:
        other = found[baseline]
        for variant, mine in found.items():
            if variant != baseline:
                p = fisher_p(mine.diverged, mine.ended, other.diverged, other.ended)
                found[variant] = replace(mine, baseline=baseline, baseline_share=other.share, p=p)
    return list(found.values())


def divergence_sentence(share: DivergenceShare) -> str:
    low, high = share.interval
    text = (
        f"{share.variant.label}: {share.diverged} of {share.ended} runs diverged "
        f"(95 % interval {100 * low:.0f} to {100 * high:.0f} %)"
    )
    if share.baseline is None:
        return f"{text}."
    test = "Fisher's exact test" + (", Holm" if share.family > 1 else "")
    text += f"; against {share.baseline.label} {p_equation(share.p_holm)} ({test})"
    if share.p_holm >= ALPHA:
        return f"{text}: not distinguishable."
    return f"{text}: {'more' if share.share > share.baseline_share else 'less'} often."


def survivors_note(comparison: Comparison, shares: list[DivergenceShare]) -> str:
    """Return the sentence that follows one on runs that finished; empty where no run diverged."""
    compared = (comparison.variant, comparison.baseline)
    counts = [
        f"{each.diverged} of {each.ended} runs of {each.variant.label}"
        for each in shares
        if each.title == comparison.group.title and each.variant in compared and each.diverged
    ]
    return f" Only of runs that finished: {' and '.join(counts)} diverged." if counts else ""


def divergence_table(shares: list[DivergenceShare]) -> pandas.DataFrame:
    """Return a row for each variant; shares are from 0 to 1."""
    return pandas.DataFrame(
        {
            "group": each.title,
            "setting": each.variant.label,
            "started": each.started,
            "ended": each.ended,
            "diverged": each.diverged,
            "share": each.share,
            "low": each.interval[0],
            "high": each.interval[1],
            "baseline": each.baseline.label if each.baseline else "",
            "p_fisher": each.p,
            "p_holm": each.p_holm,
        }
        for each in shares
    )


def readable_divergence(shares: list[DivergenceShare]) -> pandas.DataFrame:
    """Return a row for each variant; shares are in percent."""
    return pandas.DataFrame(
        {
            "setting": each.variant.label,
            "started": str(each.started),
            "ended": str(each.ended),
            "diverged": str(each.diverged),
            "share (%)": f"{100 * each.share:.0f}" if each.ended else ABSENT,
            "95 % interval": "{:.0f} to {:.0f}".format(*(100 * end for end in each.interval)),
            "against": each.baseline.label if each.baseline else ABSENT,
            "p, Fisher": p_value(each.p),
            "p, Holm": p_value(each.p_holm),
        }
        for each in shares
    )
