"""load_images reads every data set by name, and names every mistake in its files."""

import hashlib
import http.server
import multiprocessing
import os
import subprocess
import sys
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cifar_files import write_cifar
from helpers.image_folders import (
    epoch_of,
    load_folder,
    pixels_of,
    touch,
    write_folder,
    write_image,
)
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets
from torchvision.transforms import functional

import dataset
from dataset import load_images
from pipelines.held_out import hold_out
from pipelines.images import cache, sources, splits
from pipelines.images.readers import ImageNetReader
from utils import UserError

ROOT = Path(dataset.__file__).parent


def error_of(*args, **options):
    """Return the message of the UserError that loading ends in: one line."""
    with pytest.raises(UserError) as caught:
        load_images(*args, **{"batch_size": 4, "progress": False} | options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def normalised(images, data):
    """Normalise an array uint8 (N, H, W, 3) by torchvision's to_tensor and normalize."""
    return torch.stack(
        [functional.normalize(functional.to_tensor(x), data.mean, data.std) for x in images]
    )


def assert_images(images, expected):
    torch.testing.assert_close(images, expected, rtol=0, atol=5e-6)


class TestTheDoor:
    def test_importing_it_imports_no_torch(self):
        code = "import sys, dataset; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

    def test_unknown_name(self):
        message = error_of("CIFAR_10")
        assert "did you mean cifar10?" in message
        assert all(name in message for name in dataset.VISION_DATASETS)

    @pytest.mark.parametrize(
        ("flag", "value"),
        [
            ("batch_size", 0),
            ("resize", 0),
            ("noise", -0.1),
            ("noise", float("nan")),
            ("val_fraction", 1.0),
            ("val_fraction", -0.1),
        ],
    )
    def test_bad_values_name_their_flag(self, flag, value):
        assert f"--{flag}" in error_of("digits", **{flag: value})


class TestDigits:
    def load(self, **options):
        return load_images("digits", batch_size=100, **options)

    def test_what_it_says(self):
        data = self.load()
        assert (data.num_classes, data.image_size, data.val) == (10, 32, None)
        assert data.class_names == list("0123456789")
        assert data.train.num_samples + data.test.num_samples == 1797
        assert "digits: 1,438 train, 359 test images of 10 classes, 32x32" in data.description

    def test_pixels_are_scikit_learns(self):
        data = self.load(resize=8)
        known = {
            np.rint(image * 255 / 16).astype(np.uint8).tobytes(): target
            for image, target in zip(load_digits().images, load_digits().target, strict=True)
        }
        images, targets = epoch_of(data.test)
        raw = images * torch.tensor(data.std).view(3, 1, 1) + torch.tensor(data.mean).view(3, 1, 1)
        raw = (raw * 255).round().byte()
        assert torch.equal(raw[:, 0], raw[:, 1])
        assert torch.equal(raw[:, 0], raw[:, 2])
        assert [known[x.numpy().tobytes()] for x in raw[:, 0].contiguous()] == targets.tolist()

    def test_upsampling_is_bilinear(self):
        small, large = self.load(resize=8), self.load()
        assert large.image_size == 32
        raw = [
            epoch_of(x.test)[0] * torch.tensor(x.std).view(3, 1, 1)
            + torch.tensor(x.mean).view(3, 1, 1)
            for x in (small, large)
        ]
        expected = torch.nn.functional.interpolate(raw[0], size=32, mode="bilinear")
        # whole levels, rounded after the rows and after the columns
        torch.testing.assert_close(raw[1], expected, rtol=0, atol=1.001 / 255)

    def test_the_test_split_is_fixed_and_stratified(self):
        images, targets = epoch_of(self.load().test)
        other = self.load(data_seed=5, split_seed=6, augment=True)
        assert torch.equal(epoch_of(other.test)[0], images)
        share = np.bincount(targets) / np.bincount(load_digits().target)
        assert np.abs(share - 0.2).max() < 0.004  # half an image

    def test_the_test_split_is_the_one_of_all_earlier_results(self):
        data = self.load(resize=8)
        held = load_digits().images[[4, 5, 11, 12, 14, 18, 19, 21]]
        pixels = np.repeat(np.rint(held * 255 / 16).astype(np.uint8)[..., None], 3, axis=3)
        assert_images(epoch_of(data.test)[0][:8], normalised(pixels, data))

    def test_augmenting_crops_but_never_mirrors(self, monkeypatch):
        flips = []
        from pipelines.images import augment

        real = augment.crop_flip
        monkeypatch.setattr(
            augment, "crop_flip", lambda *args: flips.append(args[3]) or real(*args)
        )
        epoch_of(self.load(augment=True).train)
        assert len(flips) == 15
        assert not torch.cat(flips).any()

    def test_two_processes_share_each_batch(self):
        options = {"val_fraction": 0.2, "augment": True, "color_jitter": True, "noise": 0.1}
        one = self.load(**options)
        two = [self.load(rank=rank, world_size=2, **options) for rank in range(2)]
        for split in ("train", "val", "test"):
            shares = [getattr(data, split).batches(1) for data in two]
            for whole, *parts in zip(getattr(one, split).batches(1), *shares, strict=True):
                assert len(parts[0][0]) == -(-len(whole[0]) // 2)
                for ours, theirs in zip(whole, zip(*parts, strict=True), strict=True):
                    assert torch.equal(ours, torch.cat(theirs))

    def test_normalised_by_the_training_split_after_hold_out(self):
        data = self.load(val_fraction=0.25)
        images, _ = epoch_of(data.train)
        torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-4)
        torch.testing.assert_close(
            images.std((0, 2, 3), correction=0), torch.ones(3), rtol=0, atol=1e-4
        )
        assert data.mean != self.load().mean


class TestHoldOut:
    def fingerprints(self, loader):
        return {image.numpy().tobytes() for image in epoch_of(loader)[0]}

    def test_stratified(self):
        data = load_images("digits", batch_size=64, val_fraction=0.3)
        whole = load_images("digits", batch_size=64)
        assert data.train.num_samples + data.val.num_samples == whole.train.num_samples
        counts = [np.bincount(epoch_of(x)[1]) for x in (data.val, whole.train)]
        assert np.abs(counts[0] - 0.3 * counts[1]).max() <= 0.5

    def test_kept_and_held_share_nothing_and_miss_nothing(self):
        targets = np.random.RandomState(0).randint(0, 7, 500)
        kept, held = hold_out(targets, 0.2, seed=1)
        assert sorted([*kept, *held]) == list(range(500))
        counts = np.bincount(targets)
        assert np.abs(np.bincount(targets[held]) - 0.2 * counts).max() <= 0.5

    def test_val_is_in_order_and_not_augmented(self):
        options = {"batch_size": 64, "val_fraction": 0.3}
        plain = load_images("digits", **options)
        varied = load_images("digits", augment=True, color_jitter=True, noise=1.0, **options)
        for split in ("val", "test"):
            images, targets = epoch_of(getattr(plain, split))
            for epoch in (0, 1):
                again = epoch_of(getattr(varied, split), epoch)
                assert torch.equal(images, again[0])
                assert torch.equal(targets, again[1])
        assert not torch.equal(epoch_of(plain.train)[0], epoch_of(varied.train)[0])

    def test_the_split_seed_alone_decides(self):
        def val(**seeds):
            return self.fingerprints(
                load_images("digits", batch_size=64, val_fraction=0.1, **seeds).val
            )

        assert val(data_seed=1) == val(data_seed=2)
        assert val(split_seed=1) != val(split_seed=2)

    def test_every_class_keeps_an_image(self):
        assert "--val_fraction 0.999" in error_of("digits", val_fraction=0.999)
        assert "--val_fraction 0.001" in error_of("digits", val_fraction=0.001)


def pack_cifar(cls, folder, archive, monkeypatch):
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder / cls.base_folder, cls.base_folder)
    monkeypatch.setattr(cls, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())


