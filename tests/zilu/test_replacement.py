"""Test replace_activations: the sites it finds, what becomes of them, and what stays."""

import copy
import functools
import pickle
import random
import warnings
from collections import namedtuple

import numpy as np
import pytest
import torch
from helpers.activation_count import Counted
from helpers.networks_to_rewrite import Block, Both, Calls, X, rewritten
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._ops import OpOverload
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import zilu
from zilu import ZiLU, replace_activations
from zilu.functional import zilu as f
from zilu.replacement.kinds import FUNCTIONS

torch.manual_seed(0)


# --- modules ---


@pytest.mark.parametrize("key", ["ReLU", "relu", nn.ReLU])
def test_by_name_and_by_class(key):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Sequential(nn.ReLU(inplace=True)))
    report = replace_activations(model, {key: "ZiLU"}, sigma=0.5)
    assert [site.path for site in report.replaced] == ["1", "2.0"]
    assert str(model[1]) == str(model[2][0]) == "ZiLU(sigma=0.5)"
    assert torch.equal(model(X), f(f(model[0](X), 0.5), 0.5))


def test_a_class_of_the_users_and_the_name_of_one():
    class Odd(nn.Module):
        def forward(self, x):
            return x.sin()

    for key in (Odd, "Odd"):
        model = nn.Sequential(Odd(), nn.ReLU())
        report = replace_activations(model, {key: ZiLU})
        assert [site.path for site in report.replaced] == ["0"]
        assert [(site.path, site.reason) for site in report.left] == [("1", "not named")]


def test_a_derived_class_goes_by_its_nearest_base():
    class Mine(nn.ReLU6):  # which torch derives from Hardtanh
        pass

    model = nn.Sequential(Mine(), nn.Hardtanh())
    replace_activations(model, {"Hardtanh": "Tanh", "ReLU6": "ZiLU"})
    assert [type(m) for m in model] == [ZiLU, nn.Tanh]


@pytest.mark.parametrize("target", ["gelu_s", zilu.GELU_s])
def test_targets_with_sigma(target):
    model = nn.Sequential(nn.ReLU(), nn.ReLU())
    replace_activations(model, {"ReLU": target}, sigma=2, learnable=True)
    assert all(m.sigma.item() == 2 for m in model)
    assert model[0].rho is not model[1].rho


def test_a_function_that_makes_modules_is_called_for_every_site():
    model = nn.Sequential(nn.ReLU(), nn.ReLU())
    replace_activations(model, {"ReLU": functools.partial(nn.LeakyReLU, 0.3)})
    assert model[0] is not model[1]
    assert model[0].negative_slope == 0.3


def test_one_target_leaves_gates():
    gates = [nn.Sigmoid(), nn.Tanh(), nn.Softplus(), nn.Hardsigmoid(), nn.Softsign(), nn.Hardtanh()]
    units = [nn.ReLU(), nn.GELU(), nn.SiLU(), nn.ReLU6(), nn.Hardswish(), nn.PReLU(), nn.Mish()]
    model = nn.Sequential(*gates, *units, nn.Softmax(-1), nn.Identity())
    report = replace_activations(model, "ZiLU")
    assert [type(m) for m in model[: len(gates)]] == [type(gate) for gate in gates]
    assert len(report.replaced) == len(units)
    assert len(report.left) == len(gates)
    named = replace_activations(nn.Sequential(*gates), {"Sigmoid": "ArcTan"})
    assert [site.path for site in named.replaced] == ["0"]


def test_a_shared_instance_becomes_one_for_each_place():
    act = nn.ReLU()
    model = nn.ModuleDict({"a": Block(act), "b": Block(act)})
    model.c = act
    report = replace_activations(model, {"ReLU": "ZiLU"}, learnable=True)
    assert {site.path for site in report.replaced} == {"c", "a.act", "b.act"}
    assert len({id(m) for m in (model.c, model["a"].act, model["b"].act)}) == 3
    assert sum(name.endswith("rho") for name in model.state_dict()) == 3


def test_a_shared_block_is_one_place():
    block = Block(nn.ReLU())
    model = nn.Sequential(block, block)
    report = replace_activations(model, {"ReLU": "ZiLU"})
    assert len(report.replaced) == 1
    assert torch.equal(model(X), f(block.linear(f(block.linear(X)))))


