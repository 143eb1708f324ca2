"""Runs that diverged: how many of those that ended, and whether a setting diverges more often.

They are left out of every mean, but that they diverged is a result.
"""

import math
from dataclasses import dataclass, replace

import pandas

from analysis.comparisons import ALPHA, Comparison, Plan, baseline_of
from analysis.counts import fisher_p, share_interval
from analysis.run_folders import RunResult
from analysis.sentences import p_value
from analysis.settings import (
    Group,
    Setting,
    context_key,
    context_of,
    group_title,
    seed_key,
    setting_of,
    tuned_names,
)
from analysis.statistics import holm
from experiments.manifest import TRIAL
from run_folder.status import DIVERGED, FINISHED, INTERRUPTED

# Of two runs of one setting and seed, the first kind counts.
KINDS = (DIVERGED, FINISHED, INTERRUPTED)


@dataclass(frozen=True)
class Share:
    """Of a setting's runs in one group: `ended` finished or diverged; the others of `started` were
    interrupted, and nobody knows how they would have ended.

    baseline: what p (Fisher's) holds it against, with the share `baseline_share`; None for itself.
    p_holm: corrected over the `family` tests of the report.
    """

    title: str
    setting: Setting
    diverged: int
    ended: int
    started: int
    baseline: Setting | None = None
    baseline_share: float = math.nan
    p: float = math.nan
    p_holm: float = math.nan
    family: int = 1

    @property
    def share(self) -> float:
        return self.diverged / self.ended if self.ended else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, from 0 to 1 (Clopper and Pearson 1934)."""
        return share_interval(self.diverged, self.ended)


def attempts(runs: list[RunResult]) -> list[Group]:
    """All runs that were started, by setting and seed, as the finished ones are grouped."""
    # Other code's run without results does not tell what it would be judged on.
    started = [
        run
        for run in runs
        if run.kind in KINDS and run.role != TRIAL and (run.is_ours or run.records)
    ]
    found: dict[str, Group] = {}
    for run in sorted(started, key=lambda run: KINDS.index(run.kind)):
        facts = context_of(run)
        group = found.setdefault(context_key(facts), Group(facts, {}, tuned_names(run)))
        group.runs.setdefault(setting_of(run), {}).setdefault(seed_key(run), run)
    return list(found.values())


def shares(attempted: list[Group], groups: list[Group], plan: Plan) -> list[Share]:
    """Of every setting of the groups in which a run diverged, in the order of `groups`; then of
    those in which none finished."""
    titles = {context_key(group.facts): group.title for group in groups}
    order = list(titles)
    known = [a for a in attempted if any(r.kind == DIVERGED for r in a.all_runs())]

    def place(attempt: Group) -> int:
        key = context_key(attempt.facts)
        return order.index(key) if key in titles else len(order)

    found = []
    for attempt in sorted(known, key=place):
        title = titles.get(context_key(attempt.facts))
        title = title or f"{group_title(attempt, [*groups, attempt])} (no run finished)"
        found += _shares_of(attempt, title, plan)
    adjusted = holm([each.p for each in found])
    family = sum(not math.isnan(p) for p in adjusted)
    return [replace(s, p_holm=p, family=family) for s, p in zip(found, adjusted, strict=True)]


def _shares_of(attempt: Group, title: str, plan: Plan) -> list[Share]:
    found = {}
    for setting in attempt.settings:
        kinds = [run.kind for run in attempt.runs[setting].values()]
        diverged = kinds.count(DIVERGED)
        ended = diverged + kinds.count(FINISHED)
        found[setting] = Share(title, setting, diverged, ended, len(kinds))
    baseline = baseline_of(attempt, plan.baseline)
    if baseline is not None:
        other = found[baseline]
        for setting, mine in found.items():
            if setting != baseline:
                p = fisher_p(mine.diverged, mine.ended, other.diverged, other.ended)
                found[setting] = replace(mine, baseline=baseline, baseline_share=other.share, p=p)
    return list(found.values())


def sentence(share: Share) -> str:
    low, high = share.interval
    text = (
        f"{share.setting.label}: {share.diverged} of {share.ended} runs diverged "
        f"(95 % interval {100 * low:.0f} to {100 * high:.0f} %)"
    )
    if share.baseline is None:
        return f"{text}."
    p = p_value(share.p_holm)
    test = "Fisher's exact test" + (", Holm" if share.family > 1 else "")
    text += f"; against {share.baseline.label} p {p if p.startswith('<') else f'= {p}'} ({test})"
    if share.p_holm >= ALPHA:
        return f"{text}: not distinguishable."
    return f"{text}: {'more' if share.share > share.baseline_share else 'less'} often."


def survivors(comparison: Comparison, found: list[Share]) -> str:
    """What must stand behind a sentence on the runs that finished; nothing where all did."""
    settings = (comparison.setting, comparison.baseline)
    counts = [
        f"{each.diverged} of {each.ended} runs of {each.setting.label}"
        for each in found
        if each.title == comparison.group.title and each.setting in settings and each.diverged
    ]
    return f" Only of runs that finished: {' and '.join(counts)} diverged." if counts else ""


def worth_a_sentence(share: Share) -> bool:
    return share.diverged > 0 or share.p_holm < ALPHA


def divergence_table(found: list[Share]) -> pandas.DataFrame:
    """A row for each setting; shares from 0 to 1."""
    return pandas.DataFrame(
        {
            "group": each.title,
            "setting": each.setting.label,
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
        for each in found
    )


def readable_divergence(found: list[Share]) -> pandas.DataFrame:
    return pandas.DataFrame(
        {
            "setting": each.setting.label,
            "started": str(each.started),
            "ended": str(each.ended),
            "diverged": str(each.diverged),
            "share (%)": f"{100 * each.diverged / each.ended:.0f}" if each.ended else "–",
            "95 % interval": "{:.0f} to {:.0f}".format(*(100 * end for end in each.interval)),
            "against": each.baseline.label if each.baseline else "–",
            "p, Fisher": p_value(each.p),
            "p, Holm": p_value(each.p_holm),
        }
        for each in found
    )
