"""Load a table: read it, split it, standardise it, and make its loaders."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch

from cli.datasets import CSV
from cli.table import TableDataConfig
from pipelines.data import TableData
from pipelines.held_out import hold_out
from pipelines.interfaces import Device, Indices
from pipelines.tables.csv_files import read_csv
from pipelines.tables.loader import TableLoader
from pipelines.tables.sources import Features, Table, read_packaged
from utils import UserError

Standardisation: TypeAlias = tuple[Sequence[float], Sequence[float]]  # mean and sd per feature


class Splits(NamedTuple):
    """Hold the numbers of the rows in each split; `val` is None where nothing is held out."""

    train: Indices
    val: Indices | None
    test: Indices


def load_table(
    config: TableDataConfig,
    *,
    data_seed: int = 0,
    device: Device = "cpu",
    normalisation: Standardisation | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> TableData:
    """Return the table that the configuration names, ready for training.

    Args:
        config: which table, splits and batches.
        data_seed: decides the order of training. config.split_seed alone decides the splits.
        device: where the table lies.
        normalisation: mean and standard deviation to use instead of the training rows' own: those
            that a network was trained with.
        rank, world_size: this process's share of each batch.

    Raises:
        UserError: for everything that the user can fix.
    """
    table = _read(config)
    splits = split(table, config)
    train = table.features[splits.train]
    if (train == train[:1]).all():
        raise UserError(
            f"--dataset {config.dataset}: all training rows are equal, there is nothing to learn "
            f"from them; look at {table.origin}"
        )
    mean, std = normalisation or statistics(train)
    if len(mean) != len(table.columns):
        raise UserError(
            f"--dataset {config.dataset}: has {len(table.columns)} features, and the network was "
            f"trained on {len(mean)}; give the table of the run"
        )

    def loader(rows: Indices, seed: int | None = None) -> TableLoader:
        features = standardised(table.features[rows], mean, std).to(device)
        targets = torch.from_numpy(table.targets[rows]).to(device)
        return TableLoader(features, targets, config.batch_size, seed, rank, world_size)

    train_loader = loader(splits.train, data_seed)
    val_loader = loader(splits.val) if splits.val is not None else None
    test_loader = loader(splits.test)
    loaders = {"train": train_loader, "val": val_loader, "test": test_loader}
    counts = ", ".join(f"{x.num_samples:,} {name}" for name, x in loaders.items() if x)
    classes = len(table.class_names)
    return TableData(
        name=config.dataset,
        train=train_loader,
        val=val_loader,
        test=test_loader,
        columns=table.columns,
        class_names=table.class_names,
        mean=list(mean),
        std=list(std),
        digest=digest(table),
        class_sizes=np.bincount(table.targets[splits.train], minlength=classes).tolist(),
        description=f"{config.dataset}: {counts} rows of {classes} classes, "
        f"{len(table.columns)} features, from {table.origin}",
    )


def _read(config: TableDataConfig) -> Table:
    if config.dataset == CSV:
        return read_csv(config.data_path, config.label)
    return read_packaged(config.dataset)


def split(table: Table, config: TableDataConfig) -> Splits:
    """Hold out the test, and of what is left the validation; each is stratified.

    Of digits these are the rows that vision_main.py has in its splits, with the same fractions and
    split seed 0.

    Raises:
        UserError: a class would keep nothing, or nothing would be held out.
    """
    seed = config.split_seed
    rest, test = hold_out(table.targets, config.test_fraction, seed, "--test_fraction", "row")
    if not config.val_fraction:
        return Splits(rest, None, test)
    kept, held = hold_out(table.targets[rest], config.val_fraction, seed, sample="row")
    return Splits(rest[kept], rest[held], test)


def statistics(features: Features) -> tuple[list[float], list[float]]:
    """Return the mean and the standard deviation of each feature.

    A constant feature gets its value and 1, so that it becomes 0 exactly: the mean of equal numbers
    may differ from them in the last digit, and the deviation would be that digit.
    """
    mean, std = features.mean(0), features.std(0)
    constant = (features == features[0]).all(0)
    mean = np.where(constant, features[0], mean)
    std = np.where(constant | (std == 0), 1.0, std)
    return mean.tolist(), std.tolist()


def standardised(features: Features, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Return (features - mean) / std in float32, computed in float64."""
    values = (features - np.asarray(mean)) / np.asarray(std)
    return torch.from_numpy(values.astype(np.float32))


def digest(table: Table) -> str:
    """Return a hash of all rows with their classes."""
    found = hashlib.blake2b(digest_size=8)
    for part in (table.features, table.targets):
        found.update(np.ascontiguousarray(part).data)
    return found.hexdigest()
