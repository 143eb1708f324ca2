"""Record --stats: when to look at the activation sites, and what is written of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from run_folder.folder import RunFolder
from training.diagnostics.watch import Watch, channel_counts
from training.objective import Objective
from training.task import Batch, Loader


class StatsRecorder:
    """Write numbers of every activation site into stats.jsonl, every so many steps.

    Args:
        objective: the network with its task.
        sites: its activations by path, in the order of depth.
        device: where the network is.
        folder: the run's.
        interval: steps from one look to the next.
    """

    def __init__(
        self,
        objective: Objective,
        sites: dict[str, nn.Module],
        device: torch.device,
        folder: RunFolder,
        interval: int,
    ):
        self.objective, self.folder, self.interval = objective, folder, interval
        self.watch = Watch(objective.model, sites, device)
        self.channels: dict[str, dict[str, int]] = {}  # of the evaluation made last

    def before_step(self, step: int, epoch: int, batch: Batch, samples: int, scale: float) -> None:
        """Look at the sites in a pass over `batch`, the first of the step's.

        Args:
            step: the steps made so far.
            epoch: the epoch, from 1.
            batch: this rank's share of it.
            samples: of the whole step, over all ranks.
            scale: what the loss is multiplied by for gradients in fp16.
        """
        sites = self.watch.measure(self.objective, batch, samples, scale)
        self._add(step, epoch, {"sites": sites})

    @contextmanager
    def counting_channels(self, loader: Loader) -> Iterator[None]:
        """Count the dead channels while the block evaluates `loader`.

        Compiled code cannot be looked at: there, a pass of its own follows.
        """
        objective = self.objective
        if objective.is_compiled:
            yield
            with torch.no_grad(), self.watch.channels(lambda: objective.has_data) as living:
                for batch in loader.batches(0):
                    with objective.stand_in(batch) as inputs:
                        objective(inputs, False)
        else:
            with self.watch.channels(lambda: objective.has_data) as living:
                yield
        self.channels = channel_counts(living)

    def write_channels(self, step: int, epoch: int) -> None:
        """Write the dead channels that were counted last."""
        self._add(step, epoch, {"channels": self.channels})

    def _add(self, step: int, epoch: int, numbers: dict[str, Any]) -> None:
        self.folder.add_stats({"step": step, "epoch": epoch, **numbers})
