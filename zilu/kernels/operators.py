"""The operators of operators.cpp, completed: GPU kernels, second derivatives."""

import importlib.util

import torch

from zilu import reference
from zilu.kernels import build

_UNITS = {
    u.operator: u
    for u in (reference.ZILU, reference.ZILU_APPROX, reference.GELU_S, reference.SILU_S)
}

_libraries: list[torch.library.Library] = []  # what they register lasts as long as they do


def load(device: str) -> dict[str, tuple]:
    """(fixed sigma, learned sigma) by unit, ready for a kind of device: "cpu" or "cuda".

    Raises:
        OSError, RuntimeError: they cannot be built, or do not run on the device.
    """
    if not _libraries:
        build.load()
        _libraries.append(_second_derivatives())
    if device == "cuda" and len(_libraries) == 1:
        _libraries.append(_gpu_kernels())
    packets = {name: getattr(torch.ops.zilu, name) for name in _UNITS}
    return {name: (packet.default, packet.learned) for name, packet in packets.items()}


# --- second derivatives ---


def _second_derivatives() -> torch.library.Library:
    library = torch.library.Library("zilu", "IMPL")
    for name, unit in _UNITS.items():
        packet = getattr(torch.ops.zilu, f"{name}_backward")
        for operator in (packet.default, packet.learned):
            library.impl(operator, _backward_with_autograd(operator, unit), "Autograd")
    return library


def _backward_with_autograd(operator, unit: reference.Unit):
    """A backward operator as plain operations where its result will be differentiated."""

    def backward(grad, x, sigma):
        tensors = [t for t in (grad, x, sigma) if isinstance(t, torch.Tensor)]
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            found = reference.differentiable_gradients(unit, grad, x, sigma)
            return found if len(found) == 2 else found[0]
        with torch._C._AutoDispatchBelowAutograd():
            return operator(grad, x, sigma)

    return backward


# --- GPU ---


def _gpu_kernels() -> torch.library.Library:
    if torch.version.hip is not None or importlib.util.find_spec("triton") is None:
        raise RuntimeError("they need an NVIDIA GPU and Triton")
    from zilu.kernels import triton_kernels

    # Triton compiles for the GPU at hand, with a C compiler: whether it can shows here, once.
    triton_kernels.value("zilu_approx", torch.zeros(1, device="cuda"), 1.0)
    library = torch.library.Library("zilu", "IMPL")
    for name in _UNITS:
        _register_gpu(library, name, triton_kernels)
    return library


def _register_gpu(library: torch.library.Library, name: str, kernels) -> None:
    def value(x, sigma):
        return kernels.value(name, x, sigma)

    def gradient(grad, x, sigma):
        return kernels.gradient(name, grad, x, sigma)

    def gradients(grad, x, sigma):
        return kernels.gradients(name, grad, x, sigma)

    forward, backward = (getattr(torch.ops.zilu, n) for n in (name, f"{name}_backward"))
    library.impl(forward.default, value, "CUDA")
    library.impl(forward.learned, value, "CUDA")
    library.impl(backward.default, gradient, "CUDA")
    library.impl(backward.learned, gradients, "CUDA")
