"""From a batch to its loss, in mixed precision and compiled; what a task and a loader are.

A task says how a batch becomes a loss and metrics; a loader yields batches.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor, nn


class Task(Protocol):
    """How a batch becomes a loss and metrics."""

    unit: str  # what is counted, "images"

    def __call__(self, model: nn.Module, batch: tuple) -> tuple[Tensor, Tensor]:
        """The loss to minimise, a mean over the batch's samples, and a vector of sums over them."""

    def metrics(self, sums: list[float], loader: "Loader") -> dict[str, float]:
        """Sums over what was read of `loader` to metrics, "loss" and "count" among them."""

    def describe(self, metrics: dict[str, float]) -> str:
        """The metrics as they stand in a line of results."""

    def score(self, metrics: dict[str, float]) -> float:
        """What the best epoch has most of."""

    def predictions(self, model: nn.Module, batch: tuple) -> dict[str, Tensor]:
        """What predictions.npz is to hold of a batch: tensors with a row for each sample."""

    def flops(self, model: nn.Module) -> float | None:
        """Floating point operations of a training step per unit counted, where known."""


class Loader(Protocol):
    batch_size: int  # of a batch over all ranks
    num_samples: int  # of an epoch, over all ranks

    def __len__(self) -> int:
        """Batches in an epoch; the last may be smaller."""

    def batches(self, epoch: int, first: int = 0):
        """This rank's share of an epoch's batches from number `first` on, on the device: a pure
        function of the epoch. A share may be empty."""


class Objective(nn.Module):
    """A batch's loss and sums; compiled for batches of the full size.

    The last batch may be smaller. Compiling a second time for it would take longer than it does.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        device_type: str,
        amp_dtype: torch.dtype | None,
        compile_mode: str | None,
    ):
        super().__init__()
        self.model, self.task = model, task
        self.device_type, self.amp_dtype = device_type, amp_dtype
        self._full = compiled(self._compute, compile_mode) if compile_mode else self._compute

    def precision(self):
        """The context of mixed precision, or of none."""
        return torch.autocast(self.device_type, self.amp_dtype, enabled=self.amp_dtype is not None)

    def _compute(self, batch: tuple) -> tuple[Tensor, Tensor]:
        with self.precision():
            return self.task(self.model, batch)

    @torch.no_grad()
    def predictions(self, batch: tuple) -> dict[str, Tensor]:
        with self.precision():
            return self.task.predictions(self.model, batch)

    def forward(self, batch: tuple, full: bool) -> tuple[Tensor, Tensor]:
        if not full:
            return self._compute(batch)
        torch.compiler.cudagraph_mark_step_begin()  # reduce-overhead may reuse its buffers now
        return self._full(batch)


def compiled(function, mode: str):
    if mode == "reduce-memory":
        # Half of what backward would keep is recomputed instead: a small CNN kept 28 instead of
        # 56 MB for 5 % more time. The setting is read when the function is first called.
        from torch._functorch import config

        config.activation_memory_budget = 0.5
        mode = "default"
    return torch.compile(function, mode=mode, dynamic=False)


def size_of_batch(loader: Loader, number: int) -> int:
    """Samples in an epoch's batch of that number, over all ranks."""
    return min(loader.batch_size, loader.num_samples - number * loader.batch_size)


def in_groups(batches: Iterable[tuple], size: int) -> Iterator[list[tuple]]:
    """Lists of `size` batches; the last may be shorter."""
    batches = iter(batches)
    while group := list(islice(batches, size)):
        yield group
