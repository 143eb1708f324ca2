"""Write the README of an export: what it is, how to load it, and how it was made."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from cli.fields import Effect
from exporting import activation
from exporting.loading import Trained
from run_folder.evaluations import kept_lines
from run_folder.folder import RunFolder
from run_folder.result_lines import ALSO, SUMMARY
from zilu import __version__

# Of the environment: what says nothing of anybody's folders.
SHOWN = ("git_commit", "python", "torch", "torchvision", "transformers", "platform", "device")


def facts(trained: Trained, to: str) -> dict[str, Any]:
    """Return in plain values what an export is and where it came from."""
    model = trained.config.model
    found = {
        "format": to,
        "model": model.model,
        "activation": activation.described(model),
        "learned": activation.learned(trained.model),
        "checkpoint_sha256": trained.digests(),
        "step": trained.checkpoint.get("step"),
        "args": trained.config.values() | trained.settings["args"],
        "environment": trained.settings.get("environment", {}),
        "data": data_facts(trained.settings),
        "results": results(trained.path.parent, trained.checkpoint.get("step", -1)),
        "zilu": __version__,
    }
    shown: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return shown


def data_facts(settings: dict[str, Any]) -> dict[str, Any]:
    """Return what the checkpoint says of its data."""
    names = (
        "data_digests", "data_digest", "tokenizer_fingerprint", "samples", "image_size",
        "num_classes", "class_names", "columns", "normalisation",
    )  # fmt: skip
    return {name: settings[name] for name in names if name in settings}


def results(folder: Path, step: int) -> list[str]:
    """Return the run's results: further test sets, standard evaluations at a step, its summary."""
    path = folder / RunFolder.RESULTS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    # Of a test set the last result counts.
    also = {line.partition("]")[0]: line for line in lines if line.startswith(f"[{ALSO} ")}
    summary = [line for line in lines if line.startswith(SUMMARY)] or lines[-1:]
    return [*also.values(), *kept_lines(RunFolder(folder), step), *summary]


def command_line(trained: Trained) -> str:
    """Return the command that trains such a network: all flags that differ from their defaults."""
    config = trained.config
    flags, args = config.flags(), trained.settings["args"]
    words = []
    for name, flag in flags.items():
        value = args.get(name, flag.default)
        if value == flag.default or value is None or flag.one_run or flag.effect == Effect.NOTHING:
            continue
        words += [f"--{name}" if value is True else f"--{name} {shlex.quote(str(value))}"]
    return " ".join(["python", config.PROGRAM, *words])


def text(trained: Trained, title: str, code: str, notes: list[str], header: str = "") -> str:
    """Return a card as Markdown.

    Args:
        trained: the run's network.
        title: its heading.
        code: Python that makes `model`.
        notes: sentences on what the code needs.
        header: YAML for Hugging Face's hub.
    """
    model, known = trained.config.model, facts(trained, "")
    numbers, environment = known["learned"], known["environment"]
    parts = [
        f"---\n{header}---\n\n" if header else "",
        f"# {title}\n\nActivation: {activation.described(model)}.\n\n",
        "## Loading\n\n", "".join(f"{note}\n\n" for note in notes), f"```python\n{code}```\n\n",
        "## Results\n\nOf one run (n = 1):\n\n",
        "".join(f"    {line}\n" for line in known["results"]) or "    none\n",
        "\n## Recipe\n\n", f"    {command_line(trained)}\n\n",
        f"Seed {known['args'].get('seed')}; step {known['step']}.",
        " All flags are in `export.json`.\n\n",
        "## Data\n\n", f"`{known['args'].get('dataset')}`. What it was, with digests:\n\n",
        *(f"- {name}: `{value}`\n" for name, value in known["data"].items()),
        "\n## How it was made\n\n",
        f"Trained and exported with the toolkit ZiLU-Activation {known['zilu']} from these files, "
        "by their SHA-256:\n\n",
        *(f"- {name}: `{digest}`\n" for name, digest in known["checkpoint_sha256"].items()),
        "\nThe environment:\n\n",
        *(f"- {name}: {environment[name]}\n" for name in SHOWN if name in environment),
    ]  # fmt: skip
    if numbers:
        parts += ["\n## What the activations have learned\n\n", *(f"- {x}\n" for x in numbers)]
    return "".join(parts)
