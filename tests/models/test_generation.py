"""Tokens are drawn as transformers draws them, and alike with the kept keys and without."""

import pytest
import torch
from helpers.tiny_gpt2 import TINY, tiny

from models import causal_lm
from models.generation import Choice, sampled

LONGEST = 16


class KeepsNothing(torch.nn.Module):
    """The same network, of which every token is computed anew."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def after(self, past, ids):
        return self.network(ids), None


def sharp(model):
    """Make the logits of a fresh network far from uniform, so that its choices are clear."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 40, "num_key_value_heads": 1}
    configs = {
        "hf gpt2": transformers.GPT2Config(n_embd=24, n_layer=2, n_head=3, n_positions=LONGEST),
        "llama": transformers.LlamaConfig(**sizes),
        "mistral": transformers.MistralConfig(**sizes, sliding_window=6),
        "mamba": transformers.MambaConfig(hidden_size=24, num_hidden_layers=2, state_size=4),
    }
    found = {"ours": tiny(dropout=0.5, num_layers=3)}
    for name, config in configs.items():
        folder = tmp_path_factory.mktemp(name.replace(" ", "_"))
        config.save_pretrained(folder)
        torch.manual_seed(0)
        found[name] = causal_lm.build(folder, torch.nn.SiLU, TINY["vocab_size"], LONGEST, None)
    return {name: sharp(model) for name, model in found.items()}


def drawn(model, ids, count, choice, seed=0):
    return sampled(model, LONGEST, ids, count, torch.Generator().manual_seed(seed), choice)


@pytest.mark.parametrize("name", ["ours", "hf gpt2", "llama", "mistral", "mamba"])
@pytest.mark.parametrize("start", [1, 9, LONGEST, 25])
def test_what_is_kept_changes_no_token(networks, name, start, monkeypatch):
    """Within the context and past it, where learned positions move; for several rows at once."""
    model = networks[name]
    ids = torch.randint(TINY["vocab_size"], (2, start), generator=torch.Generator().manual_seed(5))
    seen = []

    def after(past, new):
        seen.append(new.shape[1])
        return type(model).after(model, past, new)

    monkeypatch.setattr(model, "after", after)
    for choice in (Choice(), Choice(temperature=0)):
        seen.clear()
        kept = drawn(model, ids, 24, choice)
        assert kept.shape == (2, start + 24)
        computed = list(seen)
        assert torch.equal(kept, drawn(KeepsNothing(model), ids, 24, choice))
        alone = max(0, LONGEST - start)
        anew = [min(n, LONGEST) for n in range(start + alone + 1, start + 24)]
        assert computed == [min(start, LONGEST)] + [1] * alone + anew


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [
        (1.0, None, 0.9), (1.0, 5, 1.0), (0.7, None, 0.5), (1.3, 12, 0.8), (1.0, 1, 1.0),
        (1.0, 1000, 1.0), (1.0, None, 1e-9), (0.5, 3, 0.999999),
    ],
)  # fmt: skip
def test_what_is_drawn_from_equals_transformers(temperature, top_k, top_p):
    transformers = pytest.importorskip("transformers")
    logits = 4 * torch.randn(6, 61, generator=torch.Generator().manual_seed(3))
    logits[0, 7:20] = logits[0].max()  # equal ones at the edge of what is drawn
    processors = transformers.LogitsProcessorList()
    processors.append(transformers.TemperatureLogitsWarper(temperature))
    if top_k is not None:
        processors.append(transformers.TopKLogitsWarper(top_k))
    if top_p < 1:
        processors.append(transformers.TopPLogitsWarper(top_p))
    expected = processors(torch.zeros(6, 1, dtype=torch.int64), logits)
    assert torch.equal(Choice(temperature, top_k, top_p).limited(logits), expected)
    assert expected.isinf().any() or (top_k or 61) >= 61


def test_only_what_is_left_is_drawn_and_no_temperature_is_the_most_likely():
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]]).expand(500, -1)
    generator = torch.Generator().manual_seed(0)
    assert set(Choice(top_k=2).drawn(logits, generator).flatten().tolist()) == {2, 3}
    # 3 has 0.64 of the probability, 2 and 3 together 0.88.
    assert set(Choice(top_p=0.7).drawn(logits, generator).flatten().tolist()) == {2, 3}
    assert set(Choice(top_p=0.6).drawn(logits, generator).flatten().tolist()) == {3}
    for temperature in (0, 1e-45):
        found = Choice(temperature=temperature).drawn(logits, generator)
        assert set(found.flatten().tolist()) == {3}


def test_transformers_own_generation_agrees(networks):
    """Greedy, within the context, against GenerationMixin's loop."""
    model = networks["llama"].eval()
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    options = {"max_new_tokens": 9, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = model.network.generate(ids, attention_mask=torch.ones_like(ids), **options)
    assert torch.equal(drawn(model, ids, 9, Choice(temperature=0)), expected)
