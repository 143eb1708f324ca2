"""GPT-2 is the published network, with the activation that was given, and takes its checkpoints."""

import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny_gpt2 import TINY, hugging_face, save, tiny
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import models
from benchmarks.plain_gpt import PlainGPT
from models import (
    GPT2_VARIANTS,
    LANGUAGE_MODELS,
    build_model,
    hugging_face_shape,
    resolve_norm,
    resolve_shape,
)
from models.activation import create_activation
from models.gpt2 import GPT2, load_hugging_face
from training.optimization import parameter_groups


class Sine(nn.Module):
    """Compute a sine: an activation that no network has, so that every use of it is ours."""

    def forward(self, x):
        return torch.sin(x)


def tokens(batch, length, vocab_size=TINY["vocab_size"]):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(vocab_size, (batch, length), generator=generator)


def on_meta(build, *args, **kwargs):
    """Build without memory or random numbers: shapes only."""
    with torch.device("meta"):
        return build(*args, **kwargs)


def count_parameters(model):
    return sum(p.numel() for p in model.parameters())


def assert_same(ours, theirs):
    """Compare by the largest value: a number near 0 is no more exact than the others."""
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.fixture(scope="module")
def published():
    """Build Hugging Face's model with no parameter at a 0 or a 1 that could hide a mistake."""
    model = hugging_face()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def saved(published, tmp_path_factory):
    """Save the published model's checkpoint folder, which no test may write to."""
    return save(tmp_path_factory.mktemp("gpt2"), published)


@pytest.fixture
def checkpoint(published, tmp_path):
    """Save a checkpoint folder that a test may spoil."""
    return save(tmp_path / "gpt2", published)


@pytest.fixture
def loaded(saved):
    model = tiny(seed=1)
    load_hugging_face(model, saved)
    return model


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder, edit):
    path = folder / "model.safetensors"
    save_file(edit(load_file(path)), path)


# --- the published network ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_parameter_count(name, count):
    ours = on_meta(build_model, name, nn.GELU, vocab_size=50257)
    width, heads, layers = GPT2_VARIANTS[name]
    theirs = on_meta(
        hugging_face, vocab_size=50257, n_positions=1024, n_embd=width, n_head=heads, n_layer=layers
    )
    assert count_parameters(ours) == count_parameters(theirs) == count


def test_parameters_have_the_published_names():
    theirs = {name.removeprefix("transformer.") for name, _ in hugging_face().named_parameters()}
    ours = {"wpe.weight" if name == "wpe" else name for name, _ in tiny().named_parameters()}
    assert ours == theirs


@pytest.mark.parametrize(("batch", "length"), [(3, 16), (2, 7), (1, 16), (2, 1), (1, 1)])
def test_equals_the_published(loaded, published, batch, length):
    ids = tokens(batch, length)
    targets = tokens(batch, length + 1)[:, 1:]  # of the same length, and not the inputs
    results = []
    for model, logits in ((loaded, loaded(ids)), (published, published(ids).logits)):
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        names, parameters = zip(*model.named_parameters(), strict=True)
        names = [name.removeprefix("transformer.") for name in names]
        gradients = torch.autograd.grad(loss, parameters)
        results.append((logits, loss, dict(zip(names, gradients, strict=True))))
    (logits, loss, gradients), (their_logits, their_loss, their_gradients) = results
    assert_same(logits, their_logits)
    assert_same(loss, their_loss)
    for key, gradient in gradients.items():
        theirs = their_gradients["wpe.weight" if key == "wpe" else key]
        if key.endswith(("c_attn.weight", "c_fc.weight", "c_proj.weight")):
            theirs = theirs.t()
        # The floor is for what is 0 but for rounding: at length 1, attention has no choice.
        assert (gradient - theirs).abs().max() <= 1e-4 * theirs.abs().max() + 1e-6, key


