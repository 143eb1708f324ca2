"""Read a grid file: fixed flags and lists of values, and the runs that they come to.

    program: vision               # or language, table, inr
    name: digits                  # of the folder in Output/; without it, the file's
    runs:                         # one value is fixed; of lists, every combination is a run
      config: recipes/digits_demo.yaml
      seed: [0, 1, 2]
      activation:
        - ReLU
        - {activation: ZiLU, sigma: [0.5, 1]}   # several flags that belong together
        # - {activation: mine.py:Squash, activation_args: {beta: [1, 2]}}
      # optimizer_args: {eps: [1e-8, 1e-6]}     # a flag that is a mapping: lists are choices too
    tune:                         # optional; experiments/tuning.py
      lr: [1.0e-3, 3.0e-3]
    report:                       # optional: what report.py is to do, declared beforehand
      baseline: ReLU
      primary: ZiLU
    about:                        # optional: what batteries/ says of it in words
      title: ResNet-20 on digits

Values are read as on the command line (cli/yaml_files.py), and no key may stand twice. Everything
is checked before anything runs. Nothing here needs torch.
"""

import importlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cli.config import Config
from cli.converters import arguments, mapping, mapping_text, number, one_of, yaml_texts
from cli.inr import InrConfig
from cli.language import LanguageConfig
from cli.optimizer_names import over_file
from cli.parser import converted, read_config, value_of
from cli.table import TableConfig
from cli.vision import VisionConfig
from run_folder.metrics import METRICS
from utils import UserError, nearest

Flags = dict[str, Any]  # of a run, by name

PROGRAMS: dict[str, type[Config]] = {
    config.KIND: config for config in (VisionConfig, LanguageConfig, TableConfig, InrConfig)
}
KEYS = ("program", "name", "runs", "tune", "report", "about")
REPORT_KEYS: dict[str, Callable[[str], Any]] = {
    "baseline": str,
    "primary": str,
    "margin": number(float, above=0),
    "mde": number(float, above=0),
    "metric": one_of(*METRICS),
}
# Flags whose value is a mapping, which elsewhere in a grid sets several flags at once.
MAPPINGS = {
    flag.name
    for config in PROGRAMS.values()
    for flag in config.flags().values()
    if flag.convert is mapping
}
# Flags of the activation alone, which one without a sigma has no use for.
SIGMA_FLAGS = ("sigma", "learn_sigma", "expand_gate", "rescale_init")
# What decides a variant: an activation, and how it is computed.
VARIANT_FLAGS = ("activation", "activation_args", *SIGMA_FLAGS, "save_for_backward")


@dataclass(frozen=True)
class Grid:
    """Hold what a grid file says.

    Attributes:
        combinations: every flag that decides a run, for each run.
        sources: as of `Checker`.
    """

    program: str
    name: str
    text: str
    combinations: list[Flags]
    tune: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)


def name_of(path: Path) -> str:
    """Return the name of a grid as far as its file can be read, else that of the file."""
    try:
        return str(_mapping(path, _read_text(path)).get("name", path.stem))
    except UserError:
        return path.stem


