"""Start a classifier from weights that exist: published ones, a file's or a run's.

What a start decides beside the weights is plain values by name, STARTS, which checkpoints keep.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from cli.converters import arguments
from cli.network import ACTIVATION_FLAGS
from cli.vision import VisionConfig
from models import pretrained
from models.activation import create_activation
from training import initial_weights, processes
from training.initial_weights import InitialWeights
from utils import UserError, user_errors
from zilu.names import SIGMA_NAMES, custom_name
from zilu.replacement.gradual import Gradual, Old
from zilu.replacement.replace import Report

# How images come to the network, as a card says it; and the flags of the activation before.
STARTS = ("preprocessing", "old_activation")


def initial_weights_of(config: VisionConfig) -> InitialWeights | None:
    """Return the weights of --pretrained or --init_from; None where a run starts untrained.

    Raises:
        UserError: they cannot be had, or are of another program.
    """
    if not config.model.pretrained:
        return initial_weights.read(config)
    name = config.model.model
    with processes.main_first(), user_errors():
        card = pretrained.card(name)
        tensors = pretrained.published_tensors(name, config.data.resize or card.size)
    digest = initial_weights.digest_of(tensors)
    origin = f"published weights, {card.address}"
    return InitialWeights(card.weights, tensors, digest, origin, {}, "--pretrained")


def start_of(config: VisionConfig, weights: InitialWeights) -> dict[str, Any]:
    """Return how images come to the network, and which activation it had.

    A network of timm or torchvision gets images as its card says where the weights are others'. A
    run that started so hands that on to those that start from it.

    Raises:
        UserError: the old activation is needed and not known.
    """
    model, settings = config.model, weights.settings
    start = {name: settings[name] for name in STARTS[:1] if name in settings}
    if model.is_third_party and not settings:
        with user_errors():
            start["preprocessing"] = pretrained.card(model.model).preprocessing()
    if config.training.gradual_length is None:
        return start
    if settings:
        start["old_activation"] = activation_of(settings, weights)
    elif not model.is_third_party:
        raise UserError(
            f"--replace_gradually: {weights.source} does not say which activation it was "
            "trained with, as a checkpoint of this project does; leave it out"
        )
    return start


def put_weights(
    model: nn.Module,
    num_classes: int,
    config: VisionConfig,
    weights: InitialWeights,
    sites: Sequence[str],
) -> None:
    """Copy the weights into the network, and say what is new in it.

    Args:
        model: the network, with its new activations.
        num_classes: of the data.
        config: the run's.
        weights: to start from.
        sites: paths of the activations.
    """
    is_theirs = config.model.is_third_party and not weights.settings
    convert = functools.partial(pretrained.converted, config.model.model, model)
    new_sites = () if has_activation(weights.settings, config) else sites
    head = initial_weights.put_into(
        model, weights, num_classes, new_sites, convert if is_theirs else None
    )
    print(head_note(head, num_classes))
    if new_sites and (config.model.is_third_party or weights.settings):
        length = config.training.gradual_length
        print(swap_note(model, weights, _named(config.values()), length))


def activation_of(settings: dict[str, Any], weights: InitialWeights) -> dict[str, Any]:
    """Return the flags of the activation that a checkpoint was trained with.

    Raises:
        UserError: it is a user's own, whose code is not run because a file names it.
    """
    known = VisionConfig.defaults() | settings["args"]
    if custom_name(known["activation"]) is not None:
        raise UserError(
            f"--init_from {weights.source}: its activation is {known['activation']}, whose code is "
            "not run from there; leave out --replace_gradually, or start training from there with "
            "--activation as it was"
        )
    return {name: known[name] for name in ACTIVATION_FLAGS}


def has_activation(settings: dict[str, Any], config: VisionConfig) -> bool:
    """Return whether a checkpoint has the activation of the configuration, the same function.

    A learned sigma or a gate's alpha is among the weights, where a difference is noticed; a fixed
    sigma is not. Of a user's own the name and its arguments count alone.
    """
    before, now = VisionConfig.defaults() | settings.get("args", {}), config.values()
    names = ["activation", "activation_args"]
    if custom_name(now["activation"]) is None and not before["learn_sigma"] | now["learn_sigma"]:
        names.append("sigma")
    return bool(settings) and all(before[name] == now[name] for name in names)


def gradual_factory(
    gradual: Gradual, make: Callable[[], nn.Module], old: dict[str, Any]
) -> Callable[[], nn.Module]:
    """Return a factory of new activations that mix in an old one of these flags."""

    def joined() -> nn.Module:
        before = create_activation(
            old["activation"],
            old["sigma"],
            old["learn_sigma"],
            expand_gate=old["expand_gate"],
            args=arguments(old["activation_args"]),
        )
        return gradual.join(make(), Old.of_module(before))

    return joined


def head_note(head: dict[str, int], num_classes: int) -> str:
    """Return a line on the head: that it is kept, or which weights are new."""
    if not head:
        return f"Note: the head for {num_classes} classes is kept as it was trained"
    return (
        f"Note: a new head, drawn by the init seed and yet to be trained ({', '.join(head)}): it "
        f"was for {min(head.values())} classes, and the data have {num_classes}"
    )


def swap_note(model: nn.Module, weights: InitialWeights, new: str, length: str | None) -> str:
    """Return a line on the activations that are replaced in a network with weights."""
    report: Report | None = getattr(model, "replacement", None)
    before = _named(weights.settings["args"]) if weights.settings else None
    if before is None and report is not None:
        kinds = Counter(site.kind for site in report.replaced)
        before = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    how = f"gradually, over {length}" if length else "at once"
    return f"Note: the activations of the weights ({before}) are replaced by {new}, {how}"


def _named(flags: dict[str, Any]) -> str:
    """Return what an activation is called in a note."""
    name: str = flags["activation"]
    if name not in SIGMA_NAMES:
        return name
    return f"{name}, sigma {flags['sigma']:g}" + ", learned" * bool(flags.get("learn_sigma"))


def card_of_weights(start: dict[str, Any]) -> dict[str, str]:
    """Return for args.txt whose normalisation and size the images have."""
    card = start.get("preprocessing")
    return {"weights_card": card["weights"]} if card else {}