def test_loss_equals_the_published_ones_own(loaded, published):
    ids = tokens(3, 16)
    loss = F.cross_entropy(loaded(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert_same(loss, published(ids, labels=ids).loss)


def test_later_tokens_do_not_change_earlier_logits():
    model, ids = tiny(), tokens(2, 16)
    with torch.no_grad():
        logits = model(ids)
        for position in (1, 8, 15):
            changed = ids.clone()
            changed[:, position] = (ids[:, position] + 1) % TINY["vocab_size"]
            others = model(changed)
            assert torch.equal(others[:, :position], logits[:, :position])
            assert not torch.equal(others[:, position:], logits[:, position:])
        assert_same(model(ids[:, :5]), logits[:, :5])


def test_too_long_a_sequence_is_refused():
    with pytest.raises(ValueError, match=r"^sequences of 17 tokens .* 16 positions: cut them, or "):
        tiny()(tokens(1, 17))


def test_no_masks_and_no_duplicates_in_the_state():
    model = tiny()
    assert list(model.buffers()) == []
    state = model.state_dict()
    assert len({value.data_ptr() for value in state.values()}) == len(state)
    assert sum(value.numel() for value in state.values()) == count_parameters(model)


def test_the_tied_weight_gets_the_gradient_of_both_its_uses():
    model = tiny()
    ids = tokens(2, 16)
    ids[ids == 0] = 1  # token 0 is never an input, but always a candidate at the output
    F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
    total = model.wte.weight.grad
    assert total[0].abs().max() > 0

    head = model.wte.weight.detach().clone().requires_grad_()
    model.zero_grad()
    hidden = model.ln_f(model.h(model.wte(ids) + model.wpe))
    F.cross_entropy(F.linear(hidden, head).flatten(0, 1), ids.flatten()).backward()
    assert_same(model.wte.weight.grad + head.grad, total)


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_flops_per_token_by_hand(name):
    model = on_meta(build_model, name, nn.GELU, vocab_size=50257, max_seq_length=512)
    width, _, layers = GPT2_VARIANTS[name]
    per_layer = 12 * width * width + 13 * width  # 4 + 8 matrices; 9 of biases, 4 of norms
    numbers = 50257 * width + layers * per_layer + 2 * width
    # two products per token and earlier one, 2 FLOPs each, of which backward has twice as many
    attention = layers * 2 * (2 * width * 512) * 3
    assert model.flops_per_token == 6 * numbers + attention


# --- initialisation -------------------------------------------------------------------------------


def test_initial_weights_are_gpt2s():
    torch.manual_seed(0)
    sizes = {"embedding_dim": 128, "num_attention_heads": 4, "num_layers": 8}
    model = build_model("gpt2", nn.GELU, vocab_size=300, max_seq_length=128, **sizes)
    for name, value in model.named_parameters():
        if ".ln_" in name or name.startswith("ln_f"):
            assert (value == (1 if name.endswith("weight") else 0)).all(), name
        elif name.endswith("bias"):
            assert (value == 0).all(), name
        else:
            std = 0.02 / math.sqrt(16) if name.endswith("c_proj.weight") else 0.02
            # five standard errors
            assert abs(value.mean()) <= 5 * std / value.numel() ** 0.5, name
            assert value.std().item() == pytest.approx(std, rel=5 / (2 * value.numel()) ** 0.5), (
                name
            )
            assert value.abs().max() > 3 * std, name  # not truncated


def test_initial_weights_do_not_depend_on_the_activation():
    def build(activation, seed=0):
        model = tiny(activation, seed=seed)
        return model.state_dict(), torch.get_rng_state()

    weights, generator = build(nn.ReLU)
    zilu = lambda: create_activation("ZiLU", learnable=True)  # noqa: E731
    for activation in (nn.PReLU, zilu, nn.Identity):
        others, other_generator = build(activation)
        assert all(".mlp.act." in key for key in set(others) - set(weights))
        for key, value in weights.items():
            assert torch.equal(others[key], value), key
        assert torch.equal(other_generator, generator)
    other_seed, _ = build(nn.ReLU, seed=1)
    assert not torch.equal(other_seed["wte.weight"], weights["wte.weight"])


def test_positions_norms_and_biases_are_not_decayed_and_the_tied_weight_is_once():
    model = tiny(nn.PReLU)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, others = (
        [names[id(p)] for p in group["params"]] for group in parameter_groups(model, 0.1)
    )
    linears = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    expected = ["wte.weight", *(f"h.{n}.{linear}.weight" for n in range(2) for linear in linears)]
    assert Counter(decayed) == Counter(expected)
    assert Counter(others) == Counter(set(names.values()) - set(expected))
    assert {"wpe", "h.0.ln_1.weight", "h.0.mlp.act.weight", "ln_f.bias"} <= set(others)


# --- the activation -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_every_site_has_its_own_instance_and_is_used_once(name):
    made = []

    def factory():
        made.append(Sine())
        return made[-1]

    model = on_meta(build_model, name, factory, vocab_size=50257)
    assert [block.mlp.act for block in model.h] == made
    assert len(set(map(id, made))) == len(made) == GPT2_VARIANTS[name][2]
    calls = Counter()
    for module in made:
        module.register_forward_hook(lambda module, args, out: calls.update([id(module)]))
    ids = torch.zeros(2, 9, dtype=torch.long, device="meta")
    assert model(ids).shape == (2, 9, 50257)
    assert calls == Counter(map(id, made))


class RecordOps(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.ops = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


LINEAR_OPS = {"embedding", "add", "addmm", "mm", "native_layer_norm"}
LAYOUT_OPS = {"t", "transpose", "view", "_unsafe_view", "split", "slice", "detach", "empty"}
ATTENTION_OPS = {"_scaled_dot_product_flash_attention_for_cpu"}


def test_no_other_nonlinearity_runs():
    model, ids = tiny(Sine), tokens(2, 9)
    with RecordOps() as record:
        model(ids)
    assert record.ops.pop("sin") == TINY["num_layers"]
    assert set(record.ops) <= LINEAR_OPS | LAYOUT_OPS | ATTENTION_OPS


def test_parameters_of_activations_are_not_shared_and_all_train():
    model = tiny(nn.PReLU)
    model(tokens(2, 9)).square().mean().backward()
    assert all(block.mlp.act.weight.grad.abs() > 0 for block in model.h)
    assert model.h[0].mlp.act is not model.h[1].mlp.act


# --- dropout --------------------------------------------------------------------------------------


def test_dropout_is_active_in_training_only(monkeypatch):
    attention = []
    original = F.scaled_dot_product_attention

    def spy(*args, dropout_p, **kwargs):
        attention.append(dropout_p)
        return original(*args, dropout_p=dropout_p, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    model, ids = tiny(dropout=0.2), tokens(2, 16)
    with torch.no_grad():
        assert not torch.equal(model(ids), model(ids))
        assert attention == [0.2] * 4
        attention.clear()
        model.eval()
        assert torch.equal(model(ids), model(ids))
        assert attention == [0.0] * 4
    assert torch.equal(tiny(dropout=0.2).eval()(ids), tiny(dropout=0.0)(ids))


def test_dropout_is_where_gpt2_has_it():
    model = tiny(dropout=0.3)
    places = {name: m.p for name, m in model.named_modules() if isinstance(m, nn.Dropout)}
    blocks = [f"h.{n}.{place}" for n in range(2) for place in ("attn.resid_dropout", "mlp.dropout")]
    assert places == dict.fromkeys(["drop", *blocks], 0.3)
    theirs = {
        name.removeprefix("transformer.")
        for name, m in hugging_face().named_modules()
        if isinstance(m, nn.Dropout)
    }
    attention = {f"h.{n}.attn.attn_dropout" for n in range(2)}  # ours is in the attention itself
    assert set(places) == theirs - attention

    # Dropping everything on both residual paths leaves the embeddings, and they have no dropout.
    model.drop.p = 0.0
    for block in model.h:
        block.attn.resid_dropout.p = block.mlp.dropout.p = 1.0
    ids = tokens(2, 16)
    embeddings = model.wte(ids) + model.wpe
    assert torch.equal(model(ids), F.linear(model.ln_f(embeddings), model.wte.weight))
    model.drop.p = 1.0
    assert (model(ids) == 0).all()


# --- generation -----------------------------------------------------------------------------------


def sample(model, ids, count, seed=0, **options):
    return model.generate(ids, count, torch.Generator().manual_seed(seed), **options)


def test_a_seed_gives_the_same_continuation_and_leaves_torchs_generator_alone():
    model, prompt = tiny(dropout=0.5), tokens(1, 4)
    state = torch.get_rng_state()
    continued = sample(model, prompt, 30)
    assert continued.shape == (1, 34)
    assert continued.dtype == torch.int64
    assert torch.equal(continued[:, :4], prompt)
    assert torch.equal(sample(model, prompt, 30), continued)
    assert not torch.equal(sample(model, prompt, 30, seed=1), continued)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(sample(model, prompt, 0), prompt)


@pytest.mark.parametrize("training", [True, False])
def test_generation_restores_the_mode_and_needs_no_gradient(training):
    model = tiny(dropout=0.5).train(training)
    seen = []
    handle = model.drop.register_forward_hook(
        lambda module, args, out: seen.append((module.training, out.requires_grad))
    )
    sample(model, tokens(1, 4), 2)
    assert seen == [(False, False)] * 2
    assert all(module.training == training for module in model.modules())
    handle.remove()
    with pytest.raises(IndexError):
        sample(model, torch.full((1, 1), TINY["vocab_size"]), 1)
    assert model.training == training


def test_generation_at_no_temperature_is_greedy_within_the_context(loaded):
    contexts = []
    loaded.wte.register_forward_hook(lambda module, args, out: contexts.append(args[0]))
    prompt = tokens(1, 13)
    continued = sample(loaded, prompt, 8, temperature=1e-4)
    expected = prompt
    for number, context in enumerate(contexts[:8]):
        # Each token alone behind the prompt, until the context is full; then all of it, moved.
        computed = 1 if 0 < number <= 3 else 16
        assert torch.equal(context, expected[:, -computed:])
        with torch.no_grad():
            token = loaded(expected[:, -16:])[:, -1:].argmax(-1)
        expected = torch.cat([expected, token], dim=1)
    assert torch.equal(continued, expected)


def test_tokens_are_sampled_by_their_probability():
    model = tiny(embedding_dim=8, num_attention_heads=2, vocab_size=5)
    with torch.no_grad():
        model.wte.weight.mul_(20)  # far from uniform
        prompt = tokens(1, 3, vocab_size=5).expand(4000, -1)
        for temperature in (1.0, 2.0):
            expected = (model(prompt[:1])[0, -1] / temperature).softmax(-1)
            drawn = sample(model, prompt, 1, temperature=temperature)[:, -1]
            frequency = drawn.bincount(minlength=5) / 4000
            errors = (expected * (1 - expected) / 4000).sqrt()
            assert ((frequency - expected).abs() <= 5 * errors).all()
            assert (expected - 0.2).abs().max() > 0.1


# --- Hugging Face's checkpoints -------------------------------------------------------------------


def test_the_shape_is_read_without_torch(saved):
    assert hugging_face_shape(saved) == TINY == tiny().shape
    code = f"""
import sys, models
assert models.hugging_face_shape({str(saved)!r})["num_layers"] == 2
models.check_fits({str(saved)!r}, {TINY})
assert models.resolve_shape("gpt2", num_layers=3)["num_layers"] == 3
sys.exit("torch" in sys.modules or "safetensors" in sys.modules)
"""
    root = Path(models.__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def same_state(model, other):
    state, others = model.state_dict(), other.state_dict()
    return state.keys() == others.keys() and all(torch.equal(state[k], others[k]) for k in state)


def published_on_the_hub(tensors):
    """Write the keys of openai-community/gpt2: no prefix, and the masks of old versions."""
    tensors = {key.removeprefix("transformer."): value for key, value in tensors.items()}
    for layer in range(2):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 16, 16).tril()
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    return tensors


def with_a_tied_head(tensors):
    return {**tensors, "lm_head.weight": tensors["transformer.wte.weight"].clone()}


@pytest.mark.parametrize("edit", [published_on_the_hub, with_a_tied_head])
def test_forms_of_one_checkpoint_load_alike(checkpoint, loaded, edit):
    assert any(
        key.startswith("transformer.") for key in load_file(checkpoint / "model.safetensors")
    )
    edit_tensors(checkpoint, edit)
    model = tiny(seed=2)
    load_hugging_face(model, str(checkpoint))
    assert same_state(model, loaded)


def test_a_sharded_checkpoint_loads_alike(published, tmp_path, loaded):
    save(tmp_path, published, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert (tmp_path / "model.safetensors.index.json").exists()
    model = tiny(seed=2)
    load_hugging_face(model, tmp_path)
    assert same_state(model, loaded)


def test_a_half_precision_checkpoint_loads_into_the_models_own(checkpoint, loaded):
    edit_tensors(checkpoint, lambda tensors: {key: t.bfloat16() for key, t in tensors.items()})
    model = tiny(seed=2)
    load_hugging_face(model, checkpoint)
    for key, value in loaded.state_dict().items():
        assert torch.equal(model.state_dict()[key], value.bfloat16().float())


def test_fewer_positions_are_the_first(saved, loaded):
    model = tiny(max_seq_length=10)
    load_hugging_face(model, saved)
    assert torch.equal(model.wpe, loaded.wpe[:10])
    ids = tokens(2, 10)
    assert torch.equal(model(ids), loaded(ids))


def test_the_activations_parameters_keep_their_values(saved, loaded):
    model = tiny(nn.PReLU)
    load_hugging_face(model, saved)
    state = model.state_dict()
    assert all(state.pop(f"h.{n}.mlp.act.weight") == 0.25 for n in range(2))
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in state.items())


def refused(folder, **changes):
    """Return the error of loading `folder`: one line, after which the model has its old weights."""
    model = tiny(**changes)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the text is compared by the caller
        load_hugging_face(model, folder)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    text = str(caught.value)
    assert "\n" not in text
    return text


WANTED = "a Hugging Face GPT-2 checkpoint has config.json and model.safetensors"


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    missing = tmp_path / "missing"
    assert refused(missing) == f"--init_from {missing}: no such folder; {WANTED}"
    file = tmp_path / "file"
    file.touch()
    assert refused(file) == f"--init_from {file}: no such folder; {WANTED}"
    assert refused(tmp_path) == (
        f"--init_from: no {tmp_path}/config.json to read (No such file or directory); {WANTED}"
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"model_type": "gpt2"', "is not JSON (Expecting ',' delimiter: line 1 column 22"),
        (b"\xff\xfe", "is not JSON ('utf-8' codec can't decode byte 0xff"),
        (b"", "is not JSON (Expecting value: line 1 column 1 (char 0))"),
        (b"[]", "holds no JSON object"),
    ],
)
def test_a_broken_config_is_refused(checkpoint, content, problem):
    path = checkpoint / "config.json"
    path.write_bytes(content)
    text = refused(checkpoint)
    assert text.startswith(f"--init_from: {path} {problem}")
    assert text.endswith(": copy or download it again")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"model_type": "gpt_neo"},
            f"has model_type 'gpt_neo', not 'gpt2'; {WANTED}",
        ),
        (
            {"n_embd": None},
            "must have a whole number above 0 as n_embd, not None: copy or download it again",
        ),
        (
            {"n_layer": 0},
            "must have a whole number above 0 as n_layer, not 0: copy or download it again",
        ),
        (
            {"n_inner": 95},
            "has n_inner 95, and this GPT-2 knows only 96: take another checkpoint",
        ),
        (
            {"scale_attn_by_inverse_layer_idx": True},
            "has scale_attn_by_inverse_layer_idx true, and this GPT-2 knows only false: "
            "take another checkpoint",
        ),
        (
            {"reorder_and_upcast_attn": True},
            "has reorder_and_upcast_attn true, and this GPT-2 knows only false: "
            "take another checkpoint",
        ),
        (
            {"scale_attn_weights": False},
            "has scale_attn_weights false, and this GPT-2 knows only true: take another checkpoint",
        ),
        (
            {"tie_word_embeddings": False},
            "has tie_word_embeddings false, and this GPT-2 knows only true: "
            "take another checkpoint",
        ),
        (
            {"add_cross_attention": True},
            "has add_cross_attention true, and this GPT-2 knows only false: "
            "take another checkpoint",
        ),
        (
            {"layer_norm_epsilon": 1e-6},
            "has layer_norm_epsilon 1e-06, and this GPT-2 knows only 1e-05: "
            "take another checkpoint",
        ),
    ],
    ids=str,
)
def test_another_network_is_refused(checkpoint, changes, problem):
    edit_config(checkpoint, **changes)
    assert refused(checkpoint) == f"--init_from: {checkpoint}/config.json {problem}"


