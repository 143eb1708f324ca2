"""PTB, enwik8, text8 and WikiText-2: their files, their splits, and what is no copy of them."""

import pytest
from helpers.corpora import V1, as_files, as_parquet, error_of, load, text_of

from pipelines.text import standard_sets


@pytest.fixture
def small(monkeypatch):
    """Of a hundred bytes in place of a hundred million."""
    monkeypatch.setattr(standard_sets, "SIZES", {"train": 90, "val": 5, "test": 5})
    return "".join("abcdefghij"[i % 7] for i in range(100))


@pytest.mark.parametrize("name", ["enwik8", "text8"])
@pytest.mark.parametrize("folder", ["", "{}"])
def test_the_last_ten_percent_are_validation_and_test(tmp_path, small, name, folder):
    path = tmp_path / folder.format(name) / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(small)
    data = load(name, tmp_path)
    assert (text_of(data.val), text_of(data.test)) == (small[90:95], small[95:])
    assert [data.counts[split].bytes for split in ("train", "val", "test")] == [90, 5, 5]


def test_a_file_of_another_size_and_an_archive_are_refused(tmp_path, small):
    (tmp_path / "text8.zip").touch()
    assert "text8.zip: --dataset text8 reads the file in it; unpack it" in error_of(
        "text8", tmp_path
    )
    (tmp_path / "enwik8").write_text(small[1:])
    assert "has 99 bytes, and enwik8 has 100" in error_of("enwik8", tmp_path)


@pytest.mark.parametrize(("name", "part"), [("ptb", "simple-examples"), ("text8", "mattmahoney")])
def test_what_is_missing_is_named_with_its_source(tmp_path, name, part):
    assert part in error_of(name, tmp_path)


@pytest.mark.parametrize("folder", ["", "ptb", "simple-examples/data"])
def test_ptb(tmp_path, folder):
    place = tmp_path / folder
    place.mkdir(parents=True, exist_ok=True)
    for split in ("train", "valid"):
        (place / f"ptb.{split}.txt").write_text(f" the {split} <unk> n \n")
    assert "ptb.test.txt: no such file" in error_of("ptb", tmp_path)
    (place / "ptb.test.txt").write_text(" the test <unk> n \n")
    data = load("ptb", tmp_path)
    assert text_of(data.test) == " the test <unk> n \n"
    assert data.counts["test"].words == 5  # the line end is one, as in published results


class TestWikiText2:
    """The names of its files are WikiText-103's: its folder tells them apart."""

    def test_in_its_folder(self, tmp_path):
        as_files(tmp_path / "wikitext-2-v1", V1)
        assert text_of(load("wikitext2", tmp_path).val) == V1["validation"]
        assert text_of(load("wikitext2", tmp_path / "wikitext-2-v1").val) == V1["validation"]
        assert "take --dataset wikitext2" in self.raw_error(tmp_path)

    def raw_error(self, folder):
        as_parquet(folder / "wikitext-2-raw-v1", V1)
        return error_of("wikitext2-raw", folder)

    def test_elsewhere_they_are_wikitext103s(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        as_files(tmp_path, V1)
        assert text_of(load("wikitext103", tmp_path).val) == V1["validation"]
        assert "nothing in" in error_of("wikitext2", tmp_path)
