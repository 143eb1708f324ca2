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


def test_a_program_hears_a_signal_that_is_blocked_where_it_comes_from():
    code = (
        "import os, signal, time\n"
        "from training.signals import Interrupted, StopSignals\n"
        "with StopSignals():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(5)\n"
        "    except Interrupted:\n"
        "        print('interrupted')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}),
    )  # fmt: skip
    assert done.stdout == "interrupted\n", done.stderr
