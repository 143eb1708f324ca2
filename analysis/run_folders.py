"""Read run folders, this project's and those of other code: arguments, records, outcome."""

import hashlib
import math
import sys
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from analysis.arguments import read_arguments
from cli.converters import arguments
from experiments import manifest as manifests
from experiments import tuning
from run_folder.folder import BEFORE, RunFolder
from run_folder.metrics import METRICS
from run_folder.records import SPLITS, best_on_validation, read_records, split_of
from run_folder.result_lines import TEST_LINE
from run_folder.search import folders_below
from run_folder.status import DIVERGED, FINISHED, INTERRUPTED, status_of
from utils import UserError
from zilu.names import custom_name

MISSING, UNREADABLE = "missing", "unreadable"
SEED_FLAGS = ("seed", "init_seed", "data_seed")
# Arguments that everything after the reading takes for numbers.
NUMBERS = ("sigma", "rescale_init", "num_epochs", "batch_size", "seed")

Record = dict[str, Any]
Seeds = tuple[Any, ...]  # in the order of SEED_FLAGS, None where a run does not tell
SeedKey = Seeds | Path


@dataclass(frozen=True)
class RunResult:
    """Hold what the folder of one run tells.

    Attributes:
        path: The run folder.
        kind: The outcome: finished, diverged, interrupted, unreadable or missing.
        reason: Why it did not finish.
        flags: The run's arguments.
        resolved: The values that automatic arguments were resolved to; empty for other code's runs.
        environment: The machine and the versions; empty for other code's runs.
        records: The evaluations, in order.
        manifest: The sweep that the run belongs to.
        entry: The run's entry in that sweep.
        custom_name: What a report calls its activation, where that is the user's own.
    """

    path: Path
    kind: str
    reason: str = ""
    flags: dict[str, Any] = field(default_factory=dict)
    resolved: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    manifest: manifests.Manifest | None = None
    entry: manifests.Run | None = None
    custom_name: str = ""

    @property
    def role(self) -> str:
        return self.entry.role if self.entry else manifests.GRID

    @property
    def tuned_flags(self) -> tuple[str, ...]:
        """Return the flags that the sweep tuned for the run's activation; none for other runs."""
        if self.manifest is None or self.role != manifests.TUNED:
            return ()
        return tuple(tuning.tuned_flags(self.manifest.tune))

    @property
    def is_ours(self) -> bool:
        return bool(self.environment)

    @property
    def remarks(self) -> list[str]:
        """Return what does not fit together in other code's lines: the first case of each kind."""
        found: dict[str, list[str]] = {}
        for record in self.records:
            for remark in record.get("remarks", ()):
                kind = remark.partition(":")[0]
                where = f"{remark}" + (f" (epoch {record['epoch']})" if "epoch" in record else "")
                found.setdefault(kind, []).append(where)
        return [
            first + (f", and {len(more)} more" if more else "") for first, *more in found.values()
        ]

    @property
    def earlier_lengths(self) -> list[str]:
        """Return how long the run was to be before it was made longer, and until when."""
        return [
            f"{name.removesuffix(BEFORE)} {value} until step {item['step']} ({item['at']})"
            for item in self.environment.get("resumed", ())
            for name, value in item.items()
            if name.endswith(BEFORE)
        ]

    @property
    def seeds(self) -> Seeds:
        """Return the seeds, by which runs of different variants pair."""
        return tuple(self.resolved.get(name, self.flags.get(name)) for name in SEED_FLAGS)

    @property
    def seed_key(self) -> SeedKey:
        """Return the run's key among those of its variant: its seeds, or its path if untold.

        A path is nobody else's key, so a run that does not tell its seed pairs with none.
        """
        return self.path if self.seeds[0] is None else self.seeds

    @property
    def final(self) -> Record:
        return self.records[-1]

    @property
    def judged(self) -> dict[str, float]:
        """Return the final metrics, by name, of the split that the run is judged on."""
        return self.final[split_of(self.final)]

    @cached_property
    def best(self) -> Record | None:
        """Return the record with the best validation score."""
        return best_on_validation(self.records)

    def digest(self) -> str:
        """Return the SHA-256 of the results file, by which a copy of it is recognised."""
        path = self.path / RunFolder.RESULTS
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def find_runs(paths: list[Path]) -> list[RunResult]:
    """Return all runs in these folders and below, and those that a sweep's manifest alone has.

    Raises:
        UserError: A path is no folder, or there is no run at all.
    """
    # By where they are, so that a folder with two names counts once.
    found: dict[Path, RunResult] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path}: no folder; give run folders, or folders that hold some")
        folders = folders_below(path)
        # A run, or a part of a sweep, can be given alone.
        for folder in (*folders, *path.resolve().parents):
            found |= {k: run for k, run in _runs_of_sweep(folder, path).items() if k not in found}
        for folder in folders:
            place = folder.parent.resolve() / folder.name
            if (folder / RunFolder.ARGS).exists() and not {place, folder.resolve()} & set(found):
                found[folder.resolve()] = read_run(folder)
    if not found:
        raise UserError(
            f"{', '.join(map(str, paths))}: no run there: a run folder holds {RunFolder.ARGS} and "
            f"{RunFolder.RESULTS}"
        )
    return with_custom_names(list(found.values()))


