"""Arms measured in turn, and tables of what they came to."""

import multiprocessing
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress

from utils import environment


def print_machine(device) -> None:
    facts = environment(device)
    names = ("device", "cpu", "cpu_capability", "threads", "torch", "torchvision", "python")
    print("; ".join(f"{name} {facts[name]}" for name in names))


def interleaved(arms: dict[str, Callable[[], None]], rounds: int, device) -> dict[str, list[float]]:
    """Seconds of each arm in each round, after one round that does not count."""
    import torch

    def seconds(arm: Callable[[], None]) -> float:
        start = time.perf_counter()
        arm()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    for arm in arms.values():
        seconds(arm)
    times = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            times[name].append(seconds(arm))
    return times


@contextmanager
def own_processes(makers: dict[str, Callable[[], Callable[[], None]]]):
    """The arms that `makers` make, each in a process of its own: what one sets for its whole
    process, such as the allocator, is nothing to the others."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name, make in makers.items():
        pipes[name], there = context.Pipe()
        processes.append(context.Process(target=_serve, args=(there, make), daemon=True))
        processes[-1].start()
        there.close()
    try:
        yield {name: lambda p=pipe: _call(p) for name, pipe in pipes.items()}
    finally:
        for pipe, process in zip(pipes.values(), processes, strict=True):
            pipe.close()
            process.join()


def _call(pipe) -> None:
    pipe.send(None)
    pipe.recv()


def _serve(pipe, make) -> None:
    arm = make()
    with suppress(EOFError):  # until the other end is closed
        while True:
            pipe.recv()
            arm()
            pipe.send(None)


def print_rates(times: dict[str, list[float]], count: float, unit: str, baseline: str) -> None:
    """A Markdown table: units/s, and the ratio to the baseline in the same round."""
    print(f"\n| arm | {unit}/s: median (min to max) | {baseline} = 1 | n |\n|---|---|---|---|")
    for name, seconds in times.items():
        rates = sorted(count / s for s in seconds)
        ratios = [b / s for b, s in zip(times[baseline], seconds, strict=True)]
        figures = [f"{x:,.0f}" if x >= 100 else f"{x:.2f}" for x in rates]
        middle = statistics.median(rates)
        spread = f"{middle:,.0f}" if middle >= 100 else f"{middle:.2f}"
        spread += f" ({figures[0]} to {figures[-1]})"
        print(f"| {name} | {spread} | {statistics.median(ratios):.2f} | {len(rates)} |")
