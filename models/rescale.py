"""Rescale initial weights around the activations: the control for scans of sigma.

A scan changes sigma, and with it the scale at which every activation works. Its control keeps sigma
and changes that scale through the neighbouring weights.
"""

import torch

from models.neighbours import HasNeighbours


@torch.no_grad()
def rescale_around_activations(model: HasNeighbours, factor: float) -> None:
    """Scale weights in place, so that the model computes what it would with `factor` times sigma.

    The activations must be of the form f_sigma(x) = f_1(sigma x) / sigma. With S for `factor`,

        f_sigma(S x) = f_1(S sigma x) / sigma = S f_(S sigma)(x):

    weights and biases that feed an activation are multiplied by S, weights that read one are
    divided by it. Norms, if any, see the values they saw before, so the two models agree in
    training as well as in evaluation.
    """
    feeding, reading = model.around_activations()
    for layer in feeding:
        layer.weight.mul_(factor)
        if layer.bias is not None:
            layer.bias.mul_(factor)
    for layer in reading:
        layer.weight.div_(factor)
