"""Between which numbers the entries of arrays are known to be."""

import math
from collections.abc import Sequence
from typing import TypeAlias


Bounds: TypeAlias = tuple[float, float]
"""The numbers between which all entries are known to be."""

UNBOUNDED: Bounds = (-math.inf, math.inf)
"""The bounds of what is not clipped."""


def is_bounded(bounds: Bounds) -> bool:
    """Whether both are known."""
    return not any(map(math.isinf, bounds))


def largest(bounds: Bounds) -> float:
    """The largest size of what is between them."""
    return max(map(abs, bounds))


def hull(bounds: Sequence[Bounds]) -> Bounds:
    """The bounds of what is between any of these."""
    return min(low for low, _ in bounds), max(high for _, high in bounds)


def sums(x: Bounds, y: Bounds) -> Bounds:
    """The bounds of sums."""
    return x[0] + y[0], x[1] + y[1]


def products(x: Bounds, y: Bounds) -> Bounds:
    """The bounds of products."""
    ends = [a * b if a and b else 0.0 for a in x for b in y]
    return min(ends), max(ends)


def powers(bounds: Bounds, exponent: float) -> Bounds:
    """The bounds of powers of what isn't negative."""
    low, high = bounds
    if low < 0:
        return UNBOUNDED
    first = math.inf if low == 0 and exponent < 0 else _power(low, exponent)
    return hull([(first, first), (_power(high, exponent),) * 2])


def _power(number: float, exponent: float) -> float:
    if math.isinf(number):
        return 0.0 if exponent < 0 else math.inf
    return float(number**exponent)
