"""Compute what is inside blocks again in backward, in the place of keeping it.

--activation_checkpointing: of each repeated block of a network only the input is kept (Chen et al.
2016, arXiv 1604.06174), by torch.utils.checkpoint. Dropout draws what it drew before. BatchNorm
follows each batch once: what it follows is not changed by the second pass.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from training.blocks import repeated_blocks
from utils import UserError

_switch = {"on": True}


def recompute_blocks(model: nn.Module) -> None:
    """Let every repeated block of a network keep its input alone, in place.

    Raises:
        UserError: there are no such blocks.
    """
    blocks = repeated_blocks(model)
    if not blocks:
        raise UserError(
            "--activation_checkpointing: the network has no repeated blocks; leave it out, and "
            "take a smaller --batch_size with --grad_accum_steps for less memory"
        )
    for path, block in blocks.items():
        block.forward = _recomputed(block, path)  # type: ignore[method-assign]


@contextmanager
def kept() -> Iterator[None]:
    """Keep everything inside the block: hooks in it are to be called once."""
    _switch["on"] = False
    try:
        yield
    finally:
        _switch["on"] = True


def _recomputed(block: nn.Module, path: str) -> Callable[..., Any]:
    """Return a forward method that keeps the inputs alone."""
    forward = block.forward
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _following_nothing(norms)

    def recomputed(*args: Any, **kwargs: Any) -> Any:
        if not (_switch["on"] and torch.is_grad_enabled()):
            return forward(*args, **kwargs)
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        versions = [x._version for x in inputs]

        def check_inputs() -> None:
            if [x._version for x in inputs] != versions:
                raise UserError(
                    f"--activation_checkpointing: the input of {path} is written over, and cannot "
                    "be used again; leave out --inplace, or --activation_checkpointing"
                )

        def run(*args: Any, **kwargs: Any) -> Any:
            check_inputs()  # in backward, where older versions of torch do not look
            return forward(*args, **kwargs)

        output = checkpoint(run, *args, use_reentrant=False, context_fn=contexts, **kwargs)
        check_inputs()
        return output

    return recomputed


@contextmanager
def _following_nothing(norms: list[Any]) -> Iterator[None]:
    """Leave the statistics of BatchNorm as they are, while it normalises a batch again."""
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        counter = norm.num_batches_tracked
        norm._buffers["num_batches_tracked"] = None if counter is None else counter.clone()
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm._buffers["num_batches_tracked"] = counter
