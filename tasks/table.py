"""Sort rows of numbers into classes: their data, and the network for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

import models
from cli.parser import Command
from cli.table import TableConfig
from models.operations import forward_flops
from pipelines.data import TableData
from pipelines.tables.load import load_table
from tasks.classification import Classification
from tasks.data_facts import samples, unequal_classes
from training.program import Program
from training.random_state import seed_everything
from training.task import batch_sizes
from utils import UserError, rank, world_size

CRITERION = "CrossEntropy"


class TableProgram(Program[TableConfig, TableData]):
    """Train and evaluate classifiers of rows."""

    DRAWS_BY_ROWS = True

    def load_data(self, settings: dict[str, Any]) -> TableData:
        return load_table(
            self.config.data,
            data_seed=self.config.run.order_seed,
            device=self.device,
            normalisation=settings.get("normalisation"),
            rank=rank(),
            world_size=world_size(),
        )

    def build_model(self, data: TableData) -> nn.Module:
        return self.network_for(len(data.columns), len(data.class_names))

    def network_for(self, num_features: int, num_classes: int) -> nn.Module:
        """Return the network in its initial state."""
        seed_everything(self.config.run.weights_seed)
        config = self.config.model
        model: Any = models.build_table_model(
            config.model, self.activation(), num_features=num_features, num_classes=num_classes,
            **config.options(),
        )  # fmt: skip
        self.scale_weights(model)
        row = torch.zeros(1, num_features, device=next(model.parameters()).device)
        model.forward_flops = forward_flops(model, row)
        return model

    def task(self, data: TableData) -> Classification:
        return Classification(CRITERION, shows_balanced=True, counted="rows")

    def check_training(self, model: nn.Module, data: TableData) -> None:
        smallest = min(batch_sizes(data.train)) // world_size()
        if self.config.model.norm == "bn" and smallest < 2:
            raise UserError(
                f"--batch_size {data.train.batch_size}: of {data.train.num_samples} training rows "
                "it leaves a process a batch of fewer than two, which BatchNorm cannot normalise; "
                "choose another size"
            )

    def resolved(self, data: TableData) -> dict[str, Any]:
        return {
            "num_features": len(data.columns),
            "num_classes": len(data.class_names),
            "class_names": data.class_names,
            "samples": samples(data),
            **unequal_classes(data),
            "data_digest": data.digest,
        }

    def settings(self, data: TableData) -> dict[str, Any]:
        return {
            "model_options": self.config.model.options(),
            "columns": data.columns,
            "class_names": data.class_names,
            "samples": samples(data),
            "data_digest": data.digest,
            "normalisation": [data.mean, data.std],
        }

    @classmethod
    def tested_config(
        cls, command: Command[TableConfig], settings: dict[str, Any], taken: dict[str, Any]
    ) -> TableConfig:
        return command.config.replaced(**taken)

    def check_data(self, data: TableData, settings: dict[str, Any], path: Path) -> None:
        for what, mine in (("columns", data.columns), ("class_names", data.class_names)):
            theirs = settings[what]
            if mine != theirs:
                differing = next((x for x in theirs if x not in mine), theirs[0])
                raise UserError(
                    f"--checkpoint {path}: was trained on other {what.replace('_', ' ')} "
                    f"({differing}, ...) than {data.name} has; give the table of the run"
                )

    def measured_with(self) -> str:
        return CRITERION
