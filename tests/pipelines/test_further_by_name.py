"""Test sets of other libraries beside the test set: their one split, against direct computation."""

import json
import shutil
import sys

import datasets
import numpy as np
import pytest
import torch
import torchvision
from helpers import torchvision_files
from helpers.further_sets import COUNTED, EXTRA, write_classes, write_corrupted
from helpers.image_folders import write_folder
from helpers.image_sources import CLASSES, labelled, save, table, write_parquet, write_shards
from PIL import Image
from torch import nn

import vision_main
from cli.further_tests import asked_for, with_split
from cli.vision import VisionDataConfig
from pipelines import hub
from pipelines.data import ImageData
from pipelines.images import class_maps, further, torchvision_sets
from tasks.classification import Classification
from training import further_tests as at_the_end
from training.evaluation import do_nothing
from training.objective import Objective
from utils import UserError

CPU = torch.device("cpu")
KNOWN = ["cow", "dog", "ant", "bee"]  # what the network was trained on


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    layout = (("train", 6), ("test", 3), ("val", 4))
    return write_folder(tmp_path_factory.mktemp("images"), layout)


class Linear(nn.Module):
    def __init__(self, classes, size=12):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.matrix = nn.Parameter(torch.randn(classes, 3 * size * size, generator=generator))

    def forward(self, images):
        return images.flatten(1) @ self.matrix.T


def further_set(kind, path, names=KNOWN, size=12, dataset="imagefolder", **options):
    config = VisionDataConfig(
        dataset=dataset, data_path=str(path), batch_size=7, also_test=kind, **options
    )
    nothing = {"train": None, "val": None, "test": None, "digest": "", "class_sizes": []}
    data = ImageData(
        name=dataset, num_classes=len(names), image_size=size, class_names=names, mean=(0.5,) * 3,
        std=(0.25,) * 3, left_out=[], description="", **nothing,
    )  # fmt: skip
    (test,) = further.further_tests(config, data, num_workers=0, progress=False).values()
    return test


def results(test, classes=4, size=12):
    objective = Objective(Linear(classes, size), Classification("CrossEntropy"), CPU)
    return at_the_end.tested(objective, test, "x", do_nothing)[1]


def refusal(*args, **options):
    with pytest.raises(UserError) as caught:
        further_set(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("--also_test ")
    return message


def by_hand(pixels, labels, classes=4):
    """Loss, and accuracy in percent, of images (N, size, size, 3)."""
    images = ((torch.from_numpy(pixels) / 255 - 0.5) / 0.25).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = Linear(classes, pixels.shape[1])(images)
    loss = nn.functional.cross_entropy(logits, torch.tensor(labels)).item()
    return {"loss": loss, "top1": 100 * np.mean(logits.argmax(1).numpy() == labels).item()}


def of_split(folder, split, part=slice(None), names=KNOWN):
    """The results on a folder of a split, read by Pillow."""
    pairs = labelled(folder, split)[part]
    pixels = np.stack([np.array(Image.open(path).convert("RGB")) for path, _ in pairs])
    return by_hand(pixels, [names.index(CLASSES[number]) for _, number in pairs], len(names))


def assert_same(found, wanted, count):
    assert found["count"] == count
    assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-4)
    assert found["top1"] == pytest.approx(wanted["top1"], abs=1e-3)


# --- hf/ ---


@pytest.mark.parametrize("write", [save, write_parquet])
@pytest.mark.parametrize("name", ["test", "train", "validation", "shifted"])
def test_a_set_of_hugging_face_needs_one_split(folder, tmp_path, write, name):
    write(folder, tmp_path / "mine", {name: "val"})
    assert_same(results(further_set("hf/mine", tmp_path)), of_split(folder, "val"), 12)


@pytest.mark.parametrize(
    ("splits", "tested"),
    [
        ({"train": "train", "validation": "val", "test": "test"}, "test"),
        ({"train": "train", "dev": "val", "shifted": "test"}, "val"),
    ],
)
def test_of_several_splits_it_is_test_else_validation(folder, tmp_path, splits, tested):
    save(folder, tmp_path / "mine", splits)
    count = len(labelled(folder, tested))
    assert_same(results(further_set("hf/mine", tmp_path)), of_split(folder, tested), count)


