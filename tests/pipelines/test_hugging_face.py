"""Images of Hugging Face's `datasets` are read from every form in which they lie on disk."""

import io
import shutil
import time

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from helpers.image_folders import epoch_of, pixels_of, write_folder, write_image
from helpers.image_sources import CLASSES, error_of, labelled, load, save, table, write_parquet
from PIL import Image
from torchvision.transforms import functional

import vision_main
from utils import UserError

THREE = {"train": "train", "validation": "test", "test": "val"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep what `datasets` makes of Parquet files in the test's own folder; without its bars."""
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    layout = (("train", 6), ("test", 3), ("val", 4))
    return write_folder(tmp_path_factory.mktemp("images"), layout)


@pytest.fixture
def only_two(folder, tmp_path):
    """The folder without val/, which a folder's own reading would use."""
    shutil.copytree(folder, tmp_path / "two")
    shutil.rmtree(tmp_path / "two/val")
    return tmp_path / "two"


def assert_split(loader, data, folder):
    images, targets = epoch_of(loader)
    assert targets.tolist() == [number for _, number in labelled(folder.parent, folder.name)]
    for ours, pixels in zip(images, pixels_of(folder), strict=True):
        expected = functional.normalize(functional.to_tensor(pixels), data.mean, data.std)
        torch.testing.assert_close(ours, expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("write", [save, write_parquet])
class TestForms:
    def test_pixels_and_classes_are_those_of_the_images(self, folder, tmp_path, write):
        write(folder, tmp_path / "mine", THREE)
        data = load("hf/mine", tmp_path)
        assert data.class_names == CLASSES
        assert_split(data.test, data, folder / "val")
        assert_split(data.val, data, folder / "test")
        assert data.train.num_samples == 18
        assert f"from {tmp_path / 'mine'} (decoded)" in data.description

    def test_and_those_that_the_library_reads(self, folder, tmp_path, write):
        write(folder, tmp_path / "mine", THREE)
        saved = (tmp_path / "mine/dataset_dict.json").exists()
        read = datasets.load_from_disk if saved else datasets.load_dataset
        theirs = read(str(tmp_path / "mine"))["test"]
        data = load("hf/mine", tmp_path)
        for ours, target, row in zip(*epoch_of(data.test), theirs, strict=True):
            image = functional.to_tensor(row["image"].convert("RGB"))
            expected = functional.normalize(image, data.mean, data.std)
            torch.testing.assert_close(ours, expected, rtol=0, atol=5e-6)
            assert target == row["label"]

    def test_without_a_test_split_validation_is_tested_on(self, folder, tmp_path, write):
        write(folder, tmp_path / "mine", {"train": "train", "validation": "val"})
        data = load("hf/mine", tmp_path)
        assert data.val is None
        assert_split(data.test, data, folder / "val")

    def test_kept_in_the_cache(self, folder, tmp_path, write):
        write(folder, tmp_path / "mine", THREE)
        first, second = load("hf/mine", tmp_path), load("hf/mine", tmp_path)
        assert "(from its cache)" in second.description
        assert first.digest == second.digest
        assert torch.equal(epoch_of(first.train)[0], epoch_of(second.train)[0])


def test_a_folder_is_found_in_data_path_then_from_the_current_folder(folder, tmp_path, monkeypatch):
    save(folder, tmp_path / "here/mine", THREE)
    monkeypatch.chdir(tmp_path / "here")
    assert load("hf/mine", tmp_path / "elsewhere").train.num_samples == 18
    save(folder, tmp_path / "elsewhere/mine", {"train": "test", "test": "val"})
    assert load("hf/mine", tmp_path / "elsewhere").train.num_samples == 9
    assert load(f"hf/{tmp_path}/here/mine", tmp_path / "elsewhere").train.num_samples == 18


class TestSplits:
    def test_by_name_and_in_parts(self, folder, tmp_path):
        save(folder, tmp_path / "mine", {"all": "train", "extra": "val", "train": "test"})
        data = load(
            "hf/mine", tmp_path, splits={"train": "all[:80%]", "test": "all[80%:]", "val": "extra"}
        )
        assert (data.train.num_samples, data.test.num_samples) == (14, 4)
        assert_split(data.val, data, folder / "val")
        whole = load("hf/mine", tmp_path, splits={"train": "train", "test": "all"})
        raw = [epoch_of(x.test)[0] * torch.tensor(x.std).view(3, 1, 1)
               + torch.tensor(x.mean).view(3, 1, 1) for x in (data, whole)]  # fmt: skip
        torch.testing.assert_close(raw[0], raw[1][14:], rtol=0, atol=1e-5)

    def test_a_validation_split_that_is_not_wanted(self, folder, tmp_path):
        save(folder, tmp_path / "mine", THREE)
        data = load("hf/mine", tmp_path, splits={"val": None}, val_fraction=0.5)
        assert (data.train.num_samples, data.val.num_samples) == (9, 9)
        assert "has a validation split of its own" in error_of(
            "hf/mine", tmp_path, val_fraction=0.5
        )

    def test_one_without_labels_is_passed_over(self, folder, tmp_path, capsys):
        made = {"train": table(folder, "train"), "validation": table(folder, "val")}
        hidden = table(folder, "test").remove_columns("label").add_column("label", [-1] * 9)
        made["test"] = hidden.cast_column("label", made["train"].features["label"])
        datasets.DatasetDict(made).save_to_disk(tmp_path / "mine")
        data = load("hf/mine", tmp_path)
        assert data.val is None
        assert_split(data.test, data, folder / "val")
        assert "passed over splits without labels (test)" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("splits", "says"),
        [
            ({"test": "tst"}, "--splits tst"),
            ({"test": "train[:0]"}, "has no image"),
            ({"tests": "train"}, "did you mean test?"),
            ({"train": None}, "train cannot be left out"),
        ],
    )
    def test_mistakes(self, folder, tmp_path, splits, says):
        save(folder, tmp_path / "mine")
        assert says in error_of("hf/mine", tmp_path, splits=splits)

    def test_no_test_split(self, folder, tmp_path):
        save(folder, tmp_path / "mine", {"train": "train"})
        message = error_of("hf/mine", tmp_path)
        assert "no test split with labels among train (18)" in message
        assert "--splits" in message


class TestColumns:
    def test_named_ones(self, folder, tmp_path):
        count = 18
        more = {"other": [number % 2 for number in range(count)]}
        made = table(folder, "train", **more)
        made = made.cast_column("other", datasets.ClassLabel(names=["even", "odd"]))
        masks = [
            {"bytes": path.read_bytes(), "path": None} for path, _ in labelled(folder, "train")
        ]
        made = made.add_column("mask", masks).cast_column("mask", datasets.Image())
        datasets.DatasetDict({"train": made, "test": made}).save_to_disk(tmp_path / "mine")
        assert "several columns of images (image, mask); --image_column" in error_of(
            "hf/mine", tmp_path
        )
        assert "several columns of classes (label, other); --label_column" in error_of(
            "hf/mine", tmp_path, image_column="mask"
        )
        data = load("hf/mine", tmp_path, image_column="mask", label_column="other")
        assert data.class_names == ["even", "odd"]
        assert epoch_of(data.test)[1].tolist() == more["other"]
        assert "no such column; there are image, label, other, mask" in error_of(
            "hf/mine", tmp_path, image_column="picture"
        )

    def test_names_as_labels(self, folder, tmp_path):
        def named(split):
            plain = table(folder, split, names=None)
            names = [("zebra", "ant", "mole")[number] for number in plain["label"]]
            return plain.remove_columns("label").add_column("label", names)

        made = {"train": named("train"), "test": named("test")}
        datasets.DatasetDict(made).save_to_disk(tmp_path / "mine")
        data = load("hf/mine", tmp_path)
        assert data.class_names == ["ant", "mole", "zebra"]
        order = [("zebra", "ant", "mole")[n] for _, n in labelled(folder, "test")]
        assert [data.class_names[n] for n in epoch_of(data.test)[1]] == order

    def test_numbers_without_names(self, folder, tmp_path, capsys):
        save(folder, tmp_path / "mine", names=None)
        assert load("hf/mine", tmp_path).class_names == ["0", "1", "2"]
        assert not capsys.readouterr().err

    def test_plain_parquet_files_of_bytes(self, folder, tmp_path):
        for split in ("train", "test"):
            pairs = labelled(folder, split)
            made = pa.table({"image": [path.read_bytes() for path, _ in pairs],
                             "label": [number for _, number in pairs]})  # fmt: skip
            (tmp_path / "mine").mkdir(exist_ok=True)
            pyarrow.parquet.write_table(made, tmp_path / f"mine/{split}.parquet")
        data = load("hf/mine", tmp_path)
        assert_split(data.test, data, folder / "test")

    def test_rows_that_name_files(self, folder, tmp_path):
        save(folder, tmp_path / "mine", encode=str)
        data = load("hf/mine", tmp_path)
        assert_split(data.test, data, folder / "test")

    def test_gray_ones_become_rgb(self, tmp_path):
        for split, count in (("train", 6), ("test", 3)):
            for number, name in enumerate(CLASSES):
                for i in range(count):
                    write_image(tmp_path / f"gray/{split}/{name}/{i}.png", seed=10 * number + i,
                                mode="L")  # fmt: skip
        save(tmp_path / "gray", tmp_path / "mine")
        data = load("hf/mine", tmp_path)
        assert_split(data.test, data, tmp_path / "gray/test")

    def test_rows_chosen_out_of_a_file(self, folder, tmp_path):
        made = {split: table(folder, split) for split in ("train", "test")}
        made["test"] = made["test"].select([8, 0, 4])
        datasets.DatasetDict(made).save_to_disk(tmp_path / "mine")
        data = load("hf/mine", tmp_path)
        assert epoch_of(data.test)[1].tolist() == [2, 0, 1]

    @pytest.mark.parametrize(
        ("labels", "says"),
        [
            ([0, 1, None] * 3, "row 2 has no label in the column label"),
            ([0, 1, 3] * 3, "image 2 has label 3, which is none of 0..2"),
            ([0, -1, 1] * 3, "image 1 has label -1"),
            ([0.0, 1.0, 2.0] * 3, "holds double, where a class is a number or a name"),
            ([[0], [1], [2]] * 3, "where a class is a number or a name"),
        ],
    )
    def test_labels_that_are_none(self, folder, tmp_path, labels, says):
        made = {split: table(folder, split, names=None) for split in ("train", "test")}
        made["test"] = made["test"].remove_columns("label").add_column("label", labels)
        datasets.DatasetDict(made).save_to_disk(tmp_path / "mine")
        message = error_of("hf/mine", tmp_path)
        assert says in message
        assert "--label_column" in message

    def test_no_columns_that_fit(self, tmp_path):
        made = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
        datasets.DatasetDict({"train": made, "test": made}).save_to_disk(tmp_path / "mine")
        assert "no column of images; --image_column names one of text, label" in error_of(
            "hf/mine", tmp_path
        )
        assert "hf/mine" in error_of("hf/mine", tmp_path, image_column="label")


class TestImageNet:
    def test_parquet_files_are_found_below_data_path(self, folder, only_two, tmp_path):
        """As the hub's imagenet-1k has them: a validation split, and a test split unlabelled."""
        write_parquet(folder, tmp_path / "in", {"train": "train", "validation": "test"})
        hidden = table(folder, "val").remove_columns("label").add_column("label", [-1] * 12)
        features = table(folder, "train").features
        hidden.cast(features).to_parquet(tmp_path / "in/data/test-00000-of-00001.parquet")
        data = load("imagenet", tmp_path / "in", resize=16, num_workers=0)
        theirs = load("imagenet", only_two, resize=16, num_workers=0)
        assert "(streamed)" in data.description
        assert (data.mean, data.class_names) == (theirs.mean, theirs.class_names)
        for split in ("train", "test"):
            ours, folders = (epoch_of(getattr(each, split), 3) for each in (data, theirs))
            assert torch.equal(ours[0], folders[0])
            assert torch.equal(ours[1], folders[1])

    def test_folders_stay_what_they_were(self, folder, tmp_path):
        shutil.copytree(folder, tmp_path / "both")
        (tmp_path / "both/meta.parquet").write_bytes(b"of something else")
        data = load("imagenet", tmp_path / "both", resize=16, num_workers=0)
        assert data.train.num_samples == 18


class TestBroken:
    def broken(self, folder, tmp_path):
        def encode(path):
            is_third = path.name == "2.png" and path.parent.name == "bee"
            return {"bytes": b"no image" if is_third else path.read_bytes(), "path": path.name}

        return save(folder, tmp_path / "mine", encode=encode)

    @pytest.mark.parametrize("options", [{}, {"crop": "imagenet", "resize": 8, "num_workers": 0}])
    def test_an_image_is_named(self, folder, tmp_path, options):
        self.broken(folder, tmp_path)
        with pytest.raises(UserError) as caught:
            epoch_of(load("hf/mine", tmp_path, **options).train)
        assert "mine, train, row 8: cannot be read as an image" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_or_left_out(self, folder, tmp_path):
        self.broken(folder, tmp_path)
        data = load("hf/mine", tmp_path, skip_broken=True)
        assert data.class_sizes == [6, 5, 6]
        assert [name.partition("mine, ")[2] for name in data.left_out] == [
            "train, image of row 8", "test, image of row 5",
        ]  # fmt: skip

    def test_a_damaged_parquet_file(self, folder, tmp_path):
        write_parquet(folder, tmp_path / "mine")
        path = tmp_path / "mine/data/train-00001-of-00002.parquet"
        path.write_bytes(path.read_bytes()[:-100])
        message = error_of("hf/mine", tmp_path)
        assert message.startswith("--dataset hf/mine: cannot be loaded")
        assert "download it again" in message

    def test_a_missing_one(self, folder, tmp_path):
        write_parquet(folder, tmp_path / "mine")
        (tmp_path / "mine/data/train-00001-of-00002.parquet").unlink()
        message = error_of("hf/mine", tmp_path)
        assert "train-*.parquet: 2 files belong together, of which 1 are there" in message

    def test_a_saved_set_of_which_a_file_is_gone(self, folder, tmp_path):
        save(folder, tmp_path / "mine")
        next((tmp_path / "mine/train").glob("*.arrow")).unlink()
        assert error_of("hf/mine", tmp_path).startswith("--dataset hf/mine: cannot be loaded")


class TestMistakes:
    def test_no_such_folder(self, tmp_path, mistake_in):
        line = mistake_in(vision_main, "--dataset", f"hf/{tmp_path}/none", "--output_dir",
                          tmp_path / "run", "--model", "resnet20")  # fmt: skip
        assert "no folder with a saved data set (dataset_dict.json) or Parquet files" in line

    def test_offline(self, tmp_path, monkeypatch):
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        start = time.monotonic()
        message = error_of("hf/nobody/nothing:some", tmp_path)
        assert time.monotonic() - start < 5
        assert "--dataset hf/nobody/nothing:some: there is no such folder, and it is not" in message
        assert "hf download --repo-type dataset nobody/nothing --local-dir FOLDER" in message
        assert not datasets.config.HF_HUB_OFFLINE

    def test_what_was_prepared_from_the_hub_is_read_without_it(self, folder, tmp_path, monkeypatch):
        """Twice: downloaded by the library, which stands in here, and found in its cache."""
        from huggingface_hub import constants

        write_parquet(folder, tmp_path / "copy", THREE)
        monkeypatch.setattr(constants, "ENDPOINT", (tmp_path / "hub").as_uri())
        (tmp_path / "hub/api/datasets/any").mkdir(parents=True)
        (tmp_path / "hub/api/datasets/any/thing").write_text("{}")
        real, asked = datasets.load_dataset, []

        def load_dataset(name, config=None, **options):
            asked.append((name, config, datasets.config.HF_HUB_OFFLINE))
            if len(asked) == 1:
                raise ConnectionError("not in the cache")
            return real(str(tmp_path / "copy"), config, **options)

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        data = load("hf/any/thing", tmp_path)
        assert asked == [("any/thing", None, True), ("any/thing", None, False)]
        assert "from Hugging Face's any/thing (decoded)" in data.description
        assert_split(data.test, data, folder / "val")
        again = load("hf/any/thing", tmp_path)
        assert asked[2:] == [("any/thing", None, True)]
        assert "(from its cache)" in again.description

    def test_sizes_that_differ(self, folder, tmp_path):
        made = {"train": table(folder, "train"), "test": table(folder, "test")}
        file = io.BytesIO()
        Image.fromarray(np.zeros((5, 12, 3), np.uint8)).save(file, "PNG")
        odd = datasets.Dataset.from_dict(
            {"image": [{"bytes": file.getvalue(), "path": None}], "label": [0]}
        ).cast(made["train"].features)
        made["train"] = datasets.concatenate_datasets([made["train"], odd])
        datasets.DatasetDict(made).save_to_disk(tmp_path / "mine")
        message = error_of("hf/mine", tmp_path)
        assert (
            "train, row 18: 12x5 pixels, where the first image has 12x12; give --resize" in message
        )
        assert load("hf/mine", tmp_path, resize=8).train.num_samples == 19
