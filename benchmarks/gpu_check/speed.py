"""Check the speed of activations one by one, and the host's time of a call."""

from __future__ import annotations

import torch

from benchmarks import host_time as of_host
from benchmarks import tables
from benchmarks.activations import MOVED, Cell, measure_cell, runner
from benchmarks.arms import Arm
from benchmarks.gpu_check.found import Finding, Found
from benchmarks.gpu_check.kernels import available
from benchmarks.timing import quartiles, ratio

SIZES = (2**16, 2**22, 2**26)
ROUNDS = 7
GELU, ZILU, LEARNED = Arm("GELU"), Arm("ZiLU", 0.5), Arm("ZiLU", 0.5, learned=True)
ARMS = (Arm("ReLU"), GELU, Arm("SiLU"), ZILU, Arm("ZiLU_Approx", 0.5), LEARNED, Arm("xATLU"))
# Memory binds large tensors, and a learned sigma is added up besides. The host binds small ones.
LARGE, LEAST_LARGE = {ZILU: 1.05, LEARNED: 1.15}, 2**22
SMALL = 2.0


def activations(device: torch.device) -> Found:
    """Compare activations with torch's GELU, SiLU, ReLU and a copy, for each size and dtype."""
    cells = [Cell(str(device), dtype, size) for dtype in available() for size in SIZES]
    return Found.joined(of_cell(cell) for cell in cells if cell.dtype != "fp16")


def of_cell(cell: Cell) -> Found:
    """Compare activations for one dtype and size."""
    with runner(False) as run:
        measured = measure_cell(cell, list(ARMS), ROUNDS, run)
    where = f"{cell.dtype}, {tables.size(cell.size)}"
    found = Found()
    for arm in (ZILU, LEARNED):
        limit = LARGE[arm] if cell.size >= LEAST_LARGE else SMALL
        over = measured[arm]["both_over_GELU"]
        found.add(Finding.at_most(f"{arm.label} ÷ GELU, both ways, {where}", limit, over))
    gelu, zilu = measured[GELU], measured[ZILU]
    times = gelu["both_us"], zilu["both_us"], zilu["both_over_GELU"]
    found.rows.append(table_row(f"both ways, {where}, µs", *times))
    for way in MOVED:
        middle = {arm.label: measured[arm][f"{way}_us"] for arm in ARMS}
        text = ", ".join(f"{name} {tables.figure(value)}" for name, value in middle.items())
        found.remarks.append(f"{where}, {way}, µs: {text}")
    copied = zilu["forward_us"] * zilu["forward_of_copy"]
    found.remarks.append(f"{where}, copy, µs: {tables.figure(copied)}")
    return found


def row(measured: str, gelu: list[float], zilu: list[float], scale: float = 1e6) -> dict[str, str]:
    """Return a row of the table: medians, and the median of the ratios within a round."""
    middle, other = (scale * quartiles(values)[1] for values in (gelu, zilu))
    return table_row(measured, middle, other, ratio(zilu, gelu))


def table_row(measured: str, gelu: float, zilu: float, over: float) -> dict[str, str]:
    return {
        "measured": measured,
        "GELU": tables.figure(gelu),
        "ZiLU": tables.figure(zilu),
        "ZiLU ÷ GELU": f"{over:.3f}",
    }


def host_time(device: torch.device) -> Found:
    """Compare the host's time of a call with GELU's."""
    arms = (GELU, ZILU, LEARNED)
    times = of_host.sampled(arms, 3 * ROUNDS, device)
    found = Found()
    for way in of_host.WAYS:
        gelu = times[GELU, way]
        for arm in (ZILU, LEARNED):
            what = f"the host's time of {arm.label} ÷ GELU's, {way}"
            found.add(Finding.at_most(what, SMALL, ratio(times[arm, way], gelu)))
        found.rows.append(row(f"the host's time, {way}, µs", gelu, times[ZILU, way]))
    return found
