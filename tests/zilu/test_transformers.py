"""Test the names in Hugging Face's configurations, with tiny random models of many families."""

import math
import sys

import pytest
import torch
from transformers import activations

import zilu
from zilu.names import ALIASES, SIGMA_NAMES
from zilu.transformers import register_transformers

NAMES = {name.lower() for name in (*SIGMA_NAMES, *ALIASES, "SquarePlus")}
TABLES = (activations.ACT2CLS, activations.ACT2FN)
IDS = torch.arange(6).reshape(2, 3)

# By family: configuration, model, arguments, inputs, number of layers with an activation.
SMALL = {"vocab_size": 11, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DEEP = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 16}
T5 = {"num_layers": 2, "num_heads": 2, "d_model": 8, "d_kv": 4, "d_ff": 16}
WHISPER = {
    "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "d_model": 8,
    "num_mel_bins": 4, "max_source_positions": 4, "max_target_positions": 8,
    "decoder_start_token_id": 1, "suppress_tokens": None, "begin_suppress_tokens": None,
}  # fmt: skip
GPT2 = {"n_layer": 2, "n_head": 2, "n_embd": 8, "n_positions": 8, "activation_function": "zilu"}
BOTH = {"input_ids": IDS, "decoder_input_ids": IDS}
FAMILIES = {
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", GPT2, {"input_ids": IDS}, 2),
    "bert": ("BertConfig", "BertModel", {**DEEP, "hidden_act": "zilu"}, {"input_ids": IDS}, 2),
    "distilbert": (
        "DistilBertConfig", "DistilBertModel",
        {"n_layers": 2, "n_heads": 2, "dim": 8, "hidden_dim": 16, "activation": "zilu"},
        {"input_ids": IDS}, 2,
    ),
    "t5": ("T5Config", "T5Model", {**T5, "feed_forward_proj": "zilu"}, BOTH, 4),
    "t5-gated": ("T5Config", "T5Model", {**T5, "feed_forward_proj": "gated-zilu"}, BOTH, 4),
    "whisper": (
        "WhisperConfig", "WhisperModel", {**WHISPER, "activation_function": "zilu"},
        {"input_features": torch.ones(2, 4, 8), "decoder_input_ids": IDS}, 2,
    ),
    "llama": (
        "LlamaConfig", "LlamaModel", {**DEEP, "num_key_value_heads": 2, "hidden_act": "zilu"},
        {"input_ids": IDS}, 2,
    ),
}  # fmt: skip

by_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(autouse=True)
def tables(monkeypatch):
    """Restore transformers' own tables and initialisation after each test."""
    from transformers import PreTrainedModel

    monkeypatch.setattr(PreTrainedModel, "_initialize_weights", PreTrainedModel._initialize_weights)
    before = set(activations.ACT2CLS)
    yield
    for table in TABLES:
        for name in set(table) - before:
            del table[name]


def build(family):
    import transformers

    config, model, options, inputs, count = FAMILIES[family]
    torch.manual_seed(0)
    made = getattr(transformers, model)(getattr(transformers, config)(**SMALL, **options))
    return made.eval(), inputs, count


def sites(model):
    """Return the activations, one for each place that holds one."""
    return [
        module
        for _, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, zilu.ZiLU)
    ]


@by_family
def test_each_layer_has_a_zilu_of_its_own(family):
    register_transformers(sigma=0.3)
    model, inputs, count = build(family)
    found = sites(model)
    assert [module.sigma for module in found] == [0.3] * count
    assert len({id(module) for module in found}) == count
    loss = model(**inputs)[0].square().sum()
    loss.backward()
    assert loss.isfinite()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert not any("rho" in key for key in model.state_dict())


@by_family
def test_learned_sigmas(family):
    register_transformers(sigma=0.3, learnable=True)
    model, inputs, count = build(family)
    names = [name for name, _ in model.named_parameters() if name.endswith(".rho")]
    assert len(names) == count
    assert set(names) <= set(model.state_dict())
    model(**inputs)[0].square().sum().backward()
    assert all(module.rho.grad.isfinite() and module.rho.grad != 0 for module in sites(model))
    assert all(module.sigma.item() == pytest.approx(0.3) for module in sites(model))


