"""Build a plain MLP for rows of numbers."""

import math
from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from models.neighbours import Layer, Neighbours, own_modules

LAYER_NORM_EPS = 1e-5  # torch's default


class Hidden(nn.Sequential):
    """Apply a hidden layer: linear, the norm if there is one, activation, dropout if any."""

    def __init__(
        self,
        in_width: int,
        width: int,
        activation: Callable[[], nn.Module],
        norm: str,
        dropout: float,
    ):
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["linear"] = nn.Linear(in_width, width)  # its bias is redundant before BatchNorm
        if norm != "none":
            layers["norm"] = (
                nn.BatchNorm1d(width) if norm == "bn" else nn.LayerNorm(width, LAYER_NORM_EPS)
            )
        layers["act"] = activation()
        if dropout:
            layers["dropout"] = nn.Dropout(dropout)
        super().__init__(layers)


class TableMLP(nn.Sequential):
    """Map rows (B, num_features) to logits (B, num_classes); without hidden layers linearly.

    Args:
        activation: makes a fresh activation for every hidden layer.
        num_features: numbers in a row.
        num_classes: the number of logits.
        hidden_layers: how many, 0 or more.
        hidden_width: units of each.
        norm: between linear layer and activation: "bn" (Ioffe & Szegedy 2015, arXiv 1502.03167),
            "layer" (Ba et al. 2016, arXiv 1607.06450) or "none".
        dropout: the rate after each activation.
    """

    sample = "row"  # what the network reads one of, for texts

    def __init__(
        self,
        activation: Callable[[], nn.Module],
        num_features: int,
        num_classes: int,
        hidden_layers: int,
        hidden_width: int,
        norm: str,
        dropout: float,
    ):
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        width = num_features
        for number in range(1, hidden_layers + 1):
            layers[f"hidden{number}"] = Hidden(width, hidden_width, activation, norm, dropout)
            width = hidden_width
        layers["head"] = nn.Linear(width, num_classes)
        super().__init__(layers)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the weights as He et al. 2015 (arXiv 1502.01852), by fan-in; biases are 0.

        The layers behind an activation have ReLU's gain whatever the activation is, and the first
        one has gain 1: it reads standardised features. So with ReLU, and with `init_gain` "unit"
        for every activation, each layer gives products of second moment 1.
        """
        for number, layer in enumerate(self._linears()):
            squared_gain = 2 if number else 1
            nn.init.normal_(layer.weight, std=math.sqrt(squared_gain / layer.in_features))
            nn.init.zeros_(layer.bias)

    def around_activations(self) -> Neighbours:
        """Return the layers that feed an activation and those that read one."""
        linears: list[Layer] = [*self._linears()]
        norms: list[Layer] = [
            m for m in own_modules(self) if isinstance(m, nn.BatchNorm1d | nn.LayerNorm)
        ]
        return Neighbours(norms or linears[:-1], linears[1:])

    def _linears(self) -> list[nn.Linear]:
        """Return the linear layers in their order."""
        return [m for m in own_modules(self) if isinstance(m, nn.Linear)]
