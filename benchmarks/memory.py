"""Measure memory: what an activation keeps for backward, a step's peak, the largest batch.

The trainers are those of the programs, one after the other; the batches lie ready on the device.
The peak is that of what torch's allocator has given out: on CUDA as torch.cuda counts it; on a CPU
what the step starts from (parameters, optimizer, batch), and what torch's profiler sees allocated
and freed from there on.
"""

import gc
import math
import os
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks import tables
from benchmarks.arms import Arm
from benchmarks.timing import Call, no_garbage_collection
from benchmarks.trainers import ready_step
from benchmarks.training import Row, Setup, build, bytes_of, ready_batch
from train_eval import Trainer
from training.devices import enough_memory
from utils import UserError
from zilu.names import kernel_mode

MIB, GIB = 2**20, 2**30
SMALLER = 0.97  # what a batch that does not fit after all is multiplied by
FROM_ERRORS_ON = "6"  # the level of messages at which torch's profiler says nothing of itself


def measure(
    setups: list[Setup],
    arms: list[Arm],
    sigma: float,
    device: torch.device,
    limit: int | None,
    output_dir: str,
) -> None:
    """Measure, print, and save memory.md and .csv in `output_dir`.

    Args:
        setups: a table for each.
        arms: the activations.
        sigma: theirs, for the heading.
        device: where.
        limit: bytes that the largest batch is to fit; None: what is free on a GPU.
        output_dir: the folder.

    Raises:
        UserError: the folder cannot be written, the device does not count, or a batch does not fit.
    """
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--memory: torch counts no peak on {device}; take --device cpu")
    folder = tables.ReportFolder(output_dir)
    report = tables.Report()
    limit = limit or free_bytes(device)
    report.add(heading(sigma, device, limit))
    rows: list[Row] = []
    for setup in setups:
        found = {arm: measure_arm(setup, arm, device, limit) for arm in arms}
        report.add(table(found, setup))
        rows += [row | tables.machine_columns(device) for row in found.values()]
    folder.save("memory", report, rows)


