"""Turn the page's Markdown into one HTML file: pictures inside, readable on any screen."""

import itertools
import re
from collections.abc import Mapping
from xml.etree import ElementTree

from analysis.document import Document
from analysis.drawing import COLORS
from batteries.page.words import SHOWN, SIGNS

Element = ElementTree.Element

# The lines' colours on a dark page: lighter, in the order of analysis.drawing.COLORS without black.
DARK = ("#56a8e8", "#ff8a4c", "#2fc79a", "#e79ac4", "#f2b632", "#8fd0f5")
VERDICT_HEADING = "verdict"
INVALID = re.compile("[^\\t\\n\\r -\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")  # in XML

CSS = """
:root { color-scheme: light dark; --page: #fff; --ink: #1b1b1b; --soft: #5a5a5a; --line: #d0d0d0;
  --tint: #f3f4f6; --better: #00694a; --worse: #a33b00; %(light)s }
@media screen and (prefers-color-scheme: dark) {
  :root { --page: #15171a; --ink: #e8e8e6; --soft: #a9adb3; --line: #3b4046; --tint: #1f2328;
    --better: #4fd1a5; --worse: #ff9a66; %(dark)s } }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--page);
  margin: 0; overflow-wrap: break-word; }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1, h2, h3 { line-height: 1.25; text-wrap: balance; }
h1 { font-size: 1.7rem; margin: 0 0 1rem; }
h2 { font-size: 1.3rem; border-bottom: 1px solid var(--line); padding-bottom: .25rem;
  margin: 2.6rem 0 1rem; }
h3 { font-size: 1.08rem; margin: 2.2rem 0 .6rem; }
p, ul { max-width: 46rem; }
.summary { border-left: 4px solid var(--line); padding-left: 1rem; margin: 1.2rem 0; }
.summary p { margin: .6rem 0; } .summary p:first-child { font-size: 1.1rem; }
ul { padding-left: 1.2rem; }
li { margin: .35rem 0; }
code { background: var(--tint); padding: .05rem .25rem; border-radius: 3px; font-size: .92em; }
.table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; font-weight: normal; }
thead th { border-bottom: 2px solid var(--soft); vertical-align: bottom; font-weight: 600;
  max-width: 8rem; }
th:first-child, td:first-child { text-align: left; }
tbody th { font-weight: 600; min-width: 8.5rem; }
.table:not(.cards) td { white-space: nowrap; }
.cards th, .cards td { text-align: left; }
.verdict { white-space: nowrap; font-weight: 600; }
.better { color: var(--better); } .worse { color: var(--worse); }
.figures { display: flex; flex-wrap: wrap; gap: 1rem 2rem; margin: 1rem 0; }
figure { margin: 0; flex: 0 1 26rem; min-width: 0; }
figure svg { display: block; width: 100%%; height: auto; }
figure svg text { fill: currentColor; font-family: system-ui, sans-serif !important; }
figcaption { color: var(--soft); font-size: .82rem; line-height: 1.4; margin-top: .3rem; }
@media screen and (max-width: 44rem) {
  main { padding: 1rem .8rem 3rem; }
  h1 { font-size: 1.4rem; }
  .summary { padding-left: .7rem; }
  .cards, .cards table, .cards tbody, .cards tr, .cards th, .cards td { display: block; }
  .cards thead { position: absolute; width: 1px; height: 1px; overflow: hidden;
    clip-path: inset(50%%); }
  .cards table { font-size: .9rem; }
  .cards tr { border: 1px solid var(--line); border-radius: 6px; padding: .5rem .8rem;
    margin: 0 0 .8rem; }
  .cards tbody th { font-size: 1rem; }
  .cards th, .cards td { border: 0; min-width: 0; padding: .1rem 0; white-space: normal; }
  .cards td::before { content: attr(data-label) ": "; color: var(--soft); font-weight: normal; }
}
@media print {
  body { font-size: 10pt; } main { max-width: none; padding: 0; }
  table { font-size: 7.5pt; } .table { overflow: visible; }
  h2, h3 { break-after: avoid; } figure, tr, li { break-inside: avoid; }
  figure { flex-basis: 45%%; }
}
"""


def html_page(document: Document, pictures: Mapping[str, str]) -> str:
    """Return a document as one HTML file.

    Args:
        document: the text, whose figures end in svg.
        pictures: its figures as SVG, by name.
    """
    main = ElementTree.fromstring(f"<main>{INVALID.sub('', document.body())}</main>")
    for place in main.iter("table"):
        finish_table(place)
    wrap_tables(main)
    wrap_summary(main)
    set_figures(main, pictures)
    body = ElementTree.tostring(main, encoding="unicode", method="html")
    return document.page(body, css())


