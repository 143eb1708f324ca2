"""Convert the texts of flags to values; every converter raises ValueError with the reason."""

import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from utils import nearest
from zilu.names import canonical_name, custom_name

# How third-party models are named.
VISION_FORMS = "timm/NAME, torchvision/NAME"
LANGUAGE_FORMS = "hf/FOLDER, hf/NAME"

FROZEN = ("trunk", "norms")
LOG_SINKS = ("tensorboard", "wandb", "csv")


def number(
    kind: type[int] | type[float],
    at_least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> Callable[[str], int | float]:
    """Return a converter to int or float with bounds."""
    bounds = [f"of at least {at_least}"] if at_least is not None else []
    bounds += [f"above {above}"] if above is not None else []
    bounds += [f"below {below}"] if below is not None else []
    bounds += [f"of at most {at_most}"] if at_most is not None else []
    wanted = " ".join(["a whole number" if kind is int else "a number", " and ".join(bounds)])

    def convert(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        inside = (
            abs(value) < (2**63 if kind is int else math.inf)
            and (at_least is None or value >= at_least)
            and (above is None or value > above)
            and (below is None or value < below)
            and (at_most is None or value <= at_most)
        )
        if not inside:
            raise ValueError(f"expected {wanted.strip()}, not {text!r}")
        return value

    return convert


positive_int = number(int, at_least=1)
positive = number(float, above=0)
not_negative = number(float, at_least=0)
share = number(float, at_least=0, below=1)
count = number(int, at_least=0)
seed_number = count


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a converter to one of `choices`, without regard to case; it suggests the nearest."""
    by_lower = {choice.lower(): choice for choice in choices}

    def convert(text: str) -> str:
        if text.lower() in by_lower:
            return by_lower[text.lower()]
        raise ValueError(f"unknown value {text!r}; {nearest(text, choices)}")

    return convert


def ema_decay(text: str) -> float | None:
    """Return the decay of a moving average; None for 0, which is off."""
    return share(text) or None


def path(text: str) -> str:
    """Return a path with `~`, `~USER`, `$NAME` and `${NAME}` replaced, as a shell does.

    No shell reads a file of flags, or the `~` of `--output_dir=~/runs`. A folder that is called
    `~` or `$SCRATCH` is never what was meant: what cannot be replaced is refused.
    """
    if not text:
        raise ValueError("expected a path, not ''")
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        user = text.partition("/")[0]
        raise ValueError(
            f"{text!r}: there is no user {user[1:]!r} here; write the path out, or ./{text} for a "
            "name that begins so"
        )
    return re.sub(r"\$(?:([A-Za-z_]\w*)|\{(\w+)\})", _variable, expanded)


def activation_name(text: str) -> str:
    """Return the name of an activation; the user's own is not looked for."""
    custom = custom_name(text)
    if custom and custom.is_file:
        text = f"{path(custom.place)}:{custom.name}"
    return canonical_name(text)


def file_path(text: str) -> Path:
    """Return `path(text)` as a Path."""
    return Path(path(text))


def weights_path(text: str) -> str:
    """Return the path of weights; of a run folder that of its checkpoint."""
    found = file_path(text)
    checkpoint = found / "checkpoint.pt"
    return str(checkpoint if checkpoint.is_file() else found)


def _variable(match: re.Match[str]) -> str:
    name = match[1] or match[2]
    value = os.environ.get(name)
    if not value:
        raise ValueError(
            f"{match.string!r}: the variable {name} is not set here; set it, or write the path out"
        )
    return value


def model_name(
    known: tuple[str, ...], prefixes: dict[str, str], forms: str
) -> Callable[[str], str]:
    """Return a converter to one of our models, or to PREFIX/NAME of another package's.

    NAME may be a path.
    """
    own = one_of(*known, *forms.split(", "))

    def convert(text: str) -> str:
        prefix, slash, name = text.partition("/")
        if slash and name and prefix.lower() in prefixes:
            return f"{prefix.lower()}/{path(name)}"
        return own(text)

    return convert


def device_name(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:(0|[1-9]\d?))?", text):
        raise ValueError(f"unknown device {text!r}; known: auto, cpu, cuda, cuda:N, mps")
    return text


def warmup_length(text: str) -> str:
    if not re.fullmatch(r"\d{1,15}|\d{1,9}(\.\d{1,9})?(ep|%)", text):
        raise ValueError(f"expected steps (500), epochs (3ep) or a share (5%), not {text!r}")
    if text.endswith("%") and float(text[:-1]) > 100:
        raise ValueError(f"expected at most 100%, not {text!r}")
    return text


def milestones(text: str) -> str:
    """Return epochs, or shares of all steps, with commas between, which rise."""
    epochs, shares = r"[1-9]\d{0,8}(,[1-9]\d{0,8})*", r"[1-9]\d?(\.\d+)?%(,[1-9]\d?(\.\d+)?%)*"
    if not re.fullmatch(f"{epochs}|{shares}", text):
        raise ValueError(
            "expected epochs (60,120,160) or shares of all steps (50%,75%) with commas between, "
            f"not {text!r}"
        )
    places = [float(place.rstrip("%")) for place in text.split(",")]
    if sorted({*places}) != places:
        raise ValueError(f"expected epochs or shares that rise, not {text!r}")
    return text


def save_interval(text: str) -> str:
    part = r"([1-9]\d{0,8}(ep)?|(?=.*[1-9])\d{1,5}(\.\d{1,9})?min)"
    units = [re.sub(r"[\d.]", "", each) for each in text.split(",")]
    if not all(re.fullmatch(part, each) for each in text.split(",")) or len({*units}) < len(units):
        raise ValueError(
            "expected epochs (1ep), steps (500), minutes (10min) or several with commas between, "
            f"not {text!r}"
        )
    return text


def log_sinks(text: str) -> str:
    """Return names of LOG_SINKS with commas between, each once and in their order."""
    asked = {one_of(*LOG_SINKS)(name.strip()) for name in text.split(",")}
    return ",".join(name for name in LOG_SINKS if name in asked)


def frozen_parts(text: str) -> str:
    """Return names of FROZEN with commas between, each once and in their order."""
    asked = {one_of(*FROZEN)(name.strip()) for name in text.split(",")}
    return ",".join(name for name in FROZEN if name in asked)


def mapping(text: str) -> str | None:
    """Return a mapping of YAML or JSON as JSON, equal for equal mappings; None for an empty one.

    A flag holds this text, which can be compared, hashed and given on a command line as it is;
    `arguments` makes a mapping of it again. In files of flags, values may be mappings themselves.
    """
    try:
        content = yaml_texts(text)
    except ValueError as error:
        raise ValueError(f"not a mapping ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"expected a mapping ('{{name: value}}'), not {text!r}")
    for name in content:
        if not str(name).isidentifier():
            raise ValueError(f"{name!r} is no name of an argument; expected '{{name: value}}'")
    return mapping_text(_plain(content)) if content else None


def arguments(text: str | None) -> dict[str, Any]:
    """Return the mapping that a flag of `mapping` holds."""
    return json.loads(text) if text else {}


def mapping_text(content: dict[str, Any]) -> str:
    """Return a mapping as the text that a flag of `mapping` takes."""
    return json.dumps(content, sort_keys=True, ensure_ascii=False)


def yaml_texts(text: str) -> Any:
    """Return the content of a YAML text, its values as they are written; `null` is None.

    Raises:
        ValueError: it is no YAML, or has a key twice; the message names key and lines.
    """
    from cli.yaml_files import read_texts  # loads yaml, which --help works without

    return read_texts(text)


WORDS = {"true": True, "True": True, "false": False, "False": False, "None": None}


def _plain(value: Any) -> Any:
    """Return texts as the numbers or words that they stand for.

    YAML's own reading would leave `1e-3` a text and make 90 of `1:30`.
    """
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if value is None or value in WORDS:
        return WORDS.get(value)
    if re.fullmatch(r"[-+]?\d{1,18}", value):
        return int(value)
    if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", value):
        return float(value)
    return value


def patch_size(text: str) -> str | int:
    return "auto" if text.lower() == "auto" else int(positive_int(text))
