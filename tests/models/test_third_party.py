"""The programs build, train and resume third-party architectures, or refuse them in one line."""

import copy
import functools
import importlib.util
import json
import re
from importlib.metadata import version

import pytest
import torch
import yaml
from helpers.activation_count import OTHERS, Counted, operators_of, units_in
from helpers.commands import command
from helpers.corpora import write_text
from helpers.resumable import KILL, assert_same_result
from torch import nn

import language_main
import models
import report
import sweep
import vision_main
from cli.args_file import args_text
from cli.language import LanguageConfig
from cli.run_names import default_output_dir
from models.activation import create_activation
from run_folder.checkpoint import load_checkpoint
from training.optimization import decayed_parameters

pytestmark = pytest.mark.filterwarnings("ignore:the loss that balances experts")

DIGITS = (
    "--dataset", "digits", "--batch_size", "240", "--num_epochs", "1", "--lr", "1e-3",
    "--device", "cpu",
)  # fmt: skip
TEXT = (
    "--dataset", "text", "--tokenizer", "bytes", "--max_seq_length", "32", "--batch_size", "8",
    "--num_epochs", "1", "--device", "cpu",
)  # fmt: skip
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16}
GROUPED = SIZES | {"num_key_value_heads": 1, "intermediate_size": 24}
GPT2_SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 16}
# By kind of network: a small configuration. Some have fewer positions than the tests want, and all
# another vocabulary.
CONFIGURATIONS = {
    "gpt2": GPT2_SIZES | {"n_positions": 16},
    "gpt_neox": SIZES | {"intermediate_size": 24, "max_position_embeddings": 16},
    "llama": GROUPED,
    "qwen2": GROUPED,
    "mistral": GROUPED | {"sliding_window": 8},
    "mixtral": GROUPED | {"num_local_experts": 3},
    "phi": SIZES | {"intermediate_size": 24},
    "opt": SIZES | {"ffn_dim": 24, "word_embed_proj_dim": 16, "max_position_embeddings": 16},
    "bloom": {"n_layer": 2, "n_head": 2, "hidden_size": 16},
    "gemma": GROUPED | {"head_dim": 8},
    "falcon": SIZES,
    "bert": SIZES | {"intermediate_size": 24},
    "t5": {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 24},
    "vit": SIZES | {"intermediate_size": 24},
    "mamba": {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
}
CAUSAL = [name for name in CONFIGURATIONS if name not in ("bert", "t5", "vit")]
# Its softplus makes step sizes of the state.
GATES = {"mamba": {"softplus"}}


@pytest.fixture(scope="module")
def configurations(tmp_path_factory):
    """Save a configuration of every kind of network, each in a folder under the one returned."""
    transformers = pytest.importorskip("transformers")
    home = tmp_path_factory.mktemp("configurations")
    for kind, options in CONFIGURATIONS.items():
        ids = {"bos_token_id": 298, "eos_token_id": 299, "pad_token_id": 1, "vocab_size": 300}
        ids = {} if kind == "vit" else ids
        transformers.AutoConfig.for_model(kind, **options, **ids).save_pretrained(home / kind)
    of_opt = json.loads((home / "opt" / "config.json").read_text())
    of_opt["torch_dtype"] = "bfloat16"  # as many have
    (home / "opt" / "config.json").write_text(json.dumps(of_opt))
    return home


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture
def see(mistake_in):
    """Run vision_main on flags that are a mistake; return its one line."""
    return functools.partial(mistake_in, vision_main, *DIGITS)


@pytest.fixture
def read(mistake_in, text):
    """Run language_main on flags that are a mistake; return its one line."""
    return functools.partial(mistake_in, language_main, *TEXT, "--data_path", text)


@pytest.fixture
def images(image_folder):
    """Flags for a hundred images of 32 pixels instead of DIGITS, whose test set alone has 359."""
    return (
        "--dataset", "imagefolder", "--data_path", image_folder, "--resize", "32", "--batch_size",
        "16", *DIGITS[4:],
    )  # fmt: skip


@pytest.fixture
def train_vision(images):
    def train(folder, *flags):
        argv = [*images, "--max_steps", "2", *flags, "--output_dir", folder]
        assert vision_main.main([str(word) for word in argv]) == 0
        return folder

    return train


def train_language(folder, text, *flags):
    argv = [*TEXT, "--data_path", text, "--max_steps", "2", *flags, "--output_dir", folder]
    assert language_main.main([str(word) for word in argv]) == 0
    return folder


def language_model(folder, activation, seed=0, dropout=None):
    torch.manual_seed(seed)
    return models.build_model(
        f"hf/{folder}", activation, vocab_size=257, max_seq_length=32, dropout=dropout
    )


def vision_model(name, activation, seed=0, size=32):
    pytest.importorskip(name.partition("/")[0])
    torch.manual_seed(seed)
    return models.build_model(name, activation, num_classes=10, image_size=size)


def final(folder):
    lines = (folder / "train_eval_results.txt").read_text().splitlines()
    return next(line for line in lines if "Final" in line).split("[Test] ")[1]


# --- from flags to files ---


@pytest.mark.parametrize(
    ("model", "flags", "site", "count", "left"),
    [
        (
            "TIMM/test_byobnet",
            ("--learn_sigma",),
            "ZiLU(sigma=1, learnable=True)",
            14,
            "4 (4 Sigmoid)",
        ),
        ("timm/test_vit.r160_in1k", ("--activation", "GELU_s"), "GELU_s(sigma=1)", 6, "none"),
        (
            "torchvision/squeezenet1_1",
            ("--activation", "PReLU"),
            "PReLU(num_parameters=1)",
            26,
            "none",
        ),
    ],
)
def test_an_image_classifier_trains_and_is_evaluated(
    tmp_path, train_vision, capsys, model, flags, site, count, left
):
    package = model.partition("/")[0].lower()
    pytest.importorskip(package)
    folder = train_vision(tmp_path / "run", "--model", model, *flags)
    assert {path.name for path in folder.iterdir()} == {
        "args.txt", "model.txt", "train_eval_results.txt", "metrics.jsonl", "checkpoint.pt",
        "predictions.npz",
    }  # fmt: skip
    described = (folder / "model.txt").read_text()
    assert f"\nActivation sites: {count}\n" in described
    assert len(re.findall(rf"^  [\w.]+: {re.escape(site)}$", described, re.MULTILINE)) == count
    assert f"\nReplaced: {count} (" in described
    assert f"\nLeft: {left}\n" in described
    arguments = yaml.safe_load((folder / "args.txt").read_text())
    assert arguments["model"] == package + model[len(package) :]
    assert arguments["environment"][package].startswith(version(package))
    keys = load_checkpoint(folder / "checkpoint.pt")["model"].keys()
    assert any(key.endswith("log_scale") or "rho" in key for key in keys) == (
        "--learn_sigma" in flags
    )
    argv = ["--test_only", "--device", "cpu", "--output_dir", str(folder)]
    assert vision_main.main(argv) == 0
    assert f"[Test] {final(folder)} | " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "flags"),
    [("gpt2", ("--learn_sigma", "--vocab_size", "260")), ("llama", ("--activation", "SiLU_s"))],
)
def test_a_language_model_trains_and_is_evaluated(
    configurations, text, tmp_path, capsys, kind, flags
):
    model = f"hf/{configurations / kind}"
    folder = train_language(tmp_path / "run", text, "--model", model, *flags, "--sample", "1")
    assert "[Sample 1] " in capsys.readouterr().out
    described = (folder / "model.txt").read_text()
    assert "\nActivation sites: 2\n" in described
    assert "\nLeft: none\n" in described
    arguments = yaml.safe_load((folder / "args.txt").read_text())
    assert arguments["dropout"] is None
    assert arguments["environment"]["transformers"] == version("transformers")
    assert arguments["resolved"]["configuration"]["model_type"] == kind
    argv = ["--test_only", "--batch_size", "8", "--device", "cpu", "--output_dir", str(folder)]
    assert language_main.main(argv) == 0
    assert f"[Test] {final(folder)} | " in capsys.readouterr().out


