"""Test a network on test sets beside its test split: --also_test."""

from collections.abc import Callable
from statistics import fmean
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from pipelines.data import FurtherTest
from training import processes
from training.evaluation import to_host, whole, zero_sums
from training.objective import Objective
from training.task import Loader
from utils import Progress


class Again(nn.Module):
    """Return what was kept, for whatever it is called with."""

    kept = torch.empty(0)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.kept


class Outputs(nn.Module):
    """Return the outputs of a network that count, and keep the last ones.

    Args:
        model: the network.
        chosen: the places of the outputs (B, all) that count; None for all.
    """

    def __init__(self, model: nn.Module, chosen: list[int] | None, device: torch.device):
        super().__init__()
        self.model = model
        self.again = Again()
        self.chosen = None if chosen is None else torch.tensor(chosen, device=device)

    def forward(self, inputs: Tensor) -> Tensor:
        found = self.model(inputs)
        self.again.kept = found if self.chosen is None else found.index_select(1, self.chosen)
        return self.again.kept


def tested(
    objective: Objective, test: FurtherTest, name: str, after_batch: Callable[[], object]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the predictions for a test set, and its metrics; eager, in the run's precision.

    Args:
        objective: the network with its task.
        test: the test set.
        name: of the test set, for progress bars.
        after_batch: called after each batch; it may raise to stop.

    Returns:
        NumPy arrays by name, with a row for each sample of all parts, and the number of its part
        where there are several; nothing on other ranks than the main one. Then the metrics: means
        over the parts that count, with all of them in "parts" and the number that count in
        "averaged".
    """
    model = Outputs(objective.model, test.outputs, objective.device)
    alone = Objective(model, objective.task, objective.device, objective.amp_dtype)
    metrics, arrays = {}, []
    for part, loader in test.parts.items():
        found, metrics[part] = _part(alone, loader, f"{name} {part}".strip(), after_batch)
        arrays.append(found)
    if list(metrics) == [""]:
        return arrays[0], metrics[""]
    counted = [metrics[part] for part in test.averaged]
    result: dict[str, Any] = {key: fmean(each[key] for each in counted) for key in counted[0]}
    result["count"] = sum(each["count"] for each in counted)
    return _joined(arrays), result | {"averaged": len(counted), "parts": metrics}


@torch.no_grad()
def _part(
    objective: Objective, loader: Loader, label: str, after_batch: Callable[[], object]
) -> tuple[dict[str, Any], dict[str, float]]:
    """Return predictions and metrics from one pass; a loss that is no number is a result too."""
    objective.model.eval()
    assert isinstance(objective.model, Outputs)
    again = objective.model.again
    totals, parts = zero_sums(objective.device), []
    progress = Progress(label, len(loader))
    for batch in loader.batches(0):
        with objective.stand_in(batch) as inputs:
            _, sums = objective(inputs, False)
            totals = totals + sums * objective.has_data
        part = objective.task.predictions(again, batch) if len(batch[0]) else {}
        parts.append({name: to_host(tensor) for name, tensor in part.items()})
        progress.advance()
        after_batch()
    progress.close()
    again.kept = torch.empty(0)
    metrics = objective.task.metrics(processes.total(totals).tolist(), loader)
    return whole(parts, objective.device), metrics


def _joined(arrays: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the parts' arrays behind each other, with the number of each row's part."""
    if not arrays[0]:
        return {}
    sizes = [len(next(iter(each.values()))) for each in arrays]
    joined = {name: numpy.concatenate([each[name] for each in arrays]) for name in arrays[0]}
    return joined | {"part": numpy.repeat(numpy.arange(len(arrays)), sizes)}