class Attributes(nn.Module):
    """Hold modules where torch does not look for them."""

    Pair = namedtuple("Pair", "left right")

    def __init__(self):
        super().__init__()
        self.listed = [nn.ReLU(), (nn.ReLU(), nn.Identity())]
        self.by_name = {"x": nn.ReLU(), "deep": [nn.ReLU()]}
        self.pair = self.Pair(nn.ReLU(), 3)
        self.blocks = [Block(nn.ReLU())]
        self.__dict__["hidden"] = nn.ReLU()
        self.main = nn.ReLU()
        self.mirror = [self.main]
        self.up = [self]

    def forward(self, x):
        for act in (*self.listed[:1], self.listed[1][0], *self.by_name["deep"], self.pair.left):
            x = act(x - 1)
        return self.mirror[0](self.hidden(self.blocks[0](self.by_name["x"](x))))


def test_attributes_lists_and_dicts():
    model = Attributes()
    report = rewritten(model, {"ReLU": "ZiLU"}, learnable=True, sigma=2.0)
    paths = {site.path for site in report.replaced}
    assert paths == {
        "listed.0", "listed.1.0", "by_name.x", "by_name.deep.0", "pair.0", "blocks.0.act",
        "hidden", "main", "mirror.0",
    }  # fmt: skip
    assert model.mirror[0] is model.main
    assert type(model.pair) is Attributes.Pair
    # Modules that could otherwise be neither trained nor saved get registered.
    keys = {name for name in model.state_dict() if name.endswith("rho")}
    assert keys == {f"{n}.rho" for n in (
        "listed_0", "listed_1_0", "by_name_x", "by_name_deep_0", "pair_0", "hidden_1", "main",
    )}  # fmt: skip
    z = X
    for _ in range(4):
        z = f(z - 1, 2.0)
    z = f(f(f(model.blocks[0].linear(f(z, 2.0)), 2.0), 2.0), 2.0)
    assert torch.equal(model(X), z)
    model(X).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_everything_else_stays():
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), Calls()).double()
    parametrizations.weight_norm(model[0])
    model[1].eval()
    model[2].training = False
    seen = []
    handle = model[2].register_forward_hook(lambda m, args, out: seen.append(type(m)))
    model[3].register_forward_pre_hook(lambda m, args: seen.append("pre"))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    pointers = [p.data_ptr() for p in model.parameters()]
    modes = [m.training for m in (model, *model[:3])]
    random_state = torch.get_rng_state()
    rewritten(model, {"ReLU": "ZiLU"}, X.double())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [m.training for m in (model, *model[:3])] == modes
    assert [p.data_ptr() for p in model.parameters()] == pointers
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert type(model[3]) is Calls
    seen.clear()
    model(X.double())
    assert seen == [ZiLU, "pre"]
    handle.remove()
    seen.clear()
    model(X.double())
    assert seen == ["pre"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_learned_sigma_is_where_the_weights_are(dtype):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).to(dtype).to("meta")
    replace_activations(model, {"ReLU": "ZiLU"}, learnable=True)
    assert model[1].rho.dtype == dtype
    assert model[1].rho.is_meta


def test_foreign_modules_are_known_by_name_and_by_value():
    class Swish(nn.Module):
        def forward(self, x):
            return x * x.sigmoid()

    class MemoryEfficientSwish(Swish):
        pass

    class SwishWithBeta(Swish):
        def __init__(self):
            super().__init__()
            self.beta = nn.Parameter(torch.ones(()))

    class GELU(nn.Module):  # like the one in diffusers
        def __init__(self):
            super().__init__()
            self.proj = nn.Linear(8, 8)

        def forward(self, x):
            return F.gelu(self.proj(x))

    class SwishLike(nn.Module):
        def forward(self, x):
            return x.cos()

    class QuickGELU(nn.Module):
        def forward(self, x):
            return x * torch.sigmoid(1.702 * x)

    model = nn.Sequential(
        Swish(), MemoryEfficientSwish(), SwishWithBeta(), GELU(), SwishLike(), QuickGELU()
    )
    with pytest.warns(UserWarning, match=r"x \* sigmoid\(x\), written out"):
        report = replace_activations(model, "ZiLU", example_input=X, functional="rewrite")
    assert [site.path for site in report.replaced] == ["0", "1", "5", "3.gelu_call_0"]
    assert [site.path for site in report.left] == ["2", "2"]
    assert torch.equal(model[3](X), f(model[3].proj(X)))


