"""Files with activations of a user's own, good ones and mistakes."""

GOOD = """
import torch
from torch import nn

from scales import scale


class Squash(nn.Module):
    \"\"\"Its slope at 0 is beta; `gain` starts at random, `mix` is a layer of its own.\"\"\"

    def __init__(self, beta=1.0):
        super().__init__()
        self.beta = beta
        self.gain = nn.Parameter(1 + 0.1 * torch.rand(1))
        self.mix = nn.Linear(3, 3)

    def forward(self, x):
        return scale(self.gain * torch.tanh(self.beta * x)) + 0 * self.mix.weight.sum()


class Soft(nn.Module):
    def __init__(self, sigma=1.0, learnable=False, inplace=False):
        super().__init__()
        self.sigma = nn.Parameter(torch.full((2,), float(sigma))) if learnable else sigma
        self.inplace = inplace

    def forward(self, x):
        sigma = self.sigma.mean() if isinstance(self.sigma, torch.Tensor) else self.sigma
        return x * torch.sigmoid(sigma * x)


def power(x, exponent=2):
    return torch.relu(x) ** exponent
"""
NEIGHBOUR = "def scale(x):\n    return 2 * x\n"

# Each with a word of the line that it ends in.
MISTAKES = {
    "two": ("def two(x, y):\n    return x * y\n", "'y'"),
    "shape": ("def shape(x):\n    return x.flatten()\n", "shape"),
    "dtype": ("def dtype(x):\n    return x.double()\n", "float64"),
    "pair": ("def pair(x):\n    return x, x\n", "tuple"),
    "overwrites": ("def overwrites(x):\n    return x.mul_(2)\n", "overwrites"),
    "needed": (
        "def needed(x):\n    y = x.exp()\n    z = y * x\n    y.add_(1)\n    return y * z\n",
        "backward",
    ),
    "detached": ("def detached(x):\n    return (x > 0).float()\n", "gradient"),
    "constant": ("def constant(x):\n    return torch.full_like(x, 1.0) * ONE\n", "parameter"),
    "nothing": ("def nothing(x):\n    return x * float('nan')\n", "NaN"),
    "fails": ("def fails(x):\n    return x.no_such_method()\n", "line"),
    "number": ("number = 3\n", "int"),
    "Plain": ("class Plain:\n    pass\n", "torch.nn.Module"),
    "one": ("one = torch.nn.ReLU()\n", "share"),
    "Hidden": (
        "class Hidden(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.kept = [torch.nn.Parameter(torch.ones(1))]\n"
        "    def forward(self, x):\n"
        "        return x * self.kept[0]\n",
        "parameter",
    ),
}


def write(folder):
    """Write mine.py with its neighbour, and mistakes.py."""
    (folder / "mine.py").write_text(GOOD)
    (folder / "scales.py").write_text(NEIGHBOUR)
    parts = [text for text, _ in MISTAKES.values()]
    header = "import torch\n\nONE = torch.ones(1, requires_grad=True)\n\n\n"
    (folder / "mistakes.py").write_text(header + "\n\n".join(parts))
    return folder
