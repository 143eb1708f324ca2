"""Write the numbers of stats.jsonl for TensorBoard."""

from pathlib import Path
from typing import Any


class Board:
    """Write event files into a folder; they are opened with the first record.

    An interrupted run may have logged more than its checkpoint knows. What it logged from the step
    of the first record on is hidden.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._writer: Any = None

    def add(self, record: dict[str, Any]) -> None:
        """Add a record of stats.jsonl: a point to the curve of each number of each site."""
        writer = self._opened(record["step"])
        for path, numbers in record.get("sites", {}).items():
            for name, value in numbers.items():
                if value is not None:
                    writer.add_scalar(f"{name}/{path}", value, record["step"])
        for path, counts in record.get("channels", {}).items():
            writer.add_scalar(f"dead_channels/{path}", counts["dead"], record["step"])
        writer.flush()

    def _opened(self, step: int) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # an optional dependency

            self._writer = SummaryWriter(str(self.folder), purge_step=step)
        return self._writer