# --- calls ---


def test_calls_are_found_with_their_line():
    model = Calls()
    with pytest.warns(UserWarning, match='functional="rewrite" replaces function calls'):
        report = replace_activations(Both(model), {"ReLU": "ZiLU"}, example_input=X)
    calls = [site for site in report.left if site.kind == "ReLU"]
    first = Calls.forward.__code__.co_firstlineno
    assert [site.source for site in calls] == [
        f"{Calls.__module__}:{first + line}" for line in (1, 2, 3, 3, 4, 5, 6)
    ]
    assert {site.path for site in calls} == {"calls"}
    assert {site.reason for site in calls} == {"a function call"}
    assert torch.equal(model(X), model.reference(X, lambda x, _: x.relu()))


def test_every_call_gets_a_module_of_its_own():
    model = Calls()
    report = rewritten(model, {"ReLU": "ZiLU"}, learnable=True)
    assert [site.path for site in report.replaced] == [f"relu_call_{n}" for n in range(7)]
    for number, module in enumerate(m for m in model.modules() if isinstance(m, ZiLU)):
        module.sigma0.fill_(1.0 + number)
    expected = model.reference(X, lambda x, number: f(x, 1.0 + number))
    for training in (True, False):
        model.train(training)
        assert torch.equal(model(X), expected)
    model(X).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_same_lines_in_a_loop_are_one_site_and_helpers_are_told_apart():
    def helper(x):
        return F.gelu(x, approximate="tanh")

    class Loop(nn.Module):
        turns = 2

        def forward(self, x):
            for _ in range(self.turns):
                x = F.relu(x - 1)
            return x

    class Helped(nn.Module):
        def forward(self, x):
            return helper(x) + helper(helper(x) + 1)

    loop, helped = Loop(), Helped()
    assert len(rewritten(loop).replaced) == 1
    assert len(rewritten(helped).replaced) == 3
    loop.turns = 5
    expected = X
    for _ in range(5):
        expected = f(expected - 1)
    assert torch.equal(loop(X), expected)
    assert torch.equal(helped(X), f(X) + f(f(X) + 1))


def test_branches_of_training_and_evaluation():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.only_in_training = Calls()

        def forward(self, x):
            if self.training:
                x = self.only_in_training(F.gelu(x))
            return F.relu(x - 1)

    for start in (True, False):
        model = Branches().train(start)
        report = rewritten(model)
        assert len(report.replaced) == 9
        assert model.training == start
        model.gelu_call_0, model.relu_call_0 = ZiLU(2.0), ZiLU(3.0)
        trained = model.only_in_training.reference(f(X, 2.0), lambda x, _: f(x))
        assert torch.equal(model.train()(X), f(trained - 1, 3.0))
        assert torch.equal(model.eval()(X), f(X - 1, 3.0))


def test_what_works_in_place_still_does_where_that_matters():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.act = nn.Linear(8, 8), nn.ReLU(inplace=True)
            self.fine = nn.ReLU(inplace=True)

        def forward(self, x):
            y = self.linear(x)
            self.act(y)
            z = self.linear(y)
            z.relu_()
            w = self.linear(z)
            v = F.relu(w, inplace=True)
            return self.fine(self.linear(v)) + w

    model = InPlace()
    report = rewritten(model)
    assert sum("in place" in (site.reason or "") for site in report.replaced) == 3
    w = f(model.linear(f(model.linear(f(model.linear(X))))))
    assert torch.equal(model(X), f(model.linear(w)) + w)
    model(X).sum().backward()


