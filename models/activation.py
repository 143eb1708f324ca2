"""Give the models and scripts the activations of the library `zilu`, which defines them."""

from zilu import *  # noqa: F403
from zilu import __all__  # noqa: F401
