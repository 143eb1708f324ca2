"""Test activations that networks write in other ways, and bounds that only look like one."""

import math
import warnings

import pytest
import torch
from helpers.networks_to_rewrite import X, rewritten
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import zilu.functional
from zilu import ZiLU, replace_activations
from zilu.functional import zilu as f


class Network(nn.Module):
    """Apply a function between two linear layers."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.function = nn.Linear(8, 8), nn.Linear(8, 8), [function]

    def forward(self, x):
        return self.b(self.function[0](self.a(x)))


# --- one call ---

ONE_CALL = {
    "torch.clamp(x, min=0)": lambda x: torch.clamp(x, min=0),
    "x.clamp(0)": lambda x: x.clamp(0),
    "x.clamp(0.0, inf)": lambda x: x.clamp(0.0, math.inf),
    "x.clamp_(min=-0.0)": lambda x: (x * 1).clamp_(min=-0.0),
    "torch.clamp(input=x, min=0)": lambda x: torch.clamp(input=x, min=0, max=None),
    "torch.clip(x, 0)": lambda x: torch.clip(x, 0),
    "x.clip_(0)": lambda x: (x * 1).clip_(0),
    "torch.clamp_min(x, 0)": lambda x: torch.clamp_min(x, 0),
    "x.clamp_min_(0.0)": lambda x: (x * 1).clamp_min_(0.0),
    "aten.clamp_min": lambda x: torch.ops.aten.clamp_min(x, 0),
    "F.threshold": lambda x: F.threshold(x, 0, 0),
    "F.threshold, inplace": lambda x: F.threshold(x * 1, 0.0, 0.0, True),
    "F.threshold_": lambda x: F.threshold_(x * 1, 0, 0),
    "torch.threshold": lambda x: torch.threshold(x, threshold=0, value=0),
    "F.hardtanh to inf": lambda x: F.hardtanh(x, 0, math.inf),
    "F.hardtanh to 6": lambda x: F.hardtanh(x, min_val=0.0, max_val=6.0),
    "x.clamp(0, 6)": lambda x: x.clamp(0, 6),
    "x.float().clamp(min=0)": lambda x: x.double().clamp(min=0).float(),
}


@pytest.mark.parametrize("form", ONE_CALL)
@pytest.mark.parametrize("compiled", [False, True])
def test_one_call_is_replaced(form, compiled):
    model = Network(ONE_CALL[form])
    report = rewritten(model)
    assert [site.kind for site in report.replaced] == ["ReLU6" if "6" in form else "ReLU"]
    assert not report.left
    run = model
    if compiled:
        torch.compiler.reset()
        run = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(run(X), model.b(f(model.a(X))))


def test_modules_go_by_their_numbers():
    rectifiers = [nn.Threshold(0, 0), nn.Hardtanh(0, 6), nn.Hardtanh(0.0, math.inf)]
    others = [nn.Threshold(0, 1.0), nn.Threshold(0.1, 0), nn.Hardtanh(), nn.Hardtanh(0, 1)]
    model = nn.Sequential(*rectifiers, *others)
    report = replace_activations(model, {"ReLU": "ZiLU", "ReLU6": "ZiLU"})
    assert [type(module) for module in model] == [ZiLU] * 3 + [type(module) for module in others]
    assert [site.kind for site in report.replaced] == ["ReLU", "ReLU6", "ReLU"]
    assert [site.kind for site in report.left] == ["Hardtanh", "Hardtanh"]


def test_the_name_hardtanh_means_it_with_any_numbers():
    model = nn.Sequential(nn.Hardtanh(0, 6), Network(lambda x: F.hardtanh(x, 0, 6)))
    report = rewritten(model, {nn.Hardtanh: "ZiLU"})
    assert len(report.replaced) == 2
    assert type(model[0]) is ZiLU


# --- several operations ---


def zeroed(x):
    x = x * 1
    x[x < 0] = 0
    return x


def multiplied(x):
    x = x * 1
    x *= x > 0
    return x


K = math.sqrt(2 / math.pi)
WRITTEN = {
    "ReLU": {
        "maximum(x, zeros_like)": lambda x: torch.maximum(x, torch.zeros_like(x)),
        "maximum(zero, x)": lambda x: torch.maximum(torch.tensor(0.0), x),
        "max(x, zeros)": lambda x: torch.max(x, torch.zeros(1)),
        "fmax": lambda x: torch.fmax(x, x.new_zeros(())),
        "minimum": lambda x: -torch.minimum(-x, torch.zeros(8)),
        "clamp to a tensor": lambda x: torch.clamp(x, min=torch.tensor(0.0)),
        "where": lambda x: torch.where(x > 0, x, 0.0),
        "where not": lambda x: torch.where(x <= 0, torch.zeros_like(x), x),
        "x.where": lambda x: x.where(x >= 0, torch.tensor(0.0)),
        "mask": lambda x: x * (x > 0),
        "mask.float()": lambda x: (x > 0).float() * x,
        "detached mask": lambda x: x * (x.detach() > 0).to(x.dtype),
        "x *= mask": multiplied,
        "x[x < 0] = 0": zeroed,
        "masked_fill": lambda x: x.masked_fill(x < 0, 0),
        "masked_fill_": lambda x: (x * 1).masked_fill_(~(x > 0), 0.0),
        "heaviside": lambda x: x * torch.heaviside(x, torch.tensor(0.0)),
        "abs": lambda x: (x + x.abs()) / 2,
        "sign": lambda x: x * (torch.sign(x) + 1) / 2,
        "sqrt": lambda x: 0.5 * (x + (x * x).sqrt()),
        "x - clamp(max=0)": lambda x: x - x.clamp(max=0),
    },
    "ReLU6": {
        "two clamps": lambda x: x.clamp(min=0).clamp(max=6),
        "relu and minimum": lambda x: torch.minimum(F.relu(x), torch.tensor(6.0)),
    },
    "GELU": {
        "erf": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
        "erfc": lambda x: 0.5 * x * torch.special.erfc(-x / math.sqrt(2)),
        "tanh": lambda x: 0.5 * x * (1 + torch.tanh(K * (x + 0.044715 * x**3))),
        "tanh, factored": lambda x: x * 0.5 * (1 + torch.tanh(K * x * (1 + 0.044715 * x * x))),
        "sigmoid": lambda x: x * torch.sigmoid(1.702 * x),
    },
    "SiLU": {
        "x * sigmoid": lambda x: x * torch.sigmoid(x),
        "x / (1 + exp)": lambda x: x / (1 + torch.exp(-x)),
        "mul_": lambda x: torch.sigmoid(x).mul_(x),
    },
    "Mish": {
        "softplus": lambda x: x * torch.tanh(F.softplus(x)),
        "log": lambda x: x * torch.log(1 + x.exp()).tanh(),
    },
    "Hardswish": {
        "relu6": lambda x: x * F.relu6(x + 3) / 6,
        "clamp": lambda x: x * ((x + 3).clamp(0, 6) / 6),
        "hardsigmoid": lambda x: x * F.hardsigmoid(x),
    },
    "ELU": {
        "where": lambda x: torch.where(x > 0, x, torch.exp(x) - 1),
        "sum": lambda x: F.relu(x) + torch.expm1(x).clamp(max=0),
    },
    "LeakyReLU": {
        "max": lambda x: torch.max(x, 0.1 * x),
        "where": lambda x: torch.where(x > 0, x, 0.2 * x),
        "two": lambda x: F.relu(x) - 0.3 * F.relu(-x),
    },
    "ZiLU": {"atan": lambda x: x * (0.5 + torch.atan(x) / math.pi)},
}
ALL_WRITTEN = [(kind, form) for kind, forms in WRITTEN.items() for form in forms]


@pytest.mark.parametrize(("kind", "form"), ALL_WRITTEN)
def test_what_is_written_out_is_reported_with_its_line(kind, form):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), Network(WRITTEN[kind][form]))
    before = model(X)
    with pytest.raises(ValueError, match=r"leave=.*nothing was changed"):
        rewritten(model)
    assert torch.equal(model(X), before)
    with pytest.warns(UserWarning, match="left as they were"):
        report = replace_activations(model, "ZiLU", example_input=X, functional="rewrite")
    assert [site.path for site in report.replaced] == ["1"]
    missed = [site for site in report.left if site.reason != "not named"]
    assert {site.kind for site in missed} - {"Hardsigmoid"} == {kind}
    assert all(site.source.startswith(f"{__name__}:") for site in missed)
    # What the caller does not name is no shortfall.
    other = nn.Sequential(nn.Linear(8, 8), nn.CELU(), Network(WRITTEN[kind][form]))
    rewritten(other, {"CELU": "ZiLU"})


def test_calls_of_our_own_functions_are_reported():
    model = Network(lambda x: zilu.functional.silu_s(x, 0.5))
    with pytest.raises(ValueError, match=r"silu_s\(\).*zilu\.functional"):
        rewritten(model, {"SiLU_s": "ReLU"})


def test_a_written_activation_of_one_mode_alone():
    class Modes(Network):
        def forward(self, x):
            x = self.a(x)
            return F.relu(x) if self.training else x * (x > 0)

    with pytest.raises(ValueError, match="ReLU, written out"):
        rewritten(Modes(None))


def test_activations_after_what_shows_no_functions():
    """Find them after TorchScript, inside vmap, on a meta device, and with frozen weights."""
    scripted = nn.Sequential(torch.jit.script(nn.Linear(8, 8)), Network(lambda x: x.clamp(min=0)))
    mapped = Network(torch.vmap(lambda row: row.clamp(min=0)))
    frozen = Network(lambda x: x.clamp(min=0)).requires_grad_(False)
    empty = Network(lambda x: x.clamp(min=0)).to("meta")
    for model, x in ((scripted, X), (mapped, X), (frozen, X), (empty, X.to("meta"))):
        assert [site.was for site in rewritten(model, x=x).replaced] == ["clamp()"]


# --- bounds ---

BOUNDS = {
    "norm": lambda x: x / x.norm(dim=-1, keepdim=True).clamp(min=1e-6),
    "norm at 0": lambda x: x / (x.norm(dim=-1, keepdim=True).clamp(min=0) + 1),
    "variance": lambda x: x / ((x * x).mean(1) - x.mean(1) ** 2).clamp(0).add(1).sqrt()[:, None],
    "distances": lambda x: torch.cdist(x, x).clamp_min(0) @ x,
    "probabilities": lambda x: torch.maximum(x.softmax(-1), torch.zeros(())),
    "squares": lambda x: F.relu(x).square().clamp(min=0),
    "indices": lambda x: x[:, (torch.arange(8) - 2).clamp(min=0)],
    "rounded": lambda x: x[:, x.mean(0).round().clamp(min=0).long() % 8],
    "counts": lambda x: x[:, (x > 0).sum(0).sub(2).clamp(min=0)],
    "real counts": lambda x: x * ((x > 0).float().sum(0) - 2).clamp(min=0),
    "positions": lambda x: x * (1 - torch.arange(8) / 4).clamp(min=0),
    "window": lambda x: x * torch.maximum(torch.linspace(-1, 1, 8), torch.zeros(8)),
    "where on positions": lambda x: x + torch.where(torch.arange(8) > 3, torch.arange(8.0), 0.0),
    "boxes": lambda x: x.clamp(0, 32),
    "large boxes": lambda x: x.clamp(min=0.0, max=1333.0),
    "pixels": lambda x: x.clamp(0, 1),
    "upper bound": lambda x: x.clamp(max=4),
    "both sides": lambda x: x.clamp_(-5, 5) * x.clamp(-1, 1),
    "attention mask": lambda x: x.masked_fill(torch.ones(4, 8).tril() == 0, -1e9),
    "scale": lambda x: x.clamp(min=1e-10).abs().mean() * x,
    "eps after 0": lambda x: (x + 0).clamp(min=1e-7) * (x * 1).clamp(0, 400),
    "maximum of eps": lambda x: torch.maximum(x, torch.tensor(1e-4)).log(),
    "positive scale": lambda x: (x + torch.sqrt(x * x + 4)) / 2,
    "dropout": lambda x: x * (torch.rand_like(x) > 0.5) / 0.5,
    "two tensors": lambda x: torch.maximum(x, x.flip(-1)) * torch.where(x > 0, x, x.flip(-1)),
    "absolute": lambda x: x.abs() + torch.where(x > 0, x, -x),
    "threshold": lambda x: F.threshold(x, 0.1, 0) + F.threshold(x, 0, 0.5),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_are_no_activations(name):
    inner = Network(BOUNDS[name])
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), inner)
    calls = sum(isinstance(node, nn.ReLU) for node in model.modules()) + (name == "squares")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = rewritten(model)
    assert len(report.replaced) == 1 + calls
    assert all(site.reason for site in report.left)
    if name not in ("squares", "dropout"):
        hidden = f(model[0](X))
        assert torch.equal(model[2](hidden), inner.b(BOUNDS[name](inner.a(hidden))))


def test_weights_and_whole_numbers_that_are_bounded():
    class Bounded(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.scale = nn.Embedding(5, 8), nn.Parameter(torch.randn(8))

        def forward(self, ids):
            x = self.embedding((ids - 2).clamp(min=0)) * self.scale.clamp(min=0)
            return x.clamp(min=0)

    model, ids = Bounded(), torch.tensor([0, 1, 2, 3, 4, 3])
    report = rewritten(model, "ZiLU", ids)
    assert [site.path for site in report.replaced] == ["clamp_call_0"]
    rows = model.embedding.weight[[0, 0, 0, 1, 2, 1]]
    assert torch.equal(model(ids), f(rows * model.scale.clamp(min=0)))


def test_a_bound_at_one_place_and_an_activation_at_the_next():
    class Inner(Network):
        def forward(self, x):
            return self.b(x.square().clamp(min=0)) / x.norm().clamp(min=0)

    class Outer(Network):
        def __init__(self):
            super().__init__(None)
            self.inner = Inner(None)

        def forward(self, x):
            x = F.relu(self.a(x)) - x.square().clamp(min=0)
            x = self.inner(x.clamp(min=0))
            return self.b(x).clamp_min(0) + x.abs().clamp(0)

    model = Outer()
    report = rewritten(model)
    assert [site.path for site in report.replaced] == [
        "relu_call_0", "clamp_call_0", "clamp_min_call_0",
    ]  # fmt: skip
    model.relu_call_0, model.clamp_call_0 = ZiLU(2.0), ZiLU(3.0)
    x = f(f(model.a(X), 2.0) - X.square(), 3.0)
    x = model.inner.b(x.square()) / x.norm()
    assert torch.equal(model(X), f(model.b(x)) + x.abs())


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(["clamp", "clamp_min", "relu", "bound", "index", "cap"]), max_size=6)
)
def test_any_mixture_of_rectifiers_and_bounds(steps):
    def run(x, rectify):
        for step in steps:
            x = x - 0.3
            if step in ("clamp", "clamp_min", "relu"):
                x = rectify[step](x)
            elif step == "bound":
                x = x / (x.abs().clamp(min=0) + 1)
            elif step == "index":
                x = x[:, (torch.arange(8) - 1).clamp(min=0)]
            else:
                x = x.clamp(-100, 100)
        return x

    class Mixture(nn.Module):
        def forward(self, x):
            ways = {"clamp": lambda x: x.clamp(min=0), "clamp_min": lambda x: x.clamp_min(0)}
            return run(x, {**ways, "relu": torch.relu})

    count = sum(step in ("clamp", "clamp_min", "relu") for step in steps)
    model, x = Mixture(), torch.randn(64, 8)
    if not count:
        with pytest.raises(ValueError, match="no activation"):
            rewritten(model, "ZiLU", x)
        return
    assert sum(site.calls for site in rewritten(model, "ZiLU", x).replaced) == count
    assert torch.equal(model(x), run(x, dict.fromkeys(("clamp", "clamp_min", "relu"), f)))


def test_norms_of_timm_have_bounds():
    layers = pytest.importorskip("timm.layers")
    norms = [layers.EvoNorm2dS0(8, group_size=2), layers.EvoNorm2dB0(8)]
    model = nn.Sequential(*norms, nn.Conv2d(8, 8, 1), nn.ReLU())
    report = replace_activations(
        model, {"ReLU": "ZiLU"}, example_input=torch.randn(2, 8, 4, 4), strict=True
    )
    assert [site.path for site in report.replaced] == ["3"]


# --- letting sites be ---


class Clipped(nn.Module):
    """Clip boxes, which are features with values below 0, at 0."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.head = Network(lambda x: torch.maximum(x, torch.zeros(8)))

    def forward(self, x):
        return self.head(self.body(x)).clamp(min=0)


