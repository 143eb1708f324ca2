"""Activations one by one: time, bandwidth, memory for backward, and error, against torch's own.

Every arm of a cell (one device, dtype and size) works on the same input, and a sample of it is
equally many calls. Forward is a module's call that leaves a graph behind, backward the gradients
of a graph that lies ready, both is one after the other; each of the three is timed by itself.
"""

import argparse
import functools
import re
import textwrap
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from benchmarks import tables
from benchmarks.names import ACTIVATIONS, DTYPES
from benchmarks.timing import (
    in_rounds,
    process_with,
    quartiles,
    ratio,
    repeats_for,
    saved_bytes,
    timed,
)
from utils import UserError, keep_heap
from zilu.names import SIGMA_NAMES, kernel_mode

BASELINES = ("ReLU", "GELU", "SiLU")
SAMPLE_SECONDS = 0.002
# Tensors of the input's size that each has to read or write; a copy moves two.
MOVED = {"forward": 2, "backward": 3, "both": 5}


@dataclass(frozen=True)
class Unit:
    """What is measured: an activation, its sigma learned or not, by the plain path or not."""

    activation: str
    learned: bool = False
    plain: bool = False

    @property
    def label(self) -> str:
        return self.activation + ", σ learned" * self.learned + ", plain" * self.plain

    @property
    def has_sigma(self) -> bool:
        return self.activation in SIGMA_NAMES

    def build(self, sigma: float):
        from models.activation import create_activation

        return create_activation(self.activation, sigma, self.learned)


COPY = Unit("copy")


@dataclass(frozen=True)
class Cell:
    """Where units are compared. Texts and numbers alone: other processes are sent it."""

    device: str
    dtype: str
    size: int
    sigma: float


def units(names, baselines, learn_sigma: bool, compare_plain: bool = False) -> list[Unit]:
    """The baselines and those asked for, in the order of the tables."""
    found = [Unit(name) for name in dict.fromkeys((*baselines, *names))]
    if learn_sigma:
        found += [Unit(unit.activation, learned=True) for unit in found if unit.has_sigma]
    if compare_plain:
        found += [Unit(u.activation, u.learned, plain=True) for u in found if u.has_sigma]
    return found


def measure(args: argparse.Namespace, devices: list) -> None:
    """Measure, print, and save activations.md, .csv and .png in --output_dir.

    Raises:
        UserError: no place for the files, nothing to draw with, too large a size.
    """
    folder = tables.ReportFolder(args.output_dir)
    tables.check_matplotlib()
    names = args.activations or ACTIVATIONS
    wanted = units(names, BASELINES, args.learn_sigma, args.compare_plain)
    report, rows = tables.Report(), []
    report.add(heading(args, devices))
    with runner(args.compare_plain) as run:
        for device in devices:
            machine = tables.machine_columns(device)
            for dtype in args.dtypes:
                cells = [Cell(str(device), dtype, size, args.sigma) for size in args.sizes]
                errors = {unit: run(errors_of, cells[0], unit) for unit in wanted}
                report.add(errors_table(errors, cells[0]))
                for cell in cells:
                    found = measure_cell(cell, wanted, args.rounds, run)
                    report.add(speed_table(found, cell))
                    rows += [found[unit] | errors[unit] | machine for unit in wanted]
    if args.compare_plain:
        report.add(against_plain(rows))
    report.add("\n![Time of forward and backward relative to GELU's](activations.png)")
    folder.save("activations", report, rows)
    folder.draw("activations", functools.partial(draw, rows, caption(args, devices)))


# --- one cell ---


@contextmanager
def runner(compare_plain: bool):
    """What runs function(cell, unit, ...): this process, or another for units marked plain (the
    path is chosen once in a process)."""

    def here(function, *args):
        return function(*args)

    with process_with(ZILU_KERNELS="plain") if compare_plain else nullcontext(here) as there:
        keep_heap()
        there(keep_heap)

        def run(function, cell: Cell, unit: Unit, *args):
            return (there if unit.plain else here)(function, cell, unit, *args)

        yield run


def measure_cell(cell: Cell, wanted: list[Unit], rounds: int, run) -> dict[Unit, dict]:
    """A row for each unit.

    Raises:
        UserError: it does not fit into memory.
    """

    def sample(unit: Unit, way: str, repeats: int) -> float:
        return run(seconds, cell, unit, way, repeats)

    with memory_errors(cell):
        gelu = functools.partial(sample, Unit("GELU"), "forward")
        repeats = repeats_for(gelu, SAMPLE_SECONDS)
        arms = [(unit, way) for unit in wanted for way in MOVED] + [(COPY, "forward")]
        samples = {arm: functools.partial(sample, *arm, repeats) for arm in arms}
        times = in_rounds(samples, rounds)
        saved = {unit: run(bytes_of, cell, unit) for unit in wanted}
    for unit in wanted:
        run(forget, cell, unit)
    counts = {"rounds": rounds, "repeats": repeats}
    return {u: identity(cell, u) | counts | speed(times, u) | saved[u] for u in wanted}


