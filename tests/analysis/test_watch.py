"""`report.py --watch`: what it says of runs that are planned, go on, end, or are written to."""

import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers.made_runs import diverge, vision_run

import report
import sweep
from analysis.watch import Watcher
from run_folder.folder import RunFolder
from run_folder.lock import FolderLock
from training import live_progress
from training.live_progress import LiveProgress

ROOT = Path(__file__).parents[2]


def rows_of(text):
    """Return the rows of a table by run: headings to texts."""
    heading, *lines = text.splitlines()[1:] or [""]
    names = heading.split()
    ends = [heading.index(name) + len(name) for name in names]
    starts = [heading.index(name) for name in names]
    rows = {}
    for line in lines:
        # A text is under its heading's beginning or end, two spaces from the next one.
        parts = {}
        for name, start, end in zip(names, starts, ends, strict=True):
            left = line.rfind("  ", 0, min(end, len(line)) if name in AT_THE_RIGHT else start)
            right = line.find("  ", start if name not in AT_THE_RIGHT else end)
            parts[name] = line[left + 1 : right if right >= 0 else len(line)].strip()
        rows[line.split("  ")[0].strip()] = parts | {"line": line}
    return rows


AT_THE_RIGHT = ("epoch", "step", "loss", "rate", "data", "left")


def look(folder, capsys):
    """Return the rows of the table of the runs in a folder; none where there is no run."""
    assert report.main(["--watch", str(folder)]) == 0
    return rows_of(capsys.readouterr().out)


def write_lock(run, host=None, pid=None, age=0.0):
    """Write a lock file as a process that is alive or dead has left it."""
    holder = {"host": host or socket.gethostname(), "pid": pid or os.getpid()}
    lock = run / "lock"
    lock.write_text(json.dumps(holder | {"since": "2026-01-01 00:00:00", "id": "x"}))
    moment = time.time() - age
    os.utime(lock, (moment, moment))


def write_progress(run, **values):
    content = {
        "phase": "training", "epoch": 2, "step": 5, "steps": 10, "total_step": 15,
        "total_steps": 30, "epochs": 3, "loss": 0.5, "steps_per_second": 0.25, "data_share": 0.125,
        "images_per_second": 25.0, "time": time.time(),
    }  # fmt: skip
    RunFolder(run).write_progress(content | values)


def unfinished(folder, epochs=1):
    """Make a run that has come through its first epochs, of three."""
    vision_run(folder, 90.0)
    for name in ("train_eval_results.txt", "metrics.jsonl"):
        lines = (folder / name).read_text().splitlines(keepends=True)
        (folder / name).write_text("".join(lines[:epochs]))
    return folder


@pytest.fixture
def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_state_of_a_run_is_that_of_its_process_and_results(tmp_path, capsys, dead_pid):
    vision_run(tmp_path / "finished", 90.0)
    diverge(vision_run(tmp_path / "diverged", 90.0))
    unfinished(tmp_path / "stopped")
    write_lock(unfinished(tmp_path / "killed"), pid=dead_pid)
    write_lock(unfinished(tmp_path / "running"))
    write_lock(unfinished(tmp_path / "elsewhere"), host="another", pid=1)
    write_lock(unfinished(tmp_path / "silent"), host="another", pid=1, age=600)
    write_lock(unfinished(tmp_path / "hangs"), age=600)
    (unfinished(tmp_path / "waiting") / "CONTINUE").write_text("None")
    (tmp_path / "starts").mkdir()
    write_lock(tmp_path / "starts")
    with open(unfinished(tmp_path / "damaged") / "metrics.jsonl", "a") as file:
        file.write("{no json}\n")
    (unfinished(tmp_path / "half") / "lock").write_text('{"host": ')
    rows = look(tmp_path, capsys)
    states = {name: row["state"] for name, row in rows.items()}
    assert states == {
        "finished": "finished", "diverged": "diverged", "stopped": "stopped", "killed": "stopped",
        "running": "running", "elsewhere": "running", "silent": "silent", "hangs": "silent",
        "waiting": "waiting", "starts": "running", "damaged": "unreadable", "half": "running",
    }  # fmt: skip
    assert "the training loss is nan" in rows["diverged"]["line"]
    assert "10 min" in rows["silent"]["line"]
    assert "line 2 is damaged" in rows["damaged"]["line"]
    order = list(rows)
    assert order[:4] == ["elsewhere", "half", "running", "starts"]
    assert order[-2:] == ["diverged", "finished"]