@pytest.fixture
def server(tmp_path):
    """Start a web server on this machine; yield its folder and its address."""
    folder = tmp_path / "web"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def log_message(self, *args):
            pass

        def send_header(self, name, value):
            if name == "Content-Length" and (folder / "break off").exists():
                value = str(int(value) + 1000)
            super().send_header(name, value)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{web.server_port}"
        web.shutdown()


class TestCifar:
    @pytest.mark.parametrize(
        ("name", "cls", "classes"),
        [("cifar10", datasets.CIFAR10, 10), ("cifar100", datasets.CIFAR100, 100)],
    )
    def test_reads_torchvisions_files(self, name, cls, classes, tmp_path, monkeypatch):
        written = write_cifar(cls, tmp_path, monkeypatch)
        data = load_images(name, tmp_path, batch_size=7)
        assert (data.num_classes, data.image_size) == (classes, 32)
        assert data.class_names == [f"class {i}" for i in range(classes)]
        images, labels = written["test_list"]
        assert_images(epoch_of(data.test)[0], normalised(images, data))
        assert epoch_of(data.test)[1].tolist() == labels
        assert data.train.num_samples == len(written["train_list"][0])
        assert sorted(epoch_of(data.train)[1].tolist()) == sorted(written["train_list"][1])

    def test_published_statistics(self, tmp_path, monkeypatch):
        write_cifar(datasets.CIFAR10, tmp_path, monkeypatch)
        write_cifar(datasets.CIFAR100, tmp_path, monkeypatch)
        ten = load_images("cifar10", tmp_path, batch_size=7)
        assert (ten.mean, ten.std) == ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
        hundred = load_images("cifar100", tmp_path, batch_size=7)
        assert hundred.mean == (0.5071, 0.4866, 0.4409)
        assert hundred.std == (0.2673, 0.2564, 0.2762)

    def test_augmenting_mirrors_half(self, tmp_path, monkeypatch):
        written = write_cifar(datasets.CIFAR10, tmp_path, monkeypatch, per_file=40)
        data = load_images("cifar10", tmp_path, batch_size=200, augment=True)
        [(batch, _)] = data.train.batches(0)
        raw = batch * torch.tensor(data.std).view(3, 1, 1) + torch.tensor(data.mean).view(3, 1, 1)
        middles = (raw * 255).round().byte()[:, :, 8:24, 8:24]
        originals = torch.from_numpy(written["train_list"][0]).permute(0, 3, 1, 2)
        straight = originals.unfold(2, 16, 1).unfold(3, 16, 1)[:, :, 4:13, 4:13]
        keys = {
            planes.numpy().tobytes(): flip
            for flip, images in ((0, straight), (1, straight.flip(5)))
            for planes in images.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 16, 16)
        }
        flips = [keys[middle.contiguous().numpy().tobytes()] for middle in middles]
        assert 75 < sum(flips) < 125  # of 200; 3.5 standard deviations

    def test_resize(self, tmp_path, monkeypatch):
        written = write_cifar(datasets.CIFAR10, tmp_path, monkeypatch)
        data = load_images("cifar10", tmp_path, batch_size=7, resize=16)
        assert data.image_size == 16
        small = [
            np.array(Image.fromarray(x).resize((16, 16), Image.BILINEAR))
            for x in written["test_list"][0]
        ]
        difference = epoch_of(data.test)[0] - normalised(small, data)
        assert difference.abs().max() < 2.5 / 255 / 0.24

    @pytest.mark.parametrize("processes", [1, 2])
    def test_too_large_for_memory_it_is_resized_as_it_is_read(
        self, tmp_path, monkeypatch, processes
    ):
        """The pixels, the digest and the statistics of a run are the same on any machine."""
        write_cifar(datasets.CIFAR10, tmp_path, monkeypatch)
        options = {"batch_size": 7, "resize": 64, "augment": True, "val_fraction": 0.3}
        options |= {"random_resized_crop": 0.3, "mixup": 1.0}
        whole = load_images("cifar10-lt", tmp_path, **options)
        assert whole.train._images.shape[1] == 64
        monkeypatch.setattr(splits, "available_memory", lambda device: 1000)
        shares = [
            load_images("cifar10-lt", tmp_path, rank=rank, world_size=processes, **options)
            for rank in range(processes)
        ]
        assert {share.train._images.shape[1] for share in shares} == {32}
        assert (whole.digest, whole.mean) == (shares[0].digest, shares[0].mean)
        for split in ("train", "val", "test"):
            batches = [getattr(share, split).batches(1, 1) for share in shares]
            for batch, *parts in zip(getattr(whole, split).batches(1, 1), *batches, strict=True):
                assert torch.equal(batch[0], torch.cat([part[0] for part in parts]))
                assert torch.equal(batch[1], torch.cat([part[1] for part in parts]))

    def test_a_damaged_file(self, tmp_path, monkeypatch):
        for name in ("data_batch_3", "test_batch", "batches.meta"):
            folder = tmp_path / name
            write_cifar(datasets.CIFAR10, folder, monkeypatch)
            path = folder / "cifar-10-batches-py" / name
            path.write_bytes(path.read_bytes()[:-1])
            message = error_of("cifar10", folder)
            assert str(path) in message
            assert "delete it" in message

    def test_a_damaged_archive(self, tmp_path, monkeypatch):
        archive = tmp_path / "cifar-10-python.tar.gz"
        archive.write_bytes(b"half of it")
        message = error_of("cifar10", tmp_path)
        assert str(archive) in message
        assert "delete it" in message

    def test_an_archive_is_unpacked(self, tmp_path, monkeypatch):
        folder = tmp_path / "data"
        folder.mkdir()
        write_cifar(datasets.CIFAR10, tmp_path, monkeypatch)
        pack_cifar(datasets.CIFAR10, tmp_path, folder / datasets.CIFAR10.filename, monkeypatch)
        assert load_images("cifar10", folder, batch_size=7).train.num_samples == 50
        # and again over what an interrupted unpacking leaves
        (folder / "cifar-10-batches-py" / "data_batch_2").write_bytes(b"")
        assert load_images("cifar10", folder, batch_size=7).train.num_samples == 50

    def assert_missing(self, folder, capfd):
        """Missing files that cannot be downloaded end in one line, in time, and leave nothing."""
        start = time.monotonic()
        message = error_of("cifar10", folder)
        assert time.monotonic() - start < 5
        assert "data_batch_1 not found in" in message
        assert str(folder / "cifar-10-batches-py") in message
        assert f"get {datasets.CIFAR10.url} and unpack it in {folder}" in message
        assert not list(folder.iterdir())
        printed = "".join(capfd.readouterr())
        assert "Traceback" not in printed
        return message

    def test_missing_and_the_download_fails(self, tmp_path, monkeypatch, capfd):
        def fail(*args):
            raise OSError("out of order")

        monkeypatch.setattr(sources, "_download", fail)
        assert "out of order" in self.assert_missing(tmp_path, capfd)

    @pytest.mark.parametrize("url", ["http://nowhere.invalid/x.tar.gz", "http://127.0.0.1:9/x"])
    def test_missing_and_no_network(self, tmp_path, monkeypatch, capfd, url):
        monkeypatch.setattr(datasets.CIFAR10, "url", url)
        self.assert_missing(tmp_path, capfd)

    def test_missing_and_nobody_answers(self, tmp_path, monkeypatch, capfd):
        monkeypatch.setattr("urllib.request.urlopen", lambda *args, **options: time.sleep(20))
        assert "no answer" in self.assert_missing(tmp_path, capfd)

    def test_missing_and_not_on_the_server(self, tmp_path, monkeypatch, capfd, server):
        monkeypatch.setattr(datasets.CIFAR10, "url", f"{server[1]}/nothing.tar.gz")
        (tmp_path / "data").mkdir()
        assert "404" in self.assert_missing(tmp_path / "data", capfd)

    def test_a_download_broken_off_leaves_nothing_and_the_next_one_works(
        self, tmp_path, monkeypatch, capfd, server
    ):
        web, address = server
        folder = tmp_path / "data"
        folder.mkdir()
        write_cifar(datasets.CIFAR10, tmp_path, monkeypatch)
        pack_cifar(datasets.CIFAR10, tmp_path, web / "cifar.tar.gz", monkeypatch)
        monkeypatch.setattr(datasets.CIFAR10, "url", f"{address}/cifar.tar.gz")
        (web / "break off").touch()
        self.assert_missing(folder, capfd)
        (web / "break off").unlink()
        assert load_images("cifar10", folder, batch_size=7).train.num_samples == 50
        assert {path.name for path in folder.iterdir()} == {
            "cifar-10-batches-py",
            "cifar-10-python.tar.gz",
        }

    def test_one_of_several_processes_downloads(self, tmp_path, monkeypatch, server, capsys):
        web, address = server
        write_cifar(datasets.CIFAR10, tmp_path, monkeypatch)
        pack_cifar(datasets.CIFAR10, tmp_path, web / "cifar.tar.gz", monkeypatch)
        monkeypatch.setattr(datasets.CIFAR10, "url", f"{address}/cifar.tar.gz")
        downloads = counted(monkeypatch, sources, "_download")
        folder = tmp_path / "data"
        results = at_once(3, lambda: sources.read_cifar(datasets.CIFAR10, folder, progress=False))
        assert len(downloads) == 1
        assert all(np.array_equal(train[0], results[0][0][0]) for train, _, _ in results)
        assert capsys.readouterr().err.count("waiting for another process") == 2
        assert {path.name for path in folder.iterdir()} == {
            "cifar-10-batches-py",
            "cifar-10-python.tar.gz",
        }

    def test_a_download_that_is_not_it(self, tmp_path, monkeypatch, server):
        web, address = server
        (web / "cifar.tar.gz").write_bytes(b"a login page")
        monkeypatch.setattr(datasets.CIFAR10, "url", f"{address}/cifar.tar.gz")
        message = error_of("cifar10", tmp_path / "data")
        assert str(tmp_path / "data" / "cifar-10-python.tar.gz") in message
        assert "delete it" in message


