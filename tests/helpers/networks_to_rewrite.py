"""Small networks that call activations in every way, to be rewritten."""

import torch
from torch import nn
from torch.nn import functional as F

from zilu import replace_activations

X = torch.randn(4, 8)


def rewritten(model, mapping="ZiLU", x=X, **options):
    """The report; whatever was asked for must have been replaced."""
    return replace_activations(
        model, mapping, example_input=x, functional="rewrite", strict=True, **options
    )


class Block(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.linear, self.act = nn.Linear(8, 8), act

    def forward(self, x):
        return self.act(self.linear(x))


class Calls(nn.Module):
    """One of every way to call ReLU, two of them in one line, and a gate."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        x = F.relu(self.a(x))
        x = F.relu(self.a(x), inplace=True)
        x = torch.relu(self.b(x)) - torch.relu(self.a(x))
        x = self.b(x).relu()
        x = F.relu_(self.b(x))
        return self.a(x).relu_() * torch.sigmoid(x)

    def reference(self, x, act):
        """The same with `act`, a function of x and the number of the site."""
        x = act(self.a(x), 0)
        x = act(self.a(x), 1)
        x = act(self.b(x), 2) - act(self.a(x), 3)
        x = act(self.b(x), 4)
        x = act(self.b(x), 5)
        return act(self.a(x), 6) * torch.sigmoid(x)


class Both(nn.Module):
    def __init__(self, calls):
        super().__init__()
        self.calls, self.act = calls, nn.ReLU()

    def forward(self, x):
        return self.act(self.calls(x))
