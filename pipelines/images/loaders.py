"""Loaders: the order of an epoch, and batches of it from memory or from files.

A loader has `batch_size`, `num_samples`, `len()` (batches per epoch, the last, smaller one
included) and `batches(epoch, first=0)`, an iterator over the batches from number `first` on of

    images   float32 (B, 3, H, W), normalised, channels_last, on the device
    targets  int64 (B,), on the device

With a `data_seed` it is a training loader: order and augmentation are a function of (data_seed,
epoch) and of nothing else. They are drawn on the CPU, for the whole epoch at its start, so that a
batch does not depend on the kind of device, nor on the batches before it. Only noise, a value per
pixel and too much to move, is drawn on the device batch by batch: a GPU's is not a CPU's. Without
a data_seed it is an evaluation loader: the given order, nothing drawn.

Where `world_size` processes train together these are all the global numbers, and `batches` gives
process `rank` its share of each batch (utils.share), which may be empty. Put together, the shares
are the batch that one process alone would have.
"""

import atexit
import signal
import weakref

import numpy as np
import torch
from torch.utils.data import DataLoader

from utils import UserError, mixed_seed, shares


class _Loader:
    def __init__(self, targets, transform, batch_size, device, data_seed, rank, world_size):
        self.num_samples = len(targets)
        self.batch_size = batch_size
        self._transform = transform
        self._device = device
        self._data_seed = data_seed
        self._rank, self._world_size = rank, world_size

    def __len__(self):
        return -(-self.num_samples // self.batch_size)

    def batches(self, epoch, first=0):
        order, choices = self._draw(epoch)
        places = [*shares(self.num_samples, self.batch_size, first, self._rank, self._world_size)]
        read = self._read(order, places, epoch)
        for number, (place, (pixels, targets)) in enumerate(zip(places, read, strict=True), first):
            chosen = {name: values[place] for name, values in choices.items()}
            yield self._transform(pixels, chosen, self._noise(epoch, number, place)), targets

    def _draw(self, epoch):
        """The epoch's order, and what is chosen for the image in each place of it."""
        if self._data_seed is None:
            return torch.arange(self.num_samples), {}
        generator = torch.Generator().manual_seed(mixed_seed(self._data_seed, epoch))
        order = torch.randperm(self.num_samples, generator=generator)
        choices = self._transform.draw(self.num_samples, generator)
        return order, {name: values.to(self._device) for name, values in choices.items()}

    def _noise(self, epoch, number, place):
        """Noise for `place`: of that for the whole of batch `number`, which every process draws."""
        if self._data_seed is None or not self._transform.noise:
            return None
        generator = torch.Generator(self._device)
        generator.manual_seed(mixed_seed("noise", self._data_seed, epoch, number))
        start = number * self.batch_size
        noise = self._transform.draw_noise(self.batch_size, generator)
        return noise[place.start - start : place.stop - start]


class MemoryLoader(_Loader):
    """Batches out of one uint8 (N, H, W, 3) array that lives on the device."""

    def __init__(
        self, images, targets, transform, batch_size, device, data_seed=None, rank=0, world_size=1
    ):
        super().__init__(targets, transform, batch_size, device, data_seed, rank, world_size)
        self._images = torch.from_numpy(images).to(device)
        self._targets = torch.from_numpy(targets).to(device)

    def _read(self, order, places, epoch):
        order = order.to(self._device)
        for place in places:
            chosen = order[place]
            yield self._images.index_select(0, chosen), self._targets.index_select(0, chosen)


class StreamLoader(_Loader):
    """Batches out of image files, read by worker processes and finished on the device.

    read(path, seed) gives uint8 (read.size, read.size, 3); seed is None in evaluation. The workers
    live as long as the loader: one epoch at a time, a new call of `batches` ends the one before.
    """

    def __init__(
        self,
        paths,
        targets,
        read,
        transform,
        batch_size,
        device,
        num_workers,
        data_seed=None,
        rank=0,
        world_size=1,
    ):
        super().__init__(targets, transform, batch_size, device, data_seed, rank, world_size)
        self._keys = _Keys(data_seed)
        self._loader = DataLoader(
            _Files(paths, targets, read),
            batch_sampler=self._keys,
            num_workers=num_workers,
            collate_fn=_as_is,
            worker_init_fn=_outlive_signals,
            persistent_workers=num_workers > 0,
            pin_memory=torch.device(device).type == "cuda",
            # Without a generator of its own a DataLoader draws from the global one, and dropout
            # would depend on where the data comes from.
            generator=torch.Generator(),
        )

    def _read(self, order, places, epoch):
        self._keys.start([order[place] for place in places], epoch)
        iterator = iter(self._loader)
        if self._loader.num_workers:
            _end_with_program(iterator)
        for batch in iterator:
            if isinstance(batch, str):
                raise UserError(batch)
            yield tuple(part.to(self._device, non_blocking=True) for part in batch)


class _Keys:
    """Tells the workers what to read in the epoch begun last: batches of (index, image's seed).

    The seed travels with the index, since workers that live on know of no epoch.
    """

    def __init__(self, data_seed):
        self._data_seed = data_seed

    def start(self, batches, epoch):
        self._batches, self._epoch = batches, epoch

    def __iter__(self):
        epoch = self._epoch
        for chosen in self._batches:
            yield [(index, self._image_seed(epoch, index)) for index in chosen.tolist()]

    def _image_seed(self, epoch, index):
        return None if self._data_seed is None else mixed_seed(self._data_seed, epoch, index)


class _Files:
    """The DataLoader's data set: a whole batch at a time, in a worker."""

    def __init__(self, paths, targets, read):
        self._paths, self._targets, self._read = paths, targets, read

    def __getitems__(self, keys):
        images = np.empty((len(keys), self._read.size, self._read.size, 3), np.uint8)
        # An error is handed over as its message: raised here, it would be wrapped in a traceback.
        try:
            for row, (index, seed) in enumerate(keys):
                images[row] = self._read(self._paths[index], seed)
        except UserError as error:
            return str(error)
        targets = self._targets[[index for index, _ in keys]]
        return torch.from_numpy(images), torch.from_numpy(targets)


def _as_is(batch):
    return batch


# --- how workers live and die ---

_with_workers = weakref.WeakSet()  # iterators of DataLoaders


def _outlive_signals(worker):
    """What asks the main process to stop reaches its workers as well, by Ctrl-C or from SLURM.

    The main process has a step to finish and its state to save; then it ends them itself.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _end_with_program(iterator):
    """Python would end its daemons with SIGTERM, and wait for ever for ours."""
    _with_workers.add(iterator)
    atexit.unregister(_end_workers)
    atexit.register(_end_workers)  # again: what was registered last is called first


def _end_workers():
    for iterator in tuple(_with_workers):
        iterator._shutdown_workers()
