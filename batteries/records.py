"""Keep finished runs as lines of JSON, which stand for their runs where nothing has changed.

docs/battery/SIZE/TASK.jsonl has one line for each run. A run is the same where its recipe (all
flags that decide its numbers), its arm with the digest of the user's own source, its tuned flags
and its seed are; and its record stands for it where machine and versions are the same too. One of
the versions is a digest of the code that trains. Where that alone is another, one trial of the arm
is made anew, and the records of a code stand if it repeats that code's bit for bit.
"""

import hashlib
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from batteries.arms import DEFAULTS, Contender
from batteries.findings import CurvePoint, Environment
from cli.fields import Effect
from experiments.grid import PROGRAMS, Flags
from experiments.results import trial_result
from run_folder.folder import RunFolder
from run_folder.metrics import Metric
from run_folder.records import read_records, split_of
from run_folder.status import DIVERGED, ENDED, status_of
from utils import UserError, one_at_a_time, read_json, replacing

CODE = "code"  # the version that is a digest of the code that trains
DIGITS = 8  # of the numbers of a curve, which are looked at and not compared


@dataclass(frozen=True)
class Key:
    """Name a run: two runs with one key give the same numbers on one machine."""

    recipe: str
    arm: str
    source: str
    tuned: str
    seed: int


@dataclass(frozen=True)
class Record:
    """Hold a finished run.

    Attributes:
        recipe: see `recipe_of`.
        label: the arm's, as reports name it.
        arm, source: as of `Contender.identity` and `Contender.source`.
        tuned: the tuned flags, with the values that this run had.
        is_trial: its seed is for the choice of these.
        score: on validation, by the task's metric, negative where less is better; None if it
            diverged.
        metrics: of the test split (of validation where there is no test) at the end, by name; empty
            if it diverged.
        diverged: where it did; empty if it did not.
        dead, flat, seconds, curve: as of `findings.SeedResult`.
        date: when it was started.
        stored: it was read from a file of records.
    """

    recipe: str
    label: str
    arm: dict[str, Any]
    source: dict[str, str]
    tuned: dict[str, Any]
    seed: int
    is_trial: bool
    score: float | None
    metrics: dict[str, float]
    diverged: str
    dead: float | None
    flat: float | None
    seconds: float
    date: str
    environment: Environment
    curve: tuple[CurvePoint, ...] = field(default=())
    stored: bool = False

    @property
    def key(self) -> Key:
        return key_of(self.recipe, self.arm, self.source, self.tuned, self.seed)

    @property
    def numbers(self) -> tuple[Any, ...]:
        """Return what two runs with one key have in common on one machine with one code."""
        return self.score, self.metrics, self.diverged


