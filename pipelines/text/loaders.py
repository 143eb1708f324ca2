"""Loaders: a split's tokens in batches.

A loader has `batch_size`, `num_samples` (windows of the text), `counts` (the split's .tokens,
.words and .bytes), `len()` (batches per epoch, the last, smaller one included) and
`batches(epoch, first=0)`, an iterator over the batches from number `first` on of

    inputs   int64 (B, T), on the device
    targets  int64 (B, T), the token after each input; IGNORED where it is not to be scored

Both are made of the ids of a whole split, an array that begins with end of text; those of other
batches are not read.

Where `world_size` processes work together these are all the global numbers, and `batches` gives
process `rank` its share of each batch (utils.share), which may be empty.
"""

import numpy as np
import torch

from utils import mixed_seed, shares

IGNORED = -100  # cross_entropy's own ignore_index


class _Loader:
    def __init__(self, ids, counts, num_samples, block_size, batch_size, device, rank, world_size):
        self.batch_size = batch_size
        self.num_samples = num_samples
        self.counts = counts
        self._ids = ids
        self._block_size = block_size
        self._device = torch.device(device)
        self._rank, self._world_size = rank, world_size

    def __len__(self):
        return -(-self.num_samples // self.batch_size)

    def _shares(self, first):
        """Which windows of an epoch, in its order, make each batch."""
        return shares(self.num_samples, self.batch_size, first, self._rank, self._world_size)

    def _places(self, starts):
        """Where the ids of windows are: (B, T + 1), inputs and the target of the last."""
        return starts[:, None] + np.arange(self._block_size + 1)

    def _on_device(self, inputs, targets):
        return tuple(map(self._move, (inputs, targets)))

    def _move(self, array):
        tensor = torch.from_numpy(np.ascontiguousarray(array, np.int64))
        if self._device.type == "cuda":  # from pinned memory the copy waits for nothing
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)


class TrainLoader(_Loader):
    """Every token as a target at least once per epoch, in blocks of a shuffled order.

    The split is a ring: its last token is followed by end of text, with which it begins. Where
    the first block begins and the order of the blocks are a function of (data_seed, epoch).
    """

    def __init__(
        self, ids, counts, block_size, batch_size, device, data_seed, rank=0, world_size=1
    ):
        blocks = -(-len(ids) // block_size)
        super().__init__(ids, counts, blocks, block_size, batch_size, device, rank, world_size)
        self._data_seed = data_seed

    def batches(self, epoch, first=0):
        generator = torch.Generator()  # the CPU's: one order on every kind of device
        generator.manual_seed(mixed_seed(self._data_seed, epoch))
        offset = int(torch.randint(self._block_size, (), generator=generator))
        order = torch.randperm(self.num_samples, generator=generator).numpy()
        for share in self._shares(first):
            starts = offset + order[share] * self._block_size
            ids = self._ids[self._places(starts) % len(self._ids)]
            yield self._on_device(ids[:, :-1], ids[:, 1:])


class EvalLoader(_Loader):
    """Every token but the first as a target exactly once, in order, the same in every epoch.

    Windows begin `stride` tokens apart. Where they overlap, a token is scored in the first window
    that has it, so that all but those of the first window have block_size - stride or more tokens
    before them.
    """

    def __init__(self, ids, counts, block_size, batch_size, device, stride, rank=0, world_size=1):
        targets = len(ids) - 1
        windows = 1 + max(0, -(-(targets - block_size) // stride))
        super().__init__(ids, counts, windows, block_size, batch_size, device, rank, world_size)
        self._stride = stride

    def batches(self, epoch, first=0):
        for share in self._shares(first):
            windows = np.arange(share.start, share.stop)
            places = self._places(windows * self._stride)
            ids = self._ids[np.minimum(places, len(self._ids) - 1)]
            inputs, targets = ids[:, :-1], ids[:, 1:].astype(np.int64)
            targets[places[:, 1:] >= len(self._ids)] = IGNORED
            targets[windows > 0, : self._block_size - self._stride] = IGNORED
            yield self._on_device(inputs, targets)
