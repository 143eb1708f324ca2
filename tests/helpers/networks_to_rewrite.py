"""Build small networks that call activations in every way, to test rewriting them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zilu import replace_activations
from zilu.replacement.replace import Report

X = torch.randn(4, 8)


def rewritten(model: nn.Module, mapping: Any = "ZiLU", x: Any = X, **options: Any) -> Report:
    """Replace all that is asked for, function calls too, and return the report."""
    return replace_activations(
        model, mapping, example_input=x, functional="rewrite", strict=True, **options
    )


class Block(nn.Module):
    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.linear, self.act = nn.Linear(8, 8), act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.linear(x))


class Calls(nn.Module):
    """Call ReLU in each possible way, twice in one line, and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = F.relu(self.a(x), inplace=True)
        x = torch.relu(self.b(x)) - torch.relu(self.a(x))
        x = self.b(x).relu()
        x = F.relu_(self.b(x))
        return self.a(x).relu_() * torch.sigmoid(x)

    def reference(self, x: Tensor, act: Callable[[Tensor, int], Tensor]) -> Tensor:
        """Compute the same with `act`, a function of x and of the call's number."""
        x = act(self.a(x), 0)
        x = act(self.a(x), 1)
        x = act(self.b(x), 2) - act(self.a(x), 3)
        x = act(self.b(x), 4)
        x = act(self.b(x), 5)
        return act(self.a(x), 6) * torch.sigmoid(x)


class Both(nn.Module):
    def __init__(self, calls: nn.Module) -> None:
        super().__init__()
        self.calls, self.act = calls, nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.calls(x))
