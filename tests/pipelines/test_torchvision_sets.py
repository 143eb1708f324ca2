"""torchvision's data sets are read from their own files, with the library's pixels and classes."""

import os
import time

import numpy as np
import pytest
import torch
from helpers import torchvision_files as files
from helpers.image_folders import epoch_of
from torchvision import datasets
from torchvision.transforms import functional

import vision_main
from cli.datasets import TORCHVISION, image_dataset, image_size, mirrors
from dataset import load_images
from pipelines.images import torchvision_sets
from utils import UserError

SPLIT = {"split": "test"}
# {name: what writes its files, the arguments of the library's test split}
SETS = {
    "MNIST": (files.mnist, {"train": False}),
    "FashionMNIST": (files.fashion_mnist, {"train": False}),
    "KMNIST": (files.kmnist, {"train": False}),
    "QMNIST": (files.qmnist, {"train": False}),
    "EMNIST": (files.emnist, {"train": False, "split": "balanced"}),
    "EMNIST:letters": (files.emnist_letters, {"train": False, "split": "letters"}),
    "USPS": (files.usps, {"train": False}),
    "SVHN": (files.svhn, SPLIT),
    "STL10": (files.stl10, SPLIT),
    "Flowers102": (files.flowers102, SPLIT),
    "Food101": (files.food101, SPLIT),
    "OxfordIIITPet": (files.oxford_iiit_pet, SPLIT),
    "StanfordCars": (files.stanford_cars, SPLIT),
    "FGVCAircraft": (files.fgvc_aircraft, SPLIT),
    "FGVCAircraft:family": (files.fgvc_aircraft, {**SPLIT, "annotation_level": "family"}),
    "DTD": (files.dtd, SPLIT),
    "DTD:2": (files.dtd, {**SPLIT, "partition": 2}),
    "GTSRB": (files.gtsrb, SPLIT),
    "Country211": (files.country211, SPLIT),
    "RenderedSST2": (files.rendered_sst2, SPLIT),
    "Imagenette": (files.imagenette, {"split": "val"}),
    "Imagenette:160px": (files.imagenette_160, {"split": "val", "size": "160px"}),
}
WITH_VAL = ("Flowers102", "FGVCAircraft", "DTD", "Country211", "RenderedSST2")


def load(name, root, **options):
    known = image_size(image_dataset(f"torchvision/{name}"))
    options = {"batch_size": 7, "progress": False, "resize": None if known else 10} | options
    return load_images(f"torchvision/{name}", root, **options)


def test_every_set_is_tested():
    assert (
        {name.split(":")[0] for name in SETS} == TORCHVISION.keys() == torchvision_sets.KINDS.keys()
    )


@pytest.mark.parametrize("name", SETS)
def test_pixels_and_classes_are_the_librarys(name, tmp_path, monkeypatch):
    write, arguments = SETS[name]
    write(tmp_path, monkeypatch)
    plain = name.split(":")[0]
    theirs = getattr(datasets, plain)(tmp_path, **arguments)
    data = load(name, tmp_path)
    images, targets = epoch_of(data.test)
    first = 1 if name == "EMNIST:letters" else 0  # where the library has a class "N/A"
    assert targets.tolist() == [label - first for _, label in theirs]
    for ours, (image, _) in zip(images, theirs, strict=True):
        image = image.convert("RGB")
        if TORCHVISION[plain].size is None:
            image = functional.center_crop(functional.resize(image, [10]), [10, 10])
        expected = functional.normalize(functional.to_tensor(image), data.mean, data.std)
        torch.testing.assert_close(ours, expected, rtol=0, atol=5e-6)
    assert data.image_size == images.shape[-1] == (TORCHVISION[plain].size or 10)
    assert len(data.class_names) == data.num_classes == int(targets.max()) + 1
    assert sum(data.class_sizes) == data.train.num_samples
    assert min(data.class_sizes) > 0
    assert (data.val is not None) == (plain in WITH_VAL)
    names = getattr(theirs, "classes", None)
    if names:
        names = [each if isinstance(each, str) else each[0] for each in names]
        assert data.class_names == names[first:]


def test_the_name_in_any_case_and_the_default_variant(tmp_path, monkeypatch):
    files.dtd(tmp_path, monkeypatch)
    assert load("dtd:1", tmp_path).name == "torchvision/DTD"
    other = load("DTD:2", tmp_path)
    assert (other.name, other.digest) != ("torchvision/DTD", load("DTD", tmp_path).digest)


def test_images_that_are_not_mirrored_are_not_flipped():
    assert not mirrors("torchvision/SVHN")
    assert mirrors("torchvision/FashionMNIST")
    assert mirrors("cifar10")
    assert not mirrors("digits")


