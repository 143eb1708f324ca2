"""Loaders yield the right tokens as inputs and as targets, as often as they say."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset import load_text
from pipelines.text.loaders import (
    IGNORED,
    EvalLoader,
    InsideEvalLoader,
    InsideTrainLoader,
    TrainLoader,
    document_starts,
)
from pipelines.text.token_folders import Counts

lengths = st.integers(2, 60)
blocks = st.integers(1, 20)
batches = st.integers(1, 7)
COUNTS = Counts(tokens=1, words=1, bytes=1)


def train_loader(length, block_size, batch_size=3, data_seed=0, device="cpu", ranks=(0, 1)):
    ids = np.arange(length, dtype=np.uint16)  # every token is its own place
    return TrainLoader(ids, COUNTS, block_size, batch_size, device, data_seed, *ranks)


def eval_loader(length, block_size, batch_size, stride, ranks=(0, 1)):
    ids = np.arange(length, dtype=np.uint16)
    return EvalLoader(ids, COUNTS, block_size, batch_size, "cpu", stride, *ranks)


def epoch_of(loader, epoch=0):
    inputs, targets = zip(*loader.batches(epoch), strict=True)
    return torch.cat(inputs), torch.cat(targets)


class TestTraining:
    @given(length=lengths, block_size=blocks, batch_size=batches, seed=st.integers(0, 5))
    def test_every_token_is_a_target_and_few_are_twice(self, length, block_size, batch_size, seed):
        loader = train_loader(length, block_size, batch_size, seed)
        for epoch in range(2):
            _, targets = epoch_of(loader, epoch)
            times = np.bincount(targets.flatten().numpy(), minlength=length)
            assert times.min() >= 1
            assert times.sum() - length < block_size

    @given(length=lengths, block_size=blocks, epoch=st.integers(0, 9))
    def test_a_target_follows_its_input_around_the_ring(self, length, block_size, epoch):
        inputs, targets = epoch_of(train_loader(length, block_size), epoch)
        assert torch.equal(targets, (inputs + 1) % length)
        assert torch.equal(inputs[:, 1:], targets[:, :-1])

    @given(length=lengths, block_size=blocks, batch_size=batches)
    def test_the_form_of_batches(self, length, block_size, batch_size):
        loader = train_loader(length, block_size, batch_size)
        got = list(loader.batches(3))
        assert len(got) == len(loader)
        assert sum(len(inputs) for inputs, _ in got) == loader.num_samples
        assert all(len(inputs) == batch_size for inputs, _ in got[:-1])
        for batch in got:
            for tensor in batch:
                assert tensor.dtype == torch.int64
                assert tensor.shape[1] == block_size
                assert tensor.is_contiguous()

    def test_epochs_and_seeds_differ_and_repeat(self):
        def of(seed, epoch):
            return epoch_of(train_loader(10_000, 16, data_seed=seed), epoch)[0]

        assert torch.equal(of(0, 0), of(0, 0))
        assert not torch.equal(of(0, 0), of(0, 1))
        assert not torch.equal(of(0, 0), of(1, 0))
        assert not torch.equal(of(0, 1), of(1, 0))

    def test_blocks_begin_at_another_place_in_every_epoch(self):
        loader = train_loader(10_000, 16)
        offsets = {int(epoch_of(loader, epoch)[0].min(1).values[0]) % 16 for epoch in range(40)}
        assert len(offsets) > 8

    def test_the_order_does_not_depend_on_the_batch_size(self):
        small, large = train_loader(1000, 16, 2), train_loader(1000, 16, 11)
        assert torch.equal(epoch_of(small)[0], epoch_of(large)[0])

    def test_the_global_generator_is_left_alone_and_changes_nothing(self):
        epochs = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            epochs.append(epoch_of(train_loader(100, 8))[0])
            assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(*epochs)

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_the_same_batches_on_a_gpu(self):
        cpu, gpu = train_loader(1000, 16), train_loader(1000, 16, device="cuda")
        for x, y in zip(epoch_of(cpu), epoch_of(gpu), strict=True):
            assert torch.equal(x, y.cpu())


def windows_of(length, block_size, stride):
    """Return (first input, scored targets) of every window, found one token at a time."""
    windows, scored, start = [], 0, 0
    while scored < length - 1:
        last = min(start + block_size, length - 1)
        windows.append((start, list(range(scored + 1, last + 1))))
        scored, start = last, start + stride
    return windows


class TestEvaluation:
    @given(data=st.data(), length=lengths, block_size=blocks, batch_size=batches)
    def test_every_token_once_with_the_windows_said(self, data, length, block_size, batch_size):
        stride = data.draw(st.integers(1, block_size))
        loader = eval_loader(length, block_size, batch_size, stride)
        inputs, targets = epoch_of(loader)
        kept = targets != IGNORED
        assert targets[kept].tolist() == list(range(1, length))
        assert torch.equal(inputs[kept] + 1, targets[kept])
        found = [(int(x[0]), t[k].tolist()) for x, t, k in zip(inputs, targets, kept, strict=True)]
        assert found == windows_of(length, block_size, stride)
        assert (len(inputs), len(inputs[0])) == (loader.num_samples, block_size)
        assert len(list(loader.batches(0))) == len(loader)

    @given(data=st.data(), length=lengths, block_size=blocks)
    def test_a_scored_token_sees_all_of_its_window_before_it(self, data, length, block_size):
        stride = data.draw(st.integers(1, block_size))
        inputs, targets = epoch_of(eval_loader(length, block_size, 4, stride))
        for x, t in zip(inputs, targets, strict=True):
            last = int((t != IGNORED).nonzero().max())
            assert x[: last + 1].tolist() == list(range(int(x[0]), int(x[0]) + last + 1))

    def test_it_is_the_same_in_every_epoch(self):
        loader = eval_loader(50, 7, 2, 3)
        for x, y in zip(epoch_of(loader, 0), epoch_of(loader, 1), strict=True):
            assert torch.equal(x, y)


def same_batches(ours, theirs):
    return all(
        torch.equal(x, y)
        for a, b in zip(ours, theirs, strict=True)
        for x, y in zip(a, b, strict=True)
    )


class Recorded:
    """Note which of the ids are read."""

    def __init__(self, ids):
        self.ids, self.read = ids, []

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, places):
        self.read += places.flatten().tolist()
        return self.ids[places]


@pytest.mark.parametrize("kind", ["train", "eval"])
class TestSharesAndSkipping:
    def loader(self, kind, length, block_size, batch_size, ranks=(0, 1)):
        if kind == "train":
            return train_loader(length, block_size, batch_size, data_seed=3, ranks=ranks)
        return eval_loader(length, block_size, batch_size, (block_size + 1) // 2, ranks)

    @given(
        length=lengths, block_size=blocks, batch_size=batches, world_size=st.integers(1, 5),
        data=st.data(),
    )  # fmt: skip
    def test_together_they_are_the_tail_of_one_process(
        self, kind, length, block_size, batch_size, world_size, data
    ):
        one = self.loader(kind, length, block_size, batch_size)
        whole = list(one.batches(2))
        first = data.draw(st.integers(0, len(whole)))
        shares = []
        for rank in range(world_size):
            loader = self.loader(kind, length, block_size, batch_size, (rank, world_size))
            assert (len(loader), loader.num_samples) == (len(one), one.num_samples)
            shares.append(list(loader.batches(2, first)))
        together = [
            [torch.cat(parts) for parts in zip(*batch, strict=True)]
            for batch in zip(*shares, strict=True)
        ]
        assert same_batches(together, whole[first:])
        for batch in zip(*shares, strict=True):
            sizes = [len(inputs) for inputs, _ in batch]
            assert sizes == sorted(sizes, reverse=True)
            assert sizes[0] - sizes[-1] <= 1
            for inputs, targets in batch:
                assert inputs.shape == targets.shape == (len(inputs), block_size)
                assert inputs.dtype == targets.dtype == torch.int64

    def test_only_what_is_given_is_read(self, kind):
        loader = self.loader(kind, 1000, 8, 10, (1, 3))
        loader._ids = Recorded(loader._ids)
        batches = loader.batches(0, 4)
        assert not loader._ids.read
        inputs, _ = next(batches)
        assert inputs.shape == (3, 8)  # of 4 + 3 + 3
        assert sorted(loader._ids.read) == sorted(
            i % 1000 for window in inputs.tolist() for i in range(window[0], window[0] + 9)
        )


def test_the_front_door_gives_shares(tmp_path):
    for stem in ("train", "valid", "test"):
        (tmp_path / f"{stem}.txt").write_text(f"The {stem}ing text.\n" * 20)

    def load(**ranks):
        options = {"tokenizer": "bytes", "block_size": 8, "batch_size": 5}
        return load_text("text", tmp_path, **options, **ranks)

    one, two = load(), [load(rank=rank, world_size=2) for rank in range(2)]
    for split in ("train", "val", "test"):
        shares = [getattr(data, split).batches(1) for data in two]
        together = [map(torch.cat, zip(*batch, strict=True)) for batch in zip(*shares, strict=True)]
        assert same_batches(together, getattr(one, split).batches(1))


END = 999  # of text
document_lengths = st.lists(st.integers(0, 25), min_size=1, max_size=6).filter(any)


def documents_of(lengths):
    """Return ids of documents, each token of which is its own place, END in front of each."""
    ids, starts = [], []
    for length in lengths:
        starts.append(len(ids))
        ids += [END, *range(len(ids) + 1, len(ids) + 1 + length)]
    return np.array(ids, np.uint16), starts


def windows_inside(ids, starts, block_size, stride, is_ring):
    """Return (inputs, targets) of each window, found one document and one token at a time."""
    found = []
    for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
        tokens = ids[start:end].tolist() + ([END] if end < len(ids) or is_ring else [])
        place, scored = 0, 1
        while scored < len(tokens):
            inputs = tokens[place : min(place + block_size, len(tokens) - 1)]
            targets = [IGNORED] * (scored - place - 1) + tokens[scored : place + block_size + 1]
            padding = block_size - len(inputs)
            found.append((inputs + [END] * padding, targets + [IGNORED] * padding))
            place, scored = place + stride, place + block_size + 1
    return found


class TestInsideDocuments:
    @settings(deadline=None)
    @given(data=st.data(), lengths=document_lengths, block_size=blocks, batch_size=batches)
    def test_evaluation(self, data, lengths, block_size, batch_size):
        stride = data.draw(st.integers(1, block_size))
        ids, starts = documents_of(lengths)
        places = document_starts(ids, END)
        assert places.tolist() == starts
        loader = InsideEvalLoader(ids, COUNTS, block_size, batch_size, "cpu", places, stride)
        inputs, targets = epoch_of(loader)
        expected = windows_inside(ids, starts, block_size, stride, is_ring=False)
        assert [(x, y) for x, y in zip(inputs.tolist(), targets.tolist(), strict=True)] == expected
        scored = epoch_of(EvalLoader(ids, COUNTS, block_size, batch_size, "cpu", stride))[1]
        assert torch.equal(targets[targets != IGNORED], scored[scored != IGNORED])

    @settings(deadline=None, max_examples=50)
    @given(lengths=document_lengths, block_size=blocks, batch_size=batches)
    def test_training(self, lengths, block_size, batch_size):
        ids, starts = documents_of(lengths)
        places = document_starts(ids, END)
        loader = InsideTrainLoader(ids, COUNTS, block_size, batch_size, "cpu", places, 0)
        expected = windows_inside(ids, starts, block_size, block_size, is_ring=True)
        inputs, targets = epoch_of(loader, 1)
        got = [(x, y) for x, y in zip(inputs.tolist(), targets.tolist(), strict=True)]
        assert sorted(got) == sorted(expected)
        assert int((targets != IGNORED).sum()) == len(ids)
        assert loader.targets_per_block == pytest.approx(len(ids) / len(expected))
        rest = list(loader.batches(1, 1))
        assert same_batches(rest, list(loader.batches(1))[1:])
        parts = [InsideTrainLoader(ids, COUNTS, block_size, batch_size, "cpu", places, 0, rank, 2)
                 for rank in (0, 1)]  # fmt: skip
        shared = [
            torch.cat([a, b]) for (_, a), (_, b) in zip(*(p.batches(1) for p in parts), strict=True)
        ]
        assert torch.equal(torch.cat(shared), targets)