def counted(monkeypatch, module, name):
    """Slow module.name down; return a list that grows with every call of it."""
    calls, real = [], getattr(module, name)

    def slowly(*args):
        calls.append(args)
        time.sleep(0.3)
        return real(*args)

    monkeypatch.setattr(module, name, slowly)
    return calls


def at_once(count, work):
    """Run `work` in several threads, whose locks work as those of processes; return the results."""
    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(work) for _ in range(count)]]


class TestImageFolder:
    def test_reads_the_images(self, tmp_path):
        data = load_folder(write_folder(tmp_path))
        assert (data.num_classes, data.image_size, data.val) == (3, 12, None)
        assert data.class_names == ["ant", "bee", "cow"]
        images, targets = epoch_of(data.test)
        assert_images(images, normalised(pixels_of(tmp_path / "test"), data))
        assert targets.tolist() == [0] * 3 + [1] * 3 + [2] * 3
        assert "18 train, 9 test images of 3 classes, 12x12" in data.description
        assert "decoded" in data.description

    def test_statistics_are_the_training_splits(self, tmp_path):
        data = load_folder(write_folder(tmp_path))
        pixels = np.stack(pixels_of(tmp_path / "train")).reshape(-1, 3) / 255
        np.testing.assert_allclose(data.mean, pixels.mean(0), rtol=1e-12)
        np.testing.assert_allclose(data.std, pixels.std(0), rtol=1e-9)

    def test_a_channel_that_never_varies(self, tmp_path, capsys):
        for split in ("train", "test"):
            for name in "ab":
                path = tmp_path / split / name / "x.png"
                path.parent.mkdir(parents=True)
                Image.new("RGB", (8, 8), (10, 20, 30 if name == "a" else 40)).save(path)
        images, _ = epoch_of(load_folder(tmp_path).train)
        assert images[:, :2].abs().max() < 1e-6
        assert images[:, 2].std() > 0.5
        warned = "warning: all training images have the same value everywhere: red 10, green 20 of"
        assert warned in capsys.readouterr().err

    def test_resize_takes_the_middle(self, tmp_path):
        write_folder(tmp_path, size=(90, 60))
        data = load_folder(tmp_path, resize=20)
        expected = [
            np.array(functional.center_crop(functional.resize(Image.fromarray(x), 20), 20))
            for x in pixels_of(tmp_path / "test")
        ]
        assert_images(epoch_of(data.test)[0], normalised(expected, data))

    def test_without_resize_sizes_must_be_one_and_square(self, tmp_path):
        write_folder(tmp_path / "long", size=(12, 10))
        message = error_of("imagefolder", tmp_path / "long")
        assert "ant/0.png: 12x10 pixels, not square; give --resize" in message
        odd = write_image(write_folder(tmp_path / "mixed") / "test/bee/odd.png", (14, 14))
        message = error_of("imagefolder", tmp_path / "mixed")
        assert str(odd) in message
        assert "--resize" in message
        assert load_folder(tmp_path / "mixed", resize=12).test.num_samples == 10

    def test_val_is_validation_where_there_is_a_test(self, tmp_path):
        write_folder(tmp_path, [("train", 6), ("val", 2), ("test", 3)])
        data = load_folder(tmp_path, augment=True)
        assert (data.train.num_samples, data.val.num_samples, data.test.num_samples) == (18, 6, 9)
        assert_images(epoch_of(data.val)[0], normalised(pixels_of(tmp_path / "val"), data))
        assert "--val_fraction" in error_of("imagefolder", tmp_path, val_fraction=0.5)

    def test_val_is_the_test_where_there_is_none(self, tmp_path):
        write_folder(tmp_path, [("train", 6), ("val", 2)])
        data = load_folder(tmp_path, val_fraction=0.5)
        assert (data.train.num_samples, data.val.num_samples, data.test.num_samples) == (9, 9, 6)

    def test_the_one_folder_inside_is_taken(self, tmp_path):
        write_folder(tmp_path / "pictures")
        (tmp_path / "something else").mkdir()
        assert str(tmp_path / "pictures") in load_folder(tmp_path).description
        write_folder(tmp_path / "photos")
        message = error_of("imagefolder", tmp_path)
        assert str(tmp_path / "pictures") in message
        assert str(tmp_path / "photos") in message

    def test_hidden_and_other_files_are_passed_over(self, tmp_path):
        write_folder(tmp_path)
        write_image(tmp_path / "train/ant/.hidden.png")
        write_image(tmp_path / "train/.cache/a.png")
        (tmp_path / "train/ant/notes.txt").write_text("no image")
        write_image(tmp_path / "train/ant/LOUD.PNG")
        data = load_folder(tmp_path)
        assert (data.train.num_samples, data.num_classes) == (19, 3)

    def test_the_test_split_may_lack_a_class_but_not_have_another(self, tmp_path):
        write_folder(tmp_path)
        for path in (tmp_path / "test/bee").iterdir():
            path.unlink()
        (tmp_path / "test/bee").rmdir()
        assert epoch_of(load_folder(tmp_path).test)[1].tolist() == [0] * 3 + [2] * 3
        write_image(tmp_path / "test/dog/0.png")
        assert str(tmp_path / "test/dog") in error_of("imagefolder", tmp_path)

    def test_what_is_missing_is_named(self, tmp_path):
        assert str(tmp_path / "none") in error_of("imagefolder", tmp_path / "none")
        assert "no train/" in error_of("imagefolder", tmp_path)
        (tmp_path / "train/ant").mkdir(parents=True)
        assert "at least two" in error_of("imagefolder", tmp_path)
        (tmp_path / "train/bee").mkdir()
        assert f"{tmp_path / 'train/ant'}: no images" in error_of("imagefolder", tmp_path)
        write_image(tmp_path / "train/ant/0.png")
        write_image(tmp_path / "train/bee/0.png")
        assert "neither test/ nor val/" in error_of("imagefolder", tmp_path)
        (tmp_path / "test").mkdir()
        assert f"{tmp_path / 'test'}: no class folders" in error_of("imagefolder", tmp_path)
        write_image(tmp_path / "test/ant/0.png")
        assert load_folder(tmp_path).train.num_samples == 2

    @pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "cut off"])
    @pytest.mark.parametrize("suffix", [".jpg", ".png"])
    @pytest.mark.parametrize("number", [0, 5])
    def test_an_unreadable_image_is_named(self, tmp_path, content, suffix, number, capfd):
        write_folder(tmp_path, suffix=suffix)
        path = tmp_path / f"train/ant/{number}{suffix}"
        path.write_bytes(path.read_bytes()[:-40] if content is None else content)
        message = error_of("imagefolder", tmp_path)
        assert message.startswith(f"{path}: cannot be read as an image (")
        assert "Traceback" not in capfd.readouterr().err


