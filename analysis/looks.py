"""Say after how many pairs of seeds a comparison is looked at.

This stands by itself so that commands can check their flags without numpy.
"""

LOOKS = (6, 10, 15, 20, 30, 40)
FIRST, LAST = LOOKS[0], LOOKS[-1]


def looks_up_to(max_seeds: int) -> tuple[int, ...]:
    """Return the looks that so many pairs of seeds allow."""
    return tuple(n for n in LOOKS if n <= max_seeds)
