"""Blocks of GPT-2 other than the published ones equal those of Llama, Qwen3 and timm."""

import copy
import functools
import math

import pytest
import torch
import torch.nn.functional as F
from helpers.llama import our_names, with_exact_norms
from helpers.tiny_gpt2 import TINY, tiny
from torch import nn

from models import build_model, resolve_blocks
from models.activation import create_activation, replace_activations
from models.gpt2_blocks import mlp_parameters, usual_mlp_width
from models.init_gain import second_moment, unit_gain
from models.mlp import GatedMLP
from models.rescale import rescale_around_activations
from models.rotary import rotation
from training.optimization import decayed_parameters

LLAMA = {"mlp": "glu", "norm": "rms", "positions": "rope", "bias": False}


def tokens(batch=3, length=16):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(TINY["vocab_size"], (batch, length), generator=generator)


def count_parameters(model):
    return sum(p.numel() for p in model.parameters())


def shaken(model):
    """Leave no parameter at a 0 or a 1 that could hide a mistake."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return model


def logits_loss_gradients(model, logits, ids):
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters)
    return logits, loss, dict(zip(names, gradients, strict=True))


# --- the published GPT-2 is what it was ---


class Constructed(nn.Module):
    """Draw and compute GPT-2 by plain operations, in the order of torch's generator."""

    def __init__(self, vocab_size, max_seq_length, embedding_dim, num_attention_heads, num_layers):
        super().__init__()
        width = embedding_dim
        wte = nn.Embedding(vocab_size, width)
        shapes = ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width))
        layers = [[nn.Linear(*shape) for shape in shapes] for _ in range(num_layers)]
        self.wte = nn.init.normal_(wte.weight, std=0.02)
        self.wpe = nn.init.normal_(torch.empty(max_seq_length, width), std=0.02)
        for block in layers:
            for index, layer in enumerate(block):
                std = 0.02 / math.sqrt(2 * num_layers) if index in (1, 3) else 0.02
                nn.init.normal_(layer.weight, std=std)
                nn.init.zeros_(layer.bias)
        self.layers, self.heads, self.width = layers, num_attention_heads, width

    def forward(self, ids):
        x = F.embedding(ids, self.wte) + self.wpe[: ids.shape[1]]
        norm = functools.partial(
            F.layer_norm, normalized_shape=(self.width,), weight=torch.ones(self.width),
            bias=torch.zeros(self.width), eps=1e-5,
        )  # fmt: skip
        for c_attn, attn_proj, c_fc, c_proj in self.layers:
            q, k, v = (
                part.unflatten(2, (self.heads, -1)).transpose(1, 2)
                for part in c_attn(norm(x)).split(self.width, dim=2)
            )
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + attn_proj(y.transpose(1, 2).flatten(2))
            x = x + c_proj(F.gelu(c_fc(norm(x)), approximate="tanh"))
        return F.linear(norm(x), self.wte)


def test_the_published_network_has_the_same_bits():
    ours = tiny(seed=5)
    torch.manual_seed(5)
    theirs = Constructed(**TINY)
    assert torch.equal(ours.wte.weight, theirs.wte)
    assert torch.equal(ours.wpe, theirs.wpe)
    for block, layers in zip(ours.h, theirs.layers, strict=True):
        own = (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)
        for one, other in zip(own, layers, strict=True):
            assert torch.equal(one.weight, other.weight)
    assert torch.equal(ours(tokens()), theirs(tokens()))
    state = tiny(seed=5, mlp="plain", mlp_width=96, positions="learned", qk_norm=False).state_dict()
    assert list(state) == list(ours.state_dict())
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in state.items())


# --- other projects' networks ---


def transformers_network(kind, **changes):
    """Build transformers' network of TINY's sizes, with the MLP that ours has."""
    transformers = pytest.importorskip("transformers")
    sizes = {
        "vocab_size": TINY["vocab_size"], "hidden_size": 24, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 8,
        "max_position_embeddings": 16, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
        "attention_bias": False, "attn_implementation": "sdpa",
    }  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(**sizes | changes)
    torch.manual_seed(0)
    return shaken(getattr(transformers, f"{kind}ForCausalLM")(config).double())