class TestCache:
    @pytest.fixture
    def folder(self, tmp_path):
        return write_folder(tmp_path / "data")

    @pytest.fixture
    def decoded(self, monkeypatch):
        """Return a list that gets the number of images of every split that is decoded."""
        counts = []
        real = cache.decode_all
        monkeypatch.setattr(
            cache,
            "decode_all",
            lambda paths, *rest: counts.append(len(paths)) or real(paths, *rest),
        )
        return counts

    def caches(self, folder):
        return sorted((folder / ".cache").glob("*"))

    def test_written_then_used(self, folder, decoded):
        first = load_folder(folder)
        assert decoded == [18, 9]
        assert [path.suffix for path in self.caches(folder)] == [".npy", ".npy"]
        assert np.load(self.caches(folder)[0]).shape == (9, 12, 12, 3)
        second = load_folder(folder)
        assert decoded == [18, 9]
        assert "cache" in second.description
        assert torch.equal(epoch_of(first.train)[0], epoch_of(second.train)[0])

    @pytest.mark.parametrize("change", ["touched", "longer", "added", "removed", "renamed"])
    def test_a_change_is_noticed_and_the_old_one_removed(self, folder, decoded, change):
        load_folder(folder)
        before = self.caches(folder)
        path = folder / "test/ant/1.png"
        if change == "touched":
            touch(path)
        elif change == "longer":
            stat = path.stat()
            path.write_bytes(path.read_bytes() + b"\0")
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        elif change == "added":
            write_image(path.with_name("new.png"))
        elif change == "removed":
            path.unlink()
        else:
            path.rename(path.with_name("1b.png"))
        load_folder(folder)
        assert decoded[:2] == [18, 9]
        assert len(decoded) == 3  # the training images were not decoded again
        assert decoded[2] == 9 + (change == "added") - (change == "removed")
        assert len(self.caches(folder)) == 2
        assert len(set(self.caches(folder)) & set(before)) == 1

    def test_new_content_is_what_is_read(self, folder):
        load_folder(folder)
        write_image(folder / "test/ant/1.png", seed=77)
        touch(folder / "test/ant/1.png")
        data = load_folder(folder)
        assert_images(epoch_of(data.test)[0], normalised(pixels_of(folder / "test"), data))

    def test_sizes_have_caches_of_their_own(self, folder, decoded):
        for _ in range(2):
            for resize in (None, 10, 12):
                assert load_folder(folder, resize=resize).image_size == (resize or 12)
        assert decoded == [18, 9] * 3
        assert len(self.caches(folder)) == 6

    @pytest.mark.parametrize("damage", ["empty", "cut", "tail", "header", "pixel"])
    def test_a_damaged_one_is_rebuilt(self, folder, decoded, damage):
        intact = epoch_of(load_folder(folder).test)[0]
        for path in self.caches(folder):
            data = bytearray(path.read_bytes())
            if damage == "header":
                data[:80] = bytes(80)
            if damage == "pixel":
                data[len(data) // 2] ^= 1
            keep = {"empty": 0, "cut": len(data) // 2, "tail": len(data) - 1}
            path.write_bytes(data[: keep.get(damage, len(data))])
        assert torch.equal(epoch_of(load_folder(folder).test)[0], intact)
        assert decoded == [18, 9, 18, 9]
        load_folder(folder)
        assert len(decoded) == 4

    def test_a_folder_that_cannot_be_written_to(self, folder, capsys):
        (folder / ".cache").write_text("in the way, even of the administrator")
        assert load_folder(folder).train.num_samples == 18
        lines = capsys.readouterr().err.splitlines()
        assert sum(line.startswith("warning: no image cache in") for line in lines) == 2

    def test_a_write_broken_off_leaves_nothing(self, folder, monkeypatch, capsys):
        def full(file, images):
            file.write(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(np, "save", full)
        assert load_folder(folder).train.num_samples == 18
        assert self.caches(folder) == []
        assert "No space left on device" in capsys.readouterr().err

    def test_of_several_processes_at_once_one_decodes(self, folder, monkeypatch):
        real = cache.decode_all

        def slowly(paths, *rest):
            (folder / f"{len(paths)} by {os.getpid()}").touch()
            time.sleep(0.3)
            return real(paths, *rest)

        def load(results):
            results.put(epoch_of(load_folder(folder).test)[0].numpy().tobytes())

        monkeypatch.setattr(cache, "decode_all", slowly)
        context = multiprocessing.get_context("fork")
        results = context.Queue()
        processes = [context.Process(target=load, args=[results]) for _ in range(3)]
        for process in processes:
            process.start()
        found = {results.get(timeout=60) for _ in processes}
        for process in processes:
            process.join()
        assert found == {epoch_of(load_folder(folder).test)[0].numpy().tobytes()}
        assert sorted(path.name.split()[0] for path in folder.glob("* by *")) == ["18", "9"]
        assert [path.suffix for path in self.caches(folder)] == [".npy", ".npy"]

    def test_one_plain_line_each_off_a_terminal(self, folder, capfd):
        load_folder(folder, progress=True)
        printed = capfd.readouterr()
        assert printed.err == ""
        assert printed.out.splitlines() == [
            f"decoding 18 images of {folder / 'train'}",
            f"decoding 9 images of {folder / 'test'}",
        ]


class TestStreaming:
    @pytest.fixture
    def folder(self, tmp_path):
        return write_folder(tmp_path / "data", [("train", 6), ("val", 2), ("test", 3)], (30, 20))

    def test_what_does_not_fit_is_streamed_and_gives_the_same(self, folder, monkeypatch):
        options = {"resize": 16, "augment": True, "color_jitter": True, "noise": 0.1}
        memory = load_folder(folder, **options)
        monkeypatch.setattr(splits, "available_memory", lambda device: 4 * 33 * 16 * 16 * 3 - 1)
        streamed = load_folder(folder, num_workers=2, **options)
        assert "streamed" in streamed.description
        assert (memory.mean, memory.std) == (streamed.mean, streamed.std)
        assert memory.digest == streamed.digest
        for split in ("train", "val", "test"):
            for ours, theirs in zip(
                epoch_of(getattr(memory, split), 1),
                epoch_of(getattr(streamed, split), 1),
                strict=True,
            ):
                assert torch.equal(ours, theirs)

    def test_a_quarter_of_the_memory_is_enough(self, folder, monkeypatch):
        monkeypatch.setattr(splits, "available_memory", lambda device: 4 * 33 * 16 * 16 * 3)
        assert "streamed" not in load_folder(folder, resize=16).description

    def test_the_available_memory_is_plausible(self):
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        assert 2**26 < splits.available_memory("cpu") <= total

    def test_statistics_of_a_large_set_are_of_evenly_spaced_images(self, folder, monkeypatch):
        monkeypatch.setattr(splits, "STATISTICS_IMAGES", 7)
        data = load_folder(folder, resize=20)
        images = [x[:, 5:25] for x in pixels_of(folder / "train")[::3]]
        np.testing.assert_allclose(data.mean, np.stack(images).mean((0, 1, 2)) / 255, rtol=1e-9)


class TestImageNet:
    @pytest.fixture
    def folder(self, tmp_path):
        return write_folder(tmp_path / "data", [("train", 4), ("val", 2)], (50, 40), ".jpg")

    def load(self, folder, **options):
        options = {"batch_size": 5, "num_workers": 1, "resize": 32} | options
        return load_images("imagenet", folder, **options)

    def test_what_it_says(self, folder):
        data = self.load(folder, resize=None)
        assert (data.image_size, data.num_classes, data.val) == (224, 3, None)
        assert (data.mean, data.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        assert (data.train.num_samples, data.test.num_samples) == (12, 6)
        assert not (folder / ".cache").exists()
        images, _ = next(iter(data.test.batches(0)))
        assert images.shape == (5, 3, 224, 224)

    def test_workers_change_nothing_and_augment_adds_nothing(self, folder):
        one, two = self.load(folder), self.load(folder, num_workers=2, augment=True)
        for epoch in (0, 1):
            for ours, theirs in zip(
                epoch_of(one.train, epoch), epoch_of(two.train, epoch), strict=True
            ):
                assert torch.equal(ours, theirs)
        assert not torch.equal(epoch_of(one.train, 0)[0], epoch_of(one.train, 1)[0])

    def test_held_out_images_are_not_augmented(self, folder):
        data = self.load(folder, val_fraction=0.5, noise=1.0)
        images, targets = epoch_of(data.val)
        assert np.bincount(targets).tolist() == [2, 2, 2]
        assert torch.equal(images, epoch_of(data.val, 1)[0])
        raw = [ImageNetReader(32)(p) for p in sorted((folder / "train").glob("*/*"))]
        known = [x.numpy().round(3).tobytes() for x in normalised(raw, data)]
        assert all(x.numpy().round(3).tobytes() in known for x in images.contiguous())

    def test_workers_default_to_the_processors(self, folder, monkeypatch):
        asked = []
        real = splits.StreamLoader
        monkeypatch.setattr(
            splits, "StreamLoader", lambda *args, **ranks: asked.append(args[6]) or real(*args)
        )
        monkeypatch.setattr(splits, "usable_cpus", lambda: 2)
        for number in (0, None, 1):
            self.load(folder, num_workers=number)
        assert asked == [0, 0, 2, 2, 1, 1]


DATA = os.environ.get("ZILU_TEST_DATA")


@pytest.mark.skipif(not DATA, reason="ZILU_TEST_DATA is not set")
def test_real_jpegs(tmp_path):
    per_folder = {}
    with tarfile.open(Path(DATA, "cifar10_jpeg.tar.xz"), "r|xz") as tar:
        for member in tar:
            folder = os.path.dirname(member.name)
            per_folder[folder] = per_folder.get(folder, 0) + member.isfile()
            if member.isfile() and per_folder[folder] <= 15:
                tar.extract(member, tmp_path, filter="data")
    data = load_folder(tmp_path, augment=True, val_fraction=0.2)
    assert (data.image_size, data.num_classes) == (32, 10)
    assert (data.train.num_samples, data.val.num_samples, data.test.num_samples) == (120, 30, 150)
    root = next(tmp_path.rglob("test"))
    assert_images(epoch_of(data.test)[0], normalised(pixels_of(root), data))
