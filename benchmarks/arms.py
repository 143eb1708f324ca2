"""Name the activations that are compared: each is an arm of the measurement."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import nn

from cli.converters import arguments
from models.activation import create_activation
from utils import UserError
from zilu.custom.activation import load
from zilu.custom.trial import check
from zilu.names import OUTPUT_NAMES, SIGMA_NAMES, custom_name, kernel_mode


@dataclass(frozen=True)
class Arm:
    """Name an activation to measure. Other processes are sent it.

    Attributes:
        activation: its canonical name.
        sigma: its sharpness; None for an activation that has none.
        learned: sigma is a parameter.
        plain: it is computed by plain operations, even where there are kernels.
        save: what it keeps for backward, "input" or "output".
        args: further arguments of a user's own, as JSON.
        expanded: its gate's range is widened by a trained alpha.
    """

    activation: str
    sigma: float | None = None
    learned: bool = False
    plain: bool = False
    save: str = "input"
    args: str | None = None
    expanded: bool = False

    @classmethod
    def of(cls, activation: str, sigma: float, args: str | None = None) -> "Arm":
        """Return the arm of an activation, with this sigma if it has one.

        Raises:
            UserError: a user's own cannot be loaded, or not be trained with.
        """
        if custom_name(activation) is None:
            return cls(activation, sigma if activation in SIGMA_NAMES else None)
        try:
            own_sigma = sigma if load(activation).takes("sigma") else None
            check(activation, sigma if own_sigma else 1.0, args=arguments(args))
        except ValueError as error:
            raise UserError(str(error)) from None
        return cls(activation, own_sigma, args=args)

    @property
    def name(self) -> str:
        """Return the activation's name, a user's own with its arguments: Squash(beta=2)."""
        custom = custom_name(self.activation)
        if custom is None:
            return self.activation
        given = ", ".join(f"{name}={value}" for name, value in arguments(self.args).items())
        return f"{custom.name}({given})" if given else custom.name

    @property
    def can_learn_sigma(self) -> bool:
        """Return whether sigma can be a parameter."""
        is_own = custom_name(self.activation) is not None
        return self.sigma is not None and (not is_own or load(self.activation).takes("learnable"))

    @property
    def label(self) -> str:
        parts = {
            "σ learned": self.learned,
            "expanded gate": self.expanded,
            "from output": self.save == "output",
            "plain": self.plain,
        }
        return ", ".join([self.name, *(part for part, holds in parts.items() if holds)])

    def build(self) -> nn.Module:
        """Return a new module of the activation."""
        sigma = 1.0 if self.sigma is None else self.sigma
        args = arguments(self.args)
        return create_activation(
            self.activation,
            sigma,
            self.learned,
            save=self.save,
            expand_gate=self.expanded,
            args=args,
        )

    def columns(self) -> dict[str, object]:
        """Return what names the arm in a row of a CSV file."""
        has_sigma = self.sigma is not None
        kernels = "plain" if self.plain else kernel_mode()
        return {
            "arm": self.label,
            "activation": self.activation,
            "sigma": self.sigma if has_sigma else "",
            "learned": self.learned,
            "kernels": kernels if self.activation in SIGMA_NAMES else "",
        }


def to_compare(
    names: Iterable[str],
    baselines: Iterable[str],
    sigma: float,
    learn_sigma: bool,
    from_output: bool = False,
    compare_plain: bool = False,
    args: str | None = None,
) -> list[Arm]:
    """Return the baselines and the activations asked for, in the order of the tables.

    Args:
        names: the activations asked for.
        baselines: stand before them.
        sigma: of the activations that have one.
        learn_sigma: add those with a learned sigma.
        from_output: add those that can keep their output once more, keeping that.
        compare_plain: add those that have a sigma once more, computed by plain operations.
        args: further arguments of a user's own activations.
    """
    found = [Arm.of(name, sigma, args) for name in dict.fromkeys((*baselines, *names))]
    if learn_sigma:
        found += [replace(arm, learned=True) for arm in found if arm.can_learn_sigma]
    if from_output:
        found += [replace(arm, save="output") for arm in found if arm.activation in OUTPUT_NAMES]
    if compare_plain:
        found += [replace(arm, plain=True) for arm in found if arm.activation in SIGMA_NAMES]
    return found
