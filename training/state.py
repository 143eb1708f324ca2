"""Hold how far a run has come, and how often it is saved."""

import math
import re
from dataclasses import dataclass, field

from run_folder.result_lines import Record


@dataclass(frozen=True)
class SaveInterval:
    """Say how often to save: after so many epochs, steps or seconds, whichever is over first."""

    epochs: float = math.inf
    steps: float = math.inf
    seconds: float = math.inf

    @classmethod
    def parse(cls, text: str) -> "SaveInterval":
        """Read `1ep`, `500` steps, `10min`, or several of them: `1ep,10min`."""
        every = {}
        for part in text.split(","):
            count, unit = re.split(r"(?=ep|min)|$", part, maxsplit=1)
            name = {"ep": "epochs", "": "steps", "min": "seconds"}[unit]
            every[name] = float(count) * (60 if unit == "min" else 1)
        return cls(**every)


@dataclass
class Place:
    """Say how far an epoch has come: in steps, and in seconds of training and evaluation."""

    epoch: int = 1
    steps: int = 0
    train_seconds: float = 0.0
    eval_seconds: float = 0.0


@dataclass
class State:
    """Hold what a run is besides weights, optimizer and random generators."""

    step: int = 0
    place: Place = field(default_factory=Place)
    records: list[Record] = field(default_factory=list)  # of every evaluation
