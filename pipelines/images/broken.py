"""Leave out image files that cannot be read: --skip_broken."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipelines.images.cache import cached
from pipelines.images.decode import BrokenImage, decode
from pipelines.images.folders import Files, Splits
from pipelines.images.interfaces import ImageFiles, Images
from pipelines.images.readers import for_each
from utils import UserError, printable


class Readable(NamedTuple):
    """Hold the image files that can be read, and the names of those left out."""

    found: Splits
    left_out: list[str]


def without_broken(found: Splits, progress: bool = True) -> Readable:
    """Decode every file once, and leave out those that cannot be read.

    Which these are is kept in the cache: a set that has not changed is not read again.

    Raises:
        UserError: a class of a split has no other file.
    """
    left_out: list[str] = []

    def readable(files: Files) -> Files:
        is_broken = are_broken(files, progress)
        left_out.extend(map(printable, np.array(files.names(), object)[is_broken]))
        kept = files.subset(~is_broken)
        for target in set(files.targets) - set(kept.targets):
            raise UserError(
                f"{files.folder / found.class_names[target]}: none of its images can be read; put"
                " readable ones there"
            )
        return kept

    kept = found._replace(
        train=readable(found.train),
        val=readable(found.val) if found.val else None,
        test=readable(found.test),
    )
    return Readable(kept, left_out)


def are_broken(files: Files, progress: bool) -> npt.NDArray[np.bool_]:
    """Return of each file whether it is broken, (N,)."""
    what = f"checking {len(files.images):,} images of {files.folder}"
    shape = (len(files.images),)
    return cached(files, "broken", shape, lambda: _check(files.images, what, progress)).array > 0


def _check(images: ImageFiles, what: str, progress: bool) -> Images:
    """Return 1 for each file that is broken, else 0: uint8 (N,).

    Raises:
        UserError: a file cannot be read now, which says nothing of it.
    """
    broken = np.zeros(len(images), np.uint8)

    def work(i: int) -> None:
        try:
            decode(images[i])
        except BrokenImage:
            broken[i] = 1

    for_each(len(images), work, what, progress)
    return broken
