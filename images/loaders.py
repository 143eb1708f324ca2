"""Loaders: the order of an epoch, and batches of it from memory or from files.

A loader has `batch_size`, `num_samples`, `len()` (batches per epoch, the last, smaller one
included) and `batches(epoch)`, an iterator of

    images   float32 (B, 3, H, W), normalised, channels_last, on the device
    targets  int64 (B,), on the device

With a `data_seed` it is a training loader: order and augmentation are a function of (data_seed,
epoch) and of the kind of device, whose generator draws them, and of nothing else. Without one it
is an evaluation loader: the given order, nothing drawn.
"""

import torch
from torch.utils.data import DataLoader

from utils import UserError, mixed_seed


class _Loader:
    def __init__(self, targets, transform, batch_size, device, data_seed):
        self.num_samples = len(targets)
        self.batch_size = batch_size
        self._transform = transform
        self._device = device
        self._data_seed = data_seed

    def __len__(self):
        return -(-self.num_samples // self.batch_size)

    def _start(self, epoch):
        """The epoch's one generator, and the order as an index on the device."""
        if self._data_seed is None:
            return None, torch.arange(self.num_samples, device=self._device)
        generator = torch.Generator(self._device)
        generator.manual_seed(mixed_seed(self._data_seed, epoch))
        order = torch.randperm(self.num_samples, generator=generator, device=self._device)
        return generator, order


class MemoryLoader(_Loader):
    """Batches out of one uint8 (N, H, W, 3) array that lives on the device."""

    def __init__(self, images, targets, transform, batch_size, device, data_seed=None):
        super().__init__(targets, transform, batch_size, device, data_seed)
        self._images = torch.from_numpy(images).to(device)
        self._targets = torch.from_numpy(targets).to(device)

    def batches(self, epoch):
        generator, order = self._start(epoch)
        for chosen in order.split(self.batch_size):
            pixels = self._images.index_select(0, chosen)
            yield self._transform(pixels, generator), self._targets.index_select(0, chosen)


class StreamLoader(_Loader):
    """Batches out of image files, read by worker processes and finished on the device.

    read(path, seed) gives uint8 (H, W, 3); seed is None in evaluation. The workers live as long
    as the loader: one epoch at a time, a new call of `batches` ends the one before.
    """

    def __init__(
        self, paths, targets, read, transform, batch_size, device, num_workers, data_seed=None
    ):
        super().__init__(targets, transform, batch_size, device, data_seed)
        self._keys = _Keys(batch_size, data_seed)
        self._loader = DataLoader(
            _Files(paths, targets, read),
            batch_sampler=self._keys,
            num_workers=num_workers,
            collate_fn=_as_is,
            persistent_workers=num_workers > 0,
            pin_memory=torch.device(device).type == "cuda",
            # Without a generator of its own a DataLoader draws from the global one, and dropout
            # would depend on where the data comes from.
            generator=torch.Generator(),
        )

    def batches(self, epoch):
        generator, order = self._start(epoch)
        self._keys.start(order.cpu(), epoch)
        for batch in self._loader:
            if isinstance(batch, str):
                raise UserError(batch)
            pixels, targets = (part.to(self._device, non_blocking=True) for part in batch)
            yield self._transform(pixels, generator), targets


class _Keys:
    """Tells the workers what to read in the epoch begun last: batches of (index, image's seed).

    The seed travels with the index, since workers that live on know of no epoch.
    """

    def __init__(self, batch_size, data_seed):
        self._batch_size, self._data_seed = batch_size, data_seed

    def start(self, order, epoch):
        self._order, self._epoch = order, epoch

    def __iter__(self):
        epoch = self._epoch
        for chosen in self._order.split(self._batch_size):
            yield [(index, self._image_seed(epoch, index)) for index in chosen.tolist()]

    def _image_seed(self, epoch, index):
        return None if self._data_seed is None else mixed_seed(self._data_seed, epoch, index)


class _Files:
    """The DataLoader's data set: a whole batch at a time, in a worker."""

    def __init__(self, paths, targets, read):
        self._paths, self._targets, self._read = paths, targets, read

    def __getitems__(self, keys):
        # An error is handed over as its message: raised here, it would be wrapped in a traceback.
        try:
            images = [torch.from_numpy(self._read(self._paths[i], seed)) for i, seed in keys]
        except UserError as error:
            return str(error)
        return torch.stack(images), torch.from_numpy(self._targets[[i for i, _ in keys]])


def _as_is(batch):
    return batch
