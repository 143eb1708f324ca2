"""The door through which the models and scripts take activations; their home is `zilu`."""

from zilu import *  # noqa: F403
from zilu import __all__  # noqa: F401
