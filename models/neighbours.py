"""Name the layers next to a network's activations, whose initial weights other modules scale."""

from collections.abc import Iterable
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from torch import nn

from zilu.custom.activation import is_custom

Layer: TypeAlias = (
    nn.Linear | nn.Conv2d | nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm
)


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


def named_own_modules(network: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """Return a network's modules by path, without what is inside a user's own activation.

    That may have linear layers too, which the network neither draws nor scales.
    """
    inside = {part for site in network.modules() if is_custom(site) for part in site.modules()}
    return [(path, part) for path, part in network.named_modules() if part not in inside]


def own_modules(network: nn.Module) -> Iterable[nn.Module]:
    """Return the modules of `named_own_modules`."""
    return [part for _, part in named_own_modules(network)]
