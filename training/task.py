"""Say what the loop asks of a task, of a loader and of the data."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

Batch = tuple[Tensor, ...]  # all with a row for each sample


class Loader(Protocol):
    """Yield the batches of an epoch."""

    batch_size: int  # of a batch over all ranks
    num_samples: int  # of an epoch, over all ranks

    def __len__(self) -> int:
        """Return the number of batches in an epoch; the last may be smaller."""
        ...

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield this rank's share of an epoch's batches from number `first` on, on the device.

        They are a pure function of the epoch. A share may be empty.
        """
        ...


def batch_sizes(loader: Loader) -> set[int]:
    """Return the sizes of an epoch's batches: the full one, and the last one's."""
    sizes = {
        min(loader.batch_size, loader.num_samples),
        loader.num_samples % loader.batch_size,
    }
    return sizes - {0}


class Data(Protocol):
    """Hold the loaders of the three splits; `val` is None where nothing is held out."""

    train: Any  # Loader
    val: Any  # Loader | None
    test: Any  # Loader
    also: Any  # Mapping[str, FurtherTest]: test sets beside the test split, by name
    description: str  # one line for the log


D = TypeVar("D", bound=Data)


class Task(Protocol):
    """Say how a batch becomes a loss and metrics."""

    counted: str  # the samples that `count` counts, "images"
    test_each_epoch: bool  # or the test split is evaluated once, at the end

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss, a mean over the batch's samples, and a vector of sums over them."""
        ...

    def metrics(self, sums: list[float], loader: Any) -> dict[str, float]:
        """Turn the sums over what was read of `loader` into metrics, with "loss" and "count"."""
        ...

    def describe(self, metrics: dict[str, float]) -> str:
        """Return the metrics as they stand in a line of results."""
        ...

    def score(self, metrics: dict[str, float]) -> float:
        """Return what the best epoch has most of."""
        ...

    def predictions(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return what predictions.npz holds of a batch: tensors with a row for each sample."""
        ...

    def flops(self, model: nn.Module) -> float | None:
        """Return the operations of a training step per sample counted, where known."""
        ...


def size_of_batch(loader: Loader, number: int) -> int:
    """Return the samples in an epoch's batch of that number, over all ranks."""
    return min(loader.batch_size, loader.num_samples - number * loader.batch_size)


def in_groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Yield lists of `size` batches; the last may be shorter."""
    batches = iter(batches)
    while group := list(islice(batches, size)):
        yield group
