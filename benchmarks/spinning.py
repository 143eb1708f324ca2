"""Measure how long OpenMP's waiting threads should spin, on whole commands that take turns.

python -m benchmarks.spinning                         all of it: an hour on two cores
python -m benchmarks.spinning --trainings vision      one of them, a quarter of that

A training on a CPU is done by several threads, which wait for each other in every operation. One
that waits looks again and again for a while before it sleeps. That saves the time of waking it, and
takes a processor from whoever else has work. Three settings are compared: the runtime's default,
the one that the programs choose (training/before_torch.py), and sleeping at once. The machine is
idle beside the training, or busy with one computing process more than it has processors, or it runs
two trainings for each processor.

The commands are vision_main.py and language_main.py, started once, with epochs that never end and
last less than a second. They take turns by SIGSTOP and SIGCONT, in a new random order every round.
A figure is the seconds of an epoch, its evaluation included, while the others stand still.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import tables
from benchmarks.timing import in_rounds, quartiles, ratio
from cli.converters import one_of, path, positive_int
from cli.errors import one_line_errors
from cli.parser import Parser, checked, parsed_into, tool_parser
from experiments.runner import end_with_parent
from training.before_torch import CHOSEN_BY, SPINS
from utils import UserError, usable_cpus

ROOT = Path(__file__).parents[1]
DEFAULT = "default"
ARMS = {
    # What the runtimes take where nothing is said, which the programs would fill in.
    DEFAULT: {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"},
    "chosen": SPINS,
    "passive": {"OMP_WAIT_POLICY": "passive"},
}
TRAININGS = ("vision", "vision_compiled", "language", "language_compiled")
IDLE, BUSY, SHARED = SITUATIONS = ("idle", "busy", "shared")
EPOCHS = {IDLE: 4, BUSY: 1, SHARED: 1}  # of a turn; idle, where small differences count, more
WARM_UP = 3  # epochs, in which torch.compile sees every shape
POLL = 0.005  # seconds between two looks at a run's records
PATIENCE = 600  # seconds without an epoch after which a training counts as hanging
TEXT = {"train": 8_000, "valid": 1_000, "test": 1_000}  # bytes


@dataclass(frozen=True)
class Options:
    """Hold the command line; build_parser explains the flags."""

    trainings: tuple[str, ...]
    situations: tuple[str, ...]
    rounds: int
    output_dir: str


def main(argv: list[str] | None = None) -> int:
    """Measure, and print and save the table; return the exit code."""
    options = parsed_into(Options, build_parser(), argv)
    target = tables.ReportFolder(options.output_dir)
    folder = Path(options.output_dir)
    write_text(folder / "text")
    report = tables.Report()
    cpus, device = usable_cpus(), torch.device("cpu")
    report.add(f"{tables.machine(device)}; {cpus} processors; n = {options.rounds} rounds\n")
    rows = []
    for name in options.trainings:
        commands = {arm: command(name, folder) for arm in ARMS}
        at_once = 2 * cpus if SHARED in options.situations else 1
        with taking_turns(commands, folder / name, at_once) as trainings:
            for situation in options.situations:
                seconds = measured(trainings, situation, options.rounds, cpus)
                rows.append({"training": name, "beside it": situation} | columns(seconds))
                print(rows[-1], flush=True)
    report.add(tables.markdown(rows))
    target.save("spinning", report, rows)
    return 0


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = tool_parser("python -m benchmarks.spinning [flags]", __doc__)
    add = parser.add_argument
    for name, values in (("trainings", TRAININGS), ("situations", SITUATIONS)):
        add(f"--{name}", type=checked(several(values)), default=values, metavar="VALUE",
            help=f"of {','.join(values)} (all)")  # fmt: skip
    add("--rounds", type=checked(positive_int), default=7, help="turns of each (7)")
    add("--output_dir", type=checked(path), default="./Output/spinning",
        help="folder of the runs and the table (./Output/spinning)")  # fmt: skip
    return parser


def several(values: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """Return a converter of names with commas between."""
    convert = one_of(*values)
    return lambda text: tuple(dict.fromkeys(map(convert, text.split(","))))


# --- what is trained ---


def command(name: str, folder: Path) -> list[str]:
    """Return a command without its --output_dir."""
    flags = ["--device", "cpu", "--num_epochs", 10**6, "--save_interval", 10**8, "--overwrite"]
    if "compiled" in name:
        flags.append("--use_compiled")
    if name.startswith("vision"):
        program = "vision_main.py"
        flags += ["--model", "resnet20", "--dataset", "digits", "--resize", 16]
        flags += ["--batch_size", 128, "--activation", "ZiLU"]
    else:
        program = "language_main.py"
        flags += ["--dataset", "text", "--data_path", folder / "text", "--tokenizer", "bytes"]
        flags += ["--num_layers", 4, "--embedding_dim", 128, "--num_attention_heads", 4]
        flags += ["--max_seq_length", 64, "--batch_size", 12, "--activation", "ZiLU"]
    return [sys.executable, str(ROOT / program), *map(str, flags)]


def write_text(folder: Path) -> None:
    """Write splits of a text that every machine has: source code of Python's own."""
    source = inspect.getsource(argparse).encode("ascii", "replace").decode()
    folder.mkdir(parents=True, exist_ok=True)
    first = 0
    for name, size in TEXT.items():
        (folder / f"{name}.txt").write_text(source[first : first + size], encoding="ascii")
        first += size


