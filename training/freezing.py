"""Keep parts of a network as they are while the rest is trained: --freeze."""

from typing import Any

from torch import nn

from training.optimization import output_layers
from utils import UserError

TRUNK, NORMS = "trunk", "norms"


def freeze(model: nn.Module, parts: list[str]) -> str:
    """Stop the training of parts of a network; return a line that says what is frozen.

    The trunk is all but the layers that make the outputs. Of the norms it is every BatchNorm. The
    parameters need no gradient any more, so no optimizer gets them; BatchNorms in these parts stay
    in evaluation mode, so they normalise by the statistics that they have and keep them. Dropout
    and stochastic depth go on as they are.

    Args:
        model: the network.
        parts: TRUNK, NORMS or both.

    Raises:
        UserError: the network has no such part.
    """
    head = {id(module) for layer in output_layers(model) for module in layer.modules()}
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    frozen: list[nn.Parameter] = []
    if TRUNK in parts:
        if not head:
            raise UserError("--freeze trunk: the network's head is not known; leave it out")
        weights = {id(p) for layer in output_layers(model) for p in layer.parameters()}
        frozen += [p for p in model.parameters() if id(p) not in weights]
    if NORMS in parts:
        if not norms:
            raise UserError("--freeze norms: the network has no BatchNorm; leave it out")
        # Not those of an activation inside the norm, as timm's networks have.
        frozen += [p for norm in norms for p in norm.parameters(recurse=False)]
    for parameter in frozen:
        parameter.requires_grad_(False)
    for norm in norms:
        if NORMS in parts or id(norm) not in head:
            _stay_in_evaluation(norm)
    every = list(model.parameters())
    still = [p for p in every if not p.requires_grad]
    if len(still) == len(every):
        raise UserError("--freeze: nothing is left to train; leave it out")
    return (
        f"Frozen ({', '.join(parts)}): {len(still)} of {len(every)} tensors, "
        f"{sum(p.numel() for p in still):,} of {sum(p.numel() for p in every):,} parameters"
    )


def _stay_in_evaluation(module: Any) -> None:
    """Let the module, alone of its network, not follow `train()` any more."""
    module.training = False
    module.train = _stays.__get__(module)


def _stays(module: nn.Module, mode: bool = True) -> nn.Module:
    for child in module.children():  # the activation inside a norm of timm's
        child.train(mode)
    return module
