"""Scale initial weights by each activation's own gain, where torch's initialisation uses ReLU's."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.neighbours import HasNeighbours

# The integral runs from -LIMIT to LIMIT by the midpoints of steps that end on halves: the
# registry's functions have their corners there.
LIMIT, STEPS_PER_UNIT = 16, 2**11


@torch.no_grad()
def second_moment(activation: nn.Module) -> float:
    """Return E[f(x)²] for x ~ N(0, 1), by the midpoint rule in float64.

    The parameters of `activation` become float64.
    """
    x, weights = gaussian_rule()
    return (weights * activation.double()(x).square()).sum().item()


def gaussian_rule() -> tuple[Tensor, Tensor]:
    """Return points x and weights w with E[h(z)] = Σ w h(x), z ~ N(0, 1); both (n,), float64."""
    count = 2 * LIMIT * STEPS_PER_UNIT
    x = (torch.arange(count, dtype=torch.float64) + 0.5) / STEPS_PER_UNIT - LIMIT
    return x, torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi) / STEPS_PER_UNIT


@torch.no_grad()
def unit_gain(model: HasNeighbours, activation: Callable[[], nn.Module]) -> None:
    """Scale the weights that read an activation, in place, by sqrt(0.5 / E[f(x)²]), x ~ N(0, 1).

    He et al. (2015, arXiv 1502.01852, section 2.2) draw weights of variance 2 / n, n being a unit's
    number of inputs, because ReLU halves the second moment of what it is given. Every network here
    starts from ReLU's gain (`init_weights`). After the scaling, the layer's products have the
    variance that ReLU would have given them, provided an activation's inputs have second moment 1;
    for ReLU itself the weights stay as they are.

    Where the inputs have another second moment, that of f(x) is not in proportion to it unless f is
    homogeneous, as ReLU is: smooth units pass on less of small inputs, so that moments below 1
    still shrink with depth.

    Args:
        model: a freshly initialised network.
        activation: the factory that the model was built with. Learnable parameters count at their
            initial values.

    Raises:
        ValueError: E[f(x)²] is 0, infinite or no number.
    """
    moment = second_moment(activation())
    if not 0 < moment < math.inf:
        raise ValueError(f"--init_gain unit: E[f(x)²] is {moment:g} for x ~ N(0, 1); leave it out")
    factor = math.sqrt(0.5 / moment)
    _, reading = model.around_activations()
    for layer in reading:
        layer.weight.mul_(factor)
