"""The report itself: what it says, in which order, and the files that it leaves."""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import pandas

from analysis import figures, sections, tables
from analysis.comparisons import (
    AGAINST_BASELINE,
    CONTROL,
    Comparison,
    Plan,
    all_comparisons,
    check_plan,
)
from analysis.divergence import (
    attempts,
    divergence_table,
    sentence,
    shares,
    survivors,
    worth_a_sentence,
)
from analysis.document import Document, plain
from analysis.layers import layers_of
from analysis.metrics import SPLIT_WORDS, metric_of
from analysis.predictions import predictions_of
from analysis.run_folders import RunResult, split_of
from analysis.sentences import SIGMA_ONLY_RESCALES, seeds_sentence, verdict, warnings
from analysis.settings import Group, Setting, by_order, shown, sort
from analysis.tuned import choices, tuning_table
from run_folder.metrics import Metric
from utils import UserError, replacing
from zilu.names import ACTIVATIONS

# The files in figures/ and tables/ that a report writes, and those beside report.html that not
# every report has.
OURS = re.compile(
    r"((curves|differences|scan|time|classes|reliability|std|tail_ratio|flat_share|gradient_norm|"
    r"dead_share|sigma)-\d+|functions)\.(png|svg|pdf)"
    r"|((settings|comparisons|divergence|calibration|bands|classes|images|mcnemar|blocks|layers)-\d+|"
    r"differences|tuning)\.tex"
    r"|(tuning|divergence|calibration|bands|classes|reliability|mcnemar|blocks|layers)\.csv"
)
SCAN = 3  # sigmas of one activation that make a scan
USUAL = ("auto", "torch")  # norms and initial gain that are not worth a mention
FACTS = (
    "norm", "init_gain", "num_epochs", "max_steps", "batch_size", "grad_accum_steps", "optimizer",
    "lr", "weight_decay", "scheduler", "warmup", "label_smoothing", "imb_factor",
    "class_balanced", "augment", "color_jitter", "noise", "dropout", "max_seq_length", "tokenizer",
    "val_fraction", "split_seed", "samples", "amp_dtype", "compile_mode",
)  # fmt: skip
METHODS = (
    "**Unit.** A run is one seed of one setting; what is averaged are runs, never epochs. The "
    "final result is that of the last epoch. *At best validation* is the test result at the epoch "
    "whose validation score was best. No epoch is chosen by its test result.",
    "**Intervals** are Student's 95 % t intervals over seeds (Student 1908). They speak of the "
    "spread between seeds on this test set, not of other data.",
    "**Differences** are paired by seed: with one seed both runs start from the same weights and "
    "see the same batches. p is of the two-sided paired t test; r is the correlation between "
    "paired runs; d_z is the mean difference over its standard deviation (Cohen 1988). Wilcoxon's "
    "signed-rank test (1945) is exact. Welch's test (1947) treats the same runs as unpaired.",
    "**Many comparisons.** The primary comparison, if one was declared, is tested by itself (with "
    "those of other groups, if there are several); all others of this report together, by Holm's "
    "correction (1979).",
    "**Detectable** is the smallest true difference that a paired t test with this many pairs "
    "finds at p < 0.05 with a power of 80 %, if differences between seeds spread as they did here. "
    "It does not go by the difference that was observed.",
    "**Equivalence** is by two one-sided t tests (Schuirmann 1987): p below 0.05 says that the "
    "true difference lies within the margin.",
    "**Times** are those of the runs as they were made. Runs that shared a machine with others "
    "slowed each other down; `benchmark.py` measures speed.",
)


@dataclass
class Report:
    """Everything that was computed, ready to be written."""

    title: str
    runs: list[RunResult]
    plan: Plan

    def __post_init__(self):
        self.result = sort(self.runs)
        self.groups = self.result.groups
        attempted = attempts(self.runs)
        check_plan(self.groups, self.plan, attempted)
        self.metrics = [metric_of(group, self.plan.metric) for group in self.groups]
        self.comparisons = all_comparisons(self.groups, self.plan, self.metrics)
        self.choices = choices(self.runs)
        self.shares = shares(attempted, self.groups, self.plan)
        self.evidence = [
            sections.GroupEvidence(g, self.of(g), predictions_of(g), layers_of(g))
            for g in self.groups
        ]

    def of(self, group: Group, *kinds: str) -> list[Comparison]:
        return [c for c in self.comparisons if c.group is group and (not kinds or c.kind in kinds)]

    def verdict(self, comparison: Comparison) -> str:
        return verdict(comparison, self.plan.margin) + survivors(comparison, self.shares)


