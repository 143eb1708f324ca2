"""Let one process at a time write to a run folder.

The file `lock` says who, and two signs say whether that process lives. The kernel's lock on the
file is there for as long as the process is, but some cluster file systems keep it within one
machine, or have none. The heartbeat, the file's time of change, reaches everywhere, but takes time
to watch: machines' clocks differ, so one has to see it move.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from utils import UserError

FILE = "lock"
HEARTBEAT = 10  # seconds between two signs of life
STALE = 45  # seconds without one after which a process on another machine counts as dead
SETTLE = 2  # seconds; by then any process has written its name and seen whether it stays
POLL = 0.1  # seconds
ATTEMPTS = 100
HELD = "writes to this folder"  # part of the refusal; a sweep recognises it by that


class Seen(NamedTuple):
    """Hold a lock file as it was at one moment."""

    inode: int
    changed: int  # nanoseconds, by the file server's clock
    text: str

    def holder(self) -> dict[str, Any]:
        """Return host, pid and since; nothing if its writer was stopped half-way."""
        try:
            holder = json.loads(self.text)
            return {name: holder[name] for name in ("host", "pid", "since")}
        except (ValueError, TypeError, KeyError):
            return {}

    def __str__(self) -> str:
        return "pid {pid} on {host}, since {since}".format(**self.holder())


def look(file: Path) -> Seen:
    """Return a lock file as it is now.

    It is opened again each time: for open files, and for names alone, network file systems answer
    from memory.

    Raises:
        FileNotFoundError: there is none.
    """
    with open(file, encoding="utf-8", errors="replace") as opened:
        status = os.fstat(opened.fileno())
        return Seen(status.st_ino, status.st_mtime_ns, opened.read())


class FolderLock:
    """Keep other processes out of a folder, in a `with` block.

    The folder is made, and removed again at the end if nothing else came into it.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._file = self.path.absolute() / FILE
        self._descriptor: int | None = None  # open while this process holds or tries the lock
        self._text: str | None = None  # the file's content if it is ours
        self._made: list[Path] = []
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        _locks.add(self)

    def __enter__(self) -> FolderLock:
        """Take the lock, at once or after waiting for a sign of life.

        Raises:
            UserError: another process holds it, or the folder cannot be made or written.
        """
        try:
            self._acquire()
            self._heart.start()
        except BaseException as error:
            self._clear()
            if isinstance(error, OSError):
                raise UserError(
                    f"{self.path}: cannot be made or written as a folder ({error.strerror}); fix "
                    "that, or choose another --output_dir"
                ) from None
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:  # in a forked child the lock is its parent's
            self._stop.set()
            self._heart.join()
            self._clear()

    # --- getting it ---

    def _acquire(self) -> None:
        folder = self._file.parent
        self._made = [each for each in (folder, *folder.parents) if not each.exists()]
        for _ in range(ATTEMPTS):
            folder.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # its holder has just removed it
                if self._create() or self._take_over():
                    return
            self._close()
            time.sleep(POLL / 10)
        raise OSError(errno.EAGAIN, "its lock comes and goes")

    def _create(self) -> bool:
        """Take the lock of a free folder. One process of all machines succeeds."""
        try:
            self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        self._kernel_lock()
        self._write_name()
        return True

    def _take_over(self) -> bool:
        """Take the lock of a dead process; return False if the file changes, to look again.

        The file stays, and the process with the kernel's lock on it rewrites it. If it were
        removed, a process that is slow to act on what it saw could remove the next one's.
        """
        seen = self._look()
        if not seen.holder() and self._changes(seen, SETTLE):  # its name was being written
            return False
        self._descriptor = os.open(self._file, os.O_RDWR)
        reaches_all = self._kernel_lock() and seen.holder().get("host") == socket.gethostname()
        if os.fstat(self._descriptor).st_ino != seen.inode or self._look() != seen:
            return False
        if reaches_all:
            self._write_name()
            return True
        if seen.holder():
            self._wait_for_life(seen)
        return self._wins()

    def _wait_for_life(self, seen: Seen) -> None:
        """Wait to see whether the heartbeat goes on.

        Raises:
            UserError: the holder lives.
        """
        print(
            f"waiting up to {STALE} s for a sign of life of the process that locked {self.path} "
            f"({seen})",
            flush=True,
        )
        if self._changes(seen, STALE):
            raise self._refusal()

    def _wins(self) -> bool:
        """Write the name where the kernel may not keep others from doing the same.

        The name that was written last stays, and all see it.
        """
        self._write_name()
        time.sleep(SETTLE)
        return self._is_mine()

    def _kernel_lock(self) -> bool:
        """Take the kernel's lock on the open file; return False where there is no such thing.

        Raises:
            UserError: another process has it.
        """
        assert self._descriptor is not None, "the file is open"
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(POLL)  # it may have taken it over this moment, and not written its name
            raise self._refusal() from None
        except OSError:
            return False
        return True

    def _refusal(self) -> UserError:
        who = "another process"
        with suppress(FileNotFoundError):
            seen = self._look()
            who = f"another process ({seen})" if seen.holder() else who
        return UserError(
            f"{self.path}: {who} {HELD}; wait for it, stop it, or choose another --output_dir"
        )

    # --- the file ---

    def _look(self) -> Seen:
        return look(self._file)

    def _changes(self, seen: Seen, seconds: float) -> bool:
        """Return whether the file is written, touched or replaced within that time.

        Raises:
            FileNotFoundError: it is removed.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(POLL)
            if self._look() != seen:
                return True
        return False

    def _write_name(self) -> None:
        name = {"host": socket.gethostname(), "pid": os.getpid()}
        name["since"] = time.strftime("%Y-%m-%d %H:%M:%S")
        assert self._descriptor is not None, "the file is open"
        self._text = json.dumps({**name, "id": uuid.uuid4().hex})
        try:
            os.ftruncate(self._descriptor, 0)
            with open(self._descriptor, "w", encoding="utf-8", closefd=False) as file:
                file.write(self._text)
            os.fsync(self._descriptor)
        except OSError:
            with suppress(OSError):
                self._file.unlink()  # nobody can tell whose it is
            raise

    def _is_mine(self) -> bool:
        with suppress(FileNotFoundError):
            return self._look().text == self._text
        return False

    # --- having it ---

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            with suppress(OSError):  # the file server is away: it may come back
                if not self._is_mine():
                    return
                os.utime(self._file)

    def _clear(self) -> None:
        """Give the lock back, if it is ours, and leave nothing of it."""
        with suppress(OSError):
            if self._text is not None and self._is_mine():
                self._file.unlink()  # before the kernel's lock ends, or it might be another's
        self._close()
        with suppress(OSError):
            for folder in self._made:
                folder.rmdir()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = self._text = None


_locks: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _leave_to_parent() -> None:
    """Close a forked child's copies of the descriptors, which does not unlock.

    The kernel's lock lasts until the last copy is closed, and children, such as a data loader's
    workers, may live longer than their parent.
    """
    for lock in _locks:
        lock._close()


os.register_at_fork(after_in_child=_leave_to_parent)
