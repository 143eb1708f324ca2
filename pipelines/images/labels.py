"""Number the classes of labels as data sets hold them: numbers or names."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from pipelines.images.interfaces import Targets
from utils import UserError, printable, warn

Labels: TypeAlias = npt.NDArray[Any]  # int64 or str, (N,)
SHOWN = 5  # classes, in a line


class Classes(NamedTuple):
    """Hold the names of classes, and for each split the place of each image's class in them."""

    names: list[str]
    targets: dict[str, Targets]


def numbered(
    labels: Mapping[str, Labels], names: Sequence[str] | None, origin: str, remedy: str
) -> Classes:
    """Number the labels of each split, "train" among them.

    Args:
        labels: by split, numbers from 0 on, or names.
        names: of the classes in order, where these are known. Otherwise numbers are their own
            names, and names are sorted, as those of folders are.
        origin: where the labels come from, for messages.
        remedy: what to do about labels that cannot be used.

    Raises:
        UserError: a label is no class, or there is one class alone.
    """
    train = labels["train"]
    if names is None:
        names = _names_in(train)
    if len(names) < 2:
        raise UserError(f"{origin}: has {len(names)} class(es), at least two are needed; {remedy}")
    targets = {
        split: _places(values, names, f"{origin}, {split}", remedy)
        for split, values in labels.items()
    }
    without = np.flatnonzero(np.bincount(targets["train"], minlength=len(names)) == 0)
    if len(without):
        shown = ", ".join(printable(names[number]) for number in without[:SHOWN])
        more = ", ..." if len(without) > SHOWN else ""
        warn(f"{origin}: {len(without)} of {len(names)} classes have no training image: "
             f"{shown}{more}")  # fmt: skip
    return Classes([printable(name) for name in names], targets)


def numbered_alone(
    labels: Labels, names: Sequence[str] | None, where: str, remedy: str
) -> tuple[list[str], Targets]:
    """Return the names of the classes of a split that is tested on alone, and each image's place.

    Args:
        labels: as for `numbered`.
        names: of the classes in order, where these are known.
        where: the labels come from, for messages.
        remedy: what to do about labels that cannot be used.

    Raises:
        UserError: a label is no class.
    """
    names = _names_in(labels) if names is None else names
    return [printable(name) for name in names], _places(labels, names, where, remedy)


def matched(names: Sequence[str], known: Sequence[str]) -> Targets | None:
    """Return the place of each of these classes among the known ones; None where they are others.

    They are matched by name; where either side has the numbers from 0 on in the place of names, by
    number, if both have as many classes.
    """
    places = {name: place for place, name in enumerate(known)}
    if all(name in places for name in names):
        return np.array([places[name] for name in names], np.int64)
    numbers = [str(number) for number in range(len(known))]
    if len(names) == len(known) and numbers in ([*names], [*known]):
        return np.arange(len(known))
    return None


def _names_in(labels: Labels) -> list[str]:
    """Return the names of the classes that labels show."""
    if labels.dtype.kind == "i":
        return [str(number) for number in range(int(labels.max(initial=-1)) + 1)]
    return np.unique(labels).tolist()


def _places(values: Labels, names: Sequence[str], where: str, remedy: str) -> Targets:
    if values.dtype.kind == "i":
        outside = (values < 0) | (values >= len(names))
        known, places = f"0..{len(names) - 1}", values.astype(np.int64)
    else:
        order = np.argsort(names)
        ordered = np.asarray(names, object)[order].astype(str)
        found = np.searchsorted(ordered, values).clip(max=len(names) - 1)
        outside = ordered[found] != values
        known, places = f"those of the {len(names)} classes", order[found].astype(np.int64)
    if outside.any():
        first = int(outside.argmax())
        label = printable(str(values[first]))
        raise UserError(
            f"{where}: image {first:,} has label {label}, which is none of {known}; {remedy}"
        )
    return places
