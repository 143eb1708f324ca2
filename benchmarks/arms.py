"""Name the activations that are compared: each is an arm of the measurement."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import nn

from models.activation import create_activation
from zilu.names import OUTPUT_NAMES, SIGMA_NAMES, kernel_mode


@dataclass(frozen=True)
class Arm:
    """Name an activation to measure. Other processes are sent it.

    Attributes:
        activation: its canonical name.
        sigma: its sharpness; None for an activation that has none.
        learned: sigma is a parameter.
        plain: it is computed by plain operations, even where there are kernels.
        save: what it keeps for backward, "input" or "output".
    """

    activation: str
    sigma: float | None = None
    learned: bool = False
    plain: bool = False
    save: str = "input"

    @classmethod
    def of(cls, activation: str, sigma: float) -> "Arm":
        """Return the arm of an activation, with this sigma if it has one."""
        return cls(activation, sigma if activation in SIGMA_NAMES else None)

    @property
    def label(self) -> str:
        parts = {
            "σ learned": self.learned,
            "from output": self.save == "output",
            "plain": self.plain,
        }
        return ", ".join([self.activation, *(part for part, holds in parts.items() if holds)])

    def build(self) -> nn.Module:
        """Return a new module of the activation."""
        sigma = 1.0 if self.sigma is None else self.sigma
        return create_activation(self.activation, sigma, self.learned, save=self.save)

    def columns(self) -> dict[str, object]:
        """Return what names the arm in a row of a CSV file."""
        has_sigma = self.sigma is not None
        kernels = "plain" if self.plain else kernel_mode()
        return {
            "arm": self.label,
            "activation": self.activation,
            "sigma": self.sigma if has_sigma else "",
            "learned": self.learned,
            "kernels": kernels if has_sigma else "",
        }


def to_compare(
    names: Iterable[str],
    baselines: Iterable[str],
    sigma: float,
    learn_sigma: bool,
    from_output: bool = False,
    compare_plain: bool = False,
) -> list[Arm]:
    """Return the baselines and the activations asked for, in the order of the tables.

    Args:
        names: the activations asked for.
        baselines: stand before them.
        sigma: of the activations that have one.
        learn_sigma: add those with a learned sigma.
        from_output: add those that can keep their output once more, keeping that.
        compare_plain: add those that have a sigma once more, computed by plain operations.
    """
    found = [Arm.of(name, sigma) for name in dict.fromkeys((*baselines, *names))]
    if learn_sigma:
        found += [replace(arm, learned=True) for arm in found if arm.sigma is not None]
    if from_output:
        found += [replace(arm, save="output") for arm in found if arm.activation in OUTPUT_NAMES]
    if compare_plain:
        found += [replace(arm, plain=True) for arm in found if arm.sigma is not None]
    return found
