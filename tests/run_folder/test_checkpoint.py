"""Checkpoints are written whole, and read back as they were written or not at all."""

import errno
import multiprocessing
import os
import pickle
import random
import re
import resource
import time
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

from run_folder.checkpoint import load_checkpoint, save_checkpoint
from training.random_state import random_state, set_random_state
from utils import UserError

CPU = torch.device("cpu")
fork = multiprocessing.get_context("fork")


def trained_content():
    """Return the content of a small checkpoint."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 6)).sum().backward()
    optimizer.step()
    return {
        "settings": {"model": "small", "args": {"lr": 1e-3, "betas": (0.9, 0.99), "seed": None}},
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "records": [{"epoch": 1, "loss": float("inf"), "σ": 0.5}],
        "ranks": [{"random": random_state(CPU), "totals": torch.zeros(700, dtype=torch.float64)}],
    }


def same(one, other):
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.fixture(scope="module")
def content():
    return trained_content()


@pytest.fixture(scope="module")
def saved(content, tmp_path_factory):
    """The bytes of a checkpoint."""
    path = tmp_path_factory.mktemp("whole") / "checkpoint.pt"
    save_checkpoint(path, content)
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pt"]
    assert same(content, load_checkpoint(path))
    return path.read_bytes()


def refusal(path):
    with pytest.raises(UserError) as refused:
        load_checkpoint(path)
    message = str(refused.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    return message


# --- damage ---


def assert_harmless(path, damaged, content):
    """Refused, or read as if nothing had happened; says which."""
    path.write_bytes(damaged)
    for count in (3, 5, 15, 30, 1400):  # freed at once: a tensor that is never filled shows it
        torch.full((count,), 7.25)
    message = None
    try:
        loaded = load_checkpoint(path)
    except UserError as error:
        message = str(error)
    if message is None:
        assert same(content, loaded)
        return "read"
    assert message.startswith(f"{path}: not a readable checkpoint (")
    assert message.isprintable()
    return "refused"


def flipped(whole, bit):
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def test_a_flipped_bit_changes_nothing_or_is_refused(saved, content, tmp_path):
    bits = random.Random(0).sample(range(len(saved) * 8), 300)
    outcomes = [assert_harmless(tmp_path / "it.pt", flipped(saved, bit), content) for bit in bits]
    assert 50 < outcomes.count("refused") < 300  # the rest is padding


def test_a_flipped_bit_in_the_table_of_contents_does_too(saved, content, tmp_path):
    """Among them the attribute that makes a folder of a tensor, which torch then does not read."""
    start = saved.rindex(b"PK\x01\x02")
    whole = range(saved.index(b"PK\x01\x02") * 8, len(saved) * 8)
    entry = range(start * 8, saved.index(b"PK", start + 2) * 8)
    for bit in {*random.Random(0).sample(whole, 200), *entry}:
        assert_harmless(tmp_path / "it.pt", flipped(saved, bit), content)


def test_every_entry_marked_as_a_folder_is_refused(saved, content, tmp_path):
    attributes = 38  # where they are in an entry
    starts = [match.start() for match in re.finditer(b"PK\x01\x02", saved)]
    assert len(starts) > 20
    for start in starts:
        damaged = flipped(saved, (start + attributes) * 8 + 4)
        assert assert_harmless(tmp_path / "it.pt", damaged, content) == "refused"


def test_lost_and_exchanged_blocks_change_nothing_or_are_refused(saved, content, tmp_path):
    path, block = tmp_path / "it.pt", 512
    starts = range(0, len(saved), block)
    for start in starts:
        end = min(start + block, len(saved))
        empty = saved[:start] + bytes(end - start) + saved[end:]
        assert_harmless(path, empty, content)
        other = random.Random(start).choice(starts[:-1])
        copied = (saved[:start] + saved[other : other + block] + saved[end:])[: len(saved)]
        assert_harmless(path, copied, content)


def test_a_truncated_checkpoint_is_refused(saved, content, tmp_path):
    lengths = [*range(0, len(saved), 199), *range(len(saved) - 30, len(saved))]
    for length in lengths:
        assert assert_harmless(tmp_path / "it.pt", saved[:length], content) == "refused"


@pytest.mark.parametrize("count", [1, 22, 1000, 70_000])
def test_bytes_that_were_appended_do_no_harm(saved, content, tmp_path, count):
    assert_harmless(tmp_path / "it.pt", saved + random.Random(0).randbytes(count), content)


# --- files of others ---


def test_files_that_are_no_checkpoints_are_refused_in_one_line(tmp_path):
    path = tmp_path / "it.pt"
    assert "no such file" in refusal(path)
    path.mkdir()
    assert "not a readable checkpoint (Is a directory)" in refusal(path)
    path.rmdir()
    for content in (
        b"",
        b"hello\n",
        b"PK\x03\x04broken",
        pickle.dumps({"settings": 1, "model": 2}),
    ):
        path.write_bytes(content)
        assert "not a readable checkpoint (File is not a zip file)" in refusal(path)
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("word/document.xml", "text " * 100)
        assert "not a readable checkpoint" in refusal(path)
    torch.save({"weights": torch.zeros(1)}, path)
    assert "not a checkpoint of this project" in refusal(path)
    torch.save(nn.Linear(1, 1), path)
    assert "it holds other things than plain values and tensors" in refusal(path)
    torch.save({"settings": {}, "model": {}}, path, _use_new_zipfile_serialization=False)
    assert "not a readable checkpoint" in refusal(path)


class Hostile:
    """Makes a file where it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    path, ran = tmp_path / "it.pt", tmp_path / "ran"
    content = {"settings": Hostile(ran), "model": {}}
    torch.save(content, path)  # an archive in order, checksums and all
    assert "other things than plain values" in refusal(path)
    path.write_bytes(pickle.dumps(content))
    refusal(path)
    torch.save(content, path, _use_new_zipfile_serialization=False)
    refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(content, protocol=2))
        archive.writestr("archive/version", "3\n")
    refusal(path)
    assert not ran.exists()
    with pytest.raises(pickle.UnpicklingError, match="Weights only"):
        torch.load(path, weights_only=True)
    torch.load(path, weights_only=False)
    assert ran.exists()  # it was code