@pytest.mark.parametrize(("kind", "options"), [("Llama", {}), ("Qwen3", {"qk_norm": True})])
@pytest.mark.parametrize("length", [16, 5])
def test_it_is_llama_and_qwen3(kind, options, length):
    theirs = with_exact_norms(transformers_network(kind))
    ours = tiny(nn.SiLU, **LLAMA, **options).double()
    ours.load_state_dict(our_names(theirs.state_dict()))
    assert count_parameters(ours) == count_parameters(theirs)
    ids = tokens(length=length)
    mine = logits_loss_gradients(ours, ours(ids), ids)
    other = logits_loss_gradients(theirs, theirs(ids).logits, ids)
    torch.testing.assert_close(mine[0], other[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(mine[1], other[1], rtol=1e-9, atol=0)
    expected = our_names(other[2])
    assert mine[2].keys() == expected.keys()
    for name, gradient in mine[2].items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-7, atol=1e-9, msg=name)


def test_fp32_logits_are_llamas_too():
    theirs = transformers_network("Llama").float()
    ours = tiny(nn.SiLU, **LLAMA)
    ours.load_state_dict(our_names(theirs.state_dict()))
    torch.testing.assert_close(ours(tokens()), theirs(tokens()).logits, rtol=1e-5, atol=1e-5)


def test_angles_are_llamas_at_far_positions():
    """In fp32, as there: at position 100,000 an angle is off by more than fp32's digits."""
    modeling = pytest.importorskip("transformers.models.llama.modeling_llama")
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(hidden_size=64, num_attention_heads=1, head_dim=64)
    positions = torch.tensor([0, 1, 1000, 100_000])
    q, k = torch.randn(2, 2, 3, 4, 64)
    theirs = modeling.LlamaRotaryEmbedding(config)(q, positions[None])
    rotate = rotation(positions, 64)
    for mine, other in zip(
        (rotate(q), rotate(k)), modeling.apply_rotary_pos_emb(q, k, *theirs), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)
    assert rotate(q.bfloat16()).dtype == torch.bfloat16


def test_positions_count_only_by_their_differences():
    q, k = torch.randn(2, 4, 8, dtype=torch.float64)
    products = [
        rotation(torch.arange(4) + first, 8)(q) @ rotation(torch.arange(4) + first, 8)(k).mT
        for first in (0, 7)
    ]
    torch.testing.assert_close(*products, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(products[0], q @ k.mT)


# --- the MLP ---


def outputs_and_gradients(module, x, parameters):
    x = x.detach().requires_grad_()
    y = module(x)
    grad = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return y, *torch.autograd.grad(y, (x, *parameters), grad)


@pytest.mark.parametrize("bias", [False, True])
def test_it_is_llamas_mlp(bias):
    modeling = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = pytest.importorskip("transformers").LlamaConfig(
        hidden_size=24, intermediate_size=40, num_attention_heads=3, mlp_bias=bias
    )
    theirs = modeling.LlamaMLP(config).double()
    ours = GatedMLP(24, 40, nn.SiLU, 0.0, bias).double()
    pairs = (
        (ours.c_fc, theirs.gate_proj),
        (ours.c_up, theirs.up_proj),
        (ours.c_proj, theirs.down_proj),
    )
    for mine, other in pairs:
        mine.load_state_dict(other.state_dict())
    x = torch.randn(2, 5, 24, dtype=torch.float64)
    layers = [[pair[i] for pair in pairs] for i in range(2)]
    found, want = (
        outputs_and_gradients(module, x, [p for layer in own for p in layer.parameters()])
        for module, own in zip((ours, theirs), layers, strict=True)
    )
    for one, other in zip(found, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("activation", ["SiLU", "GELU", "Sigmoid", "ZiLU", "xATLU"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_it_is_timms_mlp(activation, dtype):
    layers = pytest.importorskip("timm.layers")
    make = functools.partial(create_activation, activation)
    theirs = layers.GluMlp(24, 80, act_layer=make, gate_last=False).to(dtype)
    ours = GatedMLP(24, 40, make, 0.0, bias=True).to(dtype)
    with torch.no_grad():
        ours.c_fc.weight.copy_(theirs.fc1.weight[:40]), ours.c_fc.bias.copy_(theirs.fc1.bias[:40])
        ours.c_up.weight.copy_(theirs.fc1.weight[40:]), ours.c_up.bias.copy_(theirs.fc1.bias[40:])
    ours.c_proj.load_state_dict(theirs.fc2.state_dict())
    x = torch.randn(2, 5, 24, dtype=dtype)
    found = outputs_and_gradients(
        ours, x, (ours.c_fc.weight, ours.c_up.weight, ours.c_proj.weight, *ours.act.parameters())
    )
    y, by_x, by_fc1, by_fc2, *by_act = outputs_and_gradients(
        theirs, x, (theirs.fc1.weight, theirs.fc2.weight, *theirs.act.parameters())
    )
    want = (y, by_x, by_fc1[:40], by_fc1[40:], by_fc2, *by_act)
    rounding = 1e-10 if dtype == torch.float64 else 1e-5
    for one, other in zip(found, want, strict=True):
        torch.testing.assert_close(one, other, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("bias", [False, True])
def test_parameters_equal_the_plain_mlps(bias):
    """Within 0.1 % of a block's, over all widths for which one hidden feature is not more."""
    for width in range(128, 4097, 8):
        hidden = usual_mlp_width(width, "glu", bias)
        plain = mlp_parameters(width, usual_mlp_width(width, "plain", bias), "plain", bias)
        difference = mlp_parameters(width, hidden, "glu", bias) - plain
        assert abs(difference) <= 1e-3 * (12 * width**2 + bias * 9 * width), width
    for width in range(2, 128):  # the nearest number
        hidden = usual_mlp_width(width, "glu", bias)
        wanted = mlp_parameters(width, 4 * width, "plain", bias)
        errors = [abs(mlp_parameters(width, n, "glu", bias) - wanted) for n in range(1, 4 * width)]
        assert errors[hidden - 1] <= max(min(errors), 1e-3 * 12 * width**2), width


@pytest.mark.parametrize(("width", "bias"), [(128, True), (320, False), (768, False), (1600, True)])
def test_networks_have_equal_parameters(width, bias):
    sizes = {"embedding_dim": width, "num_attention_heads": 4, "num_layers": 3, "bias": bias}
    with torch.device("meta"):
        counts = {
            mlp: count_parameters(build_model("gpt2", nn.SiLU, vocab_size=257, mlp=mlp, **sizes))
            for mlp in ("plain", "glu")
        }
    assert counts["glu"] == pytest.approx(counts["plain"], rel=1e-3)


def test_widths_suit_matrix_products():
    assert usual_mlp_width(768, "glu", False) == 2048  # two thirds of 3072, to the parameter
    assert usual_mlp_width(1600, "glu", False) % 16 == 0
    assert usual_mlp_width(4096, "plain", True) == 16384


@pytest.mark.parametrize("mlp", ["plain", "glu"])
def test_a_given_width(mlp):
    model = tiny(mlp=mlp, mlp_width=40)
    assert model.h[0].mlp.c_fc.out_features == model.h[1].mlp.c_proj.in_features == 40


# --- initial weights ---


def test_initial_weights():
    sizes = {"embedding_dim": 128, "num_attention_heads": 4, "num_layers": 8}
    torch.manual_seed(0)
    model = build_model("gpt2", nn.SiLU, vocab_size=300, max_seq_length=128, **sizes, **LLAMA)
    for name, value in model.named_parameters():
        if "ln_" in name:
            assert (value == 1).all(), name
            continue
        std = 0.02 / math.sqrt(16) if name.endswith("c_proj.weight") else 0.02
        assert value.std().item() == pytest.approx(std, rel=5 / (2 * value.numel()) ** 0.5), name


@pytest.mark.parametrize(
    "options", [{"positions": "rope"}, {"norm": "rms"}, {"qk_norm": True}, {"bias": False}]
)
def test_blocks_do_not_change_the_draws_of_the_rest(options):
    published, other = tiny().state_dict(), tiny(**options).state_dict()
    shared = {name for name in published.keys() & other.keys() if not name.startswith("ln_")}
    assert len(shared) > 10
    assert all(torch.equal(published[name], other[name]) for name in shared)


def test_only_matrices_decay():
    model = tiny(nn.SiLU, **LLAMA, qk_norm=True)
    others = {name for name, _ in model.named_parameters()} - decayed_parameters(model, "weights")
    norms = ("ln_1", "ln_2", "attn.q_norm", "attn.k_norm")
    assert others == {f"h.{i}.{norm}.weight" for i in range(2) for norm in norms} | {"ln_f.weight"}


# --- what other parts ask of the network ---


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_rescaled_it_is_another_sigma(factor):
    def build(sigma):
        return shaken(tiny(lambda: create_activation("ZiLU", sigma), **LLAMA).double())

    model = build(0.7)
    rescale_around_activations(model, factor)
    torch.testing.assert_close(model(tokens()), build(0.7 * factor)(tokens()), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(model(tokens()), build(0.7)(tokens()))


def test_unit_gain_scales_the_projection_alone():
    model, other = tiny(nn.Tanh, **LLAMA), tiny(nn.Tanh, **LLAMA)
    unit_gain(model, nn.Tanh)
    factor = math.sqrt(0.5 / second_moment(nn.Tanh()))
    for name, value in model.named_parameters():
        scale = factor if name.endswith("mlp.c_proj.weight") else 1
        torch.testing.assert_close(value, scale * other.get_parameter(name), msg=name)


def test_flops_per_token_by_hand():
    model = tiny(nn.SiLU, **LLAMA)
    per_layer = 4 * 24 * 24 + 3 * 24 * 64 + 2 * 24
    numbers = 61 * 24 + 2 * per_layer + 24
    assert model.flops_per_token == 6 * numbers + 2 * 2 * (2 * 24 * 16) * 3
    assert model.shape == TINY


def test_replacing_activations_in_a_gated_network():
    model = tiny(nn.SiLU, **LLAMA, qk_norm=True)
    want = tiny(lambda: create_activation("ZiLU", 0.5), **LLAMA, qk_norm=True)
    report = replace_activations(model, "ZiLU", sigma=0.5, example_input=tokens())
    assert [site.path for site in report.replaced] == ["h.0.mlp.act", "h.1.mlp.act"]
    assert torch.equal(model(tokens()), want(tokens()))


def test_later_tokens_do_not_change_earlier_logits():
    model, ids = tiny(nn.SiLU, **LLAMA, qk_norm=True), tokens(2)
    with torch.no_grad():
        logits = model(ids)
        changed = ids.clone()
        changed[:, 8] = (ids[:, 8] + 1) % TINY["vocab_size"]
        assert torch.equal(model(changed)[:, :8], logits[:, :8])
        assert not torch.equal(model(changed)[:, 8:], logits[:, 8:])
        torch.testing.assert_close(model(ids[:, :5]), logits[:, :5])
    with pytest.raises(ValueError, match="longer than the model's 16 positions"):
        model(tokens(length=17))
    generator = torch.Generator().manual_seed(0)
    assert model.generate(ids, 4, generator).shape == (2, 20)


def test_mixed_precision_compilation_and_copies():
    model = tiny(lambda: create_activation("ZiLU", learnable=True), **LLAMA, qk_norm=True)
    ids = tokens()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    results = [logits_loss_gradients(model, each(ids), ids) for each in (model, compiled)]
    torch.testing.assert_close(results[1][0], results[0][0])
    for name, gradient in results[1][2].items():
        torch.testing.assert_close(gradient, results[0][2][name], rtol=1e-4, atol=1e-6)
    assert torch.equal(copy.deepcopy(model)(ids), model(ids))
    with torch.autocast("cpu", torch.bfloat16):
        half = model(ids)
    torch.testing.assert_close(half.float(), model(ids), rtol=0.05, atol=0.02)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"positions": "rope", "heads": 8}, "odd number"),
        ({"mlp": "swiglu"}, "--mlp must be one of plain, glu"),
        ({"positions": "alibi"}, "--positions must be one of learned, rope"),
        ({"mlp_width": 0}, "--mlp_width must be a whole number above 0"),
    ],
)
def test_refusals(given, said):
    shape = {"embedding_dim": 24, "num_attention_heads": given.pop("heads", 3)}
    with pytest.raises(ValueError, match=said):
        resolve_blocks(shape, **given)
