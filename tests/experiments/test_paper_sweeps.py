"""The sweeps of the paper's experiments: two steps of their own commands, on small data of the same
formats, and their reports."""

import os
import shlex
from pathlib import Path

import pytest
from helpers.cifar_files import write_cifar
from helpers.corpora import V1, as_parquet
from torchvision import datasets

import language_main
import report
import sweep
import vision_main
from experiments.grid import read_grid
from run_folder.status import status_of

SWEEPS = Path(__file__).parents[2] / "sweeps"
GPT2 = Path(os.environ.get("ZILU_TEST_DATA", "missing")) / "gpt2"

# Of each, runs of what the report compares, where it compares; and of every model.
# Slow tests: four seconds each and more.
LARGE = ("paper_gates", "paper_tail_index", "paper_learning_rates", "paper_vit_tiny")
RUNS = {
    "paper_long_tail": ["ReLU_seed42", "ZiLU_sigma1_seed42"],
    "paper_vit_tiny": ["cifar10_GELU_seed42", "cifar10_ZiLU_sigma1_seed42"],
    "paper_learning_rates": ["cifar10_lr0.01_ReLU_seed43", "cifar10_lr0.01_ZiLU_sigma1_seed43"],
    "paper_gates": [
        "cifar10_resnet34_resizeNone_ArcTan_sigma1_seed42",
        "cifar10_resnet34_resizeNone_ArcTan_Approx_sigma1_seed42",
        "cifar10_vit-tiny_resize224_ArcTan_Approx_sigma1000_seed44",
    ],
    "paper_tail_index": [
        "resnet20_resizeNone_normauto_GELU_seed42",
        "resnet20_resizeNone_normnone_GELU_seed42",
        "resnet20_resizeNone_normnone_ZiLU_sigma0.1_seed42",
        "vit-tiny_resize224_normnone_ZiLU_sigma5_seed42",
    ],
    "paper_tail_index_gpt2": ["normnone_GELU_seed42", "normnone_ZiLU_sigma5_seed42"],
    "paper_wikitext103_gpt2": ["GELU_seed42", "ZiLU_sigma1_seed42"],
}
SMALL = {
    # bf16 takes a CPU several times as long.
    "vision_main.py": ("--batch_size", "2", "--no-use_amp"),
    "language_main.py": (
        "--batch_size", "2", "--num_layers", "2", "--embedding_dim", "16",
        "--num_attention_heads", "2", "--max_seq_length", "16",
    ),
}  # fmt: skip
MAINS = {"vision_main.py": vision_main.main, "language_main.py": language_main.main}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        write_cifar(datasets.CIFAR10, folder, patch, per_file=6)
        write_cifar(datasets.CIFAR100, folder, patch, per_file=100, every_class=True)
        as_parquet(folder / "wikitext-103-v1", V1)
        if GPT2.is_dir():
            (folder / "gpt2").symlink_to(GPT2)
        yield folder


def commands_of(name, out, capsys):
    """{name of a run: (program, its flags)} of a sweep."""
    assert sweep.main([str(SWEEPS / f"{name}.yaml"), "--dry_run", "--output_dir", str(out)]) == 0
    words = map(shlex.split, capsys.readouterr().out.splitlines())
    found = {}
    for _, program, *flags in words:
        (folder,) = (Path(f.split("=", 1)[1]) for f in flags if f.startswith("--output_dir="))
        found[folder.name] = program, flags
    return found


def test_each_is_here():
    assert {path.stem for path in SWEEPS.glob("paper_*.yaml")} == RUNS.keys()


@pytest.mark.usefixtures("quick_figures")
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in RUNS],
)
def test_two_steps_and_the_report(name, data, tmp_path, capsys):
    assert sweep.main([str(SWEEPS / f"{name}.yaml"), "--list", "--output_dir", "unused"]) == 0
    listed = capsys.readouterr().out
    commands = commands_of(name, tmp_path, capsys)
    for run in RUNS[name]:
        assert f" {run}\n" in listed
        program, flags = commands[run]
        small = (*SMALL[program], "--max_steps", "2", "--device", "cpu", "--data_path", str(data))
        if program == "language_main.py" and not GPT2.is_dir():
            small = (*small, "--tokenizer", "bytes")
        assert MAINS[program]([*flags, *small]) == 0
        folder = tmp_path / run
        assert status_of(folder).kind == "finished"
        if "tail_index" in name:
            assert '"tail_index_100": ' in (folder / "stats.jsonl").read_text()
    wanted = read_grid(SWEEPS / f"{name}.yaml").report
    asked = [word for key, value in wanted.items() for word in (f"--{key}", str(value))]
    assert report.main([str(tmp_path), *asked]) == 0
    text = (tmp_path / "report/report.md").read_text()
    assert wanted["baseline"] in text
    assert wanted.get("primary", "ZiLU (σ = 0.1)") in text or "gpt2" in name
