"""The command line: flags, configuration files, run names, and that none of it loads torch."""

import dataclasses
import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers.commands import command, values

from cli import converters
from cli.args_file import args_text
from cli.fields import Effect
from cli.flags_page import flags_page
from cli.inr import InrConfig
from cli.language import LanguageConfig
from cli.run_names import default_output_dir
from cli.vision import VisionConfig
from utils import UserError

ROOT = Path(__file__).parents[2]


def parse(*argv):
    """The values of all flags, and the names of those that were given."""
    return values(VisionConfig, *argv), command(VisionConfig, *argv).given


@pytest.mark.parametrize(
    ("program", "flags"),
    [
        ("vision_main", VisionConfig.flags()),
        ("language_main", LanguageConfig.flags()),
        ("inr_main", InrConfig.flags()),
    ],
)
def test_help_answers_without_torch(run_program, program, flags):
    done = run_program(f"{program}.py", "--help")
    assert done.returncode == 0
    for name in flags:
        assert f"--{name}" in done.stdout
    code = (
        f"import sys, {program}\n"
        f"try: {program}.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'timm', 'numpy', 'sklearn', 'yaml', 'datasets', 'transformers'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    alone = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert alone.returncode == 0, alone.stderr


def test_help_is_answered_at_once(run_program):
    """In at most 0.3 s of this and the system's time, the best of five."""
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run_program("vision_main.py", "--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.3, seconds


def test_the_order_of_flags_names_runs_as_ever():
    """A sweep's folders have the varied flags in this order."""
    names = list(LanguageConfig.flags())
    assert names[:4] == ["model", "embedding_dim", "num_attention_heads", "num_layers"]
    wanted = ["batch_size", "num_epochs", "sample", "prompt", "activation", "sigma"]
    assert [name for name in names if name in wanted] == wanted
    assert names[-3:] == ["tensorboard", "test_only", "checkpoint"]


def test_a_configuration_cannot_be_changed():
    config = command(VisionConfig, "--lr", "0.5").config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.training.lr = 0.1
    other = config.replaced(lr=0.1, seed=3)
    assert (config.training.lr, other.training.lr, other.run.seed) == (0.5, 0.1, 3)
    assert VisionConfig.from_values(other.values()) == other


def test_defaults_are_the_documented_ones():
    args, given = parse()
    assert given == set()
    wanted = {
        "model": "vgg11", "activation": "ZiLU", "sigma": 1.0, "dataset": "cifar10",
        "data_path": "./Data", "batch_size": 256, "num_epochs": 150, "optimizer": "adamw",
        "lr": 1e-3, "weight_decay": 1e-6, "momentum": 0.9, "scheduler": "none", "warmup": "0",
        "lr_step": 20, "lr_gamma": 0.1, "clip_grad_norm": 1.0, "criterion": "CrossEntropy",
        "label_smoothing": 0.0, "val_fraction": 0.0, "noise": 0.0, "device": "auto", "seed": 0,
        "compile_mode": "default", "amp_dtype": "auto", "use_amp": False, "max_steps": None,
    }  # fmt: skip
    assert {name: getattr(args, name) for name in wanted} == wanted


def test_every_flag_says_what_it_changes():
    fields = [f.name for part in dataclasses.fields(VisionConfig) for f in fields_of(part.name)]
    assert len(set(fields)) == len(fields)
    assert set(fields) == set(VisionConfig.flags())
    effects = {name: flag.effect for name, flag in VisionConfig.flags().items()}
    assert set(effects.values()) == set(Effect)
    assert effects["sigma"] == effects["seed"] == Effect.RESULT
    assert effects["device"] == effects["use_amp"] == effects["use_compiled"] == Effect.ARITHMETIC
    assert effects["output_dir"] == effects["num_workers"] == Effect.NOTHING


def fields_of(part):
    return dataclasses.fields(getattr(VisionConfig(), part))


def test_names_are_matched_without_regard_to_case():
    args, _ = parse("--activation", "iglu_approx", "--optimizer", "SGD", "--criterion", "mse")
    assert (args.activation, args.optimizer, args.criterion) == ("ZiLU_Approx", "sgd", "MSE")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--activation", "gelus"], r"--activation: unknown activation 'gelus'; did you mean GELU"),
        (["--model", "resnet19"], r"--model: .*did you mean resnet18\? known: vgg11"),
        (["--dataset", "cifar"], r"--dataset: .*did you mean cifar10\?"),
        (["--lr", "fast"], r"--lr: expected a number above 0, not 'fast'"),
        (["--lr", "nan"], r"--lr: expected a number above 0"),
        (["--sigma", "0"], r"--sigma: sigma must be a finite number above 0"),
        (["--sigma", "inf"], r"--sigma: sigma must be a finite number above 0"),
        (["--sigma", "wide"], r"--sigma: sigma must be a finite number above 0"),
        (["--seed", str(2**64)], r"--seed: expected a whole number"),
        (["--device", "cuda:00"], r"--device: unknown device 'cuda:00'"),
        (["--batch_size", "0"], r"--batch_size: expected a whole number of at least 1"),
        (["--batch_size", "1.5"], r"--batch_size: expected a whole number"),
        (["--val_fraction", "1"], r"--val_fraction: expected .* at least 0 and below 1"),
        (["--warmup", "3epochs"], r"--warmup: expected steps"),
        (["--warmup", "120%"], r"--warmup: expected at most 100%"),
        (["--device", "gpu"], r"--device: unknown device 'gpu'; known: auto, cpu, cuda"),
        (["--seed", "-1"], r"--seed: expected a whole number of at least 0"),
        (["--learning_rate", "1"], r"unknown argument '--learning_rate'.*--help"),
        (["--activaton", "ReLU"], r"unknown argument '--activaton'; did you mean --activation\?"),
        (["--lr"], r"--lr: expected one argument"),
        (["--save_interval", "0"], r"--save_interval: expected epochs \(1ep\), steps \(500\)"),
        (["--save_interval", "1ep,2ep"], r"--save_interval: expected .* not '1ep,2ep'"),
        (["--save_interval", "10s"], r"--save_interval: expected .* not '10s'"),
        (["--patch_size", "four"], r"--patch_size: expected a whole number"),
        (["--config", "missing.yaml"], r"--config missing.yaml: not a readable YAML file"),
    ],
)
def test_a_bad_flag_is_named_with_the_remedy(argv, message):
    with pytest.raises(UserError, match=message):
        parse(*argv)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--activation", "ReLU", "--learn_sigma"], "--learn_sigma: ReLU has no sigma"),
        (["--amp_dtype", "bf16"], "--amp_dtype has no effect without --use_amp"),
        (["--checkpoint", "x.pt"], "--checkpoint is for --test_only"),
        (["--resume", "--overwrite"], "--resume goes on with a run and --overwrite replaces it"),
        (["--resume", "run", "--test_only"], "--resume trains and --test_only does not"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(argv, message):
    parsed = command(VisionConfig, *argv)
    with pytest.raises(UserError, match=message):
        parsed.check()


@pytest.mark.parametrize(
    ("argv", "value"),
    [([], None), (["--resume"], "auto"), (["--resume", "run"], "run"), (["--resume=a b"], "a b")],
)
def test_resume_takes_a_path_or_none(argv, value):
    assert parse(*argv, "--lr", "0.5")[0].resume == value


def test_resume_in_a_file_may_be_true(tmp_path):
    (tmp_path / "flags.yaml").write_text("resume: true\n")
    assert parse("--config", str(tmp_path / "flags.yaml"))[0].resume == "auto"


def test_the_command_line_overrides_the_config_file(tmp_path):
    config = tmp_path / "flags.yaml"
    config.write_text("lr: 1e-2\nmodel: resnet20\naugment: true\nuse_amp: true\nresize: null\n")
    args, given = parse("--config", str(config), "--lr", "0.5", "--no-use_amp")
    assert (args.lr, args.model, args.augment, args.use_amp) == (0.5, "resnet20", True, False)
    assert given == {"config", "lr", "model", "augment", "use_amp"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: 1", "unknown flag 'learning_rate'"),
        ("lr: [1, 2]", "--lr: expected one value"),
        ("augment: maybe", "--augment: expected true or false"),
        ("on: true", "unknown flag 'on'"),
        ("- lr", "expected lines of the form"),
        ("lr: {", "not a readable YAML file"),
        ("config: other.yaml", "unknown flag 'config'"),
    ],
)
def test_a_bad_config_file_is_named(tmp_path, text, message):
    config = tmp_path / "flags.yaml"
    config.write_text(text)
    with pytest.raises(UserError, match=message):
        parse("--config", str(config))