def test_an_inner_width_that_is_spelled_out_is_no_other_network(checkpoint):
    edit_config(checkpoint, n_inner=96)
    assert hugging_face_shape(checkpoint) == TINY


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"embedding_dim": 48}, " has embedding_dim 24, not 48: --embedding_dim 24"),
        ({"num_attention_heads": 4}, " has num_attention_heads 3, not 4: --num_attention_heads 3"),
        ({"num_layers": 3}, " has num_layers 2, not 3: --num_layers 2"),
        (
            {"max_seq_length": 17},
            " has 16 positions, fewer than --max_seq_length 17: --max_seq_length 16",
        ),
        *(
            (
                {"vocab_size": size},
                f" has a vocabulary of 61, not {size}: take the tokenizer that it was trained "
                "with, and --vocab_size 61",
            )
            for size in (60, 62)
        ),
    ],
    ids=str,
)
def test_a_model_of_another_shape_is_refused(saved, changes, problem):
    assert refused(saved, **changes) == f"--init_from {saved}{problem}"
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        models.check_fits(saved, {**TINY, **changes})
    assert str(caught.value) == f"--init_from {saved}{problem}"


def test_a_checkpoint_without_safetensors_is_refused(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    assert refused(checkpoint) == f"--init_from {checkpoint}: no model.safetensors there; {WANTED}"


@pytest.mark.slow
def test_the_proposed_conversion_of_pytorch_files_works(checkpoint, loaded):
    whole = checkpoint / "model.safetensors"
    tensors = with_a_tied_head(load_file(whole))
    torch.save(tensors, checkpoint / "pytorch_model.bin")
    whole.unlink()
    text = refused(checkpoint)
    start = f"--init_from {checkpoint} has pytorch_model.bin but no model.safetensors: convert it"
    assert text.startswith(start)
    command = text.split("`")[1]
    assert command.startswith("python -c ")
    command = command.replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, check=True, capture_output=True)
    model = tiny(seed=2)
    load_hugging_face(model, checkpoint)
    assert same_state(model, loaded)


