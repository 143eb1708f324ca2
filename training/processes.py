"""Join the processes that train one network: torchrun starts them, torch.distributed connects them.

Every process (rank) has its share of each global batch; what they add up or agree on passes through
here. With one process nothing is sent. utils.py says who and how many they are.
"""

import contextlib
import inspect
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from utils import UserError, is_main, local_rank, restarts, world_size

T = TypeVar("T")


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Connect the ranks inside: by NCCL for CUDA tensors, by Gloo for others.

    Args:
        device: what --device says. For cpu no process opens a CUDA context.

    Raises:
        UserError: they do not find each other, or another process has ended.
    """
    if world_size() == 1:
        yield
        return
    backend = "gloo"
    if device in ("auto", "cuda") and torch.cuda.is_available():
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    try:
        # Each start by torchrun has addresses of its own in the store that they all share;
        # otherwise a start that follows a failure may wait forever at those of the dead
        # (pytorch #135712).
        store, *numbers = next(distributed.rendezvous("env://"))
        store = distributed.PrefixStore(f"start {restarts()}", store)
        distributed.init_process_group(backend, store=store, rank=numbers[0], world_size=numbers[1])
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the {world_size()} processes do not find each other ({str(error).splitlines()[0]}); "
            "start them with torchrun"
        ) from None
    try:
        yield
        # Not after an error: the others may be gone, and destroying would wait for them.
        distributed.barrier()
    except RuntimeError as error:
        if not is_lost_peer(error):
            raise
        raise UserError(
            "another process has ended, so this one ends too; its own error is in the output, and "
            "--resume goes on from the last checkpoint"
        ) from None
    distributed.destroy_process_group()


def is_lost_peer(error: Exception) -> bool:
    """Return whether an error only says that another process has ended."""
    signs = r"Connection (closed|reset)|Broken pipe|Connection refused|remote process exit"
    return world_size() > 1 and re.search(signs, str(error)) is not None


# --- what the ranks add up or tell each other ---


def total(tensor: Tensor, largest: bool = False) -> Tensor:
    """Return each element's sum over the ranks, or its largest value."""
    if world_size() == 1:
        return tensor
    result = tensor.clone()
    operation = distributed.ReduceOp.MAX if largest else distributed.ReduceOp.SUM
    distributed.all_reduce(result, operation)
    return result


def from_main(value: T) -> T:
    """Return the main process's `value`, in every process."""
    if world_size() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def gathered(value: T) -> list[T] | None:
    """Return every rank's `value`, by rank, in the main process; None in the others."""
    if world_size() == 1:
        return [value]
    values: list[Any] | None = [None] * world_size() if is_main() else None
    distributed.gather_object(value, values, dst=0)
    return values


def wait_for_all() -> None:
    """Wait until every rank has come here."""
    if world_size() > 1:
        distributed.barrier()


@contextmanager
def main_first() -> Iterator[None]:
    """Let the main process through first, so that the others find what it has downloaded."""
    if not is_main():
        wait_for_all()
    yield
    if is_main():
        wait_for_all()


class Agreement:
    """Bring flags that any rank raises to all ranks at the same step.

    A step's flags travel while the next step runs, so that no step waits for them: `exchange`
    returns what was raised anywhere by the call before. With one process it returns its own.
    """

    def __init__(self) -> None:
        self._sent: tuple[Any, Tensor] | None = None

    def exchange(self, *flags: bool) -> list[bool]:
        """Send `flags`, as many in every call, and return those of the call before."""
        if world_size() == 1:
            return list(flags)
        arrived = [False] * len(flags)
        if self._sent is not None:
            work, values = self._sent
            work.wait()
            arrived = [bool(value) for value in values.tolist()]
        values = torch.tensor(flags, dtype=torch.int32)
        work = distributed.all_reduce(values, distributed.ReduceOp.MAX, async_op=True)
        self._sent = (work, values)
        return arrived

    def withdraw(self, number: int) -> None:
        """Take back flag `number` of the last call, on all ranks at the same step."""
        if self._sent is not None:
            work, values = self._sent
            work.wait()
            values[number] = 0


# --- the network ---


def replicated(module: nn.Module, device: torch.device) -> nn.Module:
    """Return `module` with its gradients averaged over the ranks, as those of shards are anyway."""
    if world_size() == 1 or any(hasattr(p, "to_local") for p in module.parameters()):
        return module
    # A parameter with a dimension of size one may have any stride there, and DDP warns that its
    # gradient's strides differ. Nothing is slower for it, so the warning is hidden.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    # The running statistics of a norm are the main process's where they are used: see
    # `share_buffers`. Training does not read them.
    parameters = inspect.signature(DistributedDataParallel).parameters
    newer, older = "forward_sync_buffers", "broadcast_buffers"
    unsynchronised: dict[str, Any] = {newer if newer in parameters else older: False}
    return DistributedDataParallel(
        module,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        # Otherwise gradients are put in another order after the first step, in which a resumed
        # run's sums over three or more ranks would round differently.
        find_unused_parameters=torch.are_deterministic_algorithms_enabled(),
        **unsynchronised,
    )


def synchronised(module: nn.Module, now: bool) -> contextlib.AbstractContextManager[None]:
    """Return a context in which backward averages the gradients so far, or leaves them local.

    Args:
        module: what `replicated` returned.
        now: average them.
    """
    if now or not isinstance(module, DistributedDataParallel):
        return nullcontext()
    return module.no_sync()


def share_buffers(model: nn.Module) -> None:
    """Give every rank the main process's buffers."""
    if world_size() > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, src=0)