def write(report: Report, folder: Path) -> None:
    """Write report.md, report.html, the CSV files, figures/ and tables/ into `folder`.

    Raises:
        UserError: it cannot be written.
    """
    try:
        for name in ("figures", "tables"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for path in _of_an_earlier_report(folder):
            path.unlink()
        document = compose(report)
        figures.save(document.figures, folder / "figures")
        for name, frame in data_frames(report).items():
            _write(folder / f"{name}.csv", frame.to_csv(index=False, lineterminator="\n"))
        for name in document.tables:
            _write(folder / "tables" / f"{name}.tex", document.latex(name))
        _write(folder / "report.md", document.markdown())
        _write(folder / "report.html", document.html(folder))
    except OSError as error:
        raise UserError(f"{folder}: the report cannot be written ({error.strerror})") from None


def _of_an_earlier_report(folder: Path) -> list[Path]:
    """Files that it wrote, and it may have had more of them; the user's own stay."""
    places = [folder / "figures", folder / "tables"]
    if (folder / "report.html").exists():
        places.append(folder)
    return [path for place in places for path in place.iterdir() if OURS.fullmatch(path.name)]


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def data_frames(report: Report) -> dict[str, pandas.DataFrame]:
    """What stands in the CSV files, unrounded."""
    frames = []
    for group, metric in zip(report.groups, report.metrics, strict=True):
        frame = tables.settings_table(group, metric)
        frame.insert(0, "group", group.title)
        frame.insert(1, "metric", metric.name)
        frames.append(frame)
    metrics = {group.title: m for group, m in zip(report.groups, report.metrics, strict=True)}
    found = {
        "runs": tables.runs_table(report.runs, report.result, metrics),
        "settings": pandas.concat(frames) if frames else pandas.DataFrame(),
        "comparisons": tables.comparisons_table(report.comparisons),
    }
    if report.choices:
        found["tuning"] = tuning_table(report.choices)
    if report.shares:
        found["divergence"] = divergence_table(report.shares)
    return found | sections.data_frames(report.evidence)


# --- the text ---


def compose(report: Report) -> Document:
    """The whole text, and what draws its figures."""
    document = Document()
    document.heading(1, report.title)
    document.paragraph(_counts(report))
    _in_short(document, report)
    _what_differed(document, report)
    for number, group in enumerate(report.groups, 1):
        _group(document, report, group, number)
    _tuning(document, report)
    _functions(document, report)
    _left_out(document, report)
    document.heading(2, "How to read this")
    document.items([*METHODS, *sections.methods(report.shares, report.evidence)])
    return document


def _counts(report: Report) -> str:
    used = sum(len(group.all_runs()) for group in report.groups)
    text = f"{len(report.runs)} runs were found, {used} of them are compared here"
    if report.result.left_out:
        text += (
            f"; {len(report.result.left_out)} are [left out](#runs-left-out), each with its reason"
        )
    return f"{text}. `runs.csv` lists all of them."


def _in_short(document: Document, report: Report) -> None:
    document.heading(2, "In short")
    if not report.groups:
        document.paragraph("No run has finished: there is nothing to compare.")
        _diverged(document, report)
        return
    plan = report.plan
    document.paragraph(_declaration(plan))
    for group in report.groups:
        mine = report.of(group)
        ordered = sorted(mine, key=lambda each: not each.primary)
        if len(report.groups) > 1:
            document.paragraph(f"**{plain(group.title)}**")
        if not mine:
            document.paragraph("Nothing to compare: it has one setting, or lacks the baseline.")
        document.items(
            [("**Primary.** " if c.primary else "") + plain(report.verdict(c)) for c in ordered]
        )
    _diverged(document, report)


def _diverged(document: Document, report: Report) -> None:
    """Diverged runs are in no mean, but they are results."""
    for title in dict.fromkeys(share.title for share in report.shares):
        mine = [s for s in report.shares if s.title == title and worth_a_sentence(s)]
        document.paragraph(f"Diverged, **{plain(title)}**:")
        document.items([plain(sentence(share)) for share in mine])


def _declaration(plan: Plan) -> str:
    primary = (
        f"The primary comparison is {plain(plan.primary)} against the baseline, declared "
        f"{plan.declared}."
        if plan.primary
        else "No primary comparison was declared: all are corrected together, and a finding asks "
        "for new seeds to confirm it."
    )
    margin = f" Differences within ±{plan.margin:g} count as equivalent." if plan.margin else ""
    return primary + margin


def _what_differed(document: Document, report: Report) -> None:
    if len(report.groups) < 2:
        return
    document.heading(2, "What differed")
    document.paragraph(
        "Runs that differ in more than activation, σ and seed are not pooled. These groups differ:"
    )
    rows = [{"group": group.title} for group in report.groups]
    for name, values in report.result.differences:
        for row, value in zip(rows, values, strict=True):
            row[name] = shown(value)
    document.table("differences", pandas.DataFrame(rows))


def _group(document: Document, report: Report, group: Group, number: int) -> None:
    metric = report.metrics[number - 1]
    document.heading(2, plain(group.title))
    document.paragraph(_facts(group))
    frame = tables.settings_table(group, metric)
    document.table(f"settings-{number}", tables.readable_settings(frame, metric))
    split = SPLIT_WORDS[split_of(group.any_run())].capitalize()
    document.paragraph(
        f"{split} {metric.axis()}: final, and at the best validation epoch where there is any."
    )
    sections.divergence(document, [s for s in report.shares if s.title == group.title], number)
    if any(not record.get("partial") for run in group.all_runs() for record in run.records):
        document.figure(
            f"curves-{number}",
            "Means over seeds; bands, where they are not too many, are one standard deviation.",
            lambda: figures.learning_curves(group, metric),
        )
    _differences(document, report, group, metric, number)
    sections.predictions(document, report.evidence[number - 1], number)
    _scan(document, report, group, metric, number)
    if any(not math.isnan(tables.step_ms(run)) for run in group.all_runs()):
        document.figure(
            f"time-{number}",
            "Result against the time of a training step; bars are 95 % intervals.",
            lambda: figures.accuracy_and_time(group, metric),
        )
    sections.layers(document, report.evidence[number - 1], number)


def _differences(
    document: Document, report: Report, group: Group, metric: Metric, number: int
) -> None:
    compared, plan = report.of(group), report.plan
    if not compared:
        return
    document.heading(3, "Differences")
    document.table(f"comparisons-{number}", tables.readable_comparisons(compared, plan.margin))
    unit = metric.difference_unit or metric.words
    document.paragraph(f"Differences, intervals and the detectable difference in {unit}.")
    document.items([plain(text) for text in warnings(compared)])
    if plan.mde:
        document.items([plain(t) for each in compared if (t := seeds_sentence(each, plan.mde))])
    against = [c for c in report.of(group, AGAINST_BASELINE) if math.isfinite(c.difference)]
    if against:
        caption = "Difference to the baseline: ticks are pairs of one seed, bars 95 % intervals."
        caption += f" Grey: within ±{plan.margin:g}." if plan.margin else ""
        caption += " \\* the primary comparison." if any(c.primary for c in against) else ""
        document.figure(
            f"differences-{number}", caption, lambda: figures.differences(against, plan.margin)
        )


def _facts(group: Group) -> str:
    facts = [
        f"{name} {shown(group.facts[name])}"
        for name in FACTS
        if group.facts.get(name) not in (None, False, *USUAL)
    ]
    text = plain("; ".join(facts)) + "." if facts else ""
    devices = sorted({run.environment["device"] for run in group.all_runs() if run.is_ours})
    if devices:
        text += f" Made on {', '.join(devices)}."
    if group.notes:
        notes = plain("; ".join(group.notes))
        text += f" **The runs are pooled although they differ in** {notes}."
    return text


def _scan(document: Document, report: Report, group: Group, metric: Metric, number: int) -> None:
    fixed = [s for s in group.settings if s.sigma is not None and not s.learned]
    names = list(dict.fromkeys(s.activation for s in fixed))
    scanned = [
        n
        for n in names
        if len({s.sigma for s in fixed if s.activation == n and s.rescaled is None}) >= SCAN
    ]
    if not scanned:
        return
    document.heading(3, "Scan of σ")
    document.paragraph(SIGMA_ONLY_RESCALES)
    if not report.of(group, CONTROL):
        document.paragraph(
            "These runs hold no control (`--sigma 1 --rescale_init S`), so they cannot tell the "
            "two apart."
        )
    document.figure(
        f"scan-{number}",
        "Means over seeds with 95 % intervals; lines are the activations without σ. What has one σ "
        "stands a little apart.",
        lambda: figures.sigma_scan(group, metric, scanned),
    )


def _tuning(document: Document, report: Report) -> None:
    if not report.choices:
        return
    document.heading(2, "Tuning")
    trials = sorted({choice.trials + choice.missing for choice in report.choices})
    document.paragraph(
        f"Each activation had {' or '.join(map(str, trials))} trials, with seeds that are not "
        "reported above. The best mean of the final validation score was chosen. An activation "
        "with fewer settings to try had more seeds for each."
    )
    document.table("tuning", tuning_table(report.choices))
    for choice in report.choices:
        if choice.missing:
            document.items([f"{choice.activation}: {choice.missing} trials have not ended."])
        document.items(
            [
                f"{choice.activation}: {edge}; a better value may lie beyond."
                for edge in choice.edges()
            ]
        )


def _functions(document: Document, report: Report) -> None:
    everything = {setting for group in report.groups for setting in group.settings}
    known = [s for s in everything if s.activation in ACTIVATIONS and s.rescaled is None]
    plain = sorted({Setting(s.activation, s.sigma) for s in known}, key=by_order)
    if not plain:
        return
    document.heading(2, "The functions")
    shown_ones = plain[: len(figures.COLORS) * 2]
    learned = " A learned σ as it starts." if any(s.learned for s in known) else ""
    document.figure(
        "functions",
        f"The activations compared, and their derivatives.{learned}",
        lambda: figures.activation_functions(shown_ones),
    )


def _left_out(document: Document, report: Report) -> None:
    if not report.result.left_out:
        return
    document.heading(2, "Runs left out")
    document.items([f"`{run.path}`: {plain(reason)}" for run, reason in report.result.left_out])


def default_folder(paths: list[Path]) -> Path:
    """Beside the runs where they are in one folder, else Output/report."""
    if len(paths) == 1 and not (paths[0] / "args.txt").exists():
        return paths[0] / "report"
    return Path("Output") / "report"


def title_of(paths: list[Path]) -> str:
    return "Report: " + ", ".join(
        os.path.basename(os.path.normpath(path.absolute())) for path in paths
    )
