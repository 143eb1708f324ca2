"""load_text loads every corpus by name, and says in one line why it cannot."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.corpora import error_of, load, text_of

import dataset
from dataset import load_tokenizer
from pipelines import hub
from pipelines.text import corpora

ROOT = Path(dataset.__file__).parent


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch):
    def fetch(*args):
        raise OSError("no network in tests")

    monkeypatch.setattr(hub, "fetch", fetch)


class TestTheDoor:
    def test_importing_it_imports_nothing_heavy(self):
        code = "import sys, dataset; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

    def test_unknown_name(self, tmp_path):
        message = error_of("wikitext-103", tmp_path)
        assert "did you mean wikitext103?" in message
        assert all(name in message for name in dataset.LANGUAGE_DATASETS)

    @pytest.mark.parametrize(
        ("options", "flag"),
        [
            ({"batch_size": 0}, "--batch_size 0"),
            ({"block_size": 0}, "--max_seq_length 0"),
            ({"eval_stride": 0}, "--eval_stride 0"),
            ({"eval_stride": 9}, "--max_seq_length (8)"),
            ({"tokenizer": "byte"}, "did you mean bytes?"),
        ],
    )
    def test_bad_values_name_their_flag(self, tmp_path, options, flag):
        assert flag in error_of("wikitext103", tmp_path, **options)

    def test_what_it_says(self, tmp_path):
        data = load("pydoc", tmp_path, block_size=64)
        assert (data.vocab_size, data.end_of_text, data.tokenizer) == (257, 256, "bytes")
        assert data.fingerprint == load_tokenizer("bytes").fingerprint
        assert data.form.startswith("pydoc")
        counts = data.counts["test"]
        for part in ("pydoc", "bytes", f"{counts.tokens:,} tokens", f"{counts.words:,} words"):
            assert part in data.description
        assert data.test.counts == counts
        assert data.val.num_samples == -(-data.counts["val"].tokens // 64)
        assert data.train.num_samples == -(-(data.counts["train"].tokens + 1) // 64)

    def test_the_stride_is_for_evaluation(self, tmp_path):
        whole, half = (load("pydoc", tmp_path, eval_stride=stride) for stride in (None, 4))
        assert half.test.num_samples > 1.9 * whole.test.num_samples
        assert half.val.num_samples > 1.9 * whole.val.num_samples
        assert half.train.num_samples == whole.train.num_samples
        assert text_of(half.test) == text_of(whole.test)

    def test_the_seed_is_for_training(self, tmp_path):
        one, two = (load("pydoc", tmp_path, data_seed=seed) for seed in (0, 1))
        first, second = (next(data.train.batches(0))[0] for data in (one, two))
        assert not torch.equal(first, second)
        assert text_of(one.test) == text_of(two.test)


class TestText:
    def write(self, folder, *stems):
        for stem in stems:
            (folder / f"{stem}.txt").write_text(f"{stem}\n")

    @pytest.mark.parametrize("val", ["valid", "val", "validation"])
    def test_three_files(self, tmp_path, val):
        self.write(tmp_path, "train", val, "test")
        data = load("text", tmp_path)
        assert (text_of(data.val), text_of(data.test)) == (f"{val}\n", "test\n")
        assert str(tmp_path) in data.description

    @pytest.mark.parametrize("missing", ["train", "valid", "test"])
    def test_a_missing_one_is_named(self, tmp_path, missing):
        self.write(tmp_path, *({"train", "valid", "test"} - {missing}))
        assert f"{tmp_path / missing}.txt: no such file" in error_of("text", tmp_path)

    def test_no_folder(self, tmp_path):
        assert f"{tmp_path / 'no/train.txt'}" in error_of("text", tmp_path / "no")


class TestPydoc:
    def test_no_text_is_in_two_splits(self):
        splits = corpora.find("pydoc", "anywhere").splits
        paragraphs = {
            split: {" ".join(p.split()) for p in text.text.decode().split("\n\n")} - {""}
            for split, text in splits.items()
        }
        assert not paragraphs["train"] & paragraphs["val"]
        assert not paragraphs["train"] & paragraphs["test"]
        assert not paragraphs["val"] & paragraphs["test"]

    def test_all_paragraphs_are_there_in_shares_of_90_5_and_5(self):
        from pydoc_data.topics import topics

        splits = corpora.find("pydoc", "anywhere").splits
        sizes = {split: text.size() for split, text in splits.items()}
        assert 0.045 < sizes["val"] / sum(sizes.values()) <= 0.051
        assert 0.045 < sizes["test"] / sum(sizes.values()) <= 0.051
        whole = " ".join(b" ".join(text.text for text in splits.values()).decode().split())
        for topic in topics.values():
            for paragraph in topic.split("\n\n"):
                assert " ".join(paragraph.split()) in whole

    def test_a_python_without_it(self, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, "pydoc_data", None)
        assert "pydoc_data" in error_of("pydoc", tmp_path)


def message_of(tmp_path, name, tokenizer, **environment):
    """Load in a process of its own; return what it says, and the seconds that takes."""
    code = (
        "import sys, dataset, utils\n"
        "try: dataset.load_text(*sys.argv[1:3], tokenizer=sys.argv[3], block_size=8,"
        " batch_size=1)\n"
        "except utils.UserError as error: sys.exit(f'error: {error}')"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, name, str(tmp_path), tokenizer],
        cwd=ROOT,
        env=os.environ | {"HF_HOME": str(tmp_path / "hf")} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""
    assert done.returncode == 1
    return done.stderr, time.monotonic() - start


# Seconds, on a machine that does much else; the hub's own retries take more than a minute.
IN_TIME = 20


class TestNoNetwork:
    @pytest.mark.parametrize(
        ("name", "tokenizer", "parts"),
        [
            ("wikitext103", "bytes", ["wikitext-103-v1", "huggingface.co/datasets/Salesforce"]),
            ("wikitext103-raw", "bytes", ["wikitext-103-raw-v1", "wiki.train.tokens"]),
            ("text", "bytes", ["train.txt: no such file"]),
            ("pydoc", "gpt2", ["vocab.json", "openai-community/gpt2", "bytes"]),
        ],
    )
    def test_one_line_in_time(self, tmp_path, name, tokenizer, parts):
        said, seconds = message_of(tmp_path, name, tokenizer, HF_ENDPOINT="http://127.0.0.1:9")
        assert seconds < IN_TIME
        assert said.count("\n") == 1
        assert said.startswith("error: ")
        for part in [*parts, str(tmp_path)]:
            assert part in said

    def test_a_network_that_never_answers(self, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as server:
            endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
            said, seconds = message_of(tmp_path, "wikitext103", "bytes", HF_ENDPOINT=endpoint)
        assert seconds < IN_TIME
        assert said.count("\n") == 1
        assert "no answer" in said