def test_a_warning_is_one_line(configurations, text, tmp_path, capsys):
    train_language(tmp_path / "run", text, "--model", f"hf/{configurations / 'mixtral'}")
    assert capsys.readouterr().err == "warning: the loss that balances experts is not used\n"


def test_mixed_precision_and_in_place(configurations, text, tmp_path, train_vision):
    pytest.importorskip("timm")
    flags = ("--use_amp", "--activation", "ReLU", "--inplace")
    train_vision(tmp_path / "v", "--model", "timm/test_byobnet", *flags)
    train_language(tmp_path / "l", text, "--model", f"hf/{configurations / 'opt'}", *flags)


@pytest.mark.slow
def test_compiled_is_eager_up_to_rounding(configurations, text, tmp_path, train_vision):
    pytest.importorskip("timm")
    model = f"hf/{configurations / 'llama'}"
    for mode in ("--no-use_compiled", "--use_compiled"):
        train_vision(tmp_path / "v" / mode, "--model", "timm/test_vit", mode)
        train_language(tmp_path / "l" / mode, text, "--model", model, mode)
    for program in ("v", "l"):
        folders = sorted((tmp_path / program).iterdir())
        mine, theirs = (json.loads((each / "metrics.jsonl").read_text()) for each in folders)
        assert mine["train"]["loss"] == pytest.approx(theirs["train"]["loss"], rel=1e-4)


