"""Command lines as the programs read them."""

from types import SimpleNamespace

from cli import parser


def command(config, *argv):
    """The parsed command of the program whose configuration has this class."""
    return parser.parse(config, "A program.", [str(word) for word in argv])


def values(config, *argv):
    """The values of all flags, as attributes."""
    return SimpleNamespace(**command(config, *argv).config.values())
