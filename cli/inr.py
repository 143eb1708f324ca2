"""Declare the flags of inr_main.py, and its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import models
from cli.config import Config, DataConfig
from cli.converters import (
    activation_name,
    count,
    number,
    one_of,
    path,
    positive,
    positive_int,
    seed_number,
    weights_path,
)
from cli.datasets import DEFAULT_DATA_PATH, FITTED_IMAGES
from cli.fields import Effect, Evaluated, flag
from cli.network import ModelConfig
from cli.run import RunConfig
from cli.training import TrainingConfig
from utils import UserError
from zilu import names as activations

SINE = "Sine"  # SIREN's activation, which this program alone offers


def activation_or_sine(text: str) -> str:
    """Return the name of an activation, or SINE; the user's own is not looked for."""
    return SINE if text.lower() == SINE.lower() else activation_name(text)


@dataclass(frozen=True)
class InrModelConfig(ModelConfig):
    """Hold the flags that decide the network of coordinates."""

    model: str = flag(
        "mlp", one_of("mlp"), "Model", "network: mlp, of linear layers",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    activation: str = flag(
        "ZiLU", activation_or_sine, "Model",
        f"activation function: {SINE}, sin(omega x), with which the network is SIREN; "
        f"{', '.join(activations.ACTIVATIONS)}; or your own, {activations.CUSTOM_FORMS}: a class "
        "of modules, or a function of one tensor",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    hidden_width: int = flag(
        256, positive_int, "Model", "features of each hidden layer", evaluated=Evaluated.NETWORK
    )
    hidden_layers: int = flag(
        3, positive_int, "Model",
        "linear layers between the first one, which reads the encoded coordinates, and the last "
        "one, which gives the pixels",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    encoding: str = flag(
        "none", one_of(*models.ENCODINGS), "Model",
        "what the network reads: none, the two coordinates; fourier, random Fourier features of "
        f"them; siren, the coordinates, through a first layer of sines whatever --activation is "
        f"(--activation {SINE} has it anyway)",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    omega: float = flag(
        30.0, positive, "Model", "frequency of the sines of SIREN's layers",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    fourier_features: int = flag(
        256, positive_int, "Model", "frequencies of --encoding fourier; each gives a sine and a "
        "cosine",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    fourier_scale: float = flag(
        10.0, positive, "Model",
        "standard deviation of these frequencies along each axis, in periods per side of the image",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    init_from: str | None = flag(
        None, weights_path, "Model",
        "folder or checkpoint of another run to start from: a new run with the weights of that one",
    )  # fmt: skip

    @property
    def start(self) -> str | None:
        return self.init_from

    @property
    def has_sines(self) -> bool:
        """Return whether a layer is SIREN's."""
        return self.encoding == "siren" or self.activation == SINE

    def options(self) -> dict[str, Any]:
        """Return what decides the network beside its activation."""
        names = (
            "hidden_width", "hidden_layers", "encoding", "omega", "fourier_features",
            "fourier_scale",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def check(self) -> None:
        super().check()
        if self.norm not in ("auto", "none"):
            raise UserError(f"--norm {self.norm}: {self.model} has no norms; leave it out")
        fields = type(self).__dataclass_fields__
        used = {
            "omega": (self.has_sines, f"--activation {SINE} or --encoding siren"),
            "fourier_features": (self.encoding == "fourier", "--encoding fourier"),
            "fourier_scale": (self.encoding == "fourier", "--encoding fourier"),
        }
        for name, (is_used, wanted) in used.items():
            if getattr(self, name) != fields[name].default and not is_used:
                raise UserError(f"--{name} has no effect without {wanted}; leave it out")


@dataclass(frozen=True)
class InrDataConfig(DataConfig):
    """Hold the flags that decide the image and its pixels."""

    dataset: str = flag(
        "china", one_of(*FITTED_IMAGES), "Dataset",
        "image: china or flower, scikit-learn's sample photographs; or image, the file at "
        "--data_path",
        evaluated=Evaluated.DATA,
    )  # fmt: skip
    data_path: str = flag(
        DEFAULT_DATA_PATH, path, "Dataset", "the file of --dataset image", Effect.NOTHING,
        evaluated=Evaluated.DATA,
    )  # fmt: skip
    side: int = flag(
        64, number(int, at_least=2), "Dataset",
        "pixels of a side: the shorter side is brought to it with antialiasing, and the middle is "
        "cut out",
        evaluated=Evaluated.DATA,
    )  # fmt: skip
    gray: bool = flag(
        False, bool, "Dataset", "one channel, the luma, in place of three",
        evaluated=Evaluated.DATA,
    )  # fmt: skip
    batch_size: int = flag(0, count, "Training", "pixels per step; 0 is all that are trained on")
    passes_per_epoch: int = flag(
        10, positive_int, "Training",
        "passes over the pixels that make an epoch, which ends with an evaluation; with all pixels "
        "per step, so many steps",
    )  # fmt: skip
    val_fraction: float = flag(
        0.0, number(float, at_least=0, at_most=1), "Dataset",
        "share of the pixels that is not trained on and is the validation split; 1 is the whole "
        "image, which is trained on all the same: validation is then that of the fit. The test "
        "split is always the whole image",
        evaluated=Evaluated.DATA,
    )  # fmt: skip
    split_seed: int = flag(
        0, seed_number, "System", "seed of which pixels --val_fraction holds out",
        evaluated=Evaluated.DATA,
    )  # fmt: skip

    def check(self) -> None:
        """Refuse flags that contradict each other.

        Raises:
            UserError: with the remedy.
        """
        if self.dataset != "image" and self.data_path != DEFAULT_DATA_PATH:
            raise UserError(
                f"--data_path {self.data_path}: --dataset {self.dataset} comes with scikit-learn; "
                "add --dataset image, or leave out --data_path"
            )


@dataclass(frozen=True)
class InrTrainingConfig(TrainingConfig):
    """Hold the flags that decide the training of a network of coordinates."""

    num_epochs: int = flag(20, positive_int, "Training", "epochs of --passes_per_epoch each")

    def check(self) -> None:
        super().check()
        if self.shard:
            raise UserError(
                "--shard is for networks that do not fit on one device, which one of coordinates "
                "does; leave it out"
            )


@dataclass(frozen=True)
class InrRunConfig(RunConfig):
    """Hold the flags of a run, and that of its pictures."""

    picture_interval: int = flag(
        10, count, "Output",
        "draw image, gradient and Laplacian, target beside fit, after every so many evaluations "
        "and at the end, into pictures/; 0 is never",
        Effect.NOTHING,
    )  # fmt: skip


@dataclass(frozen=True)
class InrConfig(Config):
    """Hold the configuration of inr_main.py; as in SIREN's code, Adam decays and clips nothing."""

    PROGRAM: ClassVar[str] = "inr_main.py"
    KIND: ClassVar[str] = "inr"

    model: InrModelConfig = InrModelConfig()
    data: InrDataConfig = InrDataConfig()
    training: InrTrainingConfig = InrTrainingConfig(
        optimizer="adam", lr=1e-3, weight_decay=0.0, clip_grad_norm=0.0
    )
    run: InrRunConfig = InrRunConfig()

    def check(self) -> None:
        super().check()
        self.data.check()