@pytest.mark.parametrize(
    "module", ["vision_main", pytest.param("language_main", marks=pytest.mark.slow)]
)
def test_a_killed_run_goes_on_exactly(forked, configurations, text, images, tmp_path, module):
    flags = {
        "vision_main": (*images, "--model", "timm/test_efficientnet", "--augment"),
        "language_main": (*TEXT, "--model", f"hf/{configurations / 'gpt2'}", "--data_path", text),
    }[module]
    if module == "vision_main":
        pytest.importorskip("timm")
    flags = (*flags, "--learn_sigma", "--max_steps", "5", "--save_interval", "2")
    for folder, fault in (("whole", None), ("parts", ("step", KILL, 3)), ("parts", None)):
        (code,), output = forked(
            module, *flags, "--output_dir", tmp_path / folder, "--resume",
            faults={0: fault} if fault else {},
        )  # fmt: skip
        assert code == (-KILL if fault else 0), output
    assert_same_result(tmp_path / "parts", tmp_path / "whole")


def test_a_norm_with_its_activation_is_synchronised(forked, images, tmp_path):
    """With timm's BatchNormAct2d two processes see what one sees."""
    pytest.importorskip("timm")
    flags = (*images, "--model", "timm/test_efficientnet", "--max_steps", "3", "--resize", "16")
    losses = []
    for number, more in ((1, ()), (2, ("--sync_batchnorm",)), (2, ())):
        folder = tmp_path / f"{number}{len(more)}"
        codes, output = forked(
            "vision_main", *flags, *more, "--output_dir", folder, processes=number
        )
        assert codes == [0] * number, output
        losses.append(json.loads((folder / "metrics.jsonl").read_text())["train"]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=2e-5)
    assert losses[2] != pytest.approx(losses[0], rel=2e-4)


def test_a_norm_that_cannot_be_synchronised_is_refused():
    from training.sync_batchnorm import synchronise_norms

    network = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm2d(3))
    with pytest.raises(ValueError, match="BatchNorm1d, which cannot be synchronised on cpu"):
        synchronise_norms(network, torch.device("cpu"))
    assert type(network[1]) is nn.BatchNorm2d


