"""The order of batches: once each, by seed and epoch alone, from memory as from files."""

import multiprocessing
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from images.augment import Transform
from images.decode import FolderReader, ImageNetReader, decode_all
from images.loaders import MemoryLoader, StreamLoader
from utils import UserError, mixed_seed

SIZE, COUNT, BATCH = 8, 23, 5
ALL = {"crop": True, "flip": True, "jitter": True, "noise": 0.1}


def transform(**options):
    return Transform((0.5,) * 3, (0.25,) * 3, SIZE, "cpu", **options)


def memory_loader(data_seed=None, count=COUNT, **options):
    images = np.random.RandomState(0).randint(0, 256, (count, SIZE, SIZE, 3), np.uint8)
    targets = np.arange(count)
    return MemoryLoader(images, targets, transform(**options), BATCH, "cpu", data_seed)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    random = np.random.RandomState(1)
    paths = [str(folder / f"{i}.png") for i in range(COUNT)]
    for path in paths:
        Image.fromarray(random.randint(0, 256, (12, 10, 3), np.uint8)).save(path)
    return np.array(paths, object)


def stream_loader(files, read=None, workers=0, data_seed=None, **options):
    read = read or FolderReader(SIZE, fit=True)
    targets = np.arange(len(files))
    return StreamLoader(
        files, targets, read, transform(**options), BATCH, "cpu", workers, data_seed
    )


def epoch_of(loader, epoch=0):
    images, targets = zip(*loader.batches(epoch), strict=True)
    return torch.cat(images), torch.cat(targets)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture(params=["memory", "stream", "imagenet"])
def make_loader(request, files):
    """make_loader(data_seed, **augmentation): each kind of loader in turn."""

    def make(data_seed=None, **options):
        if request.param == "memory":
            return memory_loader(data_seed, **options)
        read = ImageNetReader(SIZE) if request.param == "imagenet" else None
        return stream_loader(files, read, data_seed=data_seed, **options)

    return make


def test_every_sample_once_and_the_last_batch_kept(make_loader):
    loader = make_loader(data_seed=0, **ALL)
    sizes = [len(targets) for _, targets in loader.batches(0)]
    assert sizes == [5, 5, 5, 5, 3]
    assert len(loader) == 5
    assert (loader.num_samples, loader.batch_size) == (COUNT, BATCH)
    for epoch in range(3):
        targets = epoch_of(loader, epoch)[1]
        assert sorted(targets.tolist()) == list(range(COUNT))
        assert targets.tolist() != list(range(COUNT))


def test_batches_have_the_promised_form(make_loader):
    for loader in (make_loader(), make_loader(0, **ALL)):
        for images, targets in loader.batches(0):
            assert images.shape == (len(targets), 3, SIZE, SIZE)
            assert images.dtype == torch.float32
            assert images.is_contiguous(memory_format=torch.channels_last)
            assert targets.dtype == torch.int64


def test_images_keep_their_targets(make_loader):
    fixed = epoch_of(make_loader())[0]
    images, targets = epoch_of(memory_loader(data_seed=4))
    assert same([images], [epoch_of(memory_loader())[0][targets]])
    again, order = epoch_of(make_loader())
    assert torch.equal(again, fixed[order])


def test_an_epoch_repeats_bit_for_bit_and_epochs_and_seeds_differ(make_loader):
    loader = make_loader(data_seed=0, **ALL)
    third = epoch_of(loader, 3)
    assert same(third, epoch_of(loader, 3))
    assert same(third, epoch_of(make_loader(data_seed=0, **ALL), 3))
    others = [(0, 2), (0, 4), (3, 0), (1, 3)]
    for data_seed, epoch in others:
        images, targets = epoch_of(make_loader(data_seed=data_seed, **ALL), epoch)
        assert not torch.equal(targets, third[1])
        assert not torch.equal(images[targets.argsort()], third[0][third[1].argsort()])


def test_every_image_is_drawn_anew_in_every_epoch_and_seed(files):
    read = ImageNetReader(SIZE)  # whose draws are per image, in the worker

    def by_file(data_seed, epoch):
        images, targets = epoch_of(stream_loader(files, read, data_seed=data_seed), epoch)
        return images[targets.argsort()]

    first = by_file(0, 0)
    for other in (by_file(0, 1), by_file(1, 0)):
        assert (first != other).flatten(1).any(1).all()


def test_evaluation_is_in_order_and_draws_nothing(make_loader):
    loader = make_loader()
    images, targets = epoch_of(loader, 0)
    assert targets.tolist() == list(range(COUNT))
    assert same((images, targets), epoch_of(loader, 7))


