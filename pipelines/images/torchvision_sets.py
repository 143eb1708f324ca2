"""Read torchvision's data sets of images by name, and download what is missing."""

import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError

import numpy as np
from torchvision import datasets

from pipelines.download import STALL_SECONDS, open_url
from pipelines.hub import one_line
from pipelines.images.folders import Files, OneSplit, Splits
from pipelines.images.sources import LabelledImages
from pipelines.stamps import stamp_of
from utils import UserError, one_at_a_time, printable

FLAGS = {"train": {"train": True}, "test": {"train": False}}
NAMES = {"train": {"split": "train"}, "test": {"split": "test"}}
WITH_VAL = {**NAMES, "val": {"split": "val"}}
NOT_FOUND = ("not found", "No such file")  # in the messages of torchvision's classes


@dataclass(frozen=True)
class Kind:
    """Describe how torchvision's class of a data set is called.

    Attributes:
        page: where the files are from.
        splits: the arguments for each split.
        variant: the argument that a variant's name is given to; "" where there are none.
        default: the variant that stands for none.
    """

    page: str
    splits: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: NAMES)
    variant: str = ""
    default: Any = None


KINDS = {
    "MNIST": Kind("https://ossci-datasets.s3.amazonaws.com/mnist/", FLAGS),
    "FashionMNIST": Kind("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", FLAGS),
    "KMNIST": Kind("http://codh.rois.ac.jp/kmnist/", FLAGS),
    "QMNIST": Kind("https://raw.githubusercontent.com/facebookresearch/qmnist/master/", FLAGS),
    "EMNIST": Kind("https://biometrics.nist.gov/cs_links/EMNIST/", FLAGS, "split", "balanced"),
    "USPS": Kind("https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/", FLAGS),
    "SVHN": Kind("http://ufldl.stanford.edu/housenumbers/"),
    "STL10": Kind("http://ai.stanford.edu/~acoates/stl10/"),
    "Flowers102": Kind("https://www.robots.ox.ac.uk/~vgg/data/flowers/102/", WITH_VAL),
    "Food101": Kind("http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz"),
    "OxfordIIITPet": Kind(
        "https://www.robots.ox.ac.uk/~vgg/data/pets/",
        {"train": {"split": "trainval"}, "test": {"split": "test"}},
    ),
    "StanfordCars": Kind("https://github.com/pytorch/vision/issues/7545"),
    "FGVCAircraft": Kind(
        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/", WITH_VAL, "annotation_level",
        "variant",
    ),
    "DTD": Kind("https://www.robots.ox.ac.uk/~vgg/data/dtd/", WITH_VAL, "partition", "1"),
    "GTSRB": Kind("https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/"),
    "Country211": Kind(
        "https://openaipublic.azureedge.net/clip/data/country211.tgz",
        {**NAMES, "val": {"split": "valid"}},
    ),
    "RenderedSST2": Kind(
        "https://openaipublic.azureedge.net/clip/data/rendered-sst2.tgz", WITH_VAL
    ),
    "Imagenette": Kind(
        "https://github.com/fastai/imagenette",
        {"train": {"split": "train"}, "test": {"split": "val"}}, "size", "full",
    ),
}  # fmt: skip


class Arrays(NamedTuple):
    """Hold a set that torchvision reads into memory."""

    train: LabelledImages
    test: LabelledImages
    class_names: list[str]


def read_arrays(name: str, variant: str, data_path: str) -> Arrays:
    """Read a set whose images are arrays: gray ones become RGB.

    Raises:
        UserError: its files are missing and cannot be downloaded, or are damaged.
    """
    splits = _splits(name, variant, data_path)
    train, names = _array_and_names(splits["train"])
    test, _ = _array_and_names(splits["test"])
    return Arrays(train, test, names)


def read_test(name: str, variant: str, data_path: str) -> tuple[LabelledImages, list[str]]:
    """Read the test split of such a set alone, and the names of its classes.

    Raises:
        UserError: its files are missing and cannot be downloaded, or are damaged.
    """
    return _array_and_names(_splits(name, variant, data_path, ["test"])["test"])


def find_test(name: str, variant: str, data_path: str) -> OneSplit:
    """Find the image files of a set's test split alone.

    Raises:
        UserError: files are missing and cannot be downloaded, or are damaged.
    """
    test = _splits(name, variant, data_path, ["test"])["test"]
    files = _files(name, "test", test)
    return OneSplit(_class_names(test, files.targets), files, printable(data_path))


