"""Test sets beside the test set: files in the published forms, against direct computation."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from helpers.further_sets import (
    CIFAR10,
    COUNTED,
    EXTRA,
    write_cifar10_1,
    write_classes,
    write_corrupted,
)
from helpers.resumable import KILL, TERM, TRY_AGAIN, results
from PIL import Image
from torch import nn
from torchvision.transforms.v2 import functional

import models
import vision_main
from cli.converters import one_of
from cli.datasets import VISION_DATASETS
from cli.further_tests import Asked, asked_for, further_tests
from cli.vision import VisionDataConfig
from models.activation import ZiLU
from pipelines.data import ImageData
from pipelines.images import class_maps, further
from run_folder.checkpoint import load_checkpoint
from run_folder.records import read_records
from tasks.classification import Classification
from training import further_tests as at_the_end
from training.evaluation import do_nothing
from training.objective import Objective
from utils import UserError

INFO = Path(timm.__file__).parent / "data/_info"
WORDNET = (INFO / "imagenet_synsets.txt").read_text().split()
CPU = torch.device("cpu")


# --- a run ---

FLAGS = (
    "--model", "resnet20", "--dataset", "imagefolder", "--resize", "8", "--batch_size", "16",
    "--num_epochs", "1", "--lr", "1e-2", "--device", "cpu", "--activation", "ZiLU",
    "--ema", "0.5",
)  # fmt: skip
SETS = ("cifar10-c", "cifar10.1", "shifted")
FEW = SETS[1:]  # those without 95 parts
SIZE = 8  # images of each part


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Images of CIFAR-10's classes, and the published sets beside them."""
    folder = tmp_path_factory.mktemp("files")
    write_classes(folder / "images/train", CIFAR10, 4)
    write_classes(folder / "images/test", CIFAR10, 2, seed=3)
    write_classes(folder / "shifted", ["truck", "cat"], 3, (12, 9), seed=4)
    write_corrupted(folder / "images/CIFAR-10-C")
    write_cifar10_1(folder / "images")
    return folder


@pytest.fixture(scope="module")
def run(forked, files):
    def run(folder, *flags, sets=SETS, fault=None, processes=1):
        names = ",".join(str(files / name) if name == "shifted" else name for name in sets)
        where = ("--data_path", files / "images", "--output_dir", folder)
        asked = ("--also_test", names) if names else ()
        faults = {0: fault} if fault else {}
        flags = (*FLAGS, *where, *asked, *flags)
        return forked("vision_main", *flags, faults=faults, processes=processes)

    return run


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    codes, output = run(folder)
    assert codes == [0], output
    return folder


