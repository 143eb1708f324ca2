"""The recipes: each constant has its source, and each recipe trains."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from helpers.commands import command
from helpers.llama import our_names
from torch.optim.lr_scheduler import MultiStepLR

from cli.language import LanguageConfig
from cli.vision import VisionConfig
from models import causal_lm
from tasks.language import LanguageProgram
from tasks.vision import VisionProgram
from training.optimization import decayed_parameters
from training.schedule import Schedule

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
EACH = pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
# A place is a file, a section, a setting of the source that the head names, or a quotation.
SOURCE = re.compile(
    r"\w\.(py|conf|md|txt)\b|README: --|^(conf|config|args|README|blog): |section \d|\"[^\"]+\"|"
    r"timm's|transformers'"
)
# What a recipe says of a constant that its source does not have; its head tells the effect.
OWN = re.compile(r"^(more than max_steps|likewise|another than there|there is none|6n \+ 2|chosen|"
                 r"50,000 images|4 pixels|the paper excepts)")  # fmt: skip


def is_of_language(recipe):
    return "\ntokenizer:" in recipe.read_text()


def configured(name):
    recipe = ROOT / "recipes" / f"{name}.yaml"
    config = LanguageConfig if is_of_language(recipe) else VisionConfig
    return command(config, "--config", recipe).config


@EACH
def test_a_recipe_is_understood(recipe):
    config = LanguageConfig if is_of_language(recipe) else VisionConfig
    parsed = command(config, "--config", recipe)
    parsed.check()
    assert {"model", "dataset", "lr", "num_epochs"} <= parsed.given
    assert "activation" not in parsed.given


@EACH
def test_each_constant_stands_beside_its_source(recipe):
    without = []
    for line in recipe.read_text().splitlines():
        if line.startswith("#"):
            continue
        flag, mark, comment = line.partition("  # ")
        if not mark or not (SOURCE.search(comment) or OWN.match(comment)):
            without.append(flag)
    assert not without


@EACH
def test_a_recipe_says_what_to_reach_and_whether_it_was(recipe):
    lines = recipe.read_text().splitlines()
    head = " ".join(line.lstrip("# ") for line in lines[: next(
        number for number, line in enumerate(lines) if not line.startswith("#")
    )])  # fmt: skip
    if recipe.stem.endswith("_demo"):
        assert "No result is published" in head
        return
    assert re.search(r"Source: .*(commit [0-9a-f]{7}|arXiv)", head)
    assert "Otherwise than there:" in head
    to_reach = head.partition("To reach with ")[2]
    assert to_reach.startswith(("ReLU: ", "GELU: ", "SiLU: "))
    assert "Not reached here yet" in to_reach or "nothing is published" in to_reach


# --- against the sources' own rules ---


@pytest.mark.parametrize("name", ["cifar100_resnet18", "cifar100_vgg16"])
def test_the_learning_rates_of_pytorch_cifar100(name):
    """Its loop: WarmUpLR in the first epoch, then MultiStepLR, told epochs that count from 1."""
    batches, found = 391, []
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = MultiStepLR(optimizer, [60, 120, 160], gamma=0.2)
    optimizer.step()
    for epoch in range(1, 201):
        if epoch > 1:
            with pytest.warns(UserWarning, match="epoch parameter"):
                scheduler.step(epoch)
        rate = optimizer.param_groups[0]["lr"]
        steps = (0, 1, batches - 1)
        found += [rate * (step / batches if epoch == 1 else 1) for step in steps]
    ours = Schedule.of(configured(name).training, batches)
    places = [(epoch * batches + step) for epoch in range(200) for step in (0, 1, batches - 1)]
    assert ours.total_steps == 200 * batches
    assert [ours.rate(step) for step in places] == pytest.approx(found)


def test_all_of_he_et_als_parameters_decay():
    config = configured("cifar10_resnet20")
    model = VisionProgram(config.replaced(device="cpu", activation="ReLU")).network_for(10, 32)
    assert sum(p.numel() for p in model.parameters()) == 269_722
    assert decayed_parameters(model, config.training.decay) == {
        name for name, _ in model.named_parameters()
    }


SMALL_LLAMA = {
    "hidden_size": 24, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 12,
}  # fmt: skip


def small_configuration(folder, **changes):
    """Write the config.json of llama_124m with a small network's sizes; return the model's name."""
    content = json.loads((ROOT / "recipes/llama_124m/config.json").read_text())
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content | SMALL_LLAMA | changes))
    return f"hf/{folder}"


def test_both_llamas_have_equal_parameters():
    transformers = pytest.importorskip("transformers")
    own, theirs = configured("llama_124m"), configured("llama_124m_hf")
    with torch.device("meta"):
        model = LanguageProgram(own.replaced(device="cpu", activation="SiLU")).network_for(50304)
        configuration = ROOT / theirs.model.model.removeprefix("hf/")
        adapted = causal_lm.adapted(configuration, 50304, theirs.model.max_seq_length, 0.0)
        other = transformers.AutoModelForCausalLM.from_config(adapted)
    counts = [sum(p.numel() for p in each.parameters()) for each in (model, other)]
    assert counts[0] == counts[1] == 123_587_328
    assert [m.vocab_size for m in (own.model, theirs.model)] == [50304, 50304]


def test_both_llamas_have_equal_logits(tmp_path):
    """Shrunk alike, with copied weights, and what else the recipes say is the same."""
    sizes = {"embedding_dim": 24, "num_attention_heads": 2, "num_layers": 2}
    own = configured("llama_124m").replaced(device="cpu", activation="SiLU", **sizes)
    name = small_configuration(tmp_path / "small")
    hf = configured("llama_124m_hf").replaced(device="cpu", activation="SiLU", model=name)
    ours, theirs = (LanguageProgram(config).network_for(61) for config in (own, hf))
    ours.load_state_dict(our_names(theirs.network.state_dict()))
    assert ours.flops_per_token > 0
    ids = torch.arange(32).view(2, 16)
    torch.testing.assert_close(ours(ids), theirs(ids), rtol=1e-5, atol=1e-6)
    one, other = (yaml.safe_load((ROOT / f"recipes/{name}.yaml").read_text()) for name in (
        "llama_124m", "llama_124m_hf"
    ))  # fmt: skip
    assert {key for key in one | other if one.get(key) != other.get(key)} == {
        "model", "mlp", "norm", "positions", "no_bias",
    }  # fmt: skip


# --- runs ---

VISION = ("--resize", "32", "--batch_size", "8", "--no-use_compiled", "--no-use_amp")
LANGUAGE = (
    "--dataset", "text", "--tokenizer", "bytes", "--max_seq_length", "16", "--batch_size", "5",
    "--grad_accum_steps", "2", "--no-use_compiled",
)  # fmt: skip
GPT2_SIZES = ("--num_layers", "1", "--embedding_dim", "24", "--num_attention_heads", "2")


# Recipes of which another one has the same network and flags of the same kinds.
TWINS = (
    "cifar10_resnet18", "char_cpu_nanogpt", "imagenet_resnet50", "imagenet100_resnet50",
    "tiny_imagenet_resnet18", "imagenet_swin_tiny", "imagenet_convnext_tiny", "gpt2_nanogpt",
    "llama_124m_hf",
)  # fmt: skip


def trained():
    """Yield the recipes, twins as slow tests; on CIFAR-100 all have twins."""
    assert {*TWINS} <= {recipe.stem for recipe in RECIPES}
    for recipe in RECIPES:
        is_twin = recipe.stem.startswith("cifar100") or recipe.stem in TWINS
        marks = [pytest.mark.slow] if is_twin else []
        yield pytest.param(recipe, marks=marks, id=recipe.stem)


@pytest.mark.parametrize("recipe", trained())
def test_a_recipe_trains_two_steps(recipe, forked, data_path, tmp_path):
    """On small data, with everything of the recipe but sizes and the data set."""
    module = "language_main" if is_of_language(recipe) else "vision_main"
    small = LANGUAGE if is_of_language(recipe) else VISION
    if "\nmodel: hf/" in recipe.read_text():
        small += ("--model", small_configuration(tmp_path / "small"))
    elif module == "language_main":
        small += GPT2_SIZES
    if module == "vision_main" and "\ndataset: imagenet " not in recipe.read_text():
        small += ("--dataset", "imagefolder")
    if "\ntest_size: " in recipe.read_text():
        small += ("--test_size", "40")
    flags = ("--config", recipe, *small, "--data_path", data_path[module], "--max_steps", "2")
    (code,), output = forked(module, *flags, "--device", "cpu", "--output_dir", tmp_path / "run")
    assert code == 0, output
    content = yaml.safe_load((tmp_path / "run" / "args.txt").read_text())
    assert content["resolved"]["total_steps"] == 2
    given = yaml.safe_load(recipe.read_text())
    changed = {flag.removeprefix("--") for flag in flags if str(flag).startswith("--")}
    for name in given.keys() - changed - {"use_compiled", "use_amp", "max_steps"}:
        values = (content[name], given[name])
        assert len({str(x) for x in values}) == 1 or len({float(x) for x in values}) == 1, name
