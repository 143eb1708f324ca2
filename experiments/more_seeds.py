"""Give a sweep more seeds: every setting before it begins, and some of them as it goes on."""

import itertools
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from cli.converters import seed_number
from experiments.grid import Grid, unique
from experiments.manifest import FILE, TRIAL, Manifest, Run, load, save
from experiments.tuning import without
from run_folder.status import NEW, status_of
from utils import UserError, one_at_a_time

TIED = ("init_seed", "data_seed")  # seeds that a grid may give beside the seed


def filled(grid: Grid, count: int) -> Grid:
    """Return the grid with every setting at every seed of it, and at `count` seeds at least.

    Raises:
        UserError: it has other seeds that go with its seeds, so that no further one is known.
    """
    for name in TIED:
        if len({each[name] for each in grid.combinations}) > 1:
            raise UserError(
                f"{grid.name}: its runs differ in {name}, and what further seeds have is not "
                f"clear; give one {name}, or none"
            )
    seeds = list(dict.fromkeys(each["seed"] for each in grid.combinations))
    tuned = grid.tune.get("seeds") if isinstance(grid.tune, dict) else None
    seeds += further(seeds, count - len(seeds), _numbers(tuned))
    combinations = list(grid.combinations)
    for setting in unique(without(each, ("seed",)) for each in grid.combinations):
        runs = (setting | {"seed": seed} for seed in seeds)
        combinations += [run for run in runs if run not in combinations]
    return replace(grid, combinations=combinations)


def further(seeds: list[int], count: int, others: Iterable[int] = ()) -> list[int]:
    """Return `count` seeds above those there are, none of which is one of `others`."""
    above = itertools.count(max(seeds) + 1)
    free = (seed for seed in above if seed not in set(others))
    return list(itertools.islice(free, max(0, count)))


def declare(plan: Manifest) -> Manifest:
    """Return the manifest in the plan's folder with its `max_seeds`, declared before the first run.

    They may be changed later: a look at 6 or 10 seeds asks for the same, whatever follows.

    Raises:
        UserError: it began as a sweep of fixed seeds.
    """
    with one_at_a_time(plan.folder / f".{FILE}.lock"):
        there = load(plan.folder)
        assert there is not None, "it was written before"
        if there.max_seeds == plan.max_seeds:
            return there
        if there.max_seeds is not None:
            return save(replace(there, max_seeds=plan.max_seeds))
        if any(status_of(there.path(run)).kind != NEW for run in there.runs):
            raise UserError(
                f"{there.folder} began with a fixed number of seeds, and their results may be "
                "known; --until_decided is declared before the first run: another `name:` or "
                "--output_dir starts a new sweep"
            )
        return save(plan)


def add_seeds(folder: Path, settings: list[Run], count: int) -> Manifest:
    """Return the manifest of the sweep in a folder, with `count` seeds of these settings.

    The seeds are the sweep's, in their order, and then further ones, so that several processes that
    add the same add it once.

    Args:
        folder: the sweep's.
        settings: a run of each setting, whose flags but for the seed the new runs have.
        count: the seeds that each has afterwards, at least.
    """
    with one_at_a_time(folder / f".{FILE}.lock"):
        manifest = load(folder)
        assert manifest is not None, "it was loaded before"
        runs = list(manifest.runs)
        for seed in _first_seeds(manifest, count):
            for setting in settings:
                new = _with_seed(setting, seed, runs)
                known = [(run.role, run.flags, run.group) for run in runs]
                if (new.role, new.flags, new.group) not in known:
                    runs.append(new)
        return save(replace(manifest, runs=runs)) if len(runs) > len(manifest.runs) else manifest


def _first_seeds(manifest: Manifest, count: int) -> list[int]:
    """Return the sweep's seeds in their order, and further ones, `count` in all."""
    reported = [run.flags["seed"] for run in manifest.runs if run.role != TRIAL]
    seeds = list(dict.fromkeys(reported))
    trials = {run.flags["seed"] for run in manifest.runs if run.role == TRIAL}
    return [*seeds, *further(seeds, count - len(seeds), trials)][:count]


def _with_seed(setting: Run, seed: int, runs: list[Run]) -> Run:
    end = f"seed{setting.flags['seed']}"
    stem = setting.name.removesuffix(end) if setting.name.endswith(end) else f"{setting.name}_"
    name, index = f"{stem}seed{seed}", len(runs) + 1
    if name in {run.name for run in runs}:
        name = f"{name}_{index}"
    flags = setting.flags | {"seed": seed}
    return replace(setting, index=index, name=name, flags=flags, added=True)


def _numbers(texts: object) -> set[int]:
    """Return the seeds among the texts of a grid file, which are checked elsewhere."""
    found: set[int] = set()
    for text in texts if isinstance(texts, list) else ():
        with suppress(ValueError, TypeError):
            found.add(int(seed_number(str(text))))
    return found
