"""Differentiate a network of coordinates with respect to them: its gradient and its Laplacian."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

# Points at a time. With ZiLU, 256 wide, 128 take 0.3 GiB, 2,048 took 4, and were no faster.
CHUNK = 128
STEP = 1e-5  # of coordinates, to both sides, where a Laplacian is made of differences
PROBES = 64  # points at which a Laplacian is computed in both ways
TOLERANCE = 1e-3  # a share of the largest; the two ways differ by 1e-6 and less


class Derivatives(NamedTuple):
    """Hold what a network is at N points, in float64.

    Attributes:
        values: (N, channels) its outputs.
        gradient: (N, 2) of the mean over the channels.
        laplacian: (N,) of the same.
        by_differences: the Laplacian is that of central differences of the gradient, because an
            activation cannot be differentiated twice.
    """

    values: Tensor
    gradient: Tensor
    laplacian: Tensor
    by_differences: bool


def derivatives(network: nn.Module, coordinates: Tensor) -> Derivatives:
    """Return a network's outputs, gradient and Laplacian, by autograd in float64.

    A copy of the network is used, whose parameters are float64; the network itself stays as it is.
    A device without float64 leaves the work to the CPU.

    Args:
        network: maps (N, 2) to (N, channels), each row by itself.
        coordinates: (N, 2).
    """
    device = coordinates.device
    device = torch.device("cpu") if device.type == "mps" else device
    with torch.autocast(device.type, enabled=False), torch.enable_grad():
        exact = copy.deepcopy(network).to(device).double().eval().requires_grad_(False)
        points = coordinates.to(device).double()
        return _in_chunks(exact, points, twice=_is_differentiable_twice(exact, points))


def _is_differentiable_twice(network: nn.Module, points: Tensor) -> bool:
    """Return whether autograd's Laplacian is that of the gradient's differences.

    A kernel or a user's own activation may have a backward pass that has none of its own. torch
    raises an error for some of them, and for others gives zeros without a word.
    """
    probes = points[:: -(-len(points) // PROBES)]
    try:
        exact = _in_chunks(network, probes, twice=True).laplacian
    except (RuntimeError, NotImplementedError):
        return False
    wanted = _in_chunks(network, probes, twice=False).laplacian
    # The median, as there may be a corner between two points of a difference.
    return bool((exact - wanted).abs().median() <= TOLERANCE * wanted.abs().max())


def _in_chunks(network: nn.Module, points: Tensor, twice: bool) -> Derivatives:
    """Return the derivatives, the Laplacian by autograd if it is to go through twice."""
    parts = []
    for chunk in points.split(CHUNK):
        at = chunk.detach().requires_grad_()
        values, gradient = _gradient(network, at, twice)
        second = _laplacian(gradient, at) if twice else _by_differences(network, at)
        parts.append((values.detach(), gradient.detach(), second.detach()))
    values, gradient, laplacian = (torch.cat(part) for part in zip(*parts, strict=True))
    return Derivatives(values, gradient, laplacian, by_differences=not twice)


def _gradient(network: nn.Module, at: Tensor, twice: bool) -> tuple[Tensor, Tensor]:
    """Return the outputs, and the gradient (N, 2) of their mean over the channels."""
    values = network(at)
    if not values.requires_grad:  # a constant
        return values, torch.zeros_like(at)
    (gradient,) = torch.autograd.grad(values.mean(-1).sum(), at, create_graph=twice)
    return values, gradient


def _laplacian(gradient: Tensor, at: Tensor) -> Tensor:
    total = torch.zeros_like(at[:, 0])
    for i in range(at.shape[1]) if gradient.requires_grad else ():  # else the network is linear
        (second,) = torch.autograd.grad(
            gradient[:, i].sum(), at, retain_graph=True, materialize_grads=True
        )
        total += second[:, i]
    return total


def _by_differences(network: nn.Module, at: Tensor) -> Tensor:
    """Return the Laplacian by central differences of gradients, STEP to both sides."""
    total = torch.zeros_like(at[:, 0])
    for i in range(at.shape[1]):
        step = torch.zeros_like(at)
        step[:, i] = STEP
        for sign in (1, -1):
            beside = (at.detach() + sign * step).requires_grad_()
            _, gradient = _gradient(network, beside, twice=False)
            total += sign * gradient[:, i].detach() / (2 * STEP)
    return total
