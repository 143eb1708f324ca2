"""A command: what Inductor makes of activations for a GPU, in instructions per element.

It prints as JSON, for each case of its argument, those of the forward and of the backward kernel;
a case is an activation, a dtype, and whether sigma is learned.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import torch._inductor.config
import triton
from helpers.gpu_code import facts
from torch.nn import functional as of_torch

from zilu import functional as F

ELEMENTS = 2**20
BLOCKS = ("XBLOCK", "RBLOCK", "R0_BLOCK")  # the middle one until torch 2.6
kernels: list[Any] = []  # compiled


def main() -> int:
    """Print the facts of each case."""
    # Kernels from a cache would not be compiled here.
    torch._inductor.config.force_disable_caches = True
    triton_compile = triton.compile

    def noted(*arguments: Any, **options: Any) -> Any:
        kernels.append(triton_compile(*arguments, **options))
        return kernels[-1]

    triton.compile = noted
    print("RESULT", json.dumps([both_ways(*case) for case in json.loads(sys.argv[1])]))
    return 0


def both_ways(name: str, dtype: str, learned: bool) -> list[float]:
    """Return the instructions per element of the forward and the backward kernel."""
    torch._dynamo.reset()
    function = getattr(F, name, None) or getattr(of_torch, name)
    x = torch.zeros(ELEMENTS, device="cuda", dtype=getattr(torch, dtype), requires_grad=True)
    sigma = torch.tensor(0.7, device="cuda", requires_grad=True) if learned else 0.7
    inputs = (x, sigma) if hasattr(F, name) else (x,)
    kernels.clear()
    y = torch.compile(function)(*inputs)
    forward = fewest()
    kernels.clear()
    y.backward(torch.zeros_like(y))
    return [forward, fewest()]


def fewest() -> float:
    """Return the instructions per element of the kernel that goes over all elements.

    Inductor tries several sizes of blocks. A sum has a second, small kernel.
    """
    found = []
    for kernel in kernels:
        names, constants = kernel.src.fn.arg_names, kernel.src.constants
        block = 1
        for key, value in constants.items():
            name = names[key[0]] if isinstance(key, tuple) else key
            block *= value if name in BLOCKS else 1
        per_thread = block / (32 * kernel.metadata.num_warps)
        of_kernel = facts(kernel.asm["cubin"])
        assert of_kernel["stack"] == 0, kernel.src.fn
        if per_thread >= 2:
            found.append(of_kernel["instructions"] / per_thread)
    return min(found)
