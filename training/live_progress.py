"""Write how an epoch goes on into progress.json, for `report.py --watch`."""

from collections.abc import Iterable, Iterator
from time import perf_counter, time
from typing import Any, TypeVar

from run_folder.folder import RunFolder

T = TypeVar("T")

SECONDS = 3  # between two writes in training
LEAST = 1  # between a write and one that an evaluation begins with
READ_SECONDS = 10  # after a reading of the loss; one empties the device's queue


class LiveProgress:
    """Count the steps and the seconds of a training, and write both down every few seconds.

    All times are the host's, and nothing here waits for a device: the loss is the one that the loop
    has read last. Rates are those since the write before.

    Args:
        folder: gets progress.json, in the main process.
        counted: what a task counts, "images".
        planned: what stays the same, such as "epochs" and "total_steps".
    """

    def __init__(self, folder: RunFolder, counted: str, planned: dict[str, int]):
        self.folder, self.rate, self.planned = folder, f"{counted}_per_second", planned
        self.loss: float | None = None  # mean over the epoch so far
        self.count_per_step: float | None = None
        self.written_at = self.read_at = -float("inf")
        self.restart()

    def restart(self) -> None:
        """Begin to count anew, after something else than steps took time."""
        self.begun, self.waited, self.steps = perf_counter(), 0.0, 0

    def batches(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield what a loader does, and add up how long it takes."""
        iterator = iter(batches)
        while True:
            asked = perf_counter()
            batch = next(iterator, None)
            self.waited += perf_counter() - asked
            if batch is None:
                return
            yield batch

    def read(self, metrics: dict[str, float], steps: int) -> None:
        """Note training metrics of an epoch's first `steps` steps."""
        self.loss, self.count_per_step = metrics["loss"], metrics["count"] / max(1, steps)
        self.read_at = perf_counter()

    def asks_for_loss(self) -> bool:
        """Return whether the loss is old.

        It is asked for once, since several processes agree to read it only some steps later.
        """
        is_old = perf_counter() - self.read_at >= READ_SECONDS
        if is_old:
            self.read_at = perf_counter()
        return is_old

    def step(self, epoch: int, step: int, total_step: int) -> None:
        """Count a step, and write when it is time.

        Args:
            epoch: from 1.
            step: of the epoch, from 1.
            total_step: of the whole training, from 1.
        """
        self.steps += 1
        if perf_counter() - self.written_at >= SECONDS:
            self._write("training", epoch, step, total_step)
            self.restart()

    def evaluation(self, epoch: int, step: int, total_step: int) -> None:
        """Write that an evaluation begins, unless something was written just now."""
        if perf_counter() - self.written_at >= LEAST:
            self._write("evaluation", epoch, step, total_step)

    def end(self) -> None:
        """Remove the file: the results tell what became of the run."""
        self.folder.remove_progress()

    def _write(self, phase: str, epoch: int, step: int, total_step: int) -> None:
        self.written_at = perf_counter()
        content: dict[str, Any] = {"phase": phase, "epoch": epoch, "step": step}
        content |= {"total_step": total_step, **self.planned, "loss": self.loss}
        seconds = self.written_at - self.begun
        if self.steps and seconds:
            per_second = self.steps / seconds
            content |= {"steps_per_second": per_second, "data_share": self.waited / seconds}
            if self.count_per_step is not None:
                content[self.rate] = self.count_per_step * per_second
        self.folder.write_progress(content | {"time": time()})
