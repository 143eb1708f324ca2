"""Tune flags with the same number of trials for every activation, chosen on validation.

The seeds of the trials are not those that are reported.

    tune:
      lr: [1.0e-3, 3.0e-3, 1.0e-2]
      sigma: [0.5, 1, 2]        # for activations that have one
      # activation_args: {beta: [1, 2]}         # for those that have all of these
      seeds: [100]              # of the trials; without them one that is not reported
      equal_settings: false     # only the chosen settings; else the grid's own as well

An activation that has fewer settings to try (no sigma) tries each with more seeds instead, up to
the same number of runs.
"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.converters import seed_number
from cli.fields import Effect, Flag
from cli.optimizer_names import SETTINGS
from cli.parser import SWITCHES, value_of
from experiments.grid import MAPPINGS, Checker, Flags, mappings, products, unique
from utils import UserError

OPTIONS = ("seeds", "equal_settings")
# A choice is made for, or by, these flags.
UNTUNABLE = (
    "activation", "model", "dataset", "label", "val_fraction", "test_fraction", "seed", "init_seed",
    "data_seed", "split_seed",
)  # fmt: skip


def tuned_flags(tune: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the values to try of each flag that is tuned."""
    return {name: values for name, values in tune.items() if name not in OPTIONS}


def checked_tune(
    path: Path, tune: Any, combinations: list[Flags], checker: Checker
) -> dict[str, Any]:
    """Return what `tune:` says, its texts converted.

    Raises:
        UserError: it is no choice, or there is no validation to choose by.
    """
    if not isinstance(tune, dict) or not tuned_flags(tune):
        raise UserError(f"{path}: `tune:` must hold lines of the form `flag: [values]`")
    checked: dict[str, Any] = {}
    for name, values in tuned_flags(tune).items():
        flag = checker.flags.get(name)
        if flag is None or flag.effect != Effect.RESULT or name in UNTUNABLE:
            raise UserError(f"{path}: {name!r} in `tune:` is no flag that can be tuned")
        if name in MAPPINGS:
            values = _mappings(values)
        if not isinstance(values, list):
            raise UserError(f"{path}: {name} in `tune:` must be a list of two values or more")
        if any(isinstance(value, (dict, list)) for value in values):
            raise UserError(f"{path}: {name} in `tune:` must be a list of plain values")
        checked[name] = [_value(path, flag, value) for value in values]
        if len({repr(value) for value in checked[name]}) < 2:
            raise UserError(f"{path}: {name} in `tune:` must be a list of two values or more")
    _check_settings(path, decided_flags(checked), combinations, checker)
    if any(each.get("val_fraction") == 0 for each in combinations):
        raise UserError(f"{path}: tuning depends on validation; give val_fraction in `runs:`")
    return checked | _checked_options(path, tune, {each["seed"] for each in combinations})


def _check_settings(
    path: Path, decided: tuple[str, ...], combinations: list[Flags], checker: Checker
) -> None:
    """Refuse settings of one optimizer where the optimizer is tuned: they are not another's."""
    for each in combinations:
        defaults = checker.config.defaults(each)
        for name in SETTINGS if "optimizer" in decided else ():
            if each.get(name) != defaults[name]:
                raise UserError(
                    f"{path}: {name} belongs to one optimizer, and `tune:` has several; give each "
                    "optimizer a grid of its own"
                )


def _mappings(values: Any) -> Any:
    """Return the values to try of a flag that is a mapping, as its texts: lists in it are choices.

    `{eps: [1e-8, 1e-6]}` is two values, as is `[{eps: 1e-8}, {eps: 1e-6}]`.
    """
    given = values if isinstance(values, list) else [values]
    texts = [mappings(each) if isinstance(each, dict) else [each] for each in given]
    return [*itertools.chain(*texts)]


def _value(path: Path, flag: Flag, text: Any) -> Any:
    """Return the value of a tuned flag; `null` is the default."""
    try:
        return flag.default if text is None else value_of(flag, text)
    except UserError as error:
        raise UserError(f"{path}: {error} (in `tune:`)") from None


