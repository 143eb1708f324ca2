"""Go on with a run: find its checkpoint, and see that command and data are still the run's."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cli.args_file import list_item
from cli.config import AUTO, C, RunConfig
from cli.fields import Effect
from cli.parser import Command
from run_folder.checkpoint import load_checkpoint, save_checkpoint
from run_folder.folder import RunFolder
from train_eval import Trainer
from training.session import checkpoint_meant
from utils import UserError, restarts

# Facts that decide how sums are rounded. The device is one, and no flag here: auto may mean it.
ROUNDING_FACTS = (
    "processes", "device", "cpu_capability", "threads", "torch", "numpy", "torchvision", "timm",
    "transformers",
)  # fmt: skip


def find(run: RunConfig, folder: RunFolder) -> tuple[dict[str, Any], Path] | None:
    """Return the checkpoint to go on from, and where it is; None to start from the beginning.

    Raises:
        UserError: it cannot be read, or a run would be lost.
    """
    if run.resume is None:
        return None
    path = folder.checkpoint
    is_elsewhere = run.resume != AUTO and checkpoint_meant(run.resume).resolve() != path.resolve()
    if is_elsewhere and not (restarts() and path.exists()):
        folder.check_free(overwrite=False)
        path = checkpoint_meant(run.resume)
    elif run.resume == AUTO and not path.exists():
        folder.check_unstarted()
        return None
    saved = load_checkpoint(path)
    if "ranks" not in saved:
        raise UserError(f"{path}: a checkpoint of an older version, which cannot be resumed")
    print(f"Resuming from {path}: epoch {saved['place']['epoch']}, step {saved['step']}")
    return saved, path


def bring_along(saved: dict[str, Any], folder: RunFolder) -> None:
    """Put a checkpoint from elsewhere into the run folder, from where the run can go on."""
    if folder.writes:
        save_checkpoint(folder.checkpoint, saved)


def resumed_config(command: Command[C], settings: dict[str, Any]) -> C:
    """Return the configuration of the run to go on with.

    `--resume PATH` means the run as it is, so its flags replace those that were not given;
    `--resume` alone means the same command once more, so flags that are not given have their
    defaults.

    Args:
        command: the command line.
        settings: the checkpoint's.

    Raises:
        UserError: the flags are another run's.
    """
    config, saved = command.config, settings["args"]
    if settings.get("kind") != config.KIND:
        raise UserError(f"--resume: the checkpoint is not of a {config.KIND} model")
    values: dict[str, Any] = config.values()
    taken: dict[str, Any] = {}
    differences: list[str] = []
    rounding: list[str] = []
    for name, flag in config.flags().items():
        if flag.one_run or name not in saved:
            continue
        mine, theirs = values[name], saved[name]
        if config.run.resume not in (None, AUTO) and name not in command.given:
            taken[name] = theirs
        elif mine != theirs and flag.effect != Effect.NOTHING and name != "device":
            found = differences if flag.effect == Effect.RESULT else rounding
            found.append(f"--{name} {mine} (the run has {theirs})")
    if differences:
        raise UserError(
            f"--resume: these flags would change the result: {', '.join(differences)}; give the "
            "run's own, or only --resume PATH, or choose another --output_dir"
        )
    if rounding:
        print(f"Note: results agree to tolerance only, not bit for bit: {', '.join(rounding)}")
    return config.replaced(**taken)


def take_state(
    trainer: Trainer[Any], saved: dict[str, Any], settings: dict[str, Any], path: Path
) -> None:
    """Put the trainer into the state of `saved`, the checkpoint at `path`.

    Args:
        trainer: as the configuration builds it now.
        saved: the checkpoint.
        settings: what a checkpoint of the run would hold now.
        path: for messages.

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
    with fitting_weights(path):
        trainer.load_state_dict(saved)
    now, then = settings["environment"], before["environment"]
    for name in changed_facts(now, then):
        print(
            f"Note: {name} was {then.get(name)} and is {now.get(name)}: results agree to tolerance "
            "only, not bit for bit"
        )


def changed_facts(now: dict[str, Any], then: dict[str, Any]) -> list[str]:
    """Return the facts that make results agree to tolerance only."""
    return [name for name in ROUNDING_FACTS if now.get(name) != then.get(name)]


def note(saved: dict[str, Any], facts: dict[str, Any]) -> str:
    """Return what args.txt says of going on: an item of a YAML list.

    Args:
        saved: the checkpoint that the run goes on from.
        facts: the environment now.
    """
    changed = changed_facts(facts, saved["settings"]["environment"])
    item = {"step": saved["step"], "at": facts["started"], "command": facts["command"]}
    return list_item(item | {name: facts[name] for name in changed})


@contextmanager
def fitting_weights(path: Path) -> Iterator[None]:
    """Refuse weights of the checkpoint at `path` that are another model's.

    Raises:
        UserError: in place of the error that torch raises for them.
    """
    try:
        yield
    except RuntimeError as error:
        if "loading state_dict" not in str(error):  # memory that runs out, for example
            raise
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{path}: its weights do not fit ({reason})") from None
