"""One process at a time writes to a run folder.

The file `lock` says who, and two signs say whether that process lives. The kernel's lock on the
file is there for as long as the process is, but some cluster file systems keep it within one
machine, or have none. The heartbeat, the file's time of change, reaches everywhere, but takes time
to look at: machines' clocks differ, so one has to see it move.
"""

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
from typing import NamedTuple

from utils import UserError

HEARTBEAT = 10  # seconds between two signs of life
STALE = 45  # seconds without one after which a process on another machine counts as dead
SETTLE = 2  # seconds in which any process has written its name, and sees whether it stays there
POLL = 0.1  # seconds
ATTEMPTS = 100
HELD = "writes to this folder"  # part of the refusal, by which a sweep knows it


class Seen(NamedTuple):
    """A lock file as it was at a moment."""

    inode: int
    changed: int  # nanoseconds, by the file server's clock
    text: str

    def holder(self) -> dict:
        """host, pid and since; empty if whoever wrote it did not come to its end."""
        try:
            holder = json.loads(self.text)
            return {name: holder[name] for name in ("host", "pid", "since")}
        except (ValueError, TypeError, KeyError):
            return {}

    def __str__(self) -> str:
        return "pid {pid} on {host}, since {since}".format(**self.holder())


class FolderLock:
    """A context in which no other process is with the same folder.

    The folder is made. What was made is removed at the end, if nothing else came into it.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._file = self.path.absolute() / "lock"
        self._descriptor = None  # open for as long as this process holds or tries the lock
        self._text = None  # what says in the file that it is ours
        self._made = []
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        _locks.add(self)

    def __enter__(self):
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
                    f"{self.path}: cannot be made or written as a folder ({error.strerror}); mend "
                    "that, or choose another --output_dir"
                ) from None
            raise
        return self

    def __exit__(self, *_):
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
        """The lock of a free folder. Of all machines' processes one succeeds."""
        try:
            self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        self._kernel_lock()
        self._write_name()
        return True

    def _take_over(self) -> bool:
        """The lock of a dead process. False if the file changes, so that one has to look again.

        The file stays, and is rewritten by whoever has the kernel's lock on it. Were it removed,
        a process that is slow to act on what it saw could remove the next one's.
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
        """See whether the heartbeat goes on.

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
        """Write the name where the kernel may not keep others from doing the same: the last one
        stays there, and all see it."""
        self._write_name()
        time.sleep(SETTLE)
        return self._is_mine()

    def _kernel_lock(self) -> bool:
        """Take the kernel's lock on the open file; False where there is no such thing.

        Raises:
            UserError: another process has it.
        """
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
        """The file at the path now. Opened anew: of files that stay open, and of names alone,
        network file systems tell what they remember."""
        with open(self._file, encoding="utf-8", errors="replace") as file:
            status = os.fstat(file.fileno())
            return Seen(status.st_ino, status.st_mtime_ns, file.read())

    def _changes(self, seen: Seen, seconds: float) -> bool:
        """Whether the file is written, touched or replaced within that time.

        Raises:
            FileNotFoundError: it goes.
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


_locks = weakref.WeakSet()


def _leave_to_parent() -> None:
    """The kernel's lock lasts until the last copy of a descriptor is closed, and forked children,
    such as a data loader's workers, have copies and may live longer. Closing does not unlock."""
    for lock in _locks:
        lock._close()


os.register_at_fork(after_in_child=_leave_to_parent)
