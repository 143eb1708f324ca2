"""Corpora of documents: the same ids as nanoGPT's own preparation, from every form, once."""

import gzip
import hashlib
import json
import os
import random
import subprocess
import sys
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.close_runs import losses
from helpers.corpora import DATA, error_of, load, needs_data

import dataset
import language_main
from pipelines import hub
from pipelines.text import document_cache, document_corpora, encoding, write_shards
from pipelines.text.documents import in_batches

ROOT = Path(dataset.__file__).parent
END = 256  # of text, for the tokenizer of bytes
SPECIAL = "<|endoftext|> in the middle <|endoftext|>"


def made_documents(count, seed=0):
    """Return texts of random words, with what is likely to be treated otherwise among them."""
    draw = random.Random(seed)
    words = [
        "tree",
        " leaf",
        "\n",
        "  ",
        "grün",
        "世界",
        "😀",
        "\r\n",
        "\t",
        "it's",
        "1234567",
        SPECIAL,
    ]
    texts = ["".join(draw.choices(words, k=draw.randrange(60))) for _ in range(count)]
    return [SPECIAL, "", " \n", "\ufeffa", *texts][:count]


def write_json(path, texts, **others):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"id": i, "text": text} | others) for i, text in enumerate(texts)]
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_parquet(path, texts, column="text"):
    import pyarrow as pa
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"id": list(range(len(texts))), column: texts})
    parquet.write_table(table, path, row_group_size=7)


def load_ids(name, path, split="train", tokenizer="bytes", **options):
    tokens = document_cache.load(name, tokenizer, path, progress=False, **options)
    return np.array(tokens.ids(split))


def texts_of(ids):
    """Return the documents in ids of the tokenizer of bytes."""
    assert ids[0] == END
    places = [*np.flatnonzero(ids == END), len(ids)]
    parts = [ids[a + 1 : b] for a, b in pairwise(places)]
    return [bytes(part.astype(np.uint8)).decode() for part in parts]


def digest_of(texts):
    found = b""
    for text in texts:
        document = hashlib.blake2b(text.encode(), digest_size=16).digest()
        found = hashlib.blake2b(found + document, digest_size=16).digest()
    return found.hex()


# --- against nanoGPT ---


