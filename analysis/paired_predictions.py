"""Two settings on the same images, or blocks of text, with the same seed.

What is tested are two trained networks on other data of the kind, not two activations over other
seeds; and all seeds share one test set, so that their counts cannot be added up as independent.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analysis.comparisons import ALPHA, Comparison, seed_text
from analysis.counts import mcnemar_p, weighted_mean
from analysis.predictions import Blocks, Images, Predicted
from analysis.run_folders import RunResult
from analysis.statistics import Estimate, holm


@dataclass(frozen=True)
class SeedPair:
    """One seed. For images: how many only the setting or only the baseline has right, McNemar's p,
    and p by Holm's correction over all pairs of the group; 0 and NaN for blocks.

    difference: over the units, of percent of the images that are right, or of nats per token.
    """

    seed: str
    difference: Estimate
    only_setting: int = 0
    only_baseline: int = 0
    p: float = math.nan
    p_holm: float = math.nan

    @property
    def differs(self) -> bool:
        return self.p_holm < ALPHA


@dataclass(frozen=True)
class OnUnits:
    """A comparison on the units of the test set.

    together: over units, of each unit's mean difference over the seeds.
    """

    comparison: Comparison
    seeds: tuple[SeedPair, ...]
    together: Estimate


def on_images(comparisons: list[Comparison], predicted: Predicted) -> list[OnUnits]:
    """McNemar's test for each comparison and seed that have predictions of the same images."""
    found = [_on_units(each, predicted.images, predicted, _image_pair) for each in comparisons]
    return _corrected([each for each in found if each])


def on_blocks(comparisons: list[Comparison], predicted: Predicted) -> list[OnUnits]:
    """The losses of the same blocks of text."""
    found = [_on_units(each, predicted.blocks, predicted, _block_pair) for each in comparisons]
    return [each for each in found if each]


def _on_units(
    comparison: Comparison, known: dict, predicted: Predicted, pair: Callable
) -> OnUnits | None:
    """`pair` makes of a seed and two runs' predictions (SeedPair, differences, weights), the last
    two (units,)."""
    mine, theirs = (comparison.group.runs[s] for s in (comparison.setting, comparison.baseline))

    def usable(run: RunResult) -> bool:
        return run.path in known and run.path not in predicted.unpaired

    both = [s for s in mine if s in theirs and usable(mine[s]) and usable(theirs[s])]
    if not both:
        return None
    pairs = [pair(seed_text(s), known[mine[s].path], known[theirs[s].path]) for s in both]
    seeds, differences, weights = zip(*pairs, strict=True)
    return OnUnits(comparison, seeds, weighted_mean(np.mean(differences, axis=0), weights[0]))


def _image_pair(seed: str, mine: Images, theirs: Images) -> tuple[SeedPair, NDArray, NDArray]:
    differences = 100 * (mine.correct.astype(float) - theirs.correct)
    weights = np.ones(len(differences))
    first = int((mine.correct & ~theirs.correct).sum())
    second = int((theirs.correct & ~mine.correct).sum())
    difference = weighted_mean(differences, weights)
    pair = SeedPair(seed, difference, first, second, mcnemar_p(first, second))
    return pair, differences, weights


def _block_pair(seed: str, mine: Blocks, theirs: Blocks) -> tuple[SeedPair, NDArray, NDArray]:
    differences = mine.loss - theirs.loss
    pair = SeedPair(seed, weighted_mean(differences, mine.tokens))
    return pair, differences, mine.tokens


def _corrected(found: list[OnUnits]) -> list[OnUnits]:
    """With Holm's correction over all pairs; it holds although the tests share their images."""
    adjusted = iter(holm([pair.p for each in found for pair in each.seeds]))
    return [
        replace(each, seeds=tuple(replace(p, p_holm=next(adjusted)) for p in each.seeds))
        for each in found
    ]
