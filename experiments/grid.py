"""A grid file: fixed flags and lists of values, and the runs that they come to.

    program: vision               # or language
    name: digits                  # of the folder in Output/; without it, the file's
    runs:                         # one value is fixed; of lists, every combination is a run
      config: recipes/digits_demo.yaml
      seed: [0, 1, 2]
      activation:
        - ReLU
        - {activation: ZiLU, sigma: [0.5, 1]}   # several flags that belong together
    tune:                         # optional; experiments/tuning.py
      lr: [1.0e-3, 3.0e-3]
    report:                       # optional: what report.py is to do, declared beforehand
      baseline: ReLU
      primary: ZiLU

Everything is checked before anything runs. Nothing here needs torch.
"""

import importlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cli
from training.program import Program, check
from utils import UserError, nearest
from zilu.names import SIGMA_NAMES

PROGRAMS = {"vision": ("vision_main", "Vision"), "language": ("language_main", "Language")}
KEYS = ("program", "name", "runs", "tune", "report")
METRICS = ("top1", "balanced", "top5", "loss", "perplexity", "word_perplexity", "bits_per_byte")
REPORT_KEYS = {
    "baseline": str,
    "primary": str,
    "margin": cli.number(float, above=0),
    "mde": cli.number(float, above=0),
    "metric": cli.one_of(*METRICS),
}
# What a grid cannot set: the sweep decides where its runs are, and how they start.
NOT_IN_GRIDS = tuple(name for name in cli.ARGUMENTS_OF_ONE_RUN if name != "config")
# Flags of the activation alone, which one without a sigma has no use for.
SIGMA_FLAGS = ("sigma", "learn_sigma", "rescale_init")


@dataclass(frozen=True)
class Grid:
    """`combinations` are complete: every flag that decides a run, by name."""

    program: str
    name: str
    text: str
    combinations: list[dict]
    tune: dict = field(default_factory=dict)
    report: dict = field(default_factory=dict)


def read_grid(path: Path) -> Grid:
    """The grid in a file.

    Raises:
        UserError: it is none, or a run of it could not start.
    """
    text = _read_text(path)
    content = _mapping(path, text)
    for key in content:
        if key not in KEYS:
            raise UserError(f"{path}: unknown key {key!r}; {nearest(str(key), KEYS)}")
    program = content.get("program", "vision")
    if not isinstance(program, str) or program not in PROGRAMS:
        raise UserError(f"{path}: unknown program {program!r}; {nearest(str(program), PROGRAMS)}")
    runs = content.get("runs")
    if not isinstance(runs, dict) or not runs:
        raise UserError(f"{path}: `runs:` must hold lines of the form `flag: value` or a list")
    checker = Checker(program, path)
    combinations = _unique(checker.complete(flags) for flags in products(runs))
    tune = content.get("tune") or {}
    report = check_report(path, content.get("report") or {})
    name = str(content.get("name", path.stem))
    if not name or "/" in name or name.startswith("."):
        raise UserError(f"{path}: name {name!r} must be that of a folder")
    return Grid(program, name, text, combinations, tune, report)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise UserError(f"{path}: cannot be read as a grid file ({reason})") from None


def _mapping(path: Path, text: str) -> dict:
    import yaml

    class Loader(yaml.SafeLoader):
        """PyYAML takes the last of two lines with one key, and says nothing."""

        def construct_mapping(self, node, deep=False):
            keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
            twice = [key for number, key in enumerate(keys) if key in keys[:number]]
            if twice:
                raise ValueError(f"{twice[0]!r} stands there twice")
            return super().construct_mapping(node, deep)

    try:
        content = yaml.load(text, Loader)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a grid file, which has `runs:` and under it flags")
    return content


def check_report(path: Path, report: dict) -> dict:
    """`report:` with numbers where they belong.

    Raises:
        UserError: it is none.
    """
    if not isinstance(report, dict):
        raise UserError(f"{path}: `report:` must hold lines of the form `key: value`")
    checked = {}
    for key, value in report.items():
        if key not in REPORT_KEYS:
            raise UserError(
                f"{path}: unknown key {key!r} in report; {nearest(str(key), REPORT_KEYS)}"
            )
        try:
            checked[key] = REPORT_KEYS[key](str(value))
        except ValueError as error:
            raise UserError(f"{path}: {key} in report: {error}") from None
    return checked


def products(flags: dict) -> Iterator[dict]:
    """Every combination of the lists' values. A mapping in a list sets several flags at once, and
    counts more than the flags around it.

    Raises:
        UserError: a list is empty.
    """
    choices = [list(_choices(name, value)) for name, value in flags.items()]
    for chosen in itertools.product(*choices):
        plain = {name: value for one, is_plain in chosen if is_plain for name, value in one.items()}
        together = [one for one, is_plain in chosen if not is_plain]
        yield plain | {name: value for one in together for name, value in one.items()}


def _choices(name: str, value) -> Iterator[tuple[dict, bool]]:
    if value in ([], {}):
        raise UserError(f"{name}: nothing to choose from; give values, or leave it out")
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, dict):
            yield from ((one, False) for one in products(each))
        else:
            yield {name: each}, True


def _unique(combinations: Iterator[dict]) -> list[dict]:
    unique = []
    for each in combinations:
        if each not in unique:
            unique.append(each)
    return unique


def program_of(kind: str) -> Program:
    """The program that makes runs of this kind, vision or language."""
    module, name = PROGRAMS[kind]
    return getattr(importlib.import_module(module), name)()


class Checker:
    """Completes the flags of a program's runs, and refuses what it would refuse."""

    def __init__(self, program: str, path: Path):
        self.program = program_of(program)
        self.path, self.flags = path, {flag.name: flag for flag in self.program.flags}
        self._configs = {}

    def complete(self, flags: dict) -> dict:
        """Every flag that decides a run.

        Raises:
            UserError: the program would refuse them.
        """
        for name in flags:
            if name in NOT_IN_GRIDS:
                raise UserError(f"{self.path}: {name} is the sweep's to decide; leave it out")
        try:
            args = cli.complete(self._with_config(flags), self.flags)
            if args.activation not in SIGMA_NAMES:
                for name in SIGMA_FLAGS:
                    setattr(args, name, self.flags[name].default)
            check(self.program, args)
        except UserError as error:
            shown = ", ".join(f"{name}: {value}" for name, value in flags.items())
            raise UserError(f"{self.path}: {error} (in the run {shown})") from None
        if args.device.startswith("cuda:"):
            raise UserError(
                f"{self.path}: device {args.device}: a sweep shares out the devices; give cuda, "
                "and choose by CUDA_VISIBLE_DEVICES"
            )
        kept = vars(args).items()
        return {name: value for name, value in kept if name not in cli.ARGUMENTS_OF_ONE_RUN}

    def _with_config(self, flags: dict) -> dict:
        """The flags over those of the recipe that they name."""
        given = {name: value for name, value in flags.items() if value is not None}
        config = str(given.pop("config", ""))
        if not config:
            return given
        if config not in self._configs:
            self._configs[config] = cli.read_config(config, self.flags)
        return self._configs[config] | given
