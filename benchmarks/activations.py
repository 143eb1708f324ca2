"""Measure activations one by one: time, bandwidth, memory for backward, and error.

Torch's own ReLU, GELU and SiLU are the baselines. All arms of a cell (one device, dtype and size)
work on the same input, and a sample of each is the same number of calls. Forward is a module's
call that leaves a graph behind, backward the gradients of a graph that exists already, both is one
after the other; each of the three is timed by itself.
"""

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks import tables
from benchmarks.accuracy import largest_errors
from benchmarks.arms import Arm
from benchmarks.figure import draw
from benchmarks.names import BASELINES, DTYPES
from benchmarks.timing import (
    Call,
    in_rounds,
    process_with,
    quartiles,
    ratio,
    repeats_for,
    saved_bytes,
    timed,
)
from training.devices import keep_heap, make_current
from utils import UserError
from zilu.names import kernel_mode

SAMPLE_SECONDS = 0.002
# Tensors of the input's size that each has to read or write; a copy moves two.
MOVED = {"forward": 2, "backward": 3, "both": 5}
COPY = Arm("copy")  # no activation: `copy_`, whose bandwidth the others' is compared with

Row = dict[str, Any]
Run = Callable[..., Any]  # run(function, cell, arm, *more): the function's result


@dataclass(frozen=True)
class Cell:
    """Say where arms are compared, in texts and numbers alone: other processes are sent it."""

    device: str
    dtype: str
    size: int


@dataclass(frozen=True)
class Plan:
    """Say what to measure: every arm in every cell of devices, dtypes and sizes.

    Attributes:
        sigma: the arms', for the heading.
        rounds: how often each arm is measured.
    """

    arms: list[Arm]
    devices: list[torch.device]
    dtypes: tuple[str, ...]
    sizes: tuple[int, ...]
    sigma: float
    rounds: int

    @property
    def compares_plain(self) -> bool:
        return any(arm.plain for arm in self.arms)

    @property
    def settings(self) -> str:
        """Return what the figures depend on, for the heading and the caption."""
        return f"n = {self.rounds} rounds; ZILU_KERNELS={kernel_mode()}; σ = {self.sigma:g}"


def measure(plan: Plan, output_dir: str) -> None:
    """Measure, print, and save activations.md, .csv and .png in `output_dir`.

    Raises:
        UserError: the folder cannot be written, matplotlib is missing, or a size is too large.
    """
    folder = tables.ReportFolder(output_dir)
    tables.check_matplotlib()
    report = tables.Report()
    report.add(heading(plan))
    rows: list[Row] = []
    with runner(plan.compares_plain) as run:
        for device in plan.devices:
            make_current(device)
            machine = tables.machine_columns(device)
            for dtype in plan.dtypes:
                cells = [Cell(str(device), dtype, size) for size in plan.sizes]
                errors = {arm: run(errors_of, cells[0], arm) for arm in plan.arms}
                report.add(errors_table(errors, cells[0]))
                for cell in cells:
                    found = measure_cell(cell, plan.arms, plan.rounds, run)
                    report.add(speed_table(found, cell))
                    rows += [found[arm] | errors[arm] | machine for arm in plan.arms]
    if plan.compares_plain:
        report.add(against_plain(rows))
    report.add("\n![Time of forward and backward relative to GELU's](activations.png)")
    folder.save("activations", report, rows)
    folder.draw("activations", functools.partial(draw, rows, caption(plan)))


# --- one cell ---


