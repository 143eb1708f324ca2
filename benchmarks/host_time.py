"""Measure the host's time of an activation's call: what an eager step waits for where it is small.

It is processor time, of all threads together: autograd runs backward in a thread of its own, and
other programs on the machine do not count. The tensor is small, so that a GPU has done its part
before the host has.
"""

import functools
import time
from collections.abc import Iterable

import torch

from benchmarks import tables
from benchmarks.arms import Arm
from benchmarks.timing import Call, in_rounds, no_garbage_collection, quartiles, ratio, synchronize

ELEMENTS = 4096
REPEATS = 100  # a GPU's queue takes that many calls without letting the host wait
WAYS = ("forward", "backward")


def measure(arms: list[Arm], rounds: int, device: torch.device) -> None:
    """Measure and print a row for each arm. GELU must be among them."""
    times = sampled(arms, rounds, device)
    print(tables.markdown([row(arm, times) for arm in arms]))
    print(
        f"\nn = {rounds} rounds of {REPEATS} calls; {ELEMENTS} elements, fp32; the host's µs: "
        "median (quartiles), and the median of the ratios to GELU within the rounds."
    )


def sampled(
    arms: Iterable[Arm], rounds: int, device: torch.device
) -> dict[tuple[Arm, str], list[float]]:
    """Return the seconds of a call of each arm, forward and backward, in each round."""
    samples = {
        (arm, way): functools.partial(processor_time, call, device)
        for arm in arms
        for way, call in calls_of(arm, device).items()
    }
    return in_rounds(samples, rounds)


def row(arm: Arm, times: dict[tuple[Arm, str], list[float]]) -> dict[str, str]:
    columns = {"activation": arm.label}
    for way in WAYS:
        own = times[arm, way]
        low, middle, high = (1e6 * x for x in quartiles(own))
        columns[f"{way}, µs"] = tables.with_spread(low, middle, high)
        columns[f"{way} ÷ GELU"] = f"{ratio(own, times[Arm('GELU'), way]):.2f}"
    return columns


def calls_of(arm: Arm, device: torch.device) -> dict[str, Call]:
    """Return what is timed, by the names in WAYS: module and autograd, as a training step has."""
    x = torch.randn(ELEMENTS, device=device, requires_grad=True)
    grad = torch.randn(ELEMENTS, device=device)
    module = arm.build().to(device)
    leaves = [x, *module.parameters()]
    y = module(x)
    return {
        "forward": lambda: module(x),
        "backward": lambda: torch.autograd.grad(y, leaves, grad, retain_graph=True),
    }


def processor_time(call: Call, device: torch.device) -> float:
    """Return the seconds of one call, the mean of REPEATS in a row. One before does not count."""
    call()
    synchronize(device)
    with no_garbage_collection():
        start = time.process_time()
        for _ in range(REPEATS):
            call()
        return (time.process_time() - start) / REPEATS
