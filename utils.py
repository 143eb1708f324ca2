"""Share what all packages need: errors for users, seeds, ranks, files, progress.

Nothing here loads torch.
"""

import difflib
import fcntl
import hashlib
import json
import os
import re
import sys
import time
import uuid
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any

# --- errors ---


class UserError(Exception):
    """Report a mistake that the user can fix: one line, with what is wrong and the remedy."""


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn a ValueError of a room that knows nothing of users into a UserError."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from None


def did_you_mean(text: str, choices: Iterable[str]) -> str | None:
    """Return the choice nearest to `text`, without regard to case, if one is near."""
    by_lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(text.lower(), by_lower, n=1)
    return by_lower[near[0]] if near else None


def nearest(text: str, choices: Collection[str]) -> str:
    """Return `did you mean X? known: X, Y, Z`."""
    near = did_you_mean(text, choices)
    hint = f"did you mean {near}? " if near else ""
    return f"{hint}known: {', '.join(choices)}"


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Print Python's warnings as lines on stderr, without the places in the code."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for text in dict.fromkeys(" ".join(str(each.message).split()) for each in caught):
        print(f"warning: {text}", file=sys.stderr)


def warn(text: str) -> None:
    """Print a warning as a line on stderr, once for all processes of a run."""
    if is_main():
        print(f"warning: {text}", file=sys.stderr)


def writable(text: str) -> str:
    """Return a text that can be written as UTF-8: a byte of a name that is none becomes \\udce9.

    Python holds such a byte as half of a surrogate pair.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def printable(name: str) -> str:
    """Return a name as one line of `writable` text, with \\n and the like in it."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


# --- seeds ---


def mixed_seed(*parts: int | str) -> int:
    """Return a 64-bit seed made of numbers or names; neighbouring parts give unrelated seeds."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big")


# --- the processes of one run, as torchrun tells them ---


def world_size() -> int:
    """Return the number of processes that train one network together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """Return the number of this process among them, from 0."""
    return int(os.environ.get("RANK", 0)) if world_size() > 1 else 0


def local_rank() -> int:
    """Return its number among the processes of this machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def local_world_size() -> int:
    """Return the number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def is_main() -> bool:
    """Return whether this is the process that writes files and prints."""
    return rank() == 0


def restarts() -> int:
    """Return how often torchrun has started these processes again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def torchrun_id() -> str | None:
    """Return the id of the torchrun that started this process, unless it is the default, "none"."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return None if name == "none" else name


def share(count: int, rank: int, world_size: int) -> slice:
    """Return the part of `count` things in a row that belongs to process `rank`.

    The parts follow each other and differ in length by one at most, the longer ones first.
    """
    length, longer = divmod(count, world_size)
    start = rank * length + min(rank, longer)
    return slice(start, start + length + (rank < longer))


def shares(
    num_samples: int, batch_size: int, first: int, rank: int, world_size: int
) -> Iterator[slice]:
    """Yield this process's part of each global batch from number `first` on, as epoch slices."""
    for start in range(first * batch_size, num_samples, batch_size):
        part = share(min(batch_size, num_samples - start), rank, world_size)
        yield slice(start + part.start, start + part.stop)


def usable_cpus() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux: what SLURM and taskset left us
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# --- files ---


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits, without holding all of it."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def read_json(text: str) -> Any:
    """Return the content of a JSON text that a person may have edited.

    Raises:
        ValueError: it is no JSON, or an object has a key twice, of which Python's reader takes the
            last one without a word; the message names the key, and the lines that it stands on.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            key = re.compile(re.escape(json.dumps(twice)) + r"\s*:")
            lines = [str(number) for number, line in enumerate(text.splitlines(), 1)
                     if key.search(line)]  # fmt: skip
            raise ValueError(f"{twice!r} stands there twice: see lines {', '.join(lines)}")
        return content

    return json.loads(text, object_pairs_hook=unique)


@contextmanager
def replacing(path: Path, unique: bool = True) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to; it becomes `path` if nothing goes wrong.

    Args:
        path: the file to replace. A reader sees the old or the new one, whole.
        unique: several processes may write at once. Without it the name is fixed, so that
            processes that are killed leave one temporary file at most.
    """
    infix = f".{uuid.uuid4().hex}" if unique else ""
    temporary = path.with_name(f"{path.name}{infix}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Let one process at a time into the block; the others wait, and say so.

    The kernel's lock is enough here, where work would only be done twice. A run folder, which a
    second process would damage, has a lock that also works across machines (run_folder/lock.py).

    Args:
        path: a file that exists meanwhile. Folders that it needs are made, and removed again if
            nothing else came into them. Where files cannot be written or locked nobody waits.
    """
    missing = [folder for folder in path.parents if not folder.exists()]
    with _locked(path) or nullcontext():
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()  # while the lock is held: a later process makes a new file
                for folder in missing:
                    folder.rmdir()


def _locked(path: Path) -> IO[str] | None:
    """Return the file `path`, open and locked for this process; None where that is impossible."""
    said = False
    try:
        while True:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "w")  # noqa: SIM115 - the lock lasts as long as it is open
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not said:
                    message = f"waiting for another process that does the same ({path})"
                    print(message, file=sys.stderr, flush=True)
                said = True
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(path, file):
                return file
            file.close()
    except OSError:
        return None


def _is_at(path: Path, file: IO[str]) -> bool:
    """Return whether `file` is what lies at `path`, not one that was deleted there."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


# --- progress ---


def may_draw() -> bool:
    """Return whether this is a terminal, and no other process of the run draws there."""
    return sys.stderr.isatty() and os.environ.get("RANK", "0") == "0"


def progress_bar(what: str, progress: bool, iterable: Any = None, **options: Any) -> Any:
    """Return a tqdm bar on a terminal; print one plain line elsewhere, or where none is wanted."""
    show, what = progress and may_draw(), printable(what)
    if not show:
        print(what)
    return _tqdm(iterable, desc=what, disable=not show, **options)


def _tqdm(*arguments: Any, **options: Any) -> Any:
    from tqdm import tqdm  # not needed by --help

    return tqdm(*arguments, **options)


class Progress:
    """Show a progress bar on a terminal, and elsewhere a plain line now and then."""

    PLAIN_SECONDS = 60

    def __init__(self, label: str, total: int, done: int = 0):
        self.label, self.total, self.done = label, total, done
        self.bar = _tqdm(total=total, initial=done, desc=label, leave=False, disable=not may_draw())
        self.last_line = time.monotonic()

    def advance(self, text: str = "") -> None:
        """Count one step, and show `text` beside it."""
        self.done += 1
        if text:
            self.bar.set_postfix_str(text, refresh=False)
        self.bar.update()
        if self.bar.disable and time.monotonic() - self.last_line > self.PLAIN_SECONDS:
            self.last_line = time.monotonic()
            print(f"{self.label}: {self.done}/{self.total} {text}", flush=True)

    def close(self) -> None:
        self.bar.close()
