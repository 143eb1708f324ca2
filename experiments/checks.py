"""Refuse to go on with a sweep whose grid or code is not what it began with."""

import sys

from experiments import manifest as manifests
from experiments.manifest import Manifest
from experiments.options import Options
from utils import UserError
from zilu.names import custom_name


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
