"""Parse command lines as the programs do."""

from types import SimpleNamespace

from cli import parser


def command(config, *argv):
    """Return the parsed command of the program whose configuration has this class."""
    return parser.parse(config, "A program.", [str(word) for word in argv])


def values(config, *argv):
    """Return the values of all flags, as attributes."""
    return SimpleNamespace(**command(config, *argv).config.values())
