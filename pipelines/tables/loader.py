"""Yield the batches of an epoch from a table that lies on the device whole."""

from collections.abc import Iterator

import torch
from torch import Tensor

from utils import mixed_seed, shares


class TableLoader:
    """Yield features float32 (B, F) and targets int64 (B,), on the device.

    With a `data_seed` the order is a function of (data_seed, epoch) and of nothing else, drawn on
    the CPU, the same for every kind of device. Without one it is the given order, for evaluation.

    Where `world_size` processes train together, `batches` yields to the process of rank `rank` its
    share of each batch (utils.share), which may be empty. Put together, the shares are the batch
    that one process alone would have.

    Args:
        features: (N, F).
        targets: (N,), the class of each row.
        batch_size: rows in a batch over all processes.
        data_seed: decides the order of training; None for an evaluation.
        rank: this process's number.
        world_size: how many processes share each batch.
    """

    def __init__(
        self,
        features: Tensor,
        targets: Tensor,
        batch_size: int,
        data_seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.num_samples = len(targets)
        self.batch_size = batch_size
        self._features, self._targets = features, targets
        self._data_seed = data_seed
        self._rank, self._world_size = rank, world_size

    def __len__(self) -> int:
        return -(-self.num_samples // self.batch_size)

    def batches(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the epoch's batches from number `first` on."""
        order = self._order(epoch)
        for place in shares(self.num_samples, self.batch_size, first, self._rank, self._world_size):
            rows = order[place]
            yield self._features.index_select(0, rows), self._targets.index_select(0, rows)

    def _order(self, epoch: int) -> Tensor:
        """Return the rows' numbers in the order of an epoch, (N,)."""
        if self._data_seed is None:
            order = torch.arange(self.num_samples)
        else:
            generator = torch.Generator().manual_seed(mixed_seed(self._data_seed, epoch))
            order = torch.randperm(self.num_samples, generator=generator)
        return order.to(self._targets.device)
