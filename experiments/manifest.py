"""Keep the manifest of a sweep: its runs, resolved and numbered once and for all.

It is written when a grid is first run or counted. From then on it alone says what run K is,
however the grid file or the recipes change.
"""

import hashlib
import json
import re
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cli.converters import arguments
from cli.optimizer_names import SETTINGS
from cli.run_names import activation_part
from experiments.grid import MAPPINGS, PROGRAMS, VARIANT_FLAGS, Checker, Flags, Grid
from experiments.tuning import checked_tune, groups, trials, tuned_flags, without
from utils import UserError, one_at_a_time, read_json, replacing
from zilu.names import SIGMA_NAMES, custom_name

FILE = "manifest.json"
FORMAT = 1
LONGEST_NAME = 200  # bytes; file systems allow 255
# What a run is for: it is one of a grid, it tries tuned flags, or it has the chosen ones.
GRID, TRIAL, TUNED = "grid", "trial", "tuned"


@dataclass(frozen=True)
class Run:
    """Describe one run.

    Attributes:
        index: from 1.
        name: of its folder in the sweep's.
        role: GRID, TRIAL or TUNED.
        flags: all that decide it. A tuned run lacks the tuned ones until they are chosen, those of
            the best trial of its group.
        group: the flags that a tuned run shares with its trials.
        added: it is not of the grid, but came when more seeds were needed.
    """

    index: int
    name: str
    role: str
    flags: Flags
    group: Flags = field(default_factory=dict)
    added: bool = False


@dataclass(frozen=True)
class Manifest:
    """Hold the runs of a sweep, and the grid file that they come from.

    Attributes:
        sources: what is recorded of the user's own activations' sources, by name.
        max_seeds: the primary comparison gets seeds until it is decided, or has so many; None in a
            sweep of the grid's seeds alone.
    """

    folder: Path
    program: str
    tune: dict[str, Any]
    report: dict[str, Any]
    runs: list[Run]
    grid: str  # the file's text
    created: str
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    max_seeds: int | None = None

    def path(self, run: Run) -> Path:
        """Return the run's folder."""
        return self.folder / run.name

    def trials_of(self, run: Run) -> list[Run]:
        """Return the trials that decide the flags of a tuned run."""
        return [each for each in self.runs if each.role == TRIAL and each.group == run.group]


