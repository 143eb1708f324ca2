"""The data sets that are arrays already: CIFAR as torchvision stores it, scikit-learn's digits."""

from http.client import HTTPException
from pathlib import Path

import numpy as np
from torchvision.datasets.utils import check_integrity, extract_archive

from pipelines.download import open_url
from utils import UserError, one_at_a_time, progress_bar, replacing


def read_cifar(cls, data_path, progress=True):
    """(train, test, class names) of torchvision's CIFAR10 or CIFAR100; each (images, targets).

    images: uint8 (N, 32, 32, 3); targets: int64 (N,). Downloads what is missing. UserError where
    that fails or a file is damaged.
    """
    root = Path(data_path)
    _fetch_cifar(cls, root, progress)
    train, test = cls(root, train=True), cls(root, train=False)
    return _arrays(train), _arrays(test), train.classes


def _arrays(dataset):
    return np.ascontiguousarray(dataset.data), np.array(dataset.targets, np.int64)


def _fetch_cifar(cls, root, progress):
    if _bad_files(cls, root):
        with one_at_a_time(root / f".{cls.filename}.lock"):
            if bad := _bad_files(cls, root):  # by now another process may have unpacked them
                _unpack_cifar(cls, root, bad, progress)


def _bad_files(cls, root):
    """Those that are missing or damaged."""
    names = [*cls.train_list, *cls.test_list, (cls.meta["filename"], cls.meta["md5"])]
    files = [(root / cls.base_folder / name, md5) for name, md5 in names]
    return [path for path, md5 in files if not check_integrity(path, md5)]


def _unpack_cifar(cls, root, bad, progress):
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


def _damaged(path):
    return UserError(f"{path}: damaged, its MD5 is not the published one; delete it and try again")


def _download(url, path, progress):
    """A file from the network, whole or not at all; OSError in time where there is no network.

    torchvision's own has no time limit and leaves half a file under the final name.
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


def read_digits():
    """(images, targets, class names) of scikit-learn's digits: uint8 (1797, 8, 8, 3), int64."""
    from sklearn.datasets import load_digits  # a second to import, and only needed here

    digits = load_digits()
    gray = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(gray[..., None], 3, axis=3)
    return images, digits.target.astype(np.int64), [str(n) for n in digits.target_names]