def seconds(cell: Cell, unit: Unit, way: str, repeats: int) -> float:
    """Seconds of a call. One before does not count: it brings the unit's data into the caches,
    and outlasts the threads that another process's arm leaves waiting."""
    import torch

    arm = calls(cell, unit)[way]
    arm()
    return timed(arm, torch.device(cell.device), repeats)


@functools.cache
def calls(cell: Cell, unit: Unit) -> dict:
    import torch

    x, grad = tensors(cell)
    if unit == COPY:
        source, target = x.detach(), torch.empty_like(grad)
        return {"forward": lambda: target.copy_(source)}
    module = unit.build(cell.sigma).to(cell.device)
    leaves = [x, *module.parameters()]
    y = module(x)
    return {
        "forward": lambda: module(x),
        "backward": lambda: torch.autograd.grad(y, leaves, grad, retain_graph=True),
        "both": lambda: torch.autograd.grad(module(x), leaves, grad),
    }


@functools.cache
def tensors(cell: Cell) -> tuple:
    """The input, normally distributed, and the gradient of the output."""
    import torch

    generator = torch.Generator(cell.device).manual_seed(0)
    options = {"dtype": torch_dtype(cell), "device": cell.device, "generator": generator}
    return torch.randn(cell.size, **options, requires_grad=True), torch.randn(cell.size, **options)


def forget(cell: Cell, unit: Unit) -> None:
    """Free the memory of all that the unit's process has ready."""
    calls.cache_clear()
    tensors.cache_clear()


def torch_dtype(cell: Cell):
    import torch

    return getattr(torch, DTYPES[cell.dtype])


def bytes_of(cell: Cell, unit: Unit) -> dict:
    """What is kept for backward: in bytes, and in tensors of the input's size."""
    count = saved_bytes(calls(cell, unit)["forward"])
    x, _ = tensors(cell)
    return {"saved_bytes": count, "saved_tensors": count / (x.numel() * x.element_size())}


def errors_of(cell: Cell, unit: Unit) -> dict:
    import torch

    from benchmarks.accuracy import largest_errors

    module = unit.build(cell.sigma)
    # torch's GELU cancels for x << 0 in float64 too; GELU_s does not.
    same = Unit("GELU_s").build(1.0) if unit.activation == "GELU" else unit.build(cell.sigma)
    device = torch.device(cell.device)
    return largest_errors(module.to(device), same.double(), torch_dtype(cell), device)


@contextmanager
def memory_errors(cell: Cell):
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


# --- rows ---


def identity(cell: Cell, unit: Unit) -> dict:
    kernels = "plain" if unit.plain else kernel_mode()
    return {
        "arm": unit.label,
        "activation": unit.activation,
        "sigma": cell.sigma if unit.has_sigma else "",
        "learned": unit.learned,
        "kernels": kernels if unit.has_sigma else "",
        "device": cell.device,
        "dtype": cell.dtype,
        "size": cell.size,
    }


def speed(times: dict, unit: Unit) -> dict:
    """Microseconds, ratios within the rounds, and bandwidth as a fraction of a copy's."""
    columns = {}
    for way, moved in MOVED.items():
        own = times[unit, way]
        low, middle, high = (1e6 * x for x in quartiles(own))
        columns |= {f"{way}_us": middle, f"{way}_us_q1": low, f"{way}_us_q3": high}
        for name in BASELINES:
            columns[f"{way}_over_{name}"] = ratio(own, times[Unit(name), way])
        twin = Unit(unit.activation, unit.learned, plain=True), way
        columns[f"{way}_over_plain"] = ratio(own, times[twin]) if twin in times else ""
        columns[f"{way}_of_copy"] = moved / 2 * ratio(times[COPY, "forward"], own)
    return columns


# --- text ---


def heading(args: argparse.Namespace, devices: list) -> str:
    lines = [f"- {tables.machine(device)}" for device in devices]
    return "\n".join(
        [
            "# Activations: speed, memory and error",
            "",
            *lines,
            f"- {settings(args)}",
            "- Times in microseconds: median (quartiles) of a call. Three figures a / b / c are of "
            "forward, backward, and both one after the other.",
            "- ÷ GELU and so on: the time over that of torch's, median of the ratios within the "
            "rounds. Of copy: bandwidth over that of `copy_`; forward moves 2 tensors, backward 3.",
            "- Saved: bytes kept for backward, and as tensors of the input's size.",
        ]
    )


def settings(args: argparse.Namespace) -> str:
    return f"n = {args.rounds} rounds; ZILU_KERNELS={kernel_mode()}; σ = {args.sigma:g}"


