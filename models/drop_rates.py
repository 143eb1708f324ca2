"""Give networks of timm and torchvision other rates of stochastic depth and dropout.

The arguments of a package's own constructors are taken, so blocks have the rates that its authors
give them. A rate that would change nothing is refused.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torchvision.ops import StochasticDepth

# What the constructors call --drop_path and --drop_rate.
ARGUMENTS = {
    "timm": {"drop_path": "drop_path_rate", "drop_rate": "drop_rate"},
    "torchvision": {"drop_path": "stochastic_depth_prob", "drop_rate": "dropout"},
}
# torchvision's whose `dropout` is that of every block, not one before the head.
DROPOUT_OF_BLOCKS = ("torchvision/vit_", "torchvision/swin_")
WHAT = {"drop_path": "stochastic depth", "drop_rate": "dropout before the head"}


class Refusal(ValueError):
    """Say in a whole line what is refused."""


def built(name: str, make: Callable[..., nn.Module], rates: Mapping[str, float]) -> nn.Module:
    """Return what `make` builds with these rates.

    Args:
        name: of the model, as PACKAGE/ARCHITECTURE.
        make: takes the package's arguments.
        rates: "drop_path" and "drop_rate", where they are given.

    Raises:
        Refusal: the network has no such rate; one line with the remedy.
    """
    arguments = {ARGUMENTS[name.partition("/")[0]][flag]: rate for flag, rate in rates.items()}
    if "drop_rate" in rates and name.startswith(DROPOUT_OF_BLOCKS):
        raise _refusal(name, "drop_rate")
    try:
        network = make(**arguments)
    except TypeError as error:
        flag = next((each for each in rates if arguments_name(name, each) in str(error)), None)
        if flag is None:
            raise
        if "multiple values" not in str(error):
            raise _refusal(name, flag) from None
        # Swin and MaxViT: the builder fixes the rate of its variant, and passes on all else.
        others = {each: rate for each, rate in rates.items() if each != flag}
        network = built(name, make, others)
        _scale_rates(network, rates[flag])
    for flag, rate in rates.items():
        if rate and not _has_rate(network, flag, rate):
            raise _refusal(name, flag)
    return network


def arguments_name(name: str, flag: str) -> str:
    """Return what the model's package calls a flag, in quotes, as errors have it."""
    return repr(ARGUMENTS[name.partition("/")[0]][flag])


def _refusal(name: str, flag: str) -> Refusal:
    return Refusal(
        f"--{flag} does not apply to {name}, which has no {WHAT[flag]}: leave out --{flag}"
    )


def _scale_rates(network: nn.Module, rate: float) -> None:
    """Scale the blocks' rates, which rise evenly from 0, so that the last one is `rate`."""
    layers = [module for module in network.modules() if isinstance(module, StochasticDepth)]
    highest = max(layer.p for layer in layers)
    for layer in layers:
        layer.p *= rate / highest


def _has_rate(network: nn.Module, flag: str, rate: float) -> bool:
    """Return whether the rate has come into the network: some constructors ignore it."""
    if flag == "drop_path":
        return any(_path_rate(module) for module in network.modules())
    return any(
        rate in (getattr(module, "drop_rate", None), _dropout_rate(module))
        for module in network.modules()
    )


def _path_rate(module: nn.Module) -> float:
    """Return the rate of a layer of stochastic depth, timm's DropPath or torchvision's; else 0."""
    rate: Any = 0.0
    if isinstance(module, StochasticDepth):
        rate = module.p
    elif type(module).__name__ == "DropPath":
        rate = module.drop_prob
    return rate


def _dropout_rate(module: nn.Module) -> float | None:
    return module.p if isinstance(module, nn.modules.dropout._DropoutNd) else None
