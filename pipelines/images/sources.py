"""Read the data sets that are arrays already: torchvision's CIFAR, scikit-learn's digits."""

from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import check_integrity, extract_archive

from pipelines.download import open_url
from pipelines.images.interfaces import Images, Targets
from utils import UserError, one_at_a_time, progress_bar, replacing


class LabelledImages(NamedTuple):
    """Hold images (N, H, W, 3) and the class of each, (N,)."""

    images: Images
    targets: Targets


class Cifar(NamedTuple):
    """Hold what a CIFAR data set consists of."""

    train: LabelledImages
    test: LabelledImages
    class_names: list[str]


class Digits(NamedTuple):
    """Hold what scikit-learn's digits consist of; they come without a split."""

    images: Images
    targets: Targets
    class_names: list[str]


def read_cifar(cls: type[CIFAR10], data_path: str | Path, progress: bool = True) -> Cifar:
    """Read torchvision's CIFAR10 or CIFAR100 (a subclass of it); download what is missing.

    Raises:
        UserError: the download fails, or a file is damaged.
    """
    root = Path(data_path)
    _fetch_cifar(cls, root, progress)
    train, test = cls(root, train=True), cls(root, train=False)
    return Cifar(_arrays(train), _arrays(test), train.classes)


def _arrays(dataset: CIFAR10) -> LabelledImages:
    return LabelledImages(np.ascontiguousarray(dataset.data), np.array(dataset.targets, np.int64))


def _fetch_cifar(cls: type[CIFAR10], root: Path, progress: bool) -> None:
    if _bad_files(cls, root):
        with one_at_a_time(root / f".{cls.filename}.lock"):
            if bad := _bad_files(cls, root):  # by now another process may have unpacked them
                _unpack_cifar(cls, root, bad, progress)


def _bad_files(cls: type[CIFAR10], root: Path) -> list[Path]:
    """Return the files that are missing or damaged."""
    names = [*cls.train_list, *cls.test_list, (cls.meta["filename"], cls.meta["md5"])]
    files = [(root / cls.base_folder / name, md5) for name, md5 in names]
    return [path for path, md5 in files if not check_integrity(path, md5)]


def _unpack_cifar(cls: type[CIFAR10], root: Path, bad: list[Path], progress: bool) -> None:
    archive = root / cls.filename
    if not archive.exists():
        for path in filter(Path.exists, bad):
            raise _damaged(path)
        try:
            _download(cls.url, archive, progress)
        except (OSError, HTTPException) as error:
            raise UserError(
                f"{bad[0].name} not found in {bad[0].parent}, and the download failed"
                f" ({error}); get {cls.url} and unpack it in {root}"
            ) from None
    if not check_integrity(archive, cls.tgz_md5):
        raise _damaged(archive)
    try:
        extract_archive(archive, root)
    except OSError as error:
        raise UserError(f"{archive}: cannot be unpacked in {root} ({error})") from None


def _damaged(path: Path) -> UserError:
    return UserError(f"{path}: damaged, its MD5 is not the published one; delete it and try again")


def _download(url: str, path: Path, progress: bool) -> None:
    """Download a file, whole or not at all.

    torchvision's own function has no time limit and leaves half a file under the final name.

    Raises:
        OSError: the download fails; in time where there is no network.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_url(url) as response, replacing(path) as temporary, open(temporary, "wb") as file:
        size = int(response.headers.get("Content-Length") or 0)
        what = f"downloading {url}"
        with progress_bar(what, progress, total=size, unit="B", unit_scale=True) as bar:
            while chunk := response.read(1 << 20):
                file.write(chunk)
                bar.update(len(chunk))
        if size and file.tell() != size:
            raise OSError("the connection broke off")


def read_digits() -> Digits:
    """Read scikit-learn's digits, 1797 gray images of 8x8 pixels, as (1797, 8, 8, 3)."""
    from sklearn.datasets import load_digits  # a second to import, and only needed here

    digits = load_digits()
    gray = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # from levels 0..16
    images = np.repeat(gray[..., None], 3, axis=3)
    names = [str(n) for n in digits.target_names]
    return Digits(images, digits.target.astype(np.int64), names)
