"""Measure gated products, activation(a) * b: fused in one pass against one operation after another.

Both sides have the same inputs and their own graphs: `fused` is zilu.gating.gated, as a GLU's MLP
calls it, `plain` the activation's own call and a product by torch.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks import tables
from benchmarks.activations import SAMPLE_SECONDS, Cell, Row, memory_errors, torch_dtype
from benchmarks.arms import Arm
from benchmarks.timing import Call, in_rounds, quartiles, ratio, repeats_for, saved_bytes, timed
from training.devices import keep_heap, make_current
from zilu.gating import gated
from zilu.names import EXPANDED_NAMES, kernel_mode

WAYS = ("forward", "both")  # the latter is forward and backward, one after the other


def plain(activation: nn.Module, a: Tensor, b: Tensor) -> Tensor:
    """Return activation(a) * b by two operations."""
    y: Tensor = activation(a) * b
    return y


SIDES: dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {"fused": gated, "plain": plain}


def measure(
    arms: list[Arm],
    devices: list[torch.device],
    dtypes: tuple[str, ...],
    sizes: tuple[int, ...],
    rounds: int,
    output_dir: str,
) -> None:
    """Measure, print, and save gated_products.md and .csv in `output_dir`.

    Raises:
        UserError: the folder cannot be written, or a size is too large.
    """
    folder = tables.ReportFolder(output_dir)
    report = tables.Report()
    report.add(heading(devices, rounds))
    rows: list[Row] = []
    keep_heap()
    for device in devices:
        make_current(device)
        for dtype in dtypes:
            for size in sizes:
                cell = Cell(str(device), dtype, size)
                with memory_errors(cell):
                    found = [measure_arm(cell, arm, rounds) for arm in arms]
                report.add(table(found, cell))
                rows += [row | tables.machine_columns(device) for row in found]
    folder.save("gated_products", report, rows)


def measure_arm(cell: Cell, arm: Arm, rounds: int) -> Row:
    """Return what both sides take and keep."""
    device = torch.device(cell.device)
    calls = {(side, way): call for side in SIDES for way, call in calls_of(cell, arm, side).items()}
    samples = {key: functools.partial(timed, call, device) for key, call in calls.items()}
    repeats = repeats_for(lambda n: samples["fused", "forward"](n), SAMPLE_SECONDS)
    in_turn = {key: functools.partial(sample, repeats) for key, sample in samples.items()}
    times = in_rounds(in_turn, rounds)
    row: Row = arm.columns() | vars(cell) | {"rounds": rounds, "repeats": repeats}
    for side in SIDES:
        kept = saved_bytes(calls[side, "forward"])
        row |= {f"{side}_saved_bytes": kept}
        for way in WAYS:
            low, middle, high = (1e6 * x for x in quartiles(times[side, way]))
            key = f"{side}_{way}_us"
            row |= {key: middle, f"{key}_q1": low, f"{key}_q3": high}
    for way in WAYS:
        row[f"{way}_fused_over_plain"] = ratio(times["fused", way], times["plain", way])
    return row


def calls_of(cell: Cell, arm: Arm, side: str) -> dict[str, Call]:
    """Return what is timed, by the names in WAYS."""
    generator = torch.Generator(cell.device).manual_seed(0)

    def drawn(requires_grad: bool) -> Tensor:  # a tensor for each: views would count as the whole
        return torch.randn(
            cell.size, dtype=torch_dtype(cell.dtype), device=cell.device, generator=generator,
            requires_grad=requires_grad,
        )  # fmt: skip

    a, b, grad = drawn(True), drawn(True), drawn(False)
    activation, product = arm.build().to(cell.device), SIDES[side]
    leaves = [a, b, *activation.parameters()]
    return {
        "forward": lambda: product(activation, a, b),
        "both": lambda: torch.autograd.grad(product(activation, a, b), leaves, grad),
    }


# --- text ---


def heading(devices: list[torch.device], rounds: int) -> str:
    return "\n".join(
        [
            "# Gated products: fused against plain",
            "",
            *(f"- {tables.machine(device)}" for device in devices),
            f"- n = {rounds} rounds; ZILU_KERNELS={kernel_mode()}",
            "- Times in microseconds: median (quartiles) of a call, forward and then backward "
            "after it. Ratios: fused over plain, medians within the rounds.",
            "- Saved: bytes kept for backward, fused and plain, in tensors of the input's size.",
            f"- {', '.join(EXPANDED_NAMES)} have an expanded gate.",
        ]
    )


def table(rows: list[Row], cell: Cell) -> str:
    of_one = cell.size * torch_dtype(cell.dtype).itemsize
    lines = [
        {
            "activation": str(row["arm"]),
            **{
                f"{side}, {way}": tables.with_spread(
                    *(row[f"{side}_{way}_us{part}"] for part in ("_q1", "", "_q3"))
                )
                for way in WAYS
                for side in SIDES
            },
            "ratio": " / ".join(f"{row[f'{way}_fused_over_plain']:.2f}" for way in WAYS),
            "saved": " / ".join(f"{row[f'{side}_saved_bytes'] / of_one:.2f}" for side in SIDES),
        }
        for row in rows
    ]
    title = f"{cell.device}, {cell.dtype}, {tables.size(cell.size)} elements"
    return f"\n## {title}\n\n{tables.markdown(lines)}"
