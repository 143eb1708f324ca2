"""Check training steps: time against GELU's, memory, no wait for the device, and SGD in fp16."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import trainers
from benchmarks.gpu_check.found import Finding, Found
from benchmarks.gpu_check.speed import row
from benchmarks.timing import in_rounds, ratio, timed
from cli.language import LanguageConfig
from train_eval import Trainer
from training.devices import peak_flops, set_arithmetic
from training.task import Batch

# How torch.compile is asked for; None for not at all.
MODES = {"eager": None, "compiled": "default", "graphs": "reduce-overhead"}
ACTIVATIONS = ("GELU", "ZiLU")
BATCH_SIZE, ROUNDS, SAMPLE_STEPS = 128, 7, 10
# Steps before are those that make optimizer states, compile, and record CUDA graphs.
FIRST_STEPS, WATCHED_STEPS = 4, 8
STEP_LIMIT = 1.05  # ZiLU's over GELU's
SGD_STEPS = 12

# The peak memory of a step of GPT-2 small with its default flags in mixed precision, eager, by
# sequences of 1024 tokens, with GELU and with ZiLU alike: what torch's allocator gave on a device
# that computes nothing (tests/null_cuda/memory.py, torch 2.14).
PREDICTED_GIB = {32: 30.9, 8: 9.0}
LENGTH, VOCABULARY = 1024, 50257
MEMORY_TOLERANCE = 0.1  # of the prediction: the libraries' workspaces are not in it
GIB = 2**30


def of_network(model: str, mode: str, device: torch.device) -> Found:
    """Compare the steps of a ResNet in mixed precision with ZiLU and with GELU."""
    images, targets = trainers.ready_images(BATCH_SIZE, device)

    def make(activation: str) -> Trainer:
        flags = {"use_amp": True, **compiling(mode)}
        config = trainers.vision_config(device, model, activation, BATCH_SIZE, **flags)
        set_arithmetic(device, deterministic=False)
        return trainers.vision_trainer(config, (images, targets))

    makers = {name: functools.partial(make, name) for name in ACTIVATIONS}
    return compared(f"{model}, {mode}", makers, device).found


def compiling(mode: str) -> dict[str, Any]:
    """Return the flags of a mode."""
    compile_mode = MODES[mode]
    return {"use_compiled": True, "compile_mode": compile_mode} if compile_mode else {}


def gpt2(device: torch.device) -> Found:
    """Compare GPT-2 small with ZiLU and with GELU: memory against the prediction, speed and MFU."""
    total = torch.cuda.get_device_properties(device).total_memory / GIB
    fitting = [count for count, gib in PREDICTED_GIB.items() if 1.3 * gib < total]
    if not fitting:
        return Found(remarks=[f"left out: it does not fit into {total:.0f} GiB"])
    return Found.joined(gpt2_in(mode, max(fitting), device) for mode in ("eager", "compiled"))


def gpt2_in(mode: str, sequences: int, device: torch.device) -> Found:
    """Compare GPT-2 small in one mode."""
    ids, targets = torch.randint(VOCABULARY, (2, sequences, LENGTH), device=device)
    what = f"GPT-2 small, {sequences} sequences, {mode}"
    makers = {
        name: functools.partial(gpt2_trainer, name, mode, (ids, targets), device)
        for name in ACTIVATIONS
    }
    comparison = compared(what, makers, device)
    found = comparison.found
    for name, seconds in comparison.times.items():
        if mode == "eager":
            found.add(as_predicted(f"{what}, {name}", comparison.peaks[name] / GIB, sequences))
        rate = ids.numel() / statistics.median(seconds)
        share = mfu(comparison.trainers[name], rate)
        found.remarks.append(f"{what}, {name}: {rate:,.0f} tokens/s{share}")
    return found


def as_predicted(what: str, gib: float, sequences: int) -> Finding:
    """Return whether the peak memory is what the null device predicted."""
    predicted = PREDICTED_GIB[sequences]
    kept = abs(gib - predicted) <= MEMORY_TOLERANCE * predicted
    promised = f"{predicted:.1f} GiB, within {MEMORY_TOLERANCE:.0%}"
    return Finding(f"{what}, peak memory", promised, f"{gib:.1f} GiB", kept)


def gpt2_trainer(activation: str, mode: str, batch: Batch, device: torch.device) -> Trainer:
    """Return a trainer of GPT-2 small with its default flags."""
    flags = {"activation": activation, "batch_size": len(batch[0]), "use_amp": True}
    config = LanguageConfig.from_values({"device": str(device)} | flags | compiling(mode))
    set_arithmetic(device, deterministic=False)
    return trainers.language_trainer(config, batch, VOCABULARY)


def mfu(trainer: Trainer, tokens_per_second: float) -> str:
    """Return the share of the GPU's peak that a rate is, as text; nothing where none is known."""
    flops = trainer.task.flops(trainer.model)
    peak = peak_flops(trainer.device, trainer.objective.amp_dtype)
    return f", {tokens_per_second * flops / peak:.1%} of the peak" if flops and peak else ""


