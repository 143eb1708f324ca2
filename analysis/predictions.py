"""Read predictions.npz: a run's predictions for the test set after its last epoch.

They are of units: images, or blocks of text.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from analysis.comparisons import Comparison
from analysis.grouping import Group
from analysis.run_folders import RunResult, Seeds
from run_folder.folder import RunFolder

FILE = RunFolder.PREDICTIONS
BINS = 15  # of the confidence, as in Guo et al. 2017
ACCURACY_ROUNDING = 1.0  # percent: logits in 16 bits may tie, and a tie has no right winner
LOSS_ROUNDING = 0.01  # nats: where the results were computed by compiled code in 16 bits


@dataclass(frozen=True)
class Images:
    """Hold the predictions of a classifier.

    Attributes:
        labels: (N,) the images' classes.
        correct: (N,) whether the class that the network chose is the label.
        confidence: (N,) the probability that it gave to the class that it chose, 0 to 1.
        loss: (N,) the cross-entropy, in nats.
        classes: The number of classes.
    """

    labels: NDArray[np.int64]
    correct: NDArray[np.bool_]
    confidence: NDArray[np.float64]
    loss: NDArray[np.float64]
    classes: int

    @property
    def units(self) -> NDArray[np.int64]:
        """Return the labels, which are equal for runs on the same data in the same order."""
        return self.labels

    @cached_property
    def class_counts(self) -> NDArray[np.int64]:
        return np.bincount(self.labels, minlength=self.classes)

    @cached_property
    def recalls(self) -> NDArray[np.float64]:
        """Return (classes,) the share of each class's images that are right; NaN without images."""
        right = np.bincount(self.labels[self.correct], minlength=self.classes)
        with np.errstate(invalid="ignore"):
            return right / self.class_counts

    @property
    def balanced_accuracy(self) -> float:
        """Return the mean recall of the classes with images (Brodersen et al. 2010), 0 to 1."""
        return float(np.nanmean(self.recalls))

    @cached_property
    def bins(self) -> NDArray[np.float64]:
        """Return (BINS, 3): images, their mean confidence and their accuracy; NaN without images.

        Bin m of M holds the confidences in ((m − 1)/M, m/M] (Guo et al. 2017, section 2).
        """
        place = np.clip(np.ceil(self.confidence * BINS).astype(int) - 1, 0, BINS - 1)
        count = np.bincount(place, minlength=BINS)
        sums = [np.bincount(place, each, BINS) for each in (self.confidence, self.correct)]
        with np.errstate(invalid="ignore"):
            return np.stack([count, sums[0] / count, sums[1] / count], axis=1)

    @property
    def calibration_error(self) -> float:
        """Return the expected calibration error, 0 to 1.

        It is the mean over images of the distance between accuracy and confidence in their bin
        (Guo et al. 2017, arXiv 1706.04599, equation 3).
        """
        count, confidence, accuracy = self.bins[self.bins[:, 0] > 0].T
        return float(count @ np.abs(accuracy - confidence) / count.sum())


def pooled_bins(runs: list[Images]) -> NDArray[np.float64]:
    """Return (BINS, 3) as `Images.bins`, of the predictions of all runs together."""
    count, confidence, accuracy = np.stack([run.bins for run in runs]).transpose(2, 0, 1)
    total = count.sum(axis=0)
    with np.errstate(invalid="ignore"):
        means = [np.nansum(count * each, axis=0) / total for each in (confidence, accuracy)]
    return np.stack([total, *means], axis=1)


@dataclass(frozen=True)
class Blocks:
    """Hold the losses of a language model on blocks of text.

    Attributes:
        loss: (blocks,) in nats per token.
        tokens: (blocks,) the tokens of each block.
    """

    loss: NDArray[np.float64]
    tokens: NDArray[np.int64]

    @property
    def units(self) -> NDArray[np.int64]:
        return self.tokens


Units = TypeVar("Units", Images, Blocks)


@dataclass
class GroupPredictions:
    """Hold the predictions of a group's runs, by run folder.

    Attributes:
        images: The predictions of classifiers.
        blocks: The losses of language models.
        problems: Sentences on the files that cannot be used.
        unpaired: The runs that predicted other data than most of the group.
    """

    images: dict[Path, Images] = field(default_factory=dict)
    blocks: dict[Path, Blocks] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    unpaired: set[Path] = field(default_factory=set)

    def paired_images(self, comparison: Comparison) -> dict[Seeds, tuple[Images, Images]]:
        """Return the predictions of variant and baseline by seed, where both are of one data."""
        return self._paired(comparison, self.images)

    def paired_blocks(self, comparison: Comparison) -> dict[Seeds, tuple[Blocks, Blocks]]:
        """Return the losses of variant and baseline by seed, where both are of one data."""
        return self._paired(comparison, self.blocks)

    def _paired(
        self, comparison: Comparison, known: Mapping[Path, Units]
    ) -> dict[Seeds, tuple[Units, Units]]:
        usable = known.keys() - self.unpaired
        return {
            seeds: (known[mine.path], known[theirs.path])
            for seeds, (mine, theirs) in comparison.run_pairs.items()
            if {mine.path, theirs.path} <= usable
        }