@pytest.mark.parametrize("size", [0, 5, 200, -1])
def test_a_truncated_file_is_refused(checkpoint, size):
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    text = refused(checkpoint)
    assert text.startswith(f"--init_from: {path} cannot be read (")
    assert text.endswith("): copy or download it again")


def test_a_broken_sharded_checkpoint_is_refused(published, tmp_path):
    save(tmp_path, published, max_shard_size="20KB")
    shard = min(tmp_path.glob("*.safetensors"))
    shard.unlink()
    assert refused(tmp_path).startswith(f"--init_from: {shard} cannot be read (")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text("{}")
    problem = "has no weight_map: copy or download it again"
    assert refused(tmp_path) == f"--init_from: {index} {problem}"
    index.write_text("{")
    assert refused(tmp_path).startswith(f"--init_from: {index} is not JSON (")


def without(tensors, *keys):
    return {key: value for key, value in tensors.items() if key not in keys}


NORM = "transformer.ln_f.weight"


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda t: without(t, NORM), "it lacks ln_f.weight (1 such)"),
        (
            lambda t: without(t, "transformer.wpe.weight", "transformer.wte.weight"),
            "it lacks wpe (2 such)",
        ),
        (lambda t: {**t, "score.weight": t[NORM].clone()}, "it also has score.weight (1 such)"),
        (
            lambda t: {**t, "lm_head.weight": t["transformer.wte.weight"] + 1},
            "it also has lm_head.weight (1 such)",
        ),
        (lambda t: {**t, NORM: t[NORM][:23].clone()}, "ln_f.weight is (23,), not (24,)"),
        (
            lambda t: {k: v.t().contiguous() if "c_fc.weight" in k else v for k, v in t.items()},
            "h.0.mlp.c_fc.weight is (24, 96), not (96, 24)",
        ),
        (
            lambda t: {k: v[:15].clone() if "wpe" in k else v for k, v in t.items()},
            "wpe is (15, 24), not (16, 24)",
        ),
    ],
)
def test_weights_that_do_not_match_are_refused(checkpoint, edit, problem):
    edit_tensors(checkpoint, edit)
    assert refused(checkpoint) == (
        f"--init_from {checkpoint} is no GPT-2 of the shape that its config.json tells: {problem}: "
        "take another checkpoint"
    )


