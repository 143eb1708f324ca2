"""Complete the operators of operators.cpp with GPU kernels and second derivatives."""

import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from zilu import reference
from zilu.kernels import build
from zilu.reference import UNITS, Formulas, Sigma

_libraries: list[torch.library.Library] = []  # their registrations last as long as the objects do


def load(device: str) -> dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]]:
    """Make the operators ready for a type of device, "cpu" or "cuda".

    Returns:
        For each gated unit, the operator for a fixed sigma and the one for a learned sigma.

    Raises:
        OSError, RuntimeError: the operators cannot be built, or do not run on the device.
    """
    if not _libraries:
        build.load()
        _libraries.append(_second_derivatives())
    if device == "cuda" and len(_libraries) == 1:
        _libraries.append(_gpu_kernels())
    packets = {unit: getattr(torch.ops.zilu, unit) for unit in UNITS}
    return {unit: (packet.default, packet.learned) for unit, packet in packets.items()}


# --- second derivatives ---


def _second_derivatives() -> torch.library.Library:
    library = torch.library.Library("zilu", "IMPL")
    for unit, formulas in UNITS.items():
        packet = getattr(torch.ops.zilu, f"{unit}_backward")
        for operator in (packet.default, packet.learned):
            library.impl(operator, _backward_with_autograd(operator, formulas), "Autograd")
    return library


def _backward_with_autograd(
    operator: Callable[..., Any], formulas: Formulas
) -> Callable[[Tensor, Tensor, Sigma], Any]:
    """Make a backward operator that can be differentiated.

    Where its result will be differentiated, it runs plain operations instead of the kernel.
    """

    def backward(grad: Tensor, x: Tensor, sigma: Sigma) -> Any:  # one tensor or two, as `operator`
        tensors = [t for t in (grad, x, sigma) if isinstance(t, Tensor)]
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            gradients = reference.differentiable_gradients(formulas, grad, x, sigma)
            return gradients if len(gradients) == 2 else gradients[0]
        with torch._C._AutoDispatchBelowAutograd():
            return operator(grad, x, sigma)

    return backward


# --- GPU ---


def _gpu_kernels() -> torch.library.Library:
    if torch.version.hip is not None or importlib.util.find_spec("triton") is None:
        raise RuntimeError("they need an NVIDIA GPU and Triton")
    from zilu.kernels import triton_kernels  # imports Triton

    # Triton compiles for this GPU, and needs a C compiler to do so. One call shows whether it can.
    triton_kernels.value("zilu_approx", torch.zeros(1, device="cuda"), 1.0)
    library = torch.library.Library("zilu", "IMPL")
    for unit in UNITS:
        _register_gpu(library, unit, triton_kernels)
    return library


def _register_gpu(library: torch.library.Library, unit: str, kernels: ModuleType) -> None:
    def value(x: Tensor, sigma: Sigma) -> Tensor:
        y: Tensor = kernels.value(unit, x, sigma)
        return y

    def gradient(grad: Tensor, x: Tensor, sigma: float) -> Tensor:
        grad_x: Tensor = kernels.gradient(unit, grad, x, sigma)
        return grad_x

    def gradients(grad: Tensor, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        both: tuple[Tensor, Tensor] = kernels.gradients(unit, grad, x, sigma)
        return both

    forward = getattr(torch.ops.zilu, unit)
    backward = getattr(torch.ops.zilu, f"{unit}_backward")
    library.impl(forward.default, value, "CUDA")
    library.impl(forward.learned, value, "CUDA")
    library.impl(backward.default, gradient, "CUDA")
    library.impl(backward.learned, gradients, "CUDA")