def digest(text: str) -> str:
    """Return a short digest that names a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def key_of(
    recipe: str, arm: Mapping[str, Any], source: Mapping[str, str], tuned: Flags, seed: int
) -> Key:
    """Return the key of a run."""
    texts = [json.dumps(each, sort_keys=True) for each in (arm, source, tuned)]
    return Key(recipe, texts[0], texts[1], texts[2], seed)


def recipe_of(program: str, flags: Flags, tuned: Iterable[str], metric: Metric) -> str:
    """Return a digest of what decides a run's numbers, but arm, tuned flags, seed and code.

    Args:
        program: a key of PROGRAMS.
        flags: of any run.
        tuned: the flags that are tuned.
        metric: by which they are chosen.
    """
    content = {"program": program, "metric": metric.name, **deciding(program, flags, tuned)}
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def deciding(program: str, flags: Flags, tuned: Iterable[str]) -> Flags:
    """Return the flags that decide a run's numbers, but those of arm, tuning and seed.

    Flags at their defaults are left out, so that a new flag changes nothing. Defaults that change
    are seen by the digest of the code.
    """
    left_out = {"activation", *DEFAULTS, "seed", *tuned}
    known, defaults = PROGRAMS[program].flags(), PROGRAMS[program].defaults(flags)
    return {
        name: value
        for name, value in flags.items()
        if name not in left_out and known[name].effect != Effect.NOTHING and value != defaults[name]
    }


def record_of(
    folder: Path,
    arm: Contender,
    recipe: str,
    tuned: Iterable[str],
    is_trial: bool,
    metric: Metric,
    environment: Environment,
) -> Record | None:
    """Return the record of the run in a folder, None before it has ended or if it is damaged.

    Raises:
        UserError: another source of the user's own activation was trained.
    """
    status = status_of(folder)
    if status.kind not in ENDED:
        return None
    try:
        flags, evaluations = RunFolder(folder).arguments(), read_records(folder)
        diverged = status.kind == DIVERGED
        final = {} if diverged else evaluations[-1][split_of(evaluations[-1])]
        dead, flat = _units(folder / RunFolder.STATS)
    except (OSError, ValueError, LookupError, TypeError):
        return None
    trained = flags["resolved"].get("activation_source", {}).get("sha256", {})
    if trained != arm.source:
        raise UserError(
            f"{folder}: {arm.label} was changed while the battery ran, this run is of another "
            "source; remove its folder, and start the battery again"
        )
    score = trial_result(folder, metric.name)
    return Record(
        recipe=recipe,
        label=arm.label,
        arm=arm.identity,
        source=arm.source,
        tuned={name: flags[name] for name in tuned},
        seed=flags["seed"],
        is_trial=is_trial,
        score=None if score is None or math.isinf(score) else score,
        metrics={name: value for name, value in final.items() if math.isfinite(value)},
        diverged=(status.reason or "somewhere") if diverged else "",
        dead=dead,
        flat=flat,
        seconds=round(sum(each.get("seconds", 0.0) for each in evaluations), 3),
        date=str(flags["environment"]["started"])[:10],
        environment=environment,
        curve=tuple(_point(each, metric) for each in evaluations),
    )


def _point(record: dict[str, Any], metric: Metric) -> CurvePoint:
    def number(split: str, name: str) -> float | None:
        value = record.get(split, {}).get(name)
        if value is None or not math.isfinite(value):
            return None
        return float(f"{value:.{DIGITS}g}")

    return CurvePoint(
        epoch=record.get("epoch", 0),
        train_loss=number("train", "loss"),
        val_loss=number("val", "loss"),
        test=number("test", metric.name),
    )


def _units(path: Path) -> tuple[float | None, float | None]:
    """Return the shares of dead channels and of flat units at the end, as far as --stats has them.

    Flat units are the median over the sites, as in reports.
    """
    dead = flat = None
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for line in lines:
        content = json.loads(line)
        if channels := content.get("channels"):
            total = sum(each["total"] for each in channels.values())
            dead = sum(each["dead"] for each in channels.values()) / total if total else None
        if sites := content.get("sites"):
            shares = [each.get("flat_share") for each in sites.values()]
            known = [each for each in shares if each is not None]
            flat = statistics.median(known) if known else None
    return dead, flat


# --- files ---


def read(path: Path) -> list[Record]:
    """Return the records in a file, none where there is no file.

    Raises:
        UserError: a line is damaged.
    """
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            content = read_json(line)
            environment = Environment(**content.pop("environment"))
            curve = tuple(CurvePoint(*point) for point in content.pop("curve"))
            found.append(Record(**content, environment=environment, curve=curve, stored=True))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{path}: line {number} is no record ({error}); bring the file back (git checkout),"
                " or remove the line"
            ) from None
    return found


def add(path: Path, records: Iterable[Record]) -> int:
    """Add the records that a file lacks, in an order of their own; return how many they were."""
    with one_at_a_time(path.parent / f".{path.name}.lock"):
        there = read(path)
        known = {(each.key, each.is_trial, repr(each.environment)) for each in there}
        new = [
            each
            for each in records
            if (each.key, each.is_trial, repr(each.environment)) not in known
        ]
        if new:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = sorted((_line(each) for each in (*there, *new)), key=_order)
            with replacing(path) as temporary:
                temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return len(new)


def _line(record: Record) -> str:
    content = asdict(replace(record, curve=()))
    content["curve"] = [list(asdict(point).values()) for point in record.curve]
    del content["stored"]
    return json.dumps(content, ensure_ascii=False, allow_nan=False)


def _order(line: str) -> tuple[Any, ...]:
    content = json.loads(line)
    return content["label"], not content["is_trial"], content["seed"], line


def standing(records: Iterable[Record], environment: Environment) -> dict[Key, Record]:
    """Return the records that stand for runs in this environment."""
    return {each.key: each for each in records if each.environment == environment}


def of_other_codes(records: Iterable[Record], environment: Environment) -> list[dict[Key, Record]]:
    """Return the records of other code in this environment, code by code, the newest first."""
    here = without_code(environment)
    by_code: dict[str, list[Record]] = defaultdict(list)
    for each in records:
        if each.environment != environment and without_code(each.environment) == here:
            by_code[code_of(each)].append(each)
    newest = sorted(by_code.values(), key=lambda found: max(r.date for r in found), reverse=True)
    return [{each.key: each for each in found} for found in newest]


def code_of(record: Record) -> str:
    """Return the digest of the code that made a record."""
    return record.environment.versions.get(CODE, "")


def without_code(environment: Environment) -> Environment:
    """Return an environment without the digest of the code that trains."""
    versions = {name: each for name, each in environment.versions.items() if name != CODE}
    return replace(environment, versions=versions)
