"""The numbers of stats.jsonl for TensorBoard."""

from pathlib import Path


class Board:
    """Event files in a folder.

    Args:
        step: the training goes on from there; what an interrupted run logged later is hidden.
    """

    def __init__(self, folder: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step)

    def add(self, record: dict) -> None:
        """A record of stats.jsonl: a curve for each number of each site."""
        for path, numbers in record.get("sites", {}).items():
            for name, value in numbers.items():
                if value is not None:
                    self._writer.add_scalar(f"{name}/{path}", value, record["step"])
        for path, counts in record.get("channels", {}).items():
            self._writer.add_scalar(f"dead_channels/{path}", counts["dead"], record["step"])
        self._writer.flush()
