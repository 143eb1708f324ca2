"""Test the page of a battery: its verdicts are the findings', and its HTML is whole by itself."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from helpers.made_findings import LABEL, TASKS, failed, findings, task

from analysis.sequential import BETTER, EQUIVALENT, UNDECIDED, WORSE
from batteries.findings import BUDGET, ITSELF, load, save
from batteries.page import words
from batteries.page.write import write_page, write_with_profile
from batteries.profile import found as data
from batteries.profile.found import Cost, CostRow
from batteries.profile.profile import profile_of
from benchmarks.arms import Arm

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Read a page as a browser does, and note what is in it; tags that do not match are errors."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.errors, self.references, self.ids = [], [], [], []
        self.tags, self.rows, self.styles = [], [], []
        self.feed(text)
        self.close()
        self.errors += [f"{tag} is left open" for tag in self.open]

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append((tag, given))
        self.references += [given[name] for name in ("src", "href", "action") if name in given]
        self.styles += [given["style"]] if "style" in given else []
        self.ids += [given["id"]] if "id" in given else []
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.errors.append(f"{tag} ends where it did not begin, line {self.getpos()[0]}")

    def handle_data(self, text):
        if self.open and self.open[-1] == "style":
            self.styles.append(text)
        elif {"td", "th"} & {*self.open}:
            self.rows[-1][-1] += text

    def all(self, tag):
        return [attributes for each, attributes in self.tags if each == tag]


@pytest.fixture(scope="module")
def profile():
    return profile_of(Arm("ZiLU", 1.253))


@pytest.fixture(scope="module")
def written(tmp_path_factory, profile):
    """The page of findings of all kinds, and its files."""
    tasks = [
        task("convnet"),
        task("no_norms", diverged=2, unit_gain=True),
        task("vit"),
        task("gpt"),
    ]
    row = CostRow("GELU", 10.0, 9.5, 10.5, 1.0, 2**20, 2**22, 900.0, 880.0, 920.0, 1.0, 1.0)
    own = CostRow(LABEL, 10.4, 9.9, 11.0, 1.04, 2**21, 2**22, 950.0, 930.0, 970.0, 1.06, 1.0)
    cost = Cost("ResNet-20", 2**20, 7, "a processor", (row, own))
    folder = tmp_path_factory.mktemp("page")
    path = write_page(findings(tasks), replace(profile, cost=cost), folder)
    return Page(path.read_text()), folder


# --- the words ---


def test_the_table_has_the_verdicts_of_the_findings(written):
    page, folder = written
    rows = {row[0]: row for row in page.rows if row and row[0] in TASKS}
    verdicts = {name: row[2].split()[-1] for name, row in rows.items()}
    assert verdicts == {name: verdict for name, (*_, verdict) in TASKS.items()}
    decided = task("no_norms").decision
    row = rows["no_norms"]
    assert row[4] == f"+{decided.difference:.2f} points"
    assert row[5] == f"+{decided.low:.2f} to +{decided.high:.2f}"
    assert row[7] == str(decided.n)
    text = (folder / "battery.md").read_text()
    for name, (_, _, _, _, verdict) in TASKS.items():
        (line,) = [each for each in text.splitlines() if each.startswith(f"| {name} ")]
        assert f"{words.SIGNS[verdict]} {verdict}" in line


def test_the_first_sentence_counts():
    found = findings([task(name, verdict=BETTER) for name in TASKS])
    assert "**ZiLU (σ = 1.253)** was better than the task's usual activation on four" in (
        words.found(found)
    )
    assert "worse on none" in words.found(found)
    mixed = findings([
        task("convnet", verdict=WORSE), task("no_norms", verdict=EQUIVALENT),
        task("vit", verdict=UNDECIDED), failed(task("gpt")),
    ])  # fmt: skip
    sentence = words.found(mixed)
    for part in ("better than the task's usual activation on none", "worse on one (convnet)",
                 "equivalent within the margin on one (no_norms)", "undecided on one (vit)",
                 "on one (gpt) there is no result"):  # fmt: skip
        assert part in sentence
    assert "by equally many trials" in sentence


def test_a_candidate_that_is_the_baseline(tmp_path):
    found = findings([task("convnet", "ReLU", verdict=ITSELF)], "ReLU")
    assert "on one (convnet) it is itself the usual activation" in words.found(found)
    page = Page(write_page(found, None, tmp_path).read_text())
    (row,) = [row for row in page.rows if row[0] == "convnet"]
    assert row[2] == "· is the usual one"
    assert not page.errors


def test_the_second_sentence_says_how_sure_it_is():
    one = words.certainty(findings([task("convnet")]))
    assert "n = 10 seeds" in one
    assert "5\u00a0% over all looks" in one
    assert "such verdicts" not in one
    four = words.certainty(findings())
    assert "19\u00a0%" in four  # 1 − 0.95⁴
    bad = words.certainty(findings([task("no_norms", diverged=2), failed(task("gpt"))]))
    assert "2 of its 6 reported runs diverged" in bad
    assert "could not be trained as planned on gpt" in bad


def test_why_a_task_is_undecided():
    most, budget = task("gpt"), replace(task("gpt"), stopped=BUDGET)
    assert "most seeds" in words.verdict_sentence(most, LABEL)
    assert "time allowed was used up" in words.verdict_sentence(budget, LABEL)


def test_three_sentences(written):
    _, folder = written
    title, *paragraphs, heading = (folder / "battery.md").read_text().split("\n\n")[:5]
    assert title.startswith("# ZiLU")
    assert heading == "## Verdicts"
    assert [len(re.findall(r"\.(?= [A-Z]|$)", each)) for each in paragraphs] == [1, 1, 1]


# --- the HTML ---


def test_the_page_is_whole_by_itself(written):
    page, _ = written
    assert not page.errors
    assert len(page.ids) == len({*page.ids})
    known = {f"#{each}" for each in page.ids}
    assert {*page.references} <= known
    for style in page.styles:
        for target in re.findall(r"url\(([^)]*)\)", style):
            assert target.strip("\"'") in known
    assert not page.all("script")
    assert not page.all("link")
    assert not any("@import" in style for style in page.styles)


def test_every_figure_says_what_it_shows(written):
    page, folder = written
    pictures = page.all("svg")
    # Seeds and curves of four tasks, the function and its tails.
    assert len(pictures) == len(page.all("figure")) == 2 * len(TASKS) + 2
    for picture in pictures:
        assert picture["role"] == "img"
        assert picture["aria-labelledby"] in page.ids
    html = (folder / "battery.html").read_text()
    titles = re.findall(r'<title id="[^"]*">([^<]*)</title>', html)
    assert len(titles) == len(pictures)
    assert all(len(title) > 40 for title in titles)
    assert f"{LABEL}: n = 6, mean" in " ".join(titles)
    images = re.findall(r"!\[(.*?)\]\((.*?)\)", (folder / "battery.md").read_text())
    assert len(images) == len(pictures)
    for alt, file in images:
        assert len(alt) > 40
        assert (folder / file).read_text().startswith("<?xml")


def test_colours_follow_the_page(written):
    """In a dark window no black line stands on a dark page."""
    page, folder = written
    drawn = " ".join(re.findall(r"<svg.*?</svg>", (folder / "battery.html").read_text(), re.DOTALL))
    assert not re.findall(r"#(?:000000|ffffff|0072b2|d55e00)", drawn, re.IGNORECASE)
    defined = {*re.findall(r"(--\w+):", " ".join(page.styles))}
    assert {*re.findall(r"var\((--\w+)\)", drawn)} <= defined
    assert "prefers-color-scheme: dark" in " ".join(page.styles)


def test_the_tables_say_what_heads_what(written):
    page, _ = written
    assert {each.get("scope") for each in page.all("th")} == {"col", "row"}
    verdicts = [each for each in page.all("td") if "verdict" in each.get("class", "")]
    assert [each["class"].split()[1] for each in verdicts] == [v for *_, v in TASKS.values()]
    assert all(each["data-label"] == "verdict" for each in verdicts)


def test_the_text_of_both_files_is_the_same(written):
    _, folder = written
    text = (folder / "battery.md").read_text()
    html = re.sub(r"<(svg|style|title).*?</\1>|<[^>]*>", " ", (folder / "battery.html").read_text(),
                  flags=re.DOTALL)  # fmt: skip
    numbers = lambda part: sorted(re.findall(r"\d+\.\d+", part))  # noqa: E731
    without_images = re.sub(r"!\[.*?\]\(.*?\)", "", text)
    assert numbers(html) == numbers(without_images)


def test_names_may_hold_anything(tmp_path):
    label = "Odd<b>|*[x](y)_\x07 & `name`(beta=2)" + "very_long" * 12
    found = findings([task("no_norms", label), failed(task("vit", label), "a <b> & | reason")],
                     label, activation="odd|file.py:Odd")  # fmt: skip
    path = write_page(found, None, tmp_path)
    page = Page(path.read_text())
    assert not page.errors
    assert not page.all("b")
    assert any(label.replace("\x07", "") in row[0] for row in page.rows)


@pytest.mark.parametrize("arms", [1, 12])
def test_any_number_of_arms(tmp_path, arms):
    rivals = tuple(f"Rival{k}" for k in range(arms))
    label = LABEL if arms > 1 else rivals[0]
    verdict = None if arms > 1 else ITSELF
    found = findings([task("vit", label, rivals, verdict)], label)
    page = Page(write_page(found, None, tmp_path).read_text())
    assert not page.errors
    shown = [row for row in page.rows if row[0] in (label, *rivals)]
    assert len(shown) == arms + (arms > 1)


def test_the_page_with_the_profile_of_the_candidate(tmp_path, profile, capsys):
    """Costs are not measured again, and an activation without a profile has a page all the same."""
    found = findings([task("vit")])
    row = CostRow(LABEL, 12.34, 9.9, 13.0, 1.04, 2**21, 2**22, 950.0, 930.0, 970.0, 1.06, 1.0)
    before = replace(profile, cost=Cost("a network", 2**20, 7, "a processor", (row,)))
    data.save(before, tmp_path / data.FILE)
    path = write_with_profile(found, {"activation": "ZiLU", "sigma": 1.253}, tmp_path)
    assert "12.3 (9.9 to 13.0)" in path.read_text()
    assert data.load(tmp_path / data.FILE) == replace(before, seconds=pytest.approx(0, abs=60))
    own = tmp_path / "own.py"
    own.write_text(
        "import torch\n\ndef single(x):\n    return torch.nn.functional.prelu(x, torch.ones(1))\n"
    )
    write_with_profile(found, {"activation": f"{own}:single"}, tmp_path / "own", False)
    assert "no profile of the function" in capsys.readouterr().err
    assert not Page((tmp_path / "own" / "battery.html").read_text()).errors


def test_findings_survive_their_file(tmp_path, profile):
    found = findings([failed(task("gpt", diverged=1))])
    path = save(found, tmp_path)
    once, twice = tmp_path / "once", tmp_path / "twice"
    write_page(found, profile, once)
    data.save(profile, tmp_path / "profile.json")
    write_page(load(path), data.load(tmp_path / "profile.json"), twice)
    assert (once / "battery.html").read_bytes() == (twice / "battery.html").read_bytes()
