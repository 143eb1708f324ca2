"""Tell the differences: every comparison with its tests, and what to know before believing it."""

import math

import pandas
from matplotlib.figure import Figure

from analysis.comparisons import AGAINST_BASELINE, ALPHA, CONTROL, SLOPE, Comparison
from analysis.document import Document, plain
from analysis.drawing import WIDTH, short, styles
from analysis.findings import GroupFindings
from analysis.looks import LOOKS
from analysis.measures import final_value
from analysis.section import Section
from analysis.statistics import WILCOXON_PAIRS, smallest_wilcoxon_p
from analysis.wording import fixed, interval, p_value

FEW_SEEDS = 10  # up to here every seed is drawn as well
PURPOSES = {
    AGAINST_BASELINE: "against the baseline",
    SLOPE: "same slope of the gate at 0",
    CONTROL: "same function at the start",
}
METHODS = (
    "**Differences** are paired by seed: with one seed both runs start from the same weights and "
    "see the same batches. p is of the two-sided paired t test; r is the correlation between "
    "paired runs; d_z is the mean difference over its standard deviation (Cohen 1988). Wilcoxon's "
    "signed-rank test (1945) is exact. Welch's test (1947) treats the same runs as unpaired.",
    "**Many comparisons.** The primary comparison, if one was declared, is tested by itself (with "
    "those of other groups, if there are several); all others of this report together, by Holm's "
    "correction (1979).",
    "**Detectable** is the smallest true difference that a paired t test with this many pairs "
    "finds at p < 0.05 with a power of 80 %, if differences between seeds spread as they did here. "
    "It does not depend on the difference that was observed.",
    "**Equivalence** is by two one-sided t tests (Schuirmann 1987): p below 0.05 says that the "
    "true difference lies within the margin.",
)


LOOKS_METHOD = (
    f"**Looks.** Where seeds were added until a comparison was decided, it was looked at after "
    f"{', '.join(map(str, LOOKS))} pairs, with an interval mean ± c·sd/√n at each look. Its c is "
    "calibrated on the t statistic at its own degrees of freedom, so that all looks together miss "
    "the true difference with a probability of 5 % for normal differences (repeated confidence "
    "intervals, Jennison and Turnbull 1989; spending by Lan and DeMets 1983, Kim and DeMets 1987). "
    "Tests that take the number of seeds as given have no place there, and no p is given. The "
    "e-value is beside it: a bet on the signs of the differences that reaches 20 with a "
    "probability of 1/20 at most, whatever the number of seeds, for differences of any shape that "
    "is symmetric about zero (Ramdas et al. 2020, arXiv 2009.03167)."
)


class Differences(Section):
    def write_group(self, document: Document, group: GroupFindings) -> None:
        compared, plan = group.comparisons, self.findings.plan
        if not compared:
            return
        document.heading(3, "Differences")
        document.table(f"comparisons-{group.number}", readable_comparisons(compared, plan.margin))
        unit = group.metric.difference_unit or group.metric.words
        document.paragraph(f"Differences, intervals and the detectable difference in {unit}.")
        decided = [each for each in compared if each.decision]
        if decided:
            document.table(f"decisions-{group.number}", readable_decisions(decided))
            document.paragraph("Decided by looks; the intervals hold over all of them.")
        document.items([plain(text) for text in warnings(compared)])
        if plan.mde:
            sentences = [seeds_sentence(each, plan.mde) for each in compared]
            document.items([plain(text) for text in sentences if text])
        drawn = [c for c in group.comparisons_of(AGAINST_BASELINE) if math.isfinite(c.difference)]
        if drawn:
            document.figure(
                f"differences-{group.number}",
                _caption(drawn, plan.margin),
                lambda: differences_figure(drawn, plan.margin),
            )

    def methods(self) -> tuple[str, ...]:
        return (*METHODS, LOOKS_METHOD) if self._decided else METHODS

    def csv_tables(self) -> dict[str, pandas.DataFrame]:
        tables = {"comparisons": comparisons_table(self.findings.comparisons)}
        return tables | ({"decisions": decisions_table(self._decided)} if self._decided else {})

    @property
    def _decided(self) -> list[Comparison]:
        return [each for each in self.findings.comparisons if each.decision]