def test_what_cannot_be_rewritten_is_reported():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def inner(self, x):
            return F.relu(self.linear(x))

        def forward(self, x):
            return (
                checkpoint(self.inner, x, use_reentrant=False) if self.training else self.inner(x)
            )

    class WrittenOut(nn.Module):
        def forward(self, x):
            return x * 0.5 * (1 + torch.erf(x / 2**0.5))

    class OnlyContainers(nn.Sequential):
        def forward(self, x):
            return F.relu(super().forward(x))

    def outside(module, args):
        return F.relu(args[0])

    hooked = Block(nn.ReLU())
    hooked.register_forward_pre_hook(outside)
    for model, reason in (
        (Checkpointed(), "run again in backward"),
        (nn.Sequential(WrittenOut()), "GELU, it seems, written out"),
        (OnlyContainers(nn.Linear(8, 8)), "can hold another one"),
        (hooked, "not inside a module's forward"),
    ):
        before = str(model)
        with pytest.raises(ValueError, match=f"{reason}.*nothing was changed"):
            rewritten(model)
        assert str(model) == before


def test_a_container_with_a_forward_of_its_own_holds_nothing_new():
    class Chain(nn.Sequential):
        def forward(self, x):
            for module in self:
                x = F.relu(module(x))
            return x

    model = Block(Chain(nn.Linear(8, 8), nn.Linear(8, 8)))
    rewritten(model, learnable=True)
    assert len(model.act) == 2
    assert "act_relu_call_0.rho" in model.state_dict()
    expected = f(model.act[1](f(model.act[0](model.linear(X)))))
    assert torch.equal(model(X), expected)


class SquaredReLU(nn.Module):
    def forward(self, x):
        return F.relu(x) ** 2


def test_a_new_modules_own_calls_are_not_replaced():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.act = Calls(), nn.ReLU()

        def forward(self, x):
            return F.relu(self.act(self.inner(x)) - 1)

    model = Outer()
    rewritten(model, {"ReLU": SquaredReLU})
    inner = model.inner.reference(X, lambda x, _: x.relu() ** 2)
    assert torch.equal(model(X), ((inner.relu() ** 2) - 1).relu() ** 2)
    rewritten(other := Outer(), {"ReLU": "SiLU_s", "Sigmoid": "ArcTan"})
    assert torch.isfinite(other(X)).all()
    assert not any(isinstance(m, nn.ReLU) for m in other.modules())


def test_a_function_that_is_an_attribute_becomes_a_module_there():
    class Held(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.act, self.slope = nn.Linear(8, 8), F.relu, F.leaky_relu
            self.overwrite = torch.relu_

        def forward(self, x):
            x = self.act(self.act(x) - 1) + F.relu(x)
            y = self.linear(self.slope(x, 0.3))
            self.overwrite(y)
            return y

    model = Held()
    report = rewritten(model, learnable=True)
    assert [site.path for site in report.replaced] == [
        "act", "relu_call_0", "leaky_relu_call_0", "overwrite",
    ]  # fmt: skip
    assert model.slope is F.leaky_relu
    x = f(f(X) - 1) + f(X)
    assert torch.equal(model(X), f(model.linear(f(x))))
    model(X).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    left = Held()
    with pytest.warns(UserWarning, match="left as they were: 4"):
        replace_activations(nn.Sequential(left, nn.ReLU()), "ZiLU", example_input=X)
    assert left.act is F.relu


def test_a_second_replacement_of_what_the_first_left_and_made():
    class Two(nn.Module):
        def forward(self, x):
            return F.gelu(F.relu(x) - 1)

    model = Two()
    rewritten(model, {"ReLU": "ZiLU"}, sigma=2.0)
    rewritten(model, {"GELU": "ZiLU"}, sigma=3.0)
    assert torch.equal(model(X), f(f(X, 2.0) - 1, 3.0))
    rewritten(model, {"ZiLU": "ReLU"})
    assert torch.equal(model(X), (X.relu() - 1).relu())


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu", F.gelu, nn.ReLU()])
def test_torchs_encoder_in_training_and_in_fused_evaluation(activation, nested):
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, activation, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested)
    x, padding = torch.randn(2, 5, 8), torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    rewritten(model, Counted, x)
    results = []
    for training in (True, False):
        model.train(training)
        Counted.calls = 0
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results.append(model(x, src_key_padding_mask=padding)[~padding])
        assert Counted.calls == 2
    torch.testing.assert_close(*results)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["F.relu", "x.relu", "nn.ReLU", "gelu", "gate"]), max_size=8))
