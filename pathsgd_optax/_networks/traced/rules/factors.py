"""Gates and statistics: what multiplies paths, and how operations change its size.

A gate is of size one: a sigmoid, a comparison; or of the size that it has on average:
1/n where a softmax chooses among n entries. A statistic, such as a sum of squares, is
worked out for data of size 1, and becomes a gate where it is divided by another one of
the same data. What is added to it, such as an epsilon, does not count.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pathsgd_optax._networks.traced import mass as _mass, multiples as _multiples
from pathsgd_optax._networks.traced.bounds import (
    UNBOUNDED,
    Bounds,
    is_bounded,
    largest,
    powers,
    products,
    sums,
)
from pathsgd_optax._networks.traced.context import Context, is_number
from pathsgd_optax._networks.traced.curves import Curve
from pathsgd_optax._networks.traced.mass import Mass
from pathsgd_optax._networks.traced.rays import lineage
from pathsgd_optax._networks.traced.reasons import STATISTIC
from pathsgd_optax._networks.traced.values import (
    MASK,
    Factor,
    Logits,
    NoPathError,
    Value,
    is_traced,
)


Degrees = frozenset[tuple[Hashable, float]]
"""Powers of arrays, by their names."""


# What a value is as a factor.


def reading(context: Context, x: Value) -> Factor:
    """What a value is as a factor: a gate if it is bounded, of degree one otherwise."""
    if x.factor is not None:
        known = x.value if x.is_weight else None
        return dataclasses.replace(x.factor, value=known)
    if is_bounded(x.bounds):
        return _bounded(context, x)
    before = x if x.centred is None else x.centred
    slope = abs(x.ray.slope)
    return Factor(
        slope,
        degrees=frozenset([(base(x), 1.0)]),
        bounds=x.bounds,
        mean=per_slope(context, context.quiet().mass(before), slope),
        value=x.value if x.is_weight else None,
        related=x.ray.bases,
    )


def _bounded(context: Context, x: Value) -> Factor:
    """A gate, which ends the paths to it where it has the steepness of a sigmoid."""
    (low, high), logits = x.bounds, dataclasses.replace(x, offset=None)
    unit = (4 / (high - low)) ** context.p if low < high else 0.0
    return Factor(
        largest(x.bounds),
        bounds=x.bounds,
        logits=(Logits(logits, unit),),
        related=x.ray.bases,
    )


def base(x: Value) -> Hashable:
    """The name of the array that it has the size of."""
    return next(lineage(x.ray.name))


def per_slope(context: Context, mass: Mass, slope: float) -> Mass:
    """The mass of an array of which this number is a multiple."""
    if slope == 1:
        return mass
    return _mass.times_number(mass, (1 / slope if slope else 0.0) ** context.p)


def is_related(x: Value, factor: Factor) -> bool:
    """Whether a factor changes with the same array."""
    return not x.ray.bases.isdisjoint(factor.related)


# Sizes: numbers, if all entries are alike, or arrays.


def full(context: Context, size: Any, shape: Sequence[int]) -> jax.Array:
    """A size for every entry."""
    return jnp.broadcast_to(jnp.asarray(size, context.dtype), shape)


def size_of(x: Factor | Value) -> Any:
    """The size of a factor, or of a constant."""
    if isinstance(x, Factor):
        return x.size
    return abs(x.uniform) if x.uniform is not None else jnp.abs(x.value)


def sized(
    context: Context,
    of_arrays: Callable[..., Any],
    of_numbers: Callable[..., Any],
    *sizes: Any,
) -> Any:
    """A function of sizes, as it is for arrays or for numbers."""
    if all(map(is_number, sizes)):
        return of_numbers(*sizes)
    return of_arrays(*(jnp.asarray(size, context.dtype) for size in sizes))


def _elementwise(function: Callable[..., Any], context: Context, *sizes: Any) -> Any:
    result = sized(context, function, function, *sizes)
    return result if is_number(result) else full(context, result, context.out_shape)


def larger(context: Context, x: Any, y: Any) -> Any:
    """The larger of two sizes."""
    return sized(context, jnp.maximum, max, x, y)


def _within(context: Context, size: Any, bounds: Bounds) -> Any:
    """A size that is at most what the bounds allow."""
    most = largest(bounds)
    if math.isinf(most):
        return size
    return sized(context, jnp.minimum, min, size, most)


# Bounds.


def bounds_of(x: Factor | Value) -> Bounds:
    """The bounds of a factor, or of a constant."""
    if isinstance(x, Factor):
        return x.bounds
    return range_of(x) if x.uniform is None else (x.uniform, x.uniform)


def range_of(x: Value) -> Bounds:
    """The bounds of data, or of a constant that masks nothing."""
    if not x.is_constant or is_traced(x.value) or x.value.size == 0:
        return x.bounds
    entries = np.asarray(x.value)
    if not np.all(np.abs(entries) < MASK):
        return UNBOUNDED
    return float(entries.min()), float(entries.max())


def sums_of_entries(context: Context, bounds: Bounds) -> Bounds:
    """The bounds of what a reduction sums, or a window: of so many, or of fewer."""
    count = float(_most_summed(context))
    exact = context.eqn.primitive.name == "reduce_sum"
    return products(bounds, (count if exact else 0.0, count))


def _most_summed(context: Context) -> int:
    """The most entries that are summed to one."""
    shape, params = context.eqn.invars[0].aval.shape, context.params
    match context.eqn.primitive.name:
        case "reduce_window_sum":
            return math.prod(params["window_dimensions"])
        case "cumsum":
            return int(shape[params["axis"]])
    return math.prod(shape[axis] for axis in params["axes"])


# Products.


def times(context: Context, x: Factor, y: Factor) -> Factor:
    """The product of two factors."""
    unweighted(x, y)
    known = x.value is not None and y.value is not None
    mean = y.mean if x.mean is None else x.mean
    return Factor(
        _elementwise(operator.mul, context, x.size, y.size),
        _added(x.degrees, y.degrees),
        products(x.bounds, y.bounds),
        x.reduced or y.reduced,
        logits=together(x, y),
        mean=None if mean is None else _mass.broadcast(mean, context.out_shape),
        value=x.value * y.value if known else None,
        related=x.related | y.related,
    )


def _added(x: Degrees, y: Degrees) -> Degrees:
    degrees = dict(x)
    for name, degree in y:
        degrees[name] = degrees.get(name, 0.0) + degree
    return frozenset((name, degree) for name, degree in degrees.items() if degree)


def together(*factors: Factor) -> tuple[Logits, ...]:
    """What steers any of them, once."""
    found = {id(z.value.mass): z for factor in factors for z in factor.logits}
    return tuple(found.values())


def unweighted(*factors: Factor) -> None:
    """Raises where a weight has multiplied one of them."""
    if any(x.weight is not None for x in factors):
        raise NoPathError(STATISTIC)


def scaled(context: Context, x: Factor, constant: Value) -> Factor:
    """The product with a constant."""
    return _shaped(
        context,
        x,
        size=_elementwise(operator.mul, context, x.size, size_of(constant)),
        bounds=products(x.bounds, bounds_of(constant)),
        value=None if x.value is None else x.value * constant.value,
    )


def weighted(context: Context, x: Factor, weight: Value) -> Factor:
    """The product with a weight."""
    unweighted(x)
    return _shaped(context, x, weight=context.shaped(weight))


def _shaped(context: Context, x: Factor, **changed: Any) -> Factor:
    """``x`` in the shape of the result, with these changes."""
    shape = context.out_shape
    shaped: dict[str, Any] = {
        "size": x.size if is_number(x.size) else full(context, x.size, shape),
        "mean": None if x.mean is None else _mass.broadcast(x.mean, shape),
        "value": None if x.value is None else jnp.broadcast_to(x.value, shape),
        "weight": None if x.weight is None else context.shaped(x.weight),
    }
    return dataclasses.replace(x, **(shaped | changed))


def broadcast(context: Context, x: Factor) -> Factor:
    """``x`` in the shape of the result."""
    return _shaped(context, x)


def power(context: Context, x: Factor, exponent: float) -> Factor:
    """A power of a factor."""
    unweighted(x)
    of_numbers = functools.partial(_live_power, exponent)
    of_arrays = functools.partial(_live_powers, exponent)
    return dataclasses.replace(
        x,
        size=sized(context, of_arrays, of_numbers, x.size),
        degrees=frozenset((name, degree * exponent) for name, degree in x.degrees),
        bounds=powers(x.bounds, exponent),
        value=None if x.value is None else x.value**exponent,
    )


def _live_power(exponent: float, size: float) -> float:
    return size**exponent if size else 0.0


def _live_powers(exponent: float, size: jax.Array) -> jax.Array:
    live = size != 0
    return jnp.where(live, jnp.where(live, size, 1) ** exponent, 0)


def curve_of(context: Context, x: Any) -> Curve | None:
    """What is known of data, or of a factor, as a function of one array."""
    return context.curves[id(x)][1] if id(x) in context.curves else None


def gated(
    context: Context, x: Value, gate: Factor, curve: Curve | None = None
) -> Value:
    """Data times a gate, which may be a function of one array."""
    context.steer(gate)
    x = context.settle(x)
    result = Value(None, x.mass, leaves=x.leaves, ray=x.ray.multiple())
    if is_number(gate.size) and gate.size == largest(gate.bounds):
        parts = _multiples.times(x, gate.bounds, curve)
        result = dataclasses.replace(result, parts=parts)
    if is_number(gate.size) and gate.size == 1:
        return result
    size = Value(full(context, gate.size, context.out_shape))
    return dataclasses.replace(
        result, mass=context.multiply(x.mass, context.mass(size))
    )


# Sums.


def plus(context: Context, x: Factor, y: Factor) -> Factor:
    """The sum; of statistics, with the mean of the first."""
    united = joined(x, y)
    bounds = sums(x.bounds, y.bounds)
    size = _elementwise(operator.add, context, x.size, y.size)
    size = _within(context, size, bounds)
    return _shaped(
        context, united, size=size, bounds=bounds, mean=_means(context, x, y)
    )


def _means(context: Context, x: Factor, y: Factor) -> Mass | None:
    """The mean of two means, as the sizes weigh them."""
    if x.mean is None or y.mean is None:
        return x.mean
    shape = context.out_shape
    parts = [full(context, z.size, shape) for z in (x, y)]
    inverse = _live_powers(-1.0, parts[0] + parts[1])
    means = [_mass.broadcast(z.mean, shape) for z in (x, y)]
    return _mass.sum_by(lambda a, b: (a * parts[0] + b * parts[1]) * inverse, *means)


def minus(context: Context, x: Factor, y: Factor) -> Factor:
    """The difference; of statistics, such as a variance, it is at most the first."""
    if x.degrees and _are_of_sums(y.degrees, x.degrees):
        return _shaped(context, x)
    return plus(context, x, negative(y))


def difference(context: Context, x: Factor, y: Factor) -> Factor | None:
    """The difference, where it is a factor."""
    if are_alike(x, y) or _are_of_sums(y.degrees, x.degrees):
        return minus(context, x, y)
    return None


def _are_of_sums(x: Degrees, y: Degrees) -> bool:
    """Whether these are the same powers of the same arrays, or of their sums."""
    powers = dict(y)
    return len(x) == len(y) and all(
        any(powers.get(older) == degree for older in lineage(name))
        for name, degree in x
    )


def joined(x: Factor, y: Factor) -> Factor:
    """What two factors of one kind are together, but for their sizes."""
    unweighted(x, y)
    if not are_alike(x, y):
        raise NoPathError((x if x.degrees else y).reason)
    return dataclasses.replace(
        x,
        degrees=x.degrees if x.degrees == y.degrees else frozenset(),
        reduced=x.reduced or y.reduced,
        logits=together(x, y),
        related=x.related | y.related,
        value=None,
    )


def are_alike(x: Factor, y: Factor) -> bool:
    """Whether they scale with the same data, or with none."""
    return x.degrees == y.degrees or (x.is_gate and y.is_gate)


def shifted(context: Context, x: Factor, constant: Value) -> Factor:
    """The sum with a constant, which counts in the size of gates only."""
    bounds, size = sums(x.bounds, bounds_of(constant)), x.size
    if not x.degrees:
        size = _elementwise(operator.add, context, size, size_of(constant))
        size = _within(context, size, bounds)
    size = size if is_number(size) else full(context, size, context.out_shape)
    value = None if x.value is None else x.value + constant.value
    return _shaped(context, x, size=size, bounds=bounds, value=value)


def negative(x: Factor) -> Factor:
    """``-x``."""
    low, high = x.bounds
    value = None if x.value is None else -x.value
    return dataclasses.replace(x, bounds=(-high, -low), value=value)


def summed(context: Context, x: Factor) -> Factor:
    """The sums of entries, by a reduction or by windows."""
    unweighted(x)
    even = is_number(x.size) and context.eqn.primitive.name == "reduce_sum"
    size = _summed_sizes(context, x, even)
    return dataclasses.replace(
        x,
        size=size,
        bounds=sums_of_entries(context, x.bounds),
        reduced=True,
        axes=tuple(context.params.get("axes", ())),
        mean=None if x.mean is None else _mean(context, x, size, even),
        value=None if x.value is None else context.bind(x.value)[0],
    )


def _summed_sizes(context: Context, x: Factor, even: bool) -> Any:
    if even:
        return x.size * _most_summed(context)
    return context.bind(full(context, x.size, context.eqn.invars[0].aval.shape))[0]


def _mean(context: Context, x: Factor, size: Any, even: bool) -> Mass:
    """The mean of the means, as the sizes weigh them."""
    if even:
        count = _most_summed(context)
        return _mass.sum_by(lambda part: context.bind(part)[0] / count, x.mean)
    inverse = _live_powers(-1.0, size)
    return _mass.sum_by(lambda part: context.bind(part * x.size)[0] * inverse, x.mean)
