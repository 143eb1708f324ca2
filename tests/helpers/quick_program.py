"""Stand in for a program whose runs take milliseconds, and whose results are known beforehand.

It keeps the programs' promises: args.txt, a line per epoch, metrics.jsonl, a summary, a lock, and
after SIGTERM exit code 75 and a run that goes on. The test accuracy is a function of activation,
learning rate and seed. Softplus diverges with odd seeds, and Mish with every learning rate.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2]))

from run_folder.lock import FolderLock
from utils import UserError

EPOCHS = 2
ASKED: list[int] = []  # to stop
BEST_LR = 0.02
EFFECTS = {"ReLU": 0.0, "GELU": 1.0, "SiLU": -1.0, "Tanh": 4.0, "ELU": 0.5, "CELU": 0.001}


def words_of(program: str, flags: dict[str, Any], folder: Path) -> list[str]:
    """Return the command, in the place of experiments.jobs.words_of."""
    kept = ("activation", "activation_args", "sigma", "lr", "seed", "init_gain", "optimizer")
    given = {name: flags[name] for name in kept}
    return [sys.executable, "-S", "-E", __file__, json.dumps(given), str(folder)]


def top1(activation: str, lr: float, seed: int, split: str = "test") -> float:
    """Return the accuracy that a run comes to."""
    shared = random.Random(f"{seed} {split}").gauss(0, 1)
    own = random.Random(f"{seed} {activation} {split}").gauss(0, 0.3)
    return 70 + EFFECTS.get(activation, 0.0) - 100 * abs(lr - BEST_LR) + shared + own


def diverges(activation: str, seed: int) -> bool:
    return activation == "Mish" or (activation == "Softplus" and seed % 2 == 1)


def source_of(activation: str) -> dict[str, Any]:
    """Return what a run records of a user's own activation."""
    place, _, name = activation.rpartition(":")
    if not name or not place:
        return {}
    digest = hashlib.sha256(Path(place).read_bytes()).hexdigest()
    return {"activation_source": {"sha256": {Path(place).name: digest}}}


class QuickRunner:
    """Make the runs in this process, in the place of experiments.runner.Runner."""

    def __init__(self, places: list[dict[str, str]], display: Any, stopped: Any):
        self.places, self.display, self.stopped = places, display, stopped

    def run(self, jobs: list[Any]) -> list[Any]:
        for job in jobs:
            flags, folder = job.command[-2:]
            train(json.loads(flags), Path(folder), self.places[0]["OMP_NUM_THREADS"])
            self.display.ended(job, "finished", "", False)
        return []

    def terminate(self) -> None: ...


def main() -> None:
    flags, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
    signal.signal(signal.SIGTERM, lambda *_: ASKED.append(1))
    try:
        with FolderLock(folder):
            train(flags, folder, os.environ["OMP_NUM_THREADS"])
    except UserError as error:
        print(f"error: {error}")
        sys.exit(2)


def train(flags: dict[str, Any], folder: Path, threads: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    results, metrics = folder / "train_eval_results.txt", folder / "metrics.jsonl"
    if results.exists() and results.read_text().splitlines()[-1][1:4] in ("Sum", "Div"):
        return  # another battery has finished it
    with (folder / "starts.txt").open("a") as starts:
        starts.write(threads + "\n")
    content = {
        **flags,
        "resolved": source_of(flags["activation"]),
        "environment": {"started": "2026-01-02 03:04:05"},
    }
    (folder / "args.txt").write_text(json.dumps(content))
    done = results.read_text().count("[Epoch") if results.exists() else 0
    activation, lr, seed = flags["activation"], flags["lr"], flags["seed"]
    for epoch in range(done + 1, EPOCHS + 1):
        time.sleep(float(os.environ.get("QUICK_SECONDS", 0)))
        value = {split: top1(activation, lr, seed, split) for split in ("val", "test")}
        splits = {split: {"top1": each, "loss": (100 - each) / 30} for split, each in value.items()}
        record = {"epoch": epoch, "step": epoch, "train": {"loss": 1.0}, "seconds": 0.5, **splits}
        with metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")
        with results.open("a") as file:
            file.write(f"[Epoch {epoch:03d}] Time: 0.5s\n")
        if ASKED:
            sys.exit(75)
    last = "[Diverged] in epoch 2" if diverges(activation, seed) else "[Summary] Final"
    with results.open("a") as file:
        file.write(last + "\n")


if __name__ == "__main__":
    main()
