"""Compute the activations of a tensor of any shape, given a sharpness sigma.

fp16 and bf16 are computed in fp32, and backward saves only the input (and sigma, where it is
learned). The formulas, limits and sources stand with the classes in `zilu.modules`.

Like torch's own functions, each function is one node for torch.fx, and one call for a subclass of
Tensor and for a TorchFunctionMode (`__torch_function__`). torch.jit.script compiles its plain
operations. torch.compile looks inside.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.jit import is_scripting
from torch.jit._trace import is_tracing
from torch.overrides import handle_torch_function, has_torch_function_variadic

from zilu import compiled, kernels, reference, scripted
from zilu.names import GATED_NAMES, canonical_name, check_known_save, check_sigma
from zilu.reference import Formulas, Sigma

# A call of GELU takes 6 microseconds of the host's time, and looking these up in torch takes one.
_is_compiling, _is_tracing = torch.compiler.is_compiling, torch._C._is_tracing
_are_functorch_transforms_active = torch._C._are_functorch_transforms_active
_STRIDED = torch.strided

_DTYPES = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))
_TENSORS = frozenset((Tensor, torch.nn.Parameter))
_UNITS = list(reference.UNITS)  # in the order of C++'s enum Unit
_LAYOUTS = frozenset((torch.strided, torch.jagged))


def _apply(
    function: Callable[..., Tensor],
    formulas: Formulas,
    x: Tensor,
    sigma: Sigma,
    save: str = "input",
    inplace: bool = False,
) -> Tensor:
    chosen = reference.FROM_OUTPUT[formulas] if _takes_output(save, inplace) else formulas
    if isinstance(sigma, float) and not inplace:
        found = on_gpu(chosen.operator, x, check_sigma(sigma))
        if found is not None:
            return found
    if _is_overridden(x, sigma):
        options = options_of(save, inplace)
        y: Tensor = handle_torch_function(function, (x, sigma), x, sigma=sigma, **options)
        return y
    _check_input(function, x)
    sigma = _checked_sigma(sigma)
    if x.dtype == torch.float64:  # the forms from the output have fp32's digits
        chosen = formulas
    return _over(chosen, x, sigma) if inplace else _compute(chosen, x, sigma)


def _compute(formulas: Formulas, x: Tensor, sigma: Sigma) -> Tensor:
    if _is_transformed():
        return reference.differentiable(formulas, x, sigma)
    operator = kernels.operator(formulas.operator, x, sigma) if formulas.operator else None
    if operator is None:
        return reference.analytic(compiled.shortest(formulas, x), x, sigma)
    return operator(x, sigma)


def _over(formulas: Formulas, x: Tensor, sigma: Sigma) -> Tensor:
    """Compute an activation, and write the result over x."""
    if _is_transformed() or not formulas.from_output:
        return x.copy_(_compute(formulas, x.clone(), sigma))  # backward needs the input
    if _is_compiling():
        return x.copy_(_compute(formulas, x, sigma))  # the compiler needs no copy
    operator = kernels.operator(f"{formulas.operator}_", x, sigma) if formulas.operator else None
    if operator is None:
        return reference.analytic(formulas, x, sigma, inplace=True)
    return operator(x, sigma)


def _gated_product(unit: str, a: Tensor, b: Tensor, sigma: Sigma) -> Tensor:
    formulas = reference.UNITS[unit]
    if _is_transformed():
        wide = reference.widened(a)
        return (formulas.differentiable(wide, sigma) * reference.widened(b)).to(a.dtype)
    operator = kernels.operator("gated_product", a, sigma) if type(b) in _TENSORS else None
    if operator is None:
        return reference.gated_product(compiled.shortest(formulas, a), a, b, sigma)
    return operator(a, b, sigma, _UNITS.index(unit))


def _expanded(unit: str, x: Tensor, sigma: Sigma, alpha: Tensor) -> Tensor:
    formulas = reference.UNITS[unit]
    if _is_transformed():
        return reference.expanded_differentiable(formulas, x, sigma, alpha)
    operator = kernels.operator("expanded", x, sigma) if type(alpha) in _TENSORS else None
    if operator is None or alpha.device != x.device:
        return reference.expanded(compiled.shortest(formulas, x), x, sigma, alpha)
    return operator(x, sigma, alpha, _UNITS.index(unit))


def _expanded_product(unit: str, a: Tensor, b: Tensor, sigma: Sigma, alpha: Tensor) -> Tensor:
    formulas = reference.UNITS[unit]
    if _is_transformed():
        return reference.expanded_product_differentiable(formulas, a, b, sigma, alpha)
    plain = type(b) not in _TENSORS or type(alpha) not in _TENSORS or alpha.device != a.device
    operator = None if plain else kernels.operator("expanded_product", a, sigma)
    if operator is None:
        return reference.expanded_product(compiled.shortest(formulas, a), a, b, sigma, alpha)
    return operator(a, b, sigma, alpha, _UNITS.index(unit))


def options_of(save: str, inplace: bool) -> dict[str, Any]:
    """Return the arguments of a call that differ from the default, for whoever takes it over."""
    if save == "input":
        return {}
    return {"save": "output", "inplace": True} if inplace else {"save": "output"}


def _takes_output(save: str, inplace: bool) -> bool:
    """Return whether backward is to take the output."""
    check_known_save(save)
    if inplace and save == "input":
        raise ValueError("inplace=True needs save='output': backward takes the input otherwise")
    return save == "output"


def on_gpu(unit: str | None, x: Tensor, sigma: Any, rho: Any = None) -> Tensor | None:
    """Compute a gated unit by its kernel, in the usual case; None in all others.

    These are few steps without a call between them, because a GPU waits for the host in small
    networks.

    Args:
        unit: as `kernels.operator` names it; others have no kernel.
        sigma: the sharpness, checked; or with rho a tensor, if it is sigma e^rho, whose product
            would take two kernels more.
    """
    if (
        type(x) not in _TENSORS
        or has_torch_function_variadic(x, sigma)  # first, because a mode sees attributes of x too
        or not x.is_cuda
        or _is_compiling()
        or _is_tracing()
        or _are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or x.layout is not _STRIDED
        or x.is_nested
    ):
        return None
    found = kernels.ON_GPU.get((unit, x.get_device(), x.dtype))
    if found is None:
        return None
    if isinstance(sigma, float):
        return found[0](x, sigma)
    for tensor in (sigma, rho):
        if type(tensor) not in _TENSORS or not tensor.is_cuda:
            return None
    return found[2](x, sigma, rho)


def _is_overridden(x: Tensor, sigma: Sigma) -> bool:
    """Return whether an argument's class or a mode takes the call, by `__torch_function__`.

    While torch.compile traces, classes and modes see the operations inside instead: it does not
    know that a class's own `__torch_function__` turns the check off before it calls the function.
    """
    return has_torch_function_variadic(x, sigma) and not _is_compiling()


def _check_input(function: Callable[..., Tensor], x: Tensor) -> None:
    """Raise TypeError for an input that the functions have no meaning for."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{function.__name__}() takes a tensor, not {type(x).__name__}")
    if x.dtype not in _DTYPES:
        convert = "x.dequantize() converts it" if x.is_quantized else "x.float() converts it"
        remedy = "" if x.is_complex() else f"; {convert}"
        known = "float16, bfloat16, float32 or float64"
        raise TypeError(f"{function.__name__}() takes {known}, not {x.dtype}{remedy}")
    if x.layout not in _LAYOUTS:
        remedy = "x.to_dense() converts it"
        raise TypeError(f"{function.__name__}() takes dense tensors, not {x.layout}; {remedy}")
    if x.is_nested and x.layout == torch.strided:
        remedy = "make it with layout=torch.jagged"
        raise TypeError(f"{function.__name__}() takes nested tensors that are jagged; {remedy}")