def test_any_mixture_is_replaced_in_full(steps):
    class Mixture(nn.Module):
        def __init__(self):
            super().__init__()
            self.acts = nn.ModuleList(nn.ReLU() for step in steps if step == "nn.ReLU")

        def forward(self, x):
            acts = iter(self.acts)
            ways = {
                "F.relu": F.relu,
                "x.relu": torch.Tensor.relu,
                "gelu": F.gelu,
                "gate": torch.sigmoid,
            }
            for step in steps:
                x = (next(acts) if step == "nn.ReLU" else ways[step])(x - 0.1)
            return x

    model, units = Mixture(), [step for step in steps if step != "gate"]
    if not units:
        with pytest.raises(ValueError, match="no activation"):
            rewritten(model)
        return
    rewritten(model)
    x = X
    for step in steps:
        x = torch.sigmoid(x - 0.1) if step == "gate" else f(x - 0.1)
    assert torch.equal(model(X), x)


# --- what has gone wrong elsewhere, or once here ---


class Named(nn.Module):
    """Add 10 to the power of the module's number, so that a sum tells which modules ran."""

    made = 0

    def __init__(self):
        super().__init__()
        self.number = Named.made
        Named.made += 1

    def forward(self, input):
        return input + 10.0**self.number


def ran(model, *inputs):
    """Run a network of Named. Return a number whose digit n tells how often module n ran."""
    return int(model(*inputs).double().min().item())


@pytest.fixture(autouse=True)
def _no_modules_made():
    Named.made = 0


def test_a_base_class_forward_and_a_module_that_calls_itself():
    class Base(nn.Module):
        def forward(self, x):
            return F.gelu(F.gelu(x))

    class Derived(Base):
        def forward(self, x):
            return F.relu(super().forward(F.relu(x)))

    class Recursive(nn.Module):
        def forward(self, x, depth=2):
            return self(F.relu(x), depth - 1) if depth else F.gelu(x)

    zeros = torch.zeros(1, dtype=torch.float64)
    rewritten(model := Derived(), Named, zeros)
    assert ran(model, zeros) == 1111
    Named.made = 0
    rewritten(model := Recursive(), Named, zeros)
    assert ran(model, zeros) == 12


def test_forwards_that_take_several_ways_share_a_module_for_each_kind():
    class Ways(nn.Module):
        def forward(self, x, both):
            x = F.relu(x) if both else x
            return F.gelu(F.relu(x * 1))

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.ways = Ways()

        def forward(self, x):
            return self.ways(self.ways(x, False), True)

    zeros = torch.zeros(1, dtype=torch.float64)
    report = rewritten(model := Twice(), Named, zeros)
    paths = sorted(site.path for site in report.replaced)
    assert paths == ["ways.gelu_call_0", "ways.relu_call_0", "ways.relu_call_0"]
    assert ran(model, zeros) == 3 + 20
    # No input takes a way to a module of another kind.
    assert ran(model.ways, zeros, True) == 2 + 10


@pytest.mark.parametrize("inplace", [True, False])
def test_in_place_on_a_part_of_a_tensor(inplace):
    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU(inplace=True)

        def forward(self, x):
            x = x * 1
            if inplace:
                x[:, :2].relu_()
            else:
                self.act(x[:, :2])
            return x.T

    model = Part()
    rewritten(model)
    expected = X.clone()
    expected[:, :2] = f(X[:, :2])
    assert torch.equal(model(X), expected.T)


