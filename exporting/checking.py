"""Compare an export with the network: in a fresh process that has no part of this project."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from exporting.loading import Trained
from utils import UserError

PROCESS = Path(__file__).with_name("fresh_process.py")
ROOT = Path(__file__).parents[1]
# Of the largest output. Runtimes sum in other orders than torch, and sigmoid and exp are coarser.
TOLERANCE = 1e-4
PACKAGE = {"hf": "transformers", "pt2": "torch", "onnx": "onnxruntime"}  # others are called alike


def check(trained: Trained, path: Path, to: str, wanted: dict[str, Any]) -> str:
    """Return in a line how far the outputs of the export are from the network's.

    Args:
        trained: the run's network.
        path: where the export was written.
        to: its format.
        wanted: what the writer says to the process beside it.

    Raises:
        UserError: the fresh process fails, or gets other outputs.
    """
    cases = trained.outputs()
    with tempfile.TemporaryDirectory() as folder:
        torch.save(cases, Path(folder, "cases.pt"))
        request = {
            "path": str(path.resolve()),
            "to": to,
            "cases": str(Path(folder, "cases.pt")),
            "hidden": hidden_modules(),
            **wanted,
        }
        found = _ask(request, Path(folder))
    largest = max(float(expected.abs().max()) for _, expected in cases)
    difference = found["difference"]
    if not difference <= TOLERANCE * max(largest, 1.0):
        raise UserError(
            f"a fresh process gets other outputs from the export (largest difference "
            f"{difference:.3g}, of outputs up to {largest:.3g}), so nothing was written; "
            f"{found['with']}: another version may help"
        )
    return (
        f"a fresh process without this project ({found['with']}) gets the same outputs; largest "
        f"difference {difference:.2g}, of outputs up to {largest:.3g}"
    )


def hidden_modules() -> list[str]:
    """Return the names of this project's modules, which the process must not import."""
    files = (path.stem for path in ROOT.glob("*.py"))
    folders = (path.parent.name for path in ROOT.glob("*/__init__.py"))
    return sorted({*files, *folders})


def _ask(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run the process on a request, and return its answer.

    Raises:
        UserError: it fails, with its last line.
    """
    needs_library = request.get("needs_zilu", False)
    if needs_library:  # alone, beside nothing else of the project
        (folder / "zilu").symlink_to(ROOT / "zilu")
        request = request | {"library": str(folder)}
        request["hidden"] = [name for name in request["hidden"] if name != "zilu"]
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_MODULES_CACHE": str(folder / "modules"),
        "TOKENIZERS_PARALLELISM": "false",
    }
    environment.pop("PYTHONSTARTUP", None)
    done = subprocess.run(
        [sys.executable, "-I", str(PROCESS)],
        input=json.dumps(request), cwd=folder, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    lines, to = done.stdout.splitlines(), request["to"]
    if done.returncode or not lines:
        raise UserError(
            f"a fresh process cannot load the export ({_reason(done)}), so nothing was written; "
            f"another version of {PACKAGE.get(to, to)} may help, and --no_check leaves this out"
        )
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """Return why a process failed: the signal that ended it, or the last line of its errors."""
    if done.returncode < 0:
        return signal.Signals(-done.returncode).name
    missing = f"exit code {done.returncode}" if done.returncode else "no answer"
    return (done.stderr.strip().splitlines() or [missing])[-1]