@pytest.fixture(scope="module")
def few(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("few") / "run"
    codes, output = run(folder, sets=FEW)
    assert codes == [0], output
    return folder


def also_of(folder, key="also"):
    """The results of further test sets, by name, in metrics.jsonl."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {name: each for line in lines for name, each in line.get(key, {}).items()}


def direct(folder, images, weights="model"):
    """The logits that the checkpoint's network has for images of any size."""
    saved = load_checkpoint(folder / "checkpoint.pt")
    network = models.build_model("resnet20", ZiLU, 10, 8)
    network.load_state_dict(saved["ema"]["model"] if weights == "ema" else saved["model"])
    resolved = yaml.safe_load((folder / "args.txt").read_text())["resolved"]
    mean, std = (torch.tensor(resolved[name]).view(3, 1, 1) for name in ("mean", "std"))
    pixels = functional.resize(torch.from_numpy(images).permute(0, 3, 1, 2), [8, 8], antialias=True)
    with torch.no_grad():
        return network.eval()((pixels / 255 - mean) / std)


def scores(logits, labels):
    """Loss, and accuracy in percent."""
    targets = torch.as_tensor(labels)
    right = (logits.argmax(1) == targets).float().mean().item()
    return nn.functional.cross_entropy(logits, targets).item(), 100 * right


@pytest.mark.parametrize(("key", "weights"), [("also", "model"), ("also_ema", "ema")])
def test_corruptions_by_hand(files, whole, key, weights):
    """Each file's severities in order; the mean is over the paper's 15 corruptions, not the 19."""
    folder, found = files / "images/CIFAR-10-C", also_of(whole, key)["cifar10-c"]
    labels, names = np.load(folder / "labels.npy"), (*COUNTED, *EXTRA)
    images = np.concatenate([np.load(folder / f"{name}.npy") for name in names])
    logits = direct(whole, images, weights).split(SIZE)
    wanted = {}
    for number, of_part in enumerate(logits):
        name, severity = names[number // 5], number % 5
        part = slice(SIZE * severity, SIZE * severity + SIZE)
        loss, top1 = scores(of_part, labels[part])
        mine = found["parts"][f"{name}/{severity + 1}"]
        assert mine["loss"] == pytest.approx(loss, rel=1e-4)
        assert mine["top1"] == pytest.approx(top1, abs=1e-3)
        assert mine["count"] == SIZE
        wanted.setdefault(name, []).append((loss, top1))
    assert len(found["parts"]) == 95
    loss, top1 = np.mean([wanted[name] for name in COUNTED], axis=(0, 1))
    assert found["loss"] == pytest.approx(loss, rel=1e-4)
    assert found["top1"] == pytest.approx(top1, abs=1e-3)
    assert (found["count"], found["averaged"]) == (75 * SIZE, 75)
    assert len({pair for pairs in wanted.values() for pair in pairs}) > 90  # none stands twice


def test_new_images_and_folders_by_hand(files, whole):
    found = also_of(whole)
    images = np.load(files / "images/cifar10.1_v6_data.npy")
    loss, top1 = scores(direct(whole, images), np.arange(9) % 10)
    assert found["cifar10.1"]["loss"] == pytest.approx(loss, rel=1e-4)
    assert found["cifar10.1"]["top1"] == pytest.approx(top1, abs=1e-3)
    # Two of the ten classes, whose folders' order is not the run's; images of another shape.
    arrays = np.load(whole / "predictions_also_shifted.npz")
    assert arrays["labels"].tolist() == [3, 3, 3, 9, 9, 9]
    assert found["shifted"]["count"] == 6
    right = (arrays["logits"].argmax(1) == arrays["labels"]).mean()
    assert found["shifted"]["top1"] == pytest.approx(100 * right)


def test_predictions_are_those_of_the_parts(files, whole):
    found = also_of(whole)["cifar10-c"]
    arrays = np.load(whole / "predictions_also_cifar10-c.npz")
    right = arrays["logits"].argmax(1) == arrays["labels"]
    for number, (name, metrics) in enumerate(found["parts"].items()):
        mine = arrays["part"] == number
        assert mine.sum() == SIZE
        assert metrics["top1"] == pytest.approx(100 * right[mine].mean(), abs=1e-3), name
    assert (whole / "predictions_ema_also_cifar10.1.npz").exists()


def test_the_runs_own_results_are_those_without_further_sets(run, whole, tmp_path):
    codes, output = run(tmp_path / "run", sets=())
    assert codes == [0], output
    assert not also_of(tmp_path / "run")
    (mine,), (theirs,) = read_records(tmp_path / "run"), read_records(whole)
    assert all(mine[split] == theirs[split] for split in ("train", "test", "test_ema"))
    lines, records = results(whole)
    kept = [line for line in lines.splitlines() if not line.startswith("[Also ")]
    assert kept == results(tmp_path / "run")[0].splitlines()
    text = f"[Also cifar10.1] Loss: {also_of(whole)['cifar10.1']['loss']:.8f} Accuracy: Top1: "
    assert text in lines
    assert "[Also cifar10-c: fog/3] Loss: " in lines
    # What reads the file from its end finds a whole run.
    assert lines.splitlines()[-1].startswith("[Summary]")
    assert [record.get("epoch") for record in records] == [1] * 7


@pytest.mark.parametrize("fault", [("evaluation", TERM, 6), ("evaluation", KILL, 5)])
def test_a_stop_in_a_further_set_loses_nothing(run, few, tmp_path, fault):
    """The first one with averaged weights in the network; sets before it have their lines."""
    folder = tmp_path / "run"
    codes, output = run(folder, sets=FEW, fault=fault)
    assert codes == [TRY_AGAIN if fault[1] == TERM else -KILL], output
    text = (folder / "train_eval_results.txt").read_text()
    assert "[Summary]" not in text
    assert "[Also cifar10.1] " in text
    codes, output = run(folder, "--resume", sets=FEW)
    assert codes == [0], output
    assert results(folder) == results(few)
    mine, theirs = (load_checkpoint(each / "checkpoint.pt") for each in (folder, few))
    for name, value in theirs["model"].items():
        assert torch.equal(mine["model"][name], value), name


def test_a_finished_run_is_tested_on_further_sets_later(run, whole, tmp_path):
    folder = tmp_path / "run"
    codes, output = run(folder, sets=())
    assert codes == [0], output
    codes, output = run(folder, "--resume", sets=FEW)
    assert codes == [0], output
    for key in ("also", "also_ema"):
        wanted = also_of(whole, key)
        assert also_of(folder, key) == {name: wanted[name] for name in FEW}
    codes, output = run(folder, "--test_only", sets=FEW)
    assert codes == [0], output
    lines = (folder / "test_results.txt").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("[Also cifar10.1 EMA] ")]
    assert f"Top1: {also_of(whole, 'also_ema')['cifar10.1']['top1']:.4f}%" in line
    assert len([line for line in lines if line.startswith("[Also ")]) == 4


def test_several_processes_agree_with_one(run, tmp_path):
    """Shares without a sample too: three images for two processes, the last one alone."""
    sets, flags = (
        ("cifar10.1", "shifted"),
        ("--norm", "gn", "--batch_size", "5", "--max_steps", "2"),
    )
    for count in (1, 2):
        codes, output = run(tmp_path / str(count), *flags, sets=sets, processes=count)
        assert codes == [0] * count, output
    mine, theirs = (also_of(tmp_path / name) for name in "12")
    for name in sets:
        assert mine[name]["loss"] == pytest.approx(theirs[name]["loss"], rel=2e-5)
        arrays = [np.load(tmp_path / x / f"predictions_also_{name}.npz") for x in "12"]
        assert arrays[0]["labels"].tolist() == arrays[1]["labels"].tolist()
        assert arrays[0]["logits"] == pytest.approx(arrays[1]["logits"], abs=5e-3)


# --- ImageNet's ---


def imagenet(names, name="imagefolder", path="nowhere", size=8, **options):
    """What a run on ImageNet's classes knows of its data, without the images."""
    config = VisionDataConfig(dataset=name, data_path=str(path), batch_size=7, **options)
    nothing = {"train": None, "val": None, "test": None, "digest": "", "class_sizes": []}
    data = ImageData(
        name=name, num_classes=len(names), image_size=size, class_names=names, mean=(0.5,) * 3,
        std=(0.25,) * 3, left_out=[], description="", **nothing,
    )  # fmt: skip
    return config, data


def test_of(kind, names, path, **options):
    config, data = imagenet(names, path=path, also_test=kind, **options)
    (test,) = further.further_tests(config, data, num_workers=0, progress=False).values()
    return test


test_of.__test__ = False


class Linear(nn.Module):
    """A network that is a matrix."""

    def __init__(self, classes):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.matrix = nn.Parameter(torch.randn(classes, 192, generator=generator))

    def forward(self, images):
        return images.flatten(1) @ self.matrix.T


def logits_of(folder, names):
    """(images in the order of `names`, classes), read and multiplied by hand."""
    pixels = [np.array(Image.open(folder / name / "0.png")) for name in names]
    images = (torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    with torch.no_grad():
        return Linear(1000)(images)


def metrics_of(test, classes=1000):
    objective = Objective(Linear(classes), Classification("CrossEntropy"), CPU)
    return at_the_end.tested(objective, test, "x", do_nothing)


@pytest.mark.parametrize("kind", ["a", "r"])
@pytest.mark.parametrize("named", [True, False])
def test_a_and_r_leave_out_the_other_classes(tmp_path, kind, named):
    """By the 200 folders' names, or where the run's classes are called by words, by timm's map."""
    indices = [int(x) for x in (INFO / f"imagenet_{kind}_indices.txt").read_text().split()]
    folders = (INFO / f"imagenet_{kind}_synsets.txt").read_text().split()
    folder = write_classes(tmp_path / f"imagenet-{kind}", folders)
    names = WORDNET if named else [f"thing {number}" for number in range(1000)]
    test = test_of(f"imagenet-{kind}", names, tmp_path / "imagenet")  # beside --data_path
    arrays, found = metrics_of(test)
    wanted = logits_of(folder, folders)[:, indices]
    assert arrays["logits"] == pytest.approx(wanted.numpy(), abs=0.1)
    loss, top1 = scores(wanted, torch.arange(200))
    assert found["loss"] == pytest.approx(loss, rel=1e-4)
    assert found["top1"] == pytest.approx(top1, rel=1e-5)
    assert found["top5"] > found["top1"] > 0
    assert class_maps.IMAGENET_INDICES[f"imagenet-{kind}"] == indices


def test_v2s_folders_are_numbers_and_not_words(tmp_path):
    """In the order of their names, 10 would come before 2."""
    numbers = [0, 1, 2, 10, 100, 999]
    place = tmp_path / "imagenetv2-matched-frequency-format-val"
    folder = write_classes(place, [str(number) for number in numbers])
    arrays, found = metrics_of(test_of("imagenet-v2", WORDNET, tmp_path))
    order = sorted(map(str, numbers))
    assert arrays["labels"].tolist() == [int(name) for name in order]
    wanted = nn.functional.cross_entropy(
        logits_of(folder, order), torch.tensor([int(name) for name in order])
    )
    assert found["loss"] == pytest.approx(wanted.item(), rel=1e-4)


def test_a_run_on_some_of_the_classes_is_tested_on_those_that_it_has(tmp_path):
    place = write_classes(tmp_path / "elsewhere", [WORDNET[n] for n in (3, 6, 11, 13)])
    mine = [WORDNET[n] for n in (2, 6, 13, 40)]
    arrays, _ = metrics_of(test_of(f"imagenet-sketch:{place}", mine, tmp_path), 4)
    assert arrays["labels"].tolist() == [1, 2]
    assert arrays["logits"].shape == (2, 4)
    test = test_of(f"imagenet-a:{place}", mine, tmp_path)
    assert test.outputs == [1, 2]
    assert [targets.tolist() for _, targets in test.parts[""].batches(0)] == [[0, 1]]


def test_images_are_read_as_the_runs_own(tmp_path):
    """On ImageNet: the shorter side to 256/224 of the size, and the middle of it."""
    folder = write_classes(tmp_path / "odd", ["n1", "n2"], size=(20, 33))
    config, data = imagenet(["n1", "n2"], "imagenet", tmp_path, also_test=f"imagefolder:{folder}")
    ((_, test),) = further.further_tests(config, data, num_workers=0, progress=False).items()
    (images, _) = next(test.parts[""].batches(0))
    image = functional.resize(Image.open(folder / "n1/0.png"), [9])  # 8 * 256 / 224
    pixels = np.array(functional.center_crop(image, [8, 8]), np.float32)
    wanted = (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - 0.5) / 0.25
    torch.testing.assert_close(images[0], wanted, rtol=1e-5, atol=1e-5)


def test_a_data_set_by_name_is_its_test_split(tmp_path):
    config, data = imagenet([*"9876543210"], also_test="digits", path=tmp_path)
    test = further.further_tests(config, data)["digits"]
    own = [targets for _, targets in test.parts[""].batches(0)]
    from dataset import load_images

    digits = load_images("digits", batch_size=400, resize=8)
    ((images, targets),) = digits.test.batches(0)
    assert torch.cat(own).tolist() == (9 - targets).tolist()
    mine = torch.cat([batch for batch, _ in test.parts[""].batches(0)])
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (digits.mean, digits.std))
    torch.testing.assert_close(mine * 0.25 + 0.5, images * std + mean, rtol=1e-4, atol=1e-4)


def write_splits(root, **options):
    for split in ("train", "val"):
        write_classes(root / split, ["n1", "n2"], **options)
    return root


@pytest.mark.parametrize("crop", ["imagenet", "middle"])
def test_imagenet_by_name_is_cropped_as_the_runs_own_images_are(tmp_path, crop):
    root = write_splits(tmp_path / "sets", size=(20, 33))
    test = test_of(f"imagenet:{root}", ["n1", "n2"], tmp_path, crop=crop)
    as_folder = test_of(f"imagefolder:{root / 'val'}", ["n1", "n2"], tmp_path, crop=crop)
    found, wanted = ([*each.parts[""].batches(0)] for each in (test, as_folder))
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


def test_a_broken_image_of_a_streamed_set_by_name_ends_before_the_training(tmp_path):
    root = write_splits(tmp_path / "sets")
    (root / "val/n2/0.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"n2/0\.png of .* cannot be read as an image"):
        test_of(f"imagenet:{root}", ["n1", "n2"], tmp_path, crop="imagenet")


# --- what is asked for, and mistakes ---


def test_what_the_flag_holds(monkeypatch, tmp_path):
    convert = further_tests(one_of(*VISION_DATASETS))
    monkeypatch.setenv("HERE", str(tmp_path))
    text = convert("CIFAR10-C, ./mine/shift/ ,imagefolder:$HERE/other,Digits,imagenet-a:~")
    assert asked_for(text) == [
        Asked("cifar10-c", None),
        Asked("imagefolder", "mine/shift"),
        Asked("imagefolder", f"{tmp_path}/other"),
        Asked("digits", None),
        Asked("imagenet-a", str(Path.home())),
    ]
    assert [asked.name for asked in asked_for(text)][1:3] == ["shift", "other"]
    assert convert(text) == text
    assert convert("") is None


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ("cifar10-d", "did you mean cifar10-c?"),
        ("imagefolder", "imagefolder:PATH"),
        ("a/shift,b/shift", "two test sets are called shift"),
        ("cifar10-c:EMPTY", "labels.npy is not there; get it from https://zenodo.org/"),
        ("cifar10.1-v4", "cifar10.1_v4_data.npy is not there; get it from https://github.com/"),
        ("imagenet-r", "imagenet-r is not there; get it from https://people.eecs"),
        ("imagenet-v2:SHIFTED", "is for the 1,000 classes of ImageNet"),
        ("/no/such/folder", "cannot be read (No such file or directory)"),
        ("EMPTY", "has no folders in it"),
        ("imagefolder:IMAGES", "its classes are in"),
        ("imagefolder:OTHER", "bird_of_prey is none of these"),
        ("cifar100-c:CORRUPTED", "its 100 classes (apple, ...) are not among the 10"),
        ("cifar10-c:SHORT", "frost.npy is damaged (uint8 (39, 32, 32, 3), not 40 images)"),
        ("cifar10-c:CUT", "fog.npy is damaged"),
        ("cifar10-c:LABELS", "labels.npy is damaged (labels from 0 to 10)"),
        ("imagefolder:BROKEN", "0.png: cannot be read as an image"),
    ],
)
def test_mistakes_end_before_the_training(mistake_in, files, tmp_path, sets, words):
    places = {"IMAGES": files / "images", "SHIFTED": files / "shifted"}
    places |= {name: tmp_path / name.lower() for name in ("EMPTY", "OTHER", "BROKEN")}
    (tmp_path / "empty").mkdir()
    write_classes(tmp_path / "other", ["cat", "bird_of_prey"])
    write_classes(tmp_path / "broken", ["cat"])
    (tmp_path / "broken/cat/0.png").write_bytes(b"no image")
    for name in ("CORRUPTED", "SHORT", "CUT", "LABELS"):
        if name in sets:
            places[name] = write_corrupted(tmp_path / name.lower())
    if "SHORT" in sets:
        path = tmp_path / "short/frost.npy"
        np.save(path, np.load(path)[:-1])
    if "CUT" in sets:
        path = tmp_path / "cut/fog.npy"
        path.write_bytes(path.read_bytes()[:-1000])
    if "LABELS" in sets:
        np.save(tmp_path / "labels/labels.npy", np.arange(40) % 11)
    for name, place in places.items():
        sets = sets.replace(name, str(place))
    where = ("--data_path", files / "images", "--output_dir", tmp_path / "run")
    line = mistake_in(vision_main, *FLAGS, *where, "--also_test", sets)
    assert words in line
    assert not (tmp_path / "run/args.txt").exists()