def warnings(comparisons: list[Comparison]) -> list[str]:
    """Return what a reader must know before believing the numbers of a group."""
    found = []
    for each in comparisons:
        if each.unpaired_seeds:
            seeds = ", ".join(sorted(set(each.unpaired_seeds)))
            found.append(
                f"{each.title}: only one of the two has seeds {seeds}; they are left out of the "
                "pairs."
            )
        if each.without_seed:
            found.append(
                f"{each.title}: {each.without_seed} runs do not tell their seed, and pair with "
                "none."
            )
    few = sorted({c.paired.n for c in comparisons if 2 <= c.paired.n < WILCOXON_PAIRS})
    found += [
        f"With {n} pairs Wilcoxon's test can never reject at {ALPHA}: its smallest p is "
        f"{smallest_wilcoxon_p(n):.3g}. It takes {WILCOXON_PAIRS} pairs."
        for n in few
    ]
    return found


def seeds_sentence(comparison: Comparison, mde: float) -> str:
    """Return how many seeds the difference `mde` needs; empty where that cannot be told."""
    assert comparison.needed is not None, "it is computed for every plan with an mde"
    estimate, low, high = comparison.needed
    if math.isnan(estimate):
        return ""
    size = comparison.metric.difference(mde, signed=False)
    return (
        f"{comparison.title}: a difference of {size} would need {_seeds(estimate)} seeds "
        f"({_seeds(low)} to {_seeds(high)}) for 80 % power."
    )


def _seeds(n: float) -> str:
    return "more than a million" if math.isinf(n) else f"{n:,.0f}"


def comparisons_table(comparisons: list[Comparison]) -> pandas.DataFrame:
    """Return a row for each comparison, with everything that was computed, unrounded."""
    rows = []
    for each in comparisons:
        paired, (unpaired, low, high, p) = each.paired, each.unpaired
        needed = each.needed or (math.nan,) * 3
        rows.append(
            {
                "group": each.group.title,
                "metric": each.metric.name,
                "setting": each.variant.label,
                "baseline": each.baseline.label,
                "purpose": PURPOSES[each.kind],
                "primary": each.primary,
                "pairs": paired.n,
                "difference": paired.mean,
                "sd": paired.sd,
                "low": paired.low,
                "high": paired.high,
                "p_paired_t": paired.p,
                "p_holm": each.p_holm,
                "p_wilcoxon": paired.wilcoxon_p,
                "correlation": paired.correlation,
                "effect_size_dz": paired.effect_size,
                "p_equivalence": each.equivalence,
                "n_setting": each.counts[0],
                "n_baseline": each.counts[1],
                "welch_difference": unpaired,
                "welch_low": low,
                "welch_high": high,
                "p_welch": p,
                "detectable_80": each.detectable,
                "seeds_needed": needed[0],
                "seeds_needed_low": needed[1],
                "seeds_needed_high": needed[2],
            }
        )
    return pandas.DataFrame(rows)


def decisions_table(comparisons: list[Comparison]) -> pandas.DataFrame:
    """Return a row for each comparison that was decided by looks, unrounded."""
    rows = []
    for each in comparisons:
        decision = each.decision
        assert decision is not None, "only those that were decided by looks are here"
        rows.append(
            {
                "group": each.group.title,
                "metric": each.metric.name,
                "setting": each.variant.label,
                "baseline": each.baseline.label,
                "verdict": decision.verdict,
                "look": decision.look,
                "pairs": decision.n,
                "difference": decision.difference,
                "low": decision.low,
                "high": decision.high,
                "next_look": decision.next_look,
                "left_out": decision.left_out,
                "e_value": decision.e_value,
            }
        )
    table = pandas.DataFrame(rows)
    return table.astype({"next_look": "Int64"})


