"""Name the test sets that --also_test knows beside the data sets, and where they can be had."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cli.converters import path
from utils import nearest


@dataclass(frozen=True)
class Published:
    """Hold what is known of a published test set.

    Attributes:
        classes: the data set that it has the classes of.
        place: its folder below --data_path; of CIFAR-10.1 the beginning of its files' names.
        url: where it can be had.
    """

    classes: str
    place: str
    url: str


_CIFAR10_1 = "https://github.com/modestyachts/CIFAR-10.1/tree/master/datasets"
_V2 = "https://huggingface.co/datasets/vaishaal/ImageNetV2"
PUBLISHED_TESTS = {
    "cifar10-c": Published("cifar10", "CIFAR-10-C", "https://zenodo.org/records/2535967"),
    "cifar100-c": Published("cifar100", "CIFAR-100-C", "https://zenodo.org/records/3555552"),
    "cifar10.1": Published("cifar10", "cifar10.1_v6", _CIFAR10_1),  # its authors recommend v6
    "cifar10.1-v4": Published("cifar10", "cifar10.1_v4", _CIFAR10_1),
    "imagenet-v2": Published("imagenet", "imagenetv2-matched-frequency-format-val", _V2),
    "imagenet-v2-threshold": Published("imagenet", "imagenetv2-threshold0.7-format-val", _V2),
    "imagenet-v2-top": Published("imagenet", "imagenetv2-top-images-format-val", _V2),
    "imagenet-a": Published(
        "imagenet", "imagenet-a", "https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar"
    ),
    "imagenet-r": Published(
        "imagenet", "imagenet-r", "https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar"
    ),
    "imagenet-sketch": Published(
        "imagenet", "sketch", "https://github.com/HaohanWang/ImageNet-Sketch"
    ),
}  # fmt: skip
FOLDER = "imagefolder"  # of classes, without splits
TEXTS = "text"  # a folder of texts
COMMA = r",(?![^{}]*})"  # outside of braces, which a pattern of shards may have


class Asked(NamedTuple):
    """Hold one test set of --also_test.

    Attributes:
        kind: a name of PUBLISHED_TESTS, FOLDER, TEXTS or the name of another data set.
        place: the path that was given, or none.
    """

    kind: str
    place: str | None

    @property
    def name(self) -> str:
        """Return what results call it."""
        has_name = self.kind == FOLDER or (self.kind == TEXTS and self.place)
        return Path(self.place or "").name if has_name else self.kind


def further_tests(dataset: Callable[[str], str]) -> Callable[[str], str | None]:
    """Return a converter to test sets with commas between: NAME, NAME:PATH or the path of a folder.

    Args:
        dataset: the converter to the name of a data set.
    """

    return lambda text: _joined(text, lambda part: _converted(part, dataset))


def further_texts(dataset: Callable[[str], str]) -> Callable[[str], str | None]:
    """Return a converter to corpora with commas between: NAME, NAME:PATH or a folder's path.

    Args:
        dataset: the converter to the name of a corpus.
    """
    return lambda text: _joined(text, lambda part: _converted_text(part, dataset))


def _joined(text: str, converted: Callable[[str], str]) -> str | None:
    parts = [converted(part.strip()) for part in re.split(COMMA, text) if part.strip()]
    names = [asked.name for asked in _asked(parts)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two test sets are called {name}; give one of them, or rename it")
    return ",".join(parts) or None


def asked_for(text: str | None) -> list[Asked]:
    """Return the test sets that a flag of `further_tests` holds."""
    return _asked(re.split(COMMA, text) if text else [])


def with_split(kind: str) -> tuple[str, str]:
    """Take the split off the name of a set of the hub, hf/NAME:CONFIG:SPLIT or hf/NAME::SPLIT."""
    before, slash, last = kind.rpartition("/")
    parts = last.split(":", 2)
    if not kind.startswith("hf/") or len(parts) < 3:
        return kind, ""
    return f"{before}{slash}{parts[0]}:{parts[1]}".removesuffix(":"), parts[2]


def _asked(parts: list[str]) -> list[Asked]:
    found = []
    for part in parts:
        kind, _, place = part.partition(":")
        found.append(Asked(part, None) if "/" in kind else Asked(kind, place or None))
    return found


def _converted(text: str, dataset: Callable[[str], str]) -> str:
    name, colon, place = text.partition(":")
    if name.lower() in PUBLISHED_TESTS:
        return name.lower() + (f":{path(place)}" if colon else "")
    if name.lower() == FOLDER:
        if not place:
            raise ValueError(f"{FOLDER} wants the folder of its classes: {FOLDER}:PATH")
        return f"{FOLDER}:{_folder(place)}"
    try:
        whole = "/" in name  # a name of a hub may have a colon in it
        return dataset(text) if whole else dataset(name) + (f":{path(place)}" if colon else "")
    except ValueError:
        if text.startswith((".", "~", "$")) or "/" in text:
            return f"{FOLDER}:{_folder(text)}"
        names = (*PUBLISHED_TESTS, "cifar10", "cifar100", "digits")
        raise ValueError(
            f"unknown test set {text!r}; {nearest(name, names)}, any data set, or a folder's path"
        ) from None


def _converted_text(text: str, dataset: Callable[[str], str]) -> str:
    name, colon, place = text.partition(":")
    if name.lower() == TEXTS and colon:
        return f"{TEXTS}:{_folder(place)}"
    try:
        whole = "/" in name  # a name of a hub may have a colon in it
        return dataset(text) if whole else dataset(name) + (f":{path(place)}" if colon else "")
    except ValueError as error:
        if text.startswith((".", "~", "$")) or "/" in text:
            return f"{TEXTS}:{_folder(text)}"
        raise ValueError(f"{error}, or a folder's path") from None


def _folder(text: str) -> str:
    """Return the path of a folder, which has a name: `.` has none."""
    found = Path(path(text))
    return str(found.resolve() if found.name in ("", "..") else found)
