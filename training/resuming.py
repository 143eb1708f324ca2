"""Going on with a run: from which checkpoint, and whether command and data are still the run's."""

import argparse
from pathlib import Path

import cli
from run_folder.folder import RunFolder
from training import processes
from training.signals import Interrupted
from utils import UserError


def checkpoint_meant(path: str) -> Path:
    """The file that --resume PATH means: a checkpoint, or the one in a run folder."""
    if Path(path).is_dir():
        return Path(path) / RunFolder.CHECKPOINT
    return Path(path).resolve() if Path(path).is_symlink() else Path(path)


def check_restart(args: argparse.Namespace, folder: RunFolder) -> None:
    """When torchrun starts processes anew: leave alone those that a signal has stopped, and go on
    with the run that this command has started.

    Raises:
        Interrupted: once more, so that whoever sent the signal continues the run.
    """
    if not processes.restarts():
        return
    if folder.is_marked_by_us():
        raise Interrupted("a signal before torchrun's restart")
    if args.resume is None and folder.is_started_by_us():
        args.resume, args.overwrite = cli.AUTO, False


def is_cleaning_up(interruption: Interrupted) -> bool:
    """Whether it is torchrun that ends a process which is starting, as another one has failed.

    A signal that is meant for the run comes the same way, but then torchrun ends as well.
    """
    in_start_up = not interruption.saved
    return in_start_up and processes.world_size() > 1 and str(interruption) == "SIGTERM"


def find(args: argparse.Namespace, folder: RunFolder) -> tuple[dict, Path] | None:
    """The checkpoint to go on from, and where it is; None to start anew.

    Raises:
        UserError: it cannot be read, or a run would be lost.
    """
    if args.resume is None:
        return None
    path = folder.checkpoint
    elsewhere = (
        args.resume != cli.AUTO and checkpoint_meant(args.resume).resolve() != path.resolve()
    )
    if elsewhere and not (processes.restarts() and path.exists()):
        folder.check_free(overwrite=False)
        path = checkpoint_meant(args.resume)
    elif args.resume == cli.AUTO and not path.exists():
        folder.check_unstarted()
        return None
    from run_folder.checkpoint import load_checkpoint

    saved = load_checkpoint(path)
    if "ranks" not in saved:
        raise UserError(f"{path}: a checkpoint of an older version, which cannot be resumed")
    print(f"Resuming from {path}: epoch {saved['place']['epoch']}, step {saved['step']}")
    return saved, path


def bring_along(saved: dict | None, folder: RunFolder) -> None:
    """Put a checkpoint from elsewhere into the run folder, from where the run can go on."""
    if saved and folder.writes:
        from run_folder.checkpoint import save_checkpoint

        save_checkpoint(folder.checkpoint, saved)


def take_flags(
    kind: str,
    flags: tuple[cli.Flag, ...],
    args: argparse.Namespace,
    given: set[str],
    settings: dict,
) -> None:
    """Take the flags of the run to go on with. `--resume PATH` means the run as it is; `--resume`
    alone means the same command once more, so that flags not given are to have their defaults.

    Raises:
        UserError: they are another run's.
    """
    if settings.get("kind") != kind:
        raise UserError(f"--resume: the checkpoint is not of a {kind} model")
    saved = settings["args"]
    differences, rounding = [], []
    for flag in flags:
        if flag.name in cli.ARGUMENTS_OF_ONE_RUN or flag.name not in saved:
            continue
        mine, theirs = getattr(args, flag.name), saved[flag.name]
        if args.resume not in (None, cli.AUTO) and flag.name not in given:
            setattr(args, flag.name, theirs)
        elif mine != theirs and flag.effect != cli.NOTHING and flag.name != "device":
            found = differences if flag.effect == cli.RESULT else rounding
            found.append(f"--{flag.name} {mine} (the run has {theirs})")
    if differences:
        raise UserError(
            f"--resume: these flags would change the result: {', '.join(differences)}; give the "
            "run's own, or only --resume PATH, or choose another --output_dir"
        )
    if rounding:
        print(f"Note: results agree to tolerance only, not bit for bit: {', '.join(rounding)}")


# What decides how sums are rounded. The device is here, and not among the flags: auto may be it.
ROUNDING_FACTS = (
    "processes", "device", "cpu_capability", "threads", "torch", "numpy", "torchvision", "timm",
    "transformers",
)  # fmt: skip


def take_weights(model, saved: dict, settings: dict, path: Path) -> None:
    """Put the weights of `saved`, the checkpoint at `path`, into the model.

    Raises:
        UserError: the data or the network are not those of the run.
    """
    before = saved["settings"]
    for name in settings.keys() - {"args", "environment"}:
        if before.get(name) != settings[name]:
            then, now = (str(each.get(name))[:200] for each in (before, settings))
            raise UserError(
                f"{path}: the data or the network have changed: {name} was {then} and is {now}; "
                "bring them back, or start another run"
            )
    load_weights(model, saved["model"], path)
    now, then = settings["environment"], before["environment"]
    for name in changed_facts(now, then):
        print(
            f"Note: {name} was {then.get(name)} and is {now.get(name)}: results agree to tolerance "
            "only, not bit for bit"
        )


def changed_facts(now: dict, then: dict) -> list[str]:
    return [name for name in ROUNDING_FACTS if now.get(name) != then.get(name)]


def note(saved: dict, facts: dict) -> str:
    """What args.txt says of it: a line of YAML."""
    changed = changed_facts(facts, saved["settings"]["environment"])
    item = {"step": saved["step"], "at": facts["started"], "command": facts["command"]}
    return cli.list_item(item | {name: facts[name] for name in changed})


def load_weights(model, weights: dict, path: Path) -> None:
    """Copy a checkpoint's weights into `model`.

    Raises:
        UserError: they are another model's.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{path}: its weights do not fit ({reason})") from None
