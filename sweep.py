"""Run a grid of trainings: `python sweep.py sweeps/digits.yaml`.

Every combination of the grid's values is a run in a folder of its own under Output/NAME. Runs go
on several at a time over the GPUs or CPUs there are; finished ones are skipped, interrupted ones
resumed, and one that fails does not stop the others: the same command, every time, until all is
done. Then `python report.py Output/NAME`. experiments/grid.py says what a grid file holds.

The first call writes Output/NAME/manifest.json; from then on it alone says which run is which.
"""

import functools
import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path

import cli
from experiments import manifest as manifests
from experiments.grid import PROGRAMS, program_of, read_grid
from experiments.manifest import GRID, TRIAL, TUNED, Manifest, Run
from run_folder.status import DIVERGED, ENDED, FINISHED, status_of
from training.signals import TRY_AGAIN, StopSignals
from utils import UserError

ROOT = Path(__file__).parent
DIVERGED_CODE = 3


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if args.folder and args.index is None:
        raise UserError("--folder is of one run; give its --index")
    if args.extend and (args.list or args.dry_run):
        raise UserError("--extend changes the sweep, and the other flag only looks; leave out one")
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
    return run_all(manifest, args.jobs)


def build_parser() -> cli.Parser:
    parser = cli.tool_parser("%(prog)s GRID.yaml [flags]", __doc__)
    number = cli.checked(cli.number(int, at_least=1))
    parser.add_argument("grid", type=Path, metavar="GRID.yaml", help="the grid file")
    add = parser.add_argument
    add("--jobs", type=number, metavar="N", help="runs at a time (one per GPU, else per CPU)")
    add("--output_dir", metavar="VALUE", help="folder of the sweep (./Output/NAME)")
    add("--extend", action="store_true", help="add to the sweep what the edited grid has more")
    what = parser.add_mutually_exclusive_group()
    add = what.add_argument
    add("--list", action="store_true", help="show the runs and what has become of them")
    add("--dry_run", action="store_true", help="show the commands of the runs still to do")
    add("--count", nargs="?", const="all", choices=("all", "trials"), metavar="trials",
        help="print the number of runs, or of a tuning's trials, which are the first")  # fmt: skip
    add("--index", type=number, metavar="K", help="do run K alone, from 1, in this process")
    add = parser.add_argument
    add("--folder", action="store_true", help="with --index: print its run folder instead")
    return parser


def find_manifest(args) -> Manifest:
    """What the runs are: by the manifest, once there is one, else by the grid file."""
    try:
        grid = read_grid(args.grid)
        folder = Path(args.output_dir or Path("Output") / grid.name)
        plan = manifests.planned(grid, args.grid, folder)
    except UserError as error:
        # A job of a cluster goes on whatever has become of the grid file or a recipe.
        there = manifests.load(Path(args.output_dir or Path("Output") / args.grid.stem))
        if there is None or args.index is None:
            raise
        print(f"Note: {error}; {there.folder / manifests.FILE} counts", file=sys.stderr)
        return there
    if args.list or args.dry_run:
        manifest = manifests.load(folder) or plan
    else:
        manifest = manifests.frozen(plan, args.extend)
    check_unchanged(manifest, plan, args)
    return manifest


def check_unchanged(manifest: Manifest, plan: Manifest, args) -> None:
    """A grid that was edited after its sweep began changes nothing by itself.

    Raises:
        UserError: all of it is to be run, and which one is meant is not clear.
    """
    if manifest.report != plan.report:
        print("Note: `report:` stays as it was declared when the sweep began", file=sys.stderr)
    more = len(manifests.added(manifest, plan))
    gone = len(manifests.added(plan, manifest))
    if not more and not (gone and not args.extend):
        return
    text = f"{args.grid} has changed since its sweep began ({more} more runs, {gone} gone)"
    if args.list or args.dry_run or args.count or args.index:
        print(f"Note: {text}; {manifest.folder / manifests.FILE} counts", file=sys.stderr)
        return
    raise UserError(
        f"{text}; --extend adds the new ones to it, another `name:` or --output_dir starts anew"
    )


# --- what a run is ---


def flags_of(manifest: Manifest, run: Run) -> dict:
    """All flags of a run, the tuned ones chosen.

    Raises:
        UserError: its trials have not all ended, or all diverged.
    """
    if run.role != TUNED:
        return run.flags
    from experiments.results import chosen_flags

    return run.flags | chosen_flags(manifest, run)