def group_predictions(group: Group) -> GroupPredictions:
    """Read the predictions of all runs of a group that left some."""
    found = GroupPredictions()
    for run in group.all_runs():
        if not (run.path / FILE).exists():
            continue
        try:
            predictions = read_predictions(run.path / FILE)
            if predictions is None:
                continue
            _check(predictions, run)
        except ValueError as error:
            found.problems.append(f"{run.path / FILE}: {error}; left out")
            continue
        if isinstance(predictions, Images):
            found.images[run.path] = predictions
        else:
            found.blocks[run.path] = predictions
    for path in _unlike_most({path: each.classes for path, each in found.images.items()}):
        found.problems.append(f"{path / FILE}: it has other classes than most runs; left out")
        del found.images[path]
    for kind in (found.images, found.blocks):
        for path in _unlike_most({path: each.units.tobytes() for path, each in kind.items()}):
            found.unpaired.add(path)
            found.problems.append(
                f"{path / FILE}: it is of other data, or in another order, than those of most "
                "runs; left out of the pairs"
            )
    return found


def read_predictions(path: Path) -> Images | Blocks | None:
    """Read one run's predictions; None for a fitted image, whose pixels are no units to compare by.

    Raises:
        ValueError: It cannot be read, or is no such file; the message says why.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}
    except Exception as error:  # damage shows in zipfile, zlib, tokenize and more
        raise ValueError(f"it cannot be read ({error})") from None
    if {"logits", "labels"} <= set(content):
        return images_of(content["logits"], content["labels"])
    if {"loss", "tokens"} <= set(content):
        return _blocks_of(content["loss"], content["tokens"])
    if {"fit", "pixels"} <= set(content):
        return None
    raise ValueError("it holds neither logits and labels nor loss and tokens")


def images_of(logits: NDArray, labels: NDArray[np.int64]) -> Images:
    """Return the predictions that a classifier's logits come to.

    Args:
        logits: (N, classes) floats.
        labels: (N,) from 0 to classes − 1.

    Raises:
        ValueError: They do not fit together.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not labels.size:
        raise ValueError(f"logits {logits.shape} and labels {labels.shape} do not fit together")
    _check_kinds(logits, labels, "logits", "labels")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(f"its labels are not all from 0 to {logits.shape[1] - 1}")
    logits = logits.astype(np.float64)
    chosen, highest = logits.argmax(axis=1), logits.max(axis=1, keepdims=True)
    # The softmax of the chosen class is e^0 over the sum.
    exp_sum = np.exp(logits - highest).sum(axis=1, dtype=np.float64)
    own = logits[np.arange(len(labels)), labels] - highest[:, 0]
    loss = np.log(exp_sum) - own
    return Images(labels, chosen == labels, 1 / exp_sum, loss, logits.shape[1])


def _blocks_of(loss: NDArray, tokens: NDArray[np.int64]) -> Blocks:
    if loss.ndim != 1 or loss.shape != tokens.shape or not loss.size:
        raise ValueError(f"losses {loss.shape} and tokens {tokens.shape} do not fit together")
    _check_kinds(loss, tokens, "losses", "tokens")
    if tokens.min() < 1:
        raise ValueError("it has blocks without tokens")
    return Blocks(loss.astype(np.float64), tokens)


def _check_kinds(values: NDArray, counts: NDArray, *names: str) -> None:
    if values.dtype.kind != "f" or counts.dtype.kind not in "iu":
        raise ValueError(f"its {names[0]} are no floats, or its {names[1]} no integers")
    if not np.isfinite(values).all():
        raise ValueError(f"its {names[0]} are not all finite")


def _check(predictions: Images | Blocks, run: RunResult) -> None:
    """Refuse predictions of another network than the one whose results the folder holds.

    Raises:
        ValueError: Their accuracy or loss is not the one that the results state.
    """
    reported = run.final.get("test", {})
    if isinstance(predictions, Images):
        found, said = 100 * float(predictions.correct.mean()), reported.get("top1", math.nan)
        name, unit, rounding = "accuracy", " %", ACCURACY_ROUNDING
    else:
        found = float(np.average(predictions.loss, weights=predictions.tokens))
        said, name, unit, rounding = reported.get("loss", math.nan), "loss", "", LOSS_ROUNDING
    if abs(found - said) > rounding:
        raise ValueError(f"its {name} is {found:.2f}{unit}, and the run's results say {said:.2f}")


def _unlike_most(values: Mapping[Path, int] | Mapping[Path, bytes]) -> list[Path]:
    """Return the paths whose value is not the most common one."""
    usual = Counter(values.values()).most_common(1)
    return [path for path, value in values.items() if value != usual[0][0]]
