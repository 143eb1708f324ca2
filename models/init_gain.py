"""The initial scale by each activation's own gain, where torch's is by ReLU's for all."""

import math
from collections.abc import Callable

import torch
from torch import nn

# Midpoints of steps that end on whole numbers: there the registry's functions have their corners.
LIMIT, STEPS_PER_UNIT = 16, 2**11


@torch.no_grad()
def second_moment(activation: nn.Module) -> float:
    """E[f(x)²] for x ~ N(0, 1), by the midpoint rule in float64; `activation` becomes float64."""
    count = 2 * LIMIT * STEPS_PER_UNIT
    x = (torch.arange(count, dtype=torch.float64) + 0.5) / STEPS_PER_UNIT - LIMIT
    density = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)  # first: f may overwrite x
    return (density * activation.double()(x).square()).sum().item() / STEPS_PER_UNIT


@torch.no_grad()
def unit_gain(model: nn.Module, activation: Callable[[], nn.Module]) -> None:
    """Scale the weights that read an activation, in place, by sqrt(0.5 / E[f(x)²]), x ~ N(0, 1).

    He et al. (2015, arXiv 1502.01852, section 2.2) draw weights of variance 2 / n, n being a unit's
    number of inputs, because ReLU halves the second moment of what it is given. Every network here
    starts from ReLU's gain (`init_weights`). Scaled so, it starts with the products that ReLU
    would give it, wherever an activation's inputs have second moment 1; ReLU's stay as they are.
    Where they have another, that of f is not in proportion, unless f is homogeneous as ReLU is:
    smooth units pass less of small inputs on, so that moments below 1 still shrink with depth.

    `model` is fresh, with a method `around_activations`; shortcuts that pass an activation on as it
    is are not scaled. `activation` is the factory that it was built with; learnable parameters
    count at their initial values.
    """
    factor = math.sqrt(0.5 / second_moment(activation()))
    _, reading = model.around_activations()
    for layer in reading:
        layer.weight.mul_(factor)
