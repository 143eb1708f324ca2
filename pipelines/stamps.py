"""See that a file has changed without reading it."""

import os
import time
from collections.abc import Iterable
from typing import TypeAlias

SECOND = 10**9  # in nanoseconds
# A file can change twice within a tick of its file system's clock, the second time unseen.
COARSE_TICK = 2 * SECOND  # FAT's, the coarsest
FINE_TICK = SECOND // 10  # ten times what Linux takes for a tick where it counts parts of a second


# What the file system says of a file: its size in bytes, its mtime and its ctime in nanoseconds,
# its inode. No change of a file leaves all of these the same: a program cannot set the ctime, and a
# file put in the place of another has another inode. A plain tuple, because a million named ones
# would keep the garbage collector busy, which doubles the time to list them.
Stamp: TypeAlias = tuple[int, int, int, int]


def stamp(stat: os.stat_result) -> Stamp:
    """Return a file's stamp, from its stat."""
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


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
    return max(ctime for _, _, ctime, _ in stamps)
