"""Map coordinates to pixels by a multilayer perceptron, with SIREN and Fourier features.

- SIREN: Sitzmann et al. 2020, "Implicit neural representations with periodic activation functions",
  arXiv 2006.09661: sines as activations, and weights drawn for them.
- Fourier features: Tancik et al. 2020, "Fourier features let networks learn high frequency
  functions in low dimensional domains", arXiv 2006.10739: sines and cosines of the coordinates,
  of random frequencies that are not trained.
"""

import math
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.neighbours import Layer, Neighbours

COORDINATES = 2  # x and y


class Sine(nn.Module):
    """Apply SIREN's activation, f(x) = sin(omega x).

    Source: arXiv 2006.09661, whose code has omega = 30.
    """

    def __init__(self, omega: float = 30.0) -> None:
        super().__init__()
        self.omega = omega

    def forward(self, input: Tensor) -> Tensor:
        return torch.sin(self.omega * input)

    def extra_repr(self) -> str:
        return f"omega={self.omega:g}"


class FourierFeatures(nn.Module):
    """Map coordinates (N, 2) on [-1, 1] to features (N, 2 count): cos(2 pi b v) and sin(2 pi b v).

    v are the coordinates brought to [0, 1], as in the paper, and each of the `count` vectors b is
    drawn from a normal distribution of mean 0 and standard deviation `scale`: frequencies in
    periods per side of the image. They are a buffer, so that checkpoints hold them.

    Source: arXiv 2006.10739, section 6; 256 frequencies and a scale of 10 for images.
    """

    frequencies: Tensor  # (2, count)

    def __init__(self, count: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("frequencies", scale * torch.randn(COORDINATES, count))
        self.scale = scale

    def forward(self, coordinates: Tensor) -> Tensor:
        x, y = (coordinates + 1).mul(math.pi).unsqueeze(-1).unbind(-2)  # 2 pi v, each (N, 1)
        # Not a matrix product, which a GPU may compute from 10 bits of each number: angles go up
        # to hundreds.
        angles = x * self.frequencies[0] + y * self.frequencies[1]
        return torch.cat([angles.cos(), angles.sin()], -1)

    def extra_repr(self) -> str:
        return f"count={self.frequencies.shape[1]}, scale={self.scale:g}"


class CoordinateMLP(nn.Module):
    """Map coordinates (N, 2) on [-1, 1] to pixels (N, channels).

    A first linear layer reads the encoded coordinates, `hidden_layers` further ones follow, an
    activation behind each, and a last linear layer without one gives the pixels: with `Sine` that
    is SIREN, as in its authors' code.

    Under autocast, encoding and first layer stay in the coordinates' own precision: bfloat16 would
    not tell neighbouring pixels apart.

    Args:
        activation: makes a fresh activation for every place that has one.
        channels: of a pixel.
        hidden_width: features of a hidden layer.
        hidden_layers: linear layers between the first and the last one.
        encoding: "none"; "fourier", Fourier features; or "siren", sines behind the first layer
            whatever the other activations are.
        omega: of these sines.
        fourier_features: number of frequencies.
        fourier_scale: their standard deviation, in periods per side of the image.
    """

    def __init__(
        self,
        activation: Callable[[], nn.Module],
        channels: int,
        hidden_width: int = 256,
        hidden_layers: int = 3,
        encoding: str = "none",
        omega: float = 30.0,
        fourier_features: int = 256,
        fourier_scale: float = 10.0,
    ):
        super().__init__()
        self.encoding: nn.Module = nn.Identity()
        in_width = COORDINATES
        if encoding == "fourier":
            self.encoding = FourierFeatures(fourier_features, fourier_scale)
            in_width = 2 * fourier_features
        self.encodes_by_sines = encoding == "siren"
        self.first = nn.Linear(in_width, hidden_width)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["act0"] = Sine(omega) if self.encodes_by_sines else activation()
        for number in range(1, hidden_layers + 1):
            layers[f"linear{number}"] = nn.Linear(hidden_width, hidden_width)
            layers[f"act{number}"] = activation()
        layers["last"] = nn.Linear(hidden_width, channels)
        self.layers = nn.Sequential(layers)
        self.init_weights()

    def forward(self, coordinates: Tensor) -> Tensor:
        with torch.autocast(coordinates.device.type, enabled=False):
            features = self.first(self.encoding(coordinates))
        pixels: Tensor = self.layers(features)
        return pixels

    def _in_order(self) -> tuple[list[nn.Linear], list[nn.Module]]:
        """Return the linear layers, and the activations between each and the next."""
        layers = list(self.layers)
        linears = [self.first, *layers[1::2]]
        return [layer for layer in linears if isinstance(layer, nn.Linear)], layers[::2]

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw the weights; the biases stay as torch draws them, uniform in ±1/sqrt(n).

        A layer that feeds a `Sine`, or reads one and ends the network, has SIREN's weights: uniform
        in ±1/n where it reads coordinates and in ±sqrt(6/n)/omega where it reads sines, n being its
        inputs (section 3.2 and supplement 1 of the paper, and its code). All others have He's,
        normal with ReLU's gain, as the ReLU network that SIREN's authors compare with.
        """
        linears, activations = self._in_order()
        sines = [site if isinstance(site, Sine) else None for site in activations]
        for layer, sine in zip(linears, [*sines, sines[-1]], strict=True):
            inputs = layer.in_features
            if sine is None:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            elif layer is self.first and isinstance(self.encoding, nn.Identity):
                nn.init.uniform_(layer.weight, -1 / inputs, 1 / inputs)
            else:
                bound = math.sqrt(6 / inputs) / sine.omega
                nn.init.uniform_(layer.weight, -bound, bound)

    def around_activations(self) -> Neighbours:
        """Return the layers that feed an activation and that read one, but for encoding sines."""
        linears, _ = self._in_order()
        first = int(self.encodes_by_sines)
        feeding: list[Layer] = [*linears[first:-1]]
        reading: list[Layer] = [*linears[first + 1 :]]
        return Neighbours(feeding, reading)
