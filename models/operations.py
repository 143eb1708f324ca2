"""Count the operations of a network."""

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

# A backward pass makes two products for each of the forward pass.
FORWARD_AND_BACKWARD = 3


@torch.no_grad()
def forward_flops(model: nn.Module, inputs: Tensor) -> int:
    """Return the FLOPs of a forward pass in evaluation, two for each multiply and add.

    Those of matrix products and convolutions are counted, with torch's own counter.
    """
    was_training = model.training
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):  # the one form that is counted on every device
        model.eval()(inputs)
    model.train(was_training)
    return counter.get_total_flops()
