"""The plain activations that come along with an export, against those of the library."""

import copy

import pytest
import torch
from torch import nn

import zilu
from exporting.activation import HUGGING_FACE_NAMES, hugging_face_name
from zilu.exported import zilu_activations
from zilu.names import ACTIVATIONS, GATED_NAMES, SIGMA_NAMES

X = torch.cat([-torch.logspace(4, -3, 40), torch.zeros(1), torch.logspace(-3, 4, 40)])
CASES = [({"name": name}) for name in ACTIVATIONS]
CASES += [{"name": n, "sigma": 0.6, "learnable": learn} for n in SIGMA_NAMES for learn in (0, 1)]
CASES += [
    {"name": n, "sigma": 1.3, "learnable": True, "expand_gate": True} for n in GATED_NAMES
]  # fmt: skip


def pair(spec):
    """Return the library's module, and the plain one with its state, both off their starts."""
    options = {key: value for key, value in spec.items() if key != "name"}
    ours = zilu.create_activation(spec["name"], **options)
    for number, parameter in enumerate(ours.parameters()):
        nn.init.constant_(parameter, 0.3 + 0.1 * number)
    plain = zilu_activations.make(spec)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


@pytest.mark.parametrize("spec", CASES, ids=lambda spec: "-".join(map(str, spec.values())))
def test_values_and_gradients_are_the_librarys(spec):
    ours, plain = pair(spec)
    x, y = X.clone().requires_grad_(), X.clone().requires_grad_()
    wanted, found = ours(x), plain(y)
    torch.testing.assert_close(found, wanted, rtol=2e-6, atol=1e-6)
    weights = torch.linspace(-1, 1, len(X)) / (1 + X.abs())
    (wanted * weights).sum().backward()
    (found * weights).sum().backward()
    torch.testing.assert_close(y.grad, x.grad, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(plain.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-3)
    if spec["name"] == "PReLU":  # torch's takes no other dtype than its weight's
        return
    half = X.clamp(-100, 100).bfloat16()
    torch.testing.assert_close(plain(half), ours(half), rtol=1e-2, atol=1e-2)
    assert plain(half).dtype == torch.bfloat16


@pytest.mark.parametrize("name", HUGGING_FACE_NAMES)
def test_names_of_transformers_mean_the_same_function(name):
    activations = pytest.importorskip("transformers.activations")
    theirs = activations.ACT2FN[hugging_face_name({"name": name})]
    ours = zilu.create_activation(name)
    torch.testing.assert_close(theirs(X), ours(X), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "ZiLU"},
        {"name": "SiLU_s", "sigma": 0.5},
        {"name": "GELU_s", "sigma": 1.0, "learnable": True},
        {"name": "GELU_s", "sigma": 1.0, "expand_gate": True},
        {"name": "LeakyReLU", "args": {"negative_slope": 0.5}},
    ],
)
def test_other_functions_have_no_name_there(spec):
    assert hugging_face_name(spec) is None


def test_each_place_gets_its_own():
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Sequential(nn.Tanh()))
    spec = {"name": "xATLU", "sites": ["1", "2.0"]}
    zilu_activations.put_into(network, spec)
    assert len(list(network.parameters())) == 4
    assert network[1] is not network[2][0]
    state = copy.deepcopy(network.state_dict())
    assert {"1.alpha", "2.0.alpha"} < state.keys()
