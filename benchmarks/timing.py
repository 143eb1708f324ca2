"""Arms measured in turn: the seconds that each takes, and the bytes that one keeps for backward."""

import gc
import math
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress

Arm = Callable[[], object]


# --- seconds ---


def interleaved(arms: dict[str, Arm], rounds: int, device) -> dict[str, list[float]]:
    """Seconds of each arm in each round."""
    return in_rounds({name: lambda a=arm: timed(a, device) for name, arm in arms.items()}, rounds)


def in_rounds(samples: dict, rounds: int) -> dict[object, list[float]]:
    """What each sample returns in each round, in a new random order every time: an arm would
    otherwise always follow the same one, and find caches and clock as that leaves them.

    One round before does not count.
    """
    values = {name: [] for name in samples}
    order, shuffle = list(samples), random.Random(0).shuffle
    for _ in range(rounds + 1):
        shuffle(order)
        for name in order:
            values[name].append(samples[name]())
    return {name: found[1:] for name, found in values.items()}


def timed(arm: Arm, device, repeats: int = 1) -> float:
    """Seconds of one call."""
    synchronize(device)
    with no_garbage_collection():
        start = time.perf_counter()
        for _ in range(repeats):
            arm()
        synchronize(device)
        return (time.perf_counter() - start) / repeats


def repeats_for(sample: Callable[[int], float], least: float) -> int:
    """How many calls in a row last `least` seconds; `sample` times one call among so many."""
    repeats = 1
    while (seconds := sample(repeats)) * repeats < least:
        repeats = max(2 * repeats, math.ceil(least / seconds))
    return repeats


def synchronize(device) -> None:
    if device.type != "cpu":
        import torch

        getattr(torch, device.type).synchronize()


@contextmanager
def no_garbage_collection():
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) == 1:
        return (values[0],) * 3
    return tuple(statistics.quantiles(values, n=4, method="inclusive"))


def ratio(seconds: list[float], baseline: list[float]) -> float:
    """The median of the ratios within a round: what slows a whole round down cancels."""
    return statistics.median(s / b for s, b in zip(seconds, baseline, strict=True))


# --- memory ---


def saved_bytes(forward: Callable[[], object], ignored=()) -> int:
    """Bytes that `forward` keeps for backward; a tensor kept twice, or whole for a view of it,
    counts once. The tensors `ignored`, such as parameters, are there anyway."""
    import torch

    there = {tensor.untyped_storage().data_ptr() for tensor in ignored}
    sizes = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = forward()  # alive until here ends, or a freed address could come back  # noqa: F841
    return sum(size for address, size in sizes.items() if address not in there)


# --- processes ---


@contextmanager
def process_with(**variables: str):
    """A process with these environment variables, as `call(function, *args)` in it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        before = dict(os.environ)
        os.environ.update(variables)  # it is started by the first call, and inherits them
        try:
            pool.submit(int).result()
        finally:
            os.environ.clear()
            os.environ.update(before)
        yield lambda function, *args: pool.submit(function, *args).result()


@contextmanager
def own_processes(makers: dict[str, Callable[[], Arm]]):
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
