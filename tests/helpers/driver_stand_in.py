"""A command: call the operators for CUDA tensors with a stand-in for CUDA's driver, on the CPU.

The first call of a kind goes to Triton's interpreter, and a kernel as if compiled is handed over.
Later ones reach the stand-in, which reads the arguments from memory as a GPU would, and gives them
to the interpreter. `main` calls the function that the first argument names, and prints what it
returns as JSON.
"""

from __future__ import annotations

import ctypes
import json
import sys
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from zilu.kernels import operators
from zilu.kernels import triton_kernels as K

VALUE, GRADIENTS, TOTAL = range(3)
STREAM, CONTEXT = 4242, 77
Address = ctypes.c_void_p
Addresses = ctypes.POINTER(Address)

compiled: list[dict[str, Any]] = []  # what Triton has been called for
launched: list[dict[str, Any]] = []  # what the driver has been called for
contexts: list[int] = []  # those that were made current
errors: list[int] = []  # those that the next launches give
extra_types: list[str] = []  # arguments that kernels have beyond the expected ones
interpret = K.launch


def main() -> int:
    """Call a function of this file."""
    K.launch = compile_and_launch
    functions = [ctypes.cast(function, Address).value for function in DRIVER]
    operators._driver_addresses = lambda: functions
    operators.load("cuda")
    print(json.dumps(globals()[sys.argv[1]]()))
    return 0


def compile_and_launch(
    kind: int, unit: int, tensors: list[Tensor], sigma: Any, programs: int
) -> SimpleNamespace:
    """Run a kernel as K.launch does, and return it as Triton would."""
    learned = isinstance(sigma, Tensor)
    types = ["*"] * len(tensors)
    if kind != TOTAL:
        types += ["*" if learned else "fp32", "fp32"]
    signature = dict(enumerate([*types, "i64", *extra_types, "constexpr"]))
    dtypes = [tensor.dtype for tensor in tensors]
    interpret(kind, unit, tensors, sigma, programs)
    compiled.append(
        {"kind": kind, "unit": unit, "dtypes": dtypes, "sigma": sigma.dtype if learned else None}
    )
    return SimpleNamespace(
        function=len(compiled),
        src=SimpleNamespace(signature=signature),
        metadata=SimpleNamespace(num_warps=8, num_ctas=1, shared=64),
    )


# --- the driver ---


@ctypes.CFUNCTYPE(ctypes.c_int, Address, *[ctypes.c_uint] * 7, Address, Addresses, Address)
def launch(function, x, y, z, threads, block_y, block_z, shared, stream, parameters, extra):
    launched.append({"grid": x, "threads": threads, "shared": shared, "stream": stream})
    assert (y, z, block_y, block_z, extra) == (1, 1, 1, 1, None)
    if errors:
        return errors.pop()
    kernel = compiled[function - 1]
    kind, dtypes = kernel["kind"], kernel["dtypes"]
    at = iter(parameters[i] for i in range(len(dtypes) + 5))
    pointers = [ctypes.c_uint64.from_address(next(at)).value for _ in dtypes]
    sigma: Any = 0.0
    if kind != TOTAL and kernel["sigma"]:
        pointer = ctypes.c_uint64.from_address(next(at)).value
        sigma = tensor_at(pointer, 1, kernel["sigma"])
        assert ctypes.c_float.from_address(next(at)).value == 0
    elif kind != TOTAL:
        sigma = sum(ctypes.c_float.from_address(next(at)).value for _ in range(2))
    n = ctypes.c_int64.from_address(next(at)).value
    assert [ctypes.c_uint64.from_address(next(at)).value for _ in range(2)] == [0, 0]
    counts = [n] * len(dtypes)
    if kind == TOTAL:
        counts[1] = 1
    if kind == GRADIENTS and kernel["sigma"]:
        counts[3] = x
    tensors = [tensor_at(*each) for each in zip(pointers, counts, dtypes, strict=True)]
    interpret(kind, kernel["unit"], tensors, sigma, x)
    return 0


@ctypes.CFUNCTYPE(ctypes.c_int, Addresses)
def get_context(context):
    context[0] = CONTEXT
    return 0


@ctypes.CFUNCTYPE(ctypes.c_int, Address)
def set_context(context):
    contexts.append(context)
    return 0


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int32, Addresses)
def current_stream(device, stream):
    stream[0] = STREAM
    return 0


