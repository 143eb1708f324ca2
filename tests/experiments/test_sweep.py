"""sweep.py running: several at a time, failures, interruptions, kills; with stand-in programs where
what they train does not matter."""

import functools
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from helpers.made_runs import BASE, vision_run
from helpers.resumable import without_times

from cli.parser import converted
from cli.vision import VisionConfig
from experiments import runner as runners
from experiments.display import Display
from experiments.results import other_flags
from experiments.runner import Job, Runner, places
from run_folder.status import status_of

ROOT = Path(__file__).parents[2]

# Keeps the programs' promises: a line per epoch, a lock, CONTINUE, a summary; an epoch takes 0.1 s.
STAND_IN = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from run_folder.lock import FolderLock
from utils import UserError
folder, epochs, ending = Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
results = folder / "train_eval_results.txt"
try:
    with FolderLock(folder):
        if results.exists() and "[Summary]" in results.read_text():
            sys.exit()  # another one has finished it
        (folder / "starts.txt").open("a").write(os.environ["OMP_NUM_THREADS"] + "\\n")
        done = results.read_text().count("[Epoch") if results.exists() else 0
        for epoch in range(done + 1, epochs + 1):
            time.sleep(0.1)
            with results.open("a") as file:
                file.write(f"[Epoch {epoch:03d}] Time: 0.1s\\n")
            if ending == "error" and epoch == 2:
                sys.exit("error: no more room")
            if ending == "crash" and epoch == 2:
                os.kill(os.getpid(), signal.SIGSEGV)
            if asked:
                sys.exit(75)
        last = "[Diverged] in epoch 2" if ending == "diverged" else "[Summary] Final"
        results.open("a").write(last + "\\n")
except UserError as error:
    print(f"error: {error}")
    sys.exit(2)
