"""Files of flags mean what the command line means, and paths in both what a shell makes of them."""

import json
import os
import pwd
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from helpers.commands import command, values

import benchmark
import report
import sweep
import vision_main
from cli import converters
from cli.args_file import args_text
from cli.language import LanguageConfig
from cli.vision import VisionConfig
from dataset import load_images, load_text
from experiments import manifest as manifests
from experiments.grid import read_grid
from models.causal_lm import read_configuration
from models.gpt2_checkpoint import hugging_face_shape
from utils import UserError

ROOT = Path(__file__).parents[2]
QUICK = (
    "--model", "resnet20", "--dataset", "digits", "--resize", "8", "--batch_size", "256",
    "--max_steps", "1", "--device", "cpu", "--activation", "ReLU",
)  # fmt: skip


@pytest.fixture
def file(tmp_path):
    """Write a file of flags; returns its path."""

    def write(text, name="flags.yaml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


# --- a key twice ---

GRID = """\
runs:
  model: resnet20
  dataset: digits
  activation:
    - ReLU
    - activation: ZiLU
      sigma: 1
      sigma: 2
"""
TWICE = [
    ("lr: 0.1\nmodel: resnet20\nlr: 0.2\n", "lr", 1, 3),
    ("lr: 0.1\n'lr': 0.1\n", "lr", 1, 2),
    ('{"seed": 1,\n "lr": 0.1,\n "seed": 1}\n', "seed", 1, 3),
    ("# a comment\n\nlr: null\n# another\nlr: 0.2\n", "lr", 3, 5),
    ("lr: 0.1\nenvironment:\n  torch: 1\n  threads: 1\n  torch: 2\n", "torch", 3, 5),
    ("lr: 0.1\nresolved: {samples: {train: 1,\n  train: 2}}\nenvironment: {}\n", "train", 2, 3),
]


@pytest.mark.parametrize(("text", "key", "first", "second"), TWICE)
def test_a_key_twice_is_refused_with_both_lines(file, text, key, first, second):
    with pytest.raises(UserError) as refused:
        command(VisionConfig, "--config", file(text))
    assert re.search(rf"flags.yaml: .*'{key}' .*lines {first} and {second}\b", str(refused.value))
    lines = text.splitlines(keepends=True)
    if not text.startswith("{") and "{" not in text:  # one of them away, it is a file of flags
        del lines[second - 1]
        assert command(VisionConfig, "--config", file("".join(lines))).config


def test_a_key_twice_in_a_grid_its_recipe_and_its_manifest(file, tmp_path):
    with pytest.raises(UserError, match=r"'sigma' .*lines 7 and 8"):
        read_grid(file(GRID, "grid.yaml"))
    good = GRID.replace("      sigma: 1\n", "")
    grid = read_grid(file(good, "grid.yaml"))
    assert [each["sigma"] for each in grid.combinations] == [1.0, 2.0]
    recipe = file("lr: 1\nseed: 2\nlr: 2\n", "recipe.yaml")
    with pytest.raises(UserError, match=r"recipe.yaml: .*'lr' .*lines 1 and 3"):
        read_grid(file(good.replace("runs:\n", f"runs:\n  config: {recipe}\n"), "grid.yaml"))
    path = tmp_path / "grid.yaml"
    manifests.frozen(manifests.planned(grid, path, tmp_path / "out"))
    written = tmp_path / "out/manifest.json"
    written.write_text(written.read_text().replace('"seed": 0,', '"seed": 0,\n "seed": 1,', 1))
    with pytest.raises(UserError, match="'seed' stands there twice"):
        manifests.load(tmp_path / "out")


def test_a_merge_is_no_key_twice(file):
    """`<<` and an anchor share settings, and what stands beside them counts more."""
    text = """\
runs:
  model: resnet20
  dataset: digits
  pick:
    - &base {activation: ZiLU, sigma: 2, lr: 0.1}
    - {<<: *base, sigma: 3}
    - <<: *base
      lr: 012
"""
    grid = read_grid(file(text.replace("pick", "activation"), "grid.yaml"))
    found = [(each["sigma"], each["lr"]) for each in grid.combinations]
    assert found == [(2.0, 0.1), (3.0, 0.1), (2.0, 12.0)]
    with pytest.raises(UserError, match="'<<' stands there twice, on lines 7 and 8"):
        read_grid(file(text.replace("      lr: 012\n", "      <<: *base\n"), "grid.yaml"))


@pytest.mark.parametrize("read", [read_configuration, hugging_face_shape])
def test_a_configuration_of_hugging_faces_with_a_key_twice(tmp_path, read):
    sizes = {"vocab_size": 9, "n_positions": 8, "n_embd": 4, "n_head": 2, "n_layer": 1}
    text = json.dumps({"model_type": "gpt2", **sizes}, indent=1)
    (tmp_path / "config.json").write_text(text)
    assert read(tmp_path)
    (tmp_path / "config.json").write_text(text.replace('"n_layer"', '"n_embd": 8,\n "n_layer"'))
    with pytest.raises(ValueError, match=r"'n_embd' stands there twice: see lines 5, 7"):
        read(tmp_path)


# --- YAML's own reading of values ---

WORDS = [
    "012", "0x10", "0o17", "1_000", "1e3", "1e-3", "1.50", ".5", "5.", ".inf", "1:30", "12:30:45",
    "no", "off", "on", "yes", "y", "true", "False", "2024-01-01", "2024-1-1 10:00:00", "=", "+1",
    "none", "None", "nan", "''", "gpt2",
]  # fmt: skip
NAMES = ("seed", "lr", "warmup", "save_interval", "output_dir", "tokenizer", "prompt", "activation")


@pytest.mark.parametrize("name", NAMES)
def test_a_value_in_a_file_is_that_of_the_command_line(file, name):
    """Each of these is a number, a truth value or a date to YAML."""

    def found(*argv):
        try:
            return values(LanguageConfig, *argv).__dict__[name]
        except UserError as error:
            return str(error)

    accepted = []
    for word in WORDS:
        wanted = found(f"--{name}", word.strip("'"))
        assert found("--config", file(f"{name}: {word}\n")) == wanted, word
        accepted += [] if str(wanted).startswith("--") else [wanted]
    assert len({map(repr, accepted)}) == 1 or len(accepted) > 1


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("augment: on", True), ("augment: No", False), ("augment: 'true'", True),
        ("resize: null", None), ("resize: NULL", None), ("resume: true", "auto"),
        ("resume: off", None), ("output_dir: 'null'", "null"),
    ],
)  # fmt: skip
def test_what_only_a_file_can_say(file, line, value):
    found = values(VisionConfig, "--config", file(line + "\n"))
    assert found.__dict__[line.partition(":")[0]] == value