# --- names and shapes -----------------------------------------------------------------------------


def test_vision_and_language_have_their_own_names():
    assert LANGUAGE_MODELS == models.FAMILIES["gpt2"] == tuple(GPT2_VARIANTS)
    assert not set(LANGUAGE_MODELS) & set(models.VISION_MODELS)
    assert {*LANGUAGE_MODELS, *models.VISION_MODELS} == {
        name for names in models.FAMILIES.values() for name in names
    }


def test_a_shape_is_the_variants_but_for_what_is_given():
    def shape(width, heads, layers):
        return {"embedding_dim": width, "num_attention_heads": heads, "num_layers": layers}

    assert resolve_shape("gpt2") == shape(768, 12, 12)
    assert resolve_shape("gpt2-medium") == shape(1024, 16, 24)
    assert resolve_shape("gpt2-large", num_layers=2) == shape(1280, 20, 2)
    assert resolve_shape("gpt2-xl", 100, 5) == shape(100, 5, 48)
    model = on_meta(build_model, "gpt2-medium", nn.ReLU, vocab_size=7, num_layers=1)
    assert isinstance(model, GPT2)
    assert model.shape == {"vocab_size": 7, "max_seq_length": 1024, **shape(1024, 16, 1)}
    assert model.drop.p == 0.1


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        (
            "gpt2",
            {"embedding_dim": 100},
            "--embedding_dim 100 cannot be divided among --num_attention_heads 12: "
            "--num_attention_heads 10, or an --embedding_dim that is a multiple of 12",
        ),
        (
            "gpt2-xl",
            {"num_attention_heads": 3000},
            "--embedding_dim 1600 cannot be divided among --num_attention_heads 3000: "
            "--num_attention_heads 1600, or an --embedding_dim that is a multiple of 3000",
        ),
        ("gpt2", {"embedding_dim": 0}, "--embedding_dim must be a whole number above 0, not 0"),
        (
            "gpt2",
            {"num_attention_heads": -1},
            "--num_attention_heads must be a whole number above 0, not -1",
        ),
        ("gpt2", {"num_layers": 0}, "--num_layers must be a whole number above 0, not 0"),
    ],
)
def test_impossible_shapes_are_refused_with_the_remedy(name, given, message):
    for build in (resolve_shape, lambda *a, **k: build_model(*a, nn.ReLU, vocab_size=9, **k)):
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            build(name, **given)
        assert str(caught.value) == message


