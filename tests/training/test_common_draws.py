"""Stochastic depth and dropout of several processes: what one process alone would drop."""

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from models import build_vision_model
from training import common_draws
from training.common_draws import CommonDraw, made_common
from utils import share
from zilu import ZiLU

BATCH = 7
RATES = {"drop_path": 0.5, "drop_rate": 0.4}
NETWORKS = {  # without BatchNorm, which sees the whole batch
    "resnet20": {"norm": "gn", **RATES},
    "timm/test_convnext": RATES,
    "timm/test_vit": RATES,
    "vit-tiny": RATES,
}


def in_process(monkeypatch, rank, world_size):
    monkeypatch.setattr(common_draws, "rank", lambda: rank)
    monkeypatch.setattr(common_draws, "world_size", lambda: world_size)


def network(name, **options):
    torch.manual_seed(0)
    return build_vision_model(name, ZiLU, 3, 32, **options)


@pytest.mark.parametrize(
    ("name", "processes"), [*((name, 2) for name in sorted(NETWORKS)), ("resnet20", 9)]
)
def test_the_shares_together_are_the_batch(monkeypatch, name, processes):
    """With nine processes two have no sample, and draw all the same."""
    images = torch.randn(BATCH, 3, 32, 32)
    whole = network(name, **NETWORKS[name])
    torch.manual_seed(1)
    expected = [whole(images) for _ in range(2)]
    assert not torch.allclose(*expected)
    for rank in range(processes):
        in_process(monkeypatch, rank, processes)
        model = network(name, **NETWORKS[name])
        rows = made_common(model)
        torch.manual_seed(1)
        own = share(BATCH, rank, processes)
        for step in expected:
            with rows.of_batch(BATCH):
                if own.stop > own.start:
                    torch.testing.assert_close(model(images[own]), step[own])
                else:
                    model.eval()(images[:1])
                    model.train()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "layer", [StochasticDepth(0.5, "row"), nn.Dropout(0.5)], ids=lambda x: type(x).__name__
)
def test_factors_are_the_layers_own_bit_for_bit(monkeypatch, layer, layout):
    in_process(monkeypatch, 1, 2)
    x = torch.randn(8, 3, 4, 4).to(memory_format=layout)
    torch.manual_seed(0)
    expected = layer(x)
    model = nn.Sequential(layer)
    rows = made_common(model)
    torch.manual_seed(0)
    with rows.of_batch(8):
        assert torch.equal(model(x[4:]), expected[4:])


def test_compiled_it_is_one_graph(monkeypatch):
    in_process(monkeypatch, 1, 2)
    model = nn.Sequential(StochasticDepth(0.5, "row"), nn.Dropout(0.5))
    rows = made_common(model)
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)
    x = torch.randn(4, 3)
    for size in (8, 7, 8):
        results = []
        for each in (model, compiled):
            torch.manual_seed(0)
            with rows.of_batch(size):
                results.append(each(x[: size - 4]))
        assert torch.equal(*results)


def test_evaluation_draws_nothing(monkeypatch):
    in_process(monkeypatch, 0, 2)
    model = nn.Sequential(nn.Dropout(0.5))
    made_common(model)
    assert isinstance(model[0], CommonDraw)
    state, x = torch.get_rng_state(), torch.randn(4, 2, generator=torch.Generator())
    assert model.eval()(x) is x
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(model.train()(x), x)  # where nobody says which rows these are


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("timm/test_resnet", {"drop_rate": 0.2}),  # calls dropout as a function
        ("timm/test_efficientnet", {"drop_rate": 0.2}),
    ],
)
def test_networks_that_draw_otherwise_are_left_alone(monkeypatch, name, options):
    in_process(monkeypatch, 0, 2)
    model = network(name, **options)
    assert made_common(model) is None
    assert not any(isinstance(module, CommonDraw) for module in model.modules())


def test_layers_that_draw_otherwise_are_known(monkeypatch):
    in_process(monkeypatch, 0, 2)
    for layer in (
        nn.RReLU(),
        nn.Dropout2d(0.1),
        nn.MultiheadAttention(4, 2, dropout=0.1),
        StochasticDepth(0.1, "batch"),
    ):
        assert made_common(nn.Sequential(layer, nn.Dropout(0.1))) is None
    assert made_common(nn.Sequential(nn.Dropout2d(0.0), nn.MultiheadAttention(4, 2)))


def test_one_process_is_left_as_it_is(monkeypatch):
    in_process(monkeypatch, 0, 1)
    model = nn.Sequential(nn.Dropout(0.5))
    assert made_common(model) is None
    assert type(model[0]) is nn.Dropout
