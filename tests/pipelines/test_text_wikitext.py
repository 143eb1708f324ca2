"""WikiText-103 is one corpus in all forms that it may be kept in."""

import hashlib
import os
import shutil

import pytest
from helpers.corpora import (
    ALIAS,
    BOTH,
    DATA,
    RAW,
    V1,
    as_files,
    as_parquet,
    error_of,
    load,
    needs_data,
    rows_of,
    text_of,
)

from pipelines import hub
from pipelines.text import corpora


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch):
    def fetch(*args):
        raise OSError("no network in tests")

    monkeypatch.setattr(hub, "fetch", fetch)


# The forms of a corpus.


def as_one_parquet(folder, texts):
    as_parquet(folder, texts, shards=1)
    for path in folder.iterdir():
        path.rename(folder / f"{path.name.split('-')[0]}.parquet")


def as_saved(folder, texts):
    from datasets import Dataset, DatasetDict

    splits = {split: Dataset.from_dict(rows_of(text)) for split, text in texts.items()}
    DatasetDict(splits).save_to_disk(str(folder), num_shards=dict.fromkeys(splits, 2))


WRITERS = [as_files, as_parquet, as_one_parquet, as_saved]


def real_test_split():
    return (DATA / "wikitext/test.txt").read_bytes().decode()


class TestWikiText:
    @BOTH
    def test_all_forms_give_the_same(self, tmp_path, name, texts):
        keys = set()
        for write in WRITERS:
            write(tmp_path / write.__name__, texts)
            data = load(name, tmp_path / write.__name__)
            assert text_of(data.val) == texts["validation"]
            assert text_of(data.test) == texts["test"]
            assert data.form == corpora.FORMS[name]
            keys |= {path.name for path in (tmp_path / write.__name__ / "tokens").iterdir()}
        assert len(keys) == 1

    @needs_data
    def test_all_forms_of_the_real_text(self, tmp_path):
        test = real_test_split()
        digests = set()
        for write in WRITERS:
            write(tmp_path / write.__name__, dict.fromkeys(V1, test))
            splits = corpora.find("wikitext103", tmp_path / write.__name__).splits
            digests |= {hash_of(split) for split in splits.values()}
        assert digests == {hashlib.sha256(test.encode()).hexdigest()}

    @needs_data
    def test_words_are_counted_as_published(self, tmp_path):
        as_files(tmp_path, dict.fromkeys(V1, real_test_split()))
        assert load("wikitext103", tmp_path).counts["test"].words == 245_569

    @BOTH
    @pytest.mark.parametrize(
        "pattern", ["wiki.{}.tokens", "wiki.{}.raw", "{}.txt", "wiki.{}.txt", "{}.tokens"]
    )
    def test_names_of_files(self, tmp_path, name, texts, pattern):
        as_files(tmp_path, texts, pattern)
        assert text_of(load(name, tmp_path).test) == texts["test"]

    @BOTH
    @pytest.mark.parametrize("write", [as_files, as_parquet])
    def test_subfolders(self, tmp_path, name, texts, write):
        form = corpora.FORMS[name]
        for i, place in enumerate((form, form[:-3], name, f"wikitext/{form}")):
            write(tmp_path / f"{i}" / place, texts)
            assert text_of(load(name, tmp_path / f"{i}").test) == texts["test"]

    def test_the_form_in_the_name_comes_first(self, tmp_path):
        as_files(tmp_path, V1, "wiki.{}.tokens")
        as_files(tmp_path, RAW, "wiki.{}.raw")
        assert text_of(load("wikitext103", tmp_path).test) == V1["test"]
        assert text_of(load("wikitext103-raw", tmp_path).test) == RAW["test"]

    @BOTH
    @pytest.mark.parametrize("write", WRITERS)
    def test_the_wrong_form_is_refused(self, tmp_path, name, texts, write):
        write(tmp_path, texts)
        other = name.removesuffix("-raw") if name.endswith("-raw") else f"{name}-raw"
        message = error_of(other, tmp_path)
        assert f"--dataset {other}:" in message
        assert message.endswith(f"--dataset {name}")

    def test_other_text_is_refused(self, tmp_path):
        as_files(tmp_path / "wikitext-103-v1", dict.fromkeys(V1, "Some text.\n"))
        assert "--dataset text" in error_of("wikitext103", tmp_path)

    @pytest.mark.parametrize("write", WRITERS)
    @pytest.mark.parametrize("split", V1)
    def test_a_missing_split_is_named(self, tmp_path, write, split):
        write(tmp_path, {s: text for s, text in V1.items() if s != split})
        assert f"not {ALIAS[split]} (" in error_of("wikitext103", tmp_path)

    def test_a_missing_shard(self, tmp_path):
        as_parquet(tmp_path, V1)
        (tmp_path / "train-00001-of-00002.parquet").unlink()
        message = error_of("wikitext103", tmp_path)
        assert "train-00000-of-00002.parquet" in message
        assert "2 files" in message

    @pytest.mark.parametrize("i", [0, 1])
    def test_a_damaged_file(self, tmp_path, i):
        as_parquet(tmp_path, V1)
        path = tmp_path / f"test-0000{i}-of-00002.parquet"
        path.write_bytes(path.read_bytes()[:-9])
        assert f"{path}: cannot be read" in error_of("wikitext103", tmp_path)

    def test_a_table_without_text(self, tmp_path):
        import pyarrow as pa
        from pyarrow import parquet

        for split in V1:
            parquet.write_table(pa.table({"words": ["a"]}), tmp_path / f"{split}.parquet")
        assert "train.parquet: cannot be read" in error_of("wikitext103", tmp_path)


