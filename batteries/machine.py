"""Say where and with what the runs are made: what their numbers depend on beside the flags."""

import ast
import hashlib
import importlib.metadata
from pathlib import Path

from batteries.findings import Environment
from batteries.records import CODE
from training.devices import resolve_device
from training.environment import environment
from utils import UserError
from zilu import kernels

ROOT = Path(__file__).parent.parent
# What decides the numbers of a run, the defaults of its flags included: a recipe has the others.
TRAINING = (
    "zilu", "models", "pipelines", "dataset.py", "training", "train_eval.py", "tasks", "cli",
    "utils.py",
)  # fmt: skip
SOURCES = (".py", ".cpp", ".h")
# On a CPU each run has one thread, so that the numbers are the same for any number of processors.
THREADS = 1
MATCHED = ("python", "torch", "torchvision", "numpy", "cuda", "cudnn", "tf32")


def here(device: str) -> Environment:
    """Return the environment of runs that are made here now.

    Args:
        device: as `--device` takes it.

    Raises:
        UserError: there is no such device, or ZILU_KERNELS cannot be had.
    """
    where = resolve_device(device)
    facts = environment(where)
    versions = {name: str(facts[name]) for name in MATCHED if name in facts}
    versions["scikit-learn"] = importlib.metadata.version("scikit-learn")
    try:
        versions["kernels"] = kernels.backend(str(where))
    except RuntimeError as error:
        raise UserError(str(error)) from None
    versions[CODE] = code_digest()
    if where.type == "cpu":
        return Environment(f"{facts['device']}, {facts['cpu_capability']}", THREADS, versions)
    return Environment(facts["device"], None, versions)


def code_digest() -> str:
    """Return a digest of the code that trains, comments and docstrings left out."""
    digest = hashlib.sha256()
    for name in TRAINING:
        place = ROOT / name
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            if path.suffix in SOURCES:
                digest.update(path.relative_to(ROOT).as_posix().encode())
                digest.update(_content(path))
    return digest.hexdigest()[:12]


def _content(path: Path) -> bytes:
    if path.suffix != ".py":
        return path.read_bytes()
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
    return ast.dump(tree).encode()
