"""Choose tuned flags by the results of trials, and compare runs with the sweep's."""

import math
from pathlib import Path

from cli.fields import Effect, Flag
from experiments.grid import Flags
from experiments.manifest import Manifest, Run
from experiments.tuning import Trial, choose, tuned_flags
from run_folder.folder import RunFolder
from run_folder.metrics import METRICS
from run_folder.records import read_records, score
from run_folder.status import DIVERGED, FINISHED, status_of
from utils import UserError


def chosen_flags(manifest: Manifest, run: Run) -> Flags:
    """Return the tuned flags for a run, chosen by the final validation results of its trials.

    Raises:
        UserError: the trials have not all ended, or all diverged.
    """
    trials = manifest.trials_of(run)
    metric = manifest.report.get("metric")
    results = [Trial(trial.flags, trial_result(manifest.path(trial), metric)) for trial in trials]
    missing = [t.name for t, result in zip(trials, results, strict=True) if result.score is None]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(trials)} trials that decide its flags have not ended "
            f"({missing[0]}, ...)"
        )
    return choose(tuned_flags(manifest.tune), results)


def other_flags(folder: Path, flags: Flags, known: dict[str, Flag]) -> list[str]:
    """Return the differences of the run in a folder from `flags`: "lr 0.2, not 0.9"."""
    try:
        there = RunFolder(folder).arguments()
        return [
            f"{flag.name} {there[flag.name]}, not {flags[flag.name]}"
            for flag in known.values()
            if flag.effect == Effect.RESULT
            and flag.name in there
            and there[flag.name] != flags.get(flag.name, flag.default)
        ]
    except (OSError, ValueError, TypeError) as error:
        return [f"its {RunFolder.ARGS} cannot be read ({' '.join(str(error).split())})"]


def trial_result(folder: Path, metric: str | None = None) -> float | None:
    """Return the final score on validation, minus infinity for a trial that diverged.

    It is None before the trial has ended, or where its results cannot be read.

    Args:
        folder: the trial's.
        metric: what the sweep declares to judge by, negative where less is better; without one, or
            where validation has none of it, accuracy, PSNR, else the negative loss.
    """
    kind = status_of(folder).kind
    if kind == DIVERGED:
        return -math.inf
    try:
        return _score(read_records(folder)[-1]["val"], metric) if kind == FINISHED else None
    except (ValueError, LookupError):
        return None


def _score(metrics: dict[str, float], metric: str | None) -> float:
    if metric is None or metric not in metrics:
        return score(metrics)
    value = metrics[metric]
    if math.isnan(value):  # it was infinite: the files hold finite numbers alone
        return -math.inf
    return value if METRICS[metric].higher_is_better else -value
