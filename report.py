"""Turn runs into an answer: `python report.py Output/digits`.

Reads the given folders and all run folders below them, this project's or any with args.txt and
train_eval_results.txt, and writes report.html (one file), report.md, tables (CSV, LaTeX) and
figures (PNG, SVG, PDF): which activation is better here, by how much, and how sure that is.

With --watch no report is written: a table shows how the runs go on, on a terminal until Ctrl-C,
elsewhere once.

What a sweep's grid file declares under `report:` counts, unless a flag here says otherwise.
Written again, a report replaces the files that its report_files.txt lists, and leaves all others.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.watch import watch
from cli.converters import file_path
from cli.errors import one_line_errors
from cli.parser import checked, tool_parser
from experiments.grid import REPORT_KEYS
from run_folder.metrics import METRICS
from utils import UserError


@dataclass(frozen=True)
class Arguments:
    """Hold the command line.

    Attributes:
        folders: The folders with runs.
        output_dir: Where the report is written; None for the usual place.
        watch: Show how the runs go on, and write no report.
        plan: The flags that were given of those that a grid file may declare, by name.
    """

    folders: list[Path]
    output_dir: Path | None
    watch: bool
    plan: dict[str, Any]


def main(argv: list[str] | None = None) -> int:
    """Write the report; return the exit code."""
    arguments = parse(argv)
    if arguments.watch:
        watch(arguments.folders)
        return 0
    from analysis.report import report_on  # loads scipy, pandas and matplotlib

    report_on(arguments.folders, arguments.output_dir, arguments.plan)
    return 0


def parse(argv: list[str] | None) -> Arguments:
    """Read the command line.

    Raises:
        UserError: A flag is unknown, or a value is refused.
    """
    parser = tool_parser("%(prog)s FOLDER... [flags]", __doc__)
    where = checked(file_path)
    add = parser.add_argument
    add("folders", nargs="+", type=where, metavar="FOLDER", help="folders with runs")
    plan = {
        "baseline": "setting to hold the others against (ReLU, else GELU)",
        "primary": "the one comparison that counts: a setting, as 'ZiLU (σ = 1)'",
        "margin": "differences up to this are equivalent",
        "mde": "say how many seeds this difference needs",
        "metric": f"{', '.join(METRICS)} (top1, or perplexity)",
    }
    for name, text in plan.items():
        convert = checked(REPORT_KEYS[name])
        add(f"--{name}", type=convert, metavar="VALUE", help=text)
    add("--output_dir", type=where, metavar="VALUE",
        help="where to (FOLDER/report; of several, Output/report)")  # fmt: skip
    add("--watch", action="store_true", help="show how the runs go on, and write no report")
    given = vars(parser.parse_args(argv))
    asked = [f"--{name}" for name in (*plan, "output_dir") if given[name] is not None]
    if given["watch"] and asked:
        raise UserError(f"--watch writes no report; leave out {', '.join(asked)}")
    return Arguments(
        folders=given["folders"],
        output_dir=given["output_dir"],
        watch=given["watch"],
        plan={name: given[name] for name in plan if given[name] is not None},
    )


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