def share_folder(manifest: Manifest, run: Run) -> None:
    """Where the chosen setting is the grid's own, its runs are the grid's, not made twice."""
    path = manifest.path(run)
    if path.is_symlink() and not path.exists():
        path.unlink()  # the grid's run is gone
    if run.role != TUNED or path.exists():
        return
    flags = flags_of(manifest, run)
    same = next((r for r in manifest.runs if r.role == GRID and r.flags == flags), None)
    if same is not None and manifest.path(same).exists():
        with suppress(FileExistsError):  # another sweep was faster
            path.symlink_to(same.name)


def command(manifest: Manifest, run: Run) -> list[str]:
    """The program and its flags, those at their defaults left out."""
    flags = flags_of(manifest, run)
    words = [sys.executable, str(ROOT / f"{PROGRAMS[manifest.program][0]}.py")]
    for flag in program_of(manifest.program).flags:
        value = flags.get(flag.name, flag.default)
        if value == flag.default:
            continue
        if isinstance(value, bool):
            words.append(f"--{flag.name}" if value else f"--no-{flag.name}")
        else:
            words.append(f"--{flag.name}={value}")  # in one word: the value may begin with a dash
    return [*words, f"--output_dir={manifest.path(run)}", "--resume"]


def others_there(manifest: Manifest, run: Run) -> list[str]:
    """In what the run that its folder holds differs from it."""
    from experiments.results import other_flags

    known = program_of(manifest.program).flags
    return other_flags(manifest.path(run), flags_of(manifest, run), known)


# --- what to do ---


def show_list(manifest: Manifest) -> int:
    counts = {}
    for run in manifest.runs:
        status = status_of(manifest.path(run))
        counts[status.kind] = counts.get(status.kind, 0) + 1
        print(f"{run.index:4} {status.kind:11} {run.name}  {status.reason}".rstrip())
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()))
    return 0


def show_commands(manifest: Manifest) -> int:
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
    """Become the program of one run, so that signals and exit codes are its own."""
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
        return DIVERGED_CODE if status.kind == DIVERGED else 0
    words = command(manifest, run)
    print(f"Run {index} of {len(manifest.runs)}: {run.name}", flush=True)
    os.execv(words[0], words)


def run_all(manifest: Manifest, jobs: int | None) -> int:
    from experiments.display import Display
    from experiments.runner import FAILED, Runner, places

    cpu_only = all(run.flags.get("device") == "cpu" for run in manifest.runs)
    display = Display(len(manifest.runs))
    outcomes = []
    with StopSignals() as signals, signals.deferred():
        where = places(jobs, len(manifest.runs), use_gpus=not cpu_only)
        runner = Runner(where, display, lambda: signals.requested)
        try:
            for tuned in (False, True):  # the choices go by all of the others
                runs = [run for run in manifest.runs if (run.role == TUNED) == tuned]
                outcomes += do(runner, manifest, runs)
        except KeyboardInterrupt:
            runner.kill()
            raise
        except BaseException:
            runner.terminate()
            raise
        finally:
            display.close()
    if signals.requested:
        print("Interrupted; the same command goes on")
        return TRY_AGAIN
    kinds = [outcome.kind for outcome in outcomes]
    print(", ".join(f"{kinds.count(kind)} {kind}" for kind in (FINISHED, DIVERGED, FAILED)))
    for outcome in outcomes:
        if outcome.kind != FINISHED:
            print(f"{outcome.kind}: {outcome.name}: {outcome.reason}")
    print(f"The report: python report.py {manifest.folder}")
    return 1 if FAILED in kinds else 0


def do(runner, manifest: Manifest, runs: list[Run]) -> list:
    """Do `runs`; those that cannot start have failed."""
    from experiments.runner import FAILED, Job, Outcome

    jobs, failed = [], []
    for run in runs:
        try:
            share_folder(manifest, run)
            others = functools.partial(others_there, manifest, run)
            jobs.append(Job(run.name, manifest.path(run), command(manifest, run), others))
        except UserError as error:
            failed.append(Outcome(run.name, FAILED, str(error)))
    return [*runner.run(jobs), *failed]


if __name__ == "__main__":
    cli.run(main)
