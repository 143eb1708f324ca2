"""Define the variants that a report compares with each other."""

from dataclasses import dataclass
from typing import Any

from analysis.run_folders import RunResult
from experiments.grid import VARIANT_FLAGS
from zilu.names import ACTIVATIONS, OUTPUT_NAMES, SIGMA_NAMES

UNNAMED = "–"  # an activation that other code's run does not tell
BUILT_IN = ("ReLU", "GELU", "SiLU")  # the usual rivals


@dataclass(frozen=True)
class Variant:
    """Name an activation with its sigma: the thing that is compared. Reports call it a setting.

    Attributes:
        activation: The activation's name.
        sigma: Its sharpness, or the start of a learned one; None where it has none.
        learned: Sigma is a parameter.
        expanded: Its gate's range is widened by a trained alpha (`--expand_gate`).
        rescaled: The factor by which the weights around it were scaled instead of sigma
            (`--rescale_init`), for the control of a scan of sigma.
        from_output: Its gradients come from its output (`--save_for_backward`).
        tuned: The flags, with their values, that a sweep tuned for this activation by itself.
    """

    activation: str
    sigma: float | None = None
    learned: bool = False
    expanded: bool = False
    rescaled: float | None = None
    from_output: bool = False
    tuned: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        details = []
        if self.sigma is not None:
            details.append(("σ learned from " if self.learned else "σ = ") + f"{self.sigma:.10g}")
        if self.expanded:
            details.append("expanded gate")
        if self.rescaled is not None:
            details.append(f"rescaled by {self.rescaled:g}")
        if self.from_output:
            details.append("from output")
        if self.tuned:
            details.append("tuned")
        return f"{self.activation} ({', '.join(details)})" if details else self.activation

    @property
    def order(self) -> tuple[Any, ...]:
        """Return a key to sort by: the usual rivals, others without a sigma, then by sigma."""
        name = self.activation
        rank = BUILT_IN.index(name) if name in BUILT_IN else len(BUILT_IN) + (name in SIGMA_NAMES)
        numbers = (self.rescaled or 0, self.sigma or 0)
        return rank, name, self.learned, self.expanded, *numbers, self.from_output

    @property
    def starting_sigma(self) -> float:
        """Return the sigma with which the network starts as the same function."""
        assert self.sigma is not None, f"{self.activation} has no sigma"
        return self.sigma * (self.rescaled or 1)


def variant_of(run: RunResult) -> Variant:
    """Return the variant that a run trained."""
    flags = run.flags
    name = str(flags.get("activation", UNNAMED))
    tuned = tuple((flag, flags.get(flag)) for flag in run.tuned_flags if flag not in VARIANT_FLAGS)
    from_output = flags.get("save_for_backward") == "output" and name in OUTPUT_NAMES
    if run.custom_name:
        given = run.resolved.get("sigma")  # None where it takes none
        return Variant(
            activation=run.custom_name,
            sigma=None if given is None else float(given),
            learned=given is not None and bool(flags.get("learn_sigma", False)),
            tuned=tuned,
        )
    # Whether an activation of other code has a sigma is not known: one that is given counts.
    if name not in SIGMA_NAMES and (run.is_ours or name in ACTIVATIONS):
        return Variant(name, from_output=from_output, tuned=tuned)
    sigma = flags.get("sigma")
    return Variant(
        activation=name,
        sigma=None if sigma is None else float(sigma),
        learned=bool(flags.get("learn_sigma", False)),
        expanded=bool(flags.get("expand_gate", False)),
        rescaled=flags.get("rescale_init"),
        from_output=from_output,
        tuned=tuned,
    )