def test_args_txt_reads_back_without_what_belongs_to_that_run(tmp_path):
    flags = ("--lr", "3e-3", "--output_dir", "somewhere", "--overwrite", "--warmup", "5%")
    path = tmp_path / "args.txt"
    path.write_text(
        args_text(command(VisionConfig, *flags).config, {"init_seed": 7}, {"torch": "2"})
    )
    assert yaml.safe_load(path.read_text())["resolved"] == {"init_seed": 7}
    again, _ = parse("--config", str(path))
    assert (again.lr, again.warmup) == (3e-3, "5%")
    assert (again.output_dir, again.overwrite, again.init_seed) == (None, False, None)


def test_run_names():
    def name(*argv):
        return str(default_output_dir(command(VisionConfig, *argv).config))

    assert name() == "Output/cifar10/vgg11/ZiLU_sigma1_seed0"
    assert name("--activation", "ReLU", "--seed", "3") == "Output/cifar10/vgg11/ReLU_seed3"
    assert name("--sigma", "0.5", "--learn_sigma").endswith("ZiLU_sigma0.5-learned_seed0")
    assert re.search(r"seed0_[0-9a-f]{8}$", name("--lr", "0.1"))
    assert name("--lr", "0.1") == name("--lr", "1e-1", "--num_workers", "4")
    assert name("--device", "cuda") == name()
    assert name("--sigma", "1.25331") != name("--sigma", "1.2533141373155")
    folders = ("--dataset", "imagefolder", "--data_path")
    assert name(*folders, "a") != name(*folders, "b")
    texts = [["--dataset", "text", "--data_path", path] for path in "ab"]
    parsed = [command(LanguageConfig, *argv).config for argv in texts]
    first, second = map(default_output_dir, parsed)
    assert first != second
    assert len({name(), name("--lr", "0.1"), name("--lr", "0.2"), name("--use_amp")}) == 4