def test_gates_inside_an_owner_whose_calls_are_replaced():
    class HSigmoid(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU6(inplace=True)

        def forward(self, x):
            return self.relu(x + 3) / 6

    class Unnamed(HSigmoid):
        def forward(self, x):
            return x * 2 * self.relu(x + 3) / 6

    class Owner(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.other = HSigmoid(), Unnamed()

        def forward(self, x):
            x = x * self.gate(x.mean(0)) + self.other(x)
            return F.relu6(x) * F.relu6(x + 3) / 6

    model = Owner()
    report = rewritten(model)
    assert [(site.path, site.kind) for site in report.replaced] == [("relu6_call_0", "ReLU6")]
    assert {site.kind for site in report.left} == {"Hardsigmoid"}
    x = X * F.hardsigmoid(X.mean(0)) + X * 2 * F.hardsigmoid(X)
    torch.testing.assert_close(model(X), f(x) * F.hardsigmoid(x))


class Relu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return F.relu(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class InFunction(nn.Module):
    def forward(self, x):
        return Relu.apply(x)


class Reused(nn.Module):
    """Run all children, of which replacement would add one."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        for layer in self.children():
            x = F.relu(layer(x))
        return x


class Bypassed(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Calls()

    def forward(self, x):
        return Calls.forward(self.inner, x)


@pytest.mark.parametrize(
    ("build", "x", "reason"),
    [
        (InFunction, X, "autograd.Function"),
        (lambda: nn.RNN(8, 8, nonlinearity="relu"), X[None], "where no function is seen"),
        (lambda: torch.fx.symbolic_trace(nn.Sequential(Reused())), X, "torch.fx graph"),
        (Reused, X, "is run .* times"),
        (Bypassed, X, "is still called"),
    ],
)
def test_what_would_be_replaced_in_name_only_is_refused(build, x, reason):
    model = build()
    before, names = model(x), list(model.state_dict())
    with pytest.raises(ValueError, match=f"{reason}.*nothing was changed"):
        rewritten(model, "ZiLU", x, learnable=True)
    torch.testing.assert_close(model(x), before)
    assert list(model.state_dict()) == names
    assert not any("forward" in vars(m) for m in model.modules())


def test_a_class_of_an_activations_name_with_weights_of_its_own_stays():
    class GEGLU(nn.GELU):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x):
            return super().forward(self.linear(x)) * x

    model = nn.Sequential(GEGLU())
    report = rewritten(model)
    assert [site.path for site in report.replaced] == ["0.gelu_call_0"]
    assert torch.equal(model(X), f(model[0].linear(X)) * X)


class CubedReLU(nn.Module):
    def forward(self, x):
        return F.relu(x) ** 3


def test_a_module_with_an_activations_name_that_calls_one():
    model = nn.Sequential(nn.Linear(8, 8), CubedReLU())
    report = rewritten(model)
    assert [site.path for site in report.replaced] == ["1.relu_call_0"]
    assert torch.equal(model(X), f(model[0](X)) ** 3)


@pytest.mark.parametrize("module", [SquaredReLU(), zilu.ReLU2(), zilu.GELU_tanh(), zilu.GoLU()])
def test_activations_that_are_made_of_others_are_replaced_whole(module):
    model = nn.Sequential(nn.Linear(8, 8), module)
    report = rewritten(model)
    assert [site.path for site in report.replaced] == ["1"]
    assert torch.equal(model(X), f(model[0](X)))


def test_what_has_other_uses_stays_unless_it_is_named():
    kinds = [nn.LogSigmoid(), nn.Hardshrink(), nn.Softshrink(), nn.Tanhshrink()]
    model = nn.Sequential(nn.Linear(8, 8), *kinds, nn.ReLU())
    assert [site.path for site in replace_activations(model, "ZiLU").replaced] == ["5"]
    report = replace_activations(model, {"Softshrink": "ZiLU", "LogSigmoid": "GoLU"})
    assert [type(model[int(site.path)]) for site in report.replaced] == [zilu.GoLU, ZiLU]


def test_hooks_of_shared_modules_and_backward_hooks():
    shared = nn.ReLU()
    seen = []
    shared.register_full_backward_hook(lambda module, *_: seen.append(type(module)))
    model = nn.Sequential(nn.Linear(8, 8), shared, shared)
    replace_activations(model, {"ReLU": "ZiLU"})
    model(X).sum().backward()
    assert seen == [ZiLU, ZiLU]
    model[1].register_forward_hook(lambda *_: seen.append("forward"))
    model(X)
    assert seen.count("forward") == 1


def test_odd_targets_change_nothing():
    one = nn.SiLU()
    number = iter(range(1))

    def fails():
        next(number)
        return nn.SiLU()

    for target, error in ((lambda: one, ValueError), (fails, StopIteration), (dict, TypeError)):
        model = nn.Sequential(nn.ReLU(), nn.ReLU())
        with pytest.raises(error):
            replace_activations(model, {"ReLU": target})
        assert [type(m) for m in model] == [nn.ReLU, nn.ReLU]


def test_attributes_and_names_that_could_get_in_the_way():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.settings = ({"a": []}, [1])
            self.settings[0]["itself"] = self.settings[0]
            self.act, self.relu_call_0 = nn.ReLU(), "taken"

        def forward(self, x, plan=None, module=None, holder=None, previous=None):
            return F.relu(self.act(input=x)) + plan

    model = Odd()
    rewritten(model, "ZiLU", {"x": X, "plan": 1.0, "module": 2})
    assert torch.equal(model(X, plan=1.0), f(f(X)) + 1)


def test_a_replica_of_data_parallel_runs_its_own_weights():
    model = Calls()
    rewritten(model)
    replica = model._replicate_for_data_parallel()
    replica.a = nn.Linear(8, 8)
    expected = Calls.reference(replica, X, lambda x, _: f(x))
    assert torch.equal(replica(X), expected)
    assert not torch.equal(model(X), expected)


def test_an_encoder_in_a_list_leaves_its_fused_form_too():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
            self.encoders = [nn.TransformerEncoder(layer, 1)]

        def forward(self, x):
            return self.encoders[0](x)

    model, x = Hidden().eval(), torch.randn(2, 5, 8)
    model.encoders[0].eval()
    rewritten(model, Counted, x)
    Counted.calls = 0
    with torch.no_grad():
        model(x)
    assert Counted.calls == 1


def test_observing_leaves_weights_buffers_and_random_states():
    class Merging(nn.Module):
        """Merge weights for evaluation, as LoRA does, and replace a buffer in each run."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 8))
            self.register_buffer("mean", torch.zeros(8))
            self.merged = False

        def train(self, mode=True):
            if self.merged == mode:
                self.weight.data += -1 if mode else 1
                self.merged = not mode
            return super().train(mode)

        def forward(self, x):
            self.mean = self.mean * 0.9 + x.mean(0)
            return F.relu(x @ self.weight) * random.random() * np.random.rand()

    model = Merging()
    before = copy.deepcopy(model.state_dict()), random.getstate(), np.random.get_state()[1].copy()
    rewritten(model)
    torch.testing.assert_close(model.state_dict(), before[0], rtol=0, atol=0)
    assert not model.merged
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()


# --- refusals ---


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (({"Relu7": "ZiLU"},), "unknown activation 'Relu7'.*did you mean ReLU"),
        (({"ReLU": "Zilo"},), "did you mean ZiLU"),
        (({"ELU": "ZiLU"},), "no ELU could be replaced in Sequential; its activations: 1"),
        (({"ReLU": "ZiLU"}, -1.0), "sigma must be"),
        (({"ReLU": "GELU"}, 1.0, True), "no sigma to learn"),
        (({"ReLU": nn.GELU}, 2.0), "called without arguments"),
        (({"ReLU": "ZiLU"}, 1.0, False, None, True), "example_input"),
        (({"ReLU": "ZiLU"}, 1.0, False, None, False, "rewrite"), "example_input"),
        (({"ReLU": "ZiLU"}, 1.0, False, None, False, "fx"), "functional must be"),
    ],
)
def test_a_mistake_changes_nothing(arguments, error):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    with pytest.raises(ValueError, match=error):
        replace_activations(model, *arguments)
    assert type(model[1]) is nn.ReLU


@pytest.mark.parametrize("target", [nn.ReLU(), 3])
def test_a_target_that_makes_no_module(target):
    with pytest.raises(TypeError):
        replace_activations(nn.Sequential(nn.ReLU()), {"ReLU": target})


def test_nothing_to_replace_is_an_error_with_what_there_is():
    with pytest.raises(ValueError, match=r"no ReLU.*its activations: none"):
        replace_activations(nn.Linear(2, 2), {"ReLU": "ZiLU"})
    with pytest.raises(ValueError, match="itself an activation"):
        replace_activations(nn.ReLU(), "ZiLU")
    with pytest.raises(ValueError, match=r"functions seem to be called.*Calls \(relu, relu_\)"):
        replace_activations(Calls(), {"ReLU": "ZiLU"})
    with pytest.raises(ValueError, match="left as they were: 7"):
        replace_activations(Calls(), {"ReLU": "ZiLU"}, example_input=X)


def test_without_an_example_what_hints_at_calls_is_said():
    with pytest.warns(UserWarning, match="Calls"):
        report = replace_activations(Both(Calls()), {"ReLU": "ZiLU"})
    assert "example_input" in str(report)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replace_activations(nn.Sequential(Block(nn.ReLU())), {"ReLU": "ZiLU"})


def test_a_mode_that_cannot_be_run_is_said():
    class OnlyEvaluation(nn.Module):
        def forward(self, x):
            if self.training:
                raise RuntimeError("not for training")
            return F.relu(x)

    model = OnlyEvaluation().eval()
    with pytest.warns(UserWarning, match="in training mode.*not for training"):
        replace_activations(model, "ZiLU", example_input=X, functional="rewrite")
    assert torch.equal(model(X), f(X))
    with pytest.raises(RuntimeError, match="not for training"):
        replace_activations(OnlyEvaluation(), "ZiLU", example_input=X, functional="rewrite")


# --- what users then do ---


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Both(Calls())
    rewritten(model, learnable=True, sigma=0.7)
    return model


def reference(model, x, act=lambda x, _: f(x, 0.7)):
    return act(model.calls.reference(x, act), 7)


@pytest.mark.slow
def test_compiled_whole(model):
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for training in (True, False):
        model.train(training)
        torch.testing.assert_close(compiled(X), reference(model, X))


@pytest.mark.slow
@pytest.mark.parametrize("function", [f for f in FUNCTIONS if not isinstance(f, OpOverload)])
def test_every_function_is_seen_by_the_compiler_too(function):
    class Net(nn.Module):
        def forward(self, x):
            if FUNCTIONS[function] == "PReLU":
                return function(x + 0, torch.ones(1))
            return function(x + 0)

    net = Net()
    rewritten(net, {FUNCTIONS[function]: "ZiLU"})
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="eager")(X), f(X))