def _checked_sigma(sigma: Sigma) -> Sigma:
    """Return sigma as a float, or as a tensor without dimensions."""
    if not isinstance(sigma, Tensor):
        return check_sigma(sigma)
    return _one_number("sigma", sigma)


def _one_number(name: str, tensor: Tensor) -> Tensor:
    """Return a tensor of one number without dimensions."""
    if tensor.dtype not in _DTYPES:
        raise TypeError(f"{name} must be a float or a floating-point tensor, not {tensor.dtype}")
    if tensor.numel() != 1:
        raise ValueError(f"{name} must hold one number, not shape {tuple(tensor.shape)}")
    # In products with x, its dimensions would become dimensions of the result.
    return tensor.reshape(()) if tensor.dim() else tensor


def _checked_alpha(alpha: float | Tensor, x: Tensor) -> Tensor:
    """Return alpha as a tensor without dimensions."""
    if not isinstance(alpha, Tensor):
        return torch.tensor(float(alpha), device=x.device)
    return _one_number("alpha", alpha)


def _gated_name(function: str, activation: str) -> str:
    """Return the canonical name of a gated unit.

    Raises:
        ValueError: the activation is none.
    """
    name = canonical_name(activation)
    if name not in GATED_NAMES:
        raise ValueError(f"{function}() is for {', '.join(GATED_NAMES)}, not {name}")
    return name


