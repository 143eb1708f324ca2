"""`--save_for_backward output` through the programs."""

from __future__ import annotations

import pytest

FLAGS = {
    "vision_main": ["--dataset", "digits", "--model", "resnet20", "--resize", "8"],
    "language_main": [
        "--dataset", "text", "--tokenizer", "bytes", "--embedding_dim", "16", "--num_layers", "1",
        "--num_attention_heads", "2", "--max_seq_length", "16",
    ],
}  # fmt: skip


@pytest.fixture
def run(forked, data_path, tmp_path):
    """Train for two steps; returns the printed text and the folder."""

    def run(module, name, *flags):
        folder = tmp_path / name
        where = ["--data_path", data_path[module]] if module == "language_main" else []
        code, output = forked(
            module, *FLAGS[module], *where, "--max_steps", 2, "--device", "cpu", "--output_dir",
            folder, *flags,
        )  # fmt: skip
        assert code == [0], output
        return output, folder

    return run


def numbers(folder):
    """Return every number of the result lines, without times and memory."""
    text = (folder / "train_eval_results.txt").read_text()
    words = text.split("[Summary]")[0].replace(",", " ").split("[Train]")[1].split(" | ")[0].split()
    return [float(word.rstrip("%")) for word in words if word[0].isdigit()]


@pytest.mark.parametrize("module", FLAGS)
def test_losses_agree_to_rounding(module, run):
    _, default = run(module, "input")
    _, output = run(module, "output", "--save_for_backward", "output")
    _, inplace = run(module, "inplace", "--save_for_backward", "output", "--inplace")
    assert "save_for_backward: output" in (output / "args.txt").read_text()
    assert "ZiLU(sigma=1, save=output)" in (output / "model.txt").read_text()
    assert "ZiLU(sigma=1, save=output, inplace=True)" in (inplace / "model.txt").read_text()
    assert numbers(output) == numbers(inplace)
    assert numbers(output) == pytest.approx(numbers(default), rel=1e-4)


def test_what_cannot_be_is_a_note(run):
    said, folder = run("vision_main", "gelu", "--activation", "GELU_s", "--inplace",
                       "--save_for_backward", "output")  # fmt: skip
    assert "Note: GELU_s keeps what it always does for backward: only where" in said
    assert "Note: GELU_s has no in-place form here; --inplace is ignored" in said
    assert "GELU_s(sigma=1)" in (folder / "model.txt").read_text()
    said, _ = run("vision_main", "zilu", "--inplace")
    assert "Note: ZiLU has no in-place form here" in said
    said, _ = run("vision_main", "relu", "--inplace", "--activation", "ReLU")
    assert "Note" not in said