def test_norms_are_the_layer_norms_or_none():
    assert [resolve_norm("gpt2-xl", norm) for norm in ("auto", "layer", "none")] == [
        "layer",
        "layer",
        "none",
    ]
    assert resolve_norm("hf/anywhere") == "auto"
    message = "--norm gn does not apply to gpt2, only to VGGs and ResNets: leave out --norm"
    for build in (resolve_norm, lambda name, norm: tiny(norm=norm)):
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            build("gpt2", "gn")
        assert str(caught.value) == message
    message = r"^--norm layer does not apply to hf/anywhere, only to this project's models: leave"
    with pytest.raises(ValueError, match=message):
        build_model("hf/anywhere", nn.ReLU, vocab_size=9, norm="layer")


# nanoGPT's names without `transformer.` and the `.weight` of wpe; lm_head is wte there too.
NANOGPT_BLOCK = (
    "ln_1.weight", "attn.c_attn.weight", "attn.c_proj.weight", "ln_2.weight", "mlp.c_fc.weight",
    "mlp.c_proj.weight",
)  # fmt: skip


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        # What nanoGPT prints of its configurations, "10.65M", "0.80M" and "123.59M": its count
        # leaves out positions.
        ({"vocab_size": 65, "embedding_dim": 384, "num_attention_heads": 6, "num_layers": 6},
         10_646_784),
        ({"vocab_size": 65, "embedding_dim": 128, "num_attention_heads": 4, "num_layers": 4},
         795_904),
        ({"vocab_size": 50304}, 123_587_328),
    ],
)  # fmt: skip
def test_parameter_count_without_biases_is_nanogpts(sizes, count):
    model = on_meta(build_model, "gpt2", nn.GELU, bias=False, **sizes)
    assert count_parameters(model) - model.wpe.numel() == count


