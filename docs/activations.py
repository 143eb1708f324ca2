"""Draw activations.png, the README's figure: python docs/activations.py (needs matplotlib)."""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from zilu import create_activation  # noqa: E402

# Okabe and Ito's colours, which colour-blind readers can tell apart; dashes for prints in grey.
# Each curve: label, name of the activation, its options, colour, line style.
CURVES: tuple[tuple[str, str, dict[str, float], str, str], ...] = (
    ("ReLU", "ReLU", {}, "#999999", ":"),
    ("GELU", "GELU", {}, "#0072B2", "--"),
    ("SiLU", "SiLU", {}, "#009E73", "-."),
    ("ZiLU, σ = 1", "ZiLU", {}, "#D55E00", "-"),
    ("ZiLU_Approx, σ = 1", "ZiLU_Approx", {}, "#CC79A7", "-"),
    ("ZiLU, σ = 4", "ZiLU", {"sigma": 4.0}, "#E69F00", "-"),
)


def main() -> None:
    x = torch.linspace(-5, 3, 1601, requires_grad=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for label, name, options, color, style in CURVES:
        y = create_activation(name, **options)(x)
        (slope,) = torch.autograd.grad(y.sum(), x)
        for axes, values in ((left, y), (right, slope)):
            axes.plot(x.detach(), values.detach(), style, color=color, label=label)
    left.set(title="Activation", xlabel="x", ylabel="f(x)", ylim=(-0.75, 3))
    right.set(title="Derivative", xlabel="x", ylabel="f′(x)")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.axhline(0, color="black", linewidth=0.6)
    left.legend(loc="upper left")
    figure.savefig(HERE / "activations.png", dpi=110)


if __name__ == "__main__":
    main()
