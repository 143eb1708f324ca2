"""Collect the text of a report as Markdown, and turn it into its files.

The Markdown is the report. The HTML is the same text with the figures inside it; the tables are
written as LaTeX as well.
"""

import base64
import html
import re
from collections.abc import Callable
from pathlib import Path

import markdown
import pandas
from matplotlib.figure import Figure

# The characters that LaTeX writes in another way.
LATEX = {
    "σ": r"$\sigma$", "±": r"$\pm$", "−": "$-$", "–": "--", "′": "'",
    "<": "$<$", ">": "$>$", "|": r"\textbar{}", "·": r"$\cdot$", "½": r"$\frac{1}{2}$",
}  # fmt: skip
CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #111; max-width: 66rem; margin: 2rem auto;
  padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; }
h2 { border-bottom: 1px solid #bbb; padding-bottom: .2rem; margin-top: 2.2rem; }
.table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 12px; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .5rem; border-bottom: 1px solid #ddd; text-align: right;
  white-space: nowrap; }
th { border-bottom: 2px solid #555; vertical-align: bottom; }
th { white-space: normal; max-width: 6.5rem; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; } code { background: #f2f2f2; padding: 0 .2rem; }
@media print { body { margin: 0; max-width: none; font-size: 10pt; } table { font-size: 7.5pt; }
  .table { overflow: visible; } h2, h3 { break-after: avoid; } img, tr { break-inside: avoid; } }
"""


def plain(text: str) -> str:
    """Return `text` so that Markdown shows it as it is: a name may hold anything."""
    marks = r"([\\|*\[`]|\b_|_\b|(?<!\w)_(?!\w))"  # an underscore inside a word is no mark
    return re.sub(marks, r"\\\1", html.escape(text, quote=False))


class Document:
    """Hold the text of a report, with its tables and figures.

    Attributes:
        ending: The format of the figures that the Markdown shows.
        blocks: The blocks of Markdown, in order.
        tables: The tables in the text by name; they are written as LaTeX too.
        figures: What draws each figure in the text, by name.
    """

    def __init__(self, ending: str = "png") -> None:
        self.ending = ending
        self.blocks: list[str] = []
        self.tables: dict[str, pandas.DataFrame] = {}
        self.figures: dict[str, Callable[[], Figure]] = {}

    def heading(self, level: int, text: str) -> None:
        self.blocks.append(f"{'#' * level} {text}")

    def paragraph(self, text: str) -> None:
        self.blocks.append(text)

    def items(self, texts: list[str]) -> None:
        if texts:
            self.blocks.append("\n".join(f"- {text}" for text in texts))

    def table(self, name: str, frame: pandas.DataFrame) -> None:
        self.tables[name] = frame
        aligned = ["left", *["right"] * (len(frame.columns) - 1)]
        shown = frame.astype(str).map(plain)
        self.blocks.append(
            shown.to_markdown(index=False, disable_numparse=True, colalign=aligned, tablefmt="pipe")
        )

    def figure(self, name: str, caption: str, draw: Callable[[], Figure], alt: str = "") -> None:
        """Add a figure; `alt` says what it shows to those who cannot see it (the caption)."""
        self.figures[name] = draw
        image = f"![{alt or caption}](figures/{name}.{self.ending})"
        self.blocks.append(f"{image}\n\n*{caption}*")

    def markdown(self) -> str:
        return "\n\n".join(self.blocks) + "\n"

    def html(self, folder: Path) -> str:
        """Return the report as one HTML file, with the figures of `folder`/figures inside it."""
        body = self.body().replace("<table>", '<div class="table"><table>')
        body = body.replace("</table>", "</table></div>")

        def embedded(match: re.Match[str]) -> str:
            data = (folder / f"{match[1]}.svg").read_bytes()
            return f'src="data:image/svg+xml;base64,{base64.b64encode(data).decode()}"'

        body = re.sub(r'src="(figures/[^"]+)\.png"', embedded, body)
        return self.page(body, CSS)

    def body(self) -> str:
        """Return the Markdown as HTML, without the page around it."""
        return markdown.markdown(self.markdown(), extensions=["tables", "toc"])

    def page(self, body: str, css: str) -> str:
        """Return a page with this body and the document's title."""
        title = html.escape(self.blocks[0].lstrip("# "))
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f'<meta name="viewport" content="width=device-width"><style>{css}</style></head>\n'
            f"<body>\n{body}\n</body></html>\n"
        )

    def latex(self, name: str) -> str:
        """Return a table as LaTeX, for the package booktabs."""
        frame = self.tables[name]
        styler = (
            frame.style.hide(axis="index")
            .format(escape="latex")
            .format_index(escape="latex", axis=1)
        )
        text = styler.to_latex(hrules=True, column_format="l" + "r" * (len(frame.columns) - 1))
        return re.sub("|".join(map(re.escape, LATEX)), lambda match: LATEX[match[0]], text)
