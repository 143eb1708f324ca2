"""Being stopped from outside: by a cluster's scheduler, or by Ctrl-C."""

import signal
from contextlib import contextmanager

TRY_AGAIN = 75  # the exit code, sysexits.h's EX_TEMPFAIL


class Interrupted(BaseException):
    """A signal wants the run to stop here, and to be continued. No `except Exception` takes it.

    `saved`: whether the training was on its way, and has saved its state.
    """

    saved = False


class StopSignals:
    """SIGTERM, SIGINT and SIGUSR1, turned into Interrupted or a request to stop.

    While this is entered a signal raises Interrupted at once; in a `deferred` block it only sets
    `requested`, for whoever works there to stop at a good place. A second SIGINT always stops at
    once, with KeyboardInterrupt.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self):
        self.requested = False
        self._name = ""
        self._interrupts = 0
        self._deferring = False

    def __enter__(self):
        self._previous = {number: signal.signal(number, self._receive) for number in self.SIGNALS}
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self):
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def interruption(self) -> Interrupted:
        """What to raise for the request."""
        self.requested = True  # another rank may have had the signal, and this one gets it later
        return Interrupted(self._name or "a signal to another process")

    def _receive(self, number, frame):
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            raise KeyboardInterrupt
        if self.requested:  # once is enough: another one would break into the clearing up
            return
        self.requested = True
        self._name = signal.Signals(number).name
        if not self._deferring:
            raise self.interruption()
