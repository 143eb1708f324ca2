"""Several processes that train one network: torchrun starts them, torch.distributed joins them.

Every process (rank) has its share of each global batch; what they add up or agree on goes through
here. With one process nothing is sent. torch is imported where it is used.
"""

import os
import re
import warnings
from contextlib import contextmanager, nullcontext

from utils import UserError


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    return int(os.environ.get("RANK", 0)) if world_size() > 1 else 0


def local_rank() -> int:
    """Among the processes of this machine: the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def local_world_size() -> int:
    """The processes of this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def is_main() -> bool:
    """Whether this is the process that writes files and speaks."""
    return rank() == 0


def restarts() -> int:
    """How often torchrun has started these processes anew."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def torchrun_id() -> str | None:
    """Of the torchrun that has started these processes, where it is its own: "none" is not."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return None if name == "none" else name


@contextmanager
def joined():
    """Inside, the ranks can speak to each other: by NCCL for CUDA tensors, by Gloo for others."""
    if world_size() == 1:
        yield
        return
    # Read when torch is loaded. DistributedDataParallel warns of a choice that `replicated` makes.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import torch
    from torch import distributed

    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    try:
        # Each start of torchrun's has addresses of its own in the store that they all share; else
        # one that follows a failure may wait forever at those of the dead (pytorch #135712).
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
    """Whether an error only says that another process has ended."""
    signs = r"Connection (closed|reset)|Broken pipe|Connection refused|remote process exit"
    return world_size() > 1 and re.search(signs, str(error)) is not None


def own_device(device):
    """This rank's device, where `device` is what the user asked for.

    Raises:
        UserError: there is none for every process.
    """
    if world_size() == 1 or device.type == "cpu":
        return device
    import torch

    if device.type != "cuda" or device.index is not None:
        raise UserError(f"--device {device} is one device; for several processes take cuda or cpu")
    if local_rank() >= torch.cuda.device_count():
        raise UserError(
            f"torchrun started more processes on this machine than its {torch.cuda.device_count()} "
            "GPUs; lower --nproc_per_node, or take --device cpu"
        )
    return torch.device("cuda", local_rank())


# --- what the ranks add up or tell each other ---


def total(tensor, largest: bool = False):
    """The sum (or the largest) over the ranks of each element."""
    if world_size() == 1:
        return tensor
    from torch import distributed

    result = tensor.clone()
    operation = distributed.ReduceOp.MAX if largest else distributed.ReduceOp.SUM
    distributed.all_reduce(result, operation)
    return result


def from_main(value):
    """The main process's `value`, in every process."""
    if world_size() == 1:
        return value
    from torch import distributed

    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def gathered(value) -> list | None:
    """Every rank's `value`, by rank, in the main process; None in the others."""
    if world_size() == 1:
        return [value]
    from torch import distributed

    values = [None] * world_size() if is_main() else None
    distributed.gather_object(value, values, dst=0)
    return values


def wait_for_all() -> None:
    if world_size() > 1:
        from torch import distributed

        distributed.barrier()


class Agreement:
    """Flags that all ranks come to know at the same step.

    A step's flags travel while the next step runs, so that no step waits for them: `exchange`
    returns what was raised anywhere by the call before. With one process it returns its own.
    """

    def __init__(self):
        self._sent = None

    def exchange(self, *flags: bool) -> list[bool]:
        """Every call has the same number of flags."""
        if world_size() == 1:
            return list(flags)
        import torch
        from torch import distributed

        arrived = [False] * len(flags)
        if self._sent is not None:
            work, values = self._sent
            work.wait()
            arrived = [bool(value) for value in values.tolist()]
        values = torch.tensor(flags, dtype=torch.int32)
        work = distributed.all_reduce(values, distributed.ReduceOp.MAX, async_op=True)
        self._sent = (work, values)
        return arrived


# --- the network ---


def replicated(module, device):
    """`module` whose gradients are averaged over the ranks."""
    if world_size() == 1:
        return module
    import inspect

    import torch
    from torch.nn.parallel import DistributedDataParallel

    # A parameter whose dimensions of one have strides of their own; nothing is the slower for it.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    # The running statistics of a norm are the main process's where they are used: see
    # `share_buffers`. Training does not read them.
    parameters = inspect.signature(DistributedDataParallel).parameters
    newer, older = "forward_sync_buffers", "broadcast_buffers"
    return DistributedDataParallel(
        module,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        # Otherwise gradients are put in another order after the first step, in which a resumed
        # run's sums over three or more ranks would round differently.
        find_unused_parameters=torch.are_deterministic_algorithms_enabled(),
        **{newer if newer in parameters else older: False},
    )


def synchronised(module, now: bool):
    """Whether backward, inside, averages the gradients so far or leaves them with their rank."""
    return nullcontext() if now or world_size() == 1 else module.no_sync()


def share_buffers(model) -> None:
    """Give every rank the main process's buffers."""
    if world_size() > 1:
        from torch import distributed

        for buffer in model.buffers():
            distributed.broadcast(buffer, src=0)