"""


@pytest.fixture
def job(tmp_path):
    """Makes jobs: `job("a", epochs=3, ending="error")`."""
    script = tmp_path / "program.py"
    script.write_text(STAND_IN)

    def make(name, epochs=3, ending="whole"):
        words = [sys.executable, script, ROOT, tmp_path / name, epochs, ending]
        return Job(name, tmp_path / name, [str(word) for word in words])

    return make


def run(jobs, at_once=2, stopped=lambda: False):
    """The outcomes by name."""
    display = Display(len(jobs))
    runner = Runner([{"OMP_NUM_THREADS": "1"}] * at_once, display, stopped)
    outcomes = runner.run(jobs)
    display.close()
    return {each.name: (each.kind, each.reason) for each in outcomes}


def starts(folder):
    return (folder / "starts.txt").read_text().count("\n")


def test_one_that_fails_does_not_stop_the_others(job, tmp_path, capsys):
    endings = ("whole", "error", "crash", "diverged", "whole")
    found = run([job(f"{number}", ending=ending) for number, ending in enumerate(endings)])
    assert [found[f"{n}"][0] for n in range(5)] == [
        "finished",
        "failed",
        "failed",
        "diverged",
        "finished",
    ]
    assert found["1"][1] == f"no more room (exit code 1; {tmp_path / '1' / 'sweep.log'})"
    assert "signal SIGSEGV" in found["2"][1]
    assert found["3"][1] == "in epoch 2"
    assert re.search(r"\[\d/5\] 1: failed in \d+ s: no more room", capsys.readouterr().out)


def test_what_has_ended_is_not_done_again_and_what_has_failed_is(job, tmp_path):
    jobs = [job("a"), job("b", ending="error"), job("c", ending="diverged")]
    run(jobs)
    run(jobs)
    assert [starts(tmp_path / name) for name in "abc"] == [1, 2, 1]


def test_the_reason_is_this_starts(job, tmp_path):
    failed = job("a", ending="error")
    run([failed])
    (tmp_path / "a/train_eval_results.txt").unlink()
    killed = Job("a", failed.folder, [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    assert run([killed])["a"] == ("failed", f"(signal SIGKILL; {tmp_path / 'a/sweep.log'})")


def test_a_folder_that_cannot_be_used_stops_no_other(job, tmp_path):
    (tmp_path / "a").touch()
    (tmp_path / "b/lock").mkdir(parents=True)
    found = run([job("a"), job("b"), job("c")])
    assert [found[name][0] for name in "abc"] == ["failed", "failed", "finished"]


def test_another_run_in_the_folder_is_not_taken_for_this_one(tmp_path):
    vision_run(tmp_path / "a", 90, lr=0.2)
    known = VisionConfig.flags()
    flags = converted(VisionConfig, {**BASE, "lr": 0.9}).values()
    others = functools.partial(other_flags, tmp_path / "a", flags, known)
    found = run([Job("a", tmp_path / "a", [], others)])
    reason = f"{tmp_path / 'a'} holds another run (lr 0.2, not 0.9); move it away"
    assert found == {"a": ("failed", reason)}
    assert other_flags(tmp_path / "a", flags | {"lr": 0.2}, known) == []


def test_an_interrupted_run_goes_on(job, tmp_path):
    began = time.monotonic()
    jobs = [job("a", epochs=20), job("b", epochs=20), job("c")]
    assert run(jobs, stopped=lambda: time.monotonic() > began + 1) == {}
    assert status_of(tmp_path / "a").kind == "interrupted"
    assert not (tmp_path / "c").exists()
    assert {kind for kind, _ in run(jobs).values()} == {"finished"}
    assert (tmp_path / "a/train_eval_results.txt").read_text().count("[Epoch") == 20
    assert starts(tmp_path / "a") == 2


def test_several_sweeps_share_the_work(job, tmp_path, monkeypatch):
    """A folder that another process writes to is waited for, and then is found to be done."""
    monkeypatch.setattr(runners, "BUSY", 0.5)
    other = subprocess.Popen(job("a", epochs=25).command, env=os.environ | {"OMP_NUM_THREADS": "9"})
    while not (tmp_path / "a/lock").exists():
        time.sleep(0.01)
    found = run([job("a", epochs=25), job("b")], at_once=1)
    assert other.wait(10) == 0
    assert found == {"a": ("finished", ""), "b": ("finished", "")}
    assert starts(tmp_path / "a") == 1


def test_programs_end_with_a_sweep_that_is_killed(job, tmp_path):
    """And the next sweep goes on, whether they have ended by then or not."""
    # Without `run`: to import this file would load torch.
    code = (
        "from pathlib import Path\n"
        "from experiments.display import Display\n"
        "from experiments.runner import Job, Runner\n"
        f"job = Job('a', Path({str(tmp_path / 'a')!r}), {job('a', epochs=300).command!r})\n"
        "Runner([{'OMP_NUM_THREADS': '1'}], Display(1), lambda: False).run([job])"
    )
    killed = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    while not (tmp_path / "a/train_eval_results.txt").exists():
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    while (tmp_path / "a/lock").exists():  # the program is going
        time.sleep(0.05)
    epochs = (tmp_path / "a/train_eval_results.txt").read_text().count("[Epoch")
    assert epochs < 300
    assert run([job("a", epochs=epochs + 3)]) == {"a": ("finished", "")}


def test_places(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(runners, "usable_cpus", lambda: 8)
    assert places(None, 99, use_gpus=False) == [{"OMP_NUM_THREADS": "1"}] * 8
    assert places(None, 4, use_gpus=False) == [{"OMP_NUM_THREADS": "2"}] * 4
    assert places(3, 99, use_gpus=False) == [{"OMP_NUM_THREADS": "2"}] * 3
    monkeypatch.setattr(runners, "visible_gpus", lambda: ["2", "5"])
    threads = {"OMP_NUM_THREADS": "4"}
    assert places(None, 99, use_gpus=True) == [
        threads | {"CUDA_VISIBLE_DEVICES": each} for each in ("2", "5")
    ]
    shared = [each["CUDA_VISIBLE_DEVICES"] for each in places(5, 99, use_gpus=True)]
    assert shared == ["2", "5", "2", "5", "2"]
    monkeypatch.setattr(runners, "visible_gpus", lambda: ["mps"])
    assert places(None, 99, use_gpus=True) == [{"OMP_NUM_THREADS": "8"}]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert places(1, 99, use_gpus=False) == [{"OMP_NUM_THREADS": "7"}]


# --- with the real program ---


@pytest.fixture
def grid(tmp_path, image_folder):
    path = tmp_path / "grid.yaml"
    runs = {
        "model": "resnet20", "dataset": "imagefolder", "data_path": str(image_folder),
        "batch_size": 16, "resize": 8, "num_epochs": 3, "val_fraction": 0.3, "device": "cpu",
        "save_interval": "2", "activation": ["ReLU", "ZiLU"],
    }  # fmt: skip
    path.write_text(yaml.safe_dump({"runs": runs}))
    return path


def start(grid, out, jobs=2):
    command = [sys.executable, ROOT / "sweep.py", grid, "--output_dir", out, "--jobs", jobs]
    return subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_and_gone_on_with(grid, tmp_path, run_program):
    """By the sweep, and by the number of a run as a cluster's job does it."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = start(grid, whole)
    shown = process.communicate(timeout=200)[0]
    assert process.returncode == 0
    assert "2 finished, 0 diverged, 0 failed" in shown

    process = start(grid, broken)
    while process.poll() is None and not list(broken.rglob("checkpoint.pt")):
        time.sleep(0.05)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    while list(broken.rglob("lock")):  # the programs are going
        time.sleep(0.05)

    words = ("sweep.py", grid, "--output_dir", broken, "--index")
    index = [sys.executable, *map(str, words), "2"]
    by_index = subprocess.Popen(index, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    process = start(grid, broken, jobs=1)  # it does the other one, and waits for this one
    shown = process.communicate(timeout=200)[0]
    assert (process.returncode, by_index.wait()) == (0, 0), shown
    assert without_times(broken) == without_times(whole)
    again = run_program(*words, 2)
    assert (again.returncode, again.stdout) == (0, "ZiLU_sigma1_seed0: finished\n")
    assert "--index 3: the sweep has 2 runs" in run_program(*words, 3).stderr


TIMES = ["step_ms", "epoch_seconds", "memory_gib"]


def report_of(out, run_program):
    """The report's tables, without times."""
    import pandas

    done = run_program("report.py", out, "--output_dir", out.parent / f"report_{out.name}")
    assert done.returncode == 0, done.stderr
    folder = out.parent / f"report_{out.name}"
    settings = pandas.read_csv(folder / "settings.csv").drop(columns=TIMES)
    names = ("comparisons.csv", "tuning.csv")
    texts = [(folder / name).read_text() for name in names]
    return [settings.to_csv(), *texts]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_random_moments_the_report_is_the_same(tmp_path, run_program, capsys):
    """Trials, choice and reporting runs included."""
    path = tmp_path / "grid.yaml"
    runs = {
        "model": "resnet20", "dataset": "digits", "resize": 8, "batch_size": 256, "num_epochs": 3,
        "val_fraction": 0.1, "device": "cpu", "save_interval": "2", "lr": 3e-3, "seed": [0, 1],
        "activation": ["ReLU", "ZiLU"],
    }  # fmt: skip
    path.write_text(yaml.safe_dump({"runs": runs, "tune": {"lr": [3e-3, 1e-2]}}))
    assert start(path, tmp_path / "whole").wait(900) == 0
    moments, kills = random.Random(0), 0
    while True:
        process = start(path, tmp_path / "broken")
        try:
            process.wait(moments.uniform(2, 25))
            break
        except subprocess.TimeoutExpired:
            process.send_signal(moments.choice([signal.SIGKILL, signal.SIGTERM]))
            process.wait(60)
            kills += 1
    assert process.returncode == 0
    found = [report_of(tmp_path / name, run_program) for name in ("broken", "whole")]
    assert found[0] == found[1]
    with capsys.disabled():
        print(f"\nsweep: {kills} kills")


def test_help_answers_without_torch(run_program):
    done = run_program("sweep.py", "--help")
    assert done.returncode == 0
    assert "--index K" in done.stdout
    code = (
        "import sys, sweep\n"
        "try: sweep.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'yaml', 'pandas'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    alone = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert alone.returncode == 0, alone.stderr
