"""Offer the activations of the library `zilu` to models and scripts."""

from zilu import *  # noqa: F403
from zilu import __all__  # noqa: F401