def test_a_set_of_files_is_cropped_and_streamed_as_imagenet_is(tmp_path, monkeypatch):
    files.food101(tmp_path, monkeypatch)
    data = load("Food101", tmp_path, crop="imagenet", resize=8, num_workers=0)
    assert "(streamed)" in data.description
    assert not torch.equal(
        epoch_of(data.train, 1)[0].sort(0)[0], epoch_of(data.train, 2)[0].sort(0)[0]
    )
    images = epoch_of(data.test)[0]
    theirs = datasets.Food101(tmp_path, split="test")
    whole = functional.center_crop(functional.resize(theirs[0][0], [9]), [8, 8])
    expected = functional.normalize(functional.to_tensor(whole), data.mean, data.std)
    torch.testing.assert_close(images[0], expected, rtol=0, atol=5e-6)


def test_broken_files_are_left_out(tmp_path, monkeypatch):
    files.food101(tmp_path, monkeypatch)
    (tmp_path / "food-101/images/waffles/train1.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"train1\.jpg: cannot be read as an image"):
        load("Food101", tmp_path)
    data = load("Food101", tmp_path, skip_broken=True)
    assert data.left_out == ["food-101/images/waffles/train1.jpg"]
    assert data.class_sizes == [3, 2]


class TestMistakes:
    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("torchvision/FashonMNIST", "did you mean FashionMNIST"),
            ("torchvision/EuroSAT", "known: MNIST"),  # it has no test split
            ("torchvision/DTD:11", "unknown value '11'"),
            ("torchvision/SVHN:extra", "SVHN has no variants"),
        ],
    )
    def test_names(self, name, says, mistake_in):
        assert says in mistake_in(vision_main, "--dataset", name)

    @pytest.mark.parametrize(
        ("flags", "says"),
        [
            (("--skip_broken",), "--skip_broken is for image files"),
            (("--crop", "middle"), "--crop is for image files"),
            (("--splits", "{test: extra}"), "--splits is for --dataset hf/"),
        ],
    )
    def test_flags_that_have_no_effect(self, flags, says, mistake_in):
        assert says in mistake_in(vision_main, "--dataset", "torchvision/SVHN", *flags)

    @pytest.mark.parametrize("name", ["SVHN", "FashionMNIST", "Flowers102", "USPS", "StanfordCars"])
    def test_offline(self, name, tmp_path, monkeypatch, mistake_in):
        kind = torchvision_sets.KINDS[name]
        offline = "http://127.0.0.1:9/"
        monkeypatch.setitem(
            torchvision_sets.KINDS, name, torchvision_sets.Kind(offline, kind.splits)
        )
        start = time.monotonic()
        line = mistake_in(vision_main, "--dataset", f"torchvision/{name}", "--data_path", tmp_path,
                          "--output_dir", tmp_path / "run", "--model", "resnet20")  # fmt: skip
        assert time.monotonic() - start < 5
        assert f"--dataset torchvision/{name}: not found in {tmp_path}" in line
        assert f"get it from {offline}" in line
        left = [path for path in tmp_path.rglob("*") if path.is_file() and "run" not in path.parts]
        assert not left

    @pytest.mark.parametrize(
        ("name", "path"),
        [
            ("FashionMNIST", "FashionMNIST/raw/train-images-idx3-ubyte"),
            ("Food101", "food-101/meta/train.json"),
            ("USPS", "usps.bz2"),
        ],
    )
    def test_a_damaged_file(self, name, path, tmp_path, monkeypatch):
        SETS[name][0](tmp_path, monkeypatch)
        whole = (tmp_path / path).read_bytes()
        (tmp_path / path).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError) as caught:
            load(name, tmp_path)
        message = str(caught.value)
        assert "\n" not in message
        assert f"its files in {tmp_path} cannot be read" in message

    def test_a_missing_image(self, tmp_path, monkeypatch):
        files.food101(tmp_path, monkeypatch)
        os.unlink(tmp_path / "food-101/images/waffles/test0.jpg")
        with pytest.raises(UserError, match=r"waffles/test0\.jpg: an image of Food101 is missing"):
            load("Food101", tmp_path)


def test_a_download_is_made_by_the_library_once(tmp_path, monkeypatch):
    """The library's own download is asked for where nothing is there, and its files are read."""
    page = tmp_path / "page"
    page.write_text("there is a network")
    monkeypatch.setitem(torchvision_sets.KINDS, "SVHN", torchvision_sets.Kind(page.as_uri()))
    asked = []

    def download(self):
        asked.append(self.split)
        if len(asked) == 1:
            files.svhn(tmp_path / "data", monkeypatch)
            self.file_md5 = datasets.SVHN.split_list[self.split][2]

    monkeypatch.setattr(datasets.SVHN, "download", download)
    (tmp_path / "data").mkdir()
    data = load("SVHN", tmp_path / "data")
    assert asked == ["train"]
    assert np.array_equal(data.class_sizes, [2] * 10)
