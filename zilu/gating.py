"""Multiply an activation's result by a second tensor, f(a) b, as gated linear units do."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from zilu import functional
from zilu.modules import GatedUnit, SigmaModule


def gated(activation: nn.Module, a: Tensor, b: Tensor) -> Tensor:
    """Return activation(a) * b, in one pass over memory where the activation is a gated unit.

    ZiLU, ZiLU_Approx, GELU_s and SiLU_s (sigma fixed or learned, the gate expanded or not), and
    torch's SiLU and exact GELU, are computed by a fused product: backward keeps a and b alone,
    and computes activation(a) again. For any other module autograd keeps what it keeps of
    activation(a) * b: the result of the activation, b, and what the activation itself needs.

    Forward pre-hooks of the activation see a, as in a call. An activation with any other hook, or
    with a forward of its own, is called.

    Args:
        activation: a module of one tensor.
        a, b: floating-point tensors of one shape, dtype and device, as is the result.
    """
    product = _product_of(activation)
    if product is None or _must_be_called(activation):
        result: Tensor = activation(a) * b
        return result
    return product(_shown(activation, a), b)


def _product_of(activation: nn.Module) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return the fused product of an activation; None if it has none."""
    if isinstance(activation, GatedUnit):
        # A subclass may compute another function.
        is_plain = type(activation).forward is SigmaModule.forward
        return activation.product if is_plain else None
    if type(activation) is nn.SiLU:
        return _silu_product
    if type(activation) is nn.GELU and activation.approximate == "none":
        return _gelu_product
    return None


def _silu_product(a: Tensor, b: Tensor) -> Tensor:
    return functional.gated_product(a, b, "SiLU_s")


def _gelu_product(a: Tensor, b: Tensor) -> Tensor:
    return functional.gated_product(a, b, "GELU_s")


def _must_be_called(activation: nn.Module) -> bool:
    return bool(
        "forward" in vars(activation)
        or activation._forward_hooks
        or activation._forward_pre_hooks_with_kwargs
        or activation._backward_hooks
        or activation._backward_pre_hooks
        or torch_module._has_any_global_hook()
    )


def _shown(activation: nn.Module, a: Tensor) -> Tensor:
    """Show a to the forward pre-hooks; return what they make of it."""
    for hook in activation._forward_pre_hooks.values():
        found = hook(activation, (a,))
        if found is not None:
            a = found[0] if isinstance(found, tuple) else found
    return a