def test_a_block_computes_zilu():
    register_transformers(sigma=0.3)
    model, _, _ = build("llama")
    mlp = model.double().layers[0].mlp
    x = torch.randn(5, 8, dtype=torch.float64) * 100
    gate = mlp.gate_proj(x)
    wanted = gate * (0.5 + torch.atan(0.3 * gate) / math.pi) * mlp.up_proj(x)
    torch.testing.assert_close(mlp(x), mlp.down_proj(wanted))


def test_a_configuration_keeps_the_name(tmp_path):
    register_transformers(sigma=0.3)
    model, inputs, _ = build("gpt2")
    model.save_pretrained(tmp_path)
    loaded, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert loaded.config.activation_function == "zilu"
    assert not any(report.values())
    assert sites(loaded)[0].sigma == 0.3
    assert torch.equal(loaded.eval()(**inputs)[0], model(**inputs)[0])


def test_learned_sigmas_are_loaded(tmp_path):
    register_transformers(sigma=0.3, learnable=True)
    model, _, _ = build("gpt2")
    with torch.no_grad():
        sites(model)[1].rho.fill_(1.5)
    model.save_pretrained(tmp_path)
    register_transformers(sigma=7, learnable=True)
    loaded, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert [module.sigma for module in sites(loaded)] == [module.sigma for module in sites(model)]


def test_a_checkpoint_without_sigmas_starts_at_sigma(tmp_path, monkeypatch):
    """Load as transformers 5 does, which leaves weights that a checkpoint lacks uninitialised."""
    monkeypatch.setitem(FAMILIES["gpt2"][2], "activation_function", "gelu_new")
    model, _, _ = build("gpt2")
    model.save_pretrained(tmp_path)
    register_transformers(sigma=0.3, learnable=True)
    register_transformers(sigma=0.4, learnable=True)
    # Uninitialised memory might hold the right value by chance.
    empty_like = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: empty_like(*a, **k).fill_(-7))
    loaded = type(model).from_pretrained(tmp_path, activation_function="zilu")
    assert [module.sigma.item() for module in sites(loaded)] == [pytest.approx(0.4)] * 2
    weight = "transformer.h.0.mlp.c_fc.weight"
    assert torch.equal(loaded.state_dict()[weight], model.state_dict()[weight])


def test_every_name_in_both_tables():
    register_transformers(sigma=0.3)
    for name in NAMES:
        for made in (activations.ACT2FN[name], activations.ACT2CLS[name]()):
            assert type(made) is type(zilu.create_activation(name))
            assert getattr(made, "sigma", 0.3) == 0.3


def test_registering_again_changes_sigma_alone():
    register_transformers(sigma=0.3)
    first = activations.ACT2FN["zilu"]
    register_transformers(sigma=2)
    assert (first.sigma, activations.ACT2FN["zilu"].sigma) == (0.3, 2)


def test_names_of_transformers_own_stay():
    class Theirs(torch.nn.Module):
        pass

    before = dict(activations.ACT2CLS)
    for table in TABLES:
        table["gelu_s"] = Theirs
    register_transformers()
    assert type(activations.ACT2FN["gelu_s"]) is Theirs
    assert activations.ACT2CLS["gelu_s"] is Theirs
    assert {name: activations.ACT2CLS[name] for name in before} == before
    assert set(activations.ACT2CLS) == set(before) | NAMES


@pytest.mark.parametrize("sigma", [0, -1, math.nan])
def test_bad_sigma_is_refused_at_once(sigma):
    with pytest.raises(ValueError, match="sigma must be a finite number above 0"):
        register_transformers(sigma)
    assert "zilu" not in activations.ACT2CLS


def test_without_transformers_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers.activations", None)
    with pytest.raises(ImportError, match=r"pip install 'transformers>=4.45'"):
        register_transformers()