def _checked_options(path: Path, tune: dict[str, Any], reported: set[int]) -> dict[str, Any]:
    """Return OPTIONS, as far as they are given; `reported` are the seeds of the runs."""
    options: dict[str, Any] = {}
    if "equal_settings" in tune:
        text = str(tune["equal_settings"]).lower()
        if text not in SWITCHES:
            raise UserError(f"{path}: equal_settings in `tune:` must be true or false")
        options["equal_settings"] = SWITCHES[text]
    if "seeds" in tune:
        try:
            seeds = options["seeds"] = [seed_number(str(seed)) for seed in tune["seeds"]]
        except (ValueError, TypeError):
            seeds = []
        if not isinstance(tune["seeds"], list) or len({*seeds}) != len(tune["seeds"]):
            raise UserError(f"{path}: seeds in `tune:` must be a list of different whole numbers")
        if both := reported & {*seeds}:
            raise UserError(
                f"{path}: seed {min(both)} is both tuned and reported; the choice would favour it"
            )
    return options


def decided_flags(tune: dict[str, Any]) -> tuple[str, ...]:
    """Return the flags that a choice decides: the tuned ones, and the settings of an optimizer."""
    names = tuned_flags(tune)
    return (*names, *(name for name in SETTINGS if "optimizer" in names and name not in names))


def without(flags: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the flags but those called `names`."""
    return {name: value for name, value in flags.items() if name not in names}


def groups(tune: dict[str, Any], combinations: list[Flags]) -> list[Flags]:
    """Return the groups of runs that one choice is made for, as the flags that they share.

    The runs of a group differ in seed and tuned flags alone.
    """
    return unique(without(each, ("seed", *decided_flags(tune))) for each in combinations)


def trials(
    tune: dict[str, Any], combinations: list[Flags], checker: Checker
) -> list[tuple[Flags, Flags]]:
    """Return (group, flags of a trial), the same number for every group."""
    choices = list(products(tuned_flags(tune)))
    settings = []
    for group in groups(tune, combinations):
        fitting = (_fitting(group, choice, checker) for choice in choices)
        complete = (checker.complete(group | each) for each in fitting)
        settings.append((group, unique(without(each, ("seed",)) for each in complete)))
    if max(len(distinct) for _, distinct in settings) < 2:
        raise UserError(f"{checker.path}: `tune:` comes to one setting for every activation")
    reported = [each["seed"] for each in combinations]
    seeds = tune.get("seeds") or [max(reported) + 1]
    budget = len(seeds) * max(len(distinct) for _, distinct in settings)
    further = itertools.count(max(*reported, *seeds) + 1)
    fewest = min(len(distinct) for _, distinct in settings)
    enough = [*seeds, *itertools.islice(further, -(-budget // fewest))]
    return [
        (group, distinct[number % len(distinct)] | {"seed": enough[number // len(distinct)]})
        for group, distinct in settings
        for number in range(budget)
    ]


def _fitting(group: Flags, choice: Flags, checker: Checker) -> Flags:
    """Return the choice without arguments that the group's activation has not, as for a sigma."""
    if "activation_args" not in choice or checker.takes_args(group, choice["activation_args"]):
        return choice
    return without(choice, ("activation_args",))


@dataclass(frozen=True)
class Trial:
    """Hold a trial's score: minus infinity if it diverged, None if it has not ended."""

    flags: Flags
    score: float | None


def choose(names: Iterable[str], results: list[Trial]) -> Flags:
    """Return the values of the tuned flags `names` with the best mean score over their seeds.

    Values with which a trial diverged are never the best.
    """
    by_setting = mean_scores(names, results)
    best = max(by_setting, key=lambda each: each[1])
    if best[1] == -math.inf:
        raise UserError("in every setting that was tried a trial diverged; tune over other values")
    return best[0]


def mean_scores(names: Iterable[str], results: list[Trial]) -> list[tuple[Flags, float]]:
    """Return (values of the tuned flags, mean score); minus infinity where a trial diverged."""
    names = list(names)
    scores: list[tuple[Flags, list[float]]] = []
    for result in results:
        setting = {name: result.flags[name] for name in names}
        found = next((each for each in scores if each[0] == setting), None)
        if found is None:
            scores.append(found := (setting, []))
        assert result.score is not None, "only trials that have ended have a score"
        found[1].append(result.score)
    return [(setting, sum(each) / len(each)) for setting, each in scores]


def edge_of(value: Any, tried: Iterable[Any]) -> str | None:
    """Return "smallest" or "largest" where a number is that of several: a better may lie beyond.

    Nothing lies beyond a switch, and what else was tried beside the numbers (null) has no place.
    """
    numbers = {each for each in tried if _is_number(each)}
    if not _is_number(value) or len(numbers) < 2 or min(numbers) < value < max(numbers):
        return None
    return "largest" if value == max(numbers) else "smallest"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
