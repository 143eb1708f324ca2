"""Take the user's own activation into a run: tried out, the same as before, and on record."""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cli.converters import arguments
from cli.network import ModelConfig
from run_folder.folder import RunFolder
from utils import UserError, mixed_seed
from zilu.custom.activation import CustomActivation, difference
from zilu.custom.trial import check, curve


def loaded(model: ModelConfig) -> CustomActivation | None:
    """Return the user's own activation, loaded and tried out; None where it is one by name.

    Raises:
        UserError: it is not there, or not fit to train with.
    """
    if not model.is_custom:
        return None
    options = (model.sigma, model.learn_sigma, model.is_inplace)
    try:
        return check(model.activation, *options, arguments(model.activation_args))
    except ValueError as error:
        raise UserError(f"--activation {error}") from None


def factory(make: Callable[[], nn.Module], seed: int) -> Callable[[], nn.Module]:
    """Return `make` so that each module draws its initial values by itself.

    The network's weights are then the same whatever an activation draws.

    Args:
        make: makes an activation.
        seed: of the initial weights.
    """
    numbers = itertools.count()

    def made() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(mixed_seed("activation", seed, next(numbers)))
            return make()

    return made


@contextmanager
def blamed(activation: CustomActivation | None) -> Iterator[None]:
    """Turn an error that comes out of the user's activation inside the block into one line.

    Raises:
        UserError: with the line of its code.
    """
    try:
        yield
    except Exception as error:
        is_memory = re.search("memory|alloc", str(error))
        if activation is None or is_memory or not activation.is_to_blame(error):
            raise
        reason = activation.reason(error)
        raise UserError(f"--activation {activation.name} fails in this network: {reason}") from None


def check_source(
    activation: CustomActivation | None, settings: dict[str, Any], path: Path | None
) -> None:
    """Refuse to go on with, or to evaluate, what another source of the activation has trained.

    Args:
        activation: as it is now.
        settings: the checkpoint's.
        path: where the checkpoint is.

    Raises:
        UserError: with the difference, and where the source of then is.
    """
    if activation is None or path is None:
        return
    changed = difference(settings.get("activation_source", {}), activation.source)
    if changed:
        copy = path.parent / RunFolder.SOURCE
        where = f" ({copy} is a copy)" if copy.exists() else ""
        raise UserError(
            f"{path} was trained with another source of {activation.name}: {changed}; bring that "
            f"source back{where}, or start another run"
        )


def files(activation: CustomActivation | None, make: Callable[[], nn.Module]) -> dict[str, str]:
    """Return what a run folder keeps of the activation, by file: its source, and its curve.

    Reports draw the curve, for which they need not run code.
    """
    if activation is None:
        return {}
    record = activation.source.record() | {"module": str(make())}
    content = json.dumps(record | {"curve": curve(activation, make())}, allow_nan=False)
    return {RunFolder.SOURCE: activation.source.text, RunFolder.ACTIVATION: content + "\n"}
