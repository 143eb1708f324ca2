"""Choose what --test_only evaluates: the checkpoint, and the flags that it decides."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cli.config import C, Config
from cli.fields import Evaluated
from cli.parser import Command
from run_folder.folder import RunFolder
from run_folder.result_lines import also_lines
from training.evaluation import do_nothing, evaluate
from training.further_tests import tested
from training.objective import Objective
from training.task import Data
from training.weight_average import EMA
from utils import UserError
from zilu.names import may_be_the_same


def checkpoint_path(config: Config, folder: RunFolder) -> Path | None:
    """Return --checkpoint, or the run folder's (which --config RUN/args.txt names too), or None.

    Raises:
        UserError: the run folder holds a run that left no checkpoint.
    """
    run = config.run
    if run.checkpoint is not None:
        return Path(run.checkpoint)
    if run.output_dir is None and run.config and Path(run.config).name == RunFolder.ARGS:
        folder = RunFolder(Path(run.config).parent)
    if folder.checkpoint.exists():
        return folder.checkpoint
    if (folder.path / RunFolder.ARGS).exists():
        raise UserError(f"{folder.path} holds a run that left no checkpoint; give --checkpoint")
    return None


def tested_values(command: Command[C], settings: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the flags that the checkpoint at `path` decides: model, data and precision.

    Raises:
        UserError: a given flag says otherwise, or the checkpoint is not of this program.
    """
    config, given = command.config, command.given
    for name in ("init_from", "pretrained"):
        if name in command.typed:
            raise UserError(f"--{name} and a checkpoint are two networks; leave out one of them")
    # Checkpoints from before there was a second kind do not say theirs.
    if settings.get("kind", "vision") != config.KIND or "model_options" not in settings:
        raise UserError(f"--checkpoint {path}: not a checkpoint of a {config.KIND} model")
    # Those from before there was a flag have its default.
    saved = config.defaults() | settings["args"] | settings["model_options"]
    values = config.values()
    # The checkpoint's weights have taken the place of those that it started from.
    starts = {"init_from": None, "init_ema": False, "pretrained": False}
    taken: dict[str, Any] = {name: starts[name] for name in starts if name in values}
    sources = {name: flag.evaluated for name, flag in config.flags().items()}
    for name, source in sources.items():
        if source != Evaluated.NETWORK:
            continue
        if name == "activation" and name in given and may_be_the_same(values[name], saved[name]):
            taken[name] = values[name]  # its digest counts
            continue
        if name in given and values[name] not in ("auto", saved[name]):
            raise UserError(
                f"--{name} {values[name]} contradicts the checkpoint, which has {saved[name]}; "
                f"leave out --{name}"
            )
        taken[name] = saved[name]
    precision = [name for name, source in sources.items() if source == Evaluated.PRECISION]
    if not given & set(precision):
        taken |= {name: saved[name] for name in precision}
    if not is_other_data(command, settings):
        of_data = [name for name, source in sources.items() if source == Evaluated.DATA]
        taken |= {name: saved[name] for name in of_data if name not in given and name in saved}
    return taken


def described(path: Path, checkpoint: dict[str, Any]) -> str:
    """Return what a line of results calls the checkpoint at `path`."""
    text = f"{path} (step {checkpoint['step']})" if "step" in checkpoint else str(path)
    if "gradual" in checkpoint:
        text += f", {checkpoint['gradual']['t']:.1%} of the way to its activation"
    return text


def is_other_data(command: Command[C], settings: dict[str, Any]) -> bool:
    """Return whether the command names another data set than the checkpoint's."""
    dataset = command.config.data.dataset
    return "dataset" in command.given and dataset != settings["args"]["dataset"]


def lines(
    objective: Objective, data: Data, average: dict[str, Any] | None, measured: str
) -> Iterator[str]:
    """Yield what test_results.txt is to have of the test split, and of each further test set.

    The network gets the averaged weights after its own were tested.

    Args:
        objective: the network, with the weights of the checkpoint, and its task.
        data: what it is tested on.
        average: the checkpoint's of the weights, if it has one.
        measured: what is tested, and how.

    Raises:
        Diverged: the loss on the test split is NaN or infinite.
    """
    describe = objective.task.describe
    endings = [("", None)] if average is None else [("", None), (EMA, average["model"])]
    for ending, averaged in endings:
        if averaged is not None:
            objective.model.load_state_dict(averaged)
        weights = ending.replace("_", " ").upper()
        result = describe(evaluate(objective, data.test, f"Test{weights}"))
        yield f"[Test{weights}] {result} | {measured} | {data.description}"
        for name, test in data.also.items():
            _, found = tested(objective, test, name, do_nothing)
            first, *rest = also_lines(describe, name, ending, found)
            yield "\n".join([f"{first} | {measured} | {test.description}", *rest])