@pytest.mark.slow
def test_a_sweep_and_its_report(tmp_path, monkeypatch, capsys):
    pytest.importorskip("timm")
    grid = {
        "program": "vision",
        "runs": {
            "model": ["timm/test_byobnet", "torchvision/squeezenet1_1"], "dataset": "digits",
            "batch_size": 480, "max_steps": 1, "num_epochs": 1, "device": "cpu",
            "activation": "ZiLU",
        },
    }  # fmt: skip
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    folder = str(tmp_path / "out")
    assert sweep.main([str(tmp_path / "grid.yaml"), "--output_dir", folder, "--jobs", "1"]) == 0
    assert report.main([folder, "--output_dir", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    assert "timm/test_byobnet" in text
    assert "torchvision/squeezenet1_1" in text


# --- what is built ---


@pytest.mark.parametrize(
    "name", ["timm/test_efficientnet", "timm/test_vit", "timm/nf_regnet_b0", "torchvision/swin_t"]
)
def test_no_activation_of_a_classifier_is_left(name):
    """Operators that run are counted; those of gates stay."""
    images = torch.randn(2, 3, 32, 32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.third_party.with_activation", lambda name, network, *_: network)
        own = vision_model(name, nn.Identity)
    replaced = vision_model(name, Counted)
    for training in (False, True):
        before = operators_of(own, lambda m: m(images), training)
        after = operators_of(replaced, lambda m: m(images), training)
        assert units_in(before) == Counted.calls > 0
        assert units_in(after) == 0
        assert {each: before[each] for each in OTHERS} == {each: after[each] for each in OTHERS}


@pytest.mark.parametrize("kind", CAUSAL)
def test_no_activation_of_a_language_model_is_left(configurations, kind):
    model = language_model(configurations / kind, Counted)
    ids = torch.randint(257, (2, 32))
    for training in (False, True):
        left = operators_of(model, lambda m: m(ids), training)
        assert set(+left) == GATES.get(kind, set())
        # (Experts that no token goes to have an activation that does not run.)
        assert Counted.calls == len(model.replacement.replaced) or kind in ("mixtral", "mamba")
    assert model(ids).shape == (2, 32, 257)


@pytest.mark.parametrize("name", ["timm/test_vit", "torchvision/shufflenet_v2_x0_5"])
def test_classifiers_start_from_weights_that_depend_on_the_seed_alone(name):
    first, other = (vision_model(name, a).state_dict() for a in (nn.ReLU, nn.PReLU))
    third = vision_model(name, nn.ReLU, seed=1).state_dict()
    assert all(torch.equal(value, other[key]) for key, value in first.items())
    assert any(not torch.equal(value, third[key]) for key, value in first.items())
    assert {key.rpartition(".")[2] for key in other.keys() - first} == {"weight"}


@pytest.mark.parametrize("kind", ["gpt2", "gemma"])
def test_language_models_start_from_weights_that_depend_on_the_seed_alone(configurations, kind):
    make = functools.partial(create_activation, "ZiLU", 0.5, True)
    first, other = (language_model(configurations / kind, a).state_dict() for a in (nn.ReLU, make))
    third = language_model(configurations / kind, nn.ReLU, seed=1).state_dict()
    assert all(torch.equal(value, other[key]) for key, value in first.items())
    assert any(not torch.equal(value, third[key]) for key, value in first.items())
    assert len(other) > len(first)


def test_the_configuration_is_adapted_to_the_data(configurations):
    model = language_model(configurations / "opt", nn.GELU)
    network = model.network
    tokens, positions = network.get_input_embeddings(), network.model.decoder.embed_positions
    assert tokens.weight.shape == (257, 16)
    assert tokens.padding_idx is None  # id 1 is a byte like any other
    assert len(positions.weight) >= 32
    assert network.lm_head.weight is tokens.weight
    assert network.config.eos_token_id is None
    assert not network.config.use_cache
    assert next(model.parameters()).dtype == torch.float32
    ids = torch.ones(1, 32, dtype=torch.int64)
    model(ids).sum().backward()
    assert tokens.weight.grad[1].abs().sum() > 0


def test_dropout_is_the_configurations_unless_given(configurations):
    def rates(dropout):
        model = language_model(configurations / "gpt2", nn.GELU, dropout=dropout)
        return {m.p for m in model.modules() if isinstance(m, nn.Dropout)}

    assert rates(None) == {0.1}
    assert rates(0.0) == {0.0}
    assert rates(0.3) == {0.3}


def test_flops_are_those_of_our_gpt2(configurations, tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"n_embd": 64, "n_head": 2, "n_layer": 3}
    transformers.GPT2Config(**sizes).save_pretrained(tmp_path / "gpt2")
    theirs = models.build_model(
        f"hf/{tmp_path / 'gpt2'}", nn.GELU, vocab_size=257, max_seq_length=32, dropout=None
    )
    ours = models.build_model(
        "gpt2", nn.GELU, vocab_size=257, max_seq_length=32, embedding_dim=64,
        num_attention_heads=2, num_layers=3,
    )  # fmt: skip
    # Ours counts biases and norms as weights.
    assert theirs.flops_per_token == pytest.approx(ours.flops_per_token, rel=0.02)
    assert language_model(configurations / "mixtral", nn.GELU).flops_per_token is None


# --- weight decay ---


def test_weight_decay_of_attention_and_convolution_by_torch_and_transformers(configurations):
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    assert decayed_parameters(layer) == {
        "self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight",
    }  # fmt: skip
    other_sizes = nn.MultiheadAttention(8, 2, kdim=4, vdim=6)
    names = {"q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"}
    assert decayed_parameters(other_sizes) == names
    network = language_model(configurations / "gpt2", functools.partial(nn.PReLU))
    names = {name.partition("transformer.")[2] for name in decayed_parameters(network)}
    layers = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert names == {"wte.weight", *(f"h.{n}.{layer}.weight" for n in (0, 1) for layer in layers)}


def test_model_txt_names_the_weights_without_decay(tmp_path, train_vision):
    pytest.importorskip("timm")
    folder = train_vision(tmp_path / "run", "--model", "timm/test_vit", "--max_steps", "1")
    line = "Without weight decay, beside biases and norms: cls_token, pos_embed\n"
    assert line in (folder / "model.txt").read_text()


# --- mistakes ---


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["timm/resnet81"], "unknown model 'timm/resnet81': did you mean timm/resnet18?"),
        (["torchvision/ResNet19"], "did you mean torchvision/resnet18? torchvision.models."),
        (["timm/test_byobnet.nope"], "unknown model 'timm/test_byobnet.nope': did you mean timm/"),
        (["tim/resnet18"], "--model: unknown value 'tim/resnet18'; did you mean resnet18"),
        (["timm/"], "--model: unknown value 'timm/'; did you mean timm/NAME"),
        (["torchvision/fcn_resnet50"], "torchvision/fcn_resnet50 is no image classifier"),
        (["torchvision/r3d_18"], "torchvision/r3d_18 is no image classifier"),
        (["torchvision/alexnet"], "torchvision/alexnet cannot take images of 32 px ("),
        (["torchvision/alexnet"], "): --resize 63\n"),
        (["torchvision/vit_b_16", "--resize", "30"], "Input shape indivisible by patch size!"),
        (["timm/test_byobnet", "--stem", "cifar"], "--stem cifar does not apply to timm/test_"),
        (["timm/test_byobnet", "--patch_size", "4"], "--patch_size 4 does not apply to timm/"),
        (["timm/test_vit", "--rescale_init", "2"], "--rescale_init does not apply to timm/"),
        (
            ["timm/nf_regnet_b0", "--activation", "ReLU", "--inplace"],
            "--inplace: timm/nf_regnet_b0 reads what an activation would overwrite: leave out",
        ),
    ],
)
def test_mistakes_with_classifiers(see, tmp_path, flags, message):
    pytest.importorskip("timm")
    assert message in see("--model", *flags, "--output_dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_package_that_is_not_installed(see, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "timm" else find(name)
    )
    line = see("--model", "timm/resnet18", "--output_dir", tmp_path / "run")
    assert line == "error: timm is not installed: pip install timm\n"


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), "no activation .*could be replaced"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3072, 9), nn.ReLU()), r"gives \(2, 9\) for 2 im"),
        (nn.Conv2d(3, 10, 1), r"gives \(2, 10, 32, 32\) for 2 images, not logits \(2, 10\)"),
    ],
)
def test_networks_that_are_no_use(see, tmp_path, monkeypatch, network, message):
    pytest.importorskip("timm")
    monkeypatch.setattr("models.third_party._create", lambda *_: copy.deepcopy(network))
    line = see("--model", "timm/resnet18", "--output_dir", tmp_path / "run")
    assert re.search(f"timm/resnet18.*{message}", line)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kind", "flags", "message"),
    [
        ("bert", (), "the network sees later tokens, so it cannot learn to predict them"),
        ("t5", (), "a t5 is no causal language model: take another model"),
        ("vit", (), "a vit is no causal language model: take another model"),
        ("gpt2", ("--num_layers", "3"), "--num_layers does not apply to hf/"),
        ("gpt2", ("--embedding_dim", "8"), "whose config.json says its size: leave out --emb"),
        ("gpt2", ("--init_from", "x"), "x/config.json: no configuration that can be read"),
        ("gpt2", ("--rescale_init", "2"), "--rescale_init does not apply to hf/"),
        ("mamba", ("--dropout", "0.1"), "has no dropout: leave out --dropout"),
        ("missing/one", (), "no such folder; give a folder with a config.json"),
        (".", (), "config.json: no configuration that can be read (No such file or directory)"),
    ],
)
def test_mistakes_with_language_models(read, configurations, tmp_path, kind, flags, message):
    model = f"hf/{configurations / kind}"
    assert message in read("--model", model, *flags, "--output_dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_configurations_that_are_broken(read, tmp_path):
    pytest.importorskip("transformers")
    path = tmp_path / "config.json"
    for content, message in (
        ("{", "no configuration that can be read"),
        ("[]", "no configuration, which is a mapping"),
        ('{"model_type": "nothing"}', "transformers cannot read its config.json"),
        ('{"model_type": "gpt2", "n_embd": 15}', "the network cannot be built (`embed_dim` must"),
    ):
        path.write_text(content)
        line = read("--model", f"hf/{tmp_path}", "--output_dir", tmp_path / "run")
        assert message in line
        assert len(line) < 700


def test_a_name_that_cannot_be_had_offline(read, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    line = read("--model", "hf/nobody/nothing", "--output_dir", tmp_path / "run")
    assert "hf/nobody/nothing: no such folder, and not available from Hugging Face (HF_HUB" in line


def test_a_configuration_that_changed_after_the_run(configurations, text, read, tmp_path):
    configuration = configurations / "gpt2" / "config.json"
    own = tmp_path / "own"
    own.mkdir()
    content = json.loads(configuration.read_text())
    (own / "config.json").write_text(json.dumps(content))
    folder = train_language(tmp_path / "run", text, "--model", f"hf/{own}")
    # Another activation function of theirs, which is replaced anyway: yet another network.
    (own / "config.json").write_text(json.dumps(content | {"layer_norm_epsilon": 1e-3}))
    argv = ("--model", f"hf/{own}", "--max_steps", "2", "--output_dir", folder)
    assert "the network have changed" in read(*argv, "--resume")
    assert "its config.json has changed since the checkpoint" in read(*argv, "--test_only")


# --- names and help ---


def test_where_runs_go():
    def name(model, *argv):
        return str(default_output_dir(command(LanguageConfig, "--model", model, *argv).config))

    start = "Output/wikitext103"
    assert name("gpt2") == name("gpt2", "--dropout", "0.1") == f"{start}/gpt2/ZiLU_sigma1_seed0"
    assert name("hf/org/name") == f"{start}/hf/org/name/ZiLU_sigma1_seed0"
    assert name("hf/name") != name("hf/name", "--dropout", "0.1")
    paths = [
        name(f"hf/{path}") for path in ("/a/tiny", "/b/tiny", "../tiny", "./tiny", "tiny/", "..")
    ]
    assert len(set(paths)) == 6
    for path in paths[:5]:
        assert re.fullmatch(rf"{start}/hf/tiny-[0-9a-f]{{8}}/ZiLU_sigma1_seed0", path)
    assert re.fullmatch(rf"{start}/hf/model-[0-9a-f]{{8}}/ZiLU_sigma1_seed0", paths[5])


def test_args_txt_of_such_a_run_reads_back(tmp_path):
    model = command(LanguageConfig, "--model", "HF/some/Folder").config
    assert (model.model.model, model.model.dropout) == ("hf/some/Folder", None)
    (tmp_path / "args.txt").write_text(args_text(model, {}, {"torch": "2"}))
    again = command(LanguageConfig, "--config", tmp_path / "args.txt")
    assert (again.config.model.model, again.config.model.dropout) == ("hf/some/Folder", None)
    assert "dropout" not in again.given


def test_help_names_the_forms(capsys):
    for program, form in ((vision_main, "torchvision/NAME"), (language_main, "hf/FOLDER")):
        with pytest.raises(SystemExit):
            program.main(["--help"])
        assert form in re.sub(r"\s+", " ", capsys.readouterr().out)