@contextmanager
def runner(compares_plain: bool) -> Iterator[Run]:
    """Give what runs function(cell, arm, ...) in this process, or for plain arms in another.

    A process chooses once between kernels and plain operations.
    """

    def here(function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    with process_with(ZILU_KERNELS="plain") if compares_plain else nullcontext(here) as there:
        keep_heap()
        there(keep_heap)

        def run(function: Callable[..., Any], cell: Cell, arm: Arm, *more: Any) -> Any:
            return (there if arm.plain else here)(function, cell, arm, *more)

        yield run


def measure_cell(cell: Cell, arms: list[Arm], rounds: int, run: Run) -> dict[Arm, Row]:
    """Return a row for each arm.

    Raises:
        UserError: the cell does not fit into memory.
    """

    def sample(arm: Arm, way: str, repeats: int) -> float:
        return run(seconds, cell, arm, way, repeats)

    with memory_errors(cell):
        gelu = functools.partial(sample, Arm("GELU"), "forward")
        repeats = repeats_for(gelu, SAMPLE_SECONDS)
        measured = [(arm, way) for arm in arms for way in MOVED] + [(COPY, "forward")]
        samples = {each: functools.partial(sample, *each, repeats) for each in measured}
        times = in_rounds(samples, rounds)
        saved = {arm: run(bytes_of, cell, arm) for arm in arms}
    for arm in arms:
        run(forget, cell, arm)
    counts = {"rounds": rounds, "repeats": repeats}
    return {
        arm: arm.columns() | vars(cell) | counts | speed(times, arm) | saved[arm] for arm in arms
    }


def seconds(cell: Cell, arm: Arm, way: str, repeats: int) -> float:
    """Return the seconds of a call.

    One call before does not count: it brings the arm's data into the caches, and outlasts the
    threads that another process's arm leaves waiting.
    """
    call = calls(cell, arm)[way]
    call()
    return timed(call, torch.device(cell.device), repeats)


@functools.cache
def calls(cell: Cell, arm: Arm) -> dict[str, Call]:
    """Return what is timed, by the names in MOVED."""
    x, grad = tensors(cell)
    if arm == COPY:
        source, target = x.detach(), torch.empty_like(grad)
        return {"forward": lambda: target.copy_(source)}
    module = arm.build().to(cell.device)
    leaves = [x, *module.parameters()]
    y = module(x)
    return {
        "forward": lambda: module(x),
        "backward": lambda: torch.autograd.grad(y, leaves, grad, retain_graph=True),
        "both": lambda: torch.autograd.grad(module(x), leaves, grad),
    }


@functools.cache
def tensors(cell: Cell) -> tuple[Tensor, Tensor]:
    """Return the input, normally distributed, and the gradient of the output."""
    generator = torch.Generator(cell.device).manual_seed(0)
    options: dict[str, Any] = {
        "dtype": torch_dtype(cell.dtype),
        "device": cell.device,
        "generator": generator,
    }
    return torch.randn(cell.size, **options, requires_grad=True), torch.randn(cell.size, **options)


def forget(cell: Cell, arm: Arm) -> None:
    """Free the memory of everything that the arm's process has ready."""
    calls.cache_clear()
    tensors.cache_clear()


def torch_dtype(name: str) -> torch.dtype:
    """Return the dtype that a benchmark calls so: fp32, bf16 or fp16."""
    dtype: torch.dtype = getattr(torch, DTYPES[name])
    return dtype


def bytes_of(cell: Cell, arm: Arm) -> Row:
    """Return what is kept for backward: in bytes, and in tensors of the input's size."""
    count = saved_bytes(calls(cell, arm)["forward"])
    x, _ = tensors(cell)
    return {"saved_bytes": count, "saved_tensors": count / (x.numel() * x.element_size())}


def errors_of(cell: Cell, arm: Arm) -> dict[str, float]:
    """Return the largest errors in the cell's dtype on its device."""
    # torch's GELU cancels for x << 0 in float64 too; GELU_s does not.
    exact = Arm("GELU_s", 1.0) if arm.activation == "GELU" else arm
    device = torch.device(cell.device)
    return largest_errors(
        arm.build().to(device), exact.build().double(), torch_dtype(cell.dtype), device
    )


@contextmanager
def memory_errors(cell: Cell) -> Iterator[None]:
    """Turn the errors of a cell that does not fit into memory into a UserError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        reason = (str(error) or "no memory").splitlines()[0]
        if not isinstance(error, MemoryError) and not re.search("memory|alloc|overflow", reason):
            raise
        raise UserError(
            f"--sizes {cell.size}: does not fit into the memory of {cell.device} ({reason}); "
            "take a smaller one"
        ) from None


# --- rows and text ---


def speed(times: dict[tuple[Arm, str], list[float]], arm: Arm) -> Row:
    """Return microseconds, ratios within the rounds, and bandwidth as a fraction of a copy's."""
    columns: Row = {}
    for way, moved in MOVED.items():
        own = times[arm, way]
        low, middle, high = (1e6 * x for x in quartiles(own))
        columns |= {f"{way}_us": middle, f"{way}_us_q1": low, f"{way}_us_q3": high}
        for name in BASELINES:
            columns[f"{way}_over_{name}"] = ratio(own, times[Arm(name), way])
        for name, twin in (("plain", replace(arm, plain=True)), ("input", from_input(arm))):
            other = times.get((twin, way)) if twin else None
            columns[f"{way}_over_{name}"] = ratio(own, other) if other else ""
        columns[f"{way}_of_copy"] = moved / 2 * ratio(times[COPY, "forward"], own)
    return columns


def from_input(arm: Arm) -> Arm | None:
    """Return the arm whose gradients come from the input, for one from the output."""
    return replace(arm, save="input") if arm.save == "output" else None


def heading(plan: Plan) -> str:
    lines = [f"- {tables.machine(device)}" for device in plan.devices]
    return "\n".join(
        [
            "# Activations: speed, memory and error",
            "",
            *lines,
            f"- {plan.settings}",
            "- Times in microseconds: median (quartiles) of a call. Three figures a / b / c are of "
            "forward, backward, and both one after the other.",
            "- ÷ GELU and so on: the time over that of torch's, median of the ratios within the "
            "rounds. Of copy: bandwidth over that of `copy_`; forward moves 2 tensors, backward 3.",
            "- Saved: bytes kept for backward, and as tensors of the input's size.",
        ]
    )


def caption(plan: Plan) -> str:
    machines = " | ".join(tables.machine(device) for device in plan.devices)
    return f"Time of forward and backward over GELU's; {plan.settings}. {machines}"


def errors_table(errors: dict[Arm, dict[str, float]], cell: Cell) -> str:
    rows = [
        {
            "activation": arm.label,
            "value, ulp": tables.figure(found["value_ulp"]),
            "slope, ulp": tables.figure(found["slope_ulp"]),
            "value, absolute": tables.figure(found["value_error"]),
            "slope, absolute": tables.figure(found["slope_error"]),
        }
        for arm, found in errors.items()
    ]
    return (
        f"\n## {cell.device}, {cell.dtype}: largest error against float64\n\n"
        "Over 1e-30 to 1e38 with both signs, and densely over -12 to 12. In ulp at the exact "
        "number (huge where a slope crosses zero), and absolute (relative above 1).\n\n"
        + tables.markdown(rows)
    )


def speed_table(found: dict[Arm, Row], cell: Cell) -> str:
    twins = {"plain": any(arm.plain for arm in found), "input": any(map(from_input, found))}
    others = [name for name, compared in twins.items() if compared]
    rows = [speed_line(arm, columns, others) for arm, columns in found.items()]
    title = f"{cell.device}, {cell.dtype}, {tables.size(cell.size)} elements"
    return f"\n## {title}\n\n{tables.markdown(rows)}"


def speed_line(arm: Arm, columns: Row, others: list[str]) -> dict[str, str]:
    """Return an arm's line of the table; `others` are what some arms have a ratio to."""

    def ways(suffix: str) -> str:
        values = [columns[f"{way}_{suffix}"] for way in MOVED]
        return "" if "" in values else " / ".join(f"{value:.2f}" for value in values)

    def time(way: str) -> str:
        low, middle, high = (columns[f"{way}_us{part}"] for part in ("_q1", "", "_q3"))
        return tables.with_spread(low, middle, high)

    return {
        "activation": arm.label,
        **{way: time(way) for way in MOVED},
        **{f"÷ {name}": ways(f"over_{name}") for name in BASELINES},
        **{f"÷ {name}": ways(f"over_{name}") for name in others},
        "of copy": ways("of_copy"),
        "saved": f"{columns['saved_bytes']:,} ({columns['saved_tensors']:.2f})",
    }


def against_plain(rows: list[Row]) -> str:
    """Return a line about the arm that loses most, or wins least, against plain operations."""
    ratios = [
        (row[f"{way}_over_plain"], f"{row['arm']}, {way}, {row['dtype']}, {row['size']} elements")
        for row in rows
        if row["kernels"] not in ("", "plain")
        for way in MOVED
    ]
    if not ratios:
        return ""
    worst, where = max(ratios)
    return f"\nLargest ratio to the plain path: {worst:.2f} ({where})."