def readable_decisions(comparisons: list[Comparison]) -> pandas.DataFrame:
    """Return a row for each comparison that was decided by looks, rounded."""
    metrics = [each.metric for each in comparisons]
    return pandas.DataFrame(
        {
            "setting": row.setting,
            "against": row.baseline,
            "verdict": row.verdict,
            "look": f"{row.look} of {len(LOOKS)}",
            "pairs": str(row.pairs),
            "difference": metric.signed(row.difference),
            "95 % interval over all looks": interval(row.low, row.high, metric.signed),
            "pairs left out": str(row.left_out),
            "e-value": f"{row.e_value:.3g}",
        }
        for metric, row in zip(metrics, decisions_table(comparisons).itertuples(), strict=True)
    )


def readable_comparisons(comparisons: list[Comparison], margin: float | None) -> pandas.DataFrame:
    """Return a row for each comparison, rounded."""
    rows = []
    for each in comparisons:
        paired, metric = each.paired, each.metric
        too_few = f" (n < {WILCOXON_PAIRS})" if 0 < paired.n < WILCOXON_PAIRS else ""
        row = {
            "setting": each.variant.label + (" (primary)" if each.primary else ""),
            "against": each.baseline.label,
            "pairs": str(paired.n),
            "difference": metric.signed(each.difference),
            "95 % interval": interval(*each.interval, metric.signed),
            "p": p_value(paired.p),
            "p, Holm": _p_holm(each),
            "p, Wilcoxon": p_value(paired.wilcoxon_p) + too_few,
            "p, Welch": p_value(each.unpaired[3]),
            "r": fixed(paired.correlation, 2),
            "effect d_z": fixed(paired.effect_size, 2),
            "detectable": metric.number(each.detectable),
        }
        if margin:
            row[f"p, outside ±{margin:g}"] = p_value(each.equivalence)
        rows.append(row)
    return pandas.DataFrame(rows)


def _p_holm(comparison: Comparison) -> str:
    if comparison.decision:
        return "by looks"
    return p_value(comparison.p_holm) if comparison.family > 1 else "(one test)"


def _caption(drawn: list[Comparison], margin: float | None) -> str:
    caption = "Difference to the baseline: ticks are pairs of one seed, bars 95 % intervals."
    caption += f" Grey: within ±{margin:g}." if margin else ""
    caption += " \\* the primary comparison." if any(each.primary for each in drawn) else ""
    return caption


def differences_figure(comparisons: list[Comparison], margin: float | None) -> Figure:
    """Draw each variant against the baseline: every pair, the mean, the 95 % interval."""
    metric, baseline = comparisons[0].metric, comparisons[0].baseline
    figure = Figure(figsize=(WIDTH, 1.1 + 0.42 * len(comparisons)), layout="constrained")
    axes = figure.subplots()
    looks = styles(comparisons[0].group.variants)
    for row, each in enumerate(comparisons):
        look, (low, high) = looks[each.variant], each.interval
        pairs = [
            final_value(run, metric) - final_value(other, metric)
            for run, other in each.run_pairs.values()
        ]
        if len(pairs) <= FEW_SEEDS:
            ticks = {"color": look.color, "markersize": 7, "alpha": 0.8}
            axes.plot(pairs, [row + 0.2] * len(pairs), "|", **ticks)
        if not math.isnan(low):
            axes.plot([low, high], [row, row], color=look.color, linewidth=2)
        axes.plot(each.difference, row, markersize=6, **look.point)
    axes.axvline(0, color="black", linewidth=0.8)
    if margin:
        axes.axvspan(-margin, margin, color="#999999", alpha=0.2, linewidth=0)
    labels = [short(each.variant.label) + (" *" if each.primary else "") for each in comparisons]
    axes.set_yticks(range(len(comparisons)), labels)
    axes.set_ylim(len(comparisons) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    unit = f" ({metric.difference_unit})" if metric.difference_unit else ""
    better = "right" if metric.higher_is_better else "left"
    other = short(baseline.label)
    axes.set_xlabel(f"{metric.words}, less that of {other}{unit}; better to the {better}")
    return figure
