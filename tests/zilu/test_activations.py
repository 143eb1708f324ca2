"""Test the modules and the registry: names, sigma, state_dict, in-place, lazy imports."""

import copy
import math
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

import models.activation
import zilu
from zilu.names import ACTIVATIONS, ALIASES, INPLACE_NAMES, SIGMA_NAMES

X = torch.linspace(-3, 3, 61)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_name_gives_a_fresh_module_of_that_class(name):
    first, second = zilu.create_activation(name.upper()), zilu.create_activation(name.lower())
    assert type(first).__name__ == type(second).__name__ == name
    assert first is not second
    x = X.clone().requires_grad_()
    y = first(x)
    y.sum().backward()
    assert y.shape == X.shape
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", [n for n in ACTIVATIONS if hasattr(nn, n)])
def test_torchs_own_are_torchs_own(name):
    assert type(zilu.create_activation(name)) is getattr(nn, name)


@pytest.mark.parametrize("alias", ALIASES)
def test_the_papers_names_are_aliases(alias):
    assert type(zilu.create_activation(alias)) is getattr(zilu, ALIASES[alias])
    assert getattr(zilu, alias) is getattr(zilu, ALIASES[alias])


def test_unknown_name_suggests_and_lists():
    with pytest.raises(ValueError, match=r"'zlu'.*did you mean ZiLU\?.*GELU_s.*SquarePlus"):
        zilu.create_activation("zlu")


@pytest.mark.parametrize("name", SIGMA_NAMES)
def test_fixed_sigma_is_a_float_outside_the_state_dict(name):
    module = zilu.create_activation(name, sigma=0.3)
    assert module.state_dict() == {}
    assert list(module.parameters()) == []
    assert module.half().sigma == 0.3
    assert repr(module) == f"{name}(sigma=0.3)"
    assert torch.equal(module(X), getattr(zilu.functional, name.lower())(X, 0.3))


@pytest.mark.parametrize("name", SIGMA_NAMES)
def test_learnable_sigma(name):
    module = zilu.create_activation(name, sigma=0.3, learnable=True)
    fixed = zilu.create_activation(name, sigma=torch.tensor(0.3).item())  # a parameter's fp32
    assert set(module.state_dict()) == {"sigma0", "rho"}
    assert torch.equal(module(X), fixed(X))
    module(X).sum().backward()
    # d sigma / d rho = sigma at rho = 0
    sigma = torch.tensor(0.3, requires_grad=True)
    getattr(zilu.functional, name.lower())(X, sigma).sum().backward()
    torch.testing.assert_close(module.rho.grad.view(()), sigma.grad * 0.3)
    with torch.no_grad():
        module.rho.fill_(-50)
    assert module.sigma > 0
    loaded = zilu.create_activation(name, learnable=True)
    loaded.load_state_dict(module.state_dict())
    assert loaded.sigma == module.sigma
    assert "learnable=True" in repr(module)


@pytest.mark.parametrize("sigma", [0, -0.5, math.nan, math.inf])
def test_bad_sigma_is_refused(sigma):
    with pytest.raises(ValueError, match="sigma must be a finite number above 0"):
        zilu.ZiLU(sigma)


@pytest.mark.parametrize("name", ["ReLU", "GELU", "SquarePlus"])
def test_nothing_to_learn_without_sigma(name):
    with pytest.raises(ValueError, match=f"{name} has no sigma to learn"):
        zilu.create_activation(name, learnable=True)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_inplace(name):
    x = X.clone()
    module = zilu.create_activation(name, inplace=True)
    assert (module(x).data_ptr() == x.data_ptr()) == (name in (*INPLACE_NAMES, "Identity"))
    if name in SIGMA_NAMES:
        assert torch.equal(x, X)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_copies_and_pickles(name):
    module = zilu.create_activation(name)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(twin(X), module(X))


def test_autocast_keeps_the_inputs_dtype():
    with torch.autocast("cpu", torch.bfloat16):
        y = nn.Sequential(nn.Linear(61, 5), zilu.ZiLU())(X)
    assert y.dtype == torch.bfloat16


def test_meta_device():
    with torch.device("meta"):
        module = zilu.ZiLU(learnable=True)
    assert "learnable" in repr(module)
    assert module(torch.empty(3, device="meta")).is_meta


@pytest.mark.parametrize("name", SIGMA_NAMES)
def test_built_without_memory_and_then_reset(name):
    """Build as FSDP and torchtitan do for networks too large for one process."""
    with torch.device("meta"):
        model = nn.Sequential(
            nn.Linear(61, 61),
            zilu.create_activation(name, sigma=0.3, learnable=True),
            zilu.create_activation(name, sigma=0.7),
        )
    model.to_empty(device="cpu")
    with torch.no_grad():
        model[1].sigma0.fill_(math.nan)
        model[1].rho.fill_(math.nan)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    made = zilu.create_activation(name, sigma=0.3, learnable=True)
    assert torch.equal(model[1].sigma, made.sigma)
    assert model[1].rho.requires_grad
    assert model[2].sigma == 0.7
    model(X).sum().backward()
    assert model[1].rho.grad.isfinite()


def test_reset_ends_what_was_learned_and_keeps_the_tensors():
    module = copy.deepcopy(zilu.ZiLU(0.3, learnable=True)).double()
    tensors = [module.sigma0, module.rho]
    with torch.no_grad():
        module.rho.fill_(2)
    module.reset_parameters()
    assert module.sigma.item() == 0.3
    assert module.sigma0 is tensors[0]
    assert module.rho is tensors[1]


def test_modules_pickled_before_there_was_a_reset():
    module = zilu.ZiLU(0.3, learnable=True)
    del module._initial_sigma
    twin = pickle.loads(pickle.dumps(module))
    assert torch.equal(twin(X), module(X))
    assert repr(twin) == "ZiLU(sigma=0.3, learnable=True)"


def test_the_models_door_offers_the_same():
    assert models.activation.__all__ == zilu.__all__
    for name in zilu.__all__:
        assert getattr(models.activation, name) is getattr(zilu, name)


def test_names_do_not_load_torch():
    code = "import sys, zilu.names; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError):
        zilu.nothing  # noqa: B018


def test_a_learned_sigma_that_was_saved_without_a_dimension_loads():
    module = zilu.ZiLU(0.5, learnable=True)
    module.load_state_dict({"sigma0": torch.tensor(0.5), "rho": torch.tensor(0.25)})
    assert module.rho.shape == (1,)
    assert module.rho.item() == 0.25
    assert module(torch.tensor(1.0)).shape == ()