def _is_exporting() -> bool:
    """Return whether torch.export traces.

    It is torch's flag: `torch.compiler.is_exporting` is True in torch 2.11 for whoever
    torch.compile traces too. torch 2.6 has neither, and cannot tell.
    """
    flag: bool | None = getattr(torch.compiler, "_is_exporting_flag", None)
    return _is_compiling() if flag is None else flag


def _is_transformed() -> bool:
    """Return whether a transform is active that needs to see a function's own operations."""
    return (
        _is_exporting()
        or is_tracing()
        or _are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def arctan(x: Tensor, sigma: Sigma = 1.0) -> Tensor:
    """Compute the arctan gate, 1/2 + arctan(sigma x) / pi; see `zilu.ArcTan`.

    Args:
        x: floating-point tensor of any shape; the result has its shape and dtype.
        sigma: sharpness, a float above 0 or a one-element tensor (which then gets a gradient).

    Raises:
        TypeError: x or sigma is not of float16, bfloat16, float32 or float64 (integers, bool,
            complex, quantized, float8), x is not a dense tensor.
        ValueError: sigma is not a finite number above 0, or a tensor of several numbers.
    """
    if is_scripting():
        return scripted.arctan(x, sigma)
    else:
        return _apply(arctan, reference.ARCTAN, x, sigma)


def arctan_approx(x: Tensor, sigma: Sigma = 1.0) -> Tensor:
    """Compute the gate (1 + softsign(sigma x)) / 2; see `zilu.ArcTan_Approx`.

    Arguments and errors are those of `arctan`.
    """
    if is_scripting():
        return scripted.arctan_approx(x, sigma)
    else:
        return _apply(arctan_approx, reference.ARCTAN_APPROX, x, sigma)


def zilu(x: Tensor, sigma: Sigma = 1.0, save: str = "input", inplace: bool = False) -> Tensor:
    """Compute ZiLU, x (1/2 + arctan(sigma x) / pi); see `zilu.ZiLU`.

    Args:
        x: floating-point tensor of any shape; the result has its shape and dtype.
        sigma: as for `arctan`.
        save: "input" or "output", what backward keeps; see `zilu.ZiLU`. fp64 keeps the input.
        inplace: write the result over x; only with save="output".

    Raises:
        TypeError, ValueError: as for `arctan`; another `save`, or `inplace` without "output".
    """
    if is_scripting():
        return scripted.zilu(x, sigma)
    else:
        return _apply(zilu, reference.ZILU, x, sigma, save, inplace)


def zilu_approx(
    x: Tensor, sigma: Sigma = 1.0, save: str = "input", inplace: bool = False
) -> Tensor:
    """Compute ZiLU's approximation, x (1 + softsign(sigma x)) / 2; see `zilu.ZiLU_Approx`.

    Arguments and errors are those of `zilu`.
    """
    if is_scripting():
        return scripted.zilu_approx(x, sigma)
    else:
        return _apply(zilu_approx, reference.ZILU_APPROX, x, sigma, save, inplace)


def gelu_s(x: Tensor, sigma: Sigma = 1.0) -> Tensor:
    """Compute GELU with a sharpness, x Phi(sigma x); see `zilu.GELU_s`.

    Arguments and errors are those of `arctan`.
    """
    if is_scripting():
        return scripted.gelu_s(x, sigma)
    else:
        return _apply(gelu_s, reference.GELU_S, x, sigma)


def silu_s(x: Tensor, sigma: Sigma = 1.0) -> Tensor:
    """Compute SiLU with a sharpness (Swish), x sigmoid(sigma x); see `zilu.SiLU_s`.

    Arguments and errors are those of `arctan`.
    """
    if is_scripting():
        return scripted.silu_s(x, sigma)
    else:
        return _apply(silu_s, reference.SILU_S, x, sigma)


def gated_product(
    a: Tensor,
    b: Tensor,
    activation: str = "ZiLU",
    sigma: Sigma = 1.0,
    alpha: float | Tensor | None = None,
) -> Tensor:
    """Compute f(a) b, the product in a gated linear unit (arXiv 2002.05202), in one pass.

    Backward keeps a and b, where f(a) * b keeps f(a) too, and computes f(a) again. 16-bit numbers
    are rounded once instead of twice.

    Args:
        a, b: floating-point tensors of one shape, dtype and device, as is the result.
        activation: the f: ZiLU, ZiLU_Approx, GELU_s or SiLU_s.
        sigma: as for `arctan`.
        alpha: widens the gate's range, as in `expanded`; None for the f itself.

    Raises:
        TypeError, ValueError: as for `arctan`; another activation, or b is not like a.
    """
    unit = _gated_name("gated_product", activation)
    if has_torch_function_variadic(a, b, sigma, alpha) and not _is_compiling():
        y: Tensor = handle_torch_function(
            gated_product, (a, b, sigma, alpha), a, b, activation=activation, sigma=sigma,
            alpha=alpha,
        )  # fmt: skip
        return y
    _check_input(gated_product, a)
    _check_input(gated_product, b)
    if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
        shown = [f"{tuple(x.shape)} {x.dtype} on {x.device}" for x in (a, b)]
        raise ValueError(f"gated_product() takes two tensors alike, not {shown[0]} and {shown[1]}")
    sigma = _checked_sigma(sigma)
    if alpha is not None:
        return _expanded_product(unit.lower(), a, b, sigma, _checked_alpha(alpha, a))
    return _gated_product(unit.lower(), a, b, sigma)


def expanded(
    x: Tensor, alpha: float | Tensor, activation: str = "ZiLU", sigma: Sigma = 1.0
) -> Tensor:
    """Compute a gated unit whose gate ranges from -alpha to 1 + alpha (arXiv 2405.20768).

    It is f(x) + alpha (2 f(x) - x), and f(x) itself where alpha is 0.

    Args:
        x: as for `arctan`.
        alpha: a number, or a one-element tensor (which then gets a gradient).
        activation: the f: ZiLU, ZiLU_Approx, GELU_s or SiLU_s.
        sigma: as for `arctan`.

    Raises:
        TypeError, ValueError: as for `arctan`; another activation, or alpha is not one number.
    """
    unit = _gated_name("expanded", activation)
    if has_torch_function_variadic(x, alpha, sigma) and not _is_compiling():
        y: Tensor = handle_torch_function(
            expanded, (x, alpha, sigma), x, alpha, activation=activation, sigma=sigma
        )
        return y
    _check_input(expanded, x)
    return _expanded(unit.lower(), x, _checked_sigma(sigma), _checked_alpha(alpha, x))


def golu(x: Tensor) -> Tensor:
    """Compute GoLU, x exp(-exp(-x)); see `zilu.GoLU`.

    Arguments and errors are those of `arctan`; there is no sigma.
    """
    if is_scripting():
        return scripted.golu(x)
    else:
        return _golu(x)


def _golu(x: Tensor) -> Tensor:
    if _is_overridden(x, 1.0):
        y: Tensor = handle_torch_function(golu, (x,), x)
        return y
    _check_input(golu, x)
    return _compute(reference.GOLU, x, 1.0)


def squareplus(x: Tensor, save: str = "input", inplace: bool = False) -> Tensor:
    """Compute SquarePlus, (x + sqrt(x^2 + 4)) / 2; see `zilu.SquarePlus`.

    Arguments and errors are those of `zilu`; there is no sigma.
    """
    if is_scripting():
        return scripted.squareplus(x)
    else:
        return _squareplus(x, save, inplace)


def _squareplus(x: Tensor, save: str, inplace: bool) -> Tensor:
    from_output = _takes_output(save, inplace)
    if _is_overridden(x, 1.0):
        y: Tensor = handle_torch_function(squareplus, (x,), x, **options_of(save, inplace))
        return y
    _check_input(squareplus, x)
    if from_output and x.dtype != torch.float64 and not _is_transformed():
        formulas = reference.SQUAREPLUS_FROM_OUTPUT
        return _over(formulas, x, 1.0) if inplace else _compute(formulas, x, 1.0)
    y = reference.squareplus(x.clone() if inplace else x, _is_exporting())
    return x.copy_(y) if inplace else y
