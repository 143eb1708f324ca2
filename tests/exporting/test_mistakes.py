"""Mistakes of every step of an export: one line with the remedy, and what was there stays."""

import json
import shutil

import pytest
from helpers.exports import TINY, exported, flags_of, trained

import export
import language_main
from exporting import checking, command, graphs

EARLIER = b"an earlier export"


@pytest.fixture
def target(tmp_path):
    """An earlier export, which stands alone in its folder."""
    folder = tmp_path / "exports"
    folder.mkdir()
    (folder / "model.pt2").write_bytes(EARLIER)
    return folder / "model.pt2"


def write_nothing(trained, path, to):
    path.touch()
    return {}


def is_kept(target):
    assert target.read_bytes() == EARLIER
    return [each.name for each in target.parent.iterdir()] == [target.name]


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("raise SystemExit('it broke')", "it broke"),
        ("import os; os._exit(3)", "exit code 3"),
        ("import os, sys; print('a warning', file=sys.stderr, flush=True); os.abort()", "SIGABRT"),
        ("pass", "no answer"),
    ],
)
def test_a_fresh_process_that_fails(
    program, reason, run, target, tmp_path, mistake_in, monkeypatch
):
    (tmp_path / "process.py").write_text(program)
    monkeypatch.setitem(command.WRITERS, "pt2", write_nothing)
    monkeypatch.setattr(checking, "PROCESS", tmp_path / "process.py")
    line = mistake_in(export, run, "--to", "pt2", target, "--overwrite")
    assert f"a fresh process cannot load the export ({reason}), so nothing was written" in line
    assert "another version of torch may help" in line
    assert is_kept(target)


@pytest.fixture(scope="session")
def branching(text_folder, tmp_path_factory):
    """A run whose activation asks for a value, and the activation's name."""
    folder = tmp_path_factory.mktemp("branching")
    code = "import torch\n\n\ndef bend(x):\n    return x.relu() if x.max() > -9 else x\n"
    (folder / "mine.py").write_text(code)
    name = f"{folder / 'mine.py'}:bend"
    flags = (*TINY, "--data_path", text_folder, "--activation", name)
    return trained(language_main, folder / "run", *flags), name


@pytest.mark.parametrize("to", [pytest.param("onnx", marks=pytest.mark.slow), "pt2"])
def test_a_network_that_cannot_be_traced(to, branching, target, mistake_in):
    run, name = branching
    if to == "onnx":
        pytest.importorskip("onnxscript")
        target = target.rename(target.with_suffix(".onnx"))
    line = mistake_in(export, run, "--to", to, target, "--overwrite", "--activation", name)
    assert f"--to {to}: the network cannot be traced" in line
    assert "without Python's if on values" in line
    assert is_kept(target)


def test_weights_that_are_too_large_for_onnx(run, target, mistake_in, monkeypatch):
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(graphs, "LARGEST_ONNX", 1000)
    target = target.rename(target.with_suffix(".onnx"))
    line = mistake_in(export, run, "--to", "onnx", target, "--overwrite")
    assert "bytes, and a file of ONNX holds 2 GiB: --to pt2" in line
    assert is_kept(target)


@pytest.fixture
def moved(text_folder, tmp_path):
    """A run whose tokenizer has gone, and where it is now."""
    made = pytest.importorskip("helpers.made_tokenizers")
    text = (text_folder / "train.txt").read_text()
    name = made.save(tmp_path / "tokenizer", made.byte_level(text))
    flags = (*TINY, "--tokenizer", name, "--data_path", text_folder)
    run = trained(language_main, tmp_path / "run", *flags, "--activation", "GELU")
    shutil.move(name, tmp_path / "moved")
    return run, tmp_path / "moved"


def test_a_tokenizer_that_has_gone(moved, tmp_path, mistake_in, here, capsys):
    pytest.importorskip("transformers", minversion="5")
    run, place = moved
    folder = tmp_path / "model"
    line = mistake_in(export, run, "--to", "hf", folder)
    assert f"--tokenizer {tmp_path / 'tokenizer'}: no such folder" in line
    assert not folder.exists()
    exported(run, "hf", folder, "--tokenizer", place)
    assert "largest difference" in capsys.readouterr().out
    assert json.loads((folder / "tokenizer.json").read_text())["model"]["type"] == "BPE"
    line = mistake_in(export, run, "--to", "hf", tmp_path / "other", "--tokenizer", "bytes")
    assert "the checkpoint was trained with another one" in line


def test_a_graph_needs_no_tokenizer(moved, tmp_path, mistake_in, here, capsys):
    run, place = moved
    exported(run, "pt2", tmp_path / "model.pt2")
    assert "largest difference" in capsys.readouterr().out
    line = mistake_in(export, run, "--to", "pt2", tmp_path / "x.pt2", "--tokenizer", place)
    assert "--tokenizer: --to pt2 writes no tokenizer; leave out --tokenizer" in line


@pytest.mark.slow
def test_activations_inside_other_code(text_folder, tmp_path, mistake_in):
    """RWKV calls torch.relu in its own forward, and has no rates of dropout."""
    transformers = pytest.importorskip("transformers", minversion="5")
    transformers.RwkvConfig(
        vocab_size=257, hidden_size=16, attention_hidden_size=16, intermediate_size=24,
        num_hidden_layers=2, context_length=2,
    ).save_pretrained(tmp_path / "config")  # fmt: skip
    flags = (*flags_of(tmp_path / "config", text_folder), "--max_seq_length", "2")
    run = trained(language_main, tmp_path / "run", *flags, "--activation", "ZiLU")
    line = mistake_in(export, run, "--to", "hf", tmp_path / "model")
    assert "calls activations inside its own code" in line
    assert "--to onnx or --to pt2" in line
    assert not (tmp_path / "model").exists()
