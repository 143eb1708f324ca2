"""End a program with an exit code, and with one line on stderr for every error of the user's."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import NoReturn, cast

from utils import UserError, rank

# The exit codes of all programs, beside 0.
FAILED = 1
USER_ERROR = 2
DIVERGED = 3
TRY_AGAIN = 75  # sysexits.h's EX_TEMPFAIL: stopped by a signal, and to be started again
INTERRUPTED = 130  # by Ctrl-C, as shells count signals
BROKEN_PIPE = 141  # by SIGPIPE


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what leaves the block into an exit code, and a user's mistake into one line."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that lacks a character ends no run.
        cast(TextIOWrapper, stream).reconfigure(errors="replace")
    try:
        yield
        sys.stdout.flush()
    except UserError as error:
        _fail(error)
    except BrokenPipeError:  # the reader of the output, `head` for example, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BROKEN_PIPE)
    except OSError as error:  # a full disk, a folder without permission
        _fail(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _fail(error: Exception) -> NoReturn:
    number = rank()
    who = f"(process {number}) " if number else ""
    print(f"error: {who}{' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(USER_ERROR)