# --- turns ---


class Training:
    """Hold a running command, which stands still except in its turns.

    Args:
        command: the program and its flags, without --output_dir.
        folder: the run folder.
        variables: the environment's choice of spins.
    """

    def __init__(self, command: list[str], folder: Path, variables: dict[str, str]):
        self.records, self.log = folder / "metrics.jsonl", folder.with_suffix(".log")
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.records.unlink(missing_ok=True)
        kept = {k: v for k, v in os.environ.items() if k not in CHOSEN_BY}
        with open(self.log, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [*command, "--output_dir", str(folder)],
                env=kept | variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=with_its_children,
            )  # fmt: skip

    def epochs(self) -> int:
        """Return how many epochs the run has done.

        Raises:
            UserError: it has ended.
        """
        if self.process.poll() is not None:
            last = self.log.read_text(encoding="utf-8").splitlines()[-1:]
            raise UserError(f"a training has ended: {' '.join(last)} ({self.log})")
        return self.records.read_bytes().count(b"\n") if self.records.exists() else 0

    def go_on(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)

    def pause(self) -> None:
        os.killpg(self.process.pid, signal.SIGSTOP)

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def with_its_children() -> None:
    """Put a new process into a group, which is stopped as one, and let it end with this one."""
    os.setpgrp()
    end_with_parent()


def turn(trainings: Sequence[Training], epochs: int) -> float:
    """Let trainings do so many epochs; return the seconds per epoch of the last to have done them.

    Raises:
        UserError: one has ended, or hangs.
    """
    goals = {training: training.epochs() + epochs for training in trainings}
    started = time.perf_counter()
    for training in goals:
        training.go_on()
    while goals:
        for training in [each for each, goal in goals.items() if each.epochs() >= goal]:
            training.pause()
            del goals[training]
        if time.perf_counter() - started > PATIENCE:
            raise UserError(f"a training does not come on: {next(iter(goals)).log}")
        time.sleep(POLL)
    return (time.perf_counter() - started) / epochs


@contextmanager
def taking_turns(
    commands: dict[str, list[str]], folder: Path, at_once: int
) -> Iterator[dict[str, list[Training]]]:
    """Start `at_once` trainings of each arm, and give them, warmed up and standing still."""
    trainings: dict[str, list[Training]] = {arm: [] for arm in commands}
    try:
        for number, arm in itertools.product(range(at_once), commands):
            each = Training(commands[arm], folder / f"{arm}_{number}", ARMS[arm])
            trainings[arm].append(each)
            turn([each], WARM_UP)
        yield trainings
    finally:
        for each in itertools.chain.from_iterable(trainings.values()):
            each.end()


def measured(
    trainings: dict[str, list[Training]], situation: str, rounds: int, cpus: int
) -> dict[str, list[float]]:
    """Return the seconds of an epoch of each arm in each round."""
    count = None if situation == SHARED else 1
    samples = {
        arm: functools.partial(turn, each[:count], EPOCHS[situation])
        for arm, each in trainings.items()
    }
    with busy_processes(cpus + 1 if situation == BUSY else 0):
        return in_rounds(samples, rounds)


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep so many processors busy."""
    endless = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(endless, preexec_fn=end_with_parent) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def columns(seconds: dict[str, list[float]]) -> dict[str, str]:
    """Return seconds with quartiles, and the ratio to the default within the rounds."""
    found = {f"{arm}, s": tables.with_spread(*quartiles(each)) for arm, each in seconds.items()}
    for arm in seconds.keys() - {DEFAULT}:
        found[f"{arm} ÷ {DEFAULT}"] = f"{ratio(seconds[arm], seconds[DEFAULT]):.3f}"
    return dict(sorted(found.items(), key=lambda item: "÷" in item[0]))


if __name__ == "__main__":
    with one_line_errors():
        code = main()
    sys.exit(code)
