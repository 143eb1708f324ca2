"""Tell what the tuning of a sweep tried and chose for each activation."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas

from analysis.document import Document
from analysis.section import Section
from analysis.variants import Variant
from analysis.wording import value_text
from experiments.grid import VARIANT_FLAGS
from experiments.manifest import TRIAL, Manifest, Run
from experiments.results import trial_result
from experiments.tuning import Trial, edge_of, mean_scores, tuned_flags
from zilu.names import SIGMA_NAMES


class Tuning(Section):
    def write_closing(self, document: Document) -> None:
        if not self.choices:
            return
        document.heading(2, "Tuning")
        trials = sorted({choice.trials + choice.missing for choice in self.choices})
        document.paragraph(
            f"Each activation had {' or '.join(map(str, trials))} trials, with seeds that are not "
            "reported above. The best mean of the final validation score was chosen. An activation "
            "with fewer settings to try had more seeds for each."
        )
        document.table("tuning", tuning_table(self.choices))
        for choice in self.choices:
            if choice.missing:
                document.items([f"{choice.activation}: {choice.missing} trials have not ended."])
            document.items(
                [
                    f"{choice.activation}: {edge}; a better value may lie beyond."
                    for edge in choice.edges()
                ]
            )

    def csv_tables(self) -> dict[str, pandas.DataFrame]:
        return {"tuning": tuning_table(self.choices)} if self.choices else {}

    @cached_property
    def choices(self) -> list["Choice"]:
        """Return the choice of every tuning among the runs."""
        tunings: dict[str, tuple[Manifest, list[Run]]] = {}
        for result in self.findings.runs:
            manifest, run = result.manifest, result.entry
            if manifest and run and run.role == TRIAL:
                key = repr((manifest.folder, run.group))
                tunings.setdefault(key, (manifest, []))[1].append(run)
        return [choice_of(manifest, trials) for manifest, trials in tunings.values()]


@dataclass(frozen=True)
class Choice:
    """Hold what the tuning of one activation tried, in one group of runs.

    Attributes:
        activation: The activation.
        setting: The other flags of the group.
        tried: (the flags' values, their mean validation score, trials that ended) of each
            combination.
        missing: Trials that have not ended.
    """

    activation: str
    setting: dict[str, Any]
    tried: list[tuple[dict[str, Any], float, int]]
    missing: int

    @property
    def trials(self) -> int:
        return sum(count for *_, count in self.tried)

    @property
    def best(self) -> dict[str, Any]:
        """Return the chosen flags; none before a trial has ended."""
        if not self.tried:
            return {}
        return max(self.tried, key=lambda each: each[1])[0]

    def edges(self) -> list[str]:
        """Name the values that are the smallest or largest tried: a better one may lie beyond."""
        found = []
        for name, value in self.best.items():
            if end := edge_of(value, (flags[name] for flags, *_ in self.tried)):
                found.append(f"{name} = {value_text(value)} is the {end} tried")
        return found


def choice_of(manifest: Manifest, trials: list[Run]) -> Choice:
    """Return the choice that the trials of one tuning in a sweep come to."""
    metric = manifest.report.get("metric")
    results = [Trial(run.flags, trial_result(manifest.path(run), metric)) for run in trials]
    ended = [result for result in results if result.score is not None]
    names = tuned_flags(manifest.tune)
    tried = []
    for flags, score in mean_scores(names, ended):
        count = sum(all(each.flags[n] == flags[n] for n in names) for each in ended)
        tried.append((flags, score, count))
    group = trials[0].group
    setting = {name: value for name, value in group.items() if name not in VARIANT_FLAGS}
    return Choice(_label(group), setting, tried, len(results) - len(ended))


def _label(group: dict[str, Any]) -> str:
    """Return the name of what is tuned by itself; what is tuned of it is no part of that."""
    args = group.get("activation_args")
    name = group["activation"] + (f" {args}" if args else "")
    if name not in SIGMA_NAMES:
        return name
    return Variant(
        name,
        sigma=group.get("sigma"),
        learned=bool(group.get("learn_sigma")),
        expanded=bool(group.get("expand_gate")),
        rescaled=group.get("rescale_init"),
    ).label


def tuning_table(choices: list[Choice]) -> pandas.DataFrame:
    """Return a row for each combination of flags that was tried.

    The flags in which the tunings differ, as the model, have a column each. Before all trials of an
    activation have ended nothing is chosen.
    """
    names = dict.fromkeys(name for choice in choices for name in choice.setting)
    differing = [
        name
        for name in names
        if len({value_text(choice.setting.get(name)) for choice in choices}) > 1
    ]
    rows = []
    for choice in choices:
        chosen = "best so far" if choice.missing else "chosen"
        for flags, score, count in choice.tried:
            rows.append(
                {
                    **{name: value_text(choice.setting.get(name)) for name in differing},
                    "activation": choice.activation,
                    **{name: value_text(value) for name, value in flags.items()},
                    "trials": count,
                    "validation score": "diverged" if math.isinf(score) else f"{score:.3f}",
                    "chosen": chosen if flags == choice.best else "",
                }
            )
    return pandas.DataFrame(rows)
