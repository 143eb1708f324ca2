"""WebDataset's shards are read in place, with the samples that the webdataset package finds."""

import gzip
import json
import tarfile

import braceexpand
import numpy as np
import pytest
import torch
import webdataset
from helpers.image_folders import epoch_of, touch, write_folder
from helpers.image_sources import CLASSES, add, as_json, error_of, labelled, load, write_shards
from torchvision.transforms import functional

import vision_main
from pipelines.images import shards
from utils import UserError

THREE = {"train": "train", "val": "val", "test": "test"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    layout = (("train", 6), ("test", 3), ("val", 4))
    return write_folder(tmp_path_factory.mktemp("images"), layout)


def theirs(tars, label="cls"):
    """Return [(RGB image, label)] as the webdataset package reads them, in the tars' order."""
    found = webdataset.WebDataset(list(map(str, tars)), shardshuffle=False, empty_check=False)
    return list(found.decode("pilrgb").to_tuple("png", label))


def assert_same(loader, data, pairs):
    images, targets = epoch_of(loader)
    assert targets.tolist() == [label for _, label in pairs]
    for ours, (image, _) in zip(images, pairs, strict=True):
        expected = functional.normalize(functional.to_tensor(image), data.mean, data.std)
        torch.testing.assert_close(ours, expected, rtol=0, atol=5e-6)


class TestPatterns:
    @pytest.mark.parametrize(
        "pattern",
        ["a", "t-{000..012}.tar", "{a,b}-{1..3}", "{a,b{1..2}}", "{8..11}", "{3..1}", "{x}"],
    )
    def test_braces_are_webdatasets(self, pattern):
        assert list(shards.expanded(pattern)) == list(braceexpand.braceexpand(pattern))

    @pytest.mark.parametrize(
        "name",
        ["wds/s/train-{000..002}.tar", "wds/s/train-*.tar", "wds/s", "wds/s/train-00[0-2].tar"],
    )
    def test_the_other_splits_are_called_alike(self, folder, tmp_path, name):
        write_shards(folder, tmp_path / "s", THREE)
        data = load(name, tmp_path)
        assert_same(data.test, data, theirs(sorted((tmp_path / "s").glob("test-*"))))
        assert_same(data.val, data, theirs(sorted((tmp_path / "s").glob("val-*"))))
        assert data.train.num_samples == 18

    @pytest.mark.parametrize("name", ["wds/{}/s/train/{{000..002}}.tar", "wds/{}/s"])
    def test_folders_of_splits(self, folder, tmp_path, name):
        for split, count in (("train", 3), ("val", 2)):
            write_shards(folder, tmp_path / "made", {split: split}, count)
            (tmp_path / "s" / split).mkdir(parents=True)
            for path in (tmp_path / "made").glob("*.tar"):
                path.rename(tmp_path / "s" / split / path.name.removeprefix(f"{split}-"))
        data = load(name.format(tmp_path), "elsewhere")
        assert data.val is None
        assert_same(data.test, data, theirs(sorted((tmp_path / "s/val").glob("*.tar"))))

    def test_other_names_are_given(self, folder, tmp_path):
        write_shards(folder, tmp_path / "s", {"part": "train", "held": "test", "other": "val"})
        assert "--splits '{test: PATTERN}'" in error_of("wds/s/part-{000..002}.tar", tmp_path)
        named = {"test": "s/held-{000..002}.tar", "val": "s/other-*.tar"}
        data = load("wds/s/part-{000..002}.tar", tmp_path, splits=named)
        assert_same(data.test, data, theirs(sorted((tmp_path / "s").glob("held-*"))))
        assert data.val.num_samples == 12

    def test_a_missing_shard(self, folder, tmp_path):
        write_shards(folder, tmp_path / "s")
        message = error_of("wds/s/train-{000..004}.tar", tmp_path)
        assert "s/train-003.tar: no such file; patterns are looked for below --data_path" in message

    @pytest.mark.parametrize(
        "name", ["pipe:cat x.tar", "https://host/train-{0..9}.tar", "s3://b/x.tar", "-", "a::b"]
    )
    def test_streams_are_refused_with_the_reason(self, name, mistake_in):
        line = mistake_in(vision_main, "--dataset", f"wds/{name}")
        assert "so that a run goes on in the middle of an epoch" in line
        assert "download them first" in line

    def test_a_folder_without_shards(self, tmp_path):
        (tmp_path / "s").mkdir()
        assert "no shards of a train split" in error_of("wds/s", tmp_path)


class TestSamples:
    def test_are_those_of_the_package(self, folder, tmp_path):
        """Members of several folders, names with dots, metadata and files that are no sample."""
        for split in ("train", "test"):
            with tarfile.open(tmp_path / f"{split}-0.tar", "w", format=tarfile.PAX_FORMAT) as tar:
                add(tar, "__meta__", b"of the shard")
                add(tar, "._odd.png", b"macOS")
                for i, (path, number) in enumerate(labelled(folder, split)):
                    long = "x" * 200 if i == 3 else ""
                    key = f"part.{i % 2}/{'é' if i == 2 else ''}{long}{i}"
                    tar.addfile(tarfile.TarInfo(f"dir{i}"))
                    add(tar, f"{key}.CLS", b"%d\n" % number)
                    add(tar, f"{key}.seg.txt", b"7")
                    add(tar, f"{key}.PNG", path.read_bytes())
        data = load("wds/train-0.tar", tmp_path)
        assert_same(data.test, data, theirs([tmp_path / "test-0.tar"]))
        assert sum(data.class_sizes) == 18

    def test_labels_in_json_and_names_of_classes(self, folder, tmp_path):
        write_shards(folder, tmp_path / "s", members=as_json)
        (tmp_path / "s/classes.txt").write_text("\n".join(CLASSES) + "\n")
        data = load("wds/s", tmp_path)
        assert data.class_names == CLASSES
        tars = sorted((tmp_path / "s").glob("test-*"))
        assert_same(data.test, data, [(x, meta["label"]) for x, meta in theirs(tars, "json")])

    def test_named_members(self, folder, tmp_path):
        def members(path, number):
            text = json.dumps({"id": number + 100, "kind": CLASSES[2 - number]}).encode()
            return {
                "jpg": b"not this",
                "main.png": path.read_bytes(),
                "json": text,
                "y": b"%d" % number,
            }

        write_shards(folder, tmp_path / "s", members=members)
        assert "has 2 images (jpg, main.png); --image_column" in error_of("wds/s", tmp_path)
        one = {"image_column": "main.png"}
        assert "has no label" in error_of("wds/s", tmp_path, **one)
        expected = [number for _, number in labelled(folder, "test")]
        assert (
            epoch_of(load("wds/s", tmp_path, label_column="y", **one).test)[1].tolist() == expected
        )
        data = load("wds/s", tmp_path, label_column="kind", **one)
        assert data.class_names == CLASSES
        assert epoch_of(data.test)[1].tolist() == [2 - number for number in expected]

    def test_names_as_labels(self, folder, tmp_path):
        names = ("zebra", "12", "mole")
        write_shards(folder, tmp_path / "s", members=lambda path, number: {
            "png": path.read_bytes(), "cls": names[number].encode()})  # fmt: skip
        data = load("wds/s", tmp_path)
        assert data.class_names == ["12", "mole", "zebra"]
        assert [data.class_names[n] for n in epoch_of(data.test)[1]] == [
            names[n] for _, n in labelled(folder, "test")
        ]

    @pytest.mark.parametrize(
        ("members", "says"),
        [
            (lambda path, number: {"png": path.read_bytes()}, "has no label (png)"),
            (lambda path, number: {"cls": b"0", "txt": b"x"}, "has no image (cls, txt)"),
            (lambda path, number: {"png": path.read_bytes(), "cls": b""}, "has no label"),
            (
                lambda path, number: {"png": path.read_bytes(), "cls": b"%d" % (number - 1)},
                "has label -1",
            ),
            (lambda path, number: {"png": path.read_bytes(), "cls": b"0"}, "has 1 class(es)"),
            (lambda path, number: {"png": path.read_bytes(), "json": b"[1"}, "has no label"),
        ],
    )
    def test_incomplete_ones(self, folder, tmp_path, members, says):
        write_shards(folder, tmp_path / "s", members=members)
        assert says in error_of("wds/s", tmp_path)

    def test_a_class_that_training_does_not_have(self, folder, tmp_path):
        write_shards(folder, tmp_path / "s")
        with tarfile.open(tmp_path / "s/test-009.tar", "w") as tar:
            add(tar, "a.png", labelled(folder, "test")[0][0].read_bytes())
            add(tar, "a.cls", b"3")
        assert "image 9 has label 3, which is none of 0..2" in error_of("wds/s", tmp_path)

    def test_a_class_without_training_images_is_said(self, folder, tmp_path, capsys):
        write_shards(folder, tmp_path / "s")
        (tmp_path / "s/classes.txt").write_text("ant\nbee\ncow\ndog\n")
        assert load("wds/s", tmp_path).num_classes == 4
        assert "1 of 4 classes have no training image: dog" in capsys.readouterr().err


class TestTheIndex:
    def test_is_made_once_and_again_when_a_shard_changes(
        self, folder, tmp_path, capsys, monkeypatch
    ):
        write_shards(folder, tmp_path / "s")
        load("wds/s", tmp_path)
        assert "going through 3 shards" in capsys.readouterr().out
        opened = []
        real = tarfile.open
        monkeypatch.setattr(
            tarfile, "open", lambda *args, **more: opened.append(args) or real(*args, **more)
        )
        first = load("wds/s", tmp_path)
        assert not opened
        touch(tmp_path / "s/train-001.tar")
        second = load("wds/s", tmp_path)
        assert len(opened) == 3  # those of its split
        assert first.digest == second.digest

    def test_the_same_samples_in_other_shards_are_the_same_data(self, folder, tmp_path):
        options = {"crop": "imagenet", "resize": 8, "num_workers": 0}
        digests = set()
        for count in (1, 5):
            write_shards(folder, tmp_path / f"{count}", shards=count)
            digests.add(load(f"wds/{count}", tmp_path, **options).digest)
        assert len(digests) == 1

    def test_a_shard_that_changes_in_a_run_ends_it(self, folder, tmp_path):
        write_shards(folder, tmp_path / "s")
        data = load("wds/s", tmp_path, crop="imagenet", resize=8, num_workers=0)
        write_shards(folder, tmp_path / "s", {"train": "val"})
        with pytest.raises(UserError, match=r"train-00\d\.tar: has changed since the run began"):
            epoch_of(data.train)

    def test_no_place_for_it(self, folder, tmp_path, capsys):
        write_shards(folder, tmp_path / "s")
        (tmp_path / "s/.cache").write_text("in the way")
        assert load("wds/s", tmp_path).train.num_samples == 18
        assert "no image cache in" in capsys.readouterr().err


class TestBroken:
    @pytest.mark.parametrize("damage", ["cut", "text", "gzip", "empty"])
    def test_a_shard(self, folder, tmp_path, damage):
        write_shards(folder, tmp_path / "s")
        path = tmp_path / "s/train-001.tar"
        content = path.read_bytes()
        made = {
            "cut": content[:1500],
            "text": b"no tar file" * 100,
            "gzip": gzip.compress(content),
            "empty": b"",
        }
        path.write_bytes(made[damage])
        message = error_of("wds/s", tmp_path)
        assert f"{path}: cannot be read as a tar file" in message
        assert ("decompress it" in message) == (damage == "gzip")

    def broken(self, folder, tmp_path):
        def members(path, number):
            is_third = path.name == "2.png" and number == 1
            return {"png": b"no image" if is_third else path.read_bytes(), "cls": b"%d" % number}

        write_shards(folder, tmp_path / "s", members=members)

    def test_an_image_is_named_or_left_out(self, folder, tmp_path):
        self.broken(folder, tmp_path)
        message = error_of("wds/s", tmp_path)
        assert f"{tmp_path}/s/train-001.tar, 00008.png: cannot be read as an image" in message
        data = load("wds/s", tmp_path, skip_broken=True)
        assert data.left_out == ["train-001.tar/00008.png", "test-001.tar/00005.png"]
        assert data.class_sizes == [6, 5, 6]

    def test_a_name_twice(self, folder, tmp_path):
        write_shards(folder, tmp_path / "s")
        with tarfile.open(tmp_path / "s/train-009.tar", "w") as tar:
            for _ in range(2):
                add(tar, "a.png", b"x")
        assert "train-009.tar: a.png is in it twice" in error_of("wds/s", tmp_path)


def test_members_are_indexed_as_an_array_is(folder, tmp_path):
    write_shards(folder, tmp_path / "s")
    found = shards.find("s", str(tmp_path), None, None, {}, progress=False).train
    whole = found.images
    contents = [whole[i].read() for i in range(len(whole))]
    assert contents == [path.read_bytes() for path, _ in labelled(folder, "train")]
    for index in (slice(3, 9, 2), np.array([5, 1, 1]), found.targets == 1):
        chosen = whole[index]
        expected = np.array(contents, object)[index].tolist()
        assert [chosen[i].read() for i in range(len(chosen))] == expected
        assert chosen.names() == np.array(whole.names(), object)[index].tolist()


def test_gnu_and_pax_and_ustar_are_read(folder, tmp_path):
    formats = (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT)
    for split, kind in zip(("train", "test", "val"), formats, strict=True):
        with tarfile.open(tmp_path / f"{split}.tar", "w", format=kind) as tar:
            for i, (path, number) in enumerate(labelled(folder, split)):
                name = f"{'long/' * 30 if kind != tarfile.USTAR_FORMAT else ''}{i}"
                add(tar, f"{name}.png", path.read_bytes())
                add(tar, f"{name}.cls", b"%d" % number)
    data = load("wds/train.tar", tmp_path)
    for split in ("test", "val"):
        assert_same(getattr(data, split), data, theirs([tmp_path / f"{split}.tar"]))
    assert data.train.num_samples == 18
