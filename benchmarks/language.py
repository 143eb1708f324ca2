"""Measure language: training steps against a plain GPT's."""

import functools
from typing import Any

import torch

from benchmarks.plain_gpt import PlainGPT, plain_optimizer, plain_step
from benchmarks.tables import print_rates
from benchmarks.timing import Call, interleaved, own_processes
from benchmarks.trainers import (
    HEADS,
    LAYERS,
    LENGTH,
    VOCABULARY,
    WIDTH,
    language_config,
    language_trainer,
    ready_step,
    ready_tokens,
)
from cli.language import LanguageConfig
from training.devices import amp_dtype

STEPS = 3


def measure_training(
    activation: str, batch_size: int, rounds: int, device: torch.device, args: str | None = None
) -> None:
    """Measure steps on a batch that lies ready, without dropout, and print their rates.

    A plain GPT as torch leaves it and the project's own run in processes of their own.
    """
    print(f"\nSteps: {LAYERS} layers of {WIDTH}, {LENGTH} tokens, batch {batch_size}")
    for name, fast in {"fp32": False, "AMP compiled": True}.items():
        flags = {"use_amp": fast, "use_compiled": fast, "activation_args": args}
        config = language_config(device, activation, batch_size, **flags)
        makers = {
            f"plain GPT, GELU, {name}": functools.partial(plain_steps, config, device),
            f"this project, {activation}, {name}": functools.partial(our_steps, config, device),
        }
        with own_processes(makers) as calls:
            times = interleaved(calls, rounds, device)
        print_rates(times, STEPS * batch_size * LENGTH, "tokens", next(iter(makers)))


def plain_steps(config: LanguageConfig, device: torch.device) -> Call:
    """Return steps of a plain GPT, in the configuration's precision and batch size."""
    if device.type == "cuda":  # as nanoGPT does
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    dtype = amp_dtype(config.training, device)
    plain = PlainGPT(VOCABULARY, LENGTH, WIDTH, HEADS, LAYERS).to(device)
    optimizer = plain_optimizer(plain, lr=6e-4)
    # torch.compile returns a module, and its type says a function.
    forward: Any = torch.compile(plain) if config.training.use_compiled else plain
    ids, targets = ready_tokens(config.data.batch_size, device)

    def steps() -> None:
        for _ in range(STEPS):
            plain_step(forward, optimizer, ids, targets, dtype)

    return finished(steps, device)


def our_steps(config: LanguageConfig, device: torch.device) -> Call:
    """Return steps of a trainer as language_main builds it."""
    trainer = language_trainer(config, ready_tokens(config.data.batch_size, device))

    def steps() -> None:
        for _ in range(STEPS):
            ready_step(trainer)

    return finished(steps, device)


def finished(steps: Call, device: torch.device) -> Call:
    """Return `steps` and then waiting for the device: another process cannot wait for it."""

    def call() -> None:
        steps()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return call
