"""Try a user's own activation on small tensors, and sample its curve."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zilu.custom.activation import CustomActivation, load

# As between convolutions, layers over a sequence, and others.
CHANNELS = 8
SHAPES: tuple[Callable[[int], tuple[int, ...]], ...] = (
    lambda channels: (2, channels, 4, 4),
    lambda channels: (2, 4, channels),
    lambda channels: (2, channels),
)
CURVE_FROM, CURVE_TO, CURVE_POINTS = -5.0, 3.0, 401


def check(
    name: str,
    sigma: float = 1.0,
    learnable: bool = False,
    inplace: bool = False,
    args: Mapping[str, Any] | None = None,
) -> CustomActivation:
    """Load an activation and try it on small tensors, forward and backward, on the CPU.

    Random generators stay as they are.

    Raises:
        ValueError: it cannot be loaded or made, or is not fit to train with. One line with the
            reason.
    """
    with torch.random.fork_rng(devices=[]):
        found = load(name)
        module = found.make(sigma, learnable, inplace, args)
        fitting_shape(found, module, learnable)
    return found


def fitting_shape(
    found: CustomActivation, module: nn.Module, learnable: bool = False
) -> tuple[int, ...]:
    """Return a shape that the activation takes, as (samples, ...).

    Raises:
        ValueError: there is none; the reason is that of the first one.
    """
    if learnable and not any(p.requires_grad for p in module.parameters()):
        raise ValueError(f"{found.name} made with learnable=True has no parameters to learn")
    tensors = itertools.chain(module.parameters(), module.buffers())
    sizes = (size for tensor in tensors for size in tensor.shape if size > 1)
    problems = []
    for channels in dict.fromkeys((CHANNELS, *sizes)):
        for shape in SHAPES:
            problem = _problem(found, module, shape(channels))
            if problem is None:
                return shape(channels)
            problems.append(problem)
    raise ValueError(f"{found.name} {problems[0]}")


def _problem(found: CustomActivation, module: nn.Module, shape: tuple[int, ...]) -> str | None:
    """Return what is wrong with an activation on inputs of that shape, None if nothing is."""
    count = torch.Size(shape).numel()
    leaf = torch.linspace(-3, 3, count).view(shape).requires_grad_()  # an even count: 0 is left out
    x = leaf * 1  # autograd lets nothing work in place on a leaf
    before = x.detach().clone()
    with torch.enable_grad():
        try:
            y = module(x)
        except Exception as error:
            return f"fails on a tensor of shape {shape} ({found.reason(error)})"
        wrong = _wrong_result(y, shape)
        if wrong:
            return wrong
        if not torch.equal(x.detach(), before) and not getattr(module, "inplace", False):
            return (
                "overwrites its input, which networks may still need: compute without in-place "
                "operations, or take an argument `inplace` for that"
            )
        known = {id(leaf), *map(id, module.parameters())}
        if any(id(each) not in known for each in _leaves(y)):
            return (
                "uses a tensor with requires_grad that is no parameter of a module, so it would "
                "not be trained: make it a class, with self.NAME = nn.Parameter in its __init__"
            )
        try:
            y.backward(torch.ones_like(y))
        except Exception as error:
            return f"fails in the backward pass ({found.reason(error)})"
    if leaf.grad is None:
        return "gives a result that does not depend on its input by differentiable operations"
    for what, values in (("", y), ("slopes that are ", leaf.grad)):
        if values.isnan().all():
            return f"gives {what}NaN everywhere between -3 and 3"
    return None


def _wrong_result(y: Any, shape: tuple[int, ...]) -> str | None:
    if not isinstance(y, Tensor):
        return f"returns a {type(y).__name__}, not a tensor"
    if y.shape != shape:
        return f"returns a tensor of shape {tuple(y.shape)} for one of {shape}: it must be the same"
    if y.dtype != torch.float32:
        names = [str(dtype).removeprefix("torch.") for dtype in (y.dtype, torch.float32)]
        return f"returns a tensor of {names[0]} for one of {names[1]}: it must be the same"
    if not y.requires_grad:
        return (
            "gives a result without a gradient (detach, no_grad, a comparison, or NumPy in it): "
            "use differentiable operations of torch alone"
        )
    return None


def _leaves(y: Tensor) -> Iterator[Tensor]:
    """Yield the tensors that a result's gradient flows to."""
    stack, seen = [y.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        stack += [each for each, _ in node.next_functions]


def curve(found: CustomActivation, module: nn.Module) -> dict[str, list[float | None]]:
    """Return x, f(x) and f'(x) as numbers for a figure; None stands for what is not finite.

    Where an activation mixes elements, all of a sample have the value x, and the means count.

    Args:
        found: the activation.
        module: one of its modules, which stays as it is but for its mode.
    """
    with torch.random.fork_rng(devices=[]):
        shape = fitting_shape(found, module)
        points = torch.linspace(CURVE_FROM, CURVE_TO, CURVE_POINTS)
        x = points.view(-1, *(1 for _ in shape[1:])).expand(-1, *shape[1:]).clone().requires_grad_()
        y = module.eval()(x * 1)
        (slope,) = torch.autograd.grad(y.sum(), x)
    sample = x[0].numel()
    return {
        "x": _numbers(points),
        "f": _numbers(y.detach().reshape(CURVE_POINTS, -1).mean(1)),
        "slope": _numbers(slope.reshape(CURVE_POINTS, -1).sum(1) / sample),
    }


def _numbers(values: Tensor) -> list[float | None]:
    return [
        float(f"{value:.6g}") if finite else None
        for value, finite in zip(values.tolist(), values.isfinite().tolist(), strict=True)
    ]
