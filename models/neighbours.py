"""Name the layers next to a network's activations, whose initial weights other modules scale."""

from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from torch import nn

Layer: TypeAlias = nn.Linear | nn.Conv2d | nn.BatchNorm2d | nn.GroupNorm


class Neighbours(NamedTuple):
    """Hold the layers next to a network's activations.

    Attributes:
        feeding: the layers whose output an activation reads.
        reading: the layers that read an activation's output. A layer may be in both lists.
    """

    feeding: list[Layer]
    reading: list[Layer]


@runtime_checkable
class HasNeighbours(Protocol):
    """Describe a network that can say which layers are next to its activations."""

    def around_activations(self) -> Neighbours: ...