def test_without_biases_it_is_nanogpt():
    """Against a plain network that is written apart, with every weight off its initial value."""
    model = tiny(nn.GELU, bias=False)
    blocks = [f"h.{n}.{name}" for n in range(2) for name in NANOGPT_BLOCK]
    assert list(model.state_dict()) == ["wpe", "wte.weight", *blocks, "ln_f.weight"]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape))
    shape = (TINY[name] for name in ("vocab_size", "max_seq_length", "embedding_dim"))
    plain = PlainGPT(*shape, TINY["num_attention_heads"], TINY["num_layers"], bias=False)
    plain.copy_weights(model)
    assert count_parameters(plain) == count_parameters(model)
    ids, targets = tokens(3, 16), tokens(3, 17)[:, 1:].contiguous()
    loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
    theirs = plain(ids, targets)
    assert_same(loss, theirs)
    mine = torch.autograd.grad(loss, [model.wte.weight, model.wpe, *model.h.parameters()])
    parameters = list(plain.parameters())[: len(mine)]
    for gradient, other in zip(mine, torch.autograd.grad(theirs, parameters), strict=True):
        assert (gradient - other).abs().max() <= 1e-4 * other.abs().max()


def test_weights_are_the_same_with_and_without_biases():
    usual, without = tiny().state_dict(), tiny(bias=False).state_dict()
    assert set(usual) - set(without) == {key for key in usual if key.endswith("bias")}
    assert all(torch.equal(usual[key], value) for key, value in without.items())


