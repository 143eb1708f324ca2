"""Several processes of a SLURM job, and the signals that all of its processes get."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

WORKER = """
import os, sys, time
from pathlib import Path

folder = Path(sys.argv[1])
(folder / f"started{os.environ['RANK']}").touch()
while not (folder / "go").exists():
    time.sleep(0.1)
(folder / f"saved{os.environ['RANK']}").touch()
sys.exit(75)
"""


@pytest.mark.slow
def test_torchrun_waits_until_its_processes_have_saved(tmp_path):
    """Two SIGTERMs end torchrun itself; what its processes do then is theirs."""
    (tmp_path / "worker.py").write_text(WORKER)
    words = ["--standalone", "--nproc_per_node=2", str(tmp_path / "worker.py"), str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "training.launch", *words],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    end = time.monotonic() + 120
    while len(list(tmp_path.glob("started*"))) < 2:
        assert time.monotonic() < end
        time.sleep(0.1)
    for _ in range(2):
        os.kill(process.pid, signal.SIGTERM)
        time.sleep(0.5)
    assert process.poll() is None
    (tmp_path / "go").touch()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert {path.name for path in tmp_path.glob("saved*")} == {"saved0", "saved1"}
    assert "Traceback" not in output
    assert output.count(" ended with exit code 75\n") == 1


def blocked():
    """As in what training/launch.py starts, with a signal that came too early to be heard."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("flags", "code"), [((), 75), (("--test_only",), -signal.SIGTERM)])
def test_a_program_hears_a_signal_that_was_blocked_where_it_comes_from(flags, code, tmp_path):
    words = ["--dataset", "digits", "--model", "resnet20", "--device", "cpu", *flags]
    done = subprocess.run(
        [sys.executable, "vision_main.py", *words, "--output_dir", tmp_path / "run"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, preexec_fn=blocked,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stderr == ""
    assert not list(tmp_path.glob("run/*.pt"))
    assert ("before anything was done" in done.stdout) == (code == 75)
