"""Start a new run from the weights of another one: --init_from RUN, or its checkpoint.pt."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from cli.config import Config
from run_folder.checkpoint import load_checkpoint
from utils import UserError


class InitialWeights(NamedTuple):
    """Hold the weights of a checkpoint, where it lies, and the SHA-256 of its file."""

    path: str
    tensors: dict[str, Tensor]
    digest: str
    step: int


def read(config: Config) -> InitialWeights | None:
    """Return the weights that the configuration starts from; None where it starts untrained.

    Raises:
        UserError: they cannot be read, or are of another program.
    """
    path = config.model.start
    if path is None:
        return None
    if not Path(path).is_file():
        raise UserError(
            f"--init_from {path}: no such checkpoint, and no such folder with a checkpoint.pt; "
            "give the folder of a run, or a checkpoint of it"
        )
    saved: dict[str, Any] = load_checkpoint(path)
    kind = saved["settings"].get("kind", "vision")
    if kind != config.KIND:
        raise UserError(f"--init_from {path}: of a {kind} model, not of a {config.KIND} model")
    weights = saved["model"]
    if config.model.init_ema:
        if "ema" not in saved:
            raise UserError(f"--init_ema: {path} has no averaged weights; leave it out")
        weights = saved["ema"]["model"]
    elif "ema" in saved:
        print(f"Note: --init_from {path}: its trained weights; --init_ema takes the averaged ones")
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return InitialWeights(path, weights, digest, saved.get("step", 0))


def put_into(model: nn.Module, weights: InitialWeights) -> None:
    """Copy the weights into a network of the same shapes.

    Raises:
        UserError: it is another network; the first difference is named.
    """
    ours, theirs = model.state_dict(), weights.tensors
    remedy = f"take the flags of that network: --config {Path(weights.path).parent / 'args.txt'}"
    for what, names in (("lacks", ours.keys() - theirs), ("also has", theirs.keys() - ours)):
        if names:
            raise UserError(
                f"--init_from {weights.path} {what} {min(names)} ({len(names)} such); {remedy}"
            )
    for name, value in ours.items():
        if value.shape != theirs[name].shape:
            raise UserError(
                f"--init_from {weights.path}: {name} is {tuple(theirs[name].shape)} there and "
                f"{tuple(value.shape)} here; {remedy}"
            )
    model.load_state_dict(theirs)
