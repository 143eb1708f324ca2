"""Measure calls in turn: the seconds that each takes, and the bytes that one keeps for backward."""

import functools
import gc
import math
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch
from torch import Tensor

Call = Callable[[], object]
K = TypeVar("K", bound=Hashable)


# --- seconds ---


def interleaved(
    calls: Mapping[str, Call], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Return the seconds of each call in each round."""
    samples = {name: functools.partial(timed, call, device) for name, call in calls.items()}
    return in_rounds(samples, rounds)


def in_rounds(samples: Mapping[K, Callable[[], float]], rounds: int) -> dict[K, list[float]]:
    """Return what each sample gives in each round.

    Every round has a new random order: a sample would otherwise always follow the same one, and
    find caches and clock as that leaves them. One round before does not count.
    """
    values: dict[K, list[float]] = {name: [] for name in samples}
    order, shuffle = list(samples), random.Random(0).shuffle
    for _ in range(rounds + 1):
        shuffle(order)
        for name in order:
            values[name].append(samples[name]())
    return {name: found[1:] for name, found in values.items()}


def timed(call: Call, device: torch.device, repeats: int = 1) -> float:
    """Return the seconds of one call, the mean of `repeats` in a row."""
    synchronize(device)
    with no_garbage_collection():
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        synchronize(device)
        return (time.perf_counter() - start) / repeats


def repeats_for(sample: Callable[[int], float], least: float) -> int:
    """Return how many calls in a row last `least` seconds.

    Args:
        sample: returns the seconds of one call among so many in a row.
        least: seconds.
    """
    repeats = 1
    while (seconds := sample(repeats)) * repeats < least:
        repeats = max(2 * repeats, math.ceil(least / seconds))
    return repeats


def synchronize(device: torch.device) -> None:
    """Wait until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type != "cpu":
        getattr(torch, device.type).synchronize()


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Return lower quartile, median and upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def ratio(seconds: list[float], baseline: list[float]) -> float:
    """Return the median of the ratios within a round: what slows a whole round down cancels."""
    return statistics.median(s / b for s, b in zip(seconds, baseline, strict=True))


# --- memory ---


def saved_bytes(forward: Call, ignored: Iterable[Tensor] = ()) -> int:
    """Return the bytes that `forward` keeps for backward.

    A tensor that is kept twice counts once, and a view counts as the whole tensor that it keeps
    alive.

    Args:
        forward: a forward pass; returns its output.
        ignored: tensors that exist anyway, such as parameters.
    """
    there = {tensor.untyped_storage().data_ptr() for tensor in ignored}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # as an operation's output it would hold what holds it, for ever

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = forward()  # alive until here ends, or a freed address could come back  # noqa: F841
    return sum(size for address, size in sizes.items() if address not in there)


# --- processes ---


@contextmanager
def process_with(**variables: str) -> Iterator[Callable[..., Any]]:
    """Start a process with these environment variables; give `call(function, *args)` in it."""
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
def own_processes(makers: Mapping[str, Callable[[], Call]]) -> Iterator[dict[str, Call]]:
    """Give calls that each run in a process of their own.

    What one sets for its whole process, such as the allocator, does not affect the others.

    Args:
        makers: by name, a function that makes the call in its process.
    """
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name, make in makers.items():
        pipes[name], there = context.Pipe()
        processes.append(context.Process(target=_serve, args=(there, make), daemon=True))
        processes[-1].start()
        there.close()
    try:
        yield {name: functools.partial(_ask, pipe) for name, pipe in pipes.items()}
    finally:
        for pipe, process in zip(pipes.values(), processes, strict=True):
            pipe.close()
            process.join()


def _ask(pipe: Connection) -> None:
    """Let the process at the other end make its call, and wait for it."""
    pipe.send(None)
    pipe.recv()


def _serve(pipe: Connection, make: Callable[[], Call]) -> None:
    call = make()
    with suppress(EOFError):  # until the other end is closed
        while True:
            pipe.recv()
            call()
            pipe.send(None)
