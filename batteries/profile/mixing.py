"""Find out on which inputs an output depends."""

import itertools

import torch
from torch import Tensor, nn

from batteries.profile.found import Mixing
from batteries.profile.subject import Subject, seeded

CHANGES = (0.01, 1.0, 100.0, -0.01, -1.0, -100.0)
PLACES = 6  # at which an input is changed
SMALL_CHANGE, LARGE_CHANGE = 2.0**-40, 2.0**-10  # as shares of x
TOLERANCE = 1e-9  # of float64's results at different places of a vectorised loop


def mixing(subject: Subject) -> Mixing:
    """Change inputs one by one, and look which outputs change."""
    module = subject.module()
    with seeded(), torch.no_grad():
        x = torch.randn(subject.shape, dtype=torch.float64)
        before = module(x.clone())
        touched = torch.zeros(3, dtype=torch.bool)
        places = torch.randperm(x.numel())[:PLACES].tolist()
        for place, change in itertools.product(places, CHANGES):
            other = x.clone()
            other.view(-1)[place] += change
            index = torch.unravel_index(torch.tensor(place), x.shape)
            touched |= _touched(_differ(before, module(other)), tuple(int(i) for i in index))
        constant = torch.linspace(-3, 3, 7, dtype=torch.float64)
        by_place = any(_varies(module(torch.full_like(x, value))) for value in constant)
        trained = subject.module().train()
        is_random = bool(_differ(trained(x.clone()), trained(x.clone())).any())
        is_single = before.dtype != torch.float64 or _is_coarse(module, x, before)
    samples, channels, others = touched.tolist()
    return Mixing(tuple(x.shape), samples, channels, others, by_place, is_random, is_single)


def _is_coarse(module: nn.Module, x: Tensor, before: Tensor) -> bool:
    """Return whether changes that float64 would show, and float32 does not, change nothing."""
    moves = module(x * (1 + LARGE_CHANGE)) != before
    follows = module(x * (1 + SMALL_CHANGE)) != before
    return bool(moves.any()) and not bool(follows.any())


def _differ(one: Tensor, other: Tensor) -> Tensor:
    return ~torch.isclose(one, other, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)


def _touched(changed: Tensor, index: tuple[int, ...]) -> Tensor:
    """Return whether outputs changed in other samples, other channels, elsewhere; (3,), bool."""
    own_sample = changed[index[0]]
    other_samples = changed.sum() > own_sample.sum()
    # Channels come second, or last where a sequence stands between.
    dimension = 1 if own_sample.dim() == 2 else 0
    own_channel = own_sample.select(dimension, index[1 + dimension])
    other_channels = own_sample.sum() > own_channel.sum()
    rest = [i for number, i in enumerate(index[1:]) if number != dimension]
    own = own_channel[tuple(rest)] if rest else own_channel
    elsewhere = own_channel.sum() > own.sum()
    return torch.stack([other_samples, other_channels, elsewhere])


def _varies(y: Tensor) -> bool:
    return bool(_differ(y, y.flatten()[0].expand_as(y)).any())
