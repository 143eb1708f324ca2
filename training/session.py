"""Make a process ready to train, before torch is loaded: signals, the run folder, restarts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic

from cli.config import C, Config
from cli.errors import TRY_AGAIN
from cli.parser import Command
from cli.run import AUTO
from cli.run_names import default_output_dir
from run_folder.folder import RunFolder
from training.before_torch import shorten_spins, speak_once
from training.signals import Interrupted, StopSignals, let_signals_through
from utils import is_main, restarts, world_size


@dataclass(frozen=True)
class Session(Generic[C]):
    """Hold what a program starts with: the command, the run folder and the signal handler."""

    command: Command[C]
    folder: RunFolder
    signals: StopSignals

    @property
    def trains(self) -> bool:
        """Return whether the command trains, and does not only evaluate."""
        return not self.command.config.run.test_only


@contextmanager
def open_session(command: Command[C]) -> Iterator[Session[C]]:
    """Give a session; one that trains has the run folder to itself.

    There, a signal ends the block: the folder is marked if the run wants to go on, and the program
    exits with TRY_AGAIN.

    Raises:
        UserError: the folder holds another run, or another process writes to it.
    """
    shorten_spins()
    folder = run_folder(command.config)
    if command.config.run.test_only:
        let_signals_through()  # nothing is left to save: they end it
        yield Session(command, folder, StopSignals())
        return
    speak_once()
    with StopSignals() as signals:
        try:
            let_signals_through()
            with folder.locked():
                try:
                    command = restarted(command, folder)
                    run = command.config.run
                    folder.claim(run.resume is not None)
                    if run.resume is None:
                        folder.check_free(run.overwrite)
                    yield Session(command, folder, signals)
                except Interrupted as signal:
                    marked = not _is_cleaning_up(signal) and folder.mark_unfinished()
                    if not marked:
                        raise
                    print(f"Interrupted by {signal}; {folder.path} goes on with --resume")
                    sys.exit(TRY_AGAIN)
        except Interrupted as signal:
            print(f"Interrupted by {signal}, before anything was done")
            sys.exit(TRY_AGAIN)


def run_folder(config: Config) -> RunFolder:
    """Return --output_dir, or the folder of the run to resume, or one named after the flags."""
    run = config.run
    path = Path(run.output_dir) if run.output_dir else default_output_dir(config)
    if run.resume not in (None, AUTO) and run.output_dir is None:
        path = checkpoint_meant(run.resume).parent
    return RunFolder(path, writes=is_main())


def checkpoint_meant(path: str) -> Path:
    """Return the file that --resume PATH means: a checkpoint, or the one in a run folder."""
    if Path(path).is_dir():
        return Path(path) / RunFolder.CHECKPOINT
    return Path(path).resolve() if Path(path).is_symlink() else Path(path)


def restarted(command: Command[C], folder: RunFolder) -> Command[C]:
    """Return the command, which resumes where torchrun has restarted the run that it started.

    Raises:
        Interrupted: a signal has stopped the processes; once more, so that the sender of the
            signal continues the run, not torchrun.
    """
    if not restarts():
        return command
    if folder.is_marked_by_us():
        raise Interrupted("a signal before torchrun's restart")
    if command.config.run.resume is None and folder.is_started_by_us():
        return replace(command, config=command.config.replaced(resume=AUTO, overwrite=False))
    return command


def _is_cleaning_up(interruption: Interrupted) -> bool:
    """Return whether torchrun ends a process that is starting, as another one has failed.

    A signal that is meant for the run looks the same, but then torchrun ends as well.
    """
    in_start_up = not interruption.saved
    return in_start_up and world_size() > 1 and str(interruption) == "SIGTERM"
