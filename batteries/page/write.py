"""Put the page of a battery together, and write its files."""

import io
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from analysis.document import Document, plain
from analysis.drawing import STYLE
from analysis.wording import value_text
from batteries.findings import Findings, TaskFindings
from batteries.page import figures, tables, words
from batteries.page.web import INVALID, html_page
from batteries.profile import found, text
from batteries.profile.found import Profile
from batteries.profile.profile import arm_of, profile_of, with_cost
from training.devices import resolve_device
from utils import UserError, replacing, warn, writable

HTML, MARKDOWN, FIGURES = "battery.html", "battery.md", "figures"
# Text stays text, in the font of the page around it.
SVG_STYLE = STYLE | {"svg.fonttype": "none", "axes.linewidth": 0.8}


def write_page(findings: Findings, profile: Profile | None, folder: Path) -> Path:
    """Write battery.html, which holds all, and battery.md with figures/; return the former.

    Args:
        findings: what the battery has found.
        profile: what was computed of the function; None where that was not possible.
        folder: where the files are written.

    Raises:
        UserError: they cannot be written.
    """
    document = compose(findings, profile)
    pictures = {name: svg(draw) for name, draw in document.figures.items()}
    texts = {
        HTML: html_page(document, pictures),
        MARKDOWN: document.markdown(),
        **{f"{FIGURES}/{name}.svg": picture for name, picture in pictures.items()},
    }
    try:
        (folder / FIGURES).mkdir(parents=True, exist_ok=True)
        for name, content in texts.items():
            with replacing(folder / name) as path:
                path.write_text(writable(content), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: the page cannot be written ({error.strerror})") from None
    return folder / HTML


def write_with_profile(
    findings: Findings, flags: Mapping[str, Any], folder: Path, measures_cost: bool = True
) -> Path:
    """Compute the candidate's profile, keep it as profile.json, and write the page with it.

    An activation that cannot be profiled gets a warning and a page without. What it costs is
    measured once: later pages in the same folder repeat the numbers.

    Args:
        findings: what the battery has found.
        flags: those that name the candidate to a program.
        folder: where the files are written.
        measures_cost: time it, if that was not done before.

    Raises:
        UserError: the files cannot be written.
    """
    try:
        arm = arm_of(flags)
        profile = profile_of(arm)
    except UserError as error:
        warn(f"the page has no profile of the function: {error}")
        return write_page(findings, None, folder)
    path = folder / found.FILE
    with suppress(UserError):  # there is none, or that of an earlier version
        before = found.load(path)
        if (before.label, before.description) == (profile.label, profile.description):
            profile = replace(profile, cost=before.cost)
    if measures_cost and profile.cost is None:
        profile = with_cost(profile, arm, resolve_device("auto"))
    page = write_page(findings, profile, folder)
    found.save(profile, path)
    return page


def svg(draw: Callable[[], Figure]) -> str:
    """Return a figure as SVG, the same for the same figure."""
    text = io.StringIO()
    with matplotlib.rc_context(SVG_STYLE):
        draw().savefig(text, format="svg", metadata={"Date": None})
    return INVALID.sub("", text.getvalue())


def compose(findings: Findings, profile: Profile | None) -> Document:
    """Return the whole text, and what draws its figures."""
    document = Document(ending="svg")
    document.heading(1, f"{plain(findings.label)}: a battery of {findings.size} tasks")
    for sentence in words.summary(findings):
        document.paragraph(sentence)
    document.heading(2, "Verdicts")
    document.table("verdicts", tables.verdicts(findings))
    if profile and profile.cost:
        document.paragraph(text.cost_sentence(profile.cost))
    document.heading(2, "Tasks")
    for task in findings.tasks:
        write_task(document, task, findings.label)
    if profile:
        text.write(document, profile, 2)
    document.heading(2, "How it was run")
    document.items(how_it_was_run(findings))
    document.heading(2, "How to read this")
    document.items(how_to_read(findings))
    return document


def write_task(document: Document, task: TaskFindings, label: str) -> None:
    """Add what one task has shown."""
    document.heading(3, f"{plain(task.name)}: {plain(task.title)}")
    document.paragraph(plain(" ".join(task.description.split())))
    document.paragraph(words.verdict_sentence(task, label))
    document.figure(
        f"seeds-{task.name}",
        "Each point is a seed; the mark below them is the mean with Student's 95 % interval, left "
        "out where runs diverged.",
        lambda: figures.seeds(task),
        alt=alt_text(figures.seeds_in_words(task)),
    )
    if figures.has_curves(task):
        document.figure(
            f"curves-{task.name}",
            "Means over the seeds, after each evaluation.",
            lambda: figures.curves(task),
            alt=alt_text(figures.curves_in_words(task)),
        )
    document.table(f"arms-{task.name}", tables.arms(task))
    if task.further:
        document.table(f"further-{task.name}", tables.further(task))
    if any(arm.trials for arm in task.arms):
        document.paragraph(f"Tried, with the final {task.metric.axis('validation')}:")
        document.items([words.trials_line(arm, task.metric) for arm in task.arms])


def alt_text(text: str) -> str:
    """Return a text as Markdown takes it between the brackets of an image."""
    return plain(text.replace("[", "(").replace("]", ")"))


def how_it_was_run(findings: Findings) -> list[str]:
    """Return where, when and with what the runs were made."""
    where = findings.environment
    runs = sum(task.runs for task in findings.tasks)
    stored = sum(task.stored for task in findings.tasks)
    hours = sum(task.seconds for task in findings.tasks) / 3600
    settings = {"activation": findings.activation, **findings.settings}
    flags = " ".join(f"--{name} {value_text(value)}" for name, value in settings.items())
    lines = [
        f"Activation: `{flags}`." + "".join(
            f" {plain(name)} has SHA-256 {digest}." for name, digest in findings.source.items()
        ),
        f"Machine: {plain(where.machine)}"
        + (f", {where.threads} thread" + "s" * (where.threads != 1) if where.threads else "")
        + " for each run.",
        "Versions: " + ", ".join(f"{name} {plain(v)}" for name, v in where.versions.items()) + ".",
        f"Date of the newest run: {findings.date or 'none'}.",
        f"Runs: {runs:,}, trials included, which took {hours:.1f} hours together; {stored:,} of "
        "them were not made anew, but are records of earlier runs with the same recipe, code, "
        "versions and kind of machine.",
        f"Seeds: at most {findings.max_seeds} for each comparison.",
    ]  # fmt: skip
    return lines


def how_to_read(findings: Findings) -> list[str]:
    """Return what the words and numbers of the page mean."""
    worth = [
        f"{plain(task.name)} {task.metric.number(task.diverged_value)}"
        for task in findings.tasks
        if task.diverged_value is not None
    ]
    diverged = (
        "A run that diverged counts with the value of a network that has learned nothing "
        f"({', '.join(worth)}); in other tasks its pair is left out."
        if worth
        else "Pairs of which a run diverged are left out."
    )
    signs = ", ".join(f"{sign} {words.SHOWN.get(name, name)}" for name, sign in words.SIGNS.items())
    return [
        "**Difference**: the activation minus the task's usual one, mean over runs that are paired "
        "by seed: one seed gives both the same data, the same order, and the same initial weights.",
        "**Interval over all looks**: after 6, 10, 15, 20, 30 and 40 seeds the differences are "
        "looked at; the intervals of all these looks together hold the true difference with a "
        "probability of 95 %, so that stopping at any of them is fair.",
        f"**Verdict** ({signs}): better or worse where the interval excludes 0; equivalent where "
        "it lies within ± the margin, which the task declares beforehand, even if it excludes 0; "
        "undecided where seeds or time were used up before either.",
        "**Tuned**: each activation has the same settings tried, with one seed of their own that "
        "is not reported. The choice is by the score on validation data; values are those of test "
        "data after the last epoch.",
        f"**Diverged**: {diverged}",
        "**Dead channels**: those whose input to an activation was never positive in the whole "
        "last evaluation. **Flat units**: those where the activation's slope is below 0.01 in "
        "size. Both are means over seeds, at the end of training.",
        "**Other rivals**: their comparisons have Student's 95 % intervals, each for itself.",
    ]
