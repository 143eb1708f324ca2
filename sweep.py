"""Run a grid of trainings: `python sweep.py sweeps/digits.yaml`.

Every combination of the grid's values is a run in a folder of its own under Output/NAME. Runs go
on several at a time over the GPUs or CPUs there are; finished ones are skipped, interrupted ones
resumed, and one that fails does not stop the others: the same command, every time, until all is
done. Then `python report.py Output/NAME`. experiments/grid.py says what a grid file holds.

The first call writes Output/NAME/manifest.json; from then on it alone says which run is which.

With --until_decided all settings run with the first 6 seeds, and then only the two of the primary
comparison (`report:`) with more, until that is decided: better, worse, or equivalent within the
margin. It is looked at after 6, 10, 15, 20, 30 and 40 seeds, and all looks together err in 5 %.
"""

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.looks import FIRST, LAST
from cli import errors
from cli.converters import file_path, number
from cli.errors import one_line_errors
from cli.parser import checked, parsed_into, tool_parser
from experiments import manifest as manifests
from experiments.checks import check_code, check_sources, check_unchanged
from experiments.command import run_all, run_one, show_commands, show_list
from experiments.grid import name_of, read_grid
from experiments.manifest import TRIAL, Manifest, Run
from experiments.more_seeds import declare, filled
from experiments.options import Options
from utils import UserError


def main(argv: list[str] | None = None) -> int:
    """Run the sweep, or what the flags ask for; return the exit code."""
    args = parse(argv)
    manifest = find_manifest(args)
    if args.count is not None:
        print(sum(run.role == TRIAL or args.count == "all" for run in manifest.runs))
        return 0
    if args.list:
        return show_list(manifest)
    if args.dry_run:
        return show_commands(manifest)
    if args.index is not None:
        return run_one(manifest, args.index, args.folder)
    run = run_all if manifest.max_seeds is None else run_until_decided
    code = run(manifest, args.jobs, manifest.runs)
    if code != errors.TRY_AGAIN:
        print(f"The report: python report.py {manifest.folder}")
    return code


def parse(argv: list[str] | None) -> Options:
    """Read the command line.

    Raises:
        UserError: an unknown flag, a value that its flag refuses, or flags that contradict.
    """
    parser = tool_parser("%(prog)s GRID.yaml [flags]", __doc__)
    positive = checked(number(int, at_least=1))
    where = checked(file_path)
    parser.add_argument("grid", type=where, metavar="GRID.yaml", help="the grid file")
    add = parser.add_argument
    add("--jobs", type=positive, metavar="N", help="runs at a time (one per GPU, else per CPU)")
    add("--output_dir", type=where, metavar="VALUE", help="folder of the sweep (./Output/NAME)")
    add("--extend", action="store_true", help="add to the sweep what the edited grid has more")
    add("--until_decided", action="store_true",
        help="more seeds for the primary comparison until it is decided")  # fmt: skip
    add("--max_seeds", type=checked(number(int, at_least=FIRST)), metavar="N",
        help=f"with --until_decided: undecided after so many ({LAST})")  # fmt: skip
    what = parser.add_mutually_exclusive_group()
    add = what.add_argument
    add("--list", action="store_true", help="show the runs and what has become of them")
    add("--dry_run", action="store_true", help="show the commands of the runs still to do")
    add("--count", nargs="?", const="all", choices=("all", "trials"), metavar="trials",
        help="print the number of runs, or of a tuning's trials, which are the first")  # fmt: skip
    add("--index", type=positive, metavar="K", help="do run K alone, from 1, in this process")
    add = parser.add_argument
    add("--folder", action="store_true", help="with --index: print its run folder instead")
    options = parsed_into(Options, parser, argv)
    options.check()
    if options.max_seeds is not None and options.max_seeds > LAST:
        raise UserError(f"--max_seeds {options.max_seeds}: the last look is at {LAST} seeds")
    return options


def find_manifest(args: Options) -> Manifest:
    """Return the manifest in the sweep's folder, or, before there is one, the grid file's."""
    try:
        grid = read_grid(args.grid)
        folder = args.output_dir or Path("Output") / grid.name
        there = manifests.load(folder)
        max_seeds = most_seeds(args, there)
        plan = manifests.planned(filled(grid, FIRST) if max_seeds else grid, args.grid, folder)
        if max_seeds:
            plan = replace(plan, max_seeds=max_seeds)
            if there is None or there.max_seeds is None:
                until_decided().primary_pairs(plan)
    except UserError as error:
        # A job of a cluster goes on even if the grid file or a recipe has changed or gone.
        there = manifests.load(args.output_dir or Path("Output") / name_of(args.grid))
        if there is None or args.index is None:
            raise
        check_code(there, set(), args)
        print(f"Note: {error}; {there.folder / manifests.FILE} counts", file=sys.stderr)
        return there
    if args.list or args.dry_run:
        manifest = manifests.load(folder) or plan
    else:
        manifest = manifests.frozen(plan, args.extend)
        if manifest.max_seeds != plan.max_seeds:
            manifest = declare(plan)
    check_code(manifest, {run.flags["activation"] for run in plan.runs}, args)
    check_sources(manifest, plan, args)
    check_unchanged(manifest, plan, args)
    return manifest


def most_seeds(args: Options, there: Manifest | None) -> int | None:
    """Return how many seeds the primary comparison may have; None for those of the grid alone."""
    if there is not None and there.max_seeds is not None:
        return args.max_seeds or there.max_seeds
    return (args.max_seeds or LAST) if args.until_decided else None


def until_decided() -> Any:
    """Return the module that decides, which loads numpy and scipy: only for such sweeps."""
    return importlib.import_module("analysis.until_decided")


def run_until_decided(manifest: Manifest, jobs: int | None, runs: list[Run]) -> int:
    """Run `runs`, and then more seeds of the primary comparisons until they are decided."""
    code = 0
    while True:
        ended = run_all(manifest, jobs, runs)
        if ended == errors.TRY_AGAIN:
            return ended
        code = code or ended
        progress = until_decided().progress_of(manifest)
        for each in progress:
            print(each.sentence, flush=True)
        more = until_decided().extended(manifest, progress)
        if len(more.runs) == len(manifest.runs):
            return code
        manifest, runs = more, more.runs[len(manifest.runs) :]


if __name__ == "__main__":
    with one_line_errors():
        code = main()
    sys.exit(code)
