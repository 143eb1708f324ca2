"""Find what an activation makes of normally distributed inputs."""

import torch

from batteries.profile.found import Moments
from batteries.profile.subject import Subject, seeded
from models.init_gain import gaussian_rule

DRAWS = 2**19  # numbers, where an integral over one of them says nothing


def moments(subject: Subject) -> Moments:
    """Return the integrals of an elementwise activation over N(0, 1)."""
    z, weights = gaussian_rule()
    y, slopes = subject.exact()(z.clone()), subject.slopes()(z)
    return Moments(
        mean=(weights * y).sum().item(),
        second=(weights * y.square()).sum().item(),
        slope_second=(weights * slopes.square()).sum().item(),
    )


def drawn_moments(subject: Subject) -> Moments:
    """Return the moments of an activation that mixes elements, as means over random inputs.

    The slope's moment is that of a gradient with independent elements of variance 1, after
    backward. Standard errors are over the samples.
    """
    module = subject.module()
    count = max(2, DRAWS // torch.Size(subject.shape[1:]).numel())
    with seeded():
        z = torch.randn(count, *subject.shape[1:], dtype=torch.float64, requires_grad=True)
        y = module(z * 1)
        (gradient,) = torch.autograd.grad(y, z, torch.randn_like(y))
    outputs = y.detach().square().reshape(count, -1).mean(1)
    gradients = gradient.square().reshape(count, -1).mean(1)
    error = count**-0.5
    return Moments(
        mean=y.mean().item(),
        second=outputs.mean().item(),
        slope_second=gradients.mean().item(),
        draws=z.numel(),
        second_error=error * outputs.std().item(),
        slope_second_error=error * gradients.std().item(),
    )
