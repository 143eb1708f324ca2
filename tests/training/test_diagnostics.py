"""Statistics of activation sites: against direct computations and known distributions."""

import copy

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn

from training.diagnostics import statistics
from training.diagnostics.watch import Watch, channel_counts
from training.objective import Objective
from zilu import create_activation


@pytest.mark.parametrize("index", [0.8, 1.5, 3.0])
def test_hill_on_pareto_samples(index):
    estimates = []
    for seed in range(8):
        x = stats.pareto.rvs(index, size=32_768, random_state=seed)
        both_sides = np.concatenate([x, [0], -x])  # around a median of 0
        estimates.append(statistics.hill_tail_index(torch.from_numpy(both_sides)).item())
    # The standard error of one is index / sqrt(327), since each value is there twice: 2 % of 8.
    assert np.mean(estimates) == pytest.approx(index, rel=0.06)
    assert np.std(estimates) == pytest.approx(index / 327**0.5, rel=0.8)


def test_hill_is_the_formula():
    x = torch.randn(1000, dtype=torch.float64)
    ordered = np.sort(np.abs(x.numpy() - np.sort(x.numpy())[499]))[::-1]
    expected = 1 / np.mean(np.log(ordered[:10] / ordered[10]))
    assert statistics.hill_tail_index(x).item() == pytest.approx(expected, rel=1e-12)


def test_hill_of_the_largest_is_the_papers():
    x = torch.randn(3, 1000, dtype=torch.float64) + 1  # not about the median
    ordered = np.sort(np.abs(x.numpy().flatten()))[::-1]
    expected = 100 / np.sum(np.log(ordered[:100] / ordered[100]))
    assert statistics.hill_of_largest(x).item() == pytest.approx(expected, rel=1e-12)
    assert statistics.hill_of_largest(x[0, :100]).isnan()


def test_a_gaussians_tail_index():
    limit = stats.norm.ppf(1 - statistics.TAIL / 2)
    mean, _ = integrate.quad(
        lambda z: np.log(z / limit) * 2 * stats.norm.pdf(z), limit, np.inf, epsabs=1e-13
    )
    assert pytest.approx(statistics.TAIL / mean, rel=1e-4) == statistics.GAUSSIAN_TAIL_INDEX
    estimates = [
        statistics.hill_tail_index(torch.from_numpy(np.random.default_rng(s).normal(size=65_536)))
        for s in range(8)
    ]
    assert np.mean(estimates) == pytest.approx(statistics.GAUSSIAN_TAIL_INDEX, rel=0.05)


@pytest.mark.parametrize("shape", [(10,), (64, 32, 33, 33), (65_537,), (128, 16, 32, 32)])
def test_samples_are_places_without_repetition_from_everywhere(shape):
    x = torch.arange(torch.tensor(shape).prod().item()).view(shape)
    some = statistics.sample(x)
    assert len(some) == min(x.numel(), statistics.SAMPLES)
    assert len(some.unique()) == len(some)
    assert torch.equal(some, statistics.sample(x))
    if x.numel() > 10 * len(some):
        shares = torch.histc(some.double(), 16) / len(some)
        assert (shares - 1 / 16).abs().max() < 0.002
        if len(shape) == 4:
            of_channels = torch.bincount(some // (shape[2] * shape[3]) % shape[1])
            assert of_channels.double().std() / of_channels.double().mean() < 0.1


def test_flat_share_of_known_slopes():
    x = torch.tensor([-2.0, -1.0, -1e-3, 1e-3, 2.0])
    assert statistics.flat_share(nn.ReLU(inplace=True), x) == pytest.approx(0.6)
    assert statistics.flat_share(create_activation("ZiLU"), x) == 0
    far = torch.tensor([-10.0, -5.0, -1.0, 1.0])
    assert statistics.flat_share(create_activation("ZiLU"), far) == pytest.approx(0.5)


def test_living_channels_of_images_and_tokens():
    images, tokens = -torch.ones(2, 3, 4, 4), -torch.ones(2, 5, 3)
    images[1, 2, 0, 3] = tokens[0, 4, 1] = 0.1
    assert statistics.living_channels(images, 1).tolist() == [False, False, True]
    assert statistics.living_channels(tokens, -1).tolist() == [False, True, False]


@pytest.mark.parametrize("shape", [(5, 7), (3, 4, 5), (2, 3, 4, 5), (1, 6, 1, 1), (0, 3)])
def test_living_channels_wherever_they_are_in_memory(shape):
    draw = torch.Generator().manual_seed(0)
    for dimension in range(-1, len(shape)):
        for _ in range(8):
            order = torch.randperm(len(shape), generator=draw).tolist()
            x = (torch.randn(shape, generator=draw) - 1.5).permute(order)
            found = statistics.living_channels(x, dimension)
            rows = x.movedim(dimension, 0)
            assert found.tolist() == [bool((row > 0).any()) for row in rows]


class Task:
    def __call__(self, model, batch):
        images, targets = batch
        loss = nn.functional.cross_entropy(model(images), targets)
        return loss, loss.detach()[None]


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout(0.3),
        nn.Conv2d(8, 4, 3), create_activation("ZiLU", 0.7, learnable=True),
        nn.Flatten(), nn.LazyLinear(5),
    )  # fmt: skip