def find(name: str, variant: str, data_path: str) -> Splits:
    """Find the image files of a set.

    Raises:
        UserError: files are missing and cannot be downloaded, or are damaged.
    """
    splits = _splits(name, variant, data_path)
    files = {split: _files(name, split, dataset) for split, dataset in splits.items()}
    names = _class_names(splits["train"], files["train"].targets)
    origin = printable(data_path)
    return Splits(names, files["train"], files.get("val"), files["test"], "", origin)


def _arrays(dataset: Any) -> LabelledImages:
    images = np.asarray(dataset.data)
    if images.ndim == 3:
        images = np.repeat(images[..., None], 3, axis=3)
    elif images.shape[1] == 3:  # before height and width
        images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    targets = np.asarray(dataset.targets if hasattr(dataset, "targets") else dataset.labels)
    if targets.ndim == 2:  # QMNIST's, with the writer and more behind the digit
        targets = targets[:, 0]
    return LabelledImages(images, targets.astype(np.int64))


def _array_and_names(dataset: Any) -> tuple[LabelledImages, list[str]]:
    images = _arrays(dataset)
    names = _class_names(dataset, images.targets)
    if names[0] == "N/A":  # EMNIST's letters, which are numbered from 1 on
        return images._replace(targets=images.targets - 1), names[1:]
    return images, names


def _files(name: str, split: str, dataset: Any) -> Files:
    paths, targets = _paths(dataset)
    try:
        stamps = tuple(map(stamp_of, paths))
    except OSError as error:
        raise UserError(
            f"{error.filename}: an image of {name} is missing; delete the folder and start again"
        ) from None
    return Files(
        Path(dataset.root), f"{name}-{split}", np.array(paths, object), stamps,
        np.array(targets, np.int64),
    )  # fmt: skip


def _paths(dataset: Any) -> tuple[list[str], Sequence[int]]:
    """Return the paths and classes of a set's images, under the names that its class has."""
    for name in ("_samples", "samples"):
        if hasattr(dataset, name):
            paths, targets = zip(*getattr(dataset, name), strict=True)
            return [str(path) for path in paths], targets
    paths = dataset._images if hasattr(dataset, "_images") else dataset._image_files
    return [str(path) for path in paths], dataset._labels


def _class_names(dataset: Any, targets: Any) -> list[str]:
    names = getattr(dataset, "classes", None) or [str(n) for n in range(int(max(targets)) + 1)]
    return [name if isinstance(name, str) else name[0] for name in names]


# --- torchvision's classes ---


def _splits(
    name: str, variant: str, data_path: str, wanted: Iterable[str] = ("train", "val", "test")
) -> dict[str, Any]:
    """Return torchvision's own data set for each split that is wanted and there is."""
    kind = KINDS[name]
    options = {kind.variant: _argument(variant or kind.default)} if kind.variant else {}
    return {
        split: _dataset(name, kind, data_path, {**options, **arguments})
        for split, arguments in kind.splits.items()
        if split in wanted
    }


def _argument(text: str) -> str | int:
    return int(text) if text.isdigit() else text


def _dataset(name: str, kind: Kind, data_path: str, arguments: dict[str, Any]) -> Any:
    make = getattr(datasets, name)
    try:
        return make(data_path, **arguments)
    except Exception as error:  # torchvision's own, SciPy's, the system's, by set and damage
        if not any(text in str(error) for text in NOT_FOUND):
            raise _damaged(name, data_path, error) from None
    with one_at_a_time(Path(data_path, f".{name}.lock")):
        _download(name, kind, data_path, arguments)
        try:
            return make(data_path, **arguments)
        except Exception as error:
            raise _damaged(name, data_path, error) from None


def _damaged(name: str, data_path: str, error: Exception) -> UserError:
    return UserError(
        f"--dataset torchvision/{name}: its files in {data_path} cannot be read"
        f" ({one_line(error)[:300]}); delete them and try again"
    )


def _download(name: str, kind: Kind, data_path: str, arguments: dict[str, Any]) -> None:
    """Have torchvision download a split, if there is a network: it has no time limit of its own.

    Raises:
        UserError: within a few seconds where there is none.
    """
    limit = socket.getdefaulttimeout()
    try:
        _probe(kind.page)
        socket.setdefaulttimeout(STALL_SECONDS)
        getattr(datasets, name)(data_path, download=True, **arguments)
    except Exception as error:
        raise UserError(
            f"--dataset torchvision/{name}: not found in {data_path}, and the download failed"
            f" ({one_line(error)[:300]}); get it from {kind.page} and unpack it there as"
            f" torchvision.datasets.{name} has it"
        ) from None
    finally:
        socket.setdefaulttimeout(limit)


def _probe(page: str) -> None:
    with suppress(HTTPError):  # which is an answer: there is a network
        open_url(page).close()
