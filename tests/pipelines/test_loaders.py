"""A loader yields each image once, in an order that depends on seed and epoch alone."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from pipelines.images.augment import Transform
from pipelines.images.loaders import MemoryLoader, StreamLoader
from pipelines.images.mixing import Mixing
from pipelines.images.readers import FolderReader, ImageNetReader, decode_all
from utils import UserError, mixed_seed, share

SIZE, COUNT, BATCH = 8, 23, 5
ALL = {"crop": True, "flip": True, "jitter": True, "noise": 0.1}


def transform(**options):
    return Transform((0.5,) * 3, (0.25,) * 3, SIZE, "cpu", **options)


def random_images(count=COUNT):
    return np.random.RandomState(0).randint(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def memory_loader(data_seed=None, count=COUNT, batch=BATCH, ranks=(0, 1), **options):
    images, targets = random_images(count), np.arange(count)
    return MemoryLoader(images, targets, transform(**options), batch, "cpu", data_seed, *ranks)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    random = np.random.RandomState(1)
    paths = [str(folder / f"{i}.png") for i in range(COUNT)]
    for path in paths:
        Image.fromarray(random.randint(0, 256, (12, 10, 3), np.uint8)).save(path)
    return np.array(paths, object)


def stream_loader(files, read=None, workers=0, data_seed=None, ranks=(0, 1), **options):
    read = read or FolderReader(SIZE, fit=True)
    targets = np.arange(len(files))
    return StreamLoader(
        files, targets, read, transform(**options), BATCH, "cpu", workers, data_seed, *ranks
    )


def epoch_of(loader, epoch=0):
    images, targets = zip(*loader.batches(epoch), strict=True)
    return torch.cat(images), torch.cat(targets)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def same_batches(ours, theirs):
    return all(same(a, b) for a, b in zip(ours, theirs, strict=True))


def together(shares):
    """Put the shards of the ranks together to whole batches."""
    return [
        tuple(torch.cat(parts) for parts in zip(*batch, strict=True))
        for batch in zip(*shares, strict=True)
    ]


@pytest.fixture(params=["memory", "stream", "imagenet"])
def make_loader(request, files):
    """Return make_loader(data_seed, **augmentation), for each kind of loader in turn."""

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


def test_every_image_is_drawn_again_in_every_epoch_and_seed(files):
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


def test_the_global_generator_is_left_alone_and_changes_nothing(make_loader):
    epochs = []
    for seed in (5, 6):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        epochs.append(epoch_of(make_loader(data_seed=0, **ALL)))
        assert torch.equal(torch.get_rng_state(), before)
    assert same(*epochs)


def test_an_epoch_is_drawn_by_place_in_its_order_and_noise_by_batch():
    """The whole rule stands here, so that a seed gives the same batches in every version."""
    images, vary = torch.from_numpy(random_images()), transform(**ALL)
    generator = torch.Generator().manual_seed(mixed_seed(7, 3))
    order = torch.randperm(COUNT, generator=generator)
    choices = vary.draw(COUNT, generator)
    found = memory_loader(7, **ALL).batches(3)
    for number, (batch, targets) in enumerate(found):
        place = slice(number * BATCH, (number + 1) * BATCH)
        chosen = {name: values[place] for name, values in choices.items()}
        generator = torch.Generator().manual_seed(mixed_seed("noise", 7, 3, number))
        noise = vary.draw_noise(BATCH, generator)[: len(targets)]
        assert torch.equal(targets, order[place])
        assert torch.equal(batch, vary(images[order[place]], chosen, noise))
    assert number == 4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_batches_on_a_gpu_but_for_noise():
    images, targets, options = random_images(), np.arange(COUNT), ALL | {"noise": 0}
    loaders = [
        MemoryLoader(
            images, targets, Transform(*[(0.5,) * 3] * 2, SIZE, device, **options), 5, device, 0
        )
        for device in ("cpu", "cuda")
    ]
    for ours, theirs in zip(*(loader.batches(2) for loader in loaders), strict=True):
        assert torch.equal(ours[1], theirs[1].cpu())
        torch.testing.assert_close(ours[0], theirs[0].cpu(), rtol=0, atol=1e-5)


class TestSkipping:
    @pytest.mark.parametrize("seed", [None, 0])
    def test_skipping_gives_the_tail(self, make_loader, seed):
        loader = make_loader(seed, **(ALL if seed is not None else {}))
        whole = list(loader.batches(2))
        for first in range(len(loader) + 1):
            assert same_batches(loader.batches(2, first), whole[first:])

    def test_workers_skip_too(self, files):
        alone = list(stream_loader(files, data_seed=0, **ALL).batches(1))
        helped = stream_loader(files, workers=2, data_seed=0, **ALL)
        for first in (5, 3, 0):
            assert same_batches(helped.batches(1, first), alone[first:])

    def test_only_what_is_given_is_read(self, files):
        read = Recorder(SIZE)
        loader = stream_loader(files, read, data_seed=0, ranks=(1, 2))
        targets = torch.cat([targets for _, targets in loader.batches(0, 3)])
        assert len(targets) == 2 + 1
        assert read.paths == files[targets.numpy()].tolist()


class Recorder(FolderReader):
    def __init__(self, size):
        super().__init__(size, fit=True)
        self.paths = []

    def __call__(self, path, seed=None):
        self.paths.append(path)
        return super().__call__(path, seed)


class TestShares:
    @given(count=st.integers(0, 1000), world_size=st.integers(1, 20))
    def test_the_rule(self, count, world_size):
        parts = [share(count, rank, world_size) for rank in range(world_size)]
        assert [i for part in parts for i in range(count)[part]] == list(range(count))
        lengths = [part.stop - part.start for part in parts]
        assert lengths == sorted(lengths, reverse=True)
        assert lengths[0] - lengths[-1] <= 1

    @pytest.mark.parametrize("world_size", range(1, 6))
    @pytest.mark.parametrize("seed", [None, 0])
    def test_together_they_are_the_batches_of_one_process(self, make_loader, seed, world_size):
        options = ALL if seed is not None else {}
        shares = [
            list(make_loader(seed, ranks=(rank, world_size), **options).batches(1))
            for rank in range(world_size)
        ]
        assert same_batches(together(shares), make_loader(seed, **options).batches(1))
        last = [len(batches[-1][1]) for batches in shares]
        assert last == [[3], [2, 1], [1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0, 0]][world_size - 1]

    @settings(deadline=None, max_examples=50)
    @given(
        count=st.integers(1, 30),
        batch=st.integers(1, 12),
        world_size=st.integers(1, 5),
        data=st.data(),
    )
    def test_of_any_count_from_any_batch_on(self, count, batch, world_size, data):
        whole = list(memory_loader(1, count, batch, **ALL).batches(4))
        first = data.draw(st.integers(0, len(whole)))
        shares = [
            memory_loader(1, count, batch, (rank, world_size), **ALL) for rank in range(world_size)
        ]
        assert all((len(x), x.num_samples, x.batch_size) == (len(whole), count, batch)
                   for x in shares)  # fmt: skip
        assert same_batches(together(x.batches(4, first) for x in shares), whole[first:])

    @pytest.mark.parametrize("seed", [None, 0])
    def test_an_empty_one_has_the_promised_form(self, make_loader, seed):
        loader = make_loader(seed, ranks=(4, 5), **(ALL if seed is not None else {}))
        images, targets = list(loader.batches(0))[-1]
        assert (images.shape, targets.shape) == ((0, 3, SIZE, SIZE), (0,))
        assert (images.dtype, targets.dtype) == (torch.float32, torch.int64)

    def test_workers_give_empty_ones_too(self, files):
        alone = list(stream_loader(files, data_seed=0, ranks=(4, 5), **ALL).batches(0))
        helped = stream_loader(files, workers=2, data_seed=0, ranks=(4, 5), **ALL)
        assert same_batches(helped.batches(0), alone)


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


def test_signals_to_the_workers_cost_no_batch(files):
    many = np.tile(files, 10)
    loader = stream_loader(many, workers=2, data_seed=0)
    expected = list(stream_loader(many, data_seed=0).batches(0))
    batches = loader.batches(0)
    found = [next(batches), next(batches)]  # one of each worker: both have begun
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        for worker in workers:
            os.kill(worker.pid, number)
        found.append(next(batches))
    found += batches
    assert same_batches(found, expected)
    assert all(worker.is_alive() for worker in workers)


ENDS = """
import os, signal
import numpy as np
from torch.utils.data import _utils
from pipelines.images.loaders import StreamLoader

