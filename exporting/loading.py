"""Rebuild the network of a checkpoint, as --test_only does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cli.language import LanguageConfig
from cli.parser import parse
from cli.table import TableConfig
from cli.vision import VisionConfig
from run_folder.checkpoint import load_checkpoint, shards_of
from tasks.language import LanguageProgram
from tasks.table import TableProgram
from tasks.vision import VisionProgram
from training import resuming
from utils import UserError, sha256_of

LANGUAGE, TABLE = "language", "table"
KINDS: dict[str, tuple[Any, Any]] = {
    "vision": (VisionConfig, VisionProgram),
    LANGUAGE: (LanguageConfig, LanguageProgram),
    TABLE: (TableConfig, TableProgram),
}
EXAMPLE_TOKENS = 24  # at most, of an input that outputs are compared on


@dataclass(frozen=True)
class Trained:
    """Hold a run's network and what there is to say of it.

    Attributes:
        path: Of the checkpoint.
        shards: What holds its weights, if --shard had several processes write it.
        checkpoint: Its content.
        program: The configured program.
        model: The network, in evaluation mode on the CPU.
    """

    path: Path
    shards: list[Path]
    checkpoint: dict[str, Any]
    program: Any
    model: nn.Module

    @property
    def settings(self) -> dict[str, Any]:
        found: dict[str, Any] = self.checkpoint["settings"]
        return found

    @property
    def config(self) -> Any:
        return self.program.config

    @property
    def is_language(self) -> bool:
        return bool(self.config.KIND == LANGUAGE)

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of the checkpoint's file, and of its shards', by their paths."""
        return {
            str(path.relative_to(self.path.parent)): sha256_of(path)
            for path in (self.path, *self.shards)
        }

    def examples(self) -> list[Tensor]:
        """Return inputs to compare outputs on: two batches of different sizes."""
        draw = torch.Generator().manual_seed(0)
        if self.is_language:
            longest = min(EXAMPLE_TOKENS, self.config.model.max_seq_length)
            sizes = ((2, longest), (3, max(2, longest // 2)))
            vocabulary = self.settings["model_options"]["vocab_size"]
            return [torch.randint(vocabulary, size, generator=draw) for size in sizes]
        if self.config.KIND == TABLE:
            columns = len(self.settings["columns"])
            return [torch.randn(count, columns, generator=draw) for count in (2, 3)]
        size = self.settings["image_size"]
        return [torch.randn(count, 3, size, size, generator=draw) for count in (2, 3)]

    @torch.no_grad()
    def outputs(self) -> list[tuple[Tensor, Tensor]]:
        """Return the examples, each with what the network gives for it."""
        return [(x, self.model(x)) for x in self.examples()]


class _OfIds(LanguageProgram):
    """Build the network for a graph, which is given ids: nobody needs the tokenizer."""

    @staticmethod
    def check_tokenizer(name: str, saved: str, fingerprint: str) -> None:
        """Take the tokenizer as it was."""


def load(
    path: Path, ema: bool, activation: str | None, tokenizer: Sequence[str] | None = ()
) -> Trained:
    """Return the network of a checkpoint. The data that it was trained on is not needed.

    Args:
        path: of the checkpoint.
        ema: take the averaged weights.
        activation: the user's own, whose code the user thereby lets run.
        tokenizer: of a language model, flags that say where it is now; None if it is not needed.

    Raises:
        UserError: it is no checkpoint of this project, has no such weights, or is halfway from one
            activation to another; as --test_only.
    """
    checkpoint = load_checkpoint(path, whole=False)
    shards = shards_of(path, checkpoint)
    checkpoint = checkpoint if shards is None else shards.whole(checkpoint)
    settings = checkpoint["settings"]
    kind = settings.get("kind", "vision")
    if kind not in KINDS:
        raise UserError(
            f"{path}: of the kind {kind!r}; export.py writes models of the kinds {', '.join(KINDS)}"
        )
    if "gradual" in checkpoint:
        raise UserError(
            f"{path} is {checkpoint['gradual']['t']:.1%} of the way to its activation, and no "
            "other program has such a mixture; train it to the end of --replace_gradually"
        )
    config_class, program_class = KINDS[kind]
    words = ["--test_only", "--checkpoint", str(path), "--device", "cpu", "--no-use_compiled"]
    words += ["--activation", activation] if activation else []
    if kind == LANGUAGE:
        words += tokenizer or []
        program_class = program_class if tokenizer is not None else _OfIds
    command = parse(config_class, "Export.", words)
    program = program_class.of_checkpoint(command, path, checkpoint)
    model = program.network_for(*_sizes(settings, kind))
    with resuming.fitting_weights(path):
        model.load_state_dict(_weights(checkpoint, ema, path))
    files = [] if shards is None else shards.files()
    return Trained(path, files, checkpoint, program, model.eval())


def _sizes(settings: dict[str, Any], kind: str) -> tuple[int, ...]:
    if kind == LANGUAGE:
        return (settings["model_options"]["vocab_size"],)
    if kind == TABLE:
        return len(settings["columns"]), len(settings["class_names"])
    return settings["num_classes"], settings["image_size"]


def _weights(checkpoint: dict[str, Any], ema: bool, path: Path) -> dict[str, Tensor]:
    if not ema:
        trained: dict[str, Tensor] = checkpoint["model"]
        return trained
    if "ema" not in checkpoint:
        raise UserError(f"--ema: {path} has no averaged weights; leave it out")
    averaged: dict[str, Tensor] = checkpoint["ema"]["model"]
    return averaged