def prepared_by_nanogpt(texts, path):
    """Write a file as nanoGPT's data/openwebtext/prepare.py does.

    `encode_ordinary` of tiktoken knows no special tokens: no more does a tokenizer without any.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers

    files = (str(DATA / "gpt2" / name) for name in ("vocab.json", "merges.txt"))
    encoder = Tokenizer(models.BPE.from_file(*files))
    encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    ids = [np.array([*encoder.encode(text).ids, 50256], np.uint16) for text in texts]
    np.concatenate(ids).tofile(path)
    return path.read_bytes()


@needs_data
class TestNanoGPT:
    @pytest.fixture(scope="class")
    def prepared(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("nanogpt")
        (folder / "gpt2").symlink_to(DATA / "gpt2")
        texts = {"train": made_documents(1000), "val": made_documents(40, 1)}
        (folder / "theirs").mkdir()
        files = {
            split: prepared_by_nanogpt(each, folder / "theirs" / f"{split}.bin")
            for split, each in texts.items()
        }
        for split, each in texts.items():
            write_json(folder / "ours" / f"{split}.jsonl", each)
        write_json(folder / "ours" / "test.jsonl", texts["val"])
        return folder, files

    def test_the_ids_are_its_own_byte_for_byte(self, prepared):
        """Its end of text stands behind each document, ours in front: the first one moves."""
        folder, files = prepared
        for split, theirs in files.items():
            ours = load_ids("jsonl/ours", folder, split, "gpt2")
            assert ours.dtype == np.uint16
            assert np.roll(ours, -1).tobytes() == theirs

    def test_the_files_that_are_written_are_its_own_byte_for_byte(self, prepared, tmp_path):
        folder, files = prepared
        flags = ["--dataset", "jsonl/ours", "--data_path", str(folder), "--form", "nanogpt"]
        assert write_shards.main([str(tmp_path / "written"), *flags]) == 0
        for split, theirs in files.items():
            assert (tmp_path / "written" / f"{split}.bin").read_bytes() == theirs

    def test_its_files_give_the_same_batches(self, prepared):
        folder, _ = prepared
        options = {"tokenizer": "gpt2", "block_size": 16}
        ours, theirs = (load(name, folder, **options) for name in ("jsonl/ours", "bin/theirs"))
        for split in ("train", "val", "test"):
            pairs = zip(
                getattr(ours, split).batches(1), getattr(theirs, split).batches(1), strict=True
            )
            assert all(a.equal(c) and b.equal(d) for (a, b), (c, d) in pairs)
        assert ours.counts["train"].tokens == theirs.counts["train"].tokens
        assert theirs.counts["train"].documents == 1000

    def test_a_long_document_is_tokenised_in_windows(self, tmp_path, monkeypatch):
        """Its ids are those of the whole all the same."""
        text = "".join(made_documents(400, 2))
        (tmp_path / "gpt2").symlink_to(DATA / "gpt2")
        for split in ("train", "val", "test"):
            write_json(tmp_path / "j" / f"{split}.jsonl", [text])
        monkeypatch.setattr(encoding, "LONG", 1000)
        monkeypatch.setattr(encoding, "WINDOW", 2**12)
        ours = load_ids("jsonl/j", tmp_path, tokenizer="gpt2")
        assert np.roll(ours, -1).tobytes() == prepared_by_nanogpt([text], tmp_path / "x")


# --- forms ---

TEXTS = {"train": made_documents(60), "val": made_documents(9, 1), "test": made_documents(8, 2)}


def as_json(folder):
    for split, texts in TEXTS.items():
        half = len(texts) // 2
        write_json(folder / f"{split}-1.jsonl", texts[:half])
        write_json(folder / f"{split}-2.jsonl.gz", texts[half:])
    return "jsonl/set/*"


def as_parquet(folder):
    for split, texts in TEXTS.items():
        half = len(texts) // 2
        write_parquet(folder / f"{split}-00000-of-00002.parquet", texts[:half])
        write_parquet(folder / f"{split}-00001-of-00002.parquet", texts[half:])
    return "parquet/set"


def as_hub_folder(folder):
    as_parquet(folder / "data")
    return "hf/set"


def as_hub_json(folder):
    for split, texts in TEXTS.items():
        write_json(folder / f"{split}.jsonl", texts)
    return "hf/set"


def as_saved(folder):
    from datasets import Dataset, DatasetDict

    splits = {split: Dataset.from_dict({"text": texts}) for split, texts in TEXTS.items()}
    DatasetDict(splits).save_to_disk(str(folder))
    return "hf/set"


def as_text_files(folder):
    for split, texts in TEXTS.items():
        (folder / split).mkdir(parents=True)
        for number, text in enumerate(texts):
            (folder / split / f"val-{number:03}.txt").write_bytes(text.encode())
    return "folder/set"


class TestForms:
    @pytest.mark.parametrize(
        "form", [as_json, as_parquet, as_hub_folder, as_hub_json, as_saved, as_text_files]
    )
    def test_the_documents_are_the_same(self, tmp_path, form):
        name = form(tmp_path / "set")
        for split, texts in TEXTS.items():
            assert texts_of(load_ids(name, tmp_path, split)) == texts

    @pytest.mark.parametrize("form", [as_json, as_parquet, as_hub_json, as_saved, as_text_files])
    def test_a_reader_begins_anywhere(self, tmp_path, form):
        name = form(tmp_path / "set")
        corpus = document_corpora.find(name, str(tmp_path), None)
        for split, texts in TEXTS.items():
            for first in (0, 1, 5, 7, len(texts) - 1, len(texts)):
                assert list(corpus.splits[split].read(first)) == texts[first:]

    def test_counts(self, tmp_path):
        data = load(as_json(tmp_path / "set"), tmp_path)
        for split, texts in TEXTS.items():
            counts, content = data.counts[split], [text.encode() for text in texts]
            assert counts.documents == len(texts)
            assert counts.bytes == sum(map(len, content))
            assert counts.tokens == counts.bytes + len(texts) - 1
            assert counts.words == sum(len(x.split()) + x.count(b"\n") for x in content)

    def test_the_only_column_of_texts_is_found_and_another_is_named(self, tmp_path):
        write_parquet(tmp_path / "a.parquet", TEXTS["train"], "content")
        ids = load_ids("parquet/a.parquet", tmp_path, held_out=0.1)
        named = load_ids("parquet/a.parquet", tmp_path, held_out=0.1, text_column="content")
        assert np.array_equal(ids, named)

    def test_halves_of_surrogate_pairs(self, tmp_path):
        (tmp_path / "a.jsonl").write_text('{"text": "a\\ud83dz"}\n' * 9)
        corpus = document_corpora.find("jsonl/a.jsonl", str(tmp_path), None)
        assert document_cache._as_utf8(next(corpus.splits["train"].read(0))) == b"a?z"

    def test_rows_without_a_text_are_left_out_and_counted(self, tmp_path, capsys):
        for split in TEXTS:
            write_parquet(tmp_path / "p" / f"{split}.parquet", ["a", None, "b"])
        assert texts_of(load_ids("parquet/p", tmp_path)) == ["a", "b"]
        assert "3 rows without a text" in capsys.readouterr().out

    def test_the_first_text_may_be_missing(self, tmp_path):
        (tmp_path / "a.jsonl").write_text("")
        (tmp_path / "b.jsonl").write_text('{"text": null, "url": "u"}\n{"text": "t", "url": "v"}\n')
        corpus = document_corpora.find("jsonl/*.jsonl", str(tmp_path), None)
        assert list(corpus.splits["train"].read(0)) == [None, "t"]
        named = document_corpora.find("jsonl/*.jsonl", str(tmp_path), "url")
        assert list(named.splits["train"].read(0)) == ["u", "v"]

    @pytest.mark.parametrize("pattern", ["*.jsonl", "a.jsonl", "s*/train/*.jsonl"])
    def test_a_folder_may_be_called_as_a_pattern(self, tmp_path, pattern):
        folder = tmp_path / "D[1]"
        (folder / "sub/train").mkdir(parents=True)
        write_json(folder / pattern.replace("s*/", "sub/").replace("*", "a"), ["t"])
        corpus = document_corpora.find(f"jsonl/{pattern}", str(folder), None)
        assert list(corpus.splits["train"].read(0)) == ["t"]

    def test_batches_are_bounded(self):
        texts = ["abc", None, "", "x" * 50, "de", "f" * 9, "g"]
        batches = list(in_batches(texts, 10, 3))
        assert [text for batch in batches for text in batch] == texts
        assert all(len(b) <= 3 and (len(b) == 1 or len("".join(filter(None, b))) <= 10)
                   for b in batches)  # fmt: skip


class TestHeldOut:
    def splits(self, folder, texts, share=0.1):
        write_json(folder / "a.jsonl", texts)
        found = {s: texts_of(load_ids("jsonl/a.jsonl", folder, s, held_out=share)) for s in TEXTS}
        assert sorted(chain.from_iterable(found.values())) == sorted(texts)
        return found

    def test_the_content_decides_and_not_the_order(self, tmp_path):
        texts = made_documents(600)
        found = self.splits(tmp_path / "1", texts)
        turned = self.splits(tmp_path / "2", texts[::-1])
        fewer = self.splits(tmp_path / "3", texts[::2])
        for split in TEXTS:
            assert sorted(found[split]) == sorted(turned[split])
            assert {*fewer[split]} <= {*found[split]}
        assert all(30 < len(found[split]) < 95 for split in ("val", "test"))
        assert not {*found["train"]} & ({*found["val"]} | {*found["test"]})

    def test_only_what_is_missing_is_held_out(self, tmp_path):
        write_json(tmp_path / "a" / "train.jsonl", made_documents(300))
        write_json(tmp_path / "a" / "valid.jsonl", TEXTS["val"])
        found = {s: texts_of(load_ids("jsonl/a", tmp_path, s, held_out=0.1)) for s in TEXTS}
        assert found["val"] == TEXTS["val"]
        assert len(found["train"]) + len(found["test"]) == 300
        assert 10 < len(found["test"]) < 60


# --- once, and on after a kill ---

KILLED = """
import os, signal, sys
from pipelines.text import document_cache

