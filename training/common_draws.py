"""Let each process drop what one process alone would, in stochastic depth and dropout.

Every process has the same generator, draws for the whole global batch and takes the rows of its own
share. So what is dropped of a sample does not depend on how many processes there are, and a run
may go on with another number of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from utils import rank, share, world_size


class Rows:
    """Hold which rows of a global batch this process has, while it trains on them."""

    def __init__(self) -> None:
        self.total: int | None = None  # of the global batch; None outside of training
        self.first = 0

    @contextmanager
    def of_batch(self, size: int) -> Iterator[None]:
        """Train inside on this process's share of a global batch of `size` samples."""
        self.total, self.first = size, share(size, rank(), world_size()).start
        try:
            yield
        finally:
            self.total = None


class CommonDraw(nn.Module):
    """Multiply this process's rows by the factors that `layer` draws for all rows.

    Args:
        layer: multiplies its input by random factors in training.
        rows: of the batch.
    """

    def __init__(self, layer: nn.Module, rows: Rows):
        super().__init__()
        self.layer, self._rows = layer.train(), rows
        self._per_row = not isinstance(layer, nn.Dropout)  # a factor for a row, or for an element

    def train(self, mode: bool = True) -> "CommonDraw":
        """Set this layer's mode alone: what it wraps draws whenever it is called."""
        self.training = mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        total, first = self._rows.total, self._rows.first
        if total is None:
            return self.layer(x) if self.training else x
        shape = (1,) * (x.dim() - 1) if self._per_row else x.shape[1:]
        # Numbers are drawn in the order of memory.
        factors = self.layer(x.new_ones(total, *shape).to(memory_format=_layout(x)))
        # Not in training mode where a sample stands in for an empty share: it draws all the same.
        return x * factors[first : first + len(x)] if self.training else x


def _layout(x: Tensor) -> torch.memory_format:
    by_channels = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if by_channels else torch.contiguous_format


def made_common(model: nn.Module) -> Rows | None:
    """Let the layers of `model` that drop at random draw for all processes; return their rows.

    None with a single process, and where something of the network draws in another way: then
    nothing is changed, and each process is to have a generator of its own.
    """
    if world_size() == 1 or any(_draws_otherwise(module, model) for module in model.modules()):
        return None
    rows = Rows()
    for parent in tuple(model.modules()):
        for name, child in parent.named_children():
            if _is_by_rows(child) or (isinstance(child, nn.Dropout) and child.p > 0):
                setattr(parent, name, CommonDraw(child, rows))
    return rows


def _is_by_rows(module: nn.Module) -> bool:
    """Return whether it is stochastic depth that draws for every row: ours, or a package's."""
    if isinstance(module, StochasticDepth):
        return module.mode == "row"
    return type(module).__name__ == "DropPath"  # timm has several classes of that name


def _draws_otherwise(module: nn.Module, model: nn.Module) -> bool:
    """Return whether the module draws random numbers in training, and not for rows or elements."""
    if isinstance(module, StochasticDepth):
        return module.p > 0 and module.mode != "row"
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0 and type(module) is not nn.Dropout
    if _rate_of_attention(module) > 0 or isinstance(module, nn.RReLU):
        return True
    return _calls_dropout(module, model)


def _rate_of_attention(module: nn.Module) -> float:
    """Return the rate that a layer of attention hands to torch's function, by the packages' names.

    timm keeps it in a layer that is not called.
    """
    numbers, layer = getattr(module, "dropout", 0.0), getattr(module, "attn_drop", None)
    rate = numbers if isinstance(numbers, float) else 0.0
    return layer.p if isinstance(layer, nn.Dropout) else rate


def _calls_dropout(module: nn.Module, model: nn.Module) -> bool:
    """Return whether it has a rate, by timm's name, without a layer of that rate in the network.

    timm's ResNets and EfficientNets call torch's dropout as a function before their heads.
    """
    rate = getattr(module, "drop_rate", 0.0)
    layers = (each.p for each in model.modules() if isinstance(each, nn.Dropout))
    return isinstance(rate, float) and rate > 0 and rate not in layers
