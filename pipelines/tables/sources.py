"""Hold a table, and read those that scikit-learn brings along."""

import importlib
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from pipelines.interfaces import Targets
from utils import UserError

Features: TypeAlias = npt.NDArray[np.float64]  # (N, F)


class Table(NamedTuple):
    """Hold a table as it was read.

    Attributes:
        features: (N, F).
        targets: (N,), the class of each row.
        columns: names of the features.
        class_names: in the order of the classes' numbers.
        origin: where it was read from.
    """

    features: Features
    targets: Targets
    columns: list[str]
    class_names: list[str]
    origin: str


def read_packaged(name: str) -> Table:
    """Read one of cli.datasets.PACKAGED_TABLES.

    Raises:
        UserError: scikit-learn is not installed.
    """
    found = getattr(library("sklearn.datasets", name), f"load_{name}")()
    return Table(
        features=found.data.astype(np.float64),
        targets=found.target.astype(np.int64),
        columns=[str(each) for each in found.feature_names],
        class_names=[str(each) for each in found.target_names],
        origin="scikit-learn",
    )


def library(module: str, dataset: str) -> Any:
    """Return a module that only one kind of table needs, and that takes a second to import.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"--dataset {dataset}: the package {error.name} is missing; pip install -r "
            "requirements.txt"
        ) from None