document_cache.SAVE_SECONDS = float(sys.argv[3])
document_cache.BATCH_DOCUMENTS = 10
real, written = document_cache._Making._write, []

def write(self, *args):
    real(self, *args)
    written.append(1)
    if len(written) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

document_cache._Making._write = write
document_cache.load("jsonl/set/*", "bytes", sys.argv[1], progress=False)
print(len(written))
"""


def run_killed(folder, after, save_seconds=0.0):
    return subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), str(after), str(save_seconds)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def bins(folder):
    (found,) = [each for each in (folder / "tokens").iterdir() if (each / "train.bin").is_file()]
    return {path.name: path.read_bytes() for path in found.glob("*.bin")}


class TestGoingOn:
    def test_a_killed_process_is_gone_on_from(self, tmp_path):
        whole, broken = tmp_path / "whole", tmp_path / "broken"
        for folder in (whole, broken):
            as_json(folder / "set")
        load_ids("jsonl/set/*", whole)
        for after in (25, 17):  # in the training documents, then in the next run's
            assert run_killed(broken, after).returncode == -9
            assert [p.suffix for p in (broken / "tokens").iterdir() if p.is_dir()] == [
                ".unfinished"
            ]
        done = run_killed(broken, 10**6)
        assert "going on after 30 documents" in done.stdout, done.stderr
        assert int(done.stdout.split()[-1]) == sum(map(len, TEXTS.values())) - 30
        assert bins(broken) == bins(whole)
        names = [{p.name for p in (f / "tokens").iterdir()} for f in (whole, broken)]
        assert names[0] == names[1]  # the key is of all digests

    def test_a_kill_before_the_first_save(self, tmp_path):
        as_json(tmp_path / "set")
        assert run_killed(tmp_path, 25, 1000).returncode == -9
        assert texts_of(load_ids("jsonl/set/*", tmp_path)) == TEXTS["train"]

    @pytest.mark.parametrize("damage", ["bytes", "files"])
    def test_another_text_or_damage_begins_anew(self, tmp_path, damage):
        as_json(tmp_path / "set")
        assert run_killed(tmp_path, 35).returncode == -9
        if damage == "files":
            write_json(tmp_path / "set" / "train-1.jsonl", ["another"])
            expected = ["another", *TEXTS["train"][30:]]
        else:
            (folder,) = (tmp_path / "tokens").glob("*.unfinished")
            content = bytearray((folder / "train.bin").read_bytes())
            content[5] ^= 1
            (folder / "train.bin").write_bytes(content)
            expected = TEXTS["train"]
        assert texts_of(load_ids("jsonl/set/*", tmp_path)) == expected

    def test_a_hit_encodes_nothing_and_needs_no_documents(self, tmp_path, monkeypatch):
        name = as_json(tmp_path / "set")
        ids = load_ids(name, tmp_path)
        monkeypatch.setattr(document_cache, "_Making", None)
        assert np.array_equal(load_ids(name, tmp_path), ids)  # by content: the files are new
        (tmp_path / "set").rename(tmp_path / "elsewhere")
        assert np.array_equal(load_ids(name, tmp_path), ids)

    def test_damaged_tokens_are_made_again(self, tmp_path):
        name = as_json(tmp_path / "set")
        ids = load_ids(name, tmp_path)
        (path,) = (tmp_path / "tokens").glob("*/train.bin")
        path.write_bytes(b"\0" * path.stat().st_size)
        assert np.array_equal(load_ids(name, tmp_path), ids)


# --- mistakes ---


class TestMistakes:
    @pytest.mark.parametrize(
        ("name", "options", "parts"),
        [
            ("jsonl/none/*", {}, ["no file matches", ".jsonl"]),
            ("jsonl/set/*", {"text_column": "body"}, ["--text_column body", "id, text"]),
            ("jsonl/set/*", {"text_column": "id"}, ["--text_column id", "no texts"]),
            ("jsonl/set/*", {"held_out": 0.5}, ["--held_out 0.5"]),
            ("folder/set", {"text_column": "text"}, ["--text_column", "leave it out"]),
            ("pydoc", {"held_out": 0.1}, ["--held_out", "pydoc"]),
            ("wikitext103", {"pack": "inside"}, ["--pack inside", "wikitext103", "leave it out"]),
            ("jsonl", {}, ["jsonl/PATTERN"]),
            ("hf/no/such/folder", {}, ["no name of a repository"]),
        ],
    )
    def test_of_the_command_line(self, tmp_path, name, options, parts):
        as_json(tmp_path / "set")
        message = error_of(name, tmp_path, **options)
        assert all(part in message for part in parts), message

    @pytest.mark.parametrize(
        ("lines", "part"),
        [
            ('{"text": "a"}\n{"text": 3}\n', "line 2: no text under the key 'text'"),
            ('{"text": "a"}\n\n{"body": "b"}\n', "line 3: no text under the key 'text'"),
            ('{"text": "a"}\n["text"]\n', "line 2: is no JSON object"),
            ('{"text": "a"}\n{"text": \n', "line 2: is no JSON object"),
            ('[{"text":\n"a"}]', "line 1: is no JSON object"),
            ("\n\n", "holds no documents"),
            ('{"text": ""}\n' * 9, "are empty"),
            ('{"a": "", "b": ""}\n', "several columns of texts (a, b)"),
        ],
    )
    def test_of_json(self, tmp_path, lines, part):
        for split in TEXTS:
            path = tmp_path / "x" / f"{split}.jsonl"
            path.parent.mkdir(exist_ok=True)
            path.write_text(lines)
        assert part in error_of("jsonl/x", tmp_path)

    def test_a_file_beside_its_compressed_form(self, tmp_path):
        write_json(tmp_path / "a.jsonl", ["a"])
        (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
        assert "a.jsonl.gz and a.jsonl are one file" in error_of("jsonl/*", tmp_path)

    def test_none_of_the_documents_is_held_out(self, tmp_path):
        write_json(tmp_path / "a.jsonl", made_documents(50))
        assert "give a larger share, as --held_out 0.2" in error_of("jsonl/a.jsonl", tmp_path)
        assert not list((tmp_path / "tokens").glob("*"))

    def test_files_of_which_some_name_a_split(self, tmp_path):
        as_json(tmp_path / "set")
        write_json(tmp_path / "set" / "more.jsonl", ["a"])
        assert "more.jsonl: its name says no split" in error_of("jsonl/set", tmp_path)

    def test_a_split_for_training_is_missing(self, tmp_path):
        write_json(tmp_path / "val.jsonl", ["a"])
        assert "no training documents" in error_of("jsonl/val.jsonl", tmp_path)

    def test_a_missing_or_damaged_parquet_file(self, tmp_path):
        as_hub_folder(tmp_path / "set")
        (tmp_path / "set/data/train-00001-of-00002.parquet").unlink()
        assert "2 files belong together" in error_of("hf/set", tmp_path)
        (tmp_path / "train.parquet").write_bytes(b"PAR1 no more")
        assert "train.parquet: cannot be read" in error_of("parquet/train.parquet", tmp_path)

    def test_a_text_file_that_is_not_utf8(self, tmp_path):
        as_text_files(tmp_path / "set")
        (tmp_path / "set/train/val-003.txt").write_bytes(b"a\xff")
        assert "val-003.txt: not UTF-8 at byte 1" in error_of("folder/set", tmp_path)


# --- Hugging Face's hub ---


class TestHub:
    def test_without_a_network_it_says_how_to_get_it(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        message = error_of("fineweb-10b", tmp_path)
        assert "HuggingFaceFW/fineweb" in message
        assert "--dataset fineweb-10b" in message
        assert "HF_HUB_OFFLINE is set" in message

    @pytest.mark.parametrize("name", ["tinystories", "hf/roneneldan/TinyStories"])
    def test_its_cache_is_enough(self, tmp_path, monkeypatch, name):
        as_hub_folder(tmp_path / "copy")
        asked = []
        monkeypatch.setattr(hub, "probe", lambda *args: (_ for _ in ()).throw(OSError("none")))
        monkeypatch.setattr(hub, "fetch", lambda *args: asked.append(args[:2]) or tmp_path / "copy")
        assert texts_of(load_ids(name, tmp_path / "data")) == TEXTS["train"]
        assert asked == [(("roneneldan/TinyStories",), "dataset")]

    def test_the_files_of_a_configuration_are_downloaded(self, tmp_path, monkeypatch):
        """The library says which these are; it stands in for the network here."""
        import datasets

        as_parquet(tmp_path / "copy" / "sample" / "10BT")
        files = sorted(p.name for p in (tmp_path / "copy/sample/10BT").iterdir())
        (tmp_path / "copy/README.md").write_text(
            "---\nconfigs:\n- config_name: other\n  data_files: nothing/*\n"
            "- config_name: sample-10BT\n  data_files:\n"
            + "".join(f"  - split: {s}\n    path: sample/10BT/{s}-*\n" for s in TEXTS)
            + "---\n"
        )
        real, fetched = datasets.load_dataset_builder, []

        def builder(path, config=None, **options):
            if path != "HuggingFaceFW/fineweb":
                return real(path, config, **options)
            patterns = {s: f"sample/10BT/{s}-*" for s in TEXTS}
            found = real(str(tmp_path / "copy"), data_files=patterns)
            for split, urls in found.config.data_files.items():
                found.config.data_files[split] = [
                    f"hf://datasets/{path}@{'0' * 40}/sample/10BT/{Path(url).name}" for url in urls
                ]
            return found

        def fetch(repositories, kind, patterns, usable):
            fetched.extend(patterns)
            assert usable(tmp_path / "copy")
            assert not usable(tmp_path)
            return tmp_path / "copy"

        monkeypatch.setattr(datasets, "load_dataset_builder", builder)
        monkeypatch.setattr(hub, "probe", lambda *args: None)
        monkeypatch.setattr(hub, "fetch", fetch)
        assert texts_of(load_ids("fineweb-10b", tmp_path / "data")) == TEXTS["train"]
        assert sorted(fetched) == ["README.md", *(f"sample/10BT/{name}" for name in files)]


# --- as a user runs it ---

RUN = (
    "--tokenizer", "bytes", "--num_layers", "1", "--embedding_dim", "16", "--max_seq_length", "32",
    "--num_attention_heads", "2", "--batch_size", "7", "--grad_accum_steps", "2", "--dropout", "0",
    "--max_steps", "6", "--num_epochs", "9", "--device", "cpu", "--pack", "inside",
)  # fmt: skip


def test_blocks_inside_documents_give_the_same_losses_in_any_number_of_processes(forked, tmp_path):
    """Their numbers of targets differ, of which the mean over a process's share knows nothing."""
    texts = [text * (1 + number % 3) for number, text in enumerate(made_documents(200))]
    write_json(tmp_path / "a.jsonl", texts)
    for count in (1, 2):
        flags = ("--dataset", "jsonl/a.jsonl", "--held_out", "0.1", "--data_path", tmp_path)
        codes, output = forked(
            "language_main", *flags, *RUN, "--output_dir", tmp_path / str(count), processes=count
        )
        assert codes == [0] * count, output
    one, two = (losses(tmp_path / str(count)) for count in (1, 2))
    assert len(one) >= 3
    assert one == pytest.approx(two, rel=2e-5)
    content = yaml.safe_load((tmp_path / "1" / "args.txt").read_text())["resolved"]
    train = content["counts"]["train"]
    assert sum(counts["documents"] for counts in content["counts"].values()) == len(texts)
    assert train["tokens"] == train["bytes"] + train["documents"] - 1
    for split, digest in content["text_digests"].items():
        ids = load_ids("jsonl/a.jsonl", tmp_path, split, held_out=0.1)
        assert digest == digest_of(texts_of(ids))
    again = ["--test_only", "--device", "cpu", "--output_dir", str(tmp_path / "1")]
    assert language_main.main(again) == 0
    line = (tmp_path / "1" / "test_results.txt").read_text()
    assert "stride 32 of 32, packed inside documents, float32" in line


