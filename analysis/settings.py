"""Which runs may be compared: groups of settings, and the runs of each setting by seed.

A setting is an activation with its sigma. Runs are in one group if they differ in nothing else
but seeds. What decides that is the table of flags in cli.py: whatever changes the result, or its
precision; where and how a run was saved does not.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import cli
from analysis.run_folders import RunResult, split_of
from dataset import FOLDERS
from experiments.grid import SIGMA_FLAGS
from experiments.manifest import TRIAL, TUNED
from experiments.tuning import tuned_flags
from run_folder.status import FINISHED
from zilu.names import ACTIVATIONS, SIGMA_NAMES

SETTING_FLAGS = ("activation", *SIGMA_FLAGS)
SEEDS = ("seed", "init_seed", "data_seed")
# Not a matter of the result: of the activation's memory, and of the kind of machine.
OF_NO_MATTER = ("inplace", "device", "deterministic")
# Other code's names for the same kinds of things as cli.NOTHING.
FOREIGN_NOTHING = re.compile(
    r".*_(dir|path|folder|name|id|freq|interval|time)|(save|log|out|output|exp|tag|name|host|pid|"
    r"timestamp|experiment|gpus?|rank|local_rank|workers|resume|checkpoint|evaluate|root|verbose)"
    r"(dir|name)?"
)
# Flags that may be automatic: what they came to counts.
RESOLVED = (
    "samples", "counts", "amp_dtype", "compile_mode", "stem", "head", "patch_size", "vocab_size",
    "embedding_dim", "num_attention_heads", "num_layers",
)  # fmt: skip
FLAGS = {flag.name: flag for flag in (*cli.VISION_FLAGS, *cli.LANGUAGE_FLAGS)}
NO_NAME = "–"  # of an activation that other code's run does not tell
BUILT_IN = ("ReLU", "GELU", "SiLU")  # the usual rivals


@dataclass(frozen=True)
class Setting:
    """An activation and what its sigma is: a number, learned from a number, or none.

    `tuned`: what a tuned setting's flags came to.
    """

    activation: str
    sigma: float | None = None
    learned: bool = False
    rescaled: float | None = None
    tuned: tuple[tuple[str, object], ...] = ()

    @property
    def label(self) -> str:
        details = []
        if self.sigma is not None:
            details.append(("σ learned from " if self.learned else "σ = ") + f"{self.sigma:.10g}")
        if self.rescaled is not None:
            details.append(f"rescaled by {self.rescaled:g}")
        if self.tuned:
            details.append("tuned")
        return f"{self.activation} ({', '.join(details)})" if details else self.activation


def by_order(setting: Setting) -> tuple:
    """A key to sort by: the usual rivals, others without a sigma, and those with one, by sigma."""
    name = setting.activation
    rank = BUILT_IN.index(name) if name in BUILT_IN else len(BUILT_IN) + (name in SIGMA_NAMES)
    return rank, name, setting.learned, setting.rescaled or 0, setting.sigma or 0


@dataclass
class Group:
    """Runs that differ in setting and seeds alone.

    `facts` are the arguments that all share. `tuned`: the names of the flags that were chosen for
    each activation by itself.
    """

    facts: dict
    runs: dict[Setting, dict[tuple, RunResult]]
    tuned: tuple[str, ...] = ()
    title: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def settings(self) -> list[Setting]:
        return sorted(self.runs, key=by_order)

    def all_runs(self) -> list[RunResult]:
        return [run for runs in self.runs.values() for run in runs.values()]

    def any_run(self) -> RunResult:
        return self.all_runs()[0]


def setting_of(run: RunResult) -> Setting:
    flags = run.flags
    name = str(flags.get("activation", NO_NAME))
    tuned = ()
    if run.role == TUNED:
        tuned = tuple(
            (each, flags.get(each)) for each in tuned_names(run) if each not in SIGMA_FLAGS
        )
    # Of other code's activations nobody knows whether they have a sigma.
    if name not in SIGMA_NAMES and (run.is_ours or name in ACTIVATIONS):
        return Setting(name, tuned=tuned)
    sigma = flags.get("sigma")
    return Setting(
        name,
        None if sigma is None else float(sigma),
        bool(flags.get("learn_sigma", False)),
        flags.get("rescale_init"),
        tuned,
    )


def tuned_names(run: RunResult) -> tuple[str, ...]:
    return tuple(tuned_flags(run.manifest.tune)) if run.role == TUNED else ()


def seeds_of(run: RunResult) -> tuple:
    """What pairs a run with those of other settings; None where a run does not tell."""
    return tuple(run.resolved.get(name, run.flags.get(name)) for name in SEEDS)


def seed_key(run: RunResult) -> tuple | Path:
    """The run among those of its setting; one that does not tell its seed pairs with none."""
    seeds = seeds_of(run)
    return run.path if seeds[0] is None else seeds


def context_of(run: RunResult) -> dict:
    """Everything that decides the result besides setting and seeds."""
    flags, resolved = _complete(run), run.resolved
    ignored = {*SETTING_FLAGS, *SEEDS, *OF_NO_MATTER, *cli.ARGUMENTS_OF_ONE_RUN, *tuned_names(run)}
    context = {}
    for name, value in flags.items():
        ours_of_no_matter = name in FLAGS and FLAGS[name].effect == cli.NOTHING
        theirs_of_no_matter = not run.is_ours and FOREIGN_NOTHING.fullmatch(name.lower())
        if name not in ignored and not ours_of_no_matter and not theirs_of_no_matter:
            context[name] = value
    if flags.get("dataset") in (*FOLDERS, "text"):
        context["data_path"] = flags.get("data_path")
    for name in RESOLVED:
        if name in resolved:
            context[name] = resolved[name]
    if not run.is_ours:
        context["judged_on"] = split_of(run)
    if run.environment.get("processes", 1) != 1 and not flags.get("sync_batchnorm"):
        context["processes"] = run.environment["processes"]
    if run.role == TUNED:
        context["tuned"] = ", ".join(tuned_names(run))
    return context


def context_key(context: dict) -> str:
    """The same for equal contexts, whatever their order."""
    return repr(sorted(context.items(), key=lambda item: item[0]))


def _complete(run: RunResult) -> dict:
    """The flags, with the defaults of those that are younger than the run."""
    if not run.is_ours:
        return run.flags
    known = cli.LANGUAGE_FLAGS if "tokenizer" in run.flags else cli.VISION_FLAGS
    return {flag.name: flag.default for flag in known} | run.flags


@dataclass
class Sorted:
    """Runs in groups; `left_out`: (run, why) of those that are in none; `differences`: (name,
    values) of what differs between groups."""

    groups: list[Group]
    left_out: list[tuple[RunResult, str]]
    differences: list[tuple[str, list]]


def sort(runs: list[RunResult]) -> Sorted:
    """The finished runs in groups."""
    groups: dict[str, Group] = {}
    left_out = []
    for run in runs:
        if run.role == TRIAL:
            left_out.append((run, "a trial of the tuning"))
        elif run.kind != FINISHED:
            left_out.append((run, f"{run.kind}: {run.reason}"))
        else:
            context = context_of(run)
            group = groups.setdefault(context_key(context), Group(context, {}, tuned_names(run)))
            same = group.runs.setdefault(setting_of(run), {})
            copy = _earlier(run, same)
            if copy is None:
                same[seed_key(run)] = run
            else:
                left_out.append((run, copy))
    found = sorted(groups.values(), key=lambda group: bool(group.tuned))  # these last
    titles = [group_title(group, found) for group in found]
    for number, group in enumerate(found):
        earlier = titles[:number].count(titles[number])
        group.title = titles[number] + (f" ({earlier + 1})" if earlier else "")
        group.notes = _notes(group)
    return Sorted(found, left_out, _differences(found))


def _earlier(run: RunResult, same: dict) -> str | None:
    """Why a run is no further one of its setting, if it is none: a pair must not count twice."""
    seeds = seeds_of(run)
    if seeds[0] is not None:
        return f"the same setting and seed as {same[seeds].path}" if seeds in same else None
    copies = [other for other in same.values() if other.digest() == run.digest()]
    return f"a copy of {copies[0].path}" if copies else None


def _differences(groups: list[Group]) -> list[tuple[str, list]]:
    names = dict.fromkeys(name for group in groups for name in group.facts)
    values = {name: [group.facts.get(name) for group in groups] for name in names}
    return [(name, each) for name, each in values.items() if any(v != each[0] for v in each)]


def group_title(group: Group, groups: list[Group]) -> str:
    """Model and data, and what tells it from the other groups of the same."""
    facts = group.facts
    alike = [g for g in groups if all(g.facts.get(n) == facts.get(n) for n in ("model", "dataset"))]
    title = " on ".join(str(facts[name]) for name in ("model", "dataset") if facts.get(name))
    others = [
        f"{name} {shown(facts.get(name))}"
        for name, _ in _differences(alike)
        if name not in ("model", "dataset", "tuned", "samples", "counts")
        and name not in group.tuned
        and facts.get(name) is not None
    ]
    if group.tuned:
        others.insert(0, f"{' and '.join(group.tuned)} tuned for each activation")
    return f"{title or 'Runs'}{': ' if others else ''}{', '.join(others)}"


def shown(value) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(each)}" for name, each in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _notes(group: Group) -> list[str]:
    """What differs between a group's runs and changes no more than the rounding, or the times."""
    runs, notes = group.all_runs(), []
    for name in ("device", "torch", "git_commit", "threads", "processes", "tf32"):
        values = {str(x) for run in runs if run.is_ours for x in _values(run, name)}
        if len(values) > 1:
            notes.append(f"{name}: {', '.join(sorted(values))}")
    kernels = {run.resolved.get("kernels") for run in runs} - {None}
    if len(kernels) > 1:
        notes.append(f"kernels: {', '.join(sorted(kernels))}")
    return notes


def _values(run: RunResult, name: str) -> list:
    """What a fact of the machine was, and what it became where the run was resumed."""
    return [run.environment.get(name), *(e[name] for e in run.environment["resumed"] if name in e)]
