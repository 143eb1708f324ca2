"""Evaluate a network on a whole split: its metrics, and its predictions."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from run_folder.folder import RunFolder
from training import processes
from training.objective import Objective
from training.task import Loader, size_of_batch
from utils import Progress


class Diverged(Exception):
    """Say that a loss became NaN or infinite."""


def zero_sums(device: torch.device) -> Tensor:
    """Return zeros to add a task's sums to.

    fp64 holds the sums of any epoch exactly enough; MPS has none. The tensor has one dimension,
    since one without dimensions would not decide the type of what is added to it.
    """
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return torch.zeros(1, dtype=dtype, device=device)


def do_nothing() -> None:
    """Do nothing after a batch."""


def to_host(tensor: Tensor) -> Tensor:
    """Copy a tensor to the CPU without waiting for a GPU: it is there after a synchronisation."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)


@torch.no_grad()
def evaluate(
    objective: Objective,
    loader: Loader,
    label: str,
    after_batch: Callable[[], object] = do_nothing,
    may_diverge: bool = False,
) -> dict[str, float]:
    """Return the metrics over all of `loader`.

    Args:
        objective: the network with its task.
        loader: a split, of which this rank has its share.
        label: the split's name, for the progress bar and errors.
        after_batch: called after each batch; it may raise to stop.
        may_diverge: a loss that is no number is a result, and no error.

    Raises:
        Diverged: the loss is NaN or infinite.
    """
    objective.model.eval()
    totals = zero_sums(objective.device)
    progress = Progress(label, len(loader))
    for number, batch in enumerate(loader.batches(0)):
        full = size_of_batch(loader, number) == loader.batch_size
        with objective.stand_in(batch) as inputs:
            _, sums = objective(inputs, full and objective.has_data)
            totals = totals + sums * objective.has_data
        progress.advance()
        after_batch()
    progress.close()
    metrics = objective.task.metrics(processes.total(totals).tolist(), loader)
    if not may_diverge and not math.isfinite(metrics["loss"]):
        raise Diverged(f"the {label.lower()} loss is {metrics['loss']}")
    return metrics


def write_predictions(
    objective: Objective,
    loader: Loader,
    folder: RunFolder,
    after_batch: Callable[[], object] = do_nothing,
    ending: str = "",
) -> None:
    """Write the network's predictions for every sample of `loader`, in its order.

    Args:
        objective: the network with its task.
        loader: a split, of which this rank has its share.
        folder: gets predictions.npz.
        after_batch: called after each batch; it may raise to stop.
        ending: of the file's name before the dot.
    """
    objective.model.eval()
    parts = []
    for batch in loader.batches(0):
        with objective.stand_in(batch) as inputs:  # a sharded network needs every rank
            found = objective.predictions(inputs)
            part = found if objective.has_data else {}
        parts.append({name: to_host(tensor) for name, tensor in part.items()})
        after_batch()
    if arrays := whole(parts, objective.device):
        folder.write_predictions(arrays, ending)


def whole(parts: list[dict[str, Tensor]], device: torch.device) -> dict[str, Any]:
    """Return the arrays of a split, by name, that the batches' shares are parts of.

    Args:
        parts: this rank's tensors of each batch, by `to_host`; empty where it has no sample.
        device: where they were computed.

    Returns:
        NumPy arrays in the order of the loader; nothing on other ranks than the main one.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if (ranks := processes.gathered(parts)) is None:
        return {}
    # A batch's shares, in the order of the ranks, are the batch.
    in_order = [part for of_batch in zip(*ranks, strict=True) for part in of_batch if part]
    return {name: torch.cat([part[name] for part in in_order]).numpy() for name in in_order[0]}
