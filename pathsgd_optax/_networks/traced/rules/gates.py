"""Normalisations and gates, which `trace_network` reads with ``gates=True``.

A value that is divided by a root of its own second moment ends the paths: what leaves
it is like an input, and what enters it like an output, in units of its mean. What is
bounded, or of the same size however large the data is, multiplies paths by its size,
and has none itself; but a bounded function through 0, such as tanh, has the paths of
its argument where it isn't a factor.
"""

import dataclasses
import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp

from pathsgd_optax._networks.traced import mass as _mass
from pathsgd_optax._networks.traced.bounds import Bounds, largest
from pathsgd_optax._networks.traced.context import Context, is_number
from pathsgd_optax._networks.traced.inputs import live, units
from pathsgd_optax._networks.traced.rays import Ray, lineage
from pathsgd_optax._networks.traced.reasons import (
    CENTRED,
    DIVIDED,
    DIVISION,
    DIVISOR,
    NONLINEAR,
    POWER,
    PRODUCT,
    UNKNOWN,
)
from pathsgd_optax._networks.traced.rules import factors as _factors, pieces
from pathsgd_optax._networks.traced.rules.activations import activation
from pathsgd_optax._networks.traced.rules.factors import curve_of, gated, reading
from pathsgd_optax._networks.traced.rules.operands import Rule, note, rules
from pathsgd_optax._networks.traced.rules.primitives import inverse, product
from pathsgd_optax._networks.traced.values import (
    MASK,
    Debt,
    Exponential,
    Factor,
    Inputs,
    Logits,
    NoPathError,
    Normalised,
    Operand,
    Value,
    Weighed,
)


BOUNDED: dict[str, Bounds] = {
    "atan": (-math.pi / 2, math.pi / 2),
    "cos": (-1.0, 1.0),
    "erf": (-1.0, 1.0),
    "erfc": (0.0, 2.0),
    "logistic": (0.0, 1.0),
    "sin": (-1.0, 1.0),
    "tanh": (-1.0, 1.0),
}
"""The functions that are bounded, whose slope is about 1 at most."""

LIPSCHITZ = frozenset(["asinh", "expm1", "log1p"])
"""The functions through 0 whose slope is 1 at most, where they are used."""

EXPONENTS = {"cbrt": 1 / 3, "rsqrt": -0.5, "sqrt": 0.5, "square": 2.0}
"""The powers that primitives take."""

_numbers = itertools.count()


# Functions of data.


def _bent(context: Context, x: Value) -> list[Operand]:
    """A function of one array, which has its argument's paths."""
    if x.is_weight:
        return [_parameter(context, x)]
    if (result := activation(context, x)) is None:
        raise NoPathError(UNKNOWN)
    return [result]


def mapped(context: Context, bounds: Bounds) -> Bounds:
    """The bounds of an increasing function."""
    with jax.ensure_compile_time_eval():
        low, high = (float(context.bind(jnp.asarray(x, float))[0]) for x in bounds)
    return low, high


def _parameter(context: Context, x: Value) -> Value:
    """A function of a parameter: of the size that it has, and steered by it."""
    note(context, "gate", [x])
    context.steer(Factor(logits=(Logits(context.settle(x)),)))
    return Value(context.bind(x.value)[0])


def _exponential(context: Context, x: Value) -> list[Operand]:
    return [_parameter(context, x) if x.is_weight else exponential(context, x)]


def exponential(context: Context, x: Value) -> Factor:
    """What scales with nothing but itself, as the terms of a softmax do.

    What was taken away from all of its logits doesn't count. That of cumulative sums of
    logarithms is a cumulative product, which each of them steers once.
    """
    logits = x if x.centred is None else x.centred
    steering = Logits(dataclasses.replace(logits, offset=x.offset))
    if (terms := pieces.cumulated(context, x)) is not None:
        steering = _together(context, Logits(dataclasses.replace(terms, offset=None)))
    name = Exponential(context.eqn.primitive.name, logits.ray)
    return Factor(
        _allowed(context, x.offset),
        degrees=frozenset([(name, 1.0)]),
        bounds=mapped(context, x.bounds),
        logits=(steering,),
        related=x.ray.bases,
    )


