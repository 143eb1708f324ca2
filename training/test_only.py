"""Evaluate without training (--test_only): a checkpoint, or the network that a run starts with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.config import C, Config
from cli.fields import Evaluated
from cli.parser import Command
from run_folder.checkpoint import load_checkpoint
from run_folder.folder import RunFolder
from run_folder.result_lines import also_lines
from training.devices import enough_memory
from training.evaluation import Diverged, do_nothing, evaluate
from training.further_tests import tested
from training.objective import Objective
from training.session import Session
from training.task import D, Data
from training.weight_average import EMA
from utils import UserError, world_size
from zilu.names import may_be_the_same
from zilu.replacement.gradual import Gradual

if TYPE_CHECKING:
    from training.program import Program


def run(of: type[Program[C, D]], session: Session[C]) -> int:
    """Evaluate what the command names on all of its test sets; return 0.

    Args:
        of: the program.
        session: its command and run folder.

    Raises:
        UserError: for everything that the user can fix.
    """
    if world_size() > 1:
        raise UserError("--test_only is for one process; start it without torchrun")
    command, folder = session.command, session.folder
    path = checkpoint_path(command.config, folder)
    if path is None:
        _test_start(of, command, folder)
    else:
        home = folder if "output_dir" in command.given else RunFolder(path.parent)
        _test_checkpoint(of, command, path, home)
    return 0


def _test_checkpoint(
    of: type[Program[C, D]], command: Command[C], path: Path, home: RunFolder
) -> None:
    checkpoint = load_checkpoint(path)
    program = of.of_checkpoint(command, path, checkpoint)
    program.print_notes()
    data = program.loaded_data(checkpoint["settings"])
    with enough_memory(program.device):
        model = program.trained_network(data, path, checkpoint)
    objective = program.objective(model, data)
    _add_results(program, home, objective, data, described(path, checkpoint), checkpoint.get("ema"))
    program.finish(model, data)


def _test_start(of: type[Program[C, D]], command: Command[C], folder: RunFolder) -> None:
    """Evaluate the network that training would start with: a pretrained one, or untrained."""
    config = command.config
    command.check_code(config)
    program = of(config)
    program.print_notes()
    initial = program.begin(None)
    program.gradual = Gradual() if initial and program.compares(initial) else None
    source = initial.source if initial else config.values()["init_from"]
    weights = f"pretrained ({source})" if source else "untrained"
    print(f"Note: no --checkpoint, and none in {folder.path}: this is the {weights} network")
    data = program.loaded_data({})
    with enough_memory(program.device):
        model = program.network(data, initial)
    objective = program.objective(model, data)
    what = f"{weights} {config.model.model}, "
    if program.gradual is not None:
        _add_results(program, folder, objective, data, what + "its own activations")
        program.gradual.set(1)
    _add_results(program, folder, objective, data, what + config.model.activation)
    program.finish(model, data)


def _add_results(
    program: Program[C, D],
    home: RunFolder,
    objective: Objective,
    data: D,
    what: str,
    average: dict[str, Any] | None = None,
) -> None:
    """Evaluate on all test sets, and print and write their lines."""
    precision = str(program.amp_dtype or "float32").removeprefix("torch.")
    measured = f"{what} | {program.measured_with()}, {precision}"
    try:
        with enough_memory(program.device):
            for line in lines(objective, data, average, measured):
                print(line.partition("\n")[0])
                home.add_test_result(line)
    except Diverged as error:
        raise UserError(f"{what}: {error}; these weights give no numbers") from None


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
