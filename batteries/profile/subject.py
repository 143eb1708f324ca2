"""Make the activation that is looked at, and call it on numbers."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from analysis.variants import Variant
from benchmarks.accuracy import value_and_slope
from benchmarks.arms import Arm
from zilu.custom.activation import load
from zilu.custom.trial import fitting_shape
from zilu.names import custom_name

Function = Callable[[Tensor], Tensor]
PLAIN_SHAPE = (2, 8, 2, 2)  # which the activations by name all take
SEED = 0  # of what an activation draws when it is made, and of all that is drawn here


@dataclass(frozen=True)
class Subject:
    """Hold an activation, and a shape that it takes.

    Attributes:
        label: as reports name it.
        make: makes a new module of it.
        shape: (samples, ...).
    """

    label: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...] = PLAIN_SHAPE

    @classmethod
    def of(cls, arm: Arm) -> "Subject":
        """Return an activation by its name and options.

        Raises:
            ValueError: it cannot be made, or takes none of the usual shapes.
        """
        label = Variant(arm.name, arm.sigma, arm.learned, arm.expanded).label
        if custom_name(arm.activation) is None:
            return cls(label, arm.build)
        with seeded():
            shape = fitting_shape(load(arm.activation), arm.build())
        return cls(label, arm.build, shape)

    def module(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """Return a new module with numbers of a type, as it evaluates."""
        with seeded():
            return self.make().to(dtype).eval()

    def function(self, module: nn.Module) -> Function:
        """Return a module of an elementwise activation as a function of numbers (n,)."""
        rest = self.shape[1:]
        size = math.prod(rest)

        def call(x: Tensor) -> Tensor:
            padded = functional.pad(x, (0, -len(x) % size))
            return module(padded.view(-1, *rest)).reshape(-1)[: len(x)]

        return call

    def exact(self) -> Function:
        """Return the elementwise function in float64, without gradients."""
        return torch.no_grad()(self.function(self.module()))

    def slopes(self) -> Function:
        """Return what backward gives in float64, where the output's gradient is 1."""
        function = self.function(self.module())
        return lambda x: value_and_slope(function, x.clone())[1]


@contextmanager
def seeded() -> Iterator[None]:
    """Let nothing inside the block depend on random generators' state, or change it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        yield
