"""Two processes cannot write one run folder, and a dead one does not keep others out."""

import errno
import fcntl
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from run_folder import lock
from run_folder.lock import FolderLock
from utils import UserError

fork = multiprocessing.get_context("fork")


@pytest.fixture
def start():
    """Run a function in a fork, with the end of a pipe as its last argument; gives the process
    and the other end."""
    processes = []

    def start(function, *arguments):
        mine, theirs = fork.Pipe()
        process = fork.Process(target=function, args=(*arguments, theirs), daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
        return process, mine

    yield start
    for process in processes:
        process.kill()
        process.join()


def hold(path, pipe):
    """Report `held` and stay, or report the error."""
    try:
        with FolderLock(path):
            pipe.send("held")
            with suppress(EOFError):
                pipe.recv()
    except UserError as error:
        pipe.send(str(error))


def kill(process):
    process.kill()
    process.join()


@pytest.fixture
def quick(monkeypatch):
    """Seconds become fractions."""
    for name, seconds in (("HEARTBEAT", 0.05), ("STALE", 0.4), ("SETTLE", 0.15), ("POLL", 0.01)):
        monkeypatch.setattr(lock, name, seconds)


def name_of(host="elsewhere", pid=77):
    return json.dumps({"host": host, "pid": pid, "since": "2026-01-02 03:04:05", "id": "x"})


def left_behind(folder, text):
    """A lock file that nobody has open."""
    folder.mkdir(exist_ok=True)
    (folder / "lock").write_text(text)
    return folder / "lock"


# --- one at a time ---


def test_the_second_process_is_refused_in_one_line(tmp_path, start):
    process, pipe = start(hold, tmp_path)
    assert pipe.recv() == "held"
    since = json.loads((tmp_path / "lock").read_text())["since"]
    with pytest.raises(UserError) as refused, FolderLock(tmp_path):
        pass
    assert str(refused.value) == (
        f"{tmp_path}: another process (pid {process.pid} on {socket.gethostname()}, since {since}) "
        "writes to this folder; wait for it, stop it, or choose another --output_dir"
    )
    pipe.send("end")
    process.join()
    with FolderLock(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_process_excludes_itself(tmp_path):
    with FolderLock(tmp_path), pytest.raises(UserError, match=f"pid {os.getpid()} "):
        FolderLock(tmp_path).__enter__()


def test_a_killed_holder_is_recognised_at_once(tmp_path, start):
    process, pipe = start(hold, tmp_path)
    assert pipe.recv() == "held"
    kill(process)
    started = time.monotonic()
    with FolderLock(tmp_path):
        assert time.monotonic() - started < 0.5
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "lock").exists()


def contend(path, barrier, pipe):
    barrier.wait()
    hold(path, pipe)


def winner(start, path, count=8, contend=contend):
    """Return the only one of `count` processes, started at once on a folder, that gets it."""
    barrier = fork.Barrier(count)
    contenders = [start(contend, path, barrier) for _ in range(count)]
    answers = [pipe.recv() for _, pipe in contenders]
    assert answers.count("held") == 1, answers
    assert sum("writes to this folder" in answer for answer in answers) == count - 1
    return contenders[answers.index("held")]


def test_one_of_eight_wins_a_free_folder(tmp_path, start):
    for _ in range(4):
        process, pipe = winner(start, tmp_path / "new" / "run")
        pipe.send("end")
        process.join()


def test_one_of_eight_wins_a_stale_lock(tmp_path, start):
    for _ in range(4):
        process, _ = winner(start, tmp_path)
        kill(process)


def test_one_of_eight_wins_an_empty_lock(tmp_path, start, quick):
    left_behind(tmp_path, "")
    winner(start, tmp_path)


def from_other_hosts(path, barrier, pipe):
    socket.gethostname = lambda: f"host{os.getpid()}"
    contend(path, barrier, pipe)


@pytest.mark.parametrize("kernel", ["has no locks", "keeps locks within a machine"])
def test_one_of_eight_machines_wins_a_stale_lock(tmp_path, start, quick, monkeypatch, kernel):
    def flock(*_):
        if kernel == "has no locks":
            raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(lock, "STALE", 1.2)  # longer than the winner needs to settle
    monkeypatch.setattr(lock, "SETTLE", 0.6)  # for a busy machine
    left_behind(tmp_path, name_of())
    winner(start, tmp_path, contend=from_other_hosts)


def test_a_kill_at_any_moment_leaves_the_folder_free(tmp_path, start, quick, monkeypatch):
    monkeypatch.setattr(lock, "SETTLE", 0.05)

    def work(pipe):
        while True:
            with FolderLock(tmp_path / "run"):
                pass

    moments = random.Random(0)
    for _ in range(15):
        process, _ = start(work)
        time.sleep(moments.uniform(0.003, 0.03))
        kill(process)
        with FolderLock(tmp_path / "run"):
            pass


def test_a_lock_that_goes_between_looking_and_locking_is_not_taken(tmp_path, monkeypatch):
    """Whoever opened it would hold a file that no other process finds."""
    file, lock_it = left_behind(tmp_path, name_of(socket.gethostname())), fcntl.flock

    def flock(*arguments):
        monkeypatch.undo()
        file.unlink()
        lock_it(*arguments)

    monkeypatch.setattr(fcntl, "flock", flock)
    with FolderLock(tmp_path), pytest.raises(UserError, match=f"pid {os.getpid()} "):
        FolderLock(tmp_path).__enter__()


# --- forked children, such as a data loader's workers ---


def hold_with_a_child(path, pipe):
    with FolderLock(path):
        child = os.fork()
        if not child:
            pipe.close()
            time.sleep(60)
            os._exit(0)
        pipe.send(child)
        time.sleep(60)


def test_children_that_outlive_the_holder_do_not_hold_the_lock(tmp_path, start):
    process, pipe = start(hold_with_a_child, tmp_path)
    child = pipe.recv()
    try:
        with pytest.raises(UserError, match="another process"):
            FolderLock(tmp_path).__enter__()
        kill(process)
        started = time.monotonic()
        with FolderLock(tmp_path):
            assert time.monotonic() - started < 0.5
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_child_that_leaves_the_block_does_not_end_its_parents_lock(tmp_path, start):
    with FolderLock(tmp_path / "run") as held:
        process, _ = start(lambda pipe: held.__exit__())
        process.join()
        assert process.exitcode == 0
        _, pipe = start(hold, tmp_path / "run")
        assert f"pid {os.getpid()} " in pipe.recv()


# --- other machines ---


def test_another_machines_dead_lock_is_taken_over_after_a_while(tmp_path, quick, capsys):
    left_behind(tmp_path, name_of())
    started = time.monotonic()
    with FolderLock(tmp_path):
        assert time.monotonic() - started > lock.STALE
    assert capsys.readouterr().out == (
        f"waiting up to 0.4 s for a sign of life of the process that locked {tmp_path} (pid 77 on "
        "elsewhere, since 2026-01-02 03:04:05)\n"
    )


def later(action, seconds=0.2):
    thread = threading.Timer(seconds, action)
    thread.start()
    return thread


def test_another_machines_living_lock_is_respected(tmp_path, quick):
    file = left_behind(tmp_path, name_of())
    heart = later(lambda: os.utime(file))
    with pytest.raises(UserError, match=r"pid 77 on elsewhere, since 2026-01-02 03:04:05\) writes"):
        FolderLock(tmp_path).__enter__()
    heart.join()
    assert file.read_text() == name_of()


def test_another_machines_lock_may_be_given_back_meanwhile(tmp_path, quick):
    left_behind(tmp_path, name_of())
    later(lambda: (tmp_path / "lock").unlink())
    with FolderLock(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_of_two_machines_that_take_over_at_once_the_last_has_it(tmp_path, quick, monkeypatch):
    file, write_name = left_behind(tmp_path, name_of()), FolderLock._write_name
    hearts = []

    def overtaken(self):
        write_name(self)
        file.write_text(name_of(pid=78))
        hearts.append(later(lambda: os.utime(file), 2 * lock.SETTLE))

    monkeypatch.setattr(FolderLock, "_write_name", overtaken)
    with pytest.raises(UserError, match="pid 78 on elsewhere"):
        FolderLock(tmp_path).__enter__()
    hearts[0].join()
    assert file.read_text() == name_of(pid=78)


def test_without_kernel_locks_the_heartbeat_decides(tmp_path, quick, monkeypatch, start):
    def flock(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", flock)
    process, pipe = start(hold, tmp_path)
    assert pipe.recv() == "held"
    with pytest.raises(UserError, match=f"pid {process.pid} "):
        FolderLock(tmp_path).__enter__()
    kill(process)
    with FolderLock(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", '{"host": "elsewh', "not ours", "[1]", "\x00" * 90, "\udcff"])
def test_a_half_written_lock_is_given_time_and_then_taken_over(tmp_path, quick, text):
    left_behind(tmp_path, "").write_bytes(text.encode(errors="surrogateescape"))
    started = time.monotonic()
    with FolderLock(tmp_path):
        assert time.monotonic() - started > lock.SETTLE


def test_a_lock_that_is_being_written_is_respected(tmp_path, quick):
    file = left_behind(tmp_path, "")
    with open(file, "r+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        writer = later(lambda: file.write_text(name_of()), 0.1)
        with pytest.raises(UserError, match="pid 77"):
            FolderLock(tmp_path).__enter__()
        writer.join()


# --- the heartbeat ---


def beats(file):
    before = file.stat().st_mtime_ns
    time.sleep(0.2)
    return file.stat().st_mtime_ns != before


def test_the_heart_beats_and_survives_a_full_disk(tmp_path, quick, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    file = tmp_path / "lock"
    with FolderLock(tmp_path):
        assert beats(file)
        with monkeypatch.context() as patch:
            patch.setattr(os, "utime", full)
            assert not beats(file)
        assert beats(file)


def test_a_lock_that_was_taken_over_is_left_alone(tmp_path, quick):
    file = tmp_path / "lock"
    with FolderLock(tmp_path):
        file.write_text(name_of())
        assert not beats(file)
    assert file.read_text() == name_of()


def test_the_heart_does_not_keep_the_process_alive(tmp_path):
    code = "FolderLock(sys.argv[1]).__enter__(); assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", f"import sys; from run_folder.lock import FolderLock; {code}"]
    root = Path(__file__).parents[2]
    subprocess.run([*command, tmp_path], cwd=root, check=True, timeout=5)
    with FolderLock(tmp_path):  # which a process that just ends leaves free
        pass


# --- the folder ---


def test_made_folders_are_removed_if_nothing_came_into_them(tmp_path):
    with FolderLock(tmp_path / "a" / "b" / "c"):
        (tmp_path / "a" / "args.txt").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["args.txt"]
    (tmp_path / "empty").mkdir()
    with FolderLock(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").exists()


def test_an_error_inside_goes_on_and_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), FolderLock(tmp_path / "run"):
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_the_working_directory_may_change(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with FolderLock("run"):
        assert (tmp_path / "run" / "lock").exists()
        monkeypatch.chdir("/")
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match=f"^{path}: cannot be made or written"):
            FolderLock(path).__enter__()


def test_a_forbidden_folder_is_named(tmp_path, start):
    def work(pipe):
        if os.geteuid() == 0:
            os.seteuid(65534)
        hold(tmp_path / "closed" / "run", pipe)

    (tmp_path / "closed").mkdir()
    (tmp_path / "closed").chmod(0o500)
    _, pipe = start(work)
    assert "run: cannot be made or written as a folder (Permission denied)" in pipe.recv()


def test_a_read_only_file_system_is_named(mounted):
    folder, mount = mounted
    left_behind(folder, name_of())
    mount("remount,ro")
    for path in (folder, folder / "run"):
        with pytest.raises(UserError, match="Read-only file system"):
            FolderLock(path).__enter__()


def test_a_full_disk_is_named_and_gets_no_lock(mounted):
    folder, _ = mounted
    with suppress(OSError), open(folder / "all", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(UserError, match="No space left on device"):
        FolderLock(folder).__enter__()
    assert [path.name for path in folder.iterdir()] == ["all"]