@pytest.mark.parametrize(
    "line",
    ["resize:", "resize: ~", "augment: 1", "augment:", "lr: {a: 1}", "output_dir:",
     "output_dir: [a, b]", "output_dir: !!binary aGk=", "prompt: !!timestamp 2024-01-01"],
)  # fmt: skip
def test_what_is_no_value_or_more_than_one(file, line):
    with pytest.raises(UserError, match=f"--{line.partition(':')[0]}: expected "):
        values(LanguageConfig if "prompt" in line else VisionConfig, "--config", file(line + "\n"))


def test_odd_texts_survive_args_txt(file):
    for word in (*WORDS, "null", "~", "<<", "a: b", "- a", "# no", "two\nlines", " blanks ", "é"):
        config = command(LanguageConfig, "--prompt", word, "--sample", 1, "--lr", "1e-05").config
        path = file(args_text(config, {"total_steps": 3}, {"torch": "2"}), "args.txt")
        assert command(LanguageConfig, "--config", path).config.values() == {
            **config.values(), "config": str(path),
        }  # fmt: skip


def test_tuned_values_are_those_of_their_flags(file, tmp_path):
    """Two notations of one value are one, as they are in `runs:`."""
    runs = "runs: {model: resnet20, dataset: digits, val_fraction: 0.1, activation: ReLU}\n"
    text = runs + "tune: {lr: [1e-3, 012, 1_0.5], seeds: [09], equal_settings: no}\n"
    path = file(text, "grid.yaml")
    manifest = manifests.planned(read_grid(path), path, tmp_path / "out")
    assert [(r.flags["lr"], r.flags["seed"]) for r in manifest.runs if r.role == "trial"] == [
        (0.001, 9), (12.0, 9), (10.5, 9),
    ]  # fmt: skip
    assert {r.role for r in manifest.runs} == {"trial", "tuned"}
    path = file(runs + "tune: {lr: [1e-3, 0.001]}\n", "grid.yaml")
    with pytest.raises(UserError, match="two values or more"):
        manifests.planned(read_grid(path), path, tmp_path / "out")


# --- paths ---


def path_flags(config):
    return [name for name, flag in config.flags().items() if flag.convert is converters.path]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder and a variable, from another folder where nothing is to appear."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.delenv("NOWHERE", raising=False)
    monkeypatch.setenv("EMPTY", "")
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


@pytest.mark.parametrize("config", [VisionConfig, LanguageConfig])
def test_every_path_is_expanded(home, file, config):
    """On the command line and in a file."""
    names = path_flags(config)
    assert {"config", "output_dir", "resume", "checkpoint", "data_path"} <= set(names)
    somebody = pwd.getpwuid(os.getuid())
    for name in set(names) - {"config"}:
        expanded = {
            "~": home, "~/x y": home / "x y", f"~{somebody.pw_name}/x": f"{somebody.pw_dir}/x",
            "$SCRATCH/x": home.parent / "scratch/x", "a/${SCRATCH}": f"a/{home.parent}/scratch",
            "./~x": "./~x", "a/~": "a/~", "a$": "a$", "a$5": "a$5", "plain": "plain",
        }  # fmt: skip
        for text, wanted in expanded.items():
            assert values(config, f"--{name}={text}").__dict__[name] == str(wanted)
            path = file(f"{name}: {text}\n")
            assert values(config, "--config", path).__dict__[name] == str(wanted)
        for text in ("~nobody-of-this-name/x", "$NOWHERE/x", "${NOWHERE}", "$EMPTY/x", "''"):
            with pytest.raises(UserError, match=f"--{name}: "):
                values(config, f"--{name}={text.strip(chr(39))}")
            with pytest.raises(UserError, match=f"--{name}: "):
                values(config, "--config", file(f"{name}: {text}\n"))
    file("lr: 0.5\n", "home/flags.yaml")
    assert values(config, "--config=~/flags.yaml").lr == 0.5
    assert values(LanguageConfig, "--model", "hf/~/a").model == f"hf/{home}/a"


