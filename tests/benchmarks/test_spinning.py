"""The comparison of settings for waiting threads: trainings take turns, and none outlives it."""

import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks import spinning
from benchmarks.spinning import ARMS, SHARED, Training, busy_processes, measured, taking_turns, turn
from utils import UserError

# Writes a record for each epoch, which lasts SECONDS on a processor that is free.
STAND_IN = """
import os, sys, time
from pathlib import Path

folder = Path(sys.argv[sys.argv.index("--output_dir") + 1])
folder.mkdir(parents=True, exist_ok=True)
(folder / "spins").write_text(os.environ.get("GOMP_SPINCOUNT", "none"))
while True:
    time.sleep(SECONDS)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write("{}" + chr(10))
"""


def stand_in(seconds):
    return [sys.executable, "-c", STAND_IN.replace("SECONDS", str(seconds))]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(spinning, "WARM_UP", 1)


def test_trainings_take_turns(tmp_path, monkeypatch, quick):
    """Each has its arm's setting and its own pace, and stands still while the others go on."""
    monkeypatch.setenv("GOMP_SPINCOUNT", "77")  # the user's, which is not an arm's
    paces = {"default": 0.2, "chosen": 0.05, "passive": 0.1}
    with taking_turns({arm: stand_in(each) for arm, each in paces.items()}, tmp_path, 1) as ready:
        before = {arm: each[0].epochs() for arm, each in ready.items()}
        seconds = turn(ready["chosen"], 6)
        assert seconds >= 0.05 * 0.7  # sleep goes on while a process stands still
        assert ready["chosen"][0].epochs() >= before["chosen"] + 6
        for arm in ("default", "passive"):
            assert ready[arm][0].epochs() <= before[arm] + 1  # it may have been writing
        found = measured(ready, "idle", rounds=1, cpus=2)
        processes = [each[0].process for each in ready.values()]
    for arm, (each,) in found.items():
        assert each >= paces[arm] * 0.5
    assert found["default"] > found["chosen"]
    spins = {arm: (tmp_path / f"{arm}_0/spins").read_text() for arm in ARMS}
    assert spins == {"default": "300000", "chosen": "1000", "passive": "none"}
    assert all(process.returncode == -9 for process in processes)


def test_several_at_once_last_as_long_as_the_slowest(tmp_path, quick):
    with taking_turns({"default": stand_in(0.05)}, tmp_path, 2) as ready:
        slow = Training(stand_in(0.4), tmp_path / "slow", {})
        ready["default"].append(slow)
        turn([slow], 1)
        (seconds,) = measured(ready, SHARED, rounds=1, cpus=1)["default"]
        assert slow.epochs() >= 3
    assert seconds >= 0.25


def test_a_training_that_ends_is_a_mistake_with_its_reason(tmp_path, quick):
    command = [sys.executable, "-c", "import sys; sys.exit('error: no such flag')"]
    with (
        pytest.raises(UserError, match="error: no such flag"),
        taking_turns({"default": command}, tmp_path, 1),
    ):
        pass


def test_busy_processes_end(tmp_path):
    def children():
        path = Path(f"/proc/self/task/{os.getpid()}/children")
        return set(path.read_text().split())

    before = children()
    with busy_processes(2):
        assert len(children() - before) == 2
        time.sleep(0.1)
    assert children() == before
