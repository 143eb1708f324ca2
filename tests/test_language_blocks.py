"""language_main.py with other blocks than GPT-2's, as a user runs it."""

import functools
import json
import re

import pytest
import yaml
from helpers.commands import command
from helpers.resumable import TERM, TRY_AGAIN, assert_same_run
from helpers.tiny_gpt2 import hugging_face, save

import language_main
from cli.language import LanguageConfig
from cli.run_names import default_output_dir
from run_folder.checkpoint import load_checkpoint

SMALL = (
    "--dataset", "text", "--tokenizer", "bytes", "--num_layers", "2", "--embedding_dim", "16",
    "--num_attention_heads", "2", "--max_seq_length", "16", "--batch_size", "8", "--max_steps", "6",
    "--num_epochs", "3", "--eval_interval", "3", "--save_interval", "2", "--stats", "2",
    "--device", "cpu",
)  # fmt: skip
BLOCKS = (
    "--mlp", "glu", "--norm", "rms", "--positions", "rope", "--qk_norm", "--no_bias",
    "--activation", "ZiLU", "--learn_sigma", "--expand_gate",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(forked, text_folder, tmp_path_factory):
    """A finished run of all of them; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("blocks") / "run"
    flags = (*SMALL, *BLOCKS, "--data_path", text_folder, "--output_dir", folder)
    (code,), output = forked("language_main", *flags)
    assert code == 0, output
    assert "--mlp glu: the network has" in output  # at 16 features no width is near enough
    return folder


@pytest.fixture
def mistake(mistake_in, text_folder):
    """Run the program on flags that are a mistake; returns its one line."""
    return functools.partial(mistake_in, language_main, *SMALL, "--data_path", text_folder)


def test_what_a_run_leaves(finished):
    content = yaml.safe_load((finished / "args.txt").read_text())
    resolved = content["resolved"]
    assert resolved["mlp"] == "glu"
    assert resolved["mlp_width"] == 43  # 8/3 of 16
    assert (resolved["norm"], resolved["positions"], resolved["qk_norm"]) == ("rms", "rope", True)
    state = load_checkpoint(finished / "checkpoint.pt")["model"]
    assert state["h.1.mlp.c_up.weight"].shape == (43, 16)
    assert not any(name.endswith("bias") or name == "wpe" for name in state)
    model = (finished / "model.txt").read_text()
    assert "h.0.mlp.act: ZiLU(sigma=1, learnable=True, expand_gate=True, alpha=0)" in model


def test_stats_see_gated_activations(finished):
    lines = [json.loads(line) for line in (finished / "stats.jsonl").read_text().splitlines()]
    found = [each for line in lines for each in _dictionaries(line) if "h.1.mlp.act" in each]
    numbers = [each["h.1.mlp.act"] for each in found if "std" in each["h.1.mlp.act"]]
    assert numbers[0]["std"] > 0
    assert numbers[0]["gradient_norm"] > 0
    assert numbers[-1]["sigma"] != 1  # both were trained
    assert numbers[-1]["alpha"] != 0
    assert any("dead" in each["h.1.mlp.act"] for each in found)


def _dictionaries(value):
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _dictionaries(inner)


def test_interrupted_and_resumed_it_is_the_same(finished, forked, text_folder, tmp_path):
    flags = (*SMALL, *BLOCKS, "--data_path", text_folder, "--output_dir", tmp_path / "run")
    (code,), output = forked("language_main", *flags, faults={0: ("step", TERM, 3)})
    assert code == TRY_AGAIN, output
    (code,), output = forked("language_main", *flags, "--resume")
    assert code == 0, output
    assert_same_run(tmp_path / "run", finished)


def test_only_tests_what_was_trained(finished, forked, text_folder, mistake_in):
    flags = ("--test_only", "--output_dir", finished, "--data_path", text_folder, "--device", "cpu")
    (code,), output = forked("language_main", *flags)
    assert code == 0, output
    records = (finished / "metrics.jsonl").read_text().splitlines()
    loss = json.loads(records[-1])["test"]["loss"]
    found = float(re.search(r"\[Test\] Loss: (\S+)", output)[1])
    assert found == pytest.approx(loss, rel=1e-6)
    given = ("--test_only", "--checkpoint", finished / "checkpoint.pt")
    for flags in (("--mlp", "plain"), ("--mlp_width", "40"), ("--positions", "learned")):
        line = mistake_in(language_main, *given, "--data_path", text_folder, *flags)
        assert f"{' '.join(flags)} contradicts the checkpoint" in line


def test_run_names():
    def name(*flags):
        return default_output_dir(command(LanguageConfig, *flags).config)

    assert name("--mlp", "plain", "--positions", "learned") == name()
    assert name().name == "ZiLU_sigma1_seed0"  # as before there were such flags
    names = {
        name(*flags)
        for flags in (
            ("--mlp", "glu"), ("--mlp", "glu", "--mlp_width", "512"), ("--positions", "rope"),
            ("--qk_norm",), ("--norm", "rms"), (),
        )
    }  # fmt: skip
    assert len(names) == 6


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    return save(folder, hugging_face(vocab_size=257, n_embd=16, n_head=2))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--mlp", "glu"), "has plain MLPs: leave out --mlp"),
        (("--mlp_width", "32"), "has MLPs of 64 features: give --mlp_width 64"),
        (("--positions", "rope"), "leave out --positions"),
        (("--qk_norm",), "leave out --qk_norm"),
        (("--norm", "rms"), "has LayerNorm: leave out --norm"),
    ],
)
def test_a_published_start_has_its_own_blocks(flags, said, published, mistake):
    line = mistake("--init_from", published, *flags)
    assert said in line
    assert str(published) in line


def test_a_published_start_with_its_own_width(published):
    given = ("--init_from", published, "--mlp_width", "64", *SMALL)
    parsed = command(LanguageConfig, *given)
    parsed.config.model.check()
    assert parsed.config.model.resolved_blocks() == {}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--positions", "rope", "--num_attention_heads", "256"), "odd number"),
        (("--mlp", "glu", "--model", "hf/anywhere"), "--mlp glu does not apply to hf/anywhere"),
        (("--qk_norm", "--model", "hf/anywhere"), "--qk_norm does not apply to hf/anywhere"),
        (("--norm", "rms", "--model", "hf/anywhere"), "--norm rms does not apply"),
        (("--mlp_width", "0"), "--mlp_width"),
    ],
)
def test_mistakes(flags, said, mistake_in):
    assert said in mistake_in(language_main, *flags)