def read_grid(path: Path, instead: Mapping[str, Any] = MappingProxyType({})) -> Grid:
    """Return the grid in a file.

    Args:
        path: the file.
        instead: what counts in the place of lines of `runs:`, as the file would have it.

    Raises:
        UserError: it is no grid, or a run of it could not start.
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
    combinations = unique(checker.complete(flags) for flags in products({**runs, **instead}))
    tune = content.get("tune") or {}
    report = check_report(path, content.get("report") or {})
    name = str(content.get("name", path.stem))
    if not name or name.startswith((".", "~")) or {*name} & {*"/$"}:
        raise UserError(f"{path}: name {name!r} must be that of a folder in Output/")
    about = content.get("about") or {}
    if not isinstance(about, dict) or not all(isinstance(each, str) for each in about.values()):
        raise UserError(f"{path}: `about:` must hold lines of the form `key: text`")
    return Grid(program, name, text, combinations, tune, report, checker.sources, about)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise UserError(f"{path}: cannot be read as a grid file ({reason})") from None


def _mapping(path: Path, text: str) -> dict[str, Any]:
    try:
        content = yaml_texts(text)
    except ValueError as error:
        raise UserError(f"{path}: not a YAML file ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a grid file, which has `runs:` and under it flags")
    return content


def check_report(path: Path, report: Any) -> dict[str, Any]:
    """Return what `report:` says, its texts converted.

    Raises:
        UserError: an unknown key, or a value that its key refuses.
    """
    if not isinstance(report, dict):
        raise UserError(f"{path}: `report:` must hold lines of the form `key: value`")
    checked = {}
    for key, value in report.items():
        if key not in REPORT_KEYS:
            raise UserError(
                f"{path}: unknown key {key!r} in report; {nearest(str(key), REPORT_KEYS)}"
            )
        if value is None:
            continue
        try:
            if not isinstance(value, str):
                raise ValueError(f"expected one value, not {value!r}")
            checked[key] = REPORT_KEYS[key](value)
        except ValueError as error:
            raise UserError(f"{path}: {key} in report: {error}") from None
    return checked


def products(flags: Flags) -> Iterator[Flags]:
    """Yield every combination of the lists' values.

    A mapping in a list sets several flags at once, and overrides the flags around it.

    Raises:
        UserError: a list is empty.
    """
    choices = [list(_choices(name, value)) for name, value in flags.items()]
    for chosen in itertools.product(*choices):
        plain = {name: value for one, is_plain in chosen if is_plain for name, value in one.items()}
        together = [one for one, is_plain in chosen if not is_plain]
        yield plain | {name: value for one in together for name, value in one.items()}


def _choices(name: str, value: Any) -> Iterator[tuple[Flags, bool]]:
    """Yield what a flag may be: flags to set, and whether it is a plain value."""
    if value in ([], {}):
        raise UserError(f"{name}: nothing to choose from; give values, or leave it out")
    for each in value if isinstance(value, list) else [value]:
        if name in MAPPINGS and isinstance(each, dict):
            yield from (({name: text}, True) for text in mappings(each))
        elif isinstance(each, dict):
            yield from ((one, False) for one in products(each))
        else:
            yield {name: each}, True


def mappings(value: Flags) -> Iterator[str]:
    """Yield every combination of a mapping's lists, as the text that its flag takes.

    A value that is itself a list is a list in a list.

    Raises:
        UserError: a list is empty.
    """
    for name, each in value.items():
        if each == []:
            raise UserError(f"{name}: nothing to choose from; give values, or leave it out")
    lists = [each if isinstance(each, list) else [each] for each in value.values()]
    for chosen in itertools.product(*lists):
        yield mapping_text(dict(zip(value, chosen, strict=True)))


def unique(combinations: Iterable[Flags]) -> list[Flags]:
    """Return each combination once, where it came first."""
    found: list[Flags] = []
    for each in combinations:
        if each not in found:
            found.append(each)
    return found


class Checker:
    """Complete the flags of a program's runs, and refuse what the program would refuse.

    Args:
        program: a key of PROGRAMS.
        path: the grid file, for messages.

    Attributes:
        sources: what is recorded of the user's own activations' sources, by name.
    """

    def __init__(self, program: str, path: Path):
        self.sources: dict[str, dict[str, Any]] = {}
        self.config, self.path = PROGRAMS[program], path
        self.flags = self.config.flags()
        self._recipes: dict[str, Flags] = {}

    def complete(self, flags: Flags) -> Flags:
        """Return every flag that decides a run.

        Raises:
            UserError: the program would refuse them.
        """
        for name in flags:
            if name != "config" and name in self.flags and self.flags[name].one_run:
                raise UserError(f"{self.path}: {name} is the sweep's to decide; leave it out")
        try:
            config = converted(self.config, self._with_recipe(flags))
            has_sigma = config.model.has_sigma
            if config.model.is_custom:
                if flags.get("activation") is None:
                    raise UserError(f"{flags['config']} names code: name the activation here too")
                has_sigma = self._loaded(config).takes("sigma")
            if not has_sigma:
                defaults = {name: self.flags[name].default for name in SIGMA_FLAGS}
                config = config.replaced(**defaults)
            config = config.replaced(save_for_backward=config.model.saved)
            config.check()
            if config.model.is_custom:
                self._try_out(config)
            _check_third_party(config)
        except (UserError, ValueError) as error:
            shown = ", ".join(f"{name}: {value}" for name, value in flags.items())
            raise UserError(f"{self.path}: {error} (in the run {shown})") from None
        if config.run.device.startswith("cuda:"):
            raise UserError(
                f"{self.path}: device {config.run.device}: a sweep shares out the devices; give "
                "cuda, and choose by CUDA_VISIBLE_DEVICES"
            )
        kept = config.values().items()
        return {name: value for name, value in kept if not self.flags[name].one_run}

    def takes_args(self, flags: Flags, args: str | None) -> bool:
        """Return whether the activation of complete flags has all of these arguments."""
        config = self.config.from_values(flags)
        return config.model.is_custom and all(map(self._loaded(config).takes, arguments(args)))

    def _loaded(self, config: Config) -> Any:
        """Return the user's own activation. Its code is imported, as the grid file names it."""
        found = _custom("activation").load(config.model.activation)
        self.sources[config.model.activation] = found.source.record()
        return found

    def _try_out(self, config: Config) -> None:
        model = config.model
        options = (model.sigma, model.learn_sigma, model.is_inplace)
        _custom("trial").check(model.activation, *options, arguments(model.activation_args))

    def _with_recipe(self, flags: Flags) -> Flags:
        """Return the flags over those of the recipe that they name."""
        given = {name: value for name, value in flags.items() if value is not None}
        if "config" not in given:
            return given
        recipe = value_of(self.flags["config"], given.pop("config"))
        if recipe not in self._recipes:
            self._recipes[recipe] = read_config(recipe, self.config)
        return over_file(given, self._recipes[recipe])


def _custom(part: str) -> Any:
    """Return a module of zilu.custom, which loads torch: only for grids with such activations."""
    return importlib.import_module(f"zilu.custom.{part}")


def _check_third_party(config: Config) -> None:
    """Refuse a configuration that no language model has, and what no optimizer takes."""
    if isinstance(config, LanguageConfig) and config.model.is_third_party:
        from tasks.language import check_configuration  # loads torch, for such runs alone

        check_configuration(config.model)
    if config.training.has_library_optimizer or config.training.optimizer_args:
        from training.optimization import check_optimizer  # loads torch, for such runs alone

        check_optimizer(config.training)
