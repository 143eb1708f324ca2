"""A set gives the same batches, runs and resumed runs from whichever form it is read."""

import datasets
import pytest
import torch
from helpers.image_folders import epoch_of, write_folder
from helpers.image_sources import save, write_parquet, write_shards
from helpers.resumable import KILL, TERM, TRY_AGAIN, assert_same_result, results

from cli import run_names
from cli.vision import VisionConfig, VisionDataConfig
from dataset import load_images
from run_folder.checkpoint import load_checkpoint

ALL = {"augment": True, "color_jitter": True, "noise": 0.1, "rotate": 10.0}
WAYS = {
    "memory": {},
    "resized": {"resize": 8},
    "imagenet": {"resize": 8, "crop": "imagenet", "num_workers": 0},
    "workers": {"resize": 8, "crop": "imagenet", "num_workers": 2},
}
FORMS = {
    "saved": "hf/saved",
    "parquet": "hf/parquet",
    "shards": "wds/shards",
    "pattern": "wds/shards/train-{000..002}.tar",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Return a folder that holds one set in every form."""
    root = tmp_path_factory.mktemp("forms")
    folder = write_folder(root / "folder", (("train", 10), ("test", 4)))
    datasets.disable_progress_bars()
    save(folder, root / "saved")
    write_parquet(folder, root / "parquet")
    write_shards(folder, root / "shards")
    return root


@pytest.fixture(autouse=True)
def own_cache(root, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "hf")


def load(name, path, **options):
    return load_images(name, path, **{"batch_size": 7, "progress": False} | options)


def same(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("form", "way"),
    [
        pytest.param(
            form, way, marks=[pytest.mark.slow] if (form, way) == ("saved", "workers") else []
        )
        for form in FORMS
        for way in WAYS
        if way != "workers" or form in ("saved", "pattern")
    ],
)
def test_the_same_seed_gives_the_same_batches(root, form, way):
    options = {**ALL, **WAYS[way], "val_fraction": 0.2, "data_seed": 3}
    folder, other = (load(*x, **options) for x in (("imagefolder", root / "folder"),
                                                   (FORMS[form], root)))  # fmt: skip
    for split in ("train", "val", "test"):
        assert same(epoch_of(getattr(folder, split), 2), epoch_of(getattr(other, split), 2))
    assert (folder.mean, folder.std, folder.class_sizes) == (
        other.mean,
        other.std,
        other.class_sizes,
    )
    from_second = list(other.train.batches(2, first=2))
    for ours, theirs in zip(from_second, [*folder.train.batches(2)][2:], strict=True):
        assert same(ours, theirs)


@pytest.mark.parametrize("form", FORMS)
def test_a_set_too_large_for_memory_streams_the_same_batches(root, form, monkeypatch):
    from pipelines.images import splits

    options = {**ALL, "resize": 8, "num_workers": 0, "imb_factor": 0.3}
    kept = load(FORMS[form], root, **options)
    monkeypatch.setattr(splits, "available_memory", lambda device: 1000)
    streamed = load(FORMS[form], root, **options)
    assert "(streamed)" in streamed.description
    assert kept.digest == streamed.digest  # so that a run goes on where the memory is less
    assert same(epoch_of(kept.train, 1), epoch_of(streamed.train, 1))


@pytest.mark.parametrize("form", FORMS)
def test_two_processes_share_each_batch(root, form):
    options = {**ALL, **WAYS["imagenet"]}
    whole = load(FORMS[form], root, **options).train
    shares = [load(FORMS[form], root, rank=rank, world_size=2, **options).train for rank in (0, 1)]
    for batch, *parts in zip(whole.batches(1), *(x.batches(1) for x in shares), strict=True):
        assert same(batch, [torch.cat(each) for each in zip(*parts, strict=True)])


def run_name(dataset, data_path):
    return run_names.default_output_dir(
        VisionConfig(data=VisionDataConfig(dataset=dataset, data_path=data_path))
    )


def test_runs_are_named_after_their_data():
    plain = run_name("torchvision/SVHN", "./Data")
    assert plain.parts[:4] == ("Output", "torchvision", "SVHN", "vgg11")
    names = {run_name(f"wds/{x}", path) for x in ("a/train-{0..3}.tar", "b/train-{0..3}.tar")
             for path in ("./Data", "/data")}  # fmt: skip
    assert len(names) == 4
    for name in names | {run_name("hf//tmp/x/../y", "./Data"), run_name("hf/a/b:c", "./Data")}:
        assert name.parts[0] == "Output"
        assert ".." not in name.parts
        assert not any(letter in str(name) for letter in "{}:")


# --- runs ---

RUN = (
    "--model", "resnet20", "--batch_size", "8", "--num_epochs", "2", "--lr", "3e-3",
    "--device", "cpu", "--activation", "ZiLU", "--color_jitter", "--noise", "0.1",
    "--resize", "8", "--crop", "imagenet", "--num_workers", "2", "--save_interval", "1",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(forked, root):
    """run(folder, form, *more flags, fault=..., processes=1) -> exit codes, output"""

    def run(folder, form, *flags, **options):
        where = ("--dataset", FORMS[form], "--data_path", root, "--output_dir", folder)
        return forked("vision_main", *RUN, *where, *flags, **options)

    return run


@pytest.fixture(scope="module")
def reference(run, tmp_path_factory):
    """Return the folder of an uninterrupted run over a form."""
    made = {}

    def reference(form):
        if form not in made:
            made[form] = tmp_path_factory.mktemp(form) / "run"
            codes, output = run(made[form], form)
            assert codes == [0], output
        return made[form]

    return reference


@pytest.mark.parametrize(
    ("form", "fault"), [("pattern", ("step", KILL, 2)), ("saved", ("step", TERM, 5))]
)
def test_a_run_killed_in_mid_epoch_ends_as_the_uninterrupted_one(
    run, reference, tmp_path, form, fault
):
    folder = tmp_path / "run"
    codes, output = run(folder, form, faults={0: fault})
    assert codes == [-KILL if fault[1] == KILL else TRY_AGAIN], output
    codes, output = run(folder, form, "--resume")
    assert codes == [0], output
    assert_same_result(folder, reference(form))


def test_runs_over_two_forms_are_the_same(reference):
    """All but what names the classes, which shards of numbers do not."""
    assert results(reference("pattern"))[0] == results(reference("saved"))[0]
    mine, theirs = (
        load_checkpoint(reference(form) / "checkpoint.pt")["model"] for form in ("pattern", "saved")
    )
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())


def test_a_run_of_two_processes_stops_and_goes_on_in_mid_epoch(run, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    codes, output = run(whole, "pattern", processes=2)
    assert codes == [0, 0], output
    codes, output = run(parts, "pattern", processes=2, faults={1: ("step", TERM, 2)})
    assert codes == [TRY_AGAIN] * 2, output
    codes, output = run(parts, "pattern", "--resume", processes=2)
    assert codes == [0, 0], output
    assert results(parts) == results(whole)
