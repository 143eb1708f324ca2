"""Turn runs into an answer: `python report.py Output/digits`.

Reads run folders and whatever run folders lie below, this project's or any with args.txt and
train_eval_results.txt, and writes report.html (one file), report.md, tables (CSV, LaTeX) and
figures (PNG, SVG, PDF): which activation is better here, by how much, and how sure that is.

What a sweep's grid file declares under `report:` counts, unless a flag here says otherwise.
"""

import math
from pathlib import Path

import cli
from experiments.grid import REPORT_KEYS
from run_folder.metrics import METRICS
from utils import UserError


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    import analysis.report as reports
    from analysis.run_folders import find_runs

    runs = find_runs(args.paths)
    plan = plan_of(args, runs)
    report = reports.Report(reports.title_of(args.paths), runs, plan)
    folder = Path(args.output_dir) if args.output_dir else reports.default_folder(args.paths)
    reports.write(report, folder)
    for group in report.groups:
        if len(report.groups) > 1:
            print(f"{group.title}:")
        for comparison in report.of(group):
            if math.isfinite(comparison.difference):
                print(("Primary: " if comparison.primary else "") + report.verdict(comparison))
    for run, reason in report.result.left_out:
        if run.kind != "finished":
            print(f"Left out: {run.path}: {reason}")
    print(f"Report: {folder / 'report.html'}")
    return 0


def build_parser() -> cli.Parser:
    parser = cli.tool_parser("%(prog)s FOLDER... [flags]", __doc__)
    positive = cli.checked(cli.number(float, above=0))
    parser.add_argument("paths", nargs="+", type=Path, metavar="FOLDER", help="folders with runs")
    add = parser.add_argument
    add("--baseline", metavar="VALUE", help="setting to hold the others against (ReLU, else GELU)")
    add("--primary", metavar="VALUE",
        help="the one comparison that counts: a setting, as 'ZiLU (σ = 1)'")  # fmt: skip
    add("--margin", type=positive, metavar="VALUE", help="differences up to this are equivalent")
    add("--mde", type=positive, metavar="VALUE", help="say how many seeds this difference needs")
    add("--metric", type=cli.checked(cli.one_of(*METRICS)), metavar="VALUE",
        help=f"{', '.join(METRICS)} (top1, or perplexity)")  # fmt: skip
    add("--output_dir", metavar="VALUE", help="where to (FOLDER/report; of several, Output/report)")
    return parser


def plan_of(args, runs: list):
    """What the flags ask for, over what the sweeps declared.

    Raises:
        UserError: two sweeps declare different things.
    """
    from analysis.comparisons import Plan

    given = {name: getattr(args, name) for name in REPORT_KEYS if getattr(args, name) is not None}
    declared = {}
    for report in {id(run.manifest): run.manifest.report for run in runs if run.manifest}.values():
        for name, value in report.items():
            if declared.setdefault(name, value) != value and name not in given:
                raise UserError(
                    f"two sweeps declare --{name} {declared[name]} and {value}; give the flag"
                )
    tested = ("primary", "baseline", "metric")
    changed = [name for name in tested if name in given and given[name] != declared.get(name)]
    when = "on the command line, when the runs were there"
    return Plan(
        **declared | given, declared=when if changed else "in the grid file, before the runs"
    )


if __name__ == "__main__":
    cli.run(main)
