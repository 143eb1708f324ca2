"""Complete the operators of operators.cpp with second derivatives and the GPU's kernels."""

import ctypes
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zilu import reference
from zilu.kernels import build
from zilu.reference import UNITS, Formulas

_libraries: list[torch.library.Library] = []  # their registrations last as long as the objects do


def load(device: str) -> dict[str, tuple[Callable[..., Tensor], ...]]:
    """Make the operators ready for a type of device, "cpu" or "cuda".

    Returns:
        For each gated unit, the operators for a fixed sigma, for a learned one, and for
        sigma e^rho, which a CPU does not have. Those that write over x end in "_"; units from
        their output alone have them. "gated_product", "expanded" and
        "expanded_product" have the first two.

    Raises:
        OSError, RuntimeError: the operators cannot be built.
    """
    if not _libraries:
        build.load()
        _libraries.append(_second_derivatives())
    if device == "cuda" and len(_libraries) == 1:
        _libraries.append(_gpu_kernels())
    names = [*UNITS, *(f"{unit}_" for unit, formulas in UNITS.items() if formulas.from_output)]
    packets = {name: getattr(torch.ops.zilu, name) for name in names}
    found: dict[str, tuple[Callable[..., Tensor], ...]] = {
        name: (p.default, p.learned, p.product) for name, p in packets.items()
    }
    for name in ("gated_product", "expanded", "expanded_product"):
        packet = getattr(torch.ops.zilu, name)
        found[name] = (packet.default, packet.learned)
    return found


# --- second derivatives ---


def _second_derivatives() -> torch.library.Library:
    library = torch.library.Library("zilu", "IMPL")
    for unit, formulas in UNITS.items():
        packet = getattr(torch.ops.zilu, f"{unit}_backward")
        differentiable = functools.partial(_unit_gradients, formulas)
        for operator in (packet.default, packet.learned, packet.product):
            library.impl(operator, _with_autograd(operator, differentiable), "Autograd")
    others: dict[str, Callable[..., Any]] = {
        "gated_product": _gated_product_gradients,
        "expanded": _expanded_gradients,
        "expanded_product": _expanded_product_gradients,
    }
    for name, gradients in others.items():
        packet = getattr(torch.ops.zilu, f"{name}_backward")
        for operator in (packet.default, packet.learned):
            library.impl(operator, _with_autograd(operator, gradients), "Autograd")
    return library


def _with_autograd(
    operator: Callable[..., Any], differentiable: Callable[..., Any]
) -> Callable[..., Any]:
    """Make a backward operator that can be differentiated.

    Where its result will be differentiated, `differentiable` takes the same arguments and runs
    plain operations instead of the kernel.
    """

    def backward(*arguments: Any) -> Any:
        tensors = [each for each in arguments if isinstance(each, Tensor)]
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            return differentiable(*arguments)
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*arguments)

    return backward


def _unit_gradients(formulas: Formulas, grad: Tensor, x: Tensor, *sigma: Any) -> Any:
    """Compute a unit's gradients for x and, where it is one tensor or two, sigma."""
    if len(sigma) == 2:
        return _product_gradients(formulas, grad, x, *sigma)
    gradients = reference.differentiable_gradients(formulas, grad, x, *sigma)
    return gradients if len(gradients) == 2 else gradients[0]


def _gated_product_gradients(grad: Tensor, a: Tensor, b: Tensor, sigma: Any, unit: int) -> Any:
    formulas = list(UNITS.values())[unit]
    return reference.gated_product_gradients(formulas, grad, a, b, sigma)


def _expanded_gradients(grad: Tensor, x: Tensor, sigma: Any, alpha: Tensor, unit: int) -> Any:
    formulas = list(UNITS.values())[unit]
    return reference.expanded_gradients(formulas, grad, x, sigma, alpha)


def _expanded_product_gradients(
    grad: Tensor, a: Tensor, b: Tensor, sigma: Any, alpha: Tensor, unit: int
) -> Any:
    formulas = list(UNITS.values())[unit]
    return reference.expanded_product_gradients(formulas, grad, a, b, sigma, alpha)


def _product_gradients(
    formulas: Formulas, grad: Tensor, x: Tensor, sigma: Tensor, rho: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the gradients for x and rho, where a unit's sharpness is sigma e^rho.

    `x` is the output, for units from that.
    """
    product = sigma * rho.reshape(()).exp()
    grad_x, by_product = reference.differentiable_gradients(formulas, grad, x, product)
    return grad_x, (by_product * product).reshape(rho.shape)


# --- GPU ---


def try_on_gpu(device: torch.device, dtype: torch.dtype) -> None:
    """Compute one number: Triton compiles for the GPU, and needs a C compiler to do so.

    Raises:
        Exception: what Triton says if it cannot.
    """
    torch.ops.zilu.zilu_approx(torch.zeros(1, dtype=dtype, device=device), 1.0)


def _gpu_kernels() -> torch.library.Library:
    if torch.version.hip is not None or importlib.util.find_spec("triton") is None:
        raise RuntimeError("they need an NVIDIA GPU and Triton")
    from zilu.kernels import triton_kernels  # imports Triton

    addresses = _driver_addresses()
    kept = []  # Triton unloads a kernel that nothing refers to

    def launch_by_triton(
        key: int, kind: int, unit: int, tensors: list[Tensor], sigma: float,
        learned: Tensor | None, rho: Tensor | None, programs: int,
    ) -> None:  # fmt: skip
        either = sigma if learned is None else learned
        compiled = triton_kernels.launch(kind, unit, tensors, either, rho, programs)
        if addresses and triton_kernels.is_as_expected(compiled, tensors, either, rho):
            kept.append(compiled)
            metadata = compiled.metadata
            torch.ops.zilu.keep_kernel(
                key, compiled.function, 32 * metadata.num_warps, metadata.shared
            )

    torch.ops.zilu.set_up_gpu(triton_kernels.BLOCK_BYTES, addresses)
    library = torch.library.Library("zilu", "IMPL")
    library.impl("launch_by_triton", launch_by_triton, "CompositeExplicitAutograd")
    return library


def _driver_addresses() -> list[int]:
    """Return the addresses of the functions that gpu.cpp launches with; none if one is missing."""
    folder = Path(torch.__file__).parent / "lib"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        torch_cuda = ctypes.CDLL(str(folder / "libtorch_cuda.so"))
        functions = (
            driver.cuLaunchKernel,
            driver.cuCtxGetCurrent,
            driver.cuCtxSetCurrent,
            torch_cuda.aoti_torch_get_current_cuda_stream,
        )
    except (OSError, AttributeError):
        return []
    return [ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions]