def with_custom_names(runs: list[RunResult]) -> list[RunResult]:
    """Return the runs, those of a user's own activation with its name: Squash(beta=2).

    Sources that differ have the place before it, or if that is one, a digest.
    """
    places: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for run in runs:
        if custom := custom_name(str(run.flags.get("activation"))):
            places[custom.name][_source_digest(run)].add(custom.place)
    named = []
    for run in runs:
        if custom := custom_name(str(run.flags.get("activation"))):
            sources, digest = places[custom.name], _source_digest(run)
            name = custom.name
            if len(sources) > 1:
                all_places = [place for each in sources.values() for place in each]
                differ = len({*all_places}) == len(all_places)
                name = str(custom) if differ else f"{custom} [{digest[:8]}]"
            given = run.flags.get("activation_args")
            args = [f"{key}={value}" for key, value in arguments(given).items()]
            run = replace(run, custom_name=f"{name}({', '.join(args)})" if args else name)
        named.append(run)
    return named


def _source_digest(run: RunResult) -> str:
    """Return a digest of the source of the user's own activation."""
    source = run.resolved.get("activation_source")
    digests = source.get("sha256") if isinstance(source, dict) else None
    return hashlib.sha256(repr(digests).encode()).hexdigest()


def _runs_of_sweep(folder: Path, within: Path) -> dict[Path, RunResult]:
    """Return the runs that lie in `within` of the sweep in `folder`, if there is one."""
    try:
        manifest = manifests.load(folder)
    except UserError as error:
        print(f"Note: {error}; it is ignored", file=sys.stderr)
        return {}
    if manifest is None:
        return {}
    runs = {folder.resolve() / run.name: run for run in manifest.runs}
    return {
        place: read_run(manifest.path(run), manifest, run)
        for place, run in runs.items()
        if place.is_relative_to(within.resolve()) or within.resolve() == place.resolve()
    }


def read_run(
    path: Path,
    manifest: manifests.Manifest | None = None,
    entry: manifests.Run | None = None,
) -> RunResult:
    """Read the folder of a run.

    Nothing in it is an error: a run that cannot be read is returned as unreadable, with the reason.
    """
    where: dict[str, Any] = {"path": path, "manifest": manifest, "entry": entry}
    if not (path / RunFolder.ARGS).exists():
        return RunResult(kind=MISSING, reason="it has not been run", **where)
    try:
        flags, resolved, environment = read_arguments(path / RunFolder.ARGS)
        records = read_records(path)
        _check_flags(flags)
        kind, reason = _outcome(path, flags, records, ours=bool(environment))
    except (OSError, ValueError, TypeError) as error:
        return RunResult(kind=UNREADABLE, reason=" ".join(str(error).split()), **where)
    return RunResult(
        kind=kind, reason=reason, flags=flags, resolved=resolved, environment=environment,
        records=records, **where,
    )  # fmt: skip


def _check_flags(flags: dict[str, Any]) -> None:
    """Refuse values that cannot be those of a run.

    Raises:
        ValueError: One of NUMBERS is no number; the message names it.
    """
    for name in NUMBERS:
        value = flags.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ValueError(f"its {name} is {value!r}, not a number")


def _outcome(
    path: Path, flags: dict[str, Any], records: list[Record], ours: bool
) -> tuple[str, str]:
    """Return the run's kind, and the reason why it did not finish."""
    status = status_of(path)
    if status.kind == DIVERGED:
        return DIVERGED, status.reason
    if not records:
        return INTERRUPTED, "it has no results yet"
    last, planned = records[-1].get("epoch", 0), flags.get("num_epochs")
    if ours:
        whole = status.kind == FINISHED
    else:
        done = last + (records[0].get("epoch") == 0)  # some count from 0
        whole = not planned or done >= planned
    if not whole:
        return INTERRUPTED, f"it has come to epoch {last} of {planned}"
    step, end = records[-1].get("step", 0), flags.get("max_steps")
    if ours and end is not None and step > end:
        return UNREADABLE, (
            f"it was trained to step {step}, beyond --max_steps {end}, by an earlier version when "
            "it was resumed; run it anew"
        )
    missing = set(_metrics(records[0])) - set(_metrics(records[-1]))
    if TEST_LINE in records[0]:  # it was trained on after that test, and not tested again
        missing = {(split, name) for split, name in missing if split != "test"}
    if not ours and missing:
        return INTERRUPTED, f"its last line lacks the {' '.join(min(missing))}"
    if not all(map(math.isfinite, _essential(records[-1], ours))):
        return DIVERGED, "its last results are not finite numbers"
    return FINISHED, ""


def _essential(record: Record, ours: bool) -> list[float]:
    """Return the metrics that have to be finite: all, where other code logs a NaN and goes on.

    Our own code ends where a loss is not, but exp of one that is may be infinite: the metric counts
    that such runs are usually judged by. (A perplexity per word is infinite where there are none.)
    """
    if not ours:
        return list(_metrics(record).values())
    judged = record[split_of(record)]
    return [next(judged[name] for name in METRICS if name in judged)]


def _metrics(record: Record) -> dict[tuple[str, str], float]:
    """Return a record's metrics by split and name."""
    return {
        (split, name): value for split in SPLITS for name, value in record.get(split, {}).items()
    }