def css() -> str:
    """Return the style, with the figures' colours on a light page and on a dark one."""
    named = [color.lower() for color in COLORS[: len(DARK)]]
    light = " ".join(f"--c{color[1:]}: {color};" for color in named)
    dark = " ".join(f"--c{one[1:]}: {other};" for one, other in zip(named, DARK, strict=True))
    return CSS % {"light": light, "dark": dark}


# --- tables ---


def finish_table(table: Element) -> None:
    """Say of each cell what it heads or belongs to, and mark the verdicts."""
    headings = ["".join(cell.itertext()) for cell in table.iter("th")]
    for cell in table.iter("th"):
        cell.set("scope", "col")
    for cell in [*table.iter("th"), *table.iter("td")]:
        cell.attrib.pop("style", None)
    for row in table.findall("tbody/tr"):
        for heading, cell in zip(headings, row, strict=False):
            cell.set("data-label", heading)
            if heading == VERDICT_HEADING:
                cell.set("class", f"verdict {verdict_class(cell)}".strip())
        row[0].tag = "th"
        row[0].set("scope", "row")
    if VERDICT_HEADING in headings:
        # As cards on a narrow screen, which are tables no longer unless that is said.
        roles = {"table": "table", "tr": "row", "td": "cell", "thead": "rowgroup"}
        for each in table.iter():
            role = {"th": "columnheader" if each.get("scope") == "col" else "rowheader"}.get(
                each.tag, roles.get(each.tag)
            )
            if role:
                each.set("role", role)


def verdict_class(cell: Element) -> str:
    """Return the class of a verdict, from its words."""
    words = "".join(cell.itertext())
    found = (name for name, sign in SIGNS.items() if words == f"{sign} {SHOWN.get(name, name)}")
    return next(found, "").replace(" ", "-")


def wrap_tables(main: Element) -> None:
    """Put each table into a block that scrolls by itself, also by the keyboard."""
    for number, each in enumerate(list(main)):
        if each.tag != "table":
            continue
        headings = ["".join(cell.itertext()) for cell in each.findall("thead/tr/th")]
        is_cards = VERDICT_HEADING in headings
        block = Element("div", {"class": "table cards" if is_cards else "table"})
        block.attrib |= {"role": "region", "tabindex": "0"}
        block.set("aria-label", f"Table: {', '.join(headings)}")
        block.tail, each.tail = each.tail, None
        block.append(each)
        main[number] = block


def wrap_summary(main: Element) -> None:
    """Put what stands before the first part into a block of its own, without the title."""
    _, *rest = list(main)  # the title comes first
    block = Element("div", {"class": "summary"})
    for each in itertools.takewhile(lambda each: each.tag == "p", rest):
        main.remove(each)
        block.append(each)
    main.insert(1, block)


# --- figures ---


def set_figures(main: Element, pictures: Mapping[str, str]) -> None:
    """Put the pictures in place of the links to them, with their captions, side by side."""
    children = list(main)
    for each in children:
        main.remove(each)
    places = iter(children)
    row: Element | None = None
    for each in places:
        image = each.find("img") if each.tag == "p" and len(each) == 1 else None
        if image is None:
            main.append(each)
            row = None
            continue
        if row is None:
            row = ElementTree.SubElement(main, "div", {"class": "figures"})
        figure = ElementTree.SubElement(row, "figure")
        name = image.get("src", "").removeprefix("figures/").removesuffix(".svg")
        figure.append(inline(pictures[name], name, image.get("alt", "")))
        caption = ElementTree.SubElement(figure, "figcaption")
        caption.text = "".join(next(places).itertext())


def inline(svg: str, name: str, alt: str) -> Element:
    """Return a picture as part of a page: its colours the page's, its names nobody else's.

    Args:
        svg: the file's text.
        name: of the picture, which no other picture on the page has.
        alt: what it shows.
    """
    text = re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = themed(text)
    found = ElementTree.fromstring(text.strip())
    for attribute in ("width", "height", "version"):
        found.attrib.pop(attribute, None)
    prefix = re.sub(r"\W+", "-", name)
    for each in found.iter():
        for attribute, value in each.attrib.items():
            if attribute == "id":
                each.set(attribute, f"{prefix}-{value}")
            elif attribute == "href" and value.startswith("#"):
                each.set(attribute, f"#{prefix}-{value[1:]}")
            else:
                each.set(attribute, re.sub(r"url\(#", f"url(#{prefix}-", value))
    title = Element("title", {"id": f"{prefix}-title"})
    title.text = alt
    found.insert(0, title)
    found.attrib |= {"role": "img", "aria-labelledby": f"{prefix}-title"}
    return found


def themed(svg: str) -> str:
    """Return a picture with variables in place of its colours."""
    for color in (each.lower() for each in COLORS[: len(DARK)]):
        svg = svg.replace(color, f"var(--c{color[1:]})")
    return svg.replace("#ffffff", "var(--page)").replace("#000000", "currentColor")