def _allowed(context: Context, offset: jax.Array | None) -> Any:
    """1 for entries that no constant masks."""
    return 1.0 if offset is None else (offset > -MASK).astype(context.dtype)


def _power(context: Context, x: Value) -> list[Operand]:
    exponent = EXPONENTS.get(context.eqn.primitive.name) or context.params["y"]
    return [_raised(context, x, float(exponent))]


def _power_of(context: Context, x: Any, y: Value) -> list[Operand]:
    if not (isinstance(y, Value) and y.is_constant and y.uniform is not None):
        raise NoPathError(POWER)
    return [_raised(context, x, y.uniform)]


def _raised(context: Context, x: Value, exponent: float) -> Operand:
    """A power of data or weights; a root, as of a statistic, has a size only."""
    if exponent >= 1 and float(exponent).is_integer():
        factors = itertools.repeat(x, int(exponent))
        return functools.reduce(functools.partial(product, context), factors)
    if x.is_weight and x.factor is None:
        return _parameter(context, x)
    return _factors.power(context, reading(context, x), exponent)


# Quotients, and products with factors.


def divided(context: Context, x: Any, y: Any) -> Operand:
    """The quotient by data, by a factor, or by a weight."""
    if isinstance(y, Inputs):
        raise NoPathError(DIVIDED)
    if isinstance(y, Value) and y.is_constant:
        return times(context, x, inverse(y))
    if isinstance(y, Value) and y.is_weight and y.factor is None:
        raise NoPathError(DIVISOR)
    factor = y if isinstance(y, Factor) else reading(context, y)
    return times(context, x, _factors.power(context, factor, -1.0))


def _part(context: Context, x: Factor, axes: tuple[int, ...]) -> Factor:
    """A part of a sum, as of a softmax, which weighs p-th powers by what it is.

    By Jensen's inequality their weighted mean is at least the p-th power of the mean.
    """
    size = _factors.power(context, x, 1 / context.p).size
    bounds = (0.0, 1.0) if x.bounds[0] >= 0 else x.bounds
    logits = tuple(_shown(z, x.size) for z in x.logits)
    return dataclasses.replace(x, size=size, bounds=bounds, logits=logits, axes=axes)


def _shown(x: Logits, size: Any) -> Logits:
    """Logits, without those of masked entries, however they are masked."""
    if is_number(size) or size.shape != x.value.shape:
        return x
    return x._replace(unit=jnp.where(size != 0, x.unit, 0))


def times(context: Context, x: Any, y: Any) -> Operand:
    """The product, where one of both is a factor."""
    if isinstance(x, Factor) and isinstance(y, Factor):
        result = _factors.times(context, x, y)
        cancel = x.degrees and not result.degrees
        return _part(context, result, x.axes or y.axes) if cancel else result
    x, factor = (y, x) if isinstance(x, Factor) else (x, y)
    if not isinstance(factor, Factor):
        return product(context, x, factor)
    if isinstance(x, Inputs):
        aval = context.eqn.outvars[0].aval
        x = Value(live(context, x, aval)) if x.binary else units(context, x, aval)
    if x.is_constant:
        return _factors.scaled(context, factor, x)
    if factor.weight is not None:
        rest = times(context, x, dataclasses.replace(factor, weight=None))
        return times(context, rest, factor.weight)
    if (level := _level(x, factor)) is not None:
        return _normalised(context, x, factor, level)
    if x.multiple is not None and _level(x.multiple[0], factor) is not None:
        normalised: Any = times(context, x.multiple[0], factor)
        return product(context, normalised, x.multiple[1])
    if x.is_weight:
        return _factors.weighted(context, factor, x)
    if factor.is_gate:
        curve = curve_of(context, factor)
        return context.shaped(gated(context, x, factor, curve))
    if x.factor is not None:
        return _factors.times(context, x.factor, factor)
    if x.is_data and factor.is_exponential:
        return _weighed(context, x, factor)
    divides = any(degree < 0 for _, degree in factor.degrees)
    raise NoPathError(DIVISION if divides else factor.reason)