_utils.worker.MP_STATUS_CHECK_INTERVAL = 0.2  # how often a worker looks for its parent; not 5

class Read:
    size = 8
    def __call__(self, path, seed):
        return np.zeros((8, 8, 3), np.uint8)

def run(end):
    loader = StreamLoader(
        np.arange(500), np.arange(500), Read(), lambda pixels, *rest: pixels, 5, "cpu", 2
    )
    batches = loader.batches(0)
    loader.cycle = loader, batches  # as tracebacks make them
    next(batches), next(batches)
    pids = [str(worker.pid) for worker in loader._loader._iterator._workers]
    # Three processes write into one pipe, and PYTHONUNBUFFERED makes print() write word by word.
    os.write(1, (" ".join([end, *pids]) + os.linesep).encode())
    if end == "error":
        raise RuntimeError("on purpose")
    if end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)

for end in ("normal", "error", "kill"):
    if not os.fork():
        run(end)
        break
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_with_the_program_however_it_ends():
    root = Path(__file__).parents[2]
    program = subprocess.Popen(
        [sys.executable, "-c", ENDS], cwd=root, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    lines = [program.stdout.readline().split() for _ in range(3)]
    start = time.monotonic()
    assert {end for end, *_ in lines} == {"normal", "error", "kill"}
    workers = [pid for _, *pids in lines for pid in pids]
    assert len(workers) == 6
    while alive := [pid for pid in workers if is_running(pid)]:
        assert time.monotonic() - start < 20, (alive, lines)
        time.sleep(0.05)
    errors = program.communicate()[1]
    assert errors.count("Traceback") == errors.count("RuntimeError: on purpose") == 1


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False


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


class TestEverything:
    """With all that can be done to images, mixed, and each of them three times."""

    OPTIONS = ALL | {
        "min_scale": 0.3, "rotate": 10.0, "auto_augment": "rand-m9-mstd0.5-inc1", "erasing": 0.5,
        "erasing_mode": "pixel", "repeats": 3, "mixing": Mixing(0.8, 1.0, 0.5, COUNT),
    }  # fmt: skip
    UNMIXED = OPTIONS | {"mixing": None}

    def test_skipping_gives_the_tail(self, make_loader):
        loader = make_loader(0, **self.OPTIONS)
        whole = list(loader.batches(2))
        assert [labels.shape for _, labels in whole] == [(5, COUNT)] * 4 + [(3, COUNT)]
        for first in (5, 3, 1):
            assert same_batches(loader.batches(2, first), whole[first:])

    @pytest.mark.parametrize("world_size", range(2, 6))
    def test_together_shares_are_the_batches_of_one_process(self, make_loader, world_size):
        shares = [
            list(make_loader(0, ranks=(rank, world_size), **self.OPTIONS).batches(1, 1))
            for rank in range(world_size)
        ]
        assert same_batches(together(shares), make_loader(0, **self.OPTIONS).batches(1, 1))
        images, labels = shares[-1][-1]
        assert images.shape == (3 // world_size, 3, SIZE, SIZE)
        assert (labels.shape, labels.dtype) == ((3 // world_size, COUNT), torch.float32)

    def test_from_files_and_by_workers_it_is_as_from_memory(self, files):
        images = decode_all(files, FolderReader(SIZE, fit=True), "files", False)
        memory = MemoryLoader(
            images, np.arange(COUNT), transform(**self.OPTIONS), BATCH, "cpu", data_seed=4
        )
        whole = list(memory.batches(3))
        for workers in (0, 2):
            streamed = stream_loader(files, workers=workers, data_seed=4, **self.OPTIONS)
            assert same_batches(streamed.batches(3), whole)

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_the_same_batches_on_a_gpu_but_for_noise(self):
        options = self.OPTIONS | {"noise": 0, "erasing_mode": "const"}
        images, targets = random_images(), np.arange(COUNT)
        loaders = [
            MemoryLoader(
                images, targets, Transform(*[(0.5,) * 3] * 2, SIZE, device, **options), 5, device, 0
            )
            for device in ("cpu", "cuda")
        ]
        for ours, theirs in zip(*(loader.batches(2) for loader in loaders), strict=True):
            torch.testing.assert_close(ours[1], theirs[1].cpu(), rtol=0, atol=1e-6)
            torch.testing.assert_close(ours[0], theirs[0].cpu(), rtol=0, atol=1e-5)

    def test_no_generator_but_our_own_is_used(self, make_loader):
        epochs = []
        for seed in (5, 6):
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
            epochs.append(epoch_of(make_loader(data_seed=0, **self.OPTIONS)))
            assert torch.equal(torch.get_rng_state(), before[0])
            assert np.array_equal(np.random.get_state()[1], before[1])
            assert random.getstate() == before[2]
        assert same(*epochs)
        assert not same(epochs[0], epoch_of(make_loader(data_seed=0, **self.OPTIONS), 1))

    def test_three_copies_of_a_third_of_the_images_all_different(self, make_loader):
        loader = make_loader(0, **self.UNMIXED)
        seen = set()
        for epoch in range(12):
            images, targets = epoch_of(loader, epoch)
            assert len(targets) == loader.num_samples == COUNT
            groups = targets.split(3)
            assert all((group == group[0]).all() for group in groups)
            assert len({int(group[0]) for group in groups}) == len(groups) == 8
            for group in images[:21].reshape(7, 3, -1):
                assert not any(torch.equal(group[a], group[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
            seen |= {*targets.tolist()}
        assert len(seen) == COUNT

    @pytest.mark.parametrize("world_size", [1, 2])
    def test_the_order_is_that_of_timms_sampler(self, make_loader, world_size):
        """It deals the places out one by one, and here each batch is cut into shares."""
        timm = pytest.importorskip("timm.data.distributed_sampler")
        for epoch in (1, 2):
            dealt = []
            for rank in range(world_size):
                sampler = timm.RepeatAugSampler(range(COUNT), world_size, rank, num_repeats=3)
                sampler.set_epoch(mixed_seed(0, epoch))
                dealt.append(list(sampler))
            expected = [image for images in zip(*dealt, strict=True) for image in images]
            shares = [
                list(make_loader(0, ranks=(rank, world_size), **self.UNMIXED).batches(epoch))
                for rank in range(world_size)
            ]
            found = torch.cat([targets for _, targets in together(shares)])
            assert found.tolist() == expected[:COUNT]

    def test_copies_are_cropped_differently_while_they_are_read(self, files):
        read = ImageNetReader(SIZE)
        images, _ = epoch_of(stream_loader(files, read, data_seed=0, repeats=3))
        for group in images[:21].reshape(7, 3, -1):
            assert not any(torch.equal(group[a], group[b]) for a, b in ((0, 1), (0, 2), (1, 2)))

    def test_with_several_processes_partners_are_read_too(self, files):
        read = Recorder(SIZE)
        mixing = {"mixing": Mixing(0.8, 0.0, 0.5, COUNT)}
        loader = stream_loader(files, read, data_seed=0, ranks=(0, 2), **mixing)
        batches = list(loader.batches(0, 3))
        assert [len(images) for images, _ in batches] == [3, 2]
        assert len(read.paths) == 2 * (3 + 2)


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

    @pytest.mark.parametrize("filter_name", ["bilinear", "bicubic"])
    def test_other_crops_and_filters_are_torchvisions(self, path, filter_name):
        interpolation = transforms.InterpolationMode(filter_name)
        reference = transforms.Compose(
            [
                transforms.RandomResizedCrop(32, (0.5, 1.0), interpolation=interpolation),
                transforms.RandomHorizontalFlip(),
            ]
        )
        middle = transforms.Compose(
            [transforms.Resize(232, interpolation), transforms.CenterCrop(224)]
        )
        with Image.open(path) as image:
            for seed in range(5):
                torch.manual_seed(seed)
                read = ImageNetReader(32, interpolation=filter_name, min_scale=0.5)
                assert np.array_equal(read(path, seed), np.asarray(reference(image)))
            read = ImageNetReader(224, 232, filter_name)
            assert np.array_equal(read(path), np.asarray(middle(image)))

    def test_evaluation_is_the_middle_of_a_slightly_larger_image(self, path):
        reference = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
        with Image.open(path) as image:
            expected = np.asarray(reference(image))
        assert np.array_equal(ImageNetReader(224)(path), expected)


@pytest.mark.slow
def test_ten_times_as_fast_as_torchvision_one_image_at_a_time():
    """Processor time on one thread is measured, so that it holds on a busy machine too."""
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
