"""Networks of coordinates: SIREN's weights, Fourier features, gradients and Laplacians."""

import functools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from models.coordinate_mlp import CoordinateMLP, FourierFeatures, Sine
from models.derivatives import derivatives
from models.init_gain import unit_gain
from models.rescale import rescale_around_activations
from zilu import ZiLU, create_activation
from zilu.names import ACTIVATIONS


def network(activation=Sine, channels=3, seed=0, **options):
    torch.manual_seed(seed)
    return CoordinateMLP(activation, channels, **options)


def linears(model):
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def points(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 2, generator=generator, dtype=torch.float64) * 2 - 1


# --- SIREN's published initialisation ---


@pytest.mark.parametrize("encoding", ["none", "siren"])
@pytest.mark.parametrize("omega", [30.0, 7.0])
def test_sirens_weights_fill_their_bounds(encoding, omega):
    width = 128
    model = network(functools.partial(Sine, omega), encoding=encoding, omega=omega,
                    hidden_width=width)  # fmt: skip
    first, *others = linears(model)
    assert [layer.in_features for layer in others] == [width] * 4
    bounds = [(first, 1 / 2), *((layer, math.sqrt(6 / width) / omega) for layer in others)]
    for layer, bound in bounds:
        scaled = layer.weight.detach().flatten() / bound
        assert scaled.abs().max() <= 1
        assert stats.kstest(scaled.numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3
        biases = layer.bias.detach() * math.sqrt(layer.in_features)
        assert biases.abs().max() <= 1


def test_the_first_layer_is_the_same_siren_with_or_without_the_encoding():
    plain, encoded = (network(encoding=encoding) for encoding in ("none", "siren"))
    x = points(5).float()
    assert torch.equal(plain(x), encoded(x))


def test_behind_fourier_features_all_layers_are_hidden_ones():
    """Which read sines, whose second moment is a half."""
    model = network(encoding="fourier", fourier_features=1, hidden_width=64)
    weights = model.first.weight.detach()
    bound = math.sqrt(6 / 2) / 30
    assert 0.9 * bound < weights.abs().max() <= bound


def test_sirens_layers_are_distributed_as_the_paper_shows():
    """Theorem 1.8 and figure 2 of its supplement: arguments of sines are normal, with a spread of
    about 1 in every layer, and sines have an arcsine distribution."""
    model = network(hidden_width=1024, hidden_layers=4)
    for layer in linears(model):
        nn.init.zeros_(layer.bias)  # which the theorem has none of
    features = points(64).float()
    arguments = []
    with torch.no_grad():
        for layer in (model.first, *model.layers):
            if isinstance(layer, Sine):
                arguments.append((layer.omega * features).flatten().numpy())
            features = layer(features)
    first, *hidden = arguments
    sines = stats.arcsine(-1, 2)
    assert stats.kstest(np.sin(first), sines.cdf).statistic < 0.02
    for each in hidden:
        assert 0.85 < each.std() < 1.05
        assert stats.kstest(each / each.std(), "norm").statistic < 0.02
        assert stats.kstest(np.sin(each), sines.cdf).statistic < 0.1


def test_another_networks_weights_are_hes():
    model = network(nn.ReLU, encoding="siren", hidden_width=256)
    first, *others = linears(model)
    assert first.weight.abs().max() <= 1 / 2
    for layer in others[:-1]:
        scaled = layer.weight.detach().flatten() * math.sqrt(256 / 2)
        assert stats.kstest(scaled.numpy(), "norm").pvalue > 1e-3


def test_weights_do_not_depend_on_the_activation():
    relu, zilu = (network(each).state_dict() for each in (nn.ReLU, ZiLU))
    assert all(torch.equal(value, zilu[name]) for name, value in relu.items())


# --- Fourier features ---


def test_fourier_features_are_sines_and_cosines_of_the_image_in_periods():
    torch.manual_seed(3)
    encoding = FourierFeatures(8, 4.0)
    x = points(50)
    frequencies = encoding.frequencies.double().numpy()
    angles = 2 * np.pi * ((x.numpy() + 1) / 2) @ frequencies
    wanted = np.concatenate([np.cos(angles), np.sin(angles)], 1)
    assert np.allclose(encoding.double()(x).numpy(), wanted, atol=1e-12)
    assert np.allclose(encoding.float()(x.float()).numpy(), wanted, atol=1e-4)


def test_the_frequencies_are_drawn_from_the_seed_with_their_scale():
    one, same, other = (network(ZiLU, encoding="fourier", seed=s).encoding for s in (0, 0, 1))
    assert torch.equal(one.frequencies, same.frequencies)
    assert not torch.equal(one.frequencies, other.frequencies)
    assert stats.kstest(one.frequencies.flatten().numpy() / 10, "norm").pvalue > 1e-3
    model = network(ZiLU, encoding="fourier")
    assert "encoding.frequencies" in model.state_dict()
    assert "encoding.frequencies" not in dict(model.named_parameters())


@pytest.mark.parametrize("encoding", ["none", "fourier", "siren"])
def test_mixed_precision_tells_neighbouring_pixels_apart(encoding):
    """256 pixels: bfloat16 has eight bits."""
    model = network(Sine if encoding == "siren" else ZiLU, encoding=encoding, hidden_width=32)
    seen = []
    model.first.register_forward_hook(lambda module, given, result: seen.append(result))
    x = torch.zeros(256, 2)
    x[:, 0] = torch.arange(256) / 128 - 1
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
    assert seen[0].dtype == torch.float32
    assert len(torch.unique(seen[0], dim=0)) == 256


# --- the layers around activations ---


@pytest.mark.parametrize("encoding", ["none", "fourier", "siren"])
def test_a_rescaled_network_is_that_of_another_sigma(encoding):
    options = {"encoding": encoding, "hidden_width": 16}
    model = network(functools.partial(ZiLU, 1.0), **options).double()
    wanted = network(functools.partial(ZiLU, 4.0), **options).double()
    rescale_around_activations(model, 4.0)
    x = points(20)
    assert torch.allclose(model(x), wanted(x), rtol=1e-10)


@pytest.mark.parametrize(("encoding", "scaled"), [("none", 4), ("fourier", 4), ("siren", 3)])
def test_unit_gain_scales_what_reads_an_activation(encoding, scaled):
    plain, unit = (network(nn.Tanh, encoding=encoding, hidden_width=16) for _ in range(2))
    unit_gain(unit, nn.Tanh)
    x = np.random.default_rng(0).standard_normal(2_000_000)
    factor = math.sqrt(0.5 / np.mean(np.tanh(x) ** 2))
    ratios = [
        (b.weight / a.weight).mean().item()
        for a, b in zip(linears(plain), linears(unit), strict=True)
    ]
    assert ratios == pytest.approx([1] * (5 - scaled) + [factor] * scaled, rel=2e-3)


# --- gradient and Laplacian ---


def by_central_differences(model, x, step):
    """The gradient and the Laplacian of the mean over the channels, from values alone."""

    def f(at):
        with torch.no_grad():
            return model(at).mean(1)

    ends = []
    for i in range(2):
        beside = torch.zeros(2, dtype=x.dtype)
        beside[i] = step
        ends.append((f(x + beside), f(x - beside)))
    gradient = torch.stack([(a - b) / (2 * step) for a, b in ends], 1)
    return gradient, sum(a + b - 2 * f(x) for a, b in ends) / step**2


@pytest.mark.parametrize("encoding", ["none", "fourier", "siren"])
@pytest.mark.parametrize("name", ["Sine", "ZiLU", "GELU", "SiLU", "Mish", "Tanh", "GoLU"])
def test_derivatives_are_those_of_central_differences(name, encoding, monkeypatch):
    monkeypatch.setattr("models.derivatives.CHUNK", 128)
    make = Sine if name == "Sine" else functools.partial(create_activation, name)
    model = network(make, encoding=encoding, hidden_width=16, fourier_scale=1.0)
    x = points(300)  # more than a chunk
    found = derivatives(model, x)
    exact = model.double()
    gradient, laplacian = by_central_differences(exact, x, 1e-4)
    assert torch.equal(found.values, exact(x).detach())
    assert not found.by_differences
    assert (found.gradient - gradient).abs().max() < 1e-4 * gradient.abs().max()
    assert (found.laplacian - laplacian).abs().max() < 1e-4 * laplacian.abs().max()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_has_derivatives(name):
    """Where the network is smooth, which of some is not everywhere."""
    model = network(functools.partial(create_activation, name), hidden_width=16)
    x = points(200)
    found = derivatives(model, x)
    gradient, laplacian = by_central_differences(model.double(), x, 1e-5)
    for mine, theirs in ((found.gradient, gradient), (found.laplacian, laplacian)):
        assert (mine - theirs).abs().median() <= 1e-4 * theirs.abs().max() + 1e-4


def test_differentiating_leaves_the_network_as_it_is():
    model = network(ZiLU, hidden_width=8)
    derivatives(model, points(4))
    assert all(p.dtype == torch.float32 and p.requires_grad for p in model.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_a_piecewise_linear_network_has_no_curvature():
    for make in (nn.ReLU, nn.Identity):
        found = derivatives(network(make, hidden_width=16), points(10))
        assert found.gradient.abs().max() > 0
        assert not found.laplacian.any()


class OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (1 - x.tanh().square())


class Once(nn.Module):
    def forward(self, x):
        return OnceDifferentiable.apply(x)


def test_what_cannot_be_differentiated_twice_is_so_by_differences():
    x = points(50)
    wanted = derivatives(network(nn.Tanh, hidden_width=16), x)
    found = derivatives(network(Once, hidden_width=16), x)
    assert found.by_differences
    assert torch.allclose(found.gradient, wanted.gradient, rtol=1e-10)
    difference = (found.laplacian - wanted.laplacian).abs().max()
    assert difference < 1e-7 * wanted.laplacian.abs().max()
