"""Operations on gates and statistics: on their sizes, which no paths lead to.

Where they meet paths otherwise than as factors, gates are input units of their size.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from pathsgd_optax._networks.traced.bounds import UNBOUNDED, hull, largest
from pathsgd_optax._networks.traced.context import Context, is_number
from pathsgd_optax._networks.traced.inputs import units
from pathsgd_optax._networks.traced.known import MOVING
from pathsgd_optax._networks.traced.rays import Ray
from pathsgd_optax._networks.traced.reasons import UNKNOWN
from pathsgd_optax._networks.traced.rules import (
    contractions as _contractions,
    factors as _factors,
)
from pathsgd_optax._networks.traced.rules.activations import activated
from pathsgd_optax._networks.traced.rules.factors import (
    curve_of,
    full,
    reading,
    size_of,
)
from pathsgd_optax._networks.traced.rules.gates import (
    BOUNDED,
    EXPONENTS,
    LIPSCHITZ,
    divided,
    mapped,
    multiplied,
    times,
)
from pathsgd_optax._networks.traced.rules.operands import constants_of, note
from pathsgd_optax._networks.traced.rules.primitives import how_moved, negative
from pathsgd_optax._networks.traced.rules.sums import add
from pathsgd_optax._networks.traced.values import (
    Factor,
    Inputs,
    Logarithm,
    NoPathError,
    Operand,
    Value,
    Weighed,
)


FactorRule: TypeAlias = Callable[..., list[Operand] | None]
"""``rule(context, *operands)``, which returns None where factors stand for paths."""


def factored(context: Context, *operands: Any) -> list[Operand] | None:
    """The results of an operation on factors; None if it is one on paths."""
    rule = FACTORED.get(context.eqn.primitive.name)
    return None if rule is None else rule(context, *operands)


def as_paths(context: Context, operands: Sequence[Any]) -> list[Any]:
    """The operands, with gates as input units of their size."""
    pairs = zip(operands, context.eqn.invars, strict=True)
    return [
        _paths(context, x, v.aval.shape) if isinstance(x, Factor) else x
        for x, v in pairs
    ]


def as_activation(context: Context, x: Operand) -> Operand:
    """A gate with the paths of its argument, if it is a function of one array."""
    curve = curve_of(context, x) if isinstance(x, Factor) else None
    result = None if curve is None else activated(context, curve)
    return x if result is None else result


def _paths(context: Context, x: Factor, shape: Sequence[int]) -> Operand:
    result = as_activation(context, x)
    return _units(context, x, shape) if result is x else result


def _units(context: Context, x: Factor, shape: Sequence[int]) -> Value:
    """A gate, and what it multiplies, as input units."""
    unit = Value(None, context.mass(_average(context, x, shape)))
    unit = dataclasses.replace(unit, ray=Ray(others=x.related))
    if x.weight is None:
        return unit
    note(context, "scale", [x.weight])
    mass = context.multiply(unit.mass, context.mass(x.weight))
    return dataclasses.replace(unit, mass=mass, leaves=x.weight.leaves)


def _average(context: Context, x: Factor, shape: Sequence[int]) -> Value:
    """The size of a gate, whose paths end here, as a constant."""
    if not x.is_gate:
        raise NoPathError(x.reason)
    context.steer(x)
    return Value(full(context, x.size, shape))


# Moves and functions of one factor.


def _moved(context: Context, x: Factor, *places: Value) -> list[Operand]:
    arrays, shape = constants_of(places), context.eqn.invars[0].aval.shape

    def nth(k: int, array: jax.Array) -> jax.Array:
        return context.bind(array, *arrays)[k]

    return [
        context.moved_factor(functools.partial(nth, k), x, how_moved(context, k), shape)
        for k in range(len(context.eqn.outvars))
    ]


def _converted(context: Context, x: Factor) -> list[Operand]:
    floating = jnp.issubdtype(context.eqn.outvars[0].aval.dtype, jnp.floating)
    return [x if floating else Inputs()]


def _negated(context: Context, x: Factor) -> list[Operand]:
    return [_factors.negative(x)]


def _absolute(context: Context, x: Factor) -> list[Operand]:
    return [dataclasses.replace(x, bounds=(0.0, largest(x.bounds)))]


def _root(context: Context, x: Factor) -> list[Operand]:
    exponent = EXPONENTS.get(context.eqn.primitive.name) or context.params["y"]
    return [_factors.power(context, x, float(exponent))]


def _power(context: Context, x: Any, y: Any) -> list[Operand]:
    if not (isinstance(y, Value) and y.is_constant and y.uniform is not None):
        raise NoPathError(UNKNOWN)
    return [_factors.power(context, x, y.uniform)]


def _function(context: Context, x: Factor) -> list[Operand]:
    """A bounded function, or one of what is bounded: a gate."""
    bounds = BOUNDED.get(context.eqn.primitive.name) or mapped(context, x.bounds)
    if not all(map(math.isfinite, bounds)):
        raise NoPathError(UNKNOWN)
    size = largest(bounds)
    return [Factor(size, bounds=bounds, logits=x.logits, related=x.related)]


def _logarithm(context: Context, x: Factor) -> list[Operand]:
    return [Logarithm(x)] if x.is_exponential else _function(context, x)


# Sums and products.


def _times(context: Context, x: Any, y: Any) -> list[Operand]:
    return [times(context, x, y)]


def _divided(context: Context, x: Any, y: Any) -> list[Operand]:
    return [divided(context, x, y)]


def _added(context: Context, x: Any, y: Any) -> list[Operand]:
    if isinstance(x, Factor) and isinstance(y, Factor):
        return [_factors.plus(context, x, y)]
    factor, other = (x, y) if isinstance(x, Factor) else (y, x)
    if isinstance(other, Value) and other.is_constant:
        return [_factors.shifted(context, factor, other)]
    if isinstance(other, Value) and other.is_data and factor.is_gate:
        if _factors.is_related(other, factor):
            return [context.shaped(_corrected(other))]
        gate = reading(context, other)
        if gate.is_gate:
            return [_factors.plus(context, factor, gate)]
    return add(context, *as_paths(context, [x, y]))


def _corrected(x: Value) -> Value:
    """Data plus a bounded function of the same data, as in softplus."""
    return Value(None, x.mass, x.offset, x.leaves, ray=x.ray.multiple())


def _subtracted(context: Context, x: Any, y: Any) -> list[Operand]:
    if isinstance(x, Factor) and isinstance(y, Factor):
        return [_factors.minus(context, x, y)]
    opposite = _factors.negative(y) if isinstance(y, Factor) else negative(y)
    return _added(context, x, opposite)


def _extremum(side: int, context: Context, x: Any, y: Any) -> list[Operand]:
    """With a constant, which is a bound, or keeps a statistic from being 0."""
    factor, other = (x, y) if isinstance(x, Factor) else (y, x)
    number = other.uniform if isinstance(other, Value) else None
    if number is None:
        raise NoPathError(UNKNOWN)
    chosen = max if side == 1 else min
    low, high = (chosen(bound, number) for bound in factor.bounds)
    return [dataclasses.replace(factor, bounds=(low, high))]


def _contracted(context: Context, x: Any, y: Any, *rest: Any) -> list[Operand] | None:
    """Of gates and constants, a gate; of data, averages over what it weighs."""
    if any(isinstance(z, Factor) and z.weight is not None for z in (x, y)):
        return None
    others = [z for z in (x, y) if not isinstance(z, Factor)]
    if all(isinstance(z, Value) and z.is_constant for z in others):
        return [_contracted_sizes(context, x, y, *rest)]
    if any(isinstance(z, Value) and z.is_weight for z in others):
        return None
    pairs = zip((x, y), context.eqn.invars, strict=False)
    open_ = [z for z in (x, y) if isinstance(z, Factor) and not z.is_gate]
    averaged = [_weighing(context, z, v.aval) for z, v in pairs]
    rule = _contractions.RULES[context.eqn.primitive.name]
    result: Any = rule(context, *averaged, *rest)[0]
    if not open_:
        return [result]
    return [Weighed(result, dataclasses.replace(open_[0], size=1.0))]


def _weighing(context: Context, x: Any, aval: Any) -> Value:
    if isinstance(x, Factor) and x.is_exponential and not x.is_gate:
        return Value(full(context, x.size, aval.shape))
    if isinstance(x, Factor):
        return _average(context, x, aval.shape)
    return units(context, x, aval) if isinstance(x, Inputs) else x


def _contracted_sizes(context: Context, x: Any, y: Any, *rest: Any) -> Factor:
    pairs = zip((x, y), context.eqn.invars, strict=False)
    arrays = [full(context, size_of(z), v.aval.shape) for z, v in pairs]
    size = context.bind(*arrays, *(z.value for z in rest))[0]
    gates = [z for z in (x, y) if isinstance(z, Factor)]
    return _with_size(functools.reduce(_factors.joined, gates), size)


def _with_size(x: Factor, size: Any) -> Factor:
    """A factor of other entries, of which only the size is known."""
    bounds = UNBOUNDED
    return dataclasses.replace(x, size=size, bounds=bounds, mean=None, value=None)


# Reductions and choices.


def _summing(context: Context, x: Factor) -> list[Operand]:
    return [_factors.summed(context, x)]


def _multiplied(context: Context, x: Factor) -> list[Operand]:
    return [multiplied(context, x)]


def _pooled(context: Context, x: Factor) -> list[Operand]:
    def pooled(size: jax.Array) -> jax.Array:
        return context.bind(size)[0]

    size = _factors.sized(context, pooled, lambda size: size, x.size)
    return [dataclasses.replace(x, size=size, mean=None, value=None)]


def _ordered(context: Context, *operands: Any) -> list[Operand]:
    """The largest ones, or sorted ones; and their order, which chooses."""
    results: list[Operand] = []
    for k, v in enumerate(context.eqn.outvars):
        x = operands[min(k, len(operands) - 1)]
        is_order = not jnp.issubdtype(v.aval.dtype, jnp.floating)
        results.append(Inputs() if is_order else _any_of(x))
    return results


def _any_of(x: Factor) -> Factor:
    """Any of the entries."""
    size = x.size if is_number(x.size) else jnp.max(x.size)
    return dataclasses.replace(x, size=size, mean=None, value=None)


def _compared(context: Context, *_: Any) -> list[Operand]:
    return [Inputs(binary=True)]


def _selected(context: Context, which: Any, *cases: Any) -> list[Operand] | None:
    """One of several factors, or of constants."""
    if not all(map(_has_size, cases)):
        return None
    gates = [x for x in cases if isinstance(x, Factor)]
    known = functools.reduce(_factors.joined, gates)
    if isinstance(which, Value):
        arrays = [full(context, size_of(x), context.out_shape) for x in cases]
        size = context.bind(which.value, *arrays)[0]
    else:
        sizes = map(size_of, gates if known.degrees else cases)
        size = functools.reduce(functools.partial(_factors.larger, context), sizes)
    bounds = hull([*map(_factors.bounds_of, cases)])
    return [dataclasses.replace(known, size=size, bounds=bounds)]


def _has_size(x: Any) -> bool:
    return isinstance(x, Factor) or (isinstance(x, Value) and x.is_constant)


def _concatenated(context: Context, *operands: Any) -> list[Operand] | None:
    if not all(map(_has_size, operands)):
        return None
    pairs = zip(operands, context.eqn.invars, strict=True)
    size = context.bind(*(full(context, size_of(x), v.aval.shape) for x, v in pairs))[0]
    gates = [x for x in operands if isinstance(x, Factor)]
    bounds = hull([*map(_factors.bounds_of, operands)])
    known = _with_size(functools.reduce(_factors.joined, gates), size)
    return [dataclasses.replace(known, bounds=bounds)]


# The table.


_TABLE: list[tuple[FactorRule, str]] = [
    (_moved, MOVING),
    (_converted, "convert_element_type reduce_precision"),
    (_negated, "neg"),
    (_absolute, "abs"),
    (_root, "cbrt integer_pow rsqrt sqrt square"),
    (_power, "pow"),
    (_function, " ".join([*BOUNDED, *LIPSCHITZ, "exp exp2"])),
    (_logarithm, "log"),
    (_times, "mul"),
    (_divided, "div"),
    (_added, "add add_any"),
    (_subtracted, "sub"),
    (functools.partial(_extremum, 1), "max"),
    (functools.partial(_extremum, -1), "min"),
    (_contracted, "conv_general_dilated dot_general"),
    (_summing, "cumsum reduce_sum reduce_window_sum"),
    (_multiplied, "cumprod reduce_prod"),
    (_pooled, "cummax cummin reduce_max reduce_min reduce_window_max"),
    (_ordered, "argmax argmin sort top_k"),
    (_compared, "eq ge gt is_finite le lt ne"),
    (_selected, "select_n"),
    (_concatenated, "concatenate pad stack"),
]

FACTORED = {name: rule for rule, names in _TABLE for name in names.split()}
"""The rules for factors."""