DRIVER = (launch, get_context, set_context, current_stream)


def tensor_at(address: int, count: int, dtype: torch.dtype) -> Tensor:
    if count == 0:
        return torch.empty(0, dtype=dtype)
    memory = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
    return torch.frombuffer(memory, dtype=dtype)


# --- what tests ask for ---


def call(name: str, *inputs: Any, key: Any = torch._C.DispatchKey.CUDA) -> list[Tensor]:
    """Call an operator for CUDA tensors, or that of another key, on CPU tensors."""
    packet = getattr(torch.ops.zilu, name)
    operator = packet.learned if isinstance(inputs[-1], Tensor) else packet.default
    result = operator.redispatch(torch._C.DispatchKeySet(key), *inputs)
    return list(result) if isinstance(result, tuple) else [result]


def both(unit: str, grad: Tensor, x: Tensor, sigma: Any, **options: Any) -> list[Tensor]:
    """Return value and gradients."""
    value = call(unit, x, sigma, **options)
    return value + call(f"{unit}_backward", grad, x, sigma, **options)


def memory(dtype: torch.dtype, aligned: bool, count: int) -> Tensor:
    """Return a tensor at an address that is a multiple of 16, or not."""
    buffer = torch.randn(count + 32).to(dtype)
    first = -buffer.data_ptr() // dtype.itemsize % (16 // dtype.itemsize)
    return buffer[first + (not aligned) :][:count]


def numbers() -> dict[str, Any]:
    """Call everything twice, and compare; return how many calls went where."""
    different, empty = [], 0
    for unit in K.UNIT_NAMES:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for sigma in (0.7, torch.tensor(0.7), torch.tensor([1.3], dtype=torch.float64)):
                for aligned in (True, False):
                    for count in (2000, 5000, 0):
                        x = memory(dtype, aligned, count)
                        grad = memory(dtype, aligned, count)
                        want = both(unit, grad, x, sigma, key=torch._C.DispatchKey.CPU)
                        before = len(compiled) + len(launched)
                        got, again = (both(unit, grad, x, sigma) for _ in range(2))
                        empty += (len(compiled) + len(launched) - before) * (count == 0)
                        for a, b, c in zip(got, again, want, strict=True):
                            same = a.dtype == b.dtype == c.dtype and torch.equal(a, b)
                            if not same or not torch.allclose(b, c, rtol=2e-2, atol=1e-2):
                                different.append([unit, str(dtype), str(sigma), aligned, count])
    return {
        "different": different,
        "compiled": len(compiled),
        "launched": len(launched),
        "empty": empty,
        "ways": sorted({(way["threads"], way["shared"], way["stream"]) for way in launched}),
    }


def kinds() -> list[int]:
    """Return after each of some calls how many kernels have been compiled."""
    x, y = memory(torch.float32, True, 100), memory(torch.float32, False, 100)
    counts = []
    for inputs in (
        (x, 0.5), (x, 0.7), (x[:7], 0.7), (y, 0.7), (y[4:], 0.5), (x.half(), 0.5),
        (x, torch.tensor(0.5)), (x, torch.tensor(0.7)), (x, torch.tensor(0.5).double()),
        (x, memory(torch.float32, False, 1)), (x.view(10, 10).t(), 0.5), (x[::2], 0.5),
    ):  # fmt: skip
        call("zilu", *inputs)
        counts.append(len(compiled))
    return counts


def failures() -> dict[str, Any]:
    """Return what happens where the driver gives errors."""
    x = memory(torch.float32, True, 100)
    first = call("zilu", x, 0.5)[0]
    errors.append(201)
    second = call("zilu", x, 0.5)[0]
    errors.append(700)
    try:
        call("zilu", x, 0.5)
        said = ""
    except RuntimeError as error:
        said = str(error)
    return {"same": torch.equal(first, second), "contexts": contexts, "said": said}


def unexpected() -> list[int]:
    """Return how many calls went to Triton and to the driver, for kernels of another form."""
    extra_types.append("i32")
    x = memory(torch.float32, True, 100)
    for _ in range(3):
        call("zilu", x, 0.5)
    return [len(compiled), len(launched)]


if __name__ == "__main__":
    sys.exit(main())
