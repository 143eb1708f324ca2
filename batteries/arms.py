"""Define the arms of a battery: the candidate, as the command line names it, and its rivals."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.variants import Variant
from batteries.findings import CANDIDATE, CANDIDATE_UNIT_GAIN, RIVAL
from batteries.tasks import Task
from cli.converters import arguments
from cli.network import ModelConfig
from cli.run_names import activation_part
from models.init_gain import second_moment
from utils import UserError, user_errors
from zilu.custom import trial
from zilu.custom.activation import CustomActivation, load
from zilu.names import ACTIVATIONS, SIGMA_NAMES, custom_name

# The flags that an arm may set, and their defaults.
DEFAULTS: dict[str, Any] = {
    "activation_args": None, "sigma": 1.0, "learn_sigma": False, "expand_gate": False,
    "init_gain": "torch",
}  # fmt: skip
UNIT_GAIN = {"init_gain": "unit"}


@dataclass(frozen=True)
class Contender:
    """Hold an activation of a battery, the candidate or a rival, with its settings.

    Attributes:
        label: as reports name it.
        flags: the activation, and those of DEFAULTS that have other values.
        identity: the same, wherever the file of a user's own activation lies.
        source: the SHA-256 of each file of the user's own activation, by name; else empty.
        folder: the name of its folder.
    """

    label: str
    flags: dict[str, Any]
    identity: dict[str, Any]
    source: dict[str, str] = field(default_factory=dict)
    folder: str = ""

    @property
    def is_same_as(self) -> tuple[str, str]:
        """Return what two arms that are the same have in common."""
        return json.dumps(self.identity, sort_keys=True), json.dumps(self.source, sort_keys=True)


def contender_of(values: Mapping[str, Any]) -> Contender:
    """Return the arm that the flags of a run are of; a user's own activation must be loadable.

    Raises:
        UserError: the user's own activation cannot be loaded or made.
    """
    name = str(values["activation"])
    given = {flag: values.get(flag, default) for flag, default in DEFAULTS.items()}
    flags = {flag: value for flag, value in given.items() if value != DEFAULTS[flag]}
    custom, source, shown = custom_name(name), {}, name
    has_sigma = name in SIGMA_NAMES
    if custom is not None:
        with user_errors():
            found = trial.check(
                name, given["sigma"], given["learn_sigma"],
                args=arguments(given["activation_args"]),
            )  # fmt: skip
        has_sigma, source = found.takes("sigma"), dict(found.source.sha256)
        args = [f"{key}={value}" for key, value in arguments(given["activation_args"]).items()]
        name = f"{Path(custom.place).name}:{custom.name}" if custom.is_file else name
        shown = name if custom.name in ACTIVATIONS else custom.name  # my_act.py:GELU is not GELU
        shown = f"{shown}({', '.join(args)})" if args else shown
    variant = Variant(
        shown,
        float(given["sigma"]) if has_sigma else None,
        learned=has_sigma and given["learn_sigma"],
        expanded=given["expand_gate"],
    )
    has_gain = given["init_gain"] != DEFAULTS["init_gain"]
    return Contender(
        label=variant.label + (", unit gain" if has_gain else ""),
        flags={"activation": values["activation"], **flags},
        identity={"activation": name, **flags},
        source=source,
        folder=_folder(name, variant, given, source),
    )


def _folder(name: str, variant: Variant, given: dict[str, Any], source: dict[str, str]) -> str:
    parts = [activation_part(name, given["activation_args"])]
    if variant.sigma is not None:
        parts.append(f"sigma{variant.sigma:.10g}" + "-learned" * variant.learned)
    parts += ["expanded"] * variant.expanded
    parts += ["unit_gain"] * (given["init_gain"] != DEFAULTS["init_gain"])
    if source:
        digest = hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest()
        parts.append(digest[:8])
    return re.sub(r"[^\w.+-]+", "-", "_".join(parts))


def candidate(given: Mapping[str, Any]) -> Contender:
    """Return the arm that the command line asks for.

    Args:
        given: `activation`, and those of the other flags that were given.

    Raises:
        UserError: the activation has no such setting, or cannot be trained.
    """
    config = ModelConfig(model="resnet20", **given)
    config.check()
    found: CustomActivation | None = None
    if config.is_custom:
        with user_errors():
            found = trial.check(
                config.activation, config.sigma, config.learn_sigma,
                args=arguments(config.activation_args),
            )  # fmt: skip
        _check_finite(found, config)
    has_sigma = found.takes("sigma") if found else config.has_sigma
    if "sigma" in given and not has_sigma:
        raise UserError(
            f"--sigma: {config.activation} has no sigma; leave it out, or take one of "
            f"{', '.join(SIGMA_NAMES)}"
        )
    return contender_of({name: getattr(config, name) for name in ("activation", *DEFAULTS)})


def _check_finite(found: CustomActivation, config: ModelConfig) -> None:
    """Refuse a function that is not finite at moderate inputs: no network trains with it."""
    module = found.make(config.sigma, config.learn_sigma, args=arguments(config.activation_args))
    curve = trial.curve(found, module)
    for x, y in zip(curve["x"], curve["f"], strict=True):
        if y is None:
            raise UserError(f"{config.activation} is not finite at x = {x:g}; mend it there")


def check_gain(of: Contender) -> None:
    """Refuse a user's own activation that has no gain of its own.

    Raises:
        UserError: its second moment is no finite number above 0.
    """
    if not of.source:
        return
    values = DEFAULTS | of.flags
    found = load(values["activation"])
    args = arguments(values["activation_args"])
    try:
        moment = second_moment(found.make(values["sigma"], values["learn_sigma"], args=args))
    except Exception as error:  # the user's code, on other shapes and dtypes than in training
        moment, reason = math.nan, found.reason(error)
    else:
        reason = f"E[f(x)²] is {moment:g} for x ~ N(0, 1)"
    if not 0 < moment < math.inf:
        raise UserError(f"--gain: {of.label} has no gain of its own ({reason}); leave it out")


def arms_of(task: Task, of: Contender, gain: bool) -> list[tuple[Contender, str]]:
    """Return the arms of a task with their roles: the candidate, then those that it is not.

    Args:
        task: names the rivals.
        of: the candidate.
        gain: run the candidate with its own initial gain too.

    Raises:
        UserError: the baseline is none of the rivals.
    """
    found = [(of, CANDIDATE)]
    if gain:
        found.append((contender_of(of.flags | UNIT_GAIN), CANDIDATE_UNIT_GAIN))
    rivals = [contender_of(flags) for flags in task.rivals]
    if task.baseline not in [arm.label for arm in rivals]:
        raise UserError(f"{task.path}: the baseline {task.baseline} is none of its activations")
    known = {arm.is_same_as for arm, _ in found}
    return found + [(arm, RIVAL) for arm in rivals if arm.is_same_as not in known]