def sgd_in_fp16(device: torch.device) -> Found:
    """Train with SGD in fp16, whose scaler skips the first steps, in memory full of NaN."""
    free, _ = torch.cuda.mem_get_info(device)
    poison = torch.full((free // 8,), torch.nan, device=device)
    del poison  # to torch's allocator, which gives it out again as it is
    config = trainers.vision_config(
        device, "resnet20", "ZiLU", BATCH_SIZE, optimizer="sgd", lr=0.01, use_amp=True,
        amp_dtype="fp16",
    )  # fmt: skip
    trainer = trainers.vision_trainer(config, trainers.ready_images(BATCH_SIZE, device))
    trainer.scaler = torch.amp.GradScaler(device.type, init_scale=2.0**40)  # overflows
    for _ in range(SGD_STEPS):
        trainers.ready_step(trainer)
    skipped = trainer.scaler.get_scale() < 2.0**40
    finite = all(bool(parameter.isfinite().all()) for parameter in trainer.model.parameters())
    return Found(
        [
            Finding("SGD in fp16, the first steps", "skipped", str(skipped), skipped),
            Finding("SGD in fp16, weights after them", "finite", str(finite), finite),
        ]
    )


@dataclass(frozen=True)
class Comparison:
    """Hold the steps of several trainers.

    Attributes:
        found: the promises about them.
        trainers: by activation.
        peaks: bytes that each has had at most, by activation.
        times: seconds of a step in each round, by activation.
    """

    found: Found
    trainers: dict[str, Trainer]
    peaks: dict[str, int]
    times: dict[str, list[float]]


def compared(
    what: str, makers: Mapping[str, Callable[[], Trainer]], device: torch.device
) -> Comparison:
    """Make a trainer for each activation, and compare their steps: waits, memory and time."""
    found, peaks, trainers_of = Found(), {}, {}
    for name, make in makers.items():
        before = torch.cuda.memory_allocated(device)
        trainer = trainers_of[name] = make()
        found.add(waits(f"{what}, {name}", trainer))
        peaks[name] = torch.cuda.max_memory_allocated(device) - before
    samples = {
        name: functools.partial(
            timed, functools.partial(trainers.ready_step, trainer), device, SAMPLE_STEPS
        )
        for name, trainer in trainers_of.items()
    }
    times = in_rounds(samples, ROUNDS)
    over = ratio(times["ZiLU"], times["GELU"])
    found.add(Finding.at_most(f"{what}, time of a step ÷ GELU's", STEP_LIMIT, over))
    found.rows.append(row(f"{what}, ms", times["GELU"], times["ZiLU"], 1e3))
    gelu, zilu = ([peaks[name] / GIB] for name in ACTIVATIONS)
    found.rows.append(row(f"{what}, peak GiB", gelu, zilu, 1))
    return Comparison(found, trainers_of, peaks, times)


def waits(what: str, trainer: Trainer) -> Finding:
    """Make steps, of which those after the first ones may not wait for the device."""
    for _ in range(FIRST_STEPS):
        trainers.ready_step(trainer)
    torch.cuda.synchronize()
    # cuDNN tries out its algorithms in the first steps, some of which take much memory.
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(WATCHED_STEPS):
            trainers.ready_step(trainer)
    except RuntimeError as error:
        return Finding(f"{what}, waits in a step", "none", str(error).splitlines()[0], False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return Finding(f"{what}, waits in a step", "none", "none", True)
