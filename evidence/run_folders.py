"""Run folders, this project's and those of other code: arguments, records, what became of them."""

import ast
import hashlib
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from experiments import manifest as manifests
from runs.folder import RunFolder
from runs.records import best_on_validation, read_records
from runs.status import DIVERGED, FINISHED, INTERRUPTED, status_of
from utils import UserError
from zilu.names import ACTIVATIONS, canonical_name

MISSING, UNREADABLE = "missing", "unreadable"
# The names that other code has for the flags that say what a run is of.
FOREIGN_NAMES = {
    "act": "activation", "activation_function": "activation", "act_fn": "activation",
    "arch": "model", "net": "model", "epochs": "num_epochs", "bs": "batch_size",
    "learning_rate": "lr", "wd": "weight_decay", "random_seed": "seed",
}  # fmt: skip


@dataclass(frozen=True)
class RunResult:
    """One run. `flags` are its arguments, `resolved` what they came to, `environment` the machine,
    the last two empty for other code's runs; `manifest` and `entry` tell what it is in a sweep."""

    path: Path
    kind: str  # finished, diverged, interrupted, unreadable, missing
    reason: str = ""
    flags: dict = field(default_factory=dict)
    resolved: dict = field(default_factory=dict)
    environment: dict = field(default_factory=dict)
    records: list[dict] = field(default_factory=list)
    manifest: manifests.Manifest | None = None
    entry: manifests.Run | None = None

    @property
    def role(self) -> str:
        return self.entry.role if self.entry else manifests.GRID

    @property
    def is_ours(self) -> bool:
        return bool(self.environment)

    @property
    def final(self) -> dict:
        return self.records[-1]

    @cached_property
    def best(self) -> dict | None:
        """The record with the best validation score."""
        return best_on_validation(self.records)

    def digest(self) -> str:
        """SHA-256 of the results file, to know it again."""
        path = self.path / RunFolder.RESULTS
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def find_runs(paths: list[Path]) -> list[RunResult]:
    """All runs in these folders and below; of a sweep also those that its manifest alone has.

    Raises:
        UserError: a path is no folder, or there is no run at all.
    """
    found: dict[Path, RunResult] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path}: no folder; give run folders, or folders that hold some")
        # A run, or a part of a sweep, can be given alone.
        files = [
            *sorted(path.rglob(manifests.FILE)),
            *(p / manifests.FILE for p in path.absolute().parents),
        ]
        for file in files:
            found = _runs_of_sweep(file.parent, path) | found
        for file in sorted(path.rglob(RunFolder.ARGS)):
            if file.parent.absolute() not in found:
                found[file.parent.absolute()] = read_run(file.parent)
    if not found:
        raise UserError(
            f"{', '.join(map(str, paths))}: no run there: a run folder holds {RunFolder.ARGS} and "
            f"{RunFolder.RESULTS}"
        )
    return list(found.values())


def _runs_of_sweep(folder: Path, within: Path) -> dict[Path, RunResult]:
    """Those of the sweep in `folder`, if there is one, that lie in `within`."""
    manifest = manifests.load(folder)
    if manifest is None:
        return {}
    runs = {manifest.path(run).absolute(): run for run in manifest.runs}
    return {
        path: read_run(manifest.path(run), manifest, run)
        for path, run in runs.items()
        if path.is_relative_to(within.absolute())
    }


def read_run(
    path: Path,
    manifest: manifests.Manifest | None = None,
    entry: manifests.Run | None = None,
) -> RunResult:
    """What the folder of a run tells. Nothing in it is an error: a run that cannot be read is
    reported as such."""
    where = {"path": path, "manifest": manifest, "entry": entry}
    if not (path / RunFolder.ARGS).exists():
        return RunResult(kind=MISSING, reason="it has not been run", **where)
    try:
        flags, resolved, environment = read_arguments(path / RunFolder.ARGS)
        records = read_records(path)
    except (OSError, ValueError) as error:
        return RunResult(kind=UNREADABLE, reason=" ".join(str(error).split()), **where)
    kind, reason = _outcome(path, flags, records, ours=bool(environment))
    return RunResult(
        kind=kind, reason=reason, flags=flags, resolved=resolved, environment=environment,
        records=records, **where,
    )  # fmt: skip


def _outcome(path: Path, flags: dict, records: list[dict], ours: bool) -> tuple[str, str]:
    status = status_of(path)
    if status.kind == DIVERGED:
        return DIVERGED, status.reason
    if not records:
        return INTERRUPTED, "it has no results yet"
    last, planned = records[-1].get("epoch", 0), flags.get("num_epochs")
    whole = status.kind == FINISHED if ours else not planned or last >= int(planned)
    if not whole:
        return INTERRUPTED, f"it has come to epoch {last} of {planned}"
    # Other code logs a NaN and goes on; such a number is none.
    numbers = [
        value for each in records[-1].values() if isinstance(each, dict) for value in each.values()
    ]
    if any(value is None or value != value for value in numbers):
        return DIVERGED, "its last results are not numbers"
    return FINISHED, ""


# --- arguments ---


def read_arguments(path: Path) -> tuple[dict, dict, dict]:
    """Flags, what they came to, and the environment, the last two empty for other code's runs.

    Other code's files may be YAML, JSON, `name: value` or `name = value` lines, or a printed
    argparse.Namespace.

    Raises:
        ValueError: it is none of these.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    content = _as_mapping(text)
    if not content:
        raise ValueError(f"{path}: no arguments can be read from it")
    if "environment" in content and isinstance(content["environment"], dict):
        resolved, environment = content.pop("resolved", {}), content.pop("environment")
        content.pop("resumed", None)
        return content, resolved, environment
    flags = {}
    for name, value in content.items():
        name = str(name).strip().lstrip("-").replace("-", "_")
        flags[FOREIGN_NAMES.get(name, name)] = value
    name = flags.get("activation")
    if str(name).lower() in {known.lower() for known in ACTIVATIONS} | {"iglu", "iglu_approx"}:
        flags["activation"] = canonical_name(name)
    return flags, {}, {}


def _as_mapping(text: str) -> dict:
    import yaml

    if match := re.search(r"Namespace\((.*)\)", text, re.DOTALL):
        call = ast.parse(f"f({match[1]})", mode="eval").body
        return {each.arg: _value(ast.unparse(each.value)) for each in call.keywords}
    try:
        content = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:
        content = None
    if isinstance(content, dict):
        return content
    lines = (re.fullmatch(r"\s*([\w-]+)\s*[:=]\s*(.*?)\s*", line) for line in text.splitlines())
    return {match[1]: _value(match[2]) for match in lines if match}


def _value(text: str):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
