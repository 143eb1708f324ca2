"""Compute a batch's loss, in mixed precision and compiled."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch import config as functorch_config

from training.task import Batch, Task


class Objective(nn.Module):
    """Return the loss and the sums of a batch; compiled for batches of the full size.

    The last batch of an epoch may be smaller. Compiling a second time for it would take longer
    than it does.

    Args:
        model: the network.
        task: makes loss and sums of the network's outputs.
        device: where the network is.
        amp_dtype: of mixed precision; None is full precision.
        compile_mode: torch.compile's, or "reduce-memory"; None is eager.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        device: torch.device | str,
        amp_dtype: torch.dtype | None = None,
        compile_mode: str | None = None,
    ):
        super().__init__()
        self.model, self.task = model, task
        self.device, self.amp_dtype = torch.device(device), amp_dtype
        self.has_data = True  # off while the batch only stands in for an empty one
        in_graphs = compile_mode in ("reduce-overhead", "max-autotune")
        self.uses_cuda_graphs = in_graphs and self.device.type == "cuda"
        self._compiled: Callable[[Batch], Any] | None = None
        if compile_mode is not None:
            self._compiled = compiled(lambda batch: self.forward(batch, False), compile_mode)

    @property
    def is_compiled(self) -> bool:
        """Return whether batches of the full size run compiled."""
        return self._compiled is not None

    def precision(self) -> torch.autocast:
        """Return the context of mixed precision, or of none."""
        return torch.autocast(self.device.type, self.amp_dtype, enabled=self.amp_dtype is not None)

    def forward(self, batch: Batch, full: bool) -> tuple[Tensor, Tensor]:
        """Return the loss, a mean, and the task's sums.

        Args:
            batch: what the task takes.
            full: it has the size that is compiled for.
        """
        if full and self._compiled is not None:
            torch.compiler.cudagraph_mark_step_begin()  # reduce-overhead may reuse its buffers now
            return self._compiled(batch)
        with self.precision():
            return self.task(self.model, batch)

    @torch.no_grad()
    def predictions(self, batch: Batch) -> dict[str, Tensor]:
        """Return what predictions.npz holds of a batch."""
        with self.precision():
            return self.task.predictions(self.model, batch)

    @contextmanager
    def stand_in(self, batch: Batch) -> Iterator[Batch]:
        """Give one sample of zeros in the place of a share without samples, else the batch.

        The other ranks wait for this rank's gradients all the same. In evaluation mode the sample
        leaves no trace in norms or dropout; the caller multiplies its loss and sums by zero.
        """
        if len(batch[0]):
            yield batch
            return
        was_training = self.model.training
        self.model.eval()
        self.has_data = False
        try:
            yield tuple(part.new_zeros(1, *part.shape[1:]) for part in batch)
        finally:
            self.has_data = True
            self.model.train(was_training)


def compiled(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
    """Return `function` compiled in one of torch.compile's modes or in "reduce-memory"."""
    if mode == "reduce-memory":
        # Half of what backward would keep is recomputed instead: a small CNN kept 28 instead of
        # 56 MB for 5 % more time. The setting is read when the function is first called.
        functorch_config.activation_memory_budget = 0.5
        mode = "default"
    return torch.compile(function, mode=mode, dynamic=False)
