"""Flags and args.txt of the code that was published with the paper."""

import os
from pathlib import Path

import pytest

from cli import published
from cli.language import LanguageConfig
from cli.parser import parse, read_config
from cli.vision import VisionConfig
from utils import UserError

DATA = Path(os.environ.get("ZILU_TEST_DATA", "missing"))
CONFIGS = {
    "vit_tiny_relu": VisionConfig,
    "gpt2_gelu": LanguageConfig,
    "gpt2_gelu_s50": LanguageConfig,
}


def vision(*argv):
    return parse(VisionConfig, "Train.", list(argv)).config


def test_other_names(capsys):
    config = vision("--compile", "--measure_tail_index", "--dataset", "ImageNet1k")
    assert config.training.use_compiled
    assert config.run.stats == 100
    assert config.data.dataset == "imagenet"
    assert not vision("--compile", "false").training.use_compiled
    assert vision("--measure_tail_index", "false").run.stats is None
    assert capsys.readouterr().out == ""


def test_one_note_names_all_that_has_no_effect(capsys):
    flags = ["--ddp", "--pin_memory", "--persistent_workers", "true", "--prefetch_factor", "4"]
    assert vision(*flags) == vision()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("Note: --ddp has no effect here: start the program with torchrun")
    assert all(f"--{name} has no effect" in line for name in published.WITHOUT_EFFECT)


def test_a_flag_by_both_names_is_refused():
    with pytest.raises(UserError, match="--compile is another name of --use_compiled"):
        vision("--compile", "--use_compiled")


def test_its_augment_jittered_colours_too(tmp_path, capsys):
    def jitters(*argv):
        data = vision(*argv).data
        return data.augment, data.color_jitter

    assert jitters("--augment") == (True, False)
    assert jitters("--augment", "--augment_jitter", "auto") == (True, True)
    assert jitters("--no-augment", "--augment_jitter", "auto") == (False, False)
    assert jitters("--augment", "--augment_jitter", "false") == (True, False)
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match="--augment_jitter auto follows the --augment beside it"):
        vision("--augment_jitter", "auto")
    with pytest.raises(UserError, match="another name of --color_jitter: give one"):
        vision("--augment_jitter", "auto", "--augment", "--color_jitter")
    with pytest.raises(UserError, match="--color_jitter: expected true or false, not 'perhaps'"):
        vision("--augment_jitter", "perhaps", "--augment")
    file = tmp_path / "args.txt"
    file.write_text("augment: True\ntotal_params: 5\n")
    assert jitters("--config", str(file)) == (True, True)
    assert "--color_jitter is on" in capsys.readouterr().out
    assert jitters("--config", str(file), "--no-color_jitter") == (True, False)
    file.write_text("augment: False\ntotal_params: 5\n")
    assert jitters("--config", str(file)) == (False, False)


def test_help_does_not_list_them(capsys):
    with pytest.raises(SystemExit):
        vision("--help")
    assert "--ddp" not in capsys.readouterr().out


def test_the_facts_in_its_args_are_no_flags(tmp_path):
    file = tmp_path / "args.txt"
    file.write_text("activation: gelu\nsigma: None\ncompile: True\ntotal_params: 5\nseed: 3\n")
    assert vision("--config", str(file), "--seed", "4").training.use_compiled
    assert read_config(str(file), VisionConfig) == {
        "activation": "gelu", "use_compiled": "True", "seed": "3"
    }  # fmt: skip
    file.write_text("num_params: 5\n")
    with pytest.raises(UserError, match="unknown flag 'num_params'"):
        vision("--config", str(file))


@pytest.mark.skipif(not (DATA / "author_runs").is_dir(), reason="needs ZILU_TEST_DATA")
@pytest.mark.parametrize("name", CONFIGS)
def test_its_own_files(name):
    file = DATA / "author_runs" / name / "args.txt"
    command = parse(CONFIGS[name], "Train.", ["--config", str(file), "--device", "cpu"])
    command.check()
    config = command.config
    assert config.run.seed == 42
    assert config.training.num_epochs in (14, 20)
    assert config.model.activation in ("ReLU", "GELU", "GELU_s")
    assert config.model.inplace