# --- writing ---


def refused_save(path, content):
    with pytest.raises(UserError) as refused:
        save_checkpoint(path, content)
    message = str(refused.value)
    assert message.startswith(f"{path}: the checkpoint could not be saved (")
    assert message.isprintable()
    assert message.endswith("then go on with --resume")
    return message


@contextmanager
def files_no_longer_than(size):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_short_write_anywhere_keeps_the_checkpoint_before(saved, content, tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, content)
    for size in [*range(0, len(saved), 331), len(saved) - 1]:
        with files_no_longer_than(size):
            message = refused_save(path, {**content, "more": 1})
        assert "(File too large), the one before is kept" in message
        assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert same(content, load_checkpoint(path))


def test_a_full_disk_keeps_the_checkpoint_before(mounted, content):
    folder, _ = mounted
    path, large = folder / "checkpoint.pt", {**content, "more": torch.zeros(300_000)}
    assert "(No space left on device), there is none before it" in refused_save(path, large)
    save_checkpoint(path, content)
    assert "(No space left on device), the one before is kept" in refused_save(path, large)
    assert same(content, load_checkpoint(path))
    with suppress(OSError), open(folder / "rest", "wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))
    assert "(No space left on device), the one before is kept" in refused_save(path, content)
    assert {file.name for file in folder.iterdir()} == {"checkpoint.pt", "rest"}
    assert same(content, load_checkpoint(path))


def test_a_read_only_or_missing_folder_is_named(mounted, content):
    folder, mount = mounted
    save_checkpoint(folder / "checkpoint.pt", content)
    mount("remount,ro")
    message = refused_save(folder / "checkpoint.pt", content)
    assert "(Read-only file system), the one before is kept" in message
    message = refused_save(folder / "gone" / "checkpoint.pt", content)
    assert "(No such file or directory), there is none before it" in message


def test_a_failing_rename_leaves_no_temporary_file(tmp_path, content, monkeypatch):
    def replace(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", replace)
    assert "(Input/output error)" in refused_save(tmp_path / "checkpoint.pt", content)
    assert not list(tmp_path.iterdir())


def test_what_is_no_fault_of_the_disk_is_not_blamed_on_it(tmp_path):
    shared = torch.zeros(4)
    twice = {"one": shared, "other": shared.view(torch.int32)}
    with pytest.raises(RuntimeError, match="view the same data as different types"):
        save_checkpoint(tmp_path / "checkpoint.pt", twice)
    assert not list(tmp_path.iterdir())


def test_a_path_may_have_any_letters(tmp_path, content):
    folder = tmp_path / "Läufe σ"
    folder.mkdir()
    save_checkpoint(folder / "checkpoint.pt", content)
    assert same(content, load_checkpoint(folder / "checkpoint.pt"))


def save_for_ever(path, content):
    number = 0
    while True:
        number += 1
        save_checkpoint(path, {**content, "number": number, "again": torch.full((9999,), number)})


def test_a_kill_during_saving_leaves_a_whole_checkpoint(tmp_path, content):
    path, moments, left = tmp_path / "checkpoint.pt", random.Random(0), 0
    save_checkpoint(path, {**content, "number": 0, "again": torch.zeros(9999)})
    for _ in range(15):
        process = fork.Process(target=save_for_ever, args=(path, content), daemon=True)
        process.start()
        time.sleep(moments.uniform(0.02, 0.08))
        process.kill()
        process.join()
        left += Path(f"{path}.tmp").exists()
        loaded = load_checkpoint(path)
        assert (loaded["again"] == loaded["number"]).all()
        assert same(content, {name: loaded[name] for name in content})
    assert left  # some were killed while they wrote
    save_checkpoint(path, content)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


# --- random generators ---


def draws(device=CPU):
    numbers = [random.random(), random.gauss(0, 1), random.getrandbits(70)]
    numbers += [numpy.random.rand(), numpy.random.randn(), int(numpy.random.randint(1000))]
    return numbers + torch.randn(20).tolist() + torch.randn(20, device=device).tolist()


def restored(path, device):
    save_checkpoint(path, {"settings": {}, "model": {}, "random": random_state(device)})
    return load_checkpoint(path)["random"]


@pytest.mark.parametrize("normals", [0, 1, 2])
def test_draws_go_on_where_they_stopped(tmp_path, normals):
    """Python and NumPy draw normal numbers in pairs, and keep the second for the next time."""
    random.seed(1)
    numpy.random.seed(2)
    torch.manual_seed(3)
    for _ in range(normals):
        random.gauss(0, 1)
        numpy.random.randn()
    assert (
        (random.getstate()[2] is not None) == (numpy.random.get_state()[3] == 1) == (normals == 1)
    )
    state = restored(tmp_path / "checkpoint.pt", CPU)
    following = draws()
    random.seed(7)
    numpy.random.seed(7)
    torch.manual_seed(7)
    assert draws() != following
    for _ in range(2):
        set_random_state(state, CPU)
        assert draws() == following


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_draws_on_cuda_go_on_too_and_are_left_alone_by_a_state_of_a_cpu(tmp_path):
    device = torch.device("cuda")
    torch.manual_seed(3)
    torch.randn(5, device=device)
    state = restored(tmp_path / "checkpoint.pt", device)
    following = draws(device)
    set_random_state(state, device)
    assert draws(device) == following
    torch.manual_seed(8)
    seeded = torch.randn(9, device=device)
    torch.manual_seed(8)
    set_random_state(random_state(CPU), device)
    assert torch.equal(torch.randn(9, device=device), seeded)
    set_random_state(state, CPU)
