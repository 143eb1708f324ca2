"""Declare flags as fields of dataclasses, and read them off again."""

from __future__ import annotations

import dataclasses
import enum
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


class Effect(enum.Enum):
    """Say what a flag changes. Resuming, run names, sweeps and reports depend on it."""

    RESULT = "the result"
    ARITHMETIC = "the arithmetic alone"  # device, AMP, compile: results agree to rounding
    NOTHING = "nothing"


class Evaluated(enum.Enum):
    """Say where --test_only takes a flag's value from."""

    COMMAND = "the command line"
    NETWORK = "the checkpoint, which must not be contradicted"
    DATA = "the checkpoint, where the flag is not given and the data set is the checkpoint's"
    PRECISION = "the checkpoint, unless a flag of precision is given"


GROUPS = ("Model", "Dataset", "Training", "Optimization", "System", "Output")


@dataclass(frozen=True)
class Flag:
    """Describe one flag.

    Attributes:
        name: the flag without its dashes, and the key in args.txt.
        part: the attribute of the configuration that holds its value ("model", "data", ...).
        convert: returns the value of a text, or raises ValueError with the reason. `bool` makes
            a pair of flags, `--name` and `--no-name`.
        group: the heading in `--help`, one of GROUPS.
        bare: the text that the flag stands for when it is given without a value.
        own_default: tells from the values of all flags whether the model or the optimizer has a
            setting of its own where the flag is not given; it is None then.
        evaluated: where --test_only takes the value from.
        one_run: the flag says where and how one run is made, so it is not taken from an earlier
            run's args.txt or checkpoint, and no grid can set it.
        shared: all programs declare it in the same place.
    """

    name: str
    part: str
    default: Any
    convert: Callable[[Any], Any]
    group: str
    help: str
    effect: Effect
    bare: str | None
    own_default: Callable[[Mapping[str, Any]], bool] | None
    evaluated: Evaluated
    one_run: bool
    shared: bool

    @property
    def shown_default(self) -> str:
        """Return the default for `--help` and docs/flags.md; empty where the help text says it."""
        if self.default is None:
            return ""
        return "off" if self.default is False else str(self.default)


def flag(
    default: Any,
    convert: Callable[[Any], Any],
    group: str,
    help: str,
    effect: Effect = Effect.RESULT,
    *,
    bare: str | None = None,
    own_default: Callable[[Mapping[str, Any]], bool] | None = None,
    evaluated: Evaluated = Evaluated.COMMAND,
    one_run: bool = False,
) -> Any:
    """Return a dataclass field that is a flag; see `Flag` for the arguments."""
    facts = {
        "convert": convert,
        "group": group,
        "help": help,
        "effect": effect,
        "bare": bare,
        "own_default": own_default,
        "evaluated": evaluated,
        "one_run": one_run,
    }
    return dataclasses.field(default=default, metadata=facts)


def flags_of_part(part: str, values: Any, shared_class: type) -> list[Flag]:
    """Return the flags of one part of a configuration, in the order of their declaration.

    Args:
        part: the name of the part.
        values: an instance with the program's defaults.
        shared_class: the base class whose own flags all programs have.
    """
    own_classes = [each for each in type(values).__mro__ if issubclass(each, shared_class)]
    own_classes.remove(shared_class)
    own = {name for each in own_classes for name in inspect.get_annotations(each)}
    return [
        Flag(
            name=each.name,
            part=part,
            default=getattr(values, each.name),
            shared=each.name not in own,
            **each.metadata,
        )
        for each in dataclasses.fields(values)
    ]
