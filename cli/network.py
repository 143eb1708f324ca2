"""Declare the flags that decide the network, as far as all programs share them."""

from __future__ import annotations

from dataclasses import dataclass

import models
from cli.converters import activation_name, arguments, mapping, number, one_of
from cli.fields import Effect, Evaluated, flag
from utils import UserError
from zilu import names as activations

# Those that say which activation a run has.
ACTIVATION_FLAGS = ("activation", "sigma", "learn_sigma", "expand_gate", "activation_args")


@dataclass(frozen=True)
class ModelConfig:
    """Hold the flags that decide the network. Programs declare `model` and flags of their own."""

    model: str = ""
    activation: str = flag(
        "ZiLU", activation_name, "Model",
        f"activation function: {', '.join(activations.ACTIVATIONS)}; or your own, "
        f"{activations.CUSTOM_FORMS}: a class of modules, or a function of one tensor",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    sigma: float = flag(
        1.0, activations.check_sigma, "Model",
        f"sharpness of {', '.join(activations.SIGMA_NAMES)}, and of your own where it takes sigma",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    learn_sigma: bool = flag(
        False, bool, "Model",
        "make sigma a parameter of each layer; your own activation must take learnable for it",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    activation_args: str | None = flag(
        None, mapping, "Model",
        "arguments of your own activation, as YAML or JSON: '{beta: 2}'",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    expand_gate: bool = flag(
        False, bool, "Model",
        "widen the gate's range to (-alpha, 1 + alpha) by an alpha trained in each layer, 0 at "
        f"first: {', '.join(activations.GATED_NAMES)}",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    rescale_init: float | None = flag(
        None, number(float, at_least=1e-30, below=1e30), "Model",
        "scale the initial weights around each activation, so that the network starts as the "
        "function that --sigma times this would give: the control for scans of sigma",
    )  # fmt: skip
    norm: str = flag(
        "auto", one_of(*models.NORMS), "Model",
        "norms: bn (BatchNorm), gn (GroupNorm) or none in VGGs and ResNets; layer (LayerNorm), bn "
        "or none in ViTs; layer, rms (RMSNorm) or none in GPT-2; auto is bn, in transformers layer",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    init_gain: str = flag(
        "torch", one_of(*models.INIT_GAINS), "Model",
        "unit scales the initial weights that read an activation, so that every activation keeps "
        "the second moment that ReLU does with torch, which has ReLU's gain for all",
    )  # fmt: skip
    save_for_backward: str = flag(
        "input", one_of(*activations.SAVES), "Model",
        "what the activation keeps for its backward pass: output, which the next layer keeps "
        f"anyway, takes as little memory as ReLU: {', '.join(activations.OUTPUT_NAMES)}",
        Effect.ARITHMETIC,
    )  # fmt: skip
    inplace: bool = flag(
        False, bool, "Model",
        f"overwrite the input, to save memory: {', '.join(activations.INPLACE_NAMES)}; with "
        f"--save_for_backward output also {', '.join(activations.OUTPUT_NAMES)}; your own where it "
        "takes inplace",
        Effect.NOTHING,
    )  # fmt: skip
    init_ema: bool = flag(
        False, bool, "Model",
        "start from the averaged weights that the run of --init_from kept with --ema",
    )  # fmt: skip

    @property
    def is_custom(self) -> bool:
        """Return whether the activation is the user's own, whose code must be loaded."""
        return activations.custom_name(self.activation) is not None

    @property
    def has_sigma(self) -> bool:
        """Return whether the activation has a sigma; the user's own, if the flags give it one."""
        is_given = self.sigma != 1 or self.learn_sigma
        return self.activation in activations.SIGMA_NAMES or (self.is_custom and is_given)

    @property
    def saved(self) -> str:
        """Return what the activation keeps for its backward pass."""
        return self.save_for_backward if self.activation in activations.OUTPUT_NAMES else "input"

    @property
    def is_inplace(self) -> bool:
        """Return whether the activation overwrites its input, as was asked for."""
        has_form = self.activation in activations.INPLACE_NAMES or self.saved == "output"
        return self.inplace and (has_form or self.is_custom)

    @property
    def start(self) -> str | None:
        """Return the checkpoint that the weights start from; None where they start otherwise."""
        return None

    @property
    def is_third_party(self) -> bool:
        """Return whether the network is another package's."""
        return models.is_third_party(self.model)

    def check(self) -> None:
        """Refuse flags that contradict each other.

        Raises:
            UserError: with the remedy.
        """
        name = self.activation
        self._check_args()
        if self.learn_sigma and not self.has_sigma:
            raise UserError(
                f"--learn_sigma: {name} has no sigma; leave it out, or take one of "
                f"{', '.join(activations.SIGMA_NAMES)}"
            )
        if self.expand_gate and name not in activations.GATED_NAMES:
            raise UserError(
                f"--expand_gate: {name} has no gate to expand; leave it out, or take one of "
                f"{', '.join(activations.GATED_NAMES)}"
            )
        if self.expand_gate and self.saved == "output":
            raise UserError(
                "--expand_gate does not go with --save_for_backward output: the function no longer "
                "increases everywhere; leave out one of them"
            )
        if self.rescale_init is not None and name not in activations.GATED_NAMES:
            raise UserError(
                f"--rescale_init: {name} is not of the form f(sigma x) / sigma; leave it out, or "
                f"take one of {', '.join(activations.GATED_NAMES)}"
            )
        self._check_initial_weights()

    def _check_args(self) -> None:
        if self.activation_args is not None and not self.is_custom:
            raise UserError(
                f"--activation_args: {self.activation} takes none; classes do: --activation "
                "torch.nn:LeakyReLU"
            )
        options = {"sigma": "sigma", "learnable": "learn_sigma", "inplace": "inplace"}
        for name in arguments(self.activation_args):
            if name in options:
                raise UserError(
                    f"--activation_args: {name} has a flag of its own: --{options[name]}"
                )

    def _check_initial_weights(self) -> None:
        if self.init_ema and self.start is None:
            raise UserError("--init_ema is for --init_from with another run; leave it out")
        scaled_by = {
            "rescale_init": self.rescale_init is not None,
            "init_gain": self.init_gain != "torch",
        }
        for name, is_given in scaled_by.items():
            if is_given and self.start is not None:
                raise UserError(f"--init_from replaces what --{name} scales; leave out one of them")
            if is_given and self.is_third_party:
                raise UserError(
                    f"--{name} does not apply to {self.model}, only to the project's own models: "
                    "leave it out"
                )
        if all(scaled_by.values()):
            raise UserError(
                "--init_gain unit depends on the activation's own sigma, and --rescale_init on "
                "another one; leave out one of them"
            )
