"""Token files of nanoGPT, modded-nanogpt and llm.c are read where they are, or refused."""

from itertools import chain

import numpy as np
import pytest
from helpers import made_tokenizers
from helpers.corpora import error_of

from dataset import load_text
from pipelines.text import token_files, tokenizer

END = 256


def write_shard(path, ids, magic=20240520, version=1, dtype=np.uint16, count=None):
    """Write a shard as llm.c's dev/data/data_common.py does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = np.zeros(256, np.int32)
    header[:3] = magic, version, len(ids) if count is None else count
    with open(path, "wb") as file:
        file.write(header.tobytes())
        file.write(np.array(ids, dtype).tobytes())


def load(folder, name="bin/f", tokenizer="bytes"):
    return token_files.load(name, tokenizer, folder)


def ids_of(folder, split="train"):
    ids = load(folder).ids(split)
    return ids[:].tolist()


class TestReading:
    @pytest.mark.parametrize("kind", [(20240520, 1, np.uint16), (20240801, 7, np.uint32)])
    def test_shards_follow_each_other(self, tmp_path, kind):
        """A document may go on in the next shard."""
        ids = [END, 1, 2, 3, END, 4, 5, END, 6]
        for number, part in enumerate((ids[:3], ids[3:4], ids[4:])):
            write_shard(tmp_path / "f" / f"x_train_{number:06}.bin", part, *kind)
        write_shard(tmp_path / "f" / "x_val_000000.bin", [END, 9], *kind)
        assert ids_of(tmp_path) == ids
        assert ids_of(tmp_path, "val") == ids_of(tmp_path, "test") == [END, 9]
        counts = load(tmp_path).counts("train")
        assert (counts.tokens, counts.documents, counts.has_text) == (8, 3, False)
        assert counts.facts() == {"tokens": 8, "documents": 3}
        joined = load(tmp_path).ids("train")
        places = np.array([[8, 0], [3, 3], [2, 4]])
        assert np.array_equal(joined[places], np.array(ids)[places])

    def test_nanogpts_files(self, tmp_path):
        (tmp_path / "f").mkdir()
        np.array([1, 2, END, 3, END], np.uint16).tofile(tmp_path / "f" / "train.bin")
        np.array([1, 2], np.uint16).tofile(tmp_path / "f" / "val.bin")
        assert ids_of(tmp_path) == [END, 1, 2, END, 3]
        assert ids_of(tmp_path, "val") == [END, 1, 2]

    def test_bits_per_byte_are_withheld_and_the_digest_is_of_the_ids(self, tmp_path):
        write_shard(tmp_path / "f" / "train.bin", [END, *range(200)])
        write_shard(tmp_path / "f" / "val.bin", [END, 1, 2])
        data = load_text("bin/f", str(tmp_path), tokenizer="bytes", block_size=8, batch_size=2)
        assert not data.counts["val"].lossless
        assert "bytes)" not in data.description
        first = load(tmp_path).digests()
        (tmp_path / "f" / "train.bin").unlink()
        write_shard(tmp_path / "f" / "train-1.bin", [END, *range(199), 3])
        assert load(tmp_path).digests()["val"] == first["val"]
        assert load(tmp_path).digests()["train"] != first["train"]

    def test_gpt2s_need_no_tokenizer_files(self, tmp_path):
        write_shard(tmp_path / "f" / "train.bin", [50256, 1])
        write_shard(tmp_path / "f" / "val.bin", [50256, 1])
        meta = load(tmp_path, tokenizer="gpt2").meta
        assert (meta["vocab_size"], meta["end_of_text"]) == (50257, 50256)


class TestABeginningThatIsNoEnd:
    """In front of Llama 3's documents dev/data/fineweb.py of llm.c writes `encode('')[0]`."""

    TEXTS = ("a b", "c <end> d", "a", "<begin> d")

    @pytest.fixture
    def llama(self, tmp_path):
        backend = made_tokenizers.llama_3("a b c d\n" * 9)
        return made_tokenizers.save(tmp_path / "llama", made_tokenizers.with_beginning(backend))

    @pytest.fixture
    def theirs(self, llama):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(llama)

    def written(self, path, theirs):
        first = theirs.encode("")[0]
        options = {"add_special_tokens": False, "split_special_tokens": True}
        documents = [[first, *theirs.encode(text, **options)] for text in self.TEXTS]
        ids = [*chain(*documents)]
        for split in ("train", "val"):
            write_shard(path / f"{split}_000000.bin", ids, 20240801, 7, np.uint32)
        return documents

    def test_documents_and_ids_are_the_files_own(self, tmp_path, llama, theirs):
        documents = self.written(tmp_path / "f", theirs)
        assert theirs.encode("")[0] != theirs.eos_token_id
        tokens = load(tmp_path, tokenizer=llama)
        assert tokens.counts("train").documents == len(documents)
        assert tokens.ids("train")[:].tolist() == [*chain(*documents)]

    def test_blocks_stay_inside_documents(self, tmp_path, llama, theirs):
        documents = self.written(tmp_path / "f", theirs)
        data = load_text(
            "bin/f", str(tmp_path), tokenizer=llama, block_size=16, batch_size=9, pack="inside"
        )
        ((inputs, _),) = data.val.batches(0)
        first, rows = documents[0][0], inputs.tolist()
        documents[-1].pop()  # a target alone: nothing follows it
        assert [[each for each in row if each != first] for row in rows] == [
            document[1:] for document in documents
        ]

    def test_networks_are_given_and_stop_at_what_they_saw(self, tmp_path, llama, theirs):
        ours = tokenizer.load_for("bin/f", llama, tmp_path)
        assert ours.end_of_text == theirs.encode("")[0]
        assert tokenizer.load_for("jsonl/f", llama, tmp_path).end_of_text == theirs.eos_token_id
        assert tokenizer.sizes(llama, tmp_path) == (ours.vocab_size, ours.end_of_text)


