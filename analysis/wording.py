"""Write numbers and values as the tables and sentences of a report have them."""

import math
from collections.abc import Callable
from typing import Any

from run_folder.metrics import minus

ABSENT = "–"


def fixed(value: float, digits: int) -> str:
    """Return a number with so many digits after the point, a dash for NaN."""
    return ABSENT if math.isnan(value) else minus(f"{value:.{digits}f}")


def interval(low: float, high: float, number: Callable[[float], str]) -> str:
    """Return both ends, each written by `number`; a dash where there is no interval."""
    return ABSENT if math.isnan(low) else f"{number(low)} to {number(high)}"


def p_value(p: float) -> str:
    if math.isnan(p):
        return ABSENT
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def p_equation(p: float) -> str:
    """Return "p = 0.03" or "p < 0.001"."""
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def value_text(value: Any) -> str:
    """Return an argument's value as a report shows it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, dict):
        return ", ".join(f"{name} {value_text(each)}" for name, each in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