def measure_arm(setup: Setup, arm: Arm, device: torch.device, limit: int | None) -> Row:
    """Return what the arm keeps and needs; with a limit, the largest batch within it too."""
    with enough_memory(device):
        used = memory_of(setup, arm, device)
        row = arm.columns() | vars(setup) | used
        if limit is None:
            return row
        other = replace(setup, batch_size=setup.batch_size // 2 or 2)
        peaks = {setup.batch_size: used["peak_bytes"]}
        peaks[other.batch_size] = memory_of(other, arm, device)["peak_bytes"]
    per_sample, largest = on_a_line(peaks, limit)
    if device.type == "cuda":
        largest = made_to_fit(replace(setup, batch_size=largest), arm, device, limit)
    return row | {"limit_bytes": limit, "bytes_per_sample": per_sample, "largest_batch": largest}


def memory_of(setup: Setup, arm: Arm, device: torch.device) -> dict[str, int]:
    """Return the bytes that a step keeps for backward, and its peak."""
    trainer = stepped(setup, arm, device)
    return bytes_of(trainer) | {"peak_bytes": peak_of_step(trainer)}


def stepped(setup: Setup, arm: Arm, device: torch.device) -> Trainer:
    """Return a trainer that has made a step: it is compiled, and has the optimizer's state."""
    torch.compiler.reset()
    gc.collect()  # or those before it count on CUDA
    trainer = build(setup, arm, ready_batch(setup, device), device)
    ready_step(trainer)
    return trainer


# --- the peak ---


def peak_of_step(trainer: Trainer) -> int:
    """Return the most bytes that are allocated at once in a step."""
    device = trainer.device
    if device.type == "cpu":
        before = [*standing(trainer), trainer.first_bad_step]  # kept: the profiler warns of
        # what is freed and was there before it.
        return bytes_of_all(before) + growth(lambda: ready_step(trainer))
    torch.cuda.reset_peak_memory_stats(device)
    ready_step(trainer)
    return torch.cuda.max_memory_allocated(device)


def standing(trainer: Trainer) -> list[Tensor]:
    """Return the tensors that are there between steps."""
    states = [value for state in trainer.optimizer.state.values() for value in state.values()]
    kept = [value for value in states if isinstance(value, Tensor)]
    model = trainer.model
    return [*model.parameters(), *model.buffers(), *kept, *trainer.data.train.batch]


def bytes_of_all(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the memory behind the tensors, which some may share."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def growth(call: Call) -> int:
    """Return by how many bytes what is allocated on the CPU grows at most during a call."""
    os.environ.setdefault("KINETO_LOG_LEVEL", FROM_ERRORS_ON)  # read at the first profile
    gc.collect()
    with (
        no_garbage_collection(),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled,
    ):
        call()
    result = profiled.profiler.kineto_results
    events = [event for event in result.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()  # below 0 where memory is freed
        most = max(most, now)
    return most


# --- the largest batch ---


def free_bytes(device: torch.device) -> int | None:
    """Return what a GPU has for this process; None for a CPU, which others use too."""
    if device.type == "cpu":
        return None
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device)


def on_a_line(peaks: dict[int, int], limit: int) -> tuple[float, int]:
    """Return the bytes per sample, and the largest batch within the limit; 0 where there is none.

    Args:
        peaks: bytes by batch size, of two sizes; they lie on a straight line.
        limit: bytes.
    """
    (size, peak), (other, peak_of_other) = peaks.items()
    per_sample = (peak - peak_of_other) / (size - other)
    return per_sample, max(0, math.floor(size + (limit - peak) / per_sample))


def made_to_fit(setup: Setup, arm: Arm, device: torch.device, limit: int) -> int:
    """Return a batch size that steps have been made with, the setup's or the next that fits."""
    while setup.batch_size and not fits(setup, arm, device, limit):
        setup = replace(setup, batch_size=int(setup.batch_size * SMALLER))
    return setup.batch_size


def fits(setup: Setup, arm: Arm, device: torch.device, limit: int) -> bool:
    """Make two steps on a GPU whose allocator is held to the limit; return whether they worked."""
    _, total = torch.cuda.mem_get_info(device)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device.index)
    try:
        with enough_memory(device):
            ready_step(stepped(setup, arm, device))
    except UserError:
        return False
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device.index)
    return True


# --- text ---


def heading(sigma: float, device: torch.device, limit: int | None) -> str:
    counted = "torch.cuda's" if device.type == "cuda" else "by torch's profiler"
    lines = [
        "# Memory of training steps",
        "",
        f"- {tables.machine(device)}",
        f"- ZILU_KERNELS={kernel_mode()}; σ = {sigma:g}",
        "- Kept: MiB for backward, beside parameters and the batch. Peak: MiB of all that is "
        f"allocated at once in a step, parameters, optimizer and batch included ({counted}). "
        "÷ ReLU: of the same column.",
    ]
    if limit is not None:
        tried = "; two steps were made with it" if device.type == "cuda" else ", not tried"
        lines.append(
            f"- Largest batch: for {limit / GIB:.3g} GiB; from the peaks at this batch and at half "
            f"of it, on a straight line{tried}."
        )
    return "\n".join(lines)


def table(found: dict[Arm, Row], setup: Setup) -> str:
    relu = found[Arm("ReLU")]
    return (
        f"\n## {setup.title}\n\n{tables.markdown([cells(arm, found[arm], relu) for arm in found])}"
    )


def cells(arm: Arm, row: Row, relu: Row) -> dict[str, str]:
    """Return an arm's row of the table."""
    shown = {"activation": arm.label}
    for name, column in (("kept", "saved_bytes"), ("peak", "peak_bytes")):
        shown[f"{name}, MiB"] = tables.figure(row[column] / MIB)
        shown[f"{name} ÷ ReLU"] = f"{row[column] / relu[column]:.2f}"
    if "largest_batch" in row:
        shown["MiB per sample"] = tables.figure(row["bytes_per_sample"] / MIB)
        shown["largest batch"] = f"{row['largest_batch']:,}"
    return shown