def errors_table(errors: dict[Unit, dict], cell: Cell) -> str:
    rows = [
        {
            "activation": unit.label,
            "value, ulp": tables.figure(found["value_ulp"]),
            "slope, ulp": tables.figure(found["slope_ulp"]),
            "value, absolute": tables.figure(found["value_error"]),
            "slope, absolute": tables.figure(found["slope_error"]),
        }
        for unit, found in errors.items()
    ]
    return (
        f"\n## {cell.device}, {cell.dtype}: largest error against float64\n\n"
        "Over 1e-30 to 1e38 with both signs, and densely over -12 to 12. In ulp at the exact "
        "number (huge where a slope crosses zero), and absolute (relative above 1).\n\n"
        + tables.markdown(rows)
    )


def speed_table(found: dict[Unit, dict], cell: Cell) -> str:
    def row(unit: Unit, columns: dict) -> dict[str, str]:
        def ways(suffix: str) -> str:
            values = [columns[f"{way}_{suffix}"] for way in MOVED]
            return "" if "" in values else " / ".join(f"{value:.2f}" for value in values)

        def time(way: str) -> str:
            middle, low, high = (columns[f"{way}_us{part}"] for part in ("", "_q1", "_q3"))
            return tables.with_spread(low, middle, high)

        return {
            "activation": unit.label,
            **{way: time(way) for way in MOVED},
            **{f"÷ {name}": ways(f"over_{name}") for name in BASELINES},
            **({"÷ plain": ways("over_plain")} if compares_plain else {}),
            "of copy": ways("of_copy"),
            "saved": f"{columns['saved_bytes']:,} ({columns['saved_tensors']:.2f})",
        }

    compares_plain = any(unit.plain for unit in found)
    rows = [row(unit, columns) for unit, columns in found.items()]
    return f"\n## {cell.device}, {cell.dtype}, {tables.size(cell.size)} elements\n\n" + (
        tables.markdown(rows)
    )


def against_plain(rows: list[dict]) -> str:
    """The row that loses most, or wins least, against the plain path."""
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


def caption(args: argparse.Namespace, devices: list) -> str:
    machines = " | ".join(tables.machine(device) for device in devices)
    return f"Time of forward and backward over GELU's; {settings(args)}. {machines}"


# --- figure ---

LONGEST_BAR = 3  # times GELU's; longer ones are cut and say their length


def draw(rows: list[dict], text: str, path) -> None:
    """Bars of the time of forward and backward relative to GELU's; a panel per cell."""
    from matplotlib.figure import Figure

    lines = list(dict.fromkeys((row["device"], row["dtype"]) for row in rows))
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    height = 0.26 * len(arms) + 0.75
    footnote = "\n".join(textwrap.wrap(text, int(15 * (2.6 * len(sizes) + 1.6))))
    foot = 0.17 * (footnote.count("\n") + 2)
    inches = 2.6 * len(sizes) + 1.6, height * len(lines) + foot
    figure = Figure(figsize=inches, layout="constrained")
    figure.get_layout_engine().set(rect=(0, foot / inches[1], 1, 1 - foot / inches[1]))
    panels = figure.subplots(len(lines), len(sizes), sharex=True, sharey=True, squeeze=False)
    for line, (device, dtype) in zip(panels, lines, strict=True):
        for panel, size in zip(line, sizes, strict=True):
            own = [r for r in rows if (r["device"], r["dtype"], r["size"]) == (device, dtype, size)]
            draw_panel(panel, own)
            panel.set_title(f"{device}, {dtype}, {tables.size(size)} elements", fontsize=9)
    longest = max(row["both_over_GELU"] for row in rows)
    cut = f", bars end at {LONGEST_BAR}" if longest > LONGEST_BAR else ""
    for panel in panels[-1]:
        panel.set_xlabel(f"time ÷ GELU's{cut}", fontsize=8)
    # The panels share their axes.
    panels[0][0].set_xlim(0, 1.2 * min(max(longest, 1.2), LONGEST_BAR))
    panels[0][0].set_ylim(len(arms) - 0.4, -0.6)
    figure.text(0.01, 0.08 / inches[1], footnote, fontsize=7, va="bottom")
    figure.savefig(path, dpi=160, format="png")


def draw_panel(panel, rows: list[dict]) -> None:
    colours = {"": "#9a9a9a", "plain": "#d9b48f"}  # torch's own, plain; the rest stands out
    ratios = [row["both_over_GELU"] for row in rows]
    panel.axvline(1, color="black", linewidth=0.8, zorder=0)
    bars = panel.barh(
        [row["arm"] for row in rows],
        [min(ratio, LONGEST_BAR) for ratio in ratios],
        color=[colours.get(row["kernels"], "#2a6fb0") for row in rows],
    )
    texts = panel.bar_label(bars, [f"{ratio:.2f}" for ratio in ratios], padding=2, fontsize=7)
    for text in texts:  # legible on the line at 1
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.6})
    panel.tick_params(labelsize=7)
    panel.spines[["top", "right"]].set_visible(False)