CLIPS = f"{__name__}:{Clipped.forward.__code__.co_firstlineno + 1}"


def test_sites_are_left_by_path_and_by_line():
    model = Clipped()
    with pytest.raises(ValueError, match=r"head: maximum\(\).*nothing was changed"):
        rewritten(model)
    report = rewritten(model, leave=["head", CLIPS])
    assert [site.path for site in report.replaced] == ["body.1"]
    assert [(site.path, site.reason) for site in report.left] == [
        ("head", "to be left"), ("", "to be left"),
    ]  # fmt: skip
    hidden = f(model.body[0](X))
    assert torch.equal(model(X), model.head.b(model.head.a(hidden).relu()).relu())
    # A path means all that is below it, and no other name that begins alike.
    other = nn.ModuleDict({"a": Clipped(), "ab": Clipped()})
    report = replace_activations(other, {"ReLU": "ZiLU"}, leave=("a",))
    assert [site.path for site in report.replaced] == ["ab.body.1"]


def test_calls_that_are_left_keep_their_place_in_the_order():
    class Three(nn.Module):
        def forward(self, x):
            x = F.relu(x)
            x = F.relu(x - 0.5)
            return F.relu(x - 1)

    line = Three.forward.__code__.co_firstlineno + 2
    model = Three()
    rewritten(model, leave=[f"{__name__}:{line}"])
    assert torch.equal(model(X), f((f(X) - 0.5).relu() - 1))


@pytest.mark.parametrize("name", ["heads", "ReLU", f"{__name__}:1"])
def test_a_name_of_no_site_is_a_mistake(name):
    model = Clipped()
    with pytest.raises(ValueError, match="where no activation is"):
        rewritten(model, leave=[name])
    assert type(model.body[1]) is nn.ReLU