def watched(network):
    batch = torch.randn(16, 3, 12, 12), torch.arange(16) % 5
    network(batch[0])
    sites = {"2": network[2], "5": network[5]}
    objective = Objective(network, Task(), "cpu", None, None)
    return Watch(network, sites, torch.device("cpu")), objective, batch


def test_measures_equal_a_direct_computation(network):
    watch, objective, batch = watched(network)
    other = copy.deepcopy(network)
    state = torch.get_rng_state()
    found = watch.measure(objective, batch, len(batch[0]))
    torch.set_rng_state(state)
    first = other[1](other[0](batch[0]))
    second = other[4](other[3](first.relu()))
    loss = nn.functional.cross_entropy(other[7](other[6](other[5](second))), batch[1])
    gradients = torch.autograd.grad(loss, (first, second))
    for path, x, gradient in zip("25", (first, second), gradients, strict=True):
        values = x.detach().double()
        assert found[path]["mean"] == pytest.approx(values.mean().item(), abs=1e-6)
        assert found[path]["std"] == pytest.approx(values.std().item(), rel=1e-5)
        assert found[path]["gradient_norm"] == pytest.approx(gradient.norm().item(), rel=1e-5)
        direct = statistics.hill_tail_index(values.flatten()).item()
        assert found[path]["tail_index"] == pytest.approx(direct, rel=1e-4)
        papers = statistics.hill_of_largest(values).item()
        assert found[path]["tail_index_100"] == pytest.approx(papers, rel=1e-4, nan_ok=True)
    assert found["2"]["flat_share"] == pytest.approx((first < 0).double().mean().item(), abs=1e-6)
    assert found["2"]["sigma"] is None
    assert found["5"]["sigma"] == pytest.approx(0.7)


def test_measuring_leaves_no_trace(network):
    watch, objective, batch = watched(network)
    before = copy.deepcopy(network.state_dict())
    state = torch.get_rng_state()
    watch.measure(objective, batch, len(batch[0]))
    with watch.channels():
        network(batch[0].clone())
    assert not torch.equal(torch.get_rng_state(), state)  # the last line has used dropout
    network.load_state_dict(before)
    torch.set_rng_state(state)
    watch.measure(objective, batch, len(batch[0]))
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert all(p.grad is None for p in network.parameters())
    assert not any(m._forward_pre_hooks for m in network.modules())


class ByChannel(nn.Module):
    """One's own, with a number for each channel, and a count of its calls."""

    def __init__(self):
        super().__init__()
        self.is_custom_activation = True
        self.scale = nn.Parameter(torch.ones(8, 1, 1))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.scale * x.relu()


@pytest.mark.parametrize("activation", [nn.RReLU, ByChannel])
def test_measuring_an_activation_that_draws_or_counts_leaves_no_trace(network, activation):
    network[2] = activation()
    watch, objective, batch = watched(network)
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    found = watch.measure(objective, batch, len(batch[0]))
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    if activation is ByChannel:
        with torch.no_grad():
            inputs = network[1](network[0](batch[0]))
        assert found["2"]["flat_share"] == pytest.approx((inputs < 0).float().mean().item())


def test_dead_channels_over_all_batches(network):
    watch, _, batch = watched(network)
    with torch.no_grad():
        network[1].bias[:3] = -100.0
    network.eval()
    with torch.no_grad(), watch.channels() as living:
        for part in batch[0].chunk(4):
            network(part)
    assert channel_counts(living)["2"] == {"dead": 3, "total": 8}


