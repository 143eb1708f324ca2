"""WikiText-103 is one corpus in all forms that it may be kept in."""

import hashlib

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

from pipelines.text import corpora, hub


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
        (other,) = set(corpora.FORMS) - {name}
        message = error_of(other, tmp_path)
        assert f"--dataset {other}:" in message
        assert message.endswith(f"--dataset {name}")

    def test_other_text_is_refused(self, tmp_path):
        as_files(tmp_path / "wikitext-103-v1", dict.fromkeys(V1, "Some text.\n"))
        assert "--dataset text" in error_of("wikitext103", tmp_path)

    def test_the_files_of_dataset_text_are_not_taken_for_it(self, tmp_path):
        as_files(tmp_path, dict.fromkeys(V1, "Some text.\n"), "{}.txt")
        assert "nothing in" in error_of("wikitext103", tmp_path)

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


def hash_of(split):
    digest = hashlib.sha256()
    for block in split.blocks():
        digest.update(block)
    return digest.hexdigest()
