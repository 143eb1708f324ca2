"""Stand in for cuDNN, which asks a device about itself more than the null one can answer.

The operators allocate what cuDNN's do, in the same order of memory, but for workspaces. Each is a
launch.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

# What is registered lives as long as this.
_OPERATORS = torch.library.Library("aten", "IMPL")
_DEVICE = ctypes.CDLL(None)


def install() -> None:
    """Take the place of cuDNN in this process."""
    torch.backends.cuda.enable_cudnn_sdp(False)
    for operator in (
        cudnn_convolution, convolution_backward, cudnn_batch_norm, cudnn_batch_norm_backward,
    ):  # fmt: skip
        _OPERATORS.impl(operator.__name__, operator, "CUDA")


def _order(*tensors: Tensor) -> torch.memory_format:
    orders = {suggest_memory_format(tensor) for tensor in tensors}
    last = torch.channels_last
    return last if last in orders else torch.contiguous_format


def cudnn_convolution(
    images: Tensor, weight: Tensor, padding: list[int], stride: list[int], dilation: list[int],
    groups: int, benchmark: bool, deterministic: bool, allow_tf32: bool,
) -> Tensor:  # fmt: skip
    _DEVICE.null_cuda_launch()
    sizes = [
        (size + 2 * pad - step * (kernel - 1) - 1) // by + 1
        for size, kernel, pad, by, step in zip(
            images.shape[2:], weight.shape[2:], padding, stride, dilation, strict=True
        )
    ]
    shape = (len(images), len(weight), *sizes)
    return torch.empty(
        shape, dtype=images.dtype, device=images.device, memory_format=_order(images, weight)
    )


def convolution_backward(
    gradient: Tensor, images: Tensor, weight: Tensor, bias_sizes: list[int] | None,
    stride: list[int], padding: list[int], dilation: list[int], transposed: bool,
    output_padding: list[int], groups: int, wanted: list[bool],
) -> tuple[Tensor | None, ...]:  # fmt: skip
    order = _order(images, weight)
    _ = gradient.contiguous(memory_format=order), images.contiguous(memory_format=order)
    results: list[Tensor | None] = [None] * 3
    for place, like in ((0, images), (1, weight)):
        if wanted[place]:
            _DEVICE.null_cuda_launch()
            results[place] = torch.empty_like(like, memory_format=order)
    if wanted[2]:
        results[2] = gradient.sum([0, *range(2, gradient.dim())])
    return tuple(results)


def cudnn_batch_norm(
    images: Tensor, weight: Tensor, bias: Tensor | None, mean: Tensor | None,
    variance: Tensor | None, training: bool, momentum: float, epsilon: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    _DEVICE.null_cuda_launch()
    saved = len(weight) if training else 0
    reserve = torch.empty(0, dtype=torch.uint8, device=images.device)
    output = torch.empty_like(images, memory_format=_order(images))
    return output, weight.new_empty(saved), weight.new_empty(saved), reserve


def cudnn_batch_norm_backward(
    images: Tensor, gradient: Tensor, weight: Tensor, mean: Tensor | None,
    variance: Tensor | None, saved_mean: Tensor | None, saved_variance: Tensor | None,
    epsilon: float, reserve: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    order = _order(images)
    _ = gradient.contiguous(memory_format=order)
    _DEVICE.null_cuda_launch()
    result = torch.empty_like(images, memory_format=order)
    return result, torch.empty_like(weight), torch.empty_like(weight)