def test_a_mistake_is_one_line_and_exit_code_2(run_program):
    done = run_program("vision_main.py", "--model", "resnet21")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: --model: unknown value 'resnet21'; did you mean resnet")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("flag", ["--list", "--count"])
def test_a_reader_that_has_had_enough_is_no_error(flag):
    """`python sweep.py GRID --list | head -1`"""
    command = [sys.executable, ROOT / "sweep.py", ROOT / "sweeps/wikitext103_gpt2.yaml", flag]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, cwd=ROOT
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


def test_the_page_of_flags_is_current():
    assert (ROOT / "docs/flags.md").read_text() == flags_page()


# --- flags that take a mapping ---


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("{alpha: 0.95}", {"alpha": 0.95}),
        ('{"eps":1e-8,"foreach":true}', {"eps": 1e-8, "foreach": True}),
        ("betas: [.9, 0.95]\nnesterov: False", {"betas": [0.9, 0.95], "nesterov": False}),
        ("{a: 012, b: 1:30, c: null, d: -3, e: '7', f: None}",
         {"a": 12, "b": "1:30", "c": None, "d": -3, "e": 7, "f": None}),
        ("{a: {b: [x, 1.]}}", {"a": {"b": ["x", 1.0]}}),
        ("{}", {}),
    ],
)  # fmt: skip
def test_a_mapping_is_a_text_that_reads_itself(text, content):
    read = converters.mapping(text)
    assert converters.arguments(read) == content
    types = [type(each) for each in content.values()]
    assert [type(converters.arguments(read)[name]) for name in content] == types
    if content:
        assert converters.mapping(read) == read
        reversed_order = dict(reversed(content.items()))
        assert converters.mapping(json.dumps(reversed_order)) == read


@pytest.mark.parametrize(
    "text", ["", "3", "[1]", "{a: 1", "{a: 1, a: 2}", "{a b: 1}", "{alpha:1}x"]
)
def test_what_is_no_mapping_is_refused(text):
    with pytest.raises(ValueError, match=r"mapping|no name of an argument") as refused:
        converters.mapping(text)
    assert "\n" not in str(refused.value)