@pytest.mark.parametrize(
    ("name", "part"), [("odd", slice(None)), ("odd[:4]", slice(4)), ("odd[50%:]", slice(6, None))]
)
def test_another_split_is_named(folder, tmp_path, name, part):
    save(folder, tmp_path / "mine", {"odd": "val", "other": "test"})
    assert "among odd (12), other (9); name one: hf/mine::SPLIT" in refusal("hf/mine", tmp_path)
    assert "there are odd, other" in refusal("hf/mine::od", tmp_path)
    found = results(further_set(f"hf/mine::{name}", tmp_path))
    assert_same(found, of_split(folder, "val", part), len(range(12)[part]))


def test_a_split_without_labels_is_not_the_one(folder, tmp_path):
    made = {"train": table(folder, "train"), "test": table(folder, "test").remove_columns("label")}
    datasets.DatasetDict(made).save_to_disk(tmp_path / "mine")
    assert "no test or validation split with labels" in refusal("hf/mine", tmp_path)


@pytest.fixture
def two_columns(folder, tmp_path):
    """A set with classes at two levels, and their names as texts, without a column "label"."""
    whole = table(folder, "test")
    numbers, coarse = whole["label"], datasets.ClassLabel(names=["flies", "walks"])
    whole = whole.rename_column("label", "fine_label")
    whole = whole.add_column("coarse_label", [int(number != 1) for number in numbers])
    whole = whole.cast_column("coarse_label", coarse)
    datasets.DatasetDict({"train": whole}).save_to_disk(tmp_path / "two")
    texts = whole.remove_columns(["fine_label", "coarse_label"])
    texts = texts.add_column("word", [["emmet", "apis", "neat"][number] for number in numbers])
    texts = texts.add_column("name", [CLASSES[number] for number in numbers])
    datasets.DatasetDict({"test": texts}).save_to_disk(tmp_path / "texts")
    return tmp_path


@pytest.mark.parametrize("name", ["two", "texts"])
def test_of_several_columns_it_is_that_of_the_runs_classes(folder, two_columns, name):
    assert_same(results(further_set(f"hf/{name}", two_columns)), of_split(folder, "test"), 9)


def test_the_runs_own_column_is_taken_where_the_set_has_it(folder, two_columns):
    coarse = ["walks", "flies"]
    own = {"names": coarse, "dataset": "hf/x", "label_column": "coarse_label"}
    found = results(further_set("hf/two", two_columns, **own), 2)
    pairs = labelled(folder, "test")
    pixels = np.stack([np.array(Image.open(path)) for path, _ in pairs])
    assert_same(found, by_hand(pixels, [int(number == 1) for _, number in pairs], 2), 9)
    other = {"dataset": "hf/x", "label_column": "fine"}
    assert_same(results(further_set("hf/two", two_columns, **other)), of_split(folder, "test"), 9)


def test_classes_that_are_others_are_refused(folder, two_columns):
    message = refusal("hf/two", two_columns, names=["a", "b", "c"])
    assert "several columns of classes (fine_label, coarse_label); --label_column names" in message
    save(folder, two_columns / "mine", {"test": "test"})
    message = refusal("hf/mine", two_columns, names=["ant", "bee", "dog"])
    assert "cow is none of these" in message


def test_columns_may_be_named_for_further_sets_alone():
    VisionDataConfig(dataset="cifar100", also_test="hf/a/b", label_column="fine_label").check()
    for also in (None, "digits"):
        with pytest.raises(UserError, match="--label_column is for"):
            VisionDataConfig(dataset="cifar100", also_test=also, label_column="fine_label").check()


def test_numbers_without_names_are_the_runs_own_if_they_are_as_many(folder, tmp_path):
    save(folder, tmp_path / "mine", {"test": "test"}, names=None)
    wanted = of_split(folder, "test", names=CLASSES)
    for names in (["x", "y", "z"], ["0", "1", "2"]):
        assert_same(results(further_set("hf/mine", tmp_path, names), 3), wanted, 9)
    message = refusal("hf/mine", tmp_path, ["w", "x", "y", "z"])
    assert "its 3 classes (0, ...) are not among the 4" in message
    save(folder, tmp_path / "named", {"test": "test"})
    found = results(further_set("hf/named", tmp_path, ["0", "1", "2"]), 3)
    assert_same(found, wanted, 9)


