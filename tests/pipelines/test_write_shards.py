"""Files of tokens are written as nanoGPT, modded-nanogpt and llm.c lay them out, and read again."""

import json
import struct
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from helpers import made_tokenizers
from helpers.corpora import load, write_text

from pipelines.text import write_shards
from utils import UserError

ROOT = Path(__file__).parents[2]
END = 256
TEXTS = {"train": ["a tree", "", "of\n leaf"], "val": ["grün"], "test": ["b", "c"]}


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for split, texts in TEXTS.items():
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (folder / f"{split}.jsonl").write_text(lines)
    return tmp_path


def write(folder, *flags, tokenizer="bytes", dataset="jsonl/set"):
    target = folder / "written"
    words = [target, "--dataset", dataset, "--data_path", folder, "--tokenizer", tokenizer, *flags]
    assert write_shards.main([str(word) for word in words]) == 0
    return target


def read_shard(path, ids):
    """Read llm.c's layout: 256 int32, of which three say something, and the ids."""
    content = path.read_bytes()
    header = struct.unpack("<256i", content[:1024])
    assert not any(header[3:])
    found = struct.unpack(f"<{header[2]}{ids}", content[1024:])
    return header[:2], list(found)


def batches(dataset, folder, **options):
    data = load(dataset, folder, **options)
    return [
        [each.tolist() for each in batch]
        for split in (data.train, data.val, data.test)
        for batch in split.batches(0)
    ]


def test_shards_have_headers_and_go_on_in_the_middle_of_a_document(corpus, capsys):
    target = write(corpus, "--form", "llmc", "--shard_tokens", "4")
    wanted = [*chain(*([END, *text.encode()] for text in TEXTS["train"]))]
    names = sorted(path.name for path in target.glob("train*"))
    assert names == [f"train_{number:06}.bin" for number in range(-(-len(wanted) // 4))]
    found = []
    for name in names:
        kind, ids = read_shard(target / name, "H")
        assert kind == (20240520, 1)
        assert len(ids) == min(4, len(wanted) - len(found))
        found += ids
    assert found == wanted
    assert f"train: {len(wanted)} tokens" in capsys.readouterr().out
    assert batches("bin/written", corpus) == batches("jsonl/set", corpus)


def test_nanogpts_files_have_no_header_and_end_of_text_behind(corpus):
    target = write(corpus, "--form", "nanogpt")
    assert sorted(path.name for path in target.iterdir()) == ["test.bin", "train.bin", "val.bin"]
    for split, texts in TEXTS.items():
        wanted = [*chain(*([*text.encode(), END] for text in texts))]
        assert (target / f"{split}.bin").read_bytes() == struct.pack(f"<{len(wanted)}H", *wanted)
    assert batches("bin/written", corpus) == batches("jsonl/set", corpus)


def test_running_text_is_one_document(tmp_path):
    text = write_text(tmp_path)
    target = write(text, "--form", "nanogpt", dataset="text")
    ids = np.fromfile(target / "val.bin", np.uint16)
    assert ids[:-1].astype(np.uint8).tobytes() == (text / "valid.txt").read_bytes()
    assert ids[-1] == END
    assert batches("bin/written", text) == batches("text", text)


class TestLongVocabularies:
    @pytest.fixture
    def large(self, tmp_path):
        """70,000 ids, and a beginning that is not the end."""
        backend = made_tokenizers.of_words([f"w{number}" for number in range(70_000)])
        return made_tokenizers.save(tmp_path / "large", made_tokenizers.with_beginning(backend))

    @pytest.fixture
    def theirs(self, large):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(large)

    def test_llama_3s_shards(self, corpus, large, theirs, monkeypatch):
        texts = ["w1 w69999", "w3 <end> w4"]
        for split in TEXTS:
            lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
            (corpus / "set" / f"{split}.jsonl").write_text(lines)
        monkeypatch.setattr(write_shards, "SCANNED", 2)
        target = write(corpus, "--form", "llmc", tokenizer=large)
        kind, ids = read_shard(target / "train_000000.bin", "I")
        first = theirs.encode("")[0]
        assert kind == (20240801, 7)
        options = {"add_special_tokens": False, "split_special_tokens": True}
        assert ids == [*chain(*([first, *theirs.encode(text, **options)] for text in texts))]
        assert max(ids) > 2**16
        assert load("bin/written", corpus, tokenizer=large).counts["train"].documents == 2
        again = write_again(corpus, large)
        assert read_shard(again / "train_000000.bin", "I") == (kind, ids)

    def test_nanogpts_have_16_bits(self, corpus, large):
        with pytest.raises(UserError, match=r"70,003 ids; give --form llmc$"):
            write(corpus, "--form", "nanogpt", tokenizer=large)
        assert not (corpus / "written").exists()


def write_again(folder, tokenizer):
    """Write what was written, from its files."""
    (folder / "written").rename(folder / "first")
    return write(folder, "--form", "llmc", tokenizer=tokenizer, dataset="bin/first")


def test_a_folder_that_is_there_is_left_as_it_is(corpus):
    (corpus / "written").mkdir()
    with pytest.raises(UserError, match="written: is there already; name a new folder"):
        write(corpus, "--form", "llmc")


def test_shards_are_llm_cs_alone(corpus):
    with pytest.raises(UserError, match="--shard_tokens has no effect with --form nanogpt"):
        write(corpus, "--form", "nanogpt", "--shard_tokens", "9")


def test_what_is_cut_short_leaves_nothing(corpus, monkeypatch):
    before = {path.name for path in corpus.iterdir()} | {"tokens"}
    calls, real = [], write_shards.to_disk

    def full(file):
        calls.append(file)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        real(file)

    monkeypatch.setattr(write_shards, "to_disk", full)
    with pytest.raises(OSError, match="No space left"):
        write(corpus, "--form", "llmc", "--shard_tokens", "3")
    assert {path.name for path in corpus.iterdir()} == before


def test_mistakes_are_one_line(tmp_path):
    flags = ("--dataset", "jsonl/none", "--form", "llmc", "--tokenizer", "bytes")
    command = (sys.executable, "-m", "pipelines.text.write_shards", str(tmp_path / "x"), *flags)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no file matches" in done.stderr
