"""Group the runs that may be compared: those that differ in nothing but variant and seed.

The programs' table of flags decides what keeps two runs apart: a flag that changes the result or
its precision does, one that says where or how a run was saved does not.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from analysis.run_folders import SEED_FLAGS, RunResult, SeedKey, Seeds
from analysis.variants import Variant, variant_of
from analysis.wording import value_text
from cli.datasets import is_in_data_path
from cli.fields import Effect
from cli.optimizer_names import SETTINGS
from experiments.grid import PROGRAMS, VARIANT_FLAGS
from experiments.manifest import TRIAL
from run_folder.records import split_of
from run_folder.status import DIVERGED, FINISHED, INTERRUPTED

# All that is used here of the programs' flags.
DEFAULTS = {kind: program.defaults() for kind, program in PROGRAMS.items()}
WITHOUT_EFFECT = {
    flag.name
    for program in PROGRAMS.values()
    for flag in program.flags().values()
    if flag.effect == Effect.NOTHING or flag.one_run
}

# They do not decide a result but the activation's memory and the kind of machine.
MEMORY_AND_MACHINE = ("inplace", "device", "deterministic")
# The names by which other code calls its flags without effect.
FOREIGN_WITHOUT_EFFECT = re.compile(
    r"(?!(model|arch|net|network|backbone|dataset|data|task|optimizer|scheduler|norm|loss)_name)"
    r".*_(dir|path|folder|name|id|freq|interval|time)|(save|log|out|output|exp|tag|name|host|pid|"
    r"timestamp|experiment|gpus?|rank|local_rank|workers|resume|checkpoint|evaluate|root|verbose)"
    r"(dir|name)?"
)
# Flags that may be automatic: the value that they were resolved to counts.
RESOLVED = (
    "samples", "counts", "amp_dtype", "compile_mode", "stem", "head", "patch_size", "vocab_size",
    "embedding_dim", "num_attention_heads", "num_layers",
)  # fmt: skip
# Facts of the machine and the code that runs of one group may differ in, as a note says.
ENVIRONMENT = ("device", "torch", "git_commit", "threads", "processes", "tf32")
# Of two runs of one variant and seed, the one with the first of these outcomes counts.
STARTED = (DIVERGED, FINISHED, INTERRUPTED)

Facts = dict[str, Any]


@dataclass
class Group:
    """Hold runs that differ in variant and seeds alone.

    Attributes:
        facts: The arguments that all of them share.
        runs: The runs of each variant, by seed.
        tuned: The flags that were tuned for each activation by itself.
        title: The name of the group in a report.
        notes: Differences between the runs that change no more than rounding or times.
    """

    facts: Facts
    runs: dict[Variant, dict[SeedKey, RunResult]]
    tuned: tuple[str, ...] = ()
    title: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def variants(self) -> list[Variant]:
        return sorted(self.runs, key=lambda variant: variant.order)

    @property
    def key(self) -> str:
        """Return a key that is the same for equal facts in any order."""
        return _key(self.facts)

    def runs_of(self, variant: Variant) -> list[RunResult]:
        return list(self.runs[variant].values())

    def run_pairs(
        self, variant: Variant, baseline: Variant
    ) -> dict[Seeds, tuple[RunResult, RunResult]]:
        """Return the runs of two variants for each seed that both have."""
        mine, theirs = self.runs[variant], self.runs[baseline]
        # A run that does not tell its seed has its path for a key, and pairs with none.
        both = [key for key in mine if isinstance(key, tuple) and key in theirs]
        return {seeds: (mine[seeds], theirs[seeds]) for seeds in both}

    def all_runs(self) -> list[RunResult]:
        return [run for runs in self.runs.values() for run in runs.values()]

    def any_run(self) -> RunResult:
        """Return a run to ask for what all of them share."""
        return self.all_runs()[0]


@dataclass
class Grouping:
    """Hold the finished runs in groups.

    Attributes:
        groups: The groups, those of tuned runs last.
        left_out: The runs that are in no group, each with the reason.
        differences: The arguments that differ between groups, each with its value in every group.
    """

    groups: list[Group]
    left_out: list[tuple[RunResult, str]]
    differences: list[tuple[str, list[Any]]]


def group_runs(runs: list[RunResult]) -> Grouping:
    """Put the finished runs into groups."""
    groups: dict[str, Group] = {}
    left_out = []
    for run in runs:
        if run.role == TRIAL:
            left_out.append((run, "a trial of the tuning"))
            continue
        if run.kind != FINISHED:
            left_out.append((run, f"{run.kind}: {run.reason}"))
            continue
        variant_runs = _group_of(run, groups).runs.setdefault(variant_of(run), {})
        duplicate = _duplicate(run, variant_runs)
        if duplicate is None:
            variant_runs[run.seed_key] = run
        else:
            left_out.append((run, duplicate))
    found = sorted(groups.values(), key=lambda group: bool(group.tuned))
    titles = [group_title(group, found) for group in found]
    for number, group in enumerate(found):
        earlier = titles[:number].count(titles[number])
        group.title = titles[number] + (f" ({earlier + 1})" if earlier else "")
        group.notes = _notes(group)
    return Grouping(found, left_out, _differences(found))


def group_started_runs(runs: list[RunResult]) -> list[Group]:
    """Put all runs that were started into the groups that finished ones would be in."""
    # Other code's run without results does not tell what it would be judged on.
    started = [
        run
        for run in runs
        if run.kind in STARTED and run.role != TRIAL and (run.is_ours or run.records)
    ]
    groups: dict[str, Group] = {}
    for run in sorted(started, key=lambda run: STARTED.index(run.kind)):
        variant_runs = _group_of(run, groups).runs.setdefault(variant_of(run), {})
        variant_runs.setdefault(run.seed_key, run)
    return list(groups.values())


def _group_of(run: RunResult, groups: dict[str, Group]) -> Group:
    """Return the group of `groups` that a run belongs to, which is added where it is missing."""
    facts = shared_facts(run)
    return groups.setdefault(_key(facts), Group(facts, {}, run.tuned_flags))


def shared_facts(run: RunResult) -> Facts:
    """Return everything that decides a run's result besides variant and seeds."""
    flags = _with_defaults(run)
    ignored = {*VARIANT_FLAGS, *SEED_FLAGS, *MEMORY_AND_MACHINE, *WITHOUT_EFFECT, *run.tuned_flags}
    ignored |= {*SETTINGS} if "optimizer" in run.tuned_flags else set()
    facts = {
        name: value
        for name, value in flags.items()
        if name not in ignored
        and (run.is_ours or not FOREIGN_WITHOUT_EFFECT.fullmatch(name.lower()))
    }
    if is_in_data_path(str(flags.get("dataset"))):
        facts["data_path"] = flags.get("data_path")  # it says which data they are
    facts |= {name: run.resolved[name] for name in RESOLVED if name in run.resolved}
    if not run.is_ours:
        facts["judged_on"] = split_of(run.final)
    if run.environment.get("processes", 1) != 1 and not flags.get("sync_batchnorm"):
        facts["processes"] = run.environment["processes"]
    if run.tuned_flags:
        facts["tuned"] = ", ".join(run.tuned_flags)
    return facts


