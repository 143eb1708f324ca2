"""A command: what the kernels' operators launch on the null device, and where.

`main` calls the function that the first argument names, and prints what it returns as JSON.
"""

from __future__ import annotations

import ctypes
import json
import sys
import threading
import warnings
from typing import Any

import torch
from torch import Tensor

import zilu
from zilu import functional as F
from zilu import kernels
from zilu.kernels import operators
from zilu.kernels import triton_kernels as K
from zilu.names import GATED_NAMES

Address = ctypes.c_void_p
Launch = ctypes.CFUNCTYPE(
    ctypes.c_int, Address, *[ctypes.c_uint] * 7, Address, ctypes.POINTER(Address), Address
)
by_triton: list[int] = []  # kinds of kernels
launched: list[dict[str, Any]] = []  # by gpu.cpp
triton_launch, addresses_of_driver = K.launch, operators._driver_addresses


def main() -> int:
    """Call a function of this file."""
    K.launch = noted_launch
    operators._driver_addresses = addresses
    print("RESULT", json.dumps(globals()[sys.argv[1]]()))
    return 0


def noted_launch(kind: int, *arguments: Any) -> Any:
    by_triton.append(kind)
    return triton_launch(kind, *arguments)


def addresses() -> list[int]:
    """Return the driver's functions, with one that notes in the place of cuLaunchKernel."""
    first, *others = addresses_of_driver()
    driver = Launch(first)

    def launch(function, x, *rest):
        stream = rest[-3]
        launched.append(
            {
                "grid": x,
                "stream": stream,
                "device": torch.cuda.current_device(),
                "thread": threading.get_ident(),
            }
        )
        return driver(function, x, *rest)

    kept.append(Launch(launch))
    return [ctypes.cast(kept[0], Address).value or 0, *others]


kept: list[Any] = []  # ctypes' functions end with their objects


def both_ways(x: Tensor, sigma: Any) -> None:
    """Compute value and gradients."""
    leaf = x.detach().requires_grad_()
    F.zilu(leaf, sigma).backward(torch.ones_like(x))


def sigmas(device: str) -> tuple[Any, ...]:
    return 0.7, torch.tensor(0.7, device=device, requires_grad=True)


def kinds() -> list[list[int]]:
    """Return for a fixed and a learned sigma what Triton and gpu.cpp launch, call by call."""
    found = []
    for sigma in sigmas("cuda"):
        for _ in range(3):
            by_triton.clear()
            launched.clear()
            both_ways(torch.ones(5000, device="cuda"), sigma)
            found.append([len(by_triton), len(launched)])
    return found


def modules() -> dict[str, list[int]]:
    """Return how many kernels the modules launch, forward and backward."""
    counts = {}
    for name in (*GATED_NAMES, "ArcTan"):
        for learnable in (False, True):
            module = getattr(zilu, name)(0.7, learnable=learnable).cuda()
            found = []
            for _ in range(2):
                x = torch.ones(5000, device="cuda", requires_grad=True)
                launched.clear()
                y = module(x)
                found = [len(launched)]
                launched.clear()
                y.backward(torch.ones_like(y))
                found.append(len(launched))
            assert x.grad is not None
            assert all(parameter.grad is not None for parameter in module.parameters())
            counts[f"{name} {learnable}"] = found
    return counts


def old_gpu() -> dict[str, Any]:
    """Return how each dtype is computed where Triton cannot compile bf16."""
    try_on_gpu = operators.try_on_gpu

    def fail(device: torch.device, dtype: torch.dtype) -> None:
        if dtype == torch.bfloat16:
            raise RuntimeError("ptxas: Feature '.bf16' requires .target sm_80 or higher")
        try_on_gpu(device, dtype)

    operators.try_on_gpu = fail
    found = {}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.bfloat16):
            x = torch.ones(5000, device="cuda", dtype=dtype, requires_grad=True)
            y = F.zilu(x)
            y.backward(torch.ones_like(y))
            found[str(dtype)] = [str(y.grad_fn).split()[0], kernels.backend("cuda", dtype)]
    return {"found": found, "said": [str(warning.message) for warning in said]}


def elsewhere() -> list[int]:
    """Return the devices of the launches for tensors on the second, while the first is current."""
    x = torch.ones(5000, device="cuda:1")
    for sigma in sigmas("cuda:1"):
        both_ways(x, sigma)
        both_ways(x, sigma)
    return [launch["device"] for launch in launched]


def streams() -> dict[str, Any]:
    """Return the streams of launches within another than the default one, and their threads."""
    x, stream = torch.ones(5000, device="cuda"), torch.cuda.Stream()
    both_ways(x, 0.7)
    launched.clear()
    with torch.cuda.stream(stream):
        both_ways(x, 0.7)
    both_ways(x, 0.7)
    return {
        "own": stream.cuda_stream,
        "streams": [launch["stream"] or 0 for launch in launched],
        "threads": len({launch["thread"] for launch in launched}),
    }


def captured() -> list[list[int]]:
    """Return how many kernels Triton and gpu.cpp launch while a graph is captured.

    There is one graph of ZiLU and, from the output, of each unit, both with a fixed and with a
    learned sigma, and both also in place.
    """
    counts = []
    x = torch.ones(5000, device="cuda", requires_grad=True)
    for module in modules_to_capture():

        def both(module: torch.nn.Module = module) -> None:
            y = module(x * 1)  # torch's kernels are not counted
            torch.autograd.grad(y, (x, *module.parameters()), torch.ones_like(y))

        both()
        by_triton.clear()
        launched.clear()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            both()
        counts.append([len(by_triton), len(launched)])
        graph.replay()
    return counts


def modules_to_capture() -> list[torch.nn.Module]:
    return [
        getattr(zilu, name)(0.7, learnable=learnable, save=save, inplace=inplace).cuda()
        for learnable in (False, True)
        for name, save, inplace in (
            ("ZiLU", "input", False),
            ("ZiLU", "output", False),
            ("ZiLU", "output", True),
            ("ZiLU_Approx", "output", False),
            ("ZiLU_Approx", "output", True),
        )
    ]


def large() -> list[list[int]]:
    """Return the grids for more than 2^31 numbers, and for none."""
    both_ways(torch.ones(100, dtype=torch.bfloat16, device="cuda"), 0.7)
    grids = []
    for count in (2**31 + 1, 0):
        launched.clear()
        F.zilu(torch.empty(count, dtype=torch.bfloat16, device="cuda"), 0.7)
        grids.append([launch["grid"] for launch in launched])
    return grids
