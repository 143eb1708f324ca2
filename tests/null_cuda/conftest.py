"""Run programs on the null device, and read what was noted of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from null_cuda import device
from null_cuda.short_runs import of_recipe


@dataclass(frozen=True)
class Ran:
    """Hold a program that has run.

    Attributes:
        codes: the exit codes of its processes.
        output: all that they have printed.
        reports: what null_cuda/watch.py has noted of each.
    """

    codes: list[int]
    output: str
    reports: list[dict[str, Any]]

    def waits(self, *phases: str, first: int = 0) -> Counter[tuple[str, str]]:
        """Count the waits by file and line.

        Args:
            phases: those of null_cuda/watch.py; none for all.
            first: the first step or batch that counts.
        """
        return Counter(
            (event["file"], event["line"])
            for report in self.reports
            for event in report["events"]
            if event["kind"] == "waits"
            and (not phases or event["phase"] in phases)
            and event["number"] >= first
        )

    def of_devices(self, name: str, rank: int = 0) -> list[int]:
        """Return how many of the `name` each device has had of a process."""
        return [counts[name] for counts in self.reports[rank]["devices"]]


@pytest.fixture(scope="session")
def short_form(text_folder, image_folder):
    """Return the program and the flags of a recipe in short form: `short_form("digits_demo")`."""
    return partial(of_recipe, text=text_folder, images=image_folder)


@pytest.fixture(scope="session")
def null_cuda(tmp_path_factory):
    """Run a program on the null device: `null_cuda("vision_main", "--device", "cuda")`.

    `processes` and `faults` are those of `forked`, other keywords those of `device.settings`.
    """
    if reason := device.missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("null_cuda")
    server = subprocess.Popen(
        [sys.executable, Path(__file__).parent / "server.py"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=device.environment(folder),
    )  # fmt: skip
    assert server.stdout.readline() == "ready\n"
    numbers = iter(range(10**6))

    def run(module, *arguments, processes=1, faults=None, **looks):
        log = folder / f"{next(numbers)}.txt"
        request = {
            "module": module, "arguments": [str(x) for x in arguments], "output": str(log),
            "faults": faults or {}, "processes": processes, "joined": True,
            "settings": device.settings(**looks), "report": str(log.with_suffix(".json")),
        }  # fmt: skip
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        codes = json.loads(server.stdout.readline())
        paths = [Path(f"{request['report']}.{rank}") for rank in range(processes)]
        reports = [json.loads(path.read_text()) for path in paths if path.exists()]
        return Ran(codes, log.read_text(), reports)

    yield run
    server.stdin.close()
    server.wait()
