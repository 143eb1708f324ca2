"""Turn the runs of a manifest into programs that run."""

import functools
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from cli.optimizer_names import SETTINGS
from experiments.grid import PROGRAMS
from experiments.manifest import GRID, TUNED, Manifest, Run
from experiments.results import chosen_flags, other_flags
from experiments.runner import FAILED, Job, Outcome, Runner
from utils import UserError

ROOT = Path(__file__).parent.parent


def flags_of(manifest: Manifest, run: Run) -> dict[str, Any]:
    """Return all flags of a run, the tuned ones chosen.

    Raises:
        UserError: its trials have not all ended, or all diverged.
    """
    if run.role != TUNED:
        return run.flags
    chosen = chosen_flags(manifest, run)
    flags = run.flags | chosen
    defaults = PROGRAMS[manifest.program].defaults(flags)
    return {name: defaults[name] for name in SETTINGS if "optimizer" in chosen} | flags


def share_folder(manifest: Manifest, run: Run) -> None:
    """Link a tuned run to the grid's, where the chosen flags are the grid's own."""
    path = manifest.path(run)
    if path.is_symlink() and not path.exists():
        path.unlink()  # the grid's run is gone
    if run.role != TUNED or path.exists():
        return
    flags = flags_of(manifest, run)
    same = next((r for r in manifest.runs if r.role == GRID and r.flags == flags), None)
    if same is not None and manifest.path(same).exists():
        with suppress(FileExistsError):  # another sweep was faster
            path.symlink_to(same.name)


def command(manifest: Manifest, run: Run) -> list[str]:
    """Return the program and its flags, without those at their defaults."""
    return words_of(manifest.program, flags_of(manifest, run), manifest.path(run))


def words_of(program: str, flags: dict[str, Any], folder: Path) -> list[str]:
    """Return the command of a program with these flags, without those at their defaults.

    Args:
        program: a key of PROGRAMS.
        flags: all that decide the run.
        folder: the run's.
    """
    config = PROGRAMS[program]
    defaults = config.defaults(flags)
    words = [sys.executable, str(ROOT / config.PROGRAM)]
    for flag in config.flags().values():
        value = flags.get(flag.name, defaults[flag.name])
        if value == defaults[flag.name]:
            continue
        if isinstance(value, bool):
            words.append(f"--{flag.name}" if value else f"--no-{flag.name}")
        else:
            words.append(f"--{flag.name}={value}")  # in one word: the value may begin with a dash
    return [*words, f"--output_dir={folder}", "--resume"]


def others_there(manifest: Manifest, run: Run) -> list[str]:
    """Return the flags in which the run in its folder differs from it."""
    known = PROGRAMS[manifest.program].flags()
    return other_flags(manifest.path(run), flags_of(manifest, run), known)


def job_of(name: str, program: str, flags: dict[str, Any], folder: Path) -> Job:
    """Return the job that makes a run, or finds it made, in its folder; see `words_of`."""
    others = functools.partial(other_flags, folder, flags, PROGRAMS[program].flags())
    return Job(name, folder, words_of(program, flags, folder), others)


def do(runner: Runner, manifest: Manifest, runs: list[Run]) -> list[Outcome]:
    """Run `runs`, and return how they ended; those that cannot start have failed."""
    jobs, failed = [], []
    for run in runs:
        try:
            share_folder(manifest, run)
            flags = flags_of(manifest, run)
            jobs.append(job_of(run.name, manifest.program, flags, manifest.path(run)))
        except UserError as error:
            failed.append(Outcome(run.name, FAILED, str(error)))
    return [*runner.run(jobs), *failed]