def test_weights_with_biases_are_refused_without(saved):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        load_hugging_face(tiny(bias=False), saved)
    assert str(caught.value) == f"--init_from {saved} has biases: leave out --no_bias"
    with pytest.raises(ValueError, match=r"^--no_bias does not apply to hf/anywhere"):
        build_model("hf/anywhere", nn.ReLU, vocab_size=9, bias=False)


def test_weights_with_norms_are_refused_without(saved):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        load_hugging_face(tiny(norm="none"), saved)
    assert str(caught.value) == f"--init_from {saved} has LayerNorm: leave out --norm"


def test_unknown_names_and_options_are_refused():
    names = "known: gpt2, gpt2-medium, gpt2-large, gpt2-xl"
    with pytest.raises(
        ValueError, match=f"^unknown model 'GPT2_XL': did you mean gpt2-xl. {names}"
    ):
        resolve_shape("GPT2_XL")
    with pytest.raises(ValueError, match=r"^unknown model 'resnet18': known: gpt2,"):
        resolve_shape("resnet18")
    with pytest.raises(ValueError, match=r"^unknown model 'gpt2': .*known: vgg11,"):
        models.resolve_options("gpt2", 32)
    with pytest.raises(TypeError, match="unexpected keyword argument 'stem'"):
        build_model("gpt2", nn.ReLU, vocab_size=9, stem="cifar")
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'vocab_size'"):
        build_model("gpt2", nn.ReLU)
    with pytest.raises(TypeError, match="unexpected keyword argument 'vocab_size'"):
        build_model("resnet18", nn.ReLU, vocab_size=9)


# --- compilation ----------------------------------------------------------------------------------


def test_compiles_as_one_graph():
    torch._dynamo.reset()
    model, ids = tiny(), tokens(2, 16)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    results = []
    for run_model in (model, compiled):
        logits = run_model(ids)
        loss = F.cross_entropy(logits.flatten(0, 1), ids.flatten())
        results.append((logits, torch.autograd.grad(loss, list(model.parameters()))))
    (eager_logits, eager_gradients), (logits, gradients) = results
    assert_same(logits, eager_logits)
    for gradient, expected in zip(gradients, eager_gradients, strict=True):
        assert (gradient - expected).abs().max() <= 1e-4 * expected.abs().max() + 1e-6


@pytest.mark.slow
def test_compiled_training_equals_eager():
    losses = []
    for compiles in (False, True):
        torch._dynamo.reset()
        model, ids = tiny(lambda: create_activation("ZiLU")), tokens(4, 16)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run_model = torch.compile(model) if compiles else model
        losses.append([])
        for _ in range(5):
            loss = F.cross_entropy(run_model(ids).flatten(0, 1), ids.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0][-1] < losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