def test_the_global_generator_is_left_alone(make_loader):
    loader = make_loader(data_seed=0, **ALL)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    epoch_of(loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_two_epochs_may_run_at_once():
    loader = memory_loader(data_seed=0, **ALL)
    both = list(zip(loader.batches(0), loader.batches(1), strict=True))
    for epoch in (0, 1):
        for ours, alone in zip(both, loader.batches(epoch), strict=True):
            assert same(ours[epoch], alone)


def test_seeds_are_well_mixed():
    seeds = [mixed_seed(data_seed, epoch) for data_seed in range(100) for epoch in range(100)]
    bits = np.array(seeds, np.uint64)[:, None] >> np.arange(64, dtype=np.uint64) & np.uint64(1)
    assert len({seed % 2**32 for seed in seeds}) == len(seeds)  # the CPU's generator takes 32 bits
    assert np.abs(bits.mean(0) - 0.5).max() < 0.025  # 5 standard deviations
    changed = (bits[1:] != bits[:-1]).mean(0)  # between neighbours
    assert np.abs(changed - 0.5).max() < 0.025


def test_orders_of_neighbouring_epochs_and_seeds_are_unrelated():
    place = {}
    for seed in range(6):
        loader = memory_loader(seed, count=1000)
        for epoch in range(6):
            place[seed, epoch] = epoch_of(loader, epoch)[1].numpy()
    correlation = np.corrcoef(list(place.values())) - np.eye(36)
    assert np.abs(correlation).max() < 0.16  # 5 standard deviations
    assert np.mean(np.array(list(place.values()))[:, 0]) > 300  # nor do they begin alike


def test_one_sample_and_one_batch():
    loader = memory_loader(data_seed=0, count=1, **ALL)
    assert len(loader) == 1
    assert epoch_of(loader)[0].shape == (1, 3, SIZE, SIZE)


@pytest.mark.parametrize("seed", [None, 0])
def test_files_give_the_same_batches_as_memory(files, seed):
    options = ALL if seed is not None else {}
    images = decode_all(files, FolderReader(SIZE, fit=True), "test", progress=False)
    loader = MemoryLoader(
        images, np.arange(COUNT), transform(**options), BATCH, "cpu", data_seed=seed
    )
    streamed = stream_loader(files, data_seed=seed, **options)
    assert same(epoch_of(loader, 2), epoch_of(streamed, 2))


@pytest.mark.parametrize("read", [FolderReader(SIZE, fit=True), ImageNetReader(SIZE)])
def test_workers_change_nothing(files, read):
    alone = stream_loader(files, read, data_seed=0, **ALL)
    helped = stream_loader(files, read, workers=2, data_seed=0, **ALL)
    for epoch in (0, 1):
        assert same(epoch_of(alone, epoch), epoch_of(helped, epoch))
    next(iter(helped.batches(2)))  # an epoch broken off leaves nothing behind
    assert same(epoch_of(alone, 1), epoch_of(helped, 1))


def test_an_epoch_broken_off_ends_its_workers_at_once(files):
    loader = stream_loader(files, workers=2)
    next(iter(loader.batches(0)))
    start = time.monotonic()
    del loader  # in a reference cycle they would be waited for, 5 seconds each
    assert time.monotonic() - start < 3
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_file_is_one_line(files, tmp_path, workers):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    loader = stream_loader(np.append(files, str(broken)), workers=workers)
    with pytest.raises(UserError) as caught:
        epoch_of(loader)
    message = str(caught.value)
    assert str(broken) in message
    assert "\n" not in message
    start = time.monotonic()
    del caught, loader  # see above
    assert time.monotonic() - start < 3
    assert not multiprocessing.active_children()


class TestImageNetReader:
    @pytest.fixture
    def path(self, tmp_path):
        image = np.random.RandomState(0).randint(0, 256, (6, 9, 3), np.uint8)
        Image.fromarray(image).resize((90, 60), Image.BICUBIC).save(tmp_path / "a.png")
        return tmp_path / "a.png"

    def test_training_is_random_resized_crop_and_flip(self, path):
        reference = transforms.Compose(
            [transforms.RandomResizedCrop(32), transforms.RandomHorizontalFlip()]
        )
        for seed in range(10):
            torch.manual_seed(seed)
            with Image.open(path) as image:
                expected = np.asarray(reference(image))
            assert np.array_equal(ImageNetReader(32)(path, seed), expected)

    def test_seeds_differ_and_repeat(self, path):
        read = ImageNetReader(32)
        results = [read(path, mixed_seed(0, 0, i)).tobytes() for i in range(20)]
        assert len(set(results)) == 20
        assert results == [read(path, mixed_seed(0, 0, i)).tobytes() for i in range(20)]

    def test_evaluation_is_the_middle_of_a_slightly_larger_image(self, path):
        reference = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
        with Image.open(path) as image:
            expected = np.asarray(reference(image))
        assert np.array_equal(ImageNetReader(224)(path), expected)


@pytest.mark.slow
def test_ten_times_as_fast_as_torchvision_one_image_at_a_time():
    """In processor time on one thread, so that it holds on a busy machine too."""
    count, size, before = 4000, 32, torch.get_num_threads()
    images = np.random.RandomState(0).randint(0, 256, (count, size, size, 3), np.uint8)
    normalise = ((0.5,) * 3, (0.25,) * 3)
    ours = Transform(*normalise, size, "cpu", crop=True, flip=True)
    loader = MemoryLoader(images, np.arange(count), ours, 128, "cpu", data_seed=0)
    theirs = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(*normalise),
        ]
    )

    def seconds(work):
        best = float("inf")
        for _ in range(5):
            start = time.process_time()
            work()
            best = min(best, time.process_time() - start)
        return best

    torch.set_num_threads(1)
    try:
        fast = seconds(lambda: list(loader.batches(0)))
        slow = seconds(
            lambda: [
                torch.stack([theirs(Image.fromarray(image)) for image in images[i : i + 128]])
                for i in range(0, count, 128)
            ]
        )
    finally:
        torch.set_num_threads(before)
    assert slow > 10 * fast