def test_a_vocabulary_that_is_too_small(mistake_in, tmp_path):
    write_json(tmp_path / "a.jsonl", made_documents(200))
    flags = ("--dataset", "jsonl/a.jsonl", "--held_out", "0.1", "--data_path", tmp_path)
    message = mistake_in(
        language_main, *flags, *RUN, "--vocab_size", "256", "--output_dir", tmp_path / "run"
    )
    assert "--vocab_size 256: --tokenizer bytes has 257 ids" in message


# --- memory ---


@pytest.mark.slow
@pytest.mark.timeout(3600)  # a GB takes four minutes of two cores and more
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@needs_data
@pytest.mark.parametrize("megabytes", [30, int(os.environ.get("ZILU_TEST_MEGABYTES", "120"))])
def test_memory_does_not_grow_with_the_documents(tmp_path, megabytes):
    (tmp_path / "gpt2").symlink_to(DATA / "gpt2")
    text = (DATA / "wikitext" / "valid.txt").read_text()
    pieces = [text[start : start + 3000] for start in range(0, len(text), 3000)]
    with open(tmp_path / "a.jsonl", "w") as file:
        for number in range(megabytes * 10**6 // 3000):
            text = f"{number} {pieces[number % len(pieces)]}"
            file.write(json.dumps({"text": text}) + "\n")
    code = (
        "import sys; from pipelines.text import document_cache;"
        "document_cache.load('jsonl/a.jsonl', 'gpt2', sys.argv[1], progress=False);"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    peak = int(ran.stdout.split()[-1]) / 1e3
    print(f"\n{megabytes} MB of text: peak of {peak:.0f} MB")
    assert peak < 700