def test_a_run_lies_where_a_shell_would_have_it(home, mistake_in):
    assert vision_main.main([*QUICK, "--output_dir=~/run"]) == 0
    assert (home / "run/checkpoint.pt").exists()
    recorded = yaml.safe_load((home / "run/args.txt").read_text())
    assert recorded["output_dir"] == recorded["resolved"]["output_dir"] == str(home / "run")
    Path("flags.yaml").write_text("output_dir: $SCRATCH/run\n")
    assert vision_main.main([*QUICK, "--config", "flags.yaml"]) == 0
    assert (home.parent / "scratch/run/checkpoint.pt").exists()
    assert vision_main.main(["--test_only", "--checkpoint=~/run/checkpoint.pt"]) == 0
    assert (home / "run/test_results.txt").exists()
    assert vision_main.main(["--resume=~/run"]) == 0
    assert "NOWHERE" in mistake_in(vision_main, *QUICK, "--output_dir", "$NOWHERE/run")
    assert "nobody" in mistake_in(vision_main, *QUICK, "--output_dir=~nobody-here/run")
    assert os.listdir() == ["flags.yaml"]


def test_the_other_programs_expand_their_paths(home, file):
    grid = file("runs: {config: ~/recipe.yaml, dataset: imagefolder, data_path: $SCRATCH}\n",
                "home/grid.yaml")  # fmt: skip
    file("lr: 012\nmodel: resnet20\n", "home/recipe.yaml")
    assert sweep.main(["~/grid.yaml", "--count", "--output_dir=~/sweep"]) == 0
    (run,) = manifests.load(home / "sweep").runs
    assert (run.flags["lr"], run.flags["data_path"]) == (12.0, str(home.parent / "scratch"))
    grid.write_text("name: ~/x\n" + grid.read_text())
    with pytest.raises(UserError, match="must be that of a folder"):
        read_grid(grid)
    grid.write_text(grid.read_text().replace("~/x", "$SCRATCH"))
    with pytest.raises(UserError, match="must be that of a folder"):
        read_grid(grid)
    arguments = report.parse(["~/a", "$SCRATCH/b", "--output_dir=~/c"])
    assert arguments.folders == [home / "a", home.parent / "scratch/b"]
    assert arguments.output_dir == home / "c"
    options = benchmark.parse(["--output_dir=~/o", "--text=$SCRATCH/t", "--data_path=~/d"])
    assert (options.output_dir, options.data_path) == (f"{home}/o", f"{home}/d")
    assert options.text == home.parent / "scratch/t"
    for argv in (["~nobody-here"], ["a", "--output_dir", ""], ["$NOWHERE"]):
        with pytest.raises(UserError):
            report.parse(argv)
    assert os.listdir() == []


def test_the_door_to_the_data_expands_paths(home):
    (home / "words").mkdir()
    for name in ("train", "valid", "test"):
        (home / f"words/{name}.txt").write_text("some words to count\n" * 20)
    data = load_text("text", "~/words", tokenizer="bytes", block_size=8, batch_size=2)
    assert data.vocab_size == 257
    with pytest.raises(UserError, match=re.escape(f"{home}/none")):
        load_images("imagefolder", "~/none", batch_size=2)
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("flag", "folder"),
    [("--output_dir=~/run", "home/run"), ("--output_dir=~", "home"), ("--output_dir=a/b", "a/b"),
     ("--output_dir=~nobody/run", None), ("--output_dir=$NOWHERE/run", None)],
)  # fmt: skip
def test_job_scripts_write_their_log_where_the_run_is(tmp_path, flag, folder):
    for name in ("common.sh", "env.sh"):
        (tmp_path / "bash").mkdir(exist_ok=True)
        (tmp_path / "bash" / name).write_text((ROOT / "bash" / name).read_text())
    job = {"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "1", "SLURM_JOB_NODELIST": "n1"}
    done = subprocess.run(
        ["bash", "-c", 'set -euo pipefail; source bash/common.sh; set_up_run "$@"', "job", flag],
        cwd=tmp_path, capture_output=True, check=False,
        env={**os.environ, **job, "HOME": str(tmp_path / "home")},
    )  # fmt: skip
    there = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("slurm-7.log")}
    assert there == ({folder} if folder else set())
    assert (done.returncode == 0) == (folder is not None)