class OneForAll(nn.Module):
    """One module at three places and two widths, as in torchvision's Bottleneck."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 9, 1)
        self.head = nn.Linear(9, 5)

    def forward(self, x):
        x = self.relu(self.second(self.relu(self.first(self.relu(x.clone())))))
        return self.head(x.mean((2, 3)))


def test_a_module_at_many_places_is_as_many_sites():
    torch.manual_seed(0)
    network = OneForAll()
    with torch.no_grad():
        for layer, dead in ((network.first, 1), (network.second, 7)):
            layer.weight.zero_()
            layer.bias.fill_(1.0)[dead] = -1.0
    watch = Watch(network, {"relu": network.relu}, torch.device("cpu"))
    x = torch.randn(16, 3, 6, 5)
    with torch.no_grad(), watch.channels() as living:
        for part in x.chunk(4):
            network(part)
    counts = {"dead": 0, "total": 3}, {"dead": 1, "total": 4}, {"dead": 1, "total": 9}
    names = ["relu", "relu#2", "relu#3"]
    assert channel_counts(living) == dict(zip(names, counts, strict=True))
    objective = Objective(network, Task(), "cpu", None, None)
    for _ in range(2):
        found = watch.measure(objective, (x, torch.arange(16) % 5), 16)
        assert list(found) == names
        assert found["relu"]["mean"] == pytest.approx(x.mean().item(), abs=1e-6)
        assert found["relu"]["gradient_norm"] is None  # the images have none
        assert found["relu#2"]["mean"] == pytest.approx(0.5)
        assert found["relu#3"]["mean"] == pytest.approx(7 / 9)
        assert found["relu#3"]["flat_share"] == pytest.approx(1 / 9, abs=0.01)


def test_without_anything_to_differentiate():
    network = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(12, 5))
    watch = Watch(network, {"0": network[0]}, torch.device("cpu"))
    objective = Objective(network, Task(), "cpu", None, None)
    found = watch.measure(objective, (torch.ones(5, 3, 2, 2), torch.arange(5)), 5)
    assert (found["0"]["mean"], found["0"]["gradient_norm"]) == (1, None)


def test_gradients_of_a_share_are_scaled_to_the_step():
    """Without norms the squares of the whole batch's norm are the mean of those of its shares."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 5),
    )
    watch = Watch(network, {"1": network[1], "3": network[3]}, torch.device("cpu"))
    objective = Objective(network, Task(), "cpu", None, None)
    batch = torch.randn(24, 3, 12, 12), torch.arange(24) % 5
    whole = watch.measure(objective, batch, 24)
    shares = [
        watch.measure(objective, part, 24, scale=64.0)
        for part in zip(*(each.split(6) for each in batch), strict=True)
    ]
    for path, numbers in whole.items():
        squares = [share[path]["gradient_norm"] ** 2 for share in shares]
        assert np.mean(squares) == pytest.approx(numbers["gradient_norm"] ** 2, rel=1e-4)


class ChannelsLast(nn.Module):
    """A convolution, and a block on (B, H, W, C), as in ConvNeXt and Swin; a head before which the
    last site comes, although it is registered after it, as in a DenseNet made again."""

    def __init__(self):
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()
        self.mlp, self.second = nn.Linear(6, 9), nn.ReLU()
        self.out, self.head, self.third = nn.Conv2d(9, 7, 1), nn.Linear(7, 2), nn.ReLU()

    def forward(self, x):
        x = self.second(self.mlp(self.first(self.stem(x)).permute(0, 2, 3, 1)))
        return self.head(self.third(self.out(x.permute(0, 3, 1, 2))).mean((2, 3)))


def test_channels_are_where_the_layer_before_has_them():
    network = ChannelsLast()
    with torch.no_grad():
        for layer, dead in ((network.stem, 4), (network.mlp, 2), (network.out, 0)):
            layer.weight.zero_()
            layer.bias.fill_(1.0)[dead] = -1.0
    sites = {name: getattr(network, name) for name in ("first", "second", "third")}
    watch = Watch(network, sites, torch.device("cpu"))
    with torch.no_grad(), watch.channels() as living:
        network(torch.randn(50, 3, 5, 4))
    dead = {name: (~found).nonzero().flatten().tolist() for name, found in living.items()}
    assert dead == {"first": [4], "second": [2], "third": [0]}
    assert [len(found) for found in living.values()] == [6, 9, 7]
    assert not any(module._forward_hooks for module in network.modules())
