"""Yield the batches of an epoch, from the tokens of a split.

A loader has `batch_size`, `num_samples` (windows of the text), `counts` (of the split), `len()`
(batches per epoch, the last, smaller one included) and `batches(epoch, first=0)`, which yields the
batches from number `first` on:

    inputs   int64 (B, T), on the device
    targets  int64 (B, T), the token after each input; IGNORED where it is not to be scored

Both are made of the ids of a whole split, an array that begins with end of text; those of other
batches are not read.

Where `world_size` processes work together these are all the global numbers, and `batches` yields to
the process of rank `rank` its shard of each batch (utils.share), which may be empty.
"""

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from pipelines.text.token_folders import Counts
from pipelines.text.tokenizer import Ids
from utils import mixed_seed, shares

IGNORED = -100  # cross_entropy's own ignore_index
SCANNED = 2**22  # ids looked at together

Batch: TypeAlias = tuple[torch.Tensor, torch.Tensor]  # inputs, targets
Places: TypeAlias = npt.NDArray[np.integer[Any]]


class _Loader:
    """Cut the ids of a split into windows; subclasses yield batches of them.

    Args:
        ids: the tokens of the split, end of text first.
        counts: what is known of its text.
        num_samples: windows per epoch.
        block_size: tokens in a window (T).
        batch_size: windows in a global batch.
        device: where batches are when they are yielded.
        rank: this process's number.
        world_size: how many processes share each batch.
    """

    def __init__(
        self,
        ids: Ids,
        counts: Counts,
        num_samples: int,
        block_size: int,
        batch_size: int,
        device: str | torch.device,
        rank: int,
        world_size: int,
    ):
        self.batch_size = batch_size
        self.num_samples = num_samples
        self.counts = counts
        self._ids = ids
        self._block_size = block_size
        self._device = torch.device(device)
        self._rank, self._world_size = rank, world_size

    def __len__(self) -> int:
        return -(-self.num_samples // self.batch_size)

    def _shards(self, first: int) -> Iterator[slice]:
        """Yield which windows of the epoch, in its order, make this process's part of a batch."""
        return shares(self.num_samples, self.batch_size, first, self._rank, self._world_size)

    def _places(self, starts: Places) -> Places:
        """Return where the ids of windows are, (B, T + 1): inputs and the target of the last."""
        return starts[:, None] + np.arange(self._block_size + 1)

    def _on_device(self, inputs: Places, targets: Places) -> Batch:
        return self._move(inputs), self._move(targets)

    def _move(self, array: Places) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array, np.int64))
        if self._device.type == "cuda":  # from pinned memory the copy waits for nothing
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)


def generator_of(data_seed: int, epoch: int) -> torch.Generator:
    """Return what an epoch's order is drawn from: the CPU's, one order on every kind of device."""
    return torch.Generator().manual_seed(mixed_seed(data_seed, epoch))


