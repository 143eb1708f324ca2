"""Give the activations to torch.jit.script, as functions that it can compile and save.

`scripted.zilu` and so on are made when torch.jit.script first asks for them: the plain operations
of `zilu.reference` are traced, once for fp64 and once for fp32, which differ in their constants.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from zilu import reference
from zilu.reference import Formulas, Sigma

_WITHOUT_SIGMA: dict[str, Callable[[Tensor], Tensor]] = {
    "squareplus": reference.squareplus,
    "golu": lambda x: reference.differentiable(reference.GOLU, x, 1.0),
}


def __getattr__(name: str) -> Callable[..., Tensor]:
    if name in _WITHOUT_SIGMA:
        return _without_sigma(_WITHOUT_SIGMA[name])
    formulas = getattr(reference, name.upper(), None)
    if not isinstance(formulas, Formulas):
        raise AttributeError(f"module 'zilu.scripted' has no attribute {name!r}")
    return _with_sigma(formulas)


@functools.cache
def _with_sigma(formulas: Formulas) -> Callable[..., Tensor]:
    def differentiable(x: Tensor, sigma: Tensor) -> Tensor:
        return reference.differentiable(formulas, x, sigma)

    single, double = _traced(differentiable, 2)

    def scripted(x: Tensor, sigma: Sigma) -> Tensor:
        if not isinstance(sigma, Tensor):
            # MPS has no float64.
            dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
            sigma = torch.tensor(sigma, dtype=dtype, device=x.device)
        sigma = sigma.reshape(())
        if not x.is_floating_point():
            raise TypeError("takes float16, bfloat16, float32 or float64; x.float() converts it")
        if x.dtype == torch.float64:
            return double(x, sigma.double())
        return single(x.float(), sigma.float()).to(x.dtype)

    compiled: Callable[..., Tensor] = torch.jit.script(scripted)
    return compiled


@functools.cache
def _without_sigma(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    single, double = _traced(function, 1)

    def scripted(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            raise TypeError("takes float16, bfloat16, float32 or float64; x.float() converts it")
        if x.dtype == torch.float64:
            return double(x)
        return single(x.float()).to(x.dtype)

    compiled: Callable[..., Tensor] = torch.jit.script(scripted)
    return compiled


def _traced(function: Callable[..., Tensor], inputs: int) -> list[Callable[..., Tensor]]:
    """Trace a function of tensors without dimensions, in fp32 and in fp64."""
    return [
        torch.jit.trace(function, (torch.ones((), dtype=dtype),) * inputs)
        for dtype in (torch.float32, torch.float64)
    ]
