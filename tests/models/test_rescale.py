"""With --rescale_init, sigma = 1 starts as exactly the function of another sigma."""

import functools

import pytest
import torch
import yaml
from helpers.commands import command
from helpers.resumable import LANGUAGE, TERM, TRY_AGAIN, assert_same_run
from helpers.tiny_gpt2 import hugging_face, save, tiny

import language_main
import vision_main
from cli.language import LanguageConfig
from cli.run_names import default_output_dir
from cli.vision import VisionConfig
from models import build_model
from models.rescale import rescale_around_activations
from tasks.language import LanguageProgram
from tasks.vision import VisionProgram
from zilu import ZiLU

# Every block, stem and head. GPT-2 is small, and has dropout, as VGG's ImageNet head does.
GPT2 = {
    "vocab_size": 50, "max_seq_length": 16, "embedding_dim": 16, "num_attention_heads": 2,
    "num_layers": 2,
}  # fmt: skip
NETWORKS = [
    ("vgg11", {"head": "linear"}),
    ("vgg11", {"head": "imagenet"}),
    ("resnet20", {"image_size": 16}),
    ("resnet18", {"stem": "imagenet"}),
    ("resnet50", {"image_size": 16}),
    ("vit-tiny", {"image_size": 16}),
    ("gpt2", GPT2),
]
# With the network's own sigma, and the factor; the small ones with more of them.
CASES = [(*network, 0.7, 4) for network in NETWORKS]
CASES += [(*network, 1, 0.5) for network in NETWORKS if network[0] in ("resnet20", "gpt2")]
CASES += [
    (name, {**options, "norm": norm}, 0.7, 4)
    for name, options in NETWORKS
    for norm in {"vit-tiny": ("bn", "none"), "gpt2": ("none",)}.get(name, ("gn", "none"))
    # The imagenet head's linear layers have no norms; the blocks of resnet50 are as resnet18's.
    if options.get("head") != "imagenet" and name != "resnet50"
]
CASES += [
    ("resnet20", {"image_size": 16, "shortcut": "pad"}, 0.7, 4),
    ("gpt2", {**GPT2, "bias": False}, 0.7, 4),
]


def build(name, options, sigma):
    """Build a network in float64, with no 0 or 1 that could hide a forgotten bias or statistic."""
    torch.manual_seed(0)
    model = build_model(name, functools.partial(ZiLU, sigma), **options).double()
    with torch.no_grad():
        for key, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.dim() == 1:
                low = 0.5 if key.endswith(("weight", "running_var")) else -0.5
                value.copy_(low + torch.rand(value.shape))
    return model


def inputs(name, image_size=32, **options):
    generator = torch.Generator().manual_seed(1)
    if name == "gpt2":
        return torch.randint(50, (2, 16), generator=generator)
    return torch.randn(8, 3, image_size, image_size, generator=generator).double()


@torch.no_grad()
def observe(model, x):
    """Return logits in evaluation and in training, and what each activation gets in evaluation."""
    given = {}

    def keep(path, module, arguments):
        given[path] = arguments[0]

    hooks = [
        module.register_forward_pre_hook(functools.partial(keep, path))
        for path, module in model.named_modules()
        if isinstance(module, ZiLU)
    ]
    evaluated = model.eval()(x)
    for hook in hooks:
        hook.remove()
    torch.manual_seed(2)  # dropout
    return evaluated, model.train()(x), given


def difference(mine, theirs):
    return ((mine - theirs).abs().max() / theirs.abs().max()).item()


# A second of float64 or more each.
LARGE = (("vgg11", {"head": "imagenet"}), ("resnet50", {"image_size": 16}))


@pytest.mark.parametrize(
    ("name", "options", "own", "factor"),
    [pytest.param(*case, marks=[pytest.mark.slow] if case[:2] in LARGE else []) for case in CASES],
    ids=str,
)
def test_starts_as_the_function_of_another_sigma(name, options, own, factor):
    x = inputs(name, **options)
    evaluated, trained, given = observe(build(name, options, own * factor), x)
    model = build(name, options, own)
    with torch.no_grad():
        assert difference(model.eval()(x), evaluated) > 1e-4
    rescale_around_activations(model, factor)
    my_evaluated, my_trained, my_given = observe(model, x)
    assert difference(my_evaluated, evaluated) < 1e-9
    assert difference(my_trained, trained) < 1e-9
    assert len(given) == sum(isinstance(module, ZiLU) for module in model.modules())
    for path, value in given.items():
        assert difference(my_given[path], factor * value) < 1e-9, path


