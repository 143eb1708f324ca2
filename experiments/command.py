"""Do what sweep.py is asked for: show the runs of a sweep, do one of them, or all."""

import os
import shlex
from contextlib import suppress

from cli import errors
from experiments.display import Display
from experiments.jobs import command, do, others_there, share_folder
from experiments.manifest import TUNED, Manifest, Run
from experiments.runner import FAILED, Outcome, running
from run_folder.status import DIVERGED, ENDED, FINISHED, status_of
from utils import UserError


def show_list(manifest: Manifest) -> int:
    """Print every run with its status."""
    counts: dict[str, int] = {}
    for run in manifest.runs:
        status = status_of(manifest.path(run))
        counts[status.kind] = counts.get(status.kind, 0) + 1
        print(f"{run.index:4} {status.kind:11} {run.name}  {status.reason}".rstrip())
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()))
    return 0


def show_commands(manifest: Manifest) -> int:
    """Print the commands of the runs that have not ended."""
    for run in manifest.runs:
        if status_of(manifest.path(run)).kind in ENDED:
            continue
        try:
            words = command(manifest, run)
        except UserError as error:
            print(f"# {run.name}: {error}")
        else:
            print(shlex.join(["python", os.path.relpath(words[1]), *words[2:]]))
    return 0


def run_one(manifest: Manifest, index: int, only_folder: bool) -> int:
    """Replace this process by the program of one run, whose signals and exit code then count."""
    if index > len(manifest.runs):
        raise UserError(f"--index {index}: the sweep has {len(manifest.runs)} runs")
    run = manifest.runs[index - 1]
    folder = manifest.path(run)
    if only_folder:
        with suppress(UserError):  # its trials may not have ended
            share_folder(manifest, run)
        print(folder)
        return 0
    share_folder(manifest, run)
    status = status_of(folder)
    if status.kind in ENDED:
        if others := others_there(manifest, run):
            raise UserError(f"{folder} holds another run ({', '.join(others)}); move it away")
        print(f"{run.name}: {status.kind} {status.reason}".rstrip())
        return errors.DIVERGED if status.kind == DIVERGED else 0
    words = command(manifest, run)
    print(f"Run {index} of {len(manifest.runs)}: {run.name}", flush=True)
    os.execv(words[0], words)


def run_all(manifest: Manifest, jobs: int | None, runs: list[Run]) -> int:
    """Run what has not ended of `runs`, `jobs` runs at a time."""
    cpu_only = all(run.flags.get("device") == "cpu" for run in runs)
    display = Display(len(runs))
    outcomes: list[Outcome] = []
    with running(display, jobs, len(runs), not cpu_only, {}) as runner:
        for tuned in (False, True):  # the choices depend on all of the others
            now = [run for run in runs if (run.role == TUNED) == tuned]
            outcomes += do(runner, manifest, now)
    if runner.stopped():
        print("Interrupted; the same command goes on")
        return errors.TRY_AGAIN
    kinds = [outcome.kind for outcome in outcomes]
    print(", ".join(f"{kinds.count(kind)} {kind}" for kind in (FINISHED, DIVERGED, FAILED)))
    for outcome in outcomes:
        if outcome.kind != FINISHED:
            print(f"{outcome.kind}: {outcome.name}: {outcome.reason}")
    return errors.FAILED if FAILED in kinds else 0