def _key(facts: Facts) -> str:
    return repr(sorted(facts.items(), key=lambda item: item[0]))


def _with_defaults(run: RunResult) -> Facts:
    """Return the flags, with the defaults of those that are younger than the run."""
    if not run.is_ours:
        return run.flags
    return DEFAULTS[_kind(run.flags)] | run.flags


def _kind(flags: Facts) -> str:
    """Return the program that has most of these flags: runs do not have those younger than them."""
    return max(DEFAULTS, key=lambda kind: len(DEFAULTS[kind].keys() & flags.keys()))


def _duplicate(run: RunResult, others: dict[SeedKey, RunResult]) -> str | None:
    """Say why a run is the same as one of `others`, if it is: no pair may count twice."""
    if run.seeds[0] is not None:
        same = others.get(run.seeds)
        return f"the same setting and seed as {same.path}" if same else None
    copies = [other for other in others.values() if other.digest() == run.digest()]
    return f"a copy of {copies[0].path}" if copies else None


def _differences(groups: list[Group]) -> list[tuple[str, list[Any]]]:
    names = dict.fromkeys(name for group in groups for name in group.facts)
    values = {name: [group.facts.get(name) for group in groups] for name in names}
    return [
        (name, each)
        for name, each in values.items()
        if any(v != each[0] for v in each) and not _follows(name, each, groups)
    ]


def _follows(name: str, values: list[Any], groups: list[Group]) -> bool:
    """Return whether the optimizers make the difference: a library's own momentum, for example."""
    if name not in SETTINGS or None not in values:
        return False
    return values == [PROGRAMS[_kind(g.facts)].defaults(g.facts)[name] for g in groups]


def group_title(group: Group, groups: list[Group]) -> str:
    """Return the group's model and data, and the arguments that other groups of these differ in."""
    facts = group.facts
    alike = [g for g in groups if all(g.facts.get(n) == facts.get(n) for n in ("model", "dataset"))]
    title = " on ".join(str(facts[name]) for name in ("model", "dataset") if facts.get(name))
    details = [
        f"{name} {value_text(facts[name])}"
        for name, _ in _differences(alike)
        if name not in ("model", "dataset", "tuned", "samples", "counts")
        and name not in group.tuned
        and facts.get(name) is not None
    ]
    if group.tuned:
        details.insert(0, f"{' and '.join(group.tuned)} tuned for each activation")
    return f"{title or 'Runs'}{': ' if details else ''}{', '.join(details)}"


def _notes(group: Group) -> list[str]:
    runs, notes = group.all_runs(), []
    for name in ENVIRONMENT:
        values = {str(x) for run in runs if run.is_ours for x in _environment_values(run, name)}
        if len(values) > 1:
            notes.append(f"{name}: {', '.join(sorted(values))}")
    told = (run.resolved.get("kernels") for run in runs)
    kernels = {str(value) for value in told if value is not None}
    if len(kernels) > 1:
        notes.append(f"kernels: {', '.join(sorted(kernels))}")
    return notes


def _environment_values(run: RunResult, name: str) -> list[Any]:
    """Return a fact of the run's machine: at the start, and at each resume that has it."""
    resumed = [each[name] for each in run.environment["resumed"] if name in each]
    return [run.environment.get(name), *resumed]
