"""stats.jsonl of a run: what went on in each layer's activation during training."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas

from analysis.settings import Group, Setting

FILE = "stats.jsonl"
# What a line tells of a site, but for the channels.
RECORDED = ("std", "tail_index", "gaussian_tail_index", "flat_share", "gradient_norm", "sigma")


@dataclass
class Layers:
    """Of the settings of a group whose runs have statistics.

    means: per setting and quantity a frame of (steps, sites), sites in order of depth, with the
    mean over the runs that have a value there. Besides RECORDED there are tail_ratio (tail_index
    over the Gaussian's), dead and channels (counts), and dead_share. runs: how many a setting has.
    """

    means: dict[Setting, dict[str, pandas.DataFrame]] = field(default_factory=dict)
    runs: dict[Setting, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def of(self, quantity: str) -> dict[Setting, pandas.DataFrame]:
        """Of the settings that have a value of it anywhere."""
        frames = {setting: mine[quantity] for setting, mine in self.means.items()}
        return {s: frame for s, frame in frames.items() if frame.notna().any(axis=None)}


def layers_of(group: Group) -> Layers:
    found = Layers()
    for setting in group.settings:
        of_runs = []
        for run in group.runs[setting].values():
            if (run.path / FILE).exists():
                try:
                    of_runs.append(read_layers(run.path / FILE))
                except ValueError as error:
                    found.problems.append(f"{error}; left out")
        of_runs = [mine for mine in of_runs if any(frame.size for frame in mine.values())]
        if of_runs:
            found.runs[setting] = len(of_runs)
            found.means[setting] = {
                name: _mean([mine[name] for mine in of_runs]) for name in of_runs[0]
            }
    return found


def _mean(frames: list[pandas.DataFrame]) -> pandas.DataFrame:
    """At equal steps, over the frames that have a value."""
    if len(frames) == 1:
        return frames[0]
    return pandas.concat(frames, sort=False).groupby(level=0).mean()


def read_layers(path: Path) -> dict[str, pandas.DataFrame]:
    """By quantity, as in `Layers`; a last line without an end is not read.

    Raises:
        ValueError: a line is damaged; the message names it.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ValueError(f"{path}: it cannot be read ({error.strerror})") from None
    sites, channels = {}, {}
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            break
        try:
            content = json.loads(line)
            step = int(content["step"])
            for kind, kept in (("sites", sites), ("channels", channels)):
                if kind in content:
                    kept[step] = {str(site): dict(each) for site, each in content[kind].items()}
        except Exception as error:  # whatever a foreign or damaged line comes to
            raise ValueError(f"{path}: line {number} is damaged ({error!r})") from None
    try:
        found = {name: _frame(sites, name) for name in RECORDED}
        found |= {"dead": _frame(channels, "dead"), "channels": _frame(channels, "total")}
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{path}: it holds what is no number ({error})") from None
    found["tail_ratio"] = found["tail_index"] / found["gaussian_tail_index"]
    found["dead_share"] = found["dead"] / found["channels"]
    return {name: frame.replace([np.inf, -np.inf], np.nan) for name, frame in found.items()}


def _frame(by_step: dict[int, dict[str, dict]], name: str) -> pandas.DataFrame:
    """(steps, sites) of one quantity; null and what is missing are NaN."""
    rows = [{site: each.get(name) for site, each in sites.items()} for sites in by_step.values()]
    frame = pandas.DataFrame(rows, index=list(by_step), dtype=float)
    return frame.sort_index()


def layers_table(layers: Layers) -> pandas.DataFrame:
    """A row for each setting, step and site, means over seeds; the site's place in depth from 1."""
    frames = []
    for setting, mine in layers.means.items():
        columns = {name: frame.unstack() for name, frame in mine.items() if frame.size}
        frame = pandas.DataFrame(columns).rename_axis(["site", "step"]).reset_index()
        depth = {site: place for place, site in enumerate(sites_of([mine]), 1)}
        frame.insert(0, "setting", setting.label)
        frame.insert(1, "depth", frame["site"].map(depth))
        frames.append(frame.sort_values(["step", "depth"]))
    return pandas.concat(frames) if frames else pandas.DataFrame()


def sites_of(means: list[dict[str, pandas.DataFrame]]) -> list[str]:
    """All sites of these, in order of depth."""
    return list(dict.fromkeys(s for mine in means for frame in mine.values() for s in frame))


def readable_layers(layers: Layers) -> pandas.DataFrame:
    """A row for each setting: the median over its sites at the last step; dead channels in all."""
    rows = []
    for setting, mine in layers.means.items():
        row = {"setting": setting.label, "n": str(layers.runs[setting])}
        for name, heading, form in (
            ("std", "input sd", "{:.3g}"),
            ("tail_ratio", "tail index / Gaussian's", "{:.2f}"),
            ("flat_share", "flat units (%)", "{:.2f}"),
            ("gradient_norm", "gradient norm", "{:.3g}"),
        ):
            last = mine[name].iloc[-1].median() if len(mine[name]) else float("nan")
            value = 100 * last if name == "flat_share" else last
            row[heading] = "–" if pandas.isna(value) else form.format(value)
        if len(mine["dead"]):
            dead, channels = (mine[name].iloc[-1].sum() for name in ("dead", "channels"))
            row["dead channels"] = f"{dead:.1f} of {channels:.0f}"
        rows.append(row)
    return pandas.DataFrame(rows).fillna("–")
