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

VALUE, GRADIENTS, TOTAL, PRODUCT, PRODUCT_GRADIENTS = range(5)
EXPANDED_PRODUCT, EXPANDED_PRODUCT_GRADIENTS = 7, 8
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
    kind: int, unit: int, tensors: list[Tensor], sigma: Any, rho: Tensor | None, programs: int
) -> SimpleNamespace:
    """Run a kernel as K.launch does, and return it as Triton would."""
    types = ["*"] * len(tensors)
    types += ["fp32" if isinstance(sigma, float) else "*", "fp32" if rho is None else "*"]
    signature = dict(enumerate([*types, "i64", *extra_types, "constexpr"]))
    dtypes = [tensor.dtype for tensor in tensors]
    interpret(kind, unit, tensors, sigma, rho, programs)
    of_sigma = [getattr(each, "dtype", None) for each in (sigma, rho)]
    compiled.append({"kind": kind, "unit": unit, "dtypes": dtypes, "sigma": of_sigma})
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
    sigma, rho = (
        ctypes.c_float.from_address(next(at)).value
        if dtype is None
        else tensor_at(ctypes.c_uint64.from_address(next(at)).value, 1, dtype)
        for dtype in kernel["sigma"]
    )
    if isinstance(sigma, float):
        sigma, rho = sigma + rho, None
    elif isinstance(rho, float):
        assert rho == 0
        rho = None
    n = ctypes.c_int64.from_address(next(at)).value
    assert [ctypes.c_uint64.from_address(next(at)).value for _ in range(2)] == [0, 0]
    counts = [n] * len(dtypes)
    if kind == TOTAL:
        counts[1] = 1
    if kind in (GRADIENTS, PRODUCT_GRADIENTS) and not isinstance(sigma, float):
        counts[-1] = x
    if kind == EXPANDED_PRODUCT:
        counts[-1] = 1  # alpha
    if kind == EXPANDED_PRODUCT_GRADIENTS:
        counts[-3:] = [1, x, x]
    tensors = [tensor_at(*each) for each in zip(pointers, counts, dtypes, strict=True)]
    interpret(kind, kernel["unit"], tensors, sigma, rho, x)
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
    sigmas = inputs[2:] if name.endswith("_backward") else inputs[1:]
    learned = packet.learned if isinstance(sigmas[0], Tensor) else packet.default
    operator = packet.product if len(sigmas) == 2 else learned
    result = operator.redispatch(torch._C.DispatchKeySet(key), *inputs)
    return list(result) if isinstance(result, tuple) else [result]


def both(unit: str, grad: Tensor, x: Tensor, *sigma: Any) -> list[Tensor]:
    """Return value and gradients."""
    return call(unit, x, *sigma) + call(f"{unit}_backward", grad, x, *sigma)


def expected(unit: str, grad: Tensor, x: Tensor, *sigma: Any) -> list[Tensor]:
    """Return the same by the CPU's operators."""
    product = sigma[0] * sigma[1].exp().reshape(()) if len(sigma) == 2 else sigma[0]
    key = torch._C.DispatchKey.CPU
    y = call(unit, x, product, key=key)
    grad_x, *others = call(f"{unit}_backward", grad, x, product, key=key)
    if len(sigma) == 2:
        others[0] = (others[0] * product).reshape(sigma[1].shape)
    return [*y, grad_x, *others]


def gated_product(key: Any, grad: Tensor, a: Tensor, b: Tensor, sigma: Any) -> list[Tensor]:
    """Return value and gradients of ZiLU's product by the operators of a key."""
    kind = "learned" if isinstance(sigma, Tensor) else "default"
    keys = torch._C.DispatchKeySet(key)
    packets = torch.ops.zilu.gated_product, torch.ops.zilu.gated_product_backward
    forward, backward = (getattr(packet, kind) for packet in packets)
    y = forward.redispatch(keys, a, b, sigma, 0)
    return [y, *backward.redispatch(keys, grad, a, b, sigma, 0)]


def expanded_product(key: Any, grad: Tensor, a: Tensor, b: Tensor, sigma: Any) -> list[Tensor]:
    """Return value and gradients of ZiLU's product with its gate expanded."""
    kind = "learned" if isinstance(sigma, Tensor) else "default"
    keys, alpha = torch._C.DispatchKeySet(key), torch.tensor([0.3])
    packets = torch.ops.zilu.expanded_product, torch.ops.zilu.expanded_product_backward
    forward, backward = (getattr(packet, kind) for packet in packets)
    y = forward.redispatch(keys, a, b, sigma, alpha, 0)
    return [y, *backward.redispatch(keys, grad, a, b, sigma, alpha, 0)]


SIGMAS = (
    (0.7,),
    (torch.tensor(0.7),),
    (torch.tensor([1.3], dtype=torch.float64),),
    (torch.tensor(0.7), torch.tensor([-0.4])),
)


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
            for sigma in SIGMAS:
                for aligned in (True, False):
                    for count in (2000, 5000, 0):
                        x = memory(dtype, aligned, count)
                        grad = memory(dtype, aligned, count)
                        want = expected(unit, grad, x, *sigma)
                        before = len(compiled) + len(launched)
                        got, again = (both(unit, grad, x, *sigma) for _ in range(2))
                        empty += (len(compiled) + len(launched) - before) * (count == 0)
                        for a, b, c in zip(got, again, want, strict=True):
                            same = a.dtype == b.dtype == c.dtype and torch.equal(a, b)
                            if not same or not torch.allclose(b, c, rtol=2e-2, atol=1e-2):
                                different.append([unit, str(dtype), str(sigma), aligned, count])
    for dtype in (torch.float32, torch.bfloat16):
        for sigma in (0.7, torch.tensor(0.7)):
            a, b, grad = (memory(dtype, aligned, 5000) for aligned in (True, True, False))
            for product in (gated_product, expanded_product):
                want = product(torch._C.DispatchKey.CPU, grad, a, b, sigma)
                for _ in range(2):
                    got = product(torch._C.DispatchKey.CUDA, grad, a, b, sigma)
                    for x, y in zip(got, want, strict=True):
                        if not torch.allclose(x, y, rtol=2e-2, atol=1e-2):
                            different.append([product.__name__, str(dtype), str(sigma)])
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