class TrainLoader(_Loader):
    """Yield every token as a target at least once per epoch, in blocks of a shuffled order.

    The split is a ring: its last token is followed by end of text, with which it begins. Where
    the first block begins and the order of the blocks are a function of (data_seed, epoch).
    """

    def __init__(
        self,
        ids: Ids,
        counts: Counts,
        block_size: int,
        batch_size: int,
        device: str | torch.device,
        data_seed: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        blocks = -(-len(ids) // block_size)
        super().__init__(ids, counts, blocks, block_size, batch_size, device, rank, world_size)
        self._data_seed = data_seed

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the epoch's batches from number `first` on: inputs and targets."""
        generator = generator_of(self._data_seed, epoch)
        offset = int(torch.randint(self._block_size, (), generator=generator))
        order = torch.randperm(self.num_samples, generator=generator).numpy()
        for shard in self._shards(first):
            starts = offset + order[shard] * self._block_size  # (B,)
            ids = self._ids[self._places(starts) % len(self._ids)]  # (B, T + 1)
            yield self._on_device(ids[:, :-1], ids[:, 1:])


class EvalLoader(_Loader):
    """Yield every token but the first as a target exactly once, in order, the same every epoch.

    Windows begin `stride` tokens apart. Where they overlap, a token is scored in the first window
    that has it, so that all but those of the first window have block_size - stride or more tokens
    before them.
    """

    def __init__(
        self,
        ids: Ids,
        counts: Counts,
        block_size: int,
        batch_size: int,
        device: str | torch.device,
        stride: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        targets = len(ids) - 1
        windows = 1 + max(0, -(-(targets - block_size) // stride))
        super().__init__(ids, counts, windows, block_size, batch_size, device, rank, world_size)
        self._stride = stride

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the batches from number `first` on: inputs and targets."""
        for shard in self._shards(first):
            windows = np.arange(shard.start, shard.stop)  # (B,)
            places = self._places(windows * self._stride)
            ids = self._ids[np.minimum(places, len(self._ids) - 1)]  # (B, T + 1)
            inputs, targets = ids[:, :-1], ids[:, 1:].astype(np.int64)
            targets[places[:, 1:] >= len(self._ids)] = IGNORED
            targets[windows > 0, : self._block_size - self._stride] = IGNORED
            yield self._on_device(inputs, targets)


# --- blocks that stay inside documents ---


def document_starts(ids: Ids, end_of_text: int) -> Places:
    """Return the places of end of text, each of which stands in front of a document."""
    found = [
        start + np.flatnonzero(ids[start : start + SCANNED] == end_of_text)
        for start in range(0, len(ids), SCANNED)
    ]
    return np.concatenate(found)


class _InsideLoader(_Loader):
    """Cut each document into windows of its own; the last of each is padded.

    A window's inputs begin with the end of text before the document, or go on in it. What is padded
    is end of text among the inputs and IGNORED among the targets.

    Args:
        starts: where documents begin, from `document_starts`.
        targets: how many targets each has: its tokens and the end of text behind it.
        stride: tokens from one window of a document to the next.
    """

    def __init__(
        self,
        ids: Ids,
        counts: Counts,
        block_size: int,
        batch_size: int,
        device: str | torch.device,
        starts: Places,
        targets: Places,
        stride: int,
        rank: int,
        world_size: int,
    ):
        further = -(-(targets - block_size) // stride)
        windows = np.where(targets > 0, 1 + np.maximum(0, further), 0)
        self._ends = np.cumsum(windows)
        self._first = self._ends - windows
        total = int(self._ends[-1])
        super().__init__(ids, counts, total, block_size, batch_size, device, rank, world_size)
        self._starts, self._targets, self._stride = starts, targets, stride
        self.targets_per_block = float(targets.sum() / total)

    def _batch(self, windows: Places) -> Batch:
        documents = np.searchsorted(self._ends, windows, side="right")
        numbers = windows - self._first[documents]  # of each window in its document
        starts, ends = self._starts[documents], self._starts[documents] + self._targets[documents]
        places = self._places(starts + numbers * self._stride)  # (B, T + 1)
        ids = self._ids[places % len(self._ids)].astype(np.int64)
        inputs, targets = ids[:, :-1], ids[:, 1:].copy()
        padded = places[:, 1:] > ends[:, None]
        inputs[padded] = int(self._ids[0])  # end of text
        targets[padded] = IGNORED
        targets[numbers > 0, : self._block_size - self._stride] = IGNORED
        return self._on_device(inputs, targets)


class InsideTrainLoader(_InsideLoader):
    """Yield every token as a target exactly once per epoch, windows in a shuffled order.

    The order is a function of (data_seed, epoch). The last document's end is the end of text with
    which the split begins, as in TrainLoader.
    """

    def __init__(
        self,
        ids: Ids,
        counts: Counts,
        block_size: int,
        batch_size: int,
        device: str | torch.device,
        starts: Places,
        data_seed: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        targets = np.diff(starts, append=len(ids))
        super().__init__(
            ids, counts, block_size, batch_size, device, starts, targets, block_size,
            rank, world_size,
        )  # fmt: skip
        self._data_seed = data_seed

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the epoch's batches from number `first` on: inputs and targets."""
        generator = generator_of(self._data_seed, epoch)
        order = torch.randperm(self.num_samples, generator=generator).numpy()
        for shard in self._shards(first):
            yield self._batch(order[shard])


class InsideEvalLoader(_InsideLoader):
    """Yield the targets of EvalLoader, each with tokens of its own document alone before it."""

    def __init__(
        self,
        ids: Ids,
        counts: Counts,
        block_size: int,
        batch_size: int,
        device: str | torch.device,
        starts: Places,
        stride: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        targets = np.diff(starts, append=len(ids) - 1)  # nothing follows the last document
        super().__init__(
            ids, counts, block_size, batch_size, device, starts, targets, stride, rank, world_size
        )

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the batches from number `first` on: inputs and targets."""
        for shard in self._shards(first):
            yield self._batch(np.arange(shard.start, shard.stop))
