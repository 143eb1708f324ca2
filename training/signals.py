"""Stop in an orderly way when a cluster's scheduler or Ctrl-C asks for it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def let_signals_through() -> None:
    """Hear the signals of SIGNALS, those too that have come and were blocked.

    training/launch.py blocks one of them, and what it starts inherits that.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


class Interrupted(BaseException):
    """Say that a signal wants the run to stop here, and to be continued later.

    It is no Exception, so that no `except Exception` catches it.

    Args:
        name: the signal.
        saved: the training was on its way, and has saved its state.
    """

    def __init__(self, name: str, saved: bool = False):
        super().__init__(name)
        self.saved = saved


class StopSignals:
    """Turn SIGTERM, SIGINT and SIGUSR1 into Interrupted or a request to stop.

    Inside the `with` block a signal raises Interrupted at once; in a `deferred` block it only sets
    `requested`, so that the work there can stop at a good place. A second SIGINT always stops at
    once, with KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.requested = False
        self._name = ""
        self._interrupts = 0
        self._deferring = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        self._previous = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let signals only set `requested` inside the block."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def interruption(self, saved: bool = False) -> Interrupted:
        """Return what to raise for the request."""
        self.requested = True  # another rank may have had the signal, and this one gets it later
        return Interrupted(self._name or "a signal to another process", saved)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            raise KeyboardInterrupt
        if self.requested:  # once is enough: another one would break into the clearing up
            return
        self.requested = True
        self._name = signal.Signals(number).name
        if not self._deferring:
            raise self.interruption()
