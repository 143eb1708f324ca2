"""Put the four parts of a configuration together, and say what every configuration can do.

The parts are `model`, `data`, `training` and `run`. A configuration is made once, by cli/parser.py
or from the values of a checkpoint; nothing changes it afterwards.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, TypeVar

from cli.fields import GROUPS, Flag, flags_of_part
from cli.network import ModelConfig
from cli.run import RunConfig
from cli.training import TrainingConfig
from utils import user_errors
from zilu import names as activations

C = TypeVar("C", bound="Config")


@dataclass(frozen=True)
class DataConfig:
    """Hold the flags that decide the data. Each program declares all of them."""

    dataset: str = ""
    data_path: str = ""
    batch_size: int = 0  # over all processes


@dataclass(frozen=True)
class Config:
    """Hold the whole configuration of a program, in four parts.

    A subclass narrows the types of the parts; the default of a part holds the program's defaults.
    """

    PROGRAM: ClassVar[str]  # the file
    KIND: ClassVar[str]  # of its models, as checkpoints and grids name it

    model: ModelConfig = ModelConfig()  # noqa: RUF009 - like the others, it is frozen
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()  # noqa: RUF009
    run: RunConfig = RunConfig()  # noqa: RUF009

    @classmethod
    def flags(cls) -> dict[str, Flag]:
        """Return every flag by name: the program's own first, then the shared ones, by group.

        A sweep names its runs in this order.
        """
        return _flags(cls)  # type: ignore[arg-type] # mypy takes a class's hash for its instances'

    @classmethod
    def defaults(cls, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the default of every flag beside those values; without them, beside defaults."""
        flags = cls.flags().values()
        defaults = {each.name: each.default for each in flags}
        beside = defaults | dict(values or {})
        own = [each.name for each in flags if each.own_default and each.own_default(beside)]
        return defaults | dict.fromkeys(own)

    @classmethod
    def from_values(cls: type[C], values: Mapping[str, Any]) -> C:
        """Return the configuration that has these values, and the defaults of all other flags."""
        complete = cls.defaults(values) | dict(values)
        parts: dict[str, dict[str, Any]] = {}
        for each in cls.flags().values():
            parts.setdefault(each.part, {})[each.name] = complete[each.name]
        types = typing.get_type_hints(cls)
        return cls(**{part: types[part](**fields) for part, fields in parts.items()})

    def values(self) -> dict[str, Any]:
        """Return the value of every flag by name, as args.txt and checkpoints hold them."""
        return {
            name: getattr(getattr(self, each.part), name) for name, each in self.flags().items()
        }

    def replaced(self: C, **changes: Any) -> C:
        """Return a configuration with other values of some flags."""
        return type(self).from_values(self.values() | changes)

    def check(self) -> None:
        """Refuse flags that contradict each other.

        Raises:
            UserError: with the remedy.
        """
        self.model.check()
        self.run.check()
        self.training.check()
        check_environment()


def check_environment() -> None:
    """Refuse an unknown value of the variable ZILU_KERNELS, which would end the import of zilu.

    Raises:
        UserError: with the known values.
    """
    with user_errors():
        activations.kernel_mode()


@cache
def _flags(config: type[Config]) -> dict[str, Flag]:
    shared = {
        "model": ModelConfig, "data": DataConfig, "training": TrainingConfig, "run": RunConfig,
    }  # fmt: skip
    default = config()
    found = [
        each
        for part in dataclasses.fields(config)
        for each in flags_of_part(part.name, getattr(default, part.name), shared[part.name])
    ]
    found.sort(key=lambda each: (each.shared, GROUPS.index(each.group)))
    return {each.name: each for each in found}