def test_a_row_has_the_progress_inside_the_epoch_the_rates_and_the_time_left(tmp_path, capsys):
    run = unfinished(tmp_path / "run")
    write_lock(run)
    write_progress(run)
    row = look(tmp_path, capsys)["run"]
    # The record: 2 s for an epoch of 10,000 images at 1,000 images/s, so no time for evaluation.
    assert row["epoch"] == "2/3"
    assert row["step"] == "5/10"
    assert row["loss"] == "0.5000"
    assert row["result"] == "test top1 70.00"
    assert row["rate"] == "25 images/s"
    assert row["data"] == "12 %"
    assert row["left"] == "1 min"  # 15 steps at 4 s
    records = (run / "metrics.jsonl").read_text()
    # 10 s of training and 110 s of evaluation, which come twice more.
    (run / "metrics.jsonl").write_text(records.replace('"seconds": 2.0', '"seconds": 120.0'))
    row = look(tmp_path, capsys)["run"]
    assert row["left"] == "5 min"
    write_progress(run, phase="evaluation", step=10, total_step=20)
    assert look(tmp_path, capsys)["run"]["step"] == "evaluates"
    write_progress(run, steps_per_second=None, images_per_second=None, total_step=5)
    row = look(tmp_path, capsys)["run"]  # older than the results of step 10
    assert row["epoch"] == "1/3"
    assert "step" not in row
    assert row["rate"] == "1,000 images/s"
    (run / "progress.json").write_text('{"epoch"')
    assert look(tmp_path, capsys)["run"]["epoch"] == "1/3"


def test_runs_that_a_sweep_has_not_begun_are_planned(tmp_path, capsys):
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "program: vision\nruns:\n  model: resnet20\n  dataset: digits\n  seed: [0, 1, 2]\n"
    )
    folder = tmp_path / "sweep"
    assert sweep.main([str(grid), "--count", "--output_dir", str(folder)]) == 0
    capsys.readouterr()
    before = look(folder, capsys)
    assert [row["state"] for row in before.values()] == ["planned"] * 3
    begun = list(before)[1]
    write_lock(unfinished(folder / begun))
    assert {name: row["state"] for name, row in look(folder, capsys).items()} == {
        name: "running" if name == begun else "planned" for name in before
    }


def test_a_lock_that_moves_is_alive_whatever_another_machines_clock_says(tmp_path):
    run = unfinished(tmp_path / "run")
    write_lock(run, host="another", pid=1, age=7200)
    watcher = Watcher([tmp_path])
    assert watcher.row("run", run).state == "silent"
    write_lock(run, host="another", pid=1, age=7190)
    assert watcher.row("run", run).state == "running"
    assert watcher.row("run", run).state == "running"  # the next beat is seconds away
    write_lock(run, host="another", pid=1, age=-7200)
    assert Watcher([tmp_path]).row("run", run).state == "silent"


def test_looking_keeps_no_run_from_its_folder(tmp_path):
    run = unfinished(tmp_path / "run")
    watcher, stop = Watcher([tmp_path]), threading.Event()

    def keep_looking():
        while not stop.is_set():
            watcher.lines()

    looking = threading.Thread(target=keep_looking)
    looking.start()
    try:
        for _ in range(50):
            with FolderLock(run):
                pass
    finally:
        stop.set()
        looking.join()


def test_folders_that_are_written_or_removed_meanwhile_are_no_error(tmp_path):
    """Every state of a folder between two of its files is looked at."""
    watcher, made, whole = Watcher([tmp_path]), tmp_path / "run", tmp_path / "whole" / "run"
    unfinished(whole)
    write_progress(whole)
    write_lock(whole)
    states = set()
    for file in [*whole.iterdir(), None]:
        made.mkdir(exist_ok=True)
        for size in (0, 7, None):
            if file is not None:
                (made / file.name).write_bytes(file.read_bytes()[:size])
            states.add(watcher.row("run", made).state)
            watcher.found_at = 0.0
            assert any("whole/run" in line for line in watcher.lines())
    shutil.rmtree(made)
    states.add(watcher.row("run", made).state)
    assert states <= {"running", "stopped", "planned", "unreadable"}
    assert watcher.lines()


def test_many_runs_are_cut_to_the_height_of_a_terminal(tmp_path):
    for number in range(6):
        unfinished(tmp_path / f"{number}")
    write_lock(tmp_path / "5")
    lines = Watcher([tmp_path]).lines(6)
    assert len(lines) == 6
    assert lines[2].startswith("5 ")
    assert lines[-1] == "and 3 more"
    assert "1 running, 5 stopped" in lines[0]


def test_on_a_terminal_the_table_follows_the_runs_until_it_is_interrupted(tmp_path):
    run = unfinished(tmp_path / "run")
    write_lock(run)
    controller, terminal = pty.openpty()
    command = [sys.executable, ROOT / "report.py", "--watch", tmp_path]
    process = subprocess.Popen(command, stdout=terminal, stderr=terminal, stdin=terminal)
    os.close(terminal)
    seen = ""

    def read_until(text):
        nonlocal seen
        seen, end = "", time.monotonic() + 60
        while text not in seen:
            assert time.monotonic() < end, seen
            seen += os.read(controller, 4096).decode()

    try:
        read_until("1/3")
        assert "running" in seen
        write_progress(run)
        read_until("5/10")
        assert "25 images/s" in seen
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        os.close(controller)


