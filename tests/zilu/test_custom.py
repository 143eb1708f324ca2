"""Activations of a user's own: found, tried out, refused in one line, compared."""

import copy
import hashlib
import pickle
import sys

import pytest
import torch
from helpers.own_activations import MISTAKES, write
from torch import nn
from torch.nn import functional as F

import models
from training.optimization import decayed_parameters
from zilu import create_activation, replace_activations
from zilu.custom.activation import difference, load, sigma_of
from zilu.custom.trial import check, curve
from zilu.names import canonical_name, custom_name


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(write(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("scales", None)
    yield tmp_path
    sys.modules.pop("scales", None)


def test_a_name_is_read_without_loading_anything():
    assert custom_name("./a/../mine.py:Squash") == ("mine.py", "Squash")
    assert custom_name("/x y/mine.py:f") == ("/x y/mine.py", "f")
    assert canonical_name("no.such.package:Name") == "no.such.package:Name"
    for text in ("mine.py", "mine:", ":Name", "a b:Name", "torch.nn.Mish", "a/b:Name", "mine.py:1"):
        assert custom_name(text) is None
        with pytest.raises(ValueError, match=r"path/to/file\.py:Name"):
            canonical_name(text)


def test_a_class_a_function_and_torchs_own_compute_what_they_say(own):
    x = torch.linspace(-4, 4, 65)
    power = create_activation("mine.py:power", args={"exponent": 3})
    assert torch.equal(power(x), torch.relu(x) ** 3)
    assert str(power) == "power(exponent=3)"
    assert torch.equal(create_activation("torch.nn:Mish")(x), F.mish(x))
    assert torch.equal(create_activation("torch:tanh")(x), torch.tanh(x))
    soft = create_activation("mine.py:Soft", sigma=2.0, learnable=True)
    torch.testing.assert_close(soft(x), x * torch.sigmoid(2 * x))
    assert sigma_of(soft).item() == 2
    assert create_activation("mine.py:Soft", inplace=True).inplace
    assert pickle.loads(pickle.dumps(soft))(x).equal(copy.deepcopy(soft)(x))


def test_torch_compile_takes_it(own):
    x = torch.randn(7, requires_grad=True)
    module = create_activation("mine.py:Squash", args={"beta": 0.5})
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), module(x))


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_one_line(own, name):
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=MISTAKES[name][1]) as refused:
        check(f"mistakes.py:{name}")
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(f"mistakes.py:{name}")
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("def broken(:\n", "line 1"),
        ("import torch\n\n1 / 0\n", "line 3.*ZeroDivisionError"),
        ("import no_such_module_at_all\n", "no_such_module_at_all"),
        ("raise SystemExit(3)\n", "SystemExit"),
    ],
)
def test_a_file_that_cannot_be_imported_leaves_nothing(own, text, word):
    (own / "other.py").write_text(text)
    before, path = set(sys.modules), [*sys.path]
    with pytest.raises(ValueError, match=word):
        load("other.py:Name")
    assert sys.path == path
    assert not [name for name in set(sys.modules) - before if name.startswith("custom_")]


@pytest.mark.parametrize(
    ("name", "args", "word"),
    [
        ("mine.py:Squosh", {}, "did you mean mine.py:Squash"),
        ("theirs.py:Squash", {}, "no file theirs.py"),
        ("no.such:Squash", {}, "no module no"),
        ("mine.py:Squash", {"bta": 1}, "it takes beta"),
        ("mine.py:Squash", {"inplace": True}, "inplace"),
        ("torch.nn:LayerNorm", {}, "normalized_shape"),
    ],
)
def test_a_name_or_argument_that_is_not_there(own, name, args, word):
    with pytest.raises(ValueError, match=word):
        check(name, args=args)


def test_sigma_is_for_those_that_take_it(own):
    for options in ({"sigma": 2.0}, {"learnable": True}):
        with pytest.raises(ValueError, match="sigma"):
            check("mine.py:Squash", **options)
    check("mine.py:Soft", 2.0, learnable=True)


def test_channels_may_matter(own):
    check("torch.nn:PReLU", args={"num_parameters": 48})


def test_the_digest_covers_neighbours_and_nothing_else(own):
    source = load("mine.py:Squash").source
    assert source.sha256 == {
        name: hashlib.sha256((own / name).read_bytes()).hexdigest()
        for name in ("mine.py", "scales.py")
    }
    again = {**source.record(), "path": "/elsewhere/mine.py"}
    assert difference(again, source) is None
    changed = {**again, "sha256": {**source.sha256, "scales.py": "0" * 64}}
    told = difference(changed, source)
    assert told is not None
    assert "0" * 64 in told
    assert source.sha256["scales.py"] in told


def test_an_edited_file_is_other_code(own):
    before = load("mine.py:power").source
    assert load("mine.py:Squash").source.sha256 == before.sha256
    moved = own / "moved"
    moved.mkdir()
    (moved / "mine.py").write_text((own / "mine.py").read_text() + "\n")
    (moved / "scales.py").write_text((own / "scales.py").read_text())
    with pytest.raises(ValueError, match=r"imports scales.*loaded already"):
        load("moved/mine.py:Squash")  # it would get the other scales.py
    sys.modules.pop("scales")
    told = difference(before.record(), load("moved/mine.py:power").source)
    assert told is not None
    assert told.startswith("mine.py had SHA-256")


@pytest.mark.parametrize("decay", ["weights", "matrices", "all"])
def test_nothing_inside_it_decays(own, decay):
    network = nn.Sequential(nn.Linear(3, 3), create_activation("mine.py:Squash"))
    names = {"0.weight"} | ({"0.bias"} if decay == "all" else set())
    assert decayed_parameters(network, decay) == names


@pytest.mark.parametrize("name", ["resnet20", "vit-tiny", "gpt2"])
def test_networks_draw_no_weights_inside_it(own, name):
    """What the activation draws in its constructor stays, and the network's layers around it."""
    made = []

    def squash():
        module = create_activation("mine.py:Squash")
        made.append((module, copy.deepcopy(module.state_dict())))
        return module

    if name == "gpt2":
        shape = {"embedding_dim": 16, "num_attention_heads": 2, "num_layers": 2}
        network = models.build_model(name, squash, vocab_size=11, max_seq_length=8, **shape)
    else:
        network = models.build_model(name, squash)
    assert made
    for module, state in made:
        assert all(value.equal(state[key]) for key, value in module.state_dict().items())
    inside = {id(part) for module, _ in made for part in module.modules()}
    _, reading = network.around_activations()
    assert not inside & {id(layer) for layer in reading}


def test_the_curve_is_the_function_and_its_slope(own):
    found = load("mine.py:power")
    values = curve(found, found.make(args={"exponent": 3}))
    x = torch.tensor(values["x"], dtype=torch.float64)
    for name, exact in (("f", x.clamp(min=0) ** 3), ("slope", 3 * x.clamp(min=0) ** 2)):
        torch.testing.assert_close(torch.tensor(values[name]), exact.float(), rtol=1e-5, atol=1e-9)


def test_replace_activations_takes_names_and_functions(own):
    x = torch.randn(2, 3)
    for target in ("mine.py:power", lambda x: torch.relu(x) ** 2, F.mish, torch.tanh):
        network = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
        replace_activations(network, {"ReLU": target})
        function = target if callable(target) else lambda x: torch.relu(x) ** 2
        assert network(x).equal(network[2](function(network[0](x))))