# --- the flag ---


@pytest.mark.parametrize("program", [vision_main, language_main])
def test_the_programs_rescale(program):
    def logits(*flags):
        if program is vision_main:
            config = command(VisionConfig, "--model", "resnet20", *flags).config
            model, x = VisionProgram(config).network_for(10, 32), torch.rand(2, 3, 32, 32) - 0.5
        else:
            argv = ["--embedding_dim", "16", "--num_attention_heads", "2", "--num_layers", "2"]
            config = command(LanguageConfig, *argv, *flags).config
            model, x = LanguageProgram(config).network_for(50), torch.arange(50)[None]
        with torch.no_grad():
            return model.eval()(x)

    scaled = logits("--sigma", "2")
    assert difference(logits("--sigma", "0.5", "--rescale_init", "4"), scaled) < 1e-5
    assert difference(logits("--sigma", "0.5"), scaled) > 1e-5


def test_a_pretrained_network_is_rescaled(tmp_path):
    folder = save(tmp_path / "gpt2", hugging_face())
    sizes = [word for key, value in tiny().shape.items() for word in (f"--{key}", str(value))]

    def weights(*flags):
        argv = [*sizes, "--init_from", str(folder), *flags]
        config = command(LanguageConfig, *argv).config
        model = LanguageProgram(config).network_for(config.model.vocab_size)
        return model.h[0].mlp.c_fc.weight

    assert torch.equal(weights("--rescale_init", "4"), 4 * weights())


@pytest.mark.parametrize("program", [vision_main, language_main])
@pytest.mark.parametrize("activation", ["ReLU", "ArcTan"])
def test_an_activation_that_sigma_does_not_rescale_is_refused(mistake_in, program, activation):
    line = mistake_in(program, "--rescale_init", "2", "--activation", activation)
    assert f"--rescale_init: {activation} is not of the form f(sigma x) / sigma; leave it" in line


@pytest.mark.parametrize("value", ["0", "-1", "inf", "two"])
def test_a_factor_is_a_number_above_0(mistake_in, value):
    assert "--rescale_init: expected a number" in mistake_in(vision_main, "--rescale_init", value)


def test_run_names_tell_factors_apart():
    names = {
        default_output_dir(command(VisionConfig, *argv).config)
        for argv in ([], ["--rescale_init", "2"], ["--rescale_init", "4"])
    }
    assert len(names) == 3


def test_a_checkpoint_is_not_rescaled_once_more(tmp_path, capsys):
    folder = tmp_path / "run"
    flags = ["--model", "resnet20", "--dataset", "digits", "--resize", "8", "--device", "cpu"]
    flags += ["--max_steps", "3", "--rescale_init", "4", "--output_dir", str(folder)]
    assert vision_main.main(flags) == 0
    assert yaml.safe_load((folder / "args.txt").read_text())["rescale_init"] == 4
    line = (folder / "train_eval_results.txt").read_text().splitlines()[0]
    final = line.split("[Test] ")[1]
    for argv in ([], ["--rescale_init", "4"], ["--config", str(folder / "args.txt")]):
        argv = ["--test_only", "--output_dir", str(folder), "--device", "cpu", *argv]
        assert vision_main.main(argv) == 0
        assert f"[Test] {final} | " in capsys.readouterr().out


def test_an_interrupted_run_is_not_rescaled_once_more(forked, text_folder, tmp_path):
    def run(folder, *flags, faults=None):
        flags = (*LANGUAGE, "--rescale_init", "4", "--data_path", text_folder, *flags)
        (code,), output = forked(
            "language_main", *flags, "--output_dir", tmp_path / folder, faults=faults
        )
        return code, output

    code, output = run("whole")
    assert code == 0, output
    code, output = run("stopped", faults={0: ("step", TERM, 4)})
    assert code == TRY_AGAIN, output
    code, output = run("stopped", "--resume")
    assert code == 0, output
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")
