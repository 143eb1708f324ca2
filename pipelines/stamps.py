"""See that a file has changed without reading it."""

import os
import time
from collections.abc import Iterable
from typing import NamedTuple

SECOND = 10**9  # in nanoseconds
# A file can change twice within a tick of its file system's clock, the second time unseen.
COARSE_TICK = 2 * SECOND  # FAT's, the coarsest
FINE_TICK = SECOND // 10  # ten times what Linux takes for a tick where it counts parts of a second


class Stamp(NamedTuple):
    """Hold what the file system says of a file: no change leaves all of it the same.

    The time of a file's last change (ctime) cannot be set by a program, as its mtime can; a file
    that is put in the place of another has another inode.
    """

    size: int  # in bytes
    mtime: int  # in nanoseconds, as the next
    ctime: int
    inode: int


def stamp(stat: os.stat_result) -> Stamp:
    """Return a file's stamp, from its stat."""
    return Stamp(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


def stamp_of(path: str) -> Stamp:
    """Return the stamp of the file at `path`, or of a link to nowhere."""
    try:
        return stamp(os.stat(path))
    except OSError:
        return stamp(os.lstat(path))


def are_settled(stamps: Iterable[Stamp]) -> bool:
    """Return whether any change of the files from now on will show in their stamps."""
    return time.time_ns() - _newest(stamps) > COARSE_TICK


def settle(stamps: Iterable[Stamp]) -> None:
    """Wait until any further change of the files shows in their stamps: for two seconds at most."""
    stamps = tuple(stamps)
    if not are_settled(stamps):
        is_coarse = _newest(stamps) % SECOND == 0
        time.sleep((COARSE_TICK if is_coarse else FINE_TICK) / SECOND)


def _newest(stamps: Iterable[Stamp]) -> int:
    return max(stamp.ctime for stamp in stamps)
