"""Describe the input of one activation in numbers."""

import math

import torch
from torch import Tensor, nn

SAMPLES = 65_536  # the most values that are sorted
TAIL = 0.01  # the share of the samples that Hill's estimator looks at
# Its limit for a Gaussian: 1 / E[ln(|Z| / u) | |Z| > u] with P(|Z| > u) = TAIL.
GAUSSIAN_TAIL_INDEX = 9.0041
LARGEST = 100  # the values that arXiv 2603.06861 looks at, in a batch of 128
FLAT = 0.01  # a slope below which hardly anything is learned


def sample(x: Tensor, count: int = SAMPLES) -> Tensor:
    """Return at most `count` of a tensor's values, from the same places each time; (count,).

    The places are spread all over it.

    The step is near the golden section of the size and has no divisor in common with it: no
    channel or row is preferred, no place comes twice, and no random number is drawn.
    """
    x, size = x.flatten(), x.numel()
    if size <= count:
        return x
    step = round(size * (math.sqrt(5) - 1) / 2)
    while math.gcd(step, size) > 1:
        step += 1
    return x[torch.arange(count, device=x.device) * step % size]


def hill_tail_index(x: Tensor, tail: float = TAIL) -> Tensor:
    """Return Hill's estimate (1975, Ann. Stat. 3) of the index a in P(|x - median| > t) ~ t^-a.

    It uses the largest `tail` of the values (n,), at least one, and has no dimensions. The smaller
    it is, the longer the tail; it is NaN or infinite where those values do not differ.
    """
    return _hill((x - x.median()).abs(), max(1, round(tail * len(x))))


def hill_of_largest(x: Tensor, count: int = LARGEST) -> Tensor:
    """Return Hill's estimate for |x| from the `count` largest of all values, as the paper has it.

    Unlike `hill_tail_index` it depends on how many values there are: of a larger batch, they lie
    further out. It is NaN of `count` values or fewer.
    """
    distances = x.flatten().abs()
    if len(distances) <= count:
        return distances.new_tensor(math.nan)
    return _hill(distances, count)


def _hill(distances: Tensor, count: int) -> Tensor:
    """Return Hill's estimate from the `count` largest distances, relative to the next one."""
    largest = distances.topk(count + 1).values
    return 1 / (largest[:-1] / largest[-1]).log().mean()


def flat_share(activation: nn.Module, x: Tensor, limit: float = FLAT) -> Tensor:
    """Return the share of inputs x where the activation's slope is below `limit` in size."""
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        # A clone, since it may work in place.
        (slopes,) = torch.autograd.grad(activation(x.clone()).sum(), x)
    return (slopes.abs() < limit).float().mean()


def living_channels(x: Tensor, dimension: int) -> Tensor:
    """Return whether each channel of an input has a positive value; (channels,), bool.

    Args:
        x: the input.
        dimension: the one of the channels.
    """
    channels = x.shape[dimension]
    if not x.numel():
        return x.new_zeros(channels, dtype=torch.bool)
    # Over the outermost dimension in memory first: in one go, few channels that lie innermost
    # (channels_last) take 50 times as long.
    order = sorted(range(x.dim()), key=x.stride, reverse=True)
    place = order.index(dimension % x.dim())
    x = x.permute(order)
    if place > 0:
        x, place = x.amax(0), place - 1
    return x.movedim(place, 0).reshape(channels, -1).amax(1) > 0
