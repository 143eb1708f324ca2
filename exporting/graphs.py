"""Write a network as a graph of operations: ONNX, or torch.export's pt2."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import nn

from exporting import card
from exporting.loading import Trained
from exporting.writing import EXPORT
from models.third_party import as_value_error
from utils import user_errors

INPUTS = {"vision": "images", "language": "input_ids", "table": "rows"}  # their names in ONNX
# A file of ONNX holds 2 GiB; of more, the weights would be in a second file.
LARGEST_ONNX = 2**31 - 2**24


def write(trained: Trained, path: Path, to: str) -> dict[str, Any]:
    """Write the graph for any number of inputs, and for a language model of any length.

    Raises:
        UserError: the network cannot be traced, or is too large for ONNX.
    """
    facts = json.dumps(card.facts(trained, to), ensure_ascii=False)
    with user_errors(), quiet():
        if to == "onnx":
            _check_size(trained.model)
        traced = _traced(trained, to)
        if to == "onnx":
            program = _onnx(traced, INPUTS[trained.config.KIND])
            program.model.metadata_props[EXPORT] = facts
            program.save(path, external_data=False)
        else:
            # Through memory: torch's own writer ends the process where a disk is full.
            content = io.BytesIO()
            torch.export.save(traced, content, extra_files={EXPORT: facts})
            path.write_bytes(content.getbuffer())
    return {}


def _check_size(model: nn.Module) -> None:
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if size > LARGEST_ONNX:
        raise ValueError(
            f"--to onnx: the weights take {size:,} bytes, and a file of ONNX holds 2 GiB: --to pt2"
        )


def _traced(trained: Trained, to: str) -> torch.export.ExportedProgram:
    complaint = (
        f"--to {to}: the network cannot be traced ({{}}); a graph is of code without Python's if "
        "on values of tensors: write such a place with torch.where"
    )
    with as_value_error(complaint):
        return torch.export.export(
            _plain(trained.model), inputs(trained), dynamic_shapes=shapes(trained)
        )


def _onnx(traced: torch.export.ExportedProgram, name: str) -> Any:
    with as_value_error("--to onnx: the network cannot be written in ONNX ({}): --to pt2"):
        return torch.onnx.export(
            traced, dynamo=True, verbose=False, input_names=[name], output_names=["logits"]
        )


def _plain(model: nn.Module) -> nn.Module:
    """Return the network with its weights in the usual order of memory."""
    return model.to(memory_format=torch.contiguous_format)


def inputs(trained: Trained) -> tuple[torch.Tensor]:
    """Return the inputs to trace."""
    return (trained.examples()[0],)


def shapes(trained: Trained) -> tuple[dict[int, Any]]:
    """Return which dimensions of the input may have any size."""
    batch = torch.export.Dim("batch")
    if not trained.is_language:
        return ({0: batch},)
    longest = trained.config.model.max_seq_length
    return ({0: batch, 1: torch.export.Dim("length", max=longest)},)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what the tracers print of their own to themselves."""
    before = logging.root.manager.disable
    try:
        logging.disable(logging.WARNING)
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
