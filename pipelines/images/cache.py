"""Keep what was made of a split's image files on disk, for as long as the files stay as they are.

{root}/.cache/{split}-{what}-{key}.npy holds an array with its checksum behind it. The key is a hash
of everything that the array depends on: the files' names and stamps among it.
"""

import hashlib
import operator
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL

from pipelines.images.folders import Files
from pipelines.images.interfaces import Images
from pipelines.images.readers import FolderReader, decode_all
from pipelines.stamps import settle, stamp_of
from utils import UserError, one_at_a_time, replacing, warn

FORMAT = 2  # part of the key: raise it when the same files would give other bytes


class Cached(NamedTuple):
    """Hold an array, and whether it came from the cache."""

    array: Images
    from_cache: bool


def decoded(files: Files, read: FolderReader, progress: bool = True) -> Cached:
    """Return the images of `files`, (N, size, size, 3), from the cache or else decoded now."""
    size = str(read.size) if read.fit else "own"
    what = f"decoding {len(files.images):,} images of {files.folder}"
    shape = (len(files.images), read.size, read.size, 3)
    return cached(files, size, shape, lambda: decode_all(files.images, read, what, progress))


def cached(
    files: Files, what: str, shape: tuple[int, ...] | None, make: Callable[[], Images]
) -> Cached:
    """Return what `make` makes of `files`, uint8 of that shape, from the cache if it is there.

    The shape is None where `make` alone knows it.

    `what` says it in a word. Of several processes one makes it.

    Raises:
        UserError: the files change while it is made.
    """
    folder = Path(files.root, ".cache")
    prefix = f"{files.split}-{what}-"
    path = folder / f"{prefix}{_key(files, what, shape)}.npy"
    array = _read(path, shape)
    if array is None:
        with one_at_a_time(folder / f"{prefix}lock"):
            array = _read(path, shape)  # by now another process may have written it
            if array is None:
                settle(files.stamps)
                array = make()
                _check_unchanged(files)
                _keep(path, prefix, array)
                return Cached(array, False)
    return Cached(array, True)


def _check_unchanged(files: Files) -> None:
    try:
        same = all(map(operator.eq, map(stamp_of, files.paths), files.stamps))
    except OSError:
        same = False
    if not same:
        raise UserError(f"{files.folder}: its files change while they are read; start again")


def _keep(path: Path, prefix: str, array: Images) -> None:
    """Write the cache `path` in place of older ones, if that is possible."""
    try:
        _write(path, array)
        for old in set(path.parent.glob(f"{prefix}*.npy")) - {path}:
            old.unlink(missing_ok=True)
    except OSError as error:
        warn(f"no image cache in {path.parent} ({error.strerror})")


def _key(files: Files, what: str, shape: tuple[int, ...] | None) -> str:
    facts = repr((FORMAT, PIL.__version__, what, shape, files.names(), files.stamps))
    return hashlib.blake2b(facts.encode(), digest_size=12).hexdigest()


def _read(path: Path, shape: tuple[int, ...] | None) -> Images | None:
    """Return the cached array; None where there is none or it is damaged."""
    try:
        with open(path, "rb") as file:
            array = np.load(file, allow_pickle=False)
            checksum = file.read()
    except Exception:  # a damaged header can end in anything, MemoryError included
        return None
    is_whole = array.dtype == np.uint8 and checksum == _checksum(array)
    return array if is_whole and shape in (None, array.shape) else None


def _write(path: Path, array: Images) -> None:
    """Write a .npy file with its checksum behind the array.

    It appears whole or not at all, also while other processes write.
    """
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)
        file.write(_checksum(array))


def _checksum(array: Images) -> bytes:
    return zlib.crc32(array.data).to_bytes(4, "little")
