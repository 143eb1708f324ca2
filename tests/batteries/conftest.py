"""A battery of tasks whose runs take milliseconds, with results known beforehand."""

import json
from pathlib import Path

import pytest
from helpers import quick_program

import battery
from batteries import command, findings
from batteries.findings import Environment, Findings
from experiments import jobs, runner

HERE = Environment("a made machine", 1, {"torch": "2.0", "code": "abc"})

TASK = """
runs:
  model: resnet20
  dataset: digits
  val_fraction: 0.1
  device: cpu
  activation: [ReLU, GELU, SiLU]
tune:
  lr: [0.01, 0.02, 0.03]
  seeds: [100]
  equal_settings: false
report:
  baseline: {baseline}
  metric: top1
  margin: {margin}
about:
  title: A made task
  text: Its results are made up.
  diverged: 10
"""


class Battery:
    """Run batteries in a folder of their own."""

    def __init__(self, folder: Path):
        self.folder, self.tasks, self.here = folder, folder / "made", HERE
        self.tasks.mkdir()
        self.add("one")

    def add(self, name: str, baseline: str = "ReLU", margin: float = 0.5) -> None:
        text = TASK.format(baseline=baseline, margin=margin)
        (self.tasks / f"{name}.yaml").write_text(text)

    def words(self, activation: str | None, *flags: object, out: str = "out") -> list[str]:
        given = ["--activation", activation] if activation else []
        given += ["--size", self.tasks, "--output_dir", self.folder / out, "--jobs", "8"]
        return [str(each) for each in (*given, "--records", self.folder / "kept", *flags)]

    def run(self, activation: str | None, *flags: object, out: str = "out", code: int = 0) -> None:
        assert battery.main(self.words(activation, *flags, out=out)) == code

    def found(self, activation: str, out: str = "out") -> Findings:
        return findings.load(self.folder / out / "made" / activation / findings.FILE)

    def starts(self, out: str = "out") -> dict[str, int]:
        """Return how often each run was started, by its folder."""
        paths = sorted((self.folder / out).rglob("starts.txt"))
        return {str(p.parent.relative_to(self.folder / out)): len(p.read_text().splitlines())
                for p in paths}  # fmt: skip

    def measured(self, task: str, arm: str, seed: int, out: str = "out") -> float:
        """Return the test accuracy that a run's own file tells."""
        (path,) = (self.folder / out / "made" / task / arm).glob(f"tuned_*seed{seed}/metrics.jsonl")
        return json.loads(path.read_text().splitlines()[-1])["test"]["top1"]


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "words_of", quick_program.words_of)
    monkeypatch.setattr(runner, "Runner", quick_program.QuickRunner)
    monkeypatch.setattr(command, "here", lambda device: HERE)
    # The profile takes seconds; test_page.py and test_profile.py have their own.
    monkeypatch.setattr(
        command, "write_with_profile", lambda findings, flags, folder: folder / "battery.html"
    )
    return Battery(tmp_path)
