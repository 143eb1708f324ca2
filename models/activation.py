"""Offer the activations of the library `zilu` to models and scripts: the same names, re-exported.

Its place is a promise to scripts that import from here, beside the networks that take activations,
and holds wherever the library keeps them.
"""

from zilu import *  # noqa: F403
from zilu import __all__  # noqa: F401
