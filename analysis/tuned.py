"""What the tuning of a sweep tried and chose, for the report."""

import math
from dataclasses import dataclass

import pandas

from analysis.run_folders import RunResult
from analysis.settings import shown
from experiments.manifest import TRIAL
from experiments.results import trial_result
from experiments.tuning import Trial, mean_scores, tuned_flags


@dataclass(frozen=True)
class Choice:
    """For one activation (in one group of runs): (setting tried, mean validation score, trials)."""

    activation: str
    tried: list[tuple[dict, float, int]]
    missing: int  # trials that have not ended

    @property
    def trials(self) -> int:
        return sum(count for *_, count in self.tried)

    @property
    def best(self) -> dict:
        """The chosen flags; none before a trial has ended."""
        if not self.tried:
            return {}
        return max(self.tried, key=lambda each: each[1])[0]

    def edges(self) -> list[str]:
        """Where the best value is the smallest or largest tried: a better one may lie beyond."""
        found = []
        for name, value in self.best.items():
            tried = [setting[name] for setting, *_ in self.tried if _is_number(setting[name])]
            if len(set(tried)) > 1 and value in (min(tried), max(tried)):
                end = "largest" if value == max(tried) else "smallest"
                found.append(f"{name} = {shown(value)} is the {end} tried")
        return found


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def choices(runs: list[RunResult]) -> list[Choice]:
    """Of every tuning among the runs."""
    by_group: dict[str, list[RunResult]] = {}
    for run in runs:
        if run.role == TRIAL:
            by_group.setdefault(repr((run.manifest.folder, run.entry.group)), []).append(run)
    return [_choice(trials) for trials in by_group.values()]


def _choice(trials: list[RunResult]) -> Choice:
    results = [Trial(run.entry.flags, trial_result(run.path)) for run in trials]
    ended = [result for result in results if result.score is not None]
    names = tuned_flags(trials[0].manifest.tune)
    tried = []
    for setting, score in mean_scores(names, ended):
        count = sum(all(each.flags[n] == setting[n] for n in names) for each in ended)
        tried.append((setting, score, count))
    return Choice(trials[0].entry.group["activation"], tried, len(results) - len(ended))


def tuning_table(found: list[Choice]) -> pandas.DataFrame:
    """A row for each setting that was tried."""
    rows = []
    for choice in found:
        for setting, score, count in choice.tried:
            rows.append(
                {
                    "activation": choice.activation,
                    **{name: shown(value) for name, value in setting.items()},
                    "trials": count,
                    "validation score": "diverged" if math.isinf(score) else f"{score:.3f}",
                    "chosen": "chosen" if setting == choice.best else "",
                }
            )
    return pandas.DataFrame(rows)
