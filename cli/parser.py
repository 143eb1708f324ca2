"""Parse the command line, and the YAML file of --config under it, into a configuration."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

from cli import published
from cli.config import C, Config, check_environment
from cli.converters import mapping, mapping_text, yaml_texts
from cli.fields import GROUPS, Flag
from cli.optimizer_names import over_file
from cli.run import AUTO
from utils import UserError, did_you_mean

T = TypeVar("T")

ParsedArguments = argparse.Namespace  # which the scripts of other packages save beside weights

# What a file may say for a flag that is on or off.
SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class Command(Generic[C]):
    """Hold a parsed command.

    Attributes:
        config: the configuration.
        given: the names of the flags that were given, in the file of --config too.
        typed: those of the command line alone.
    """

    config: C
    given: frozenset[str]
    typed: frozenset[str] = frozenset()

    @property
    def is_complete(self) -> bool:
        """Return whether the configuration stands, since no checkpoint decides a part of it."""
        run = self.config.run
        return not run.test_only and run.resume in (None, AUTO)

    def check(self) -> None:
        """Refuse flags that contradict each other, as far as they are known.

        Raises:
            UserError: with the remedy.
        """
        check_environment()
        self.config.run.check_folder()
        if self.is_complete:
            self.check_code(self.config)
            self.config.check()

    def check_code(self, config: Config) -> None:
        """Refuse to run code that a file alone names, be it of flags or of a run.

        Args:
            config: the command's, with what a checkpoint decides.

        Raises:
            UserError: the command line must name it.
        """
        name = config.model.activation
        if config.model.is_custom and "activation" not in self.typed:
            raise UserError(f"the run uses {name}; name --activation {name} again to run its code")


class Parser(argparse.ArgumentParser):
    """Raise a UserError where argparse would print its usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def parse(config: type[C], description: str, argv: list[str] | None = None) -> Command[C]:
    """Return what the command line says, over `--config`, over the defaults.

    Args:
        config: the class of the program's configuration.
        description: the program's docstring, whose first line is the description in `--help`.
        argv: the command line, by default the process's own.

    Raises:
        UserError: an unknown flag, a value that its flag refuses, an unreadable `--config`.
    """
    flags = config.flags()
    parsed, unknown = _parser(config.PROGRAM, description.splitlines()[0], flags).parse_known_args(
        argv
    )
    if unknown:
        name = unknown[0].lstrip("-").split("=")[0]
        raise UserError(f"unknown argument {unknown[0]!r}; {_nearest_flag(name, flags)}")
    texts = published.translated(vars(parsed))
    typed = frozenset(texts)
    if "config" in texts:
        texts = over_file(texts, read_config(value_of(flags["config"], texts["config"]), config))
    return Command(converted(config, texts), frozenset(texts), typed)


def converted(config: type[C], texts: Mapping[str, Any]) -> C:
    """Return the configuration with the values that `texts` stand for.

    Args:
        texts: the value of each flag, as text or as a plain Python value.

    Raises:
        UserError: an unknown flag, or a value that its flag refuses.
    """
    flags = config.flags()
    for name in texts:
        if name not in flags:
            raise UserError(f"unknown flag {name!r}; {_nearest_flag(str(name), flags)}")
    return config.from_values({name: value_of(flags[name], text) for name, text in texts.items()})


def read_config(path: str, config: type[C]) -> dict[str, Any]:
    """Return the flags that a YAML file sets, as they stand there; null means the default.

    Of an earlier run's args.txt, only the flags are taken that do not belong to that one run.

    Raises:
        UserError: it cannot be read, or names an unknown flag or one flag twice.
    """
    flags = config.flags()
    try:
        content = yaml_texts(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--config {path}: not a readable YAML file ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"--config {path}: expected lines of the form `flag: value`")
    if "environment" in content:
        of_that_run = {flag.name for flag in flags.values() if flag.one_run}
        skipped = of_that_run | {"environment", "resolved", "resumed"}
        content = {name: value for name, value in content.items() if name not in skipped}
    content = published.translated(published.of_file(content))
    for name in content:
        if name not in flags or name == "config":
            raise UserError(
                f"--config {path}: unknown flag {name!r}; {_nearest_flag(str(name), flags)}"
            )
    for name, value in content.items():
        if flags[name].bare is not None and str(value).lower() in SWITCHES:  # `resume: true`
            content[name] = flags[name].bare if SWITCHES[str(value).lower()] else None
    return {name: value for name, value in content.items() if value is not None}


def _parser(program: str, description: str, flags: dict[str, Flag]) -> Parser:
    parser = Parser(
        prog=program, usage="%(prog)s [flags]", description=description, allow_abbrev=False
    )
    groups = {name: parser.add_argument_group(name) for name in GROUPS}
    for flag in flags.values():
        shown = flag.shown_default
        text = f"{flag.help} ({shown})" if shown else flag.help
        options: dict[str, Any] = {"help": text.replace("%", "%%"), "default": argparse.SUPPRESS}
        if flag.convert is bool:
            options |= {"action": argparse.BooleanOptionalAction}
        else:
            options |= {"metavar": "VALUE"}
        if flag.bare is not None:
            options |= {"nargs": "?", "const": flag.bare}
        groups[flag.group].add_argument(f"--{flag.name}", **options)
    for name in published.FLAGS:
        parser.add_argument(
            f"--{name}", nargs="?", const="true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
    return parser


def _nearest_flag(name: str, flags: Mapping[str, Flag]) -> str:
    near = did_you_mean(name, flags)
    return f"did you mean --{near}? (--help lists all)" if near else "--help lists all"


def value_of(flag: Flag, text: Any) -> Any:
    """Return the value that a text stands for.

    Raises:
        UserError: the flag refuses it.
    """
    if flag.convert is mapping and isinstance(text, dict):  # in a file
        text = mapping_text(text)
    if not isinstance(text, (str, bool, int, float)):  # in a file
        raise UserError(f"--{flag.name}: expected one value, not {text!r}")
    if "\0" in str(text):
        raise UserError(f"--{flag.name}: a NUL character is no part of a value")
    if flag.convert is bool:
        if str(text).lower() in SWITCHES:
            return SWITCHES[str(text).lower()]
        raise UserError(f"--{flag.name}: expected true or false, not {text!r}")
    try:
        return flag.convert(str(text))
    except ValueError as error:
        raise UserError(f"--{flag.name}: {error}") from None


# --- the programs that train nothing ---


def tool_parser(usage: str, text: str) -> Parser:
    """Return a parser whose help opens with the first paragraph of `text` and ends with the rest.

    Args:
        usage: the usage line.
        text: the docstring of the program.
    """
    summary, details = text.split("\n\n", 1)
    return Parser(
        usage=usage,
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def parsed_into(options: Callable[..., T], parser: Parser, argv: list[str] | None = None) -> T:
    """Return the command line as an instance of the dataclass `options`."""
    return options(**vars(parser.parse_args(argv)))


def checked(convert: Callable[[str], T]) -> Callable[[str], T]:
    """Return `convert` so that argparse passes on the reason for which it refuses a value."""

    def converted(text: str) -> T:
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return converted
