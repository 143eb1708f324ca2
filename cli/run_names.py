"""Name the folder of a run after its flags."""

import hashlib
import json
import re
from pathlib import Path

from cli.config import Config
from cli.converters import arguments
from cli.datasets import DEFAULT_DATA_PATH, is_in_data_path
from cli.fields import Effect
from zilu.names import custom_name

# The device is left out of the hash, so that --test_only finds the run on another one.
# A user's own activation is named by a part of what names it, and so in the hash too.
NAMED = ("dataset", "model", "activation", "sigma", "learn_sigma", "seed", "device")

LONGEST_PART = 60  # letters that an activation's arguments may take


def default_output_dir(config: Config) -> Path:
    """Return Output/DATASET/MODEL/ACTIVATION_SIGMA_SEED.

    A short hash of the other flags follows where one of them differs from its default.
    """
    model, data = config.model, config.data
    parts = [activation_part(model.activation, model.activation_args)]
    if model.has_sigma:
        sigma = repr(model.sigma).removesuffix(".0")
        parts.append(f"sigma{sigma}" + ("-learned" if model.learn_sigma else ""))
    parts.append(f"seed{config.run.seed}")
    flags, values = config.flags(), config.values()
    defaults = config.defaults(values)
    others = {
        name: value
        for name, value in values.items()
        if flags[name].effect != Effect.NOTHING and name not in NAMED and value != defaults[name]
    }
    if model.is_custom:
        others["activation"] = model.activation
    if is_in_data_path(data.dataset) and data.data_path != DEFAULT_DATA_PATH:
        others["data_path"] = data.data_path
    if others:
        text = json.dumps(others, sort_keys=True)
        parts.append(hashlib.sha256(text.encode()).hexdigest()[:8])
    return Path("Output") / _path_of(data.dataset) / _path_of(model.model) / "_".join(parts)


def activation_part(activation: str, args: str | None) -> str:
    """Return a part of a file's name for an activation: of the user's own Squash_beta2."""
    custom = custom_name(activation)
    if custom is None:
        return activation
    given = [f"{name}{value}" for name, value in arguments(args).items()]
    part = re.sub(r"[^\w.+-]+", "-", "_".join([custom.name, *given]), flags=re.ASCII)
    return part[:LONGEST_PART]


def _path_of(text: str) -> str:
    """Return a path below the run folders for the name of a model or a data set.

    A name that would leave them, as that of a file may, gives its last part and a hash of the
    whole.
    """
    if all(re.fullmatch(r"\w[\w.-]*", part) for part in text.split("/")):
        return text
    prefix, _, name = text.partition("/")
    last = re.sub(r"[^\w.-]+", "-", Path(name).name).lstrip(".-") or "model"
    return f"{prefix}/{last}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