def _weighed(context: Context, x: Value, factor: Factor) -> Weighed:
    sizes = dataclasses.replace(factor, degrees=frozenset(), logits=())
    value = context.shaped(gated(context, x, sizes))
    return Weighed(value, dataclasses.replace(factor, size=1.0))


# Normalisation.


def _level(x: Value, factor: Factor) -> int | None:
    """How often ``x`` is summed of what the factor is the inverse size of."""
    if len(factor.degrees) != 1 or factor.mean is None:
        return None
    [(name, degree)] = factor.degrees
    if degree != -1:
        return None
    names = list(lineage(x.ray.name))
    return names.index(name) if name in names else None


def _normalised(context: Context, x: Value, factor: Factor, level: int) -> Value:
    if not factor.reduced:
        return _saturated(context, x, factor)
    if level:
        return _mean_part(context, x, factor)
    before = x if x.centred is None else x.centred
    note(context, "weight", [x])
    slope = abs(x.ray.slope) or 1.0
    mean = _factors.per_slope(context, factor.mean, 1 / slope)
    context.normalise(context.shaped(before), mean)
    if x.is_weight:
        return Value(x.value * factor.value)
    [(name, _)] = factor.degrees
    size = Value(_factors.full(context, factor.size, context.out_shape) * slope)
    ray = Ray(name=Normalised(name, next(_numbers)))
    return Value(None, context.mass(size), ray=ray)


def _saturated(context: Context, x: Value, factor: Factor) -> Value:
    """What is divided by its own size, entry by entry, as x / (1 + abs(x))."""
    if x.is_weight:
        return Value(x.value * factor.value)
    x, ray = context.settle(x), x.ray.multiple()
    return Value(None, x.mass, leaves=x.leaves, ray=ray, bounds=(-1.0, 1.0))


def _mean_part(context: Context, x: Value, factor: Factor) -> Value:
    """The mean of what is normalised, which is taken from it later."""
    [(name, _)] = factor.degrees
    mass = _mass.zeros_like(context.ones(context.out_shape))
    return Value(None, mass, leaves=frozenset([(Debt(name, CENTRED), 1)]))


def multiplied(context: Context, x: Factor) -> Factor:
    """The products of entries of a gate, which is one of the products of its bounds."""
    axes = context.params.get("axes", [context.params.get("axis")])
    shape = context.eqn.invars[0].aval.shape
    size = largest(x.bounds)
    if not (x.bounded and size):
        raise NoPathError(PRODUCT)
    size = max(size, size ** math.prod(shape[axis] for axis in axes))
    bounds = (0.0 if x.bounds[0] >= 0 else -size, size)
    logits = tuple(_together(context, z) for z in x.logits)
    return Factor(size, bounds=bounds, logits=logits, related=x.related)


def _together(context: Context, x: Logits) -> Logits:
    """Logits of several entries of a gate, all of which steer each of its entries."""
    count = math.prod(x.value.shape)
    shape = (1, count) if len(x.value.shape) == 1 else (count,)

    def reshaped(array: jax.Array) -> jax.Array:
        return array.reshape(shape)

    value = context.moved(reshaped, x.value, ("reshape", shape))
    return Logits(value, x.unit if is_number(x.unit) else reshaped(x.unit))


# The table.


def _products(context: Context, x: Value) -> list[Operand]:
    if x.is_weight:
        raise NoPathError(NONLINEAR)
    return [multiplied(context, reading(context, x))]


def _quotient(context: Context, x: Any, y: Any) -> list[Operand]:
    return [divided(context, x, y)]


def _order(context: Context, *_: Any) -> list[Operand]:
    return [Inputs()]


GATES: dict[str, Rule] = rules(
    [
        (_bent, " ".join([*BOUNDED, *LIPSCHITZ])),
        (_exponential, "exp exp2"),
        (_power, "cbrt integer_pow rsqrt sqrt square"),
        (_power_of, "pow"),
        (_products, "cumprod reduce_prod"),
        (_quotient, "div"),
        (_order, "argmax argmin"),
    ]
)
"""The rules for paths that are for networks with gates only."""
