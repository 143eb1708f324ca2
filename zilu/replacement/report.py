"""What replacing activations came to, site by site."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """One activation of a network."""

    path: str  # of the module, or of the one whose forward makes the call
    kind: str  # what it was, "ReLU"
    was: str  # "ReLU(inplace=True)", or the called function: "relu()"
    now: str | None = None  # what it is, if it was replaced
    reason: str | None = None  # why it was left, or what there is to know
    source: str | None = None  # of a call: "torchvision.models.densenet:216"
    calls: int | None = None  # on example_input, in the mode in which there were more

    @property
    def replaced(self) -> bool:
        return self.now is not None

    def __str__(self) -> str:
        place = f" at {self.source}" if self.source else ""
        change = f" -> {self.now}" if self.replaced else ""
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self.path or 'the model itself'}: {self.was}{place}{change}{reason}"


@dataclass(frozen=True)
class Report:
    """What `replace_activations` did. `str(report)` lists every site.

    Attributes:
        sites: all activations found, those left included.
        notes: what could not be looked at.
    """

    sites: tuple[Site, ...]
    notes: tuple[str, ...] = ()

    @property
    def replaced(self) -> tuple[Site, ...]:
        return tuple(site for site in self.sites if site.replaced)

    @property
    def left(self) -> tuple[Site, ...]:
        return tuple(site for site in self.sites if not site.replaced)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"Replaced: {counted(self.replaced)}"
        yield from (f"  {site}" for site in self.replaced)
        yield f"Left: {counted(self.left)}"
        yield from (f"  {site}" for site in self.left)
        yield from (f"Note: {note}" for note in self.notes)


def counted(sites: tuple[Site, ...]) -> str:
    """How many of which kind: `17 (16 ReLU, 1 GELU)`."""
    kinds = Counter(site.kind for site in sites)
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return f"{len(sites)} ({listed})" if listed else "none"