def load(folder: Path) -> Manifest | None:
    """Return the manifest of the sweep in a folder, if it holds one.

    Raises:
        UserError: it is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        content = read_json(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise ValueError("of another version")
        runs = [Run(**run) for run in content.pop("runs")]
        if content["program"] not in PROGRAMS or not all(isinstance(r.flags, dict) for r in runs):
            raise ValueError("not as it was written")
        return Manifest(folder, runs=runs, **content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path}: no manifest of a sweep that can be read ({error}); restore it, or choose "
            "another --output_dir"
        ) from None


def planned(grid: Grid, path: Path, folder: Path) -> Manifest:
    """Return the manifest that the grid file at `path` would give now.

    Raises:
        UserError: its `tune:` is no choice, or there is no validation to choose by.
    """
    checker = Checker(grid.program, path)
    found, tune = [], grid.tune
    if tune:
        tune = checked_tune(path, tune, grid.combinations, checker)
        found += [
            (TRIAL, flags, group) for group, flags in trials(tune, grid.combinations, checker)
        ]
    if tune.get("equal_settings", True):
        found += [(GRID, flags, {}) for flags in grid.combinations]
    if tune:
        seeds = list(dict.fromkeys(each["seed"] for each in grid.combinations))
        found += [
            (TUNED, group | {"seed": seed}, group)
            for group in groups(tune, grid.combinations)
            for seed in seeds
        ]
    names = _names(found, checker)
    runs = [
        Run(number, name, *each)
        for number, (name, each) in enumerate(zip(names, found, strict=True), 1)
    ]
    created = time.strftime("%Y-%m-%d %H:%M:%S")
    sources = grid.sources | checker.sources
    return Manifest(folder, grid.program, tune, grid.report, runs, grid.text, created, sources)


def frozen(plan: Manifest, extend: bool = False) -> Manifest:
    """Return the manifest in the plan's folder, written if there is none.

    Args:
        plan: what the grid file gives now.
        extend: add the plan's further runs at the end.

    Raises:
        UserError: the folder cannot be written.
    """
    there = load(plan.folder)
    if there is not None and not extend:
        return there
    with one_at_a_time(plan.folder / f".{FILE}.lock"):
        there = load(plan.folder)  # by now another process may have written it
        if there is None:
            return save(plan)
        more = added(there, plan) if extend else []
        if not more:
            return there
        _check_extension(there, plan, more)
        taken = {run.name for run in there.runs}
        runs = list(there.runs)
        for run in more:
            name = run.name if run.name not in taken else f"{run.name}_{len(runs) + 1}"
            runs.append(replace(run, index=len(runs) + 1, name=name))
        sources = there.sources | plan.sources
        return save(replace(there, runs=runs, grid=plan.grid, sources=sources))


def _check_extension(there: Manifest, plan: Manifest, more: list[Run]) -> None:
    """Refuse to add what would change a choice that has been made, or favour it.

    Raises:
        UserError: with the remedy.
    """
    reason = None
    if there.program != plan.program:
        reason = f"it was of the program {there.program}"
    elif there.tune != plan.tune:
        reason = "its tuning has changed"
    elif any(there.trials_of(run) for run in more if run.role == TRIAL):
        reason = "an activation that is tuned already would have more trials"
    else:
        trials = {run.flags["seed"] for run in (*there.runs, *more) if run.role == TRIAL}
        reported = {run.flags["seed"] for run in (*there.runs, *more) if run.role != TRIAL}
        if both := trials & reported:
            reason = f"seed {min(both)} would be both tuned and reported"
    if reason:
        raise UserError(
            f"{there.folder} cannot be extended: {reason}; another `name:` or --output_dir starts "
            "a new sweep"
        )


def save(manifest: Manifest) -> Manifest:
    """Write the manifest into its folder, and return it.

    Raises:
        UserError: the folder cannot be written.
    """
    content = asdict(manifest) | {"format": FORMAT}
    del content["folder"]
    for name in ("sources", "max_seeds"):
        if not content[name]:
            del content[name]
    for run in content["runs"]:
        if not run["added"]:
            del run["added"]
    try:
        manifest.folder.mkdir(parents=True, exist_ok=True)
        with replacing(manifest.folder / FILE) as temporary:
            temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{manifest.folder}: cannot be written ({error.strerror})") from None
    return manifest


def added(there: Manifest, plan: Manifest) -> list[Run]:
    """Return the runs of the plan that the manifest lacks."""
    # The manifest may be older than a flag; its runs have the default.
    defaults = {name: flag.default for name, flag in PROGRAMS[there.program].flags().items()}

    def identity(run: Run) -> tuple[str, Flags, Flags]:
        tuned = tuned_flags(plan.tune if run in plan.runs else there.tune)
        flags = without(defaults, tuned) if run.role == TUNED else defaults
        return run.role, flags | run.flags, run.group

    known = [identity(run) for run in there.runs]
    return [run for run in plan.runs if identity(run) not in known]


# --- names ---


def _names(found: list[tuple[str, Flags, Flags]], checker: Checker) -> list[str]:
    """Return a folder's name for each run, made of what distinguishes it from the others."""
    flags = [each[1] for each in found]
    first = flags[0]
    varied = [
        n for n in checker.flags if any(each.get(n) != first.get(n) for each in flags if n in each)
    ]
    prefixes = {GRID: "", TRIAL: "tune/", TUNED: "tuned_"}
    own = {n for n in SETTINGS if n in varied and any(each.get(n) is None for each in flags)}
    names = []
    for role, each, _ in found:
        defaults = checker.config.defaults(each)  # what follows from the optimizer is not named
        shown = [n for n in varied if n not in own or each.get(n) != defaults[n]]
        names.append(prefixes[role] + _name(each, shown))
    # Letters that no folder's name can have may have been all that told two runs apart.
    return [
        name if name not in names[:number] else f"{name}_{number + 1}"
        for number, name in enumerate(names)
    ]


def _name(flags: Flags, varied: list[str]) -> str:
    leading = ("dataset", "model")
    start = [str(flags[name]) for name in leading if name in varied]
    middle = [
        _texts(name, flags[name])
        for name in varied
        if name not in (*leading, *VARIANT_FLAGS, "seed") and name in flags
    ]
    activation = flags["activation"]
    end = [activation_part(activation, flags.get("activation_args"))]
    is_given = flags.get("sigma") != 1 or flags.get("learn_sigma")
    has_sigma = activation in SIGMA_NAMES or (custom_name(activation) and is_given)
    if has_sigma and "sigma" in flags:
        end.append(f"sigma{_shown(flags['sigma'])}" + "-learned" * bool(flags.get("learn_sigma")))
    if flags.get("expand_gate"):
        end.append("expanded")
    if flags.get("rescale_init") is not None:
        end.append(f"rescaled{_shown(flags['rescale_init'])}")
    if flags.get("save_for_backward") == "output":
        end.append("from_output")
    end.append(f"seed{flags['seed']}")
    digest = hashlib.sha256(_of_letters([*start, *middle, *end]).encode()).hexdigest()
    # Recipes that differ in many flags leave no room for all of them.
    names = (_of_letters([*start, *other, *end]) for other in (middle, [digest[:8]]))
    return next((name for name in names if len(name.encode()) <= LONGEST_NAME), digest)


def _of_letters(parts: list[str]) -> str:
    return re.sub(r"[^\w.+-]+", "-", "_".join(parts))


def _texts(name: str, value: Any) -> str:
    """Return a flag with its value; of a mapping the arguments, each with its own."""
    if name in MAPPINGS and value is not None:
        return "_".join(f"{each}{_shown(own)}" for each, own in arguments(value).items())
    return f"{name}{_shown(value)}"


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
