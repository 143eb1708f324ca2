"""Declare the flags of table_main.py, and its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import models
from cli.config import Config, DataConfig
from cli.converters import (
    count,
    number,
    one_of,
    path,
    positive_int,
    seed_number,
    share,
    weights_path,
)
from cli.datasets import CSV, DEFAULT_DATA_PATH, PACKAGED_TABLES, TABLE_DATASETS
from cli.fields import Effect, Evaluated, flag
from cli.network import ModelConfig
from cli.run import RunConfig
from cli.training import TrainingConfig
from utils import UserError


@dataclass(frozen=True)
class TableModelConfig(ModelConfig):
    """Hold the flags that decide the network for rows of numbers."""

    model: str = flag(
        "mlp", one_of(*models.TABLE_MODELS), "Model",
        f"network: {', '.join(models.TABLE_MODELS)}, linear layers with activations between",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    hidden_layers: int = flag(
        3, count, "Model", "hidden layers; with 0 the network is linear: logistic regression",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    hidden_width: int = flag(
        128, positive_int, "Model", "units of each hidden layer", evaluated=Evaluated.NETWORK
    )
    norm: str = flag(
        "none", one_of(*models.TABLE_NORMS), "Model",
        "norm before each activation: bn (BatchNorm), layer (LayerNorm) or none",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    dropout: float = flag(
        0.0, share, "Model", "rate of the dropout after each activation",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    init_from: str | None = flag(
        None, weights_path, "Model",
        "folder or checkpoint of another run to start from: a new run with the weights of that one",
    )  # fmt: skip

    @property
    def start(self) -> str | None:
        return self.init_from

    def check(self) -> None:
        super().check()
        for name, value in (("norm", self.norm), ("dropout", self.dropout)):
            if self.hidden_layers == 0 and value not in ("none", 0):
                raise UserError(
                    f"--{name} is for hidden layers, and --hidden_layers 0 has none; leave out "
                    f"--{name}"
                )

    def options(self) -> dict[str, Any]:
        """Return what decides the network besides its features and classes."""
        names = ("hidden_layers", "hidden_width", "norm", "dropout")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class TableDataConfig(DataConfig):
    """Hold the flags that decide the table and its splits."""

    dataset: str = flag(
        "digits", one_of(*TABLE_DATASETS), "Dataset",
        f"table: {', '.join(PACKAGED_TABLES)}, which scikit-learn brings along; or {CSV}, the file "
        "of --data_path",
        evaluated=Evaluated.DATA,
    )  # fmt: skip
    data_path: str = flag(
        DEFAULT_DATA_PATH, path, "Dataset",
        f"file of --dataset {CSV}: its first line names the columns", Effect.NOTHING,
        evaluated=Evaluated.DATA,
    )  # fmt: skip
    batch_size: int = flag(64, positive_int, "Training", "rows per step")
    label: str | None = flag(
        None, str, "Dataset", f"column of --dataset {CSV} that holds the classes (the last one)",
        evaluated=Evaluated.DATA,
    )  # fmt: skip
    test_fraction: float = flag(
        0.2, number(float, above=0, below=1), "Dataset",
        "share of the rows held out for the test, stratified",
        evaluated=Evaluated.DATA,
    )  # fmt: skip
    val_fraction: float = flag(
        0.0, share, "Dataset",
        "share of the other rows held out for validation, stratified",
        evaluated=Evaluated.DATA,
    )  # fmt: skip
    split_seed: int = flag(
        0, seed_number, "System", "seed of the test and the validation split",
        evaluated=Evaluated.DATA,
    )  # fmt: skip

    def check(self) -> None:
        """Refuse flags that contradict each other.

        Raises:
            UserError: with the remedy.
        """
        if self.dataset == CSV:
            if self.data_path == DEFAULT_DATA_PATH:
                raise UserError(f"--dataset {CSV} is a file of yours; name it by --data_path")
            return
        for name, value in (("data_path", self.data_path), ("label", self.label)):
            if value not in (None, DEFAULT_DATA_PATH):
                raise UserError(
                    f"--{name} is for --dataset {CSV}, and {self.dataset} comes with scikit-learn; "
                    f"leave it out, or add --dataset {CSV}"
                )


@dataclass(frozen=True)
class TableTrainingConfig(TrainingConfig):
    """Hold the flags that decide the training on a table."""

    num_epochs: int = flag(20, positive_int, "Training", "passes over the training rows")


@dataclass(frozen=True)
class TableConfig(Config):
    """Hold the configuration of table_main.py."""

    PROGRAM: ClassVar[str] = "table_main.py"
    KIND: ClassVar[str] = "table"

    model: TableModelConfig = TableModelConfig()
    data: TableDataConfig = TableDataConfig()
    training: TableTrainingConfig = TableTrainingConfig()
    run: RunConfig = RunConfig()  # noqa: RUF009 - it is frozen

    def check(self) -> None:
        super().check()
        self.data.check()
