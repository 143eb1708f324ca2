"""Compare two variants with one seed on the same images, or blocks of text.

The tests are of two trained networks on other data of the kind, not of two activations over other
seeds; and all seeds share one test set, so that their counts cannot be added up as independent.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas
from numpy.typing import NDArray

from analysis.comparisons import ALPHA, Comparison, seed_text
from analysis.counts import mcnemar_p, weighted_mean
from analysis.crossed import Crossed, crossed_mean
from analysis.document import Document
from analysis.findings import GroupFindings
from analysis.predictions import Blocks, Images, Units
from analysis.run_folders import Seeds
from analysis.section import Section
from analysis.statistics import Estimate, holm
from analysis.wording import interval, p_value
from run_folder.metrics import METRICS, Metric

ACCURACY, LOSS = METRICS["top1"], METRICS["loss"]
MOST_PAIRS = 40  # seeds of all comparisons, in a table
IMAGES_METHOD = (
    "**Same images.** McNemar's test (1947), exact, asks of two networks of one seed whether they "
    "err equally often on images of this kind. It says nothing of other seeds, which is what the "
    "paired t test is for (Dietterich 1998). All seeds share one test set, so their counts are not "
    "independent and are not added up; Holm's correction, over all of a group's pairs, holds all "
    "the same. The interval over images is of each image's mean over the seeds: these networks, "
    "other images."
)
BLOCKS_METHOD = (
    "**Same text.** Differences in loss between runs of one seed on the same blocks of text, "
    "weighted by tokens. Standard error and interval are over blocks as if these were independent; "
    "neighbours from one document are not quite, so they are somewhat too small. These networks, "
    "other text: it says nothing of other seeds."
)
BOTH_METHOD = (
    "**Other seeds and other {units}.** The interval over both is of other trainings, tested on "
    "other {units}: seeds and {units} are crossed random effects, its variance is that over seeds "
    "and that over {units} less what both count, by the mean squares of the analysis of variance, "
    "with Satterthwaite's degrees of freedom (1946; Clark 1973; Bouthillier et al. 2021, arXiv "
    "2103.03098; Miller 2024, arXiv 2411.00640). No other interval here is of both."
)


class PairedPredictions(Section):
    def write_group(self, document: Document, group: GroupFindings) -> None:
        on_images, on_blocks = self.on_images[group.number], self.on_blocks[group.number]
        if on_images:
            _write_images(document, on_images, group.number)
        if on_blocks:
            table = readable_units(on_blocks, LOSS, "blocks")
            document.table(f"blocks-{group.number}", table)
            document.paragraph(
                "Losses on the same blocks of text, in nats per token; `blocks.csv` has every seed."
            )
        if on_both := self.on_both[group.number]:
            units = "images" if on_images else "blocks"
            document.table(f"both-{group.number}", readable_both(on_both, units))
            document.paragraph(
                f"The same differences with seeds, {units} and both of them as drawn at random: "
                "standard errors (SE), and the interval for other seeds and other "
                f"{units}. `hierarchical.csv` has the numbers."
            )

    def methods(self) -> list[str]:
        groups = self.findings.groups
        methods = [IMAGES_METHOD] if any(group.images for group in groups) else []
        methods += [BLOCKS_METHOD] if any(self.on_blocks.values()) else []
        if any(self.on_both.values()):
            units = "images" if any(self.on_images.values()) else "blocks"
            methods.append(BOTH_METHOD.format(units=units))
        return methods

    def csv_tables(self) -> dict[str, pandas.DataFrame]:
        images = self.csv_of_groups("mcnemar", lambda g: units_table(self.on_images[g.number]))
        blocks = self.csv_of_groups("blocks", lambda g: units_table(self.on_blocks[g.number]))
        both = self.csv_of_groups("hierarchical", lambda g: both_table(self.on_both[g.number]))
        return images | blocks | both

    @cached_property
    def on_images(self) -> dict[int, list["UnitComparison"]]:
        """Return the comparisons on images in each group, by its number."""
        return {group.number: compare_on_images(group) for group in self.findings.groups}

    @cached_property
    def on_blocks(self) -> dict[int, list["UnitComparison"]]:
        """Return the comparisons on blocks of text in each group, by its number."""
        return {group.number: compare_on_blocks(group) for group in self.findings.groups}

    @cached_property
    def on_both(self) -> dict[int, list["BothComparison"]]:
        """Return the differences over seeds and units in each group, by its number."""
        return {group.number: compare_on_both(group) for group in self.findings.groups}


def _write_images(document: Document, found: list["UnitComparison"], number: int) -> None:
    document.table(f"images-{number}", readable_units(found, ACCURACY, "images"))
    document.paragraph(
        "The same images, network by network (McNemar's exact test for each seed): how many seeds "
        "differ by themselves, and the mean difference in points with its interval over images."
    )
    if sum(len(each.seeds) for each in found) > MOST_PAIRS:
        document.paragraph("`mcnemar.csv` has every seed.")
        return
    document.table(f"mcnemar-{number}", readable_seeds(found))
    document.paragraph("Images that only one of the two networks has right, by seed.")


@dataclass(frozen=True)
class SeedPair:
    """Compare the runs of a variant and of the baseline with one seed.

    Attributes:
        seed: The seed as a report writes it.
        difference: The mean over the units, in percent of the images that are right, or in nats per
            token.
        only_variant: The images that only the variant has right; 0 for blocks.
        only_baseline: The images that only the baseline has right; 0 for blocks.
        p: McNemar's; NaN for blocks.
        p_holm: p, corrected over all pairs of the group.
    """

    seed: str
    difference: Estimate
    only_variant: int = 0
    only_baseline: int = 0
    p: float = math.nan
    p_holm: float = math.nan

    @property
    def differs(self) -> bool:
        return self.p_holm < ALPHA


@dataclass(frozen=True)
class UnitComparison:
    """Hold a comparison on the units of the test set.

    Attributes:
        comparison: The variants that are compared.
        seeds: The pairs of runs.
        together: The mean over units, of each unit's mean difference over the seeds.
    """

    comparison: Comparison
    seeds: tuple[SeedPair, ...]
    together: Estimate


# A pair of runs, its difference on each unit, and the units' weights.
PairedUnits = tuple[SeedPair, NDArray[np.float64], NDArray[np.float64 | np.int64]]


def compare_on_images(group: GroupFindings) -> list[UnitComparison]:
    """Return McNemar's test for each comparison and seed with predictions of the same images.

    The p-values have Holm's correction over all pairs; it holds although the tests share images.
    """
    found = [
        _compare_on_units(each, pairs, _image_pair)
        for each in group.comparisons
        if (pairs := group.predictions.paired_images(each))
    ]
    adjusted = iter(holm([pair.p for each in found for pair in each.seeds]))
    return [
        replace(each, seeds=tuple(replace(pair, p_holm=next(adjusted)) for pair in each.seeds))
        for each in found
    ]


def compare_on_blocks(group: GroupFindings) -> list[UnitComparison]:
    """Return the differences in loss on the same blocks of text."""
    return [
        _compare_on_units(each, pairs, _block_pair)
        for each in group.comparisons
        if (pairs := group.predictions.paired_blocks(each))
    ]


@dataclass(frozen=True)
class BothComparison:
    """Compare two settings by a metric where seeds and units are both drawn at random."""

    comparison: Comparison
    metric: Metric
    found: Crossed


def compare_on_both(group: GroupFindings) -> list[BothComparison]:
    """Return the differences in accuracy and loss of images, and in loss of blocks of text.

    They are of comparisons with two pairs of runs or more. Where the number of pairs depended on
    the results the interval is wide enough for every look.
    """
    found = []
    for each in group.comparisons:
        images = list(group.predictions.paired_images(each).values())
        blocks = list(group.predictions.paired_blocks(each).values())
        if len(images) >= 2:
            right = [100.0 * mine.correct - 100.0 * theirs.correct for mine, theirs in images]
            lost = [mine.loss - theirs.loss for mine, theirs in images]
            weights = np.ones(len(lost[0]))
            for metric, values in ((ACCURACY, right), (LOSS, lost)):
                crossed = crossed_mean(values, weights, each.critical)
                found.append(BothComparison(each, metric, crossed))
        if len(blocks) >= 2:
            lost = [mine.loss - theirs.loss for mine, theirs in blocks]
            crossed = crossed_mean(lost, blocks[0][0].tokens, each.critical)
            found.append(BothComparison(each, LOSS, crossed))
    return found


def _compare_on_units(
    comparison: Comparison,
    pairs: Mapping[Seeds, tuple[Units, Units]],
    compare_pair: Callable[[str, Units, Units], PairedUnits],
) -> UnitComparison:
    compared = [compare_pair(seed_text(seeds), *pair) for seeds, pair in pairs.items()]
    seeds, differences, weights = zip(*compared, strict=True)
    together = weighted_mean(np.mean(differences, axis=0), weights[0])
    return UnitComparison(comparison, seeds, together)


def _image_pair(seed: str, mine: Images, theirs: Images) -> PairedUnits:
    differences = 100 * (mine.correct.astype(float) - theirs.correct)
    weights = np.ones(len(differences))
    first = int((mine.correct & ~theirs.correct).sum())
    second = int((theirs.correct & ~mine.correct).sum())
    difference = weighted_mean(differences, weights)
    pair = SeedPair(seed, difference, first, second, mcnemar_p(first, second))
    return pair, differences, weights


def _block_pair(seed: str, mine: Blocks, theirs: Blocks) -> PairedUnits:
    differences = mine.loss - theirs.loss
    pair = SeedPair(seed, weighted_mean(differences, mine.tokens))
    return pair, differences, mine.tokens


def units_table(found: list[UnitComparison]) -> pandas.DataFrame:
    """Return a row for each comparison and seed, and one for all seeds together.

    Differences are in percent of the images, or in nats per token.
    """
    rows = []
    for each in found:
        names = {"setting": each.comparison.variant.label}
        names |= {"baseline": each.comparison.baseline.label}
        for pair in each.seeds:
            row = names | {"seed": pair.seed} | _difference_columns(pair.difference)
            if not math.isnan(pair.p):
                row |= {"only_setting_right": pair.only_variant}
                row |= {"only_baseline_right": pair.only_baseline}
                row |= {"p_mcnemar": pair.p, "p_holm": pair.p_holm}
            rows.append(row)
        rows.append(names | {"seed": "mean over seeds"} | _difference_columns(each.together))
    counts = ("only_setting_right", "only_baseline_right")
    table = pandas.DataFrame(rows)
    return table.astype({name: "Int64" for name in counts if name in table})


def both_table(found: list[BothComparison]) -> pandas.DataFrame:
    """Return a row for each comparison and metric, unrounded."""
    return pandas.DataFrame(
        {
            "setting": each.comparison.variant.label,
            "baseline": each.comparison.baseline.label,
            "metric": each.metric.name,
            "seeds": each.found.seeds,
            "units": each.found.units,
            "difference": each.found.mean,
            "error_seeds": each.found.over_seeds,
            "error_units": each.found.over_units,
            "error_both": each.found.over_both,
            "low": each.found.low,
            "high": each.found.high,
        }
        for each in found
    )


def readable_both(found: list[BothComparison], units: str) -> pandas.DataFrame:
    """Return a row for each comparison and metric, rounded."""
    return pandas.DataFrame(
        {
            "setting": each.comparison.variant.label,
            "against": each.comparison.baseline.label,
            "difference in": each.metric.words,
            "seeds": str(each.found.seeds),
            "difference": each.metric.signed(each.found.mean),
            "SE, seeds": each.metric.number(each.found.over_seeds),
            f"SE, {units}": each.metric.number(each.found.over_units),
            "SE, both": each.metric.number(each.found.over_both),
            "95 % interval over both": interval(
                each.found.low, each.found.high, each.metric.signed
            ),
        }
        for each in found
    )


def _difference_columns(found: Estimate) -> dict[str, float]:
    return {
        "units": found.n, "difference": found.mean, "standard_error": _standard_error(found),
        "low": found.low, "high": found.high,
    }  # fmt: skip


def _standard_error(found: Estimate) -> float:
    return found.sd / math.sqrt(found.n)


def readable_units(found: list[UnitComparison], metric: Metric, units: str) -> pandas.DataFrame:
    """Return a row for each comparison: all seeds together, and how many differ by themselves."""
    rows = []
    for each in found:
        together = each.together
        row = {
            "setting": each.comparison.variant.label,
            "against": each.comparison.baseline.label,
            "seeds": str(len(each.seeds)),
            "difference": metric.signed(together.mean),
            "standard error": metric.number(_standard_error(together)),
            f"95 % interval over {units}": interval(together.low, together.high, metric.signed),
        }
        if metric is ACCURACY:
            better = sum(
                pair.differs and pair.only_variant > pair.only_baseline for pair in each.seeds
            )
            worse = sum(pair.differs for pair in each.seeds) - better
            row["seeds better, p < 0.05 (Holm)"] = str(better)
            row["seeds worse, p < 0.05 (Holm)"] = str(worse)
        rows.append(row)
    return pandas.DataFrame(rows)


def readable_seeds(found: list[UnitComparison]) -> pandas.DataFrame:
    """Return a row for each seed, with McNemar's test."""
    return pandas.DataFrame(
        {
            "setting": each.comparison.variant.label,
            "against": each.comparison.baseline.label,
            "seed": pair.seed,
            "only the first right": str(pair.only_variant),
            "only the second right": str(pair.only_baseline),
            "difference": ACCURACY.signed(pair.difference.mean),
            "p, McNemar": p_value(pair.p),
            "p, Holm": p_value(pair.p_holm),
        }
        for each in found
        for pair in each.seeds
    )