class TestMistakes:
    @pytest.mark.parametrize(
        ("options", "parts"),
        [
            ({"count": 9}, ["its header says 9 tokens, and 3 are there"]),
            ({"magic": 20240522}, ["unknown magic number 20240522", "20240520, 20240801"]),
            ({"version": 2}, ["version 2 in place of 1"]),
            ({"ids": [END, 300]}, ["holds the id 300", "--tokenizer bytes has 257 ids"]),
            ({"ids": []}, ["holds no tokens"]),
            ({"ids": [END]}, ["holds no tokens but end of text"]),
            ({"magic": 20240801, "version": 7, "dtype": np.uint32}, ["32 bits", "16"]),
        ],
    )
    def test_of_a_shard(self, tmp_path, options, parts):
        write_shard(tmp_path / "f" / "val.bin", [END, 1])
        write_shard(tmp_path / "f" / "train.bin", **{"ids": [END, 1, 2]} | options)
        message = error_of("bin/f", tmp_path)
        assert all(part in message for part in parts), message
        assert str(tmp_path / "f" / "train.bin") in message

    def test_a_file_that_is_cut(self, tmp_path):
        write_shard(tmp_path / "f" / "val.bin", [END, 1])
        path = tmp_path / "f" / "train.bin"
        write_shard(path, [END, 1, 2])
        path.write_bytes(path.read_bytes()[:-1])
        assert "3 tokens, and 2.5 are there" in error_of("bin/f", tmp_path)
        path.write_bytes(b"\1\0\2")
        assert "3 bytes" in error_of("bin/f", tmp_path)

    def test_blocks_inside_documents_of_which_there_is_but_one(self, tmp_path):
        for split in ("train", "val"):
            write_shard(tmp_path / "f" / f"{split}.bin", [END, 1, 2])
        message = error_of("bin/f", tmp_path, pack="inside")
        assert "--pack inside: the training text of bin/f has no end of text (256)" in message

    def test_of_a_pattern(self, tmp_path):
        assert "no file matches" in error_of("bin/f/*.bin", tmp_path)
        write_shard(tmp_path / "f" / "train.bin", [END, 1])
        assert "for validation" in error_of("bin/f/*.bin", tmp_path)