def test_exported(model):
    exported = torch.export.export(model, (X,), dynamic_shapes={"x": {0: torch.export.Dim.DYNAMIC}})
    x = torch.randn(9, 8)
    torch.testing.assert_close(exported.module()(x), reference(model, x))
    assert not [node for node in exported.graph.nodes if "aten.relu" in str(node.target)]


def test_copied_pickled_and_loaded(model, tmp_path):
    expected = model(X)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(X), expected)
        other.calls.relu_call_0.sigma0.fill_(5.0)  # a copy's own
        assert not torch.equal(other(X), expected)
        assert torch.equal(model(X), expected)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    fresh = Both(Calls())
    rewritten(fresh, learnable=True)
    fresh.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(fresh(X), expected)


def test_signature_stays(model):
    import inspect

    assert list(inspect.signature(model.calls.forward).parameters) == ["x"]


def test_autocast(model):
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(X), reference(model, X))


def test_functional_transforms(model):
    from torch.func import functional_call, grad, jvp, vmap

    parameters = {name: p.detach() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(parameters, x):
        return functional_call(model, (parameters, buffers), (x,)).square().sum()

    gradients = grad(loss)(parameters, X)
    model(X).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-5)
    per_sample = vmap(grad(loss), (None, 0))(parameters, X[:, None])
    for name, gradient in per_sample.items():
        torch.testing.assert_close(gradient.sum(0), gradients[name], rtol=1e-4, atol=1e-5)
    t = torch.randn_like(X)
    _, tangent = jvp(lambda x: functional_call(model, (parameters, buffers), (x,)), (X,), (t,))
    _, expected = jvp(lambda x: reference(model, x), (X,), (t,))
    torch.testing.assert_close(tangent, expected, rtol=1e-4, atol=1e-5)


def test_double_backward(model):
    x = X.clone().requires_grad_()

    def penalty(y):
        (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), x)[0]

    torch.testing.assert_close(penalty(model(x)), penalty(reference(model, x)))


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_around_modules(model, reentrant):
    x = X.clone().requires_grad_()
    checkpoint(model, x, use_reentrant=reentrant).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model(x).sum().backward()
    assert all(torch.equal(found[name], p.grad) for name, p in model.named_parameters())


@pytest.mark.slow
def test_onnx(model, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    path = str(tmp_path / "model.onnx")
    batch = {"x": {0: torch.export.Dim.DYNAMIC}}
    torch.onnx.export(model.eval(), (X,), path, dynamo=True, dynamic_shapes=batch, verbose=False)
    session = runtime.InferenceSession(path)
    x = 3 * torch.randn(9, 8)
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), model(x), rtol=1e-5, atol=1e-6)
