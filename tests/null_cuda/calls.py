"""What tests measure in a process with the null device, other than by a program.

`main` calls the function that the first argument names with the others as keywords (JSON), and
prints what it returns as JSON.
"""

from __future__ import annotations

import functools
import json
import sys
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import trainers
from models.catalogue import family_of
from null_cuda.memory import CUDA, image_trainer, peak, text_trainer
from train_eval import Trainer
from zilu import create_activation

GPT2 = {"embedding_dim": 64, "num_attention_heads": 2, "num_layers": 2, "max_seq_length": 64}


def main() -> int:
    """Call a function of this file."""
    name, arguments = sys.argv[1:]
    print("RESULT", json.dumps(globals()[name](**json.loads(arguments))))
    return 0


# --- the device itself ---


def count() -> dict[str, Any]:
    """Return what a few operations of torch do on the device."""
    x = torch.ones(1000, device=CUDA)
    (x * 2).add_(1)
    x.sum().item()
    return {
        "memory": torch.cuda.memory_allocated(),
        "capability": torch.cuda.get_device_capability(),
    }


def capture() -> str:
    """Return how capturing a graph fails that waits for the device."""
    x = torch.ones(1000, device=CUDA)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            (x * 2).sum().item()
    except RuntimeError as error:
        return str(error)
    return ""


def replay(times: int) -> int:
    """Replay a captured graph so many times; return the nodes that it holds."""
    x = torch.ones(1000, device=CUDA)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        (x * 2).add_(1)
    for _ in range(times):
        graph.replay()
    return 2


def exhaust() -> str:
    """Return how asking for more memory than the device has fails."""
    try:
        torch.empty(2**30, device=CUDA)
    except torch.OutOfMemoryError as error:
        return str(error)
    return ""


# --- networks ---


def compiled_from_output(names: list[str], inplace: bool, steps: int) -> None:
    """Make steps of a network with activations that keep their output, with CUDA graphs."""
    layers: list[nn.Module] = [nn.Linear(64, 64)]
    for name in names:
        sharpness = {} if name == "SquarePlus" else {"learnable": True}
        activation = create_activation(name, save="output", inplace=inplace, **sharpness)
        layers += [activation, nn.Linear(64, 64)]
    network = nn.Sequential(*layers).to(CUDA)
    compiled = torch.compile(network, mode="reduce-overhead", fullgraph=True)
    for _ in range(steps):
        network.zero_grad()
        compiled(torch.ones(32, 64, device=CUDA)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def step_of(model: str, **flags: Any) -> Trainer:
    """Return a trainer of any of the project's networks, small as it can be."""
    flags = {"activation": "ZiLU"} | flags
    batch_size = flags.pop("batch_size", 2)
    if family_of(model) == "gpt2":
        return text_trainer(batch_size, 100, model=model, **GPT2 | flags)
    return image_trainer(model, batch_size, flags.pop("size", 32), 10, **flags)


def deterministic(cases: list[dict[str, Any]]) -> dict[str, str]:
    """Make a step of each case with --deterministic; return the errors."""
    errors = {}
    for case in cases:
        trainer = step_of(**case, deterministic=True)
        try:
            trainers.ready_step(trainer)
        except RuntimeError as error:
            errors[json.dumps(case)] = str(error).splitlines()[0]
    return errors


def channels_first(model: str, norm: str, **flags: Any) -> list[str]:
    """Return the modules of a network that put channels first in memory."""
    trainer = step_of(model, norm=norm, **flags)
    found = []

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            spread = isinstance(output, Tensor) and output.dim() == 4 and min(output.shape[1:]) > 1
            if spread and not output.is_contiguous(memory_format=torch.channels_last):
                found.append(name)

        return hook

    for name, module in trainer.model.named_modules():
        module.register_forward_hook(look(name))
    trainers.ready_step(trainer)
    return found


def peaks(model: str, activations: list[str], **flags: Any) -> dict[str, int]:
    """Return the peak memory in bytes of a training step with each activation."""
    return {
        name: peak(lambda **both: step_of(model, **both), activation=name, **flags)
        for name in activations
    }


def peaks_of_gpt2_small(sequences: list[int], activations: list[str]) -> dict[str, dict[str, int]]:
    """Return the peak memory in bytes of a step of GPT-2 small in mixed precision."""
    return {
        str(number): {
            name: peak(
                functools.partial(text_trainer, number, 50257), activation=name, use_amp=True
            )
            for name in activations
        }
        for number in sequences
    }
