"""Go on with a run: find its checkpoint, and see that command and data are still the run's."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cli.args_file import list_item
from cli.config import C
from cli.fields import Effect
from cli.parser import Command
from cli.run import AUTO, RunConfig
from run_folder.checkpoint import load_checkpoint, save_checkpoint
from run_folder.folder import BEFORE, RunFolder
from run_folder.shards import copy_shards
from train_eval import Trainer
from training import sharding
from training.session import checkpoint_meant
from utils import UserError, restarts
from zilu.names import may_be_the_same

# Facts that decide how sums are rounded. The device is one, and no flag here: auto may mean it.
ROUNDING_FACTS = (
    "processes", "device", "cpu_capability", "threads", "torch", "numpy", "torchvision", "timm",
    "transformers", "schedulefree",
)  # fmt: skip

LENGTHS = ("num_epochs", "max_steps")


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
        print(f"Nothing to go on with in {folder.path}: a new run starts")
        return None
    saved = load_checkpoint(path, whole=False)
    if "ranks" not in saved:
        raise UserError(f"{path}: a checkpoint of an older version, which cannot be resumed")
    print(f"Resuming from {path}: epoch {saved['place']['epoch']}, step {saved['step']}")
    return saved, path


def bring_along(saved: dict[str, Any], path: Path | None, folder: RunFolder) -> None:
    """Put the checkpoint at `path`, elsewhere or of a longer run now, into the run folder.

    From there the run can go on whatever happens to the first save. Its statistics so far come
    along, which no checkpoint holds.
    """
    if folder.writes and path is not None:
        copy_shards(saved, path, folder.checkpoint)
        lengths = dict(saved["result_lengths"])
        if path.parent != folder.path and not folder.take_stats(path.parent, lengths):
            lengths.pop(RunFolder.STATS, None)
        save_checkpoint(folder.checkpoint, saved | {"result_lengths": lengths})


def resumed_config(command: Command[C], checkpoint: dict[str, Any], path: Path | None) -> C:
    """Return the configuration of the run to go on with.

    `--resume PATH` means the run as it is, so its flags replace those that were not given;
    `--resume` alone means the same command once more, so flags that are not given have their
    defaults. A greater length, where it is given, makes the run longer.

    Args:
        command: the command line.
        checkpoint: of the run.
        path: where it is.

    Raises:
        UserError: the flags are another run's, or its learning rates depend on its length.
    """
    settings = checkpoint["settings"]
    config, saved = command.config, settings["args"]
    if settings.get("kind") != config.KIND:
        raise UserError(f"--resume: the checkpoint is not of a {config.KIND} model")
    values: dict[str, Any] = config.values()
    defaults = type(config)().values()  # of flags that the checkpoint's version did not have
    taken: dict[str, Any] = {}
    differences: list[str] = []
    rounding: list[str] = []
    longer: list[str] = []
    for name, flag in config.flags().items():
        if flag.one_run or (name not in saved and name not in command.given):
            continue
        mine, theirs = values[name], saved.get(name, defaults[name])
        if config.run.resume not in (None, AUTO) and name not in command.given:
            taken[name] = theirs
        elif name in LENGTHS and name in command.given and theirs is not None and mine > theirs:
            longer.append(f"--{name} {mine} (the run had {theirs})")
        elif name == "activation" and may_be_the_same(mine, theirs):
            continue  # its digest counts
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
    resumed = config.replaced(**taken)
    if longer:
        _check_longer(resumed.training.bound_to_length, longer, path)
    return resumed


def _check_longer(bound_by: str | None, longer: list[str], path: Path | None) -> None:
    """Refuse a longer run that is not what a run of that length would have been from the start.

    Args:
        bound_by: the flag by which the training depends on the length.
        longer: the flags that make it longer.
        path: of the checkpoint.

    Raises:
        UserError: with the way to a new run from these weights.
    """
    if bound_by:
        raise UserError(
            f"--resume: {', '.join(longer)}: with {bound_by} the training so far depends on the "
            "length, and a longer run would have been another; start a new run from these "
            f"weights: --init_from {path} and another --output_dir, without --resume"
        )
    print(f"The run is to be longer: {', '.join(longer)}")


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
    for name in settings.keys() - {"args", "environment", "activation_source"}:
        if before.get(name) != settings[name]:
            then, now = (str(each.get(name))[:200] for each in (before, settings))
            raise UserError(
                f"{path}: the data or the network have changed: {name} was {then} and is {now}; "
                "bring them back, or start another run"
            )
    with fitting_weights(path):
        content = sharding.restored(saved, trainer, path)
        trainer.load_state_dict(content)
    if earlier_length(saved, settings) and trainer.state.step >= trainer.total_steps:
        args = settings["args"]
        raise UserError(
            f"--resume: --num_epochs {args['num_epochs']} and --max_steps {args['max_steps']} end "
            f"at step {trainer.total_steps}, where the run is; give more of the one that ends it"
        )
    # The weights that it started from need not be there any more.
    settings |= {name: before[name] for name in ("init_from_sha256",) if name in before}
    now, then = settings["environment"], before["environment"]
    for name in changed_facts(now, then):
        print(
            f"Note: {name} was {then.get(name)} and is {now.get(name)}: results agree to tolerance "
            "only, not bit for bit"
        )


def changed_facts(now: dict[str, Any], then: dict[str, Any]) -> list[str]:
    """Return the facts that make results agree to tolerance only."""
    return [name for name in ROUNDING_FACTS if now.get(name) != then.get(name)]


def earlier_length(saved: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return LENGTHS of the run at `saved`, as far as `settings` have others now."""
    then, now = saved["settings"]["args"], settings["args"]
    return {name: then[name] for name in LENGTHS if name in then and then[name] != now[name]}


def note(saved: dict[str, Any], settings: dict[str, Any], folder: RunFolder) -> str:
    """Return what args.txt says of going on: an item of a YAML list.

    Args:
        saved: the checkpoint that the run goes on from.
        settings: what a checkpoint of the run would hold now.
        folder: the run's; its args.txt has the earlier length where the process that made the run
            longer ended before it had noted that.
    """
    facts = settings["environment"]
    before = earlier_length(saved, settings)
    if not before:
        with suppress(OSError, ValueError):
            before = earlier_length({"settings": {"args": folder.arguments()}}, settings)
    changed = changed_facts(facts, saved["settings"]["environment"])
    item = {"step": saved["step"], "at": facts["started"], "command": facts["command"]}
    item |= {f"{name}{BEFORE}": value for name, value in before.items()}
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
