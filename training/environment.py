"""Collect the facts that a run's numbers depend on besides its flags, for args.txt."""

import importlib.metadata
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy
import torch
import torchvision

from cli.config import Config
from cli.optimizer_names import LIBRARIES
from models.catalogue import PACKAGES
from training.devices import cpu_name, device_description


def environment(device: torch.device) -> dict[str, Any]:
    """Return versions, machine, device and git commit, as plain values."""
    facts: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a str subclass, which YAML refuses
        "torchvision": str(torchvision.__version__),
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": device_description(device),
    }
    if device.type == "cuda":
        facts["cuda"] = torch.version.cuda
        facts["cudnn"] = torch.backends.cudnn.version()
        facts["tf32"] = torch.backends.cudnn.allow_tf32
    return facts


def _git_commit() -> str | None:
    """Return the commit of this code, with "+changes" if files differ from it; None outside git."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=here, capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def package_versions(config: Config) -> dict[str, str]:
    """Return {package: version} of those that the network and the optimizer are from."""
    packages = PACKAGES | LIBRARIES
    prefixes = [
        name.partition("/")[0]
        for name in (config.model.model, config.training.optimizer)
        if "/" in name
    ]
    found = [packages[prefix] for prefix in prefixes if prefix in packages]
    return {package: importlib.metadata.version(package) for package in found}
