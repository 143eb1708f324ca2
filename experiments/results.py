"""What the trials of a sweep's tuning have found."""

import math
from pathlib import Path

from experiments.manifest import Manifest, Run
from experiments.tuning import Trial, choose, tuned_flags
from runs.records import read_records, score
from runs.status import DIVERGED, FINISHED, status_of
from utils import UserError


def chosen_flags(manifest: Manifest, run: Run) -> dict:
    """The tuned flags for a run, by the final validation results of its trials.

    Raises:
        UserError: they have not all ended, or all diverged.
    """
    trials = manifest.trials_of(run)
    missing = [trial.name for trial in trials if trial_result(manifest.path(trial)) is None]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(trials)} trials that it goes by have not ended "
            f"({missing[0]}, ...)"
        )
    results = [Trial(trial.flags, trial_result(manifest.path(trial))) for trial in trials]
    return choose(tuned_flags(manifest.tune), results)


def trial_result(folder: Path) -> float | None:
    """The final score on validation, minus infinity for a trial that diverged; None before it has
    ended, or where its results cannot be read."""
    kind = status_of(folder).kind
    if kind == DIVERGED:
        return -math.inf
    try:
        return score(read_records(folder)[-1]["val"]) if kind == FINISHED else None
    except (ValueError, LookupError):
        return None
