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
import os
import shlex
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.looks import FIRST, LAST
from cli import errors
from cli.converters import file_path, number
from cli.errors import one_line_errors
from cli.parser import checked, parsed_into, tool_parser
from experiments import manifest as manifests
from experiments.display import Display
from experiments.grid import name_of, read_grid
from experiments.jobs import command, do, others_there, share_folder
from experiments.manifest import TRIAL, TUNED, Manifest, Run
from experiments.more_seeds import declare, filled
from experiments.runner import FAILED, Outcome, running
from run_folder.status import DIVERGED, ENDED, FINISHED, status_of
from utils import UserError
from zilu.names import custom_name


@dataclass(frozen=True)
class Options:
    """Hold the command line; `parse` explains the flags."""

    grid: Path
    jobs: int | None
    output_dir: Path | None
    extend: bool
    until_decided: bool
    max_seeds: int | None
    list: bool
    dry_run: bool
    count: str | None
    index: int | None
    folder: bool

    @property
    def only_looks(self) -> bool:
        """Return whether less is asked for than to run everything."""
        return bool(self.list or self.dry_run or self.count or self.index)

    @property
    def runs_nothing(self) -> bool:
        """Return whether no run is to be made."""
        return bool(self.list or self.dry_run or self.count or self.folder)

    def check(self) -> None:
        """Refuse flags that contradict each other.

        Raises:
            UserError: with the remedy.
        """
        if self.folder and self.index is None:
            raise UserError("--folder is of one run; give its --index")
        if self.extend and (self.list or self.dry_run):
            raise UserError(
                "--extend changes the sweep, and the other flag only looks; leave out one"
            )
        if self.max_seeds is not None and not self.until_decided:
            raise UserError("--max_seeds is the most that --until_decided adds; give both")
        if self.max_seeds is not None and self.max_seeds > LAST:
            raise UserError(f"--max_seeds {self.max_seeds}: the last look is at {LAST} seeds")


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


def check_code(manifest: Manifest, named: set[str], args: Options) -> None:
    """Refuse to run code that the manifest alone names.

    Args:
        manifest: lies in a folder of results.
        named: the activations that the grid file names.
        args: the command line.

    Raises:
        UserError: the grid file must name it.
    """
    if args.runs_nothing:
        return
    for run in manifest.runs if args.index is None else manifest.runs[args.index - 1 : args.index]:
        name = run.flags["activation"]
        if custom_name(name) and name not in named:
            raise UserError(
                f"{run.name} uses {name}; name it in {args.grid} again to run its code, or choose "
                "another --output_dir"
            )


def check_sources(manifest: Manifest, plan: Manifest, args: Options) -> None:
    """Refuse to go on with another source of a user's own activation than the sweep began with.

    Raises:
        UserError: with both digests.
    """
    for name in manifest.sources.keys() & plan.sources.keys():
        then, now = (each.sources[name]["sha256"] for each in (manifest, plan))
        differing = [each for each in {**then, **now} if then.get(each) != now.get(each)]
        if differing and not name.startswith("torch.") and not args.runs_nothing:
            raise UserError(
                f"{name} has changed since its sweep began: {differing[0]} had SHA-256 "
                f"{then.get(differing[0])} and has {now.get(differing[0])}; bring it back, or "
                "start a new sweep by another `name:` or --output_dir"
            )


def check_unchanged(manifest: Manifest, plan: Manifest, args: Options) -> None:
    """Refuse to go on where the grid was edited after its sweep began, unless --extend says how.

    Raises:
        UserError: all of it is to be run, and which one is meant is not clear.
    """
    if manifest.report != plan.report:
        print("Note: `report:` stays as it was declared when the sweep began", file=sys.stderr)
    more = len(manifests.added(manifest, plan))
    gone = len([run for run in manifests.added(plan, manifest) if not run.added])
    if not more and not (gone and not args.extend):
        return
    text = f"{args.grid} has changed since its sweep began ({more} more runs, {gone} gone)"
    if args.only_looks:
        print(f"Note: {text}; {manifest.folder / manifests.FILE} counts", file=sys.stderr)
        return
    raise UserError(
        f"{text}; --extend adds the new ones to it, another `name:` or --output_dir starts a new "
        "sweep"
    )


# --- what to do ---


def show_list(manifest: Manifest) -> int:
    """Print every run with its status."""
    counts: dict[str, int] = {}
    for run in manifest.runs:
        status = status_of(manifest.path(run))
        counts[status.kind] = counts.get(status.kind, 0) + 1
        print(f"{run.index:4} {status.kind:11} {run.name}  {status.reason}".rstrip())
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()))
    return 0


def show_commands(manifest: Manifest) -> int:
    """Print the commands of the runs that have not ended."""
    for run in manifest.runs:
        if status_of(manifest.path(run)).kind in ENDED:
            continue
        try:
            words = command(manifest, run)
        except UserError as error:
            print(f"# {run.name}: {error}")
        else:
            print(shlex.join(["python", os.path.relpath(words[1]), *words[2:]]))
    return 0


def run_one(manifest: Manifest, index: int, only_folder: bool) -> int:
    """Replace this process by the program of one run, whose signals and exit code then count."""
    if index > len(manifest.runs):
        raise UserError(f"--index {index}: the sweep has {len(manifest.runs)} runs")
    run = manifest.runs[index - 1]
    folder = manifest.path(run)
    if only_folder:
        with suppress(UserError):  # its trials may not have ended
            share_folder(manifest, run)
        print(folder)
        return 0
    share_folder(manifest, run)
    status = status_of(folder)
    if status.kind in ENDED:
        if others := others_there(manifest, run):
            raise UserError(f"{folder} holds another run ({', '.join(others)}); move it away")
        print(f"{run.name}: {status.kind} {status.reason}".rstrip())
        return errors.DIVERGED if status.kind == DIVERGED else 0
    words = command(manifest, run)
    print(f"Run {index} of {len(manifest.runs)}: {run.name}", flush=True)
    os.execv(words[0], words)


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


def run_all(manifest: Manifest, jobs: int | None, runs: list[Run]) -> int:
    """Run what has not ended of `runs`, `jobs` runs at a time."""
    cpu_only = all(run.flags.get("device") == "cpu" for run in runs)
    display = Display(len(runs))
    outcomes: list[Outcome] = []
    with running(display, jobs, len(runs), not cpu_only, {}) as runner:
        for tuned in (False, True):  # the choices depend on all of the others
            now = [run for run in runs if (run.role == TUNED) == tuned]
            outcomes += do(runner, manifest, now)
    if runner.stopped():
        print("Interrupted; the same command goes on")
        return errors.TRY_AGAIN
    kinds = [outcome.kind for outcome in outcomes]
    print(", ".join(f"{kinds.count(kind)} {kind}" for kind in (FINISHED, DIVERGED, FAILED)))
    for outcome in outcomes:
        if outcome.kind != FINISHED:
            print(f"{outcome.kind}: {outcome.name}: {outcome.reason}")
    return errors.FAILED if FAILED in kinds else 0


if __name__ == "__main__":
    with one_line_errors():
        code = main()
    sys.exit(code)
