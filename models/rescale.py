"""The control for scans of sigma: another initial scale around the activations, sigma as it is."""

import torch
from torch import nn


@torch.no_grad()
def rescale_around_activations(model: nn.Module, factor: float) -> None:
    """Scale weights in place, so that the model computes what it would with `factor` times sigma.

    The activations must be of the form f_sigma(x) = f_1(sigma x) / sigma. Then f_sigma(S x) is
    S f_(S sigma)(x): what feeds an activation is multiplied by S, what reads one is divided by it.
    Norms, if any, see the values they saw before, so the two models agree in training as well as in
    evaluation.

    `model.around_activations()` gives the layers that feed an activation, which have a bias, and
    those that read one; a layer may do both.
    """
    feeding, reading = model.around_activations()
    for layer in feeding:
        layer.weight.mul_(factor)
        layer.bias.mul_(factor)
    for layer in reading:
        layer.weight.div_(factor)
