"""Mark functions for torch.compile, without loading its compiler."""

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def not_traced(function: F) -> F:
    """Make torch.compile call `function` and keep its result as a constant, instead of tracing it.

    torch.compiler.assume_constant_result sets the same mark, but imports all of dynamo to do so.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]  # as dynamo names it
    return function
