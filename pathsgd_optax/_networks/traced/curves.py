"""Functions of one array, entry by entry, known by their values.

An activation can be written in many ways: GELU as ``x * Phi(x)``, or as half of x plus
half of ``x * erf(x / sqrt(2))``. What it does to paths is read off the values that it
has, so that it is the same for all of them.
"""

import dataclasses
import fractions
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np


Samples: TypeAlias = np.ndarray
"""The values of a function, at the points of the grid."""

_SIZES = np.logspace(-5, 6, 11 * 150 + 1)
GRID: Samples = np.concatenate([-_SIZES[::-1], [0.0], _SIZES])
"""Where functions are evaluated: as densely on every scale."""

_MIDDLE = len(_SIZES)
_DECADE = 150

GROWTH = 1.02
"""The most by which slopes may grow over a decade, of what is about linear there."""

JUMP = 5.0
"""How much steeper than all others one interval is where a function jumps."""


class Shape(NamedTuple):
    """What is known of a function f.

    Args:
      origin: f(0).
      above: the bounds of (f(t) - f(0)) / t where t is positive.
      below: the same where t is negative.
      range: the bounds of f.
      steepness: the size of its steepest slope.
    """

    origin: float
    above: tuple[float, float]
    below: tuple[float, float]
    range: tuple[float, float]
    steepness: float


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """A function of one array.

    Args:
      root: the array.
      samples: the function's values.
      plain: whether its paths are those of a network without gates.
    """

    root: Any  # Value
    samples: Samples
    plain: bool = True

    def scaled(self, number: float) -> "Curve":
        """The multiple by a number."""
        return dataclasses.replace(self, samples=self.samples * number)

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which numbers it is, if they are known."""
        finite = self.samples[np.isfinite(self.samples)]
        return _rounded(np.min(finite)), _rounded(np.max(finite))


def total(
    x: Curve | None, y: Curve | None, first: float | None, second: float | None
) -> Curve | None:
    """The sum of two functions of one array, or of one and a number."""
    if x is not None and y is not None:
        same = x.root is y.root
        return Curve(x.root, x.samples + y.samples, False) if same else None
    curve, number = (x, second) if y is None else (y, first)
    if curve is None or number is None:
        return None
    return dataclasses.replace(curve, samples=curve.samples + number)


# Evaluation.


def _erf(x: Samples) -> Samples:
    return np.array([math.erf(t) for t in x])


def _logistic(x: Samples) -> Samples:
    return 1 / (1 + np.exp(-x))


def _select(which: Any, *cases: Any) -> Samples:
    return np.choose(np.asarray(which, int), np.broadcast_arrays(*cases))


FUNCTIONS: dict[str, Callable[..., Samples]] = {
    "abs": np.abs,
    "add": np.add,
    "add_any": np.add,
    "and": np.logical_and,
    "asinh": np.arcsinh,
    "atan": np.arctan,
    "cbrt": np.cbrt,
    "clamp": lambda low, x, high: np.clip(x, low, high),
    "cos": np.cos,
    "cosh": np.cosh,
    "div": np.divide,
    "eq": np.equal,
    "erf": _erf,
    "erfc": lambda x: 1 - _erf(x),
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "ge": np.greater_equal,
    "gt": np.greater,
    "is_finite": np.isfinite,
    "le": np.less_equal,
    "log": np.log,
    "log1p": np.log1p,
    "logistic": _logistic,
    "lt": np.less,
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "ne": np.not_equal,
    "neg": np.negative,
    "not": np.logical_not,
    "or": np.logical_or,
    "pow": np.power,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "select_n": _select,
    "sign": np.sign,
    "sin": np.sin,
    "sinh": np.sinh,
    "sqrt": np.sqrt,
    "square": np.square,
    "sub": np.subtract,
    "tanh": np.tanh,
}
"""The primitives that make numbers of numbers, in double precision."""


def evaluated(
    name: str, params: Mapping[str, Any], operands: Sequence[Any]
) -> Samples | None:
    """The values of a primitive's result; None if it isn't one of the functions."""
    with np.errstate(all="ignore"):
        if name == "integer_pow":
            return np.asarray(operands[0] ** float(params["y"]))
        if name == "convert_element_type":
            return _converted(params["new_dtype"], *operands)
        function = FUNCTIONS.get(name)
        return None if function is None else np.asarray(function(*operands))


def _converted(dtype: Any, x: Samples) -> Samples | None:
    if jnp.issubdtype(dtype, jnp.floating):
        return np.asarray(x, float)
    return np.asarray(x, bool) if jnp.issubdtype(dtype, jnp.bool_) else None


# What is read off the values.


def shape_of(samples: Samples, bounds: tuple[float, float]) -> Shape | None:
    """The shape of a function of what is between these bounds.

    A function that isn't finite far from 0, because an exponential overflows there, is
    what it is before. None if it grows faster than a linear one, or jumps.
    """
    if not bounds[0] <= 0 <= bounds[1] or samples.dtype == bool:
        return None
    domain = np.isfinite(samples) & (GRID >= bounds[0]) & (GRID <= bounds[1])
    sides = [_side(samples, domain, side) for side in (1, -1)]
    if None in sides or not domain[_MIDDLE]:
        return None
    above, below = (x for x in sides if x is not None)
    steepness = _steepness(GRID[domain], samples[domain])
    if steepness is None:
        return None
    low, high = _hull([above.range, below.range])
    return Shape(
        _rounded(samples[_MIDDLE]),
        above.slopes,
        below.slopes,
        (_rounded(low), _rounded(high)),
        _rounded(steepness),
    )


class _Side(NamedTuple):
    slopes: tuple[float, float]
    range: tuple[float, float]


def _side(samples: Samples, domain: Samples, side: int) -> _Side | None:
    """What is known of a function on one side of 0."""
    domain, samples = (
        x[_MIDDLE:] if side == 1 else x[_MIDDLE::-1] for x in (domain, samples)
    )
    count = int(np.argmin(domain)) if not domain.all() else len(domain)
    if count <= 1:
        return _Side((0.0, 0.0), (samples[0], samples[0]))
    values, points = samples[:count], side * np.r_[0.0, _SIZES][:count]
    if count <= 3 * _DECADE:
        return None
    slopes = (values[1:] - values[0]) / points[1:]
    far = [_slope(points, values, -1 - k * _DECADE) for k in (0, 1)]
    near = abs(slopes[0]), abs(slopes[_DECADE])
    scale = np.max(np.abs(slopes)) / 1000
    if abs(far[0]) > GROWTH * abs(far[1]) + scale or near[0] > GROWTH * near[1] + scale:
        return None
    low, high = _hull([(min(slopes), max(slopes)), (far[0], far[0])])
    return _Side((_rounded(low), _rounded(high)), _range(values))


def _slope(points: Samples, values: Samples, k: int) -> float:
    """That over the decade before a point."""
    before = k - _DECADE
    return float((values[k] - values[before]) / (points[k] - points[before]))


def _range(values: Samples) -> tuple[float, float]:
    """The bounds of the values, and of those that are to come."""
    before, last = values[:-_DECADE], values[-_DECADE:]
    low, high = (float(f(before)) for f in (np.min, np.max))
    least = 1e-3 * max(abs(low), abs(high))
    grows, falls = np.max(last) > high + least, np.min(last) < low - least
    return -math.inf if falls else low, math.inf if grows else high


def _steepness(points: Samples, values: Samples) -> float | None:
    """The steepest slope; None at a jump."""
    slopes = np.abs(np.diff(values) / np.diff(points))
    k = int(np.argmax(slopes))
    others = np.r_[slopes[: max(k - 1, 0)], slopes[k + 2 :]]
    if others.size and slopes[k] > JUMP * np.max(others):
        return None
    return float(slopes[k])


def _hull(bounds: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return min(low for low, _ in bounds), max(high for _, high in bounds)


def _rounded(x: float) -> float:
    """A simple fraction, if it is next to one: samples miss limits by a little."""
    if math.isinf(x):
        return x
    near = float(fractions.Fraction(float(x)).limit_denominator(12))
    return near if abs(x - near) <= max(1e-4 * abs(x), 3e-6) else float(x)
