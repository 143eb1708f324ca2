"""Check whole runs: repeated bit for bit, also when interrupted, and by several processes."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.gpu_check.found import Finding, Found
from run_folder.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[2]
RUN = (
    "vision_main.py", "--dataset", "digits", "--model", "resnet20", "--activation", "ZiLU",
    "--learn_sigma", "--augment", "--use_amp", "--num_epochs", "3", "--device", "cuda",
)  # fmt: skip
SAVED_OFTEN = ("--save_interval", "2")


def repeats(device: torch.device) -> Found:
    """Make a deterministic run twice, and once interrupted; compare weights and results."""
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name, run) for run in ("first", "second", "interrupted")]
        for folder in folders[:2]:
            run("--deterministic", "--output_dir", folder)
        was_interrupted = interrupted(folders[2])
        run("--deterministic", "--output_dir", folders[2], *SAVED_OFTEN, "--resume")
        findings = [
            compared("--deterministic, twice", folders[0], folders[1]),
            compared("--deterministic, interrupted", folders[0], folders[2]),
        ]
    remarks = [] if was_interrupted else ["the run was over before it could be interrupted"]
    return Found(findings, remarks=remarks)


def run(*flags: str | Path) -> None:
    """Make a run.

    Raises:
        RuntimeError: it failed; with its last line.
    """
    done = subprocess.run(
        [sys.executable, *RUN, *map(str, flags)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"vision_main.py ended with {done.returncode}: {done.stderr[-500:]}")


def interrupted(folder: Path) -> bool:
    """Start a run, and stop it after its first epoch; return whether it was still running."""
    process = subprocess.Popen(
        [sys.executable, *RUN, "--deterministic", "--output_dir", str(folder), *SAVED_OFTEN],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    results = folder / "train_eval_results.txt"
    while process.poll() is None:
        if results.exists() and results.read_text(encoding="utf-8").count("\n") >= 1:
            process.terminate()
            break
        time.sleep(0.05)
    return process.wait() != 0


def outcome(folder: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Return the weights of a run, and the lines of its results without times."""
    weights = load_checkpoint(folder / "checkpoint.pt")["model"]
    results = (folder / "train_eval_results.txt").read_text(encoding="utf-8")
    return weights, re.findall(r"\| (\[Train\].*)", results)


def compared(what: str, one: Path, other: Path) -> Finding:
    """Compare the weights and the results of two runs."""
    (weights, lines), (others, other_lines) = outcome(one), outcome(other)
    differ = [name for name in weights if not torch.equal(weights[name], others[name])]
    seen = f"{len(differ)} of {len(weights)} tensors differ" if differ else "equal weights"
    seen += ", equal results" if lines == other_lines else ", results differ"
    kept = not differ and lines == other_lines
    return Finding(what, "equal bit for bit", seen, kept)


def several_processes(device: torch.device) -> Found:
    """Start a run by torchrun on every GPU there is, which join by NCCL."""
    count = torch.cuda.device_count()
    with tempfile.TemporaryDirectory() as name:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
        flags = ["--max_steps", "6", "--output_dir", f"{name}/run"]
        done = subprocess.run(
            [sys.executable, *torchrun, *RUN, *flags],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
    said = (done.stderr.strip().splitlines() or [""])[-1] if done.returncode else "ran"
    return Found([Finding(f"{count} processes, NCCL", "ran", said, done.returncode == 0)])