def crlf(text):
    return text.replace("\n", "\r\n")


# A beginning other than WikiText's, and a word of the reason.
OTHERS = {
    "crlf": (crlf(V1["train"]), "carriage return"),
    "crlf at the title": (" \r" + V1["train"][1:], "carriage return"),
    "bom": ("\ufeff" + V1["train"], "byte order mark"),
    "no first line": (V1["train"].removeprefix(" \n"), '" = Title = "'),
    "no spaces": ("\n= Title =\n", '" = Title = "'),
    "other text": ("Some text.\n", "does not begin as WikiText"),
    "nothing": ("", "holds no text"),
    "utf-16": (b"\xff\xfe \0\n\0 \0=\0", "UTF-16"),
}


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture
def cached(tmp_path):
    """A data folder with the tokens of WikiText, and no text."""
    as_files(tmp_path / "text", V1)
    load("wikitext103", tmp_path / "text")
    (tmp_path / "text/tokens").rename(tmp_path / "tokens")
    load("wikitext103", tmp_path)
    return tmp_path


class TestNothingIsPassedOver:
    """What a user has put there is read, or refused by its name, in spite of a cache."""

    @pytest.mark.parametrize("pattern", ["wiki.{}.tokens", "wiki.{}.txt", "{}.tokens", "{}.txt"])
    @pytest.mark.parametrize("kind", OTHERS)
    def test_files_that_begin_otherwise(self, cached, kind, pattern):
        content, reason = OTHERS[kind]
        for alias in ALIAS.values():
            put(cached / pattern.format(alias), content)
        message = error_of("wikitext103", cached)
        assert message.startswith(f"{cached / pattern.format('train')}: ")
        assert reason in message

    @pytest.mark.parametrize("split", ALIAS.values())
    def test_each_split_is_looked_at(self, cached, split):
        as_files(cached, V1)
        path = put(cached / f"wiki.{split}.tokens", OTHERS["bom"][0])
        assert error_of("wikitext103", cached).startswith(f"{path}: begins with a byte order mark")

    def test_a_remedy_works(self, cached):
        as_files(cached, {split: crlf(text) for split, text in V1.items()}, "{}.txt")
        assert "--dataset text" in error_of("wikitext103", cached)
        assert text_of(load("text", cached).test) == crlf(V1["test"])
        as_files(cached / "wikitext-103-v1", V1)
        assert text_of(load("wikitext103", cached).test) == V1["test"]

    def test_the_files_of_dataset_text_may_lie_beside_it(self, cached):
        as_files(cached, dict.fromkeys(V1, "Some text.\n"), "{}.txt")
        for write in WRITERS[:2]:
            write(cached / "wikitext-103-v1", V1)
            assert text_of(load("wikitext103", cached).test) == V1["test"]
            shutil.rmtree(cached / "wikitext-103-v1")
        as_files(cached, V1)
        assert text_of(load("wikitext103", cached).test) == V1["test"]
        assert text_of(load("text", cached).test) == "Some text.\n"

    @pytest.mark.parametrize(
        "name",
        [
            "wiki.train.tokens.txt", "wiki.valid.tokens.zip", "wiki_test.tokens",
            "WIKI.TRAIN.TOKENS", "wikitext-103-v1.zip", "wikitext-103.tar.gz",
            "wikitext-103-v1/training/train.arrow", "wikitext-103-v1/wiki.train.tokens.gz",
            "wikitext103/wikitext-train.arrow", "wikitext/wikitext-103-v1/valid.csv",
        ],
    )  # fmt: skip
    def test_other_names(self, cached, name):
        put(cached / name, V1["train"])
        if name == "wikitext-103-v1/training/train.arrow":
            load("wikitext103", cached)  # too far from any name
            return
        message = error_of("wikitext103", cached)
        assert message.startswith(f"{cached / name}: ")
        assert "wiki.train.tokens" in message

    def test_other_names_beside_the_text_do_no_harm(self, cached):
        as_files(cached / "wikitext-103-v1", V1)
        for name in ("wikitext-103-v1.zip", "wiki.train.tokens.bak", "wikitext-103-v1/train.md5"):
            put(cached / name, "x")
        assert text_of(load("wikitext103", cached).test) == V1["test"]

    @pytest.mark.parametrize("name", ["wiki.valid.tokens", "wikitext-103-v1/valid.txt"])
    @pytest.mark.parametrize("kind", ["folder", "link to nowhere"])
    def test_no_file_in_its_place(self, cached, name, kind):
        as_files((cached / name).parent, V1, name.rpartition("/")[2].replace("valid", "{}"))
        (cached / name).unlink()
        (cached / name).mkdir() if kind == "folder" else (cached / name).symlink_to("nowhere")
        assert error_of("wikitext103", cached).startswith(f"{cached / name}: cannot be read (")

    @pytest.mark.parametrize("kind", ["file", "link to nowhere"])
    def test_no_folder_in_its_place(self, cached, kind):
        path = cached / "wikitext-103-v1"
        path.write_text("x") if kind == "file" else path.symlink_to("nowhere")
        assert f"'{path}'" in error_of("wikitext103", cached)

    @pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may read everything")
    def test_a_file_that_may_not_be_read(self, cached):
        as_files(cached, V1)
        load("wikitext103", cached)
        (cached / "wiki.test.tokens").chmod(0)
        assert "wiki.test.tokens: cannot be read" in error_of("wikitext103", cached)

    def test_splits_in_different_forms(self, tmp_path):
        for place in (tmp_path / "a", tmp_path / "b/wikitext-103-v1"):
            as_parquet(place, {"train": V1["train"]})
            as_files(place, {"validation": V1["validation"]}, "wiki.{}.txt")
            as_files(place, {"test": V1["test"]})
        for folder in (tmp_path / "a", tmp_path / "b"):
            data = load("wikitext103", folder)
            assert text_of(data.val) == V1["validation"]
            assert text_of(data.test) == V1["test"]

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ("wiki.test.tokens", "test.parquet"),
            ("wikitext-103-v1/test.txt", "wikitext-103-v1/test.parquet"),
            ("wikitext-103-v1/wiki.valid.tokens", "wikitext-103-v1/wiki.val.tokens"),
        ],
    )
    def test_a_split_that_is_there_twice(self, cached, first, second):
        for name in (first, second):
            put(cached / name, V1["test"])
        message = error_of("wikitext103", cached)
        assert str(cached / first) in message
        assert str(cached / second) in message

    def test_the_corpus_that_is_there_twice(self, cached):
        as_files(cached, V1)
        as_files(cached / "wikitext-103-v1", V1)
        message = error_of("wikitext103", cached)
        assert f"{cached / 'wikitext-103-v1'}: holds wikitext103, as {cached} does" in message

    @pytest.mark.parametrize("name", ["test.txt.gz", "Test.txt", "TEST.TXT", "test.txt.zip"])
    def test_dataset_text_too(self, tmp_path, name):
        as_files(tmp_path, V1, "{}.txt")
        load("text", tmp_path)
        (tmp_path / "test.txt").rename(tmp_path / name)
        assert error_of("text", tmp_path).startswith(f"{tmp_path / name}: ")
        for alias in ("train", "valid"):  # with nothing else the cache would be enough
            (tmp_path / f"{alias}.txt").unlink()
        assert error_of("text", tmp_path).startswith(f"{tmp_path / name}: ")

    def test_two_validation_files_of_dataset_text(self, tmp_path):
        as_files(tmp_path, V1, "{}.txt")
        put(tmp_path / "val.txt", "other\n")
        assert "val.txt" in error_of("text", tmp_path)


def hash_of(split):
    digest = hashlib.sha256()
    for block in split.blocks():
        digest.update(block)
    return digest.hexdigest()