def test_what_cannot_be_had_is_one_line(folder, tmp_path, monkeypatch):
    def probe(*_):
        raise OSError("no network")

    monkeypatch.setattr(hub, "probe", probe)
    message = refusal("hf/no/such:v2:test", tmp_path)
    assert "not available from Hugging Face (no network); download it" in message
    save(folder, tmp_path / "mine", {"test": "test"})
    (arrow,) = (tmp_path / "mine/test").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:50])
    refusal("hf/mine", tmp_path)


def test_a_broken_image_ends_before_the_training(folder, tmp_path):
    def encode(path):
        return {"bytes": b"none" if path.stem == "1" else path.read_bytes(), "path": path.name}

    save(folder, tmp_path / "mine", {"train": "test"}, encode=encode)
    with pytest.raises(UserError, match=r"train, row 1\b.*cannot be read as an image"):
        further_set("hf/mine", tmp_path)


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("hf/a/b", ("hf/a/b", "")),
        ("hf/a/b:c", ("hf/a/b:c", "")),
        ("hf/a/b:c:test[:9]", ("hf/a/b:c", "test[:9]")),
        ("hf/a/b::odd", ("hf/a/b", "odd")),
        ("wds/a/b:c:d", ("wds/a/b:c:d", "")),
    ],
)
def test_names_of_splits(kind, parts):
    assert with_split(kind) == parts


# --- wds/ ---


@pytest.mark.parametrize(
    ("splits", "pattern", "tested"),
    [
        ({"test": "val"}, "wds/s/test-{000..002}.tar", "val"),
        ({"shift": "val"}, "wds/s/shift-*.tar", "val"),
        ({"shift": "val"}, "wds/s", "val"),
        ({"train": "val"}, "wds/s/train-{000..002}.tar", "val"),
        ({"train": "train", "test": "test", "val": "val"}, "wds/s/train-{000..002}.tar", "test"),
        ({"val": "test"}, "wds/s/train-{000..002}.tar", "test"),
        ({"train": "train", "val": "val"}, "wds/s", "val"),
    ],
)
def test_shards_need_one_split(folder, tmp_path, splits, pattern, tested):
    write_shards(folder, tmp_path / "s", splits)
    (tmp_path / "s/classes.txt").write_text("\n".join(CLASSES))
    count = len(labelled(folder, tested))
    assert_same(results(further_set(pattern, tmp_path)), of_split(folder, tested), count)


def test_a_pattern_of_shards_may_have_commas(folder, tmp_path):
    write_shards(folder, tmp_path / "s", {"a": "val", "b": "test"}, shards=1)
    (tmp_path / "s/classes.txt").write_text("\n".join(CLASSES))
    assert len(asked_for("digits,wds/s/{a,b}-000.tar,cifar10-c")) == 3
    assert results(further_set("wds/s/{a,b}-000.tar", tmp_path))["count"] == 21


@pytest.mark.parametrize("column", ["kind", "other"])
def test_keys_of_shards_are_the_runs_where_they_are_there(folder, tmp_path, column):
    def members(path, number):
        content = {"label": CLASSES[number], "kind": CLASSES[number]}
        return {"png": path.read_bytes(), "json": json.dumps(content).encode()}

    write_shards(folder, tmp_path / "s", {"test": "test"}, members=members)
    own = {"dataset": "wds/x", "label_column": column}
    assert_same(results(further_set("wds/s", tmp_path, **own)), of_split(folder, "test"), 9)


def test_mistakes_in_shards_are_one_line(folder, tmp_path):
    assert "no such file" in refusal("wds/s/test-{0..2}.tar", tmp_path)
    (tmp_path / "s").mkdir()
    assert "no shards (*.tar) in it" in refusal("wds/s", tmp_path)
    write_shards(folder, tmp_path / "s", {"train": "train", "odd": "test"})
    assert "give the pattern of those to test on" in refusal("wds/s", tmp_path)
    (tmp_path / "s/odd-001.tar").write_bytes(b"no tar file")
    assert "odd-001.tar: cannot be read as a tar file" in refusal("wds/s/odd-*.tar", tmp_path)


# --- imagenet:PATH, torchvision/NAME ---


@pytest.mark.parametrize("layout", ["val", "test", "ILSVRC/val", "."])
def test_imagenets_folder_needs_one_split(folder, tmp_path, layout):
    shutil.copytree(folder / "val", tmp_path / "sets" / layout, dirs_exist_ok=True)
    test = further_set(f"imagenet:{tmp_path}/sets", tmp_path, crop="middle")
    assert_same(results(test), of_split(folder, "val"), 12)