def test_it_loads_nothing_heavy(tmp_path):
    vision_run(tmp_path / "run", 90.0)
    code = (
        "import sys, report; report.main(['--watch', sys.argv[1]]); "
        "print(sorted({'torch', 'numpy', 'pandas', 'yaml', 'tqdm'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert "finished" in done.stdout


@pytest.mark.parametrize("flags", [("--metric", "top1"), ("--output_dir", "x")])
def test_flags_of_reports_do_not_go_with_it(mistake_in, tmp_path, flags):
    assert flags[0] in mistake_in(report, "--watch", tmp_path, *flags)


def test_a_folder_that_is_not_there_is_a_mistake(mistake_in, tmp_path):
    assert "nowhere" in mistake_in(report, "--watch", tmp_path / "nowhere")


# --- what a run writes ---


def test_progress_has_the_steps_rates_and_waits_since_the_write_before(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(live_progress, "perf_counter", lambda: now)

    def loader():
        nonlocal now
        for number in range(4):
            now += 1.0
            yield number

    live = LiveProgress(RunFolder(tmp_path), "images", {"steps": 4, "total_steps": 8, "epochs": 2})
    live.read({"loss": 2.5, "count": 32.0}, 4)
    path, written = tmp_path / "progress.json", []
    for number in live.batches(loader()):
        now += 1.0 if number < 3 else 3.0
        live.step(1, number + 1, number + 1)
        written.append(json.loads(path.read_text()))
    # At once, after two steps of 2 s, each with a wait of one, and after one of 4 s.
    assert [each["step"] for each in written] == [1, 1, 3, 4]
    assert written[0]["steps_per_second"] == written[2]["steps_per_second"] == 0.5
    assert written[2]["data_share"] == 0.5
    assert written[2]["images_per_second"] == 4.0
    assert written[2]["loss"] == 2.5
    assert written[3]["data_share"] == 0.25
    live.evaluation(1, 4, 4)  # right after a write
    assert json.loads(path.read_text())["phase"] == "training"
    now += 1.0
    live.evaluation(1, 4, 4)
    content = json.loads(path.read_text())
    assert content["phase"] == "evaluation"
    assert content["step"] == content["total_step"] == 4
    live.end()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_ends_no_training(tmp_path):
    live = LiveProgress(RunFolder(tmp_path / "gone"), "images", {"steps": 1, "total_steps": 1})
    live.step(1, 1, 1)
    assert not (tmp_path / "gone").exists()


def test_a_run_in_progress_is_seen_from_another_terminal(image_folder, tmp_path, capsys):
    command = [
        sys.executable, ROOT / "vision_main.py", "--model", "resnet20", "--dataset", "imagefolder",
        "--data_path", image_folder, "--batch_size", "4", "--num_epochs", "100000", "--device",
        "cpu", "--output_dir", tmp_path / "run",
    ]  # fmt: skip
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
    try:
        end, row = time.monotonic() + 200, {}
        while not (row.get("data") and row.get("result")):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end, (row, (tmp_path / "log").read_text())
            time.sleep(0.2)
            row = look(tmp_path, capsys).get("run", {})
        assert row["state"] == "running"
        assert row["epoch"].endswith("/100000")
        assert row["step"].endswith("/25") or row["step"] == "evaluates"
        assert row["rate"].endswith("images/s")
        assert row["left"].endswith((" h", " min"))
    finally:
        process.kill()
        process.wait()
    row = look(tmp_path, capsys)["run"]
    assert row["state"] == "stopped"
    assert "killed" in row["line"]


def test_of_several_processes_one_writes_for_all(forked, image_folder, tmp_path, capsys):
    flags = (
        "--model", "resnet20", "--dataset", "imagefolder", "--data_path", image_folder,
        "--batch_size", 4, "--num_epochs", 2, "--device", "cpu", "--output_dir", tmp_path / "run",
    )  # fmt: skip
    codes, output = forked(
        "vision_main", *flags, processes=2, faults={0: ("step", signal.SIGTERM, 2)}
    )
    assert codes == [75, 75], output
    content = json.loads((tmp_path / "run/progress.json").read_text())
    assert content["step"] == content["total_step"] == 1
    assert (content["steps"], content["total_steps"], content["epochs"]) == (25, 50, 2)
    row = look(tmp_path, capsys)["run"]
    assert row["state"] == "waiting"
    assert row["epoch"] == "1/2"
    assert row["step"] == "1/25"
    codes, output = forked("vision_main", *flags, "--resume")
    assert codes == [0], output
    assert look(tmp_path, capsys)["run"]["state"] == "finished"
    assert not list((tmp_path / "run").glob("progress*"))
