"""Tokenizers give the right ids: GPT-2's, bytes, and those of a folder."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import hub
from pipelines.text import tokenizer
from utils import UserError

DATA = Path(os.environ.get("ZILU_TEST_DATA", "nowhere"))
needs_data = pytest.mark.skipif(not (DATA / "gpt2").is_dir(), reason="needs ZILU_TEST_DATA")

parts = st.sampled_from(
    [
        "<|endoftext|>",
        "<|endof",
        "the",
        " the",
        " ",
        "  ",
        "\n",
        "\r\n",
        "'s",
        "12",
        "é",
        "😀",
        "\0",
    ]
)
texts = st.lists(parts | st.text(max_size=5), max_size=12).map("".join)


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch):
    def fetch(*args):
        raise OSError("no network in tests")

    monkeypatch.setattr(hub, "fetch", fetch)


def error_of(function, *args):
    with pytest.raises(UserError) as caught:
        function(*args)
    message = str(caught.value)
    assert "\n" not in message
    return message


def save_tokenizer(folder, **special):
    """Train a small tokenizer and save it as Hugging Face does."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    own = ByteLevelBPETokenizer()
    own.train_from_iterator(["the cat sat on the mat\n"] * 9, 270, special_tokens=["<end>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=own._tokenizer, **special)
    fast.save_pretrained(folder)
    return fast


class TestBytes:
    bytes = tokenizer.load("bytes", "nowhere")

    def test_what_it_says(self):
        assert (self.bytes.vocab_size, self.bytes.end_of_text) == (257, 256)
        assert self.bytes.fingerprint == tokenizer.fingerprint("bytes")
        assert int(self.bytes.fingerprint, 16)

    @given(text=texts)
    def test_round_trip(self, text):
        ids = self.bytes.encode(text)
        assert self.bytes.decode(ids) == text
        assert self.bytes.encode_lines([text.encode(), b"x"]).tolist() == [*ids, ord("x")]

    def test_decoding_what_is_no_text(self):
        assert self.bytes.decode([65, 256, 0xC3]) == "A<|endoftext|>\ufffd"


@needs_data
class TestGPT2:
    @pytest.fixture(scope="class")
    def gpt2(self):
        return tokenizer.load("gpt2", DATA)

    @pytest.fixture(scope="class")
    def theirs(self):
        from transformers import GPT2TokenizerFast

        return GPT2TokenizerFast.from_pretrained(DATA / "gpt2")

    def test_what_it_says(self, gpt2, theirs):
        assert (gpt2.vocab_size, gpt2.end_of_text) == (50_257, 50_256)
        assert (len(theirs), theirs.eos_token_id) == (50_257, 50_256)
        assert gpt2.fingerprint == tokenizer.fingerprint("gpt2")

    def test_hugging_faces_ids_on_wikitext(self, gpt2, theirs):
        lines = (DATA / "wikitext/valid.txt").read_bytes().splitlines(keepends=True)
        expected = theirs([line.decode() for line in lines])["input_ids"]
        assert np.array_equal(gpt2.encode_lines(lines), np.concatenate(expected))

    def test_hugging_faces_ids_on_any_text(self, gpt2, theirs):
        @given(text=texts)
        def same(text):
            ids = theirs.encode(text)
            assert gpt2.encode_lines([text.encode()] * 2).tolist() == ids * 2
            assert gpt2.decode(ids) == text
            lines = re.findall("[^\n]*\n|[^\n]+", text)
            assert gpt2.encode(text) == [i for line in lines for i in theirs.encode(line)]
            assert gpt2.decode(gpt2.encode(text)) == text

        same()

    def test_known_ids(self, gpt2):
        assert gpt2.encode("Hello world") == [15496, 995]
        assert gpt2.encode("a<|endoftext|>b") == [64, 50_256, 65]

    def test_tokenizer_json_will_do(self, tmp_path, theirs):
        theirs.save_pretrained(tmp_path / "gpt2")
        for path in (tmp_path / "gpt2").iterdir():
            if path.name != "tokenizer.json":
                path.unlink()
        assert tokenizer.load("gpt2", tmp_path).encode("Hello world") == [15496, 995]

    def test_line_ends_of_windows_will_do(self, tmp_path):
        (tmp_path / "gpt2").mkdir()
        shutil.copy(DATA / "gpt2/vocab.json", tmp_path / "gpt2")
        merges = (DATA / "gpt2/merges.txt").read_bytes().replace(b"\n", b"\r\n")
        (tmp_path / "gpt2/merges.txt").write_bytes(merges)
        assert tokenizer.load("gpt2", tmp_path).vocab_size == 50_257

    def test_another_one_under_its_name_is_refused(self, tmp_path):
        shutil.copytree(DATA / "gpt2", tmp_path / "gpt2")
        lines = (tmp_path / "gpt2/merges.txt").read_text().splitlines()
        os.chmod(tmp_path / "gpt2/merges.txt", 0o644)
        (tmp_path / "gpt2/merges.txt").write_text("\n".join(lines[:-1]))
        assert f"--tokenizer {tmp_path / 'gpt2'}" in error_of(tokenizer.load, "gpt2", tmp_path)
        assert tokenizer.load(str(tmp_path / "gpt2"), ".").vocab_size == 50_257

    def test_a_folder_of_its_two_files_is_gpt2(self, gpt2, theirs):
        own = tokenizer.load(str(DATA / "gpt2"), "nowhere")
        assert (own.vocab_size, own.end_of_text) == (50_257, 50_256)
        assert own.label == str(DATA / "gpt2")
        text = "Some text, 12 words' worth.\n<|endoftext|>"
        assert own.encode(text) == gpt2.encode(text) == theirs.encode(text)


def test_gpt2_that_is_nowhere(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer, "_found", [])
    message = error_of(tokenizer.load, "gpt2", tmp_path)
    for part in ("vocab.json", "merges.txt", str(tmp_path / "gpt2"), "no network in tests"):
        assert part in message


def test_gpt2_that_is_damaged(tmp_path):
    (tmp_path / "gpt2").mkdir()
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "gpt2" / name).write_text("{")
    assert str(tmp_path / "gpt2") in error_of(tokenizer.load, "gpt2", tmp_path)


class TestFolders:
    def test_somebodys_own(self, tmp_path):
        theirs = save_tokenizer(tmp_path, eos_token="<end>")
        own = tokenizer.load(str(tmp_path), "nowhere")
        assert (own.vocab_size, own.end_of_text) == (len(theirs), theirs.eos_token_id)
        assert own.fingerprint == tokenizer.fingerprint(str(tmp_path))
        assert own.encode("the cat<end>") == theirs.encode("the cat<end>", add_special_tokens=False)
        assert own.decode(own.encode("the cat é")) == "the cat é"

    def test_without_eos_it_is_bos(self, tmp_path):
        theirs = save_tokenizer(tmp_path, bos_token="<end>")
        assert tokenizer.load(str(tmp_path), ".").end_of_text == theirs.bos_token_id

    def test_without_either(self, tmp_path):
        save_tokenizer(tmp_path)
        message = error_of(tokenizer.load, str(tmp_path), ".")
        assert "end of text" in message
        assert "eos_token" in message

    def test_no_text_is_cut_off_or_padded(self, tmp_path):
        save_tokenizer(tmp_path, eos_token="<end>")
        content = json.loads((tmp_path / "tokenizer.json").read_text())
        content["truncation"] = {
            "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0
        }  # fmt: skip
        content["padding"] = {
            "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<end>",
        }  # fmt: skip
        (tmp_path / "tokenizer.json").write_text(json.dumps(content))
        own = tokenizer.load(str(tmp_path), ".")
        assert own.decode(own.encode("a b c d e f g h")) == "a b c d e f g h"
        assert own.decode(own.encode_lines([b"a"]).tolist()) == "a"

    def test_the_fingerprint_is_of_what_it_does(self, tmp_path):
        save_tokenizer(tmp_path / "a", eos_token="<end>")
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        first = tokenizer.fingerprint(str(tmp_path / "a"))
        (tmp_path / "a/model.safetensors").write_text("weights")
        (tmp_path / "a/config.json").write_text("{}")
        assert tokenizer.fingerprint(str(tmp_path / "a")) == first
        assert tokenizer.fingerprint(str(tmp_path / "b")) == first
        content = (tmp_path / "b/tokenizer.json").read_text()
        (tmp_path / "b/tokenizer.json").write_text(content.replace("<end>", "<fin>"))
        assert tokenizer.fingerprint(str(tmp_path / "b")) != first

    @pytest.mark.parametrize(
        "function", [tokenizer.fingerprint, lambda name: tokenizer.load(name, ".")]
    )
    def test_what_is_no_folder(self, function):
        assert "did you mean gpt2?" in error_of(function, "gpt-2")

    def test_an_empty_folder(self, tmp_path):
        assert "tokenizer.json" in error_of(tokenizer.fingerprint, str(tmp_path))

    def test_a_damaged_folder(self, tmp_path):
        (tmp_path / "tokenizer.json").write_text("{")
        assert str(tmp_path) in error_of(tokenizer.load, str(tmp_path), ".")

    def test_one_in_python_is_refused(self, tmp_path):
        """CANINE has no fast tokenizer and needs no files."""
        (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "CanineTokenizer"}')
        assert "not a fast tokenizer" in error_of(tokenizer.load, str(tmp_path), ".")