def test_a_copy_of_imagenet_needs_one_split(folder, tmp_path):
    write_parquet(folder, tmp_path / "sets", {"validation": "val"})
    test = further_set(f"imagenet:{tmp_path}/sets", tmp_path, crop="middle")
    assert_same(results(test), of_split(folder, "val"), 12)


def test_folders_that_are_not_there_or_several_are_one_line(tmp_path):
    assert "cannot be read (No such file" in refusal(f"imagenet:{tmp_path}/no", tmp_path)
    for name in "ab":
        write_classes(tmp_path / "two" / name / "val", ["cow", "ant"])
    message = refusal(f"imagenet:{tmp_path}/two", tmp_path)
    assert f"give one of {tmp_path}/two/a, {tmp_path}/two/b" in message


def test_torchvisions_arrays_need_the_test_split(tmp_path, monkeypatch):
    torchvision_files.svhn(tmp_path, monkeypatch)
    (tmp_path / "train_32x32.mat").unlink()
    theirs = torchvision.datasets.SVHN(tmp_path, split="test")
    names = [*"9876543210"]
    wanted = by_hand(theirs.data.transpose(0, 2, 3, 1).copy(), 9 - theirs.labels, 10)
    test = further_set("torchvision/SVHN", tmp_path, names, 32)
    assert_same(results(test, 10, 32), wanted, 20)


def test_torchvisions_files_need_the_test_split(tmp_path, monkeypatch):
    torchvision_files.food101(tmp_path, monkeypatch)
    (tmp_path / "food-101/meta/train.json").unlink()
    names = ["waffles", "apple_pie"]
    test = further_set("torchvision/Food101", tmp_path, names)
    theirs = torchvision.datasets.Food101(tmp_path, split="test")
    pixels = np.stack([np.array(image.resize((12, 12))) for image, _ in theirs])
    targets = [target for _, batch in test.parts[""].batches(0) for target in batch.tolist()]
    assert targets == [names.index(theirs.classes[number]) for _, number in theirs]
    assert results(test, 2)["count"] == len(pixels) == 6


def test_torchvisions_files_that_are_missing_are_one_line(tmp_path, monkeypatch):
    def probe(_):
        raise OSError("no network")

    monkeypatch.setattr(torchvision_sets, "_probe", probe)
    assert "the download failed (no network)" in refusal("torchvision/SVHN", tmp_path)


# --- CIFAR-100-C ---


def test_cifar100_c_by_hand(tmp_path):
    folder, names = write_corrupted(tmp_path / "CIFAR-100-C", 4, 100), class_maps.NAMES["cifar100"]
    test = further_set("cifar100-c", tmp_path, names, 32, dataset="cifar100")
    found, labels = results(test, 100, 32), np.load(folder / "labels.npy")
    wanted = {}
    for name in (*COUNTED, *EXTRA):
        images = np.load(folder / f"{name}.npy")
        for severity in range(5):
            part = slice(4 * severity, 4 * severity + 4)
            wanted[name, severity] = by_hand(images[part], labels[part], 100)
            assert_same(found["parts"][f"{name}/{severity + 1}"], wanted[name, severity], 4)
    counted = [each for (name, _), each in wanted.items() if name in COUNTED]
    means = {key: np.mean([each[key] for each in counted]) for key in ("loss", "top1")}
    assert_same(found, means, 75 * 4)
    assert found["averaged"] == 75


# --- a run ---


def test_a_run_is_tested_on_a_set_with_one_split(folder, tmp_path, monkeypatch):
    save(folder, tmp_path / "mine", {"train": "val"})
    flags = (
        "--model", "resnet20", "--dataset", "imagefolder", "--data_path", folder, "--num_epochs", 1,
        "--device", "cpu", "--output_dir", tmp_path / "run", "--also_test", f"hf/{tmp_path}/mine",
    )  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["vision_main.py", *map(str, flags)])
    assert vision_main.main() == 0
    (line,) = (tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1:]
    (found,) = json.loads(line)["also"].values()
    assert found["count"] == 12
    (path,) = (tmp_path / "run").glob("predictions_also_hf-*.npz")
    arrays = np.load(path)
    assert arrays["labels"].tolist() == [number for _, number in labelled(folder, "val")]
    right = (arrays["logits"].argmax(1) == arrays["labels"]).mean()
    assert found["top1"] == pytest.approx(100 * right)
