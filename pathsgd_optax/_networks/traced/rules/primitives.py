"""What JAX's own primitives do to paths, a rule for each."""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Hashable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pathsgd_optax._networks.traced import mass as _mass
from pathsgd_optax._networks.traced.bounds import UNBOUNDED, is_bounded, products
from pathsgd_optax._networks.traced.context import Context
from pathsgd_optax._networks.traced.inputs import IDENTITIES
from pathsgd_optax._networks.traced.known import MOVING, evaluated
from pathsgd_optax._networks.traced.rays import Moved
from pathsgd_optax._networks.traced.reasons import (
    COMPLEX,
    DIVISION,
    DIVISOR,
    JOINED,
    NONLINEAR,
    POWER,
    PRODUCT,
    ROUNDED,
    STATISTICS,
)
from pathsgd_optax._networks.traced.rules import factors as _factors
from pathsgd_optax._networks.traced.rules.factors import curve_of, gated, reading
from pathsgd_optax._networks.traced.rules.operands import (
    all_leaves,
    constants_of,
    note,
    rules,
)
from pathsgd_optax._networks.traced.values import (
    Factor,
    NoPathError,
    Operand,
    Value,
    is_traced,
)


# Linear operations of one operand.


def _identity(context: Context, *operands: Value) -> list[Operand]:
    return list(operands)


def _converted(context: Context, x: Value) -> list[Operand]:
    dtype = context.params["new_dtype"]
    if not jnp.issubdtype(dtype, jnp.floating):
        is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
        raise NoPathError(COMPLEX if is_complex else ROUNDED)
    return [x]


def _moving(context: Context, x: Value, *rest: Value) -> list[Operand]:
    """Entries move, or repeat; ``rest`` tells where."""
    constants = constants_of(rest)
    results = [
        functools.partial(_nth_result, context, constants, k)
        for k in range(len(context.eqn.outvars))
    ]
    if rest:
        return [context.map(result, x) for result in results]
    return [
        context.moved(result, x, how_moved(context, k))
        for k, result in enumerate(results)
    ]


def how_moved(context: Context, k: int) -> Hashable:
    """What tells where a primitive of one operand moves entries, in its k-th result."""
    return context.eqn.primitive.name, k, str(context.params)


def _nth_result(
    context: Context, constants: Sequence[jax.Array], k: int, part: jax.Array
) -> jax.Array:
    return context.bind(part, *constants)[k]


def _summing(context: Context, x: Value) -> list[Operand]:
    total = context.map(lambda part: context.bind(part)[0], context.settle(x))
    total = dataclasses.replace(total, ray=x.ray.summed(how_moved(context, 0)))
    return [_followed(context, total, x) if context.gates else total]


def _followed(context: Context, total: Value, x: Value) -> Value:
    """Sums of entries, with what they are as factors."""
    factor = x.factor
    if context.eqn.primitive.name != "reduce_sum" and is_bounded(x.bounds):
        factor = reading(context, x)
    return dataclasses.replace(
        total,
        factor=None if factor is None else _factors.summed(context, factor),
        bounds=_factors.sums_of_entries(context, x.bounds),
        shifted=x.shifted,
        mixed=x.mixed,
    )


def _negated(context: Context, x: Value) -> list[Operand]:
    return [negative(x)]


def negative(x: Value) -> Value:
    """``-x``."""
    return dataclasses.replace(
        x,
        value=None if x.value is None else evaluated(operator.neg, x.value),
        offset=None if x.offset is None else -x.offset,
        uniform=None if x.uniform is None else -x.uniform,
        ray=x.ray.times(-1),
        bounds=products(x.bounds, (-1.0, -1.0)),
        parts=tuple(part.scaled(-1.0) for part in x.parts),
        terms=tuple(map(negative, x.terms)),
        factor=None if x.factor is None else _factors.negative(x.factor),
    )


# Sums of parts.


def _select(context: Context, which: Value, *cases: Value) -> list[Operand]:
    [constant] = constants_of([which])
    if (k := _only(constant)) is not None and not cases[k].is_constant:
        return [context.shaped(cases[k])]
    result = merged(context, cases, functools.partial(context.bind, constant))
    rest = [k for k, x in enumerate(cases) if not (x.zero or x.is_mask(1))]
    if len(rest) == 1 and cases[rest[0]].is_data and context.gates:
        return [_masked(context, constant, rest[0], cases, result)]
    return [result]


def _masked(
    context: Context, which: jax.Array, k: int, cases: Sequence[Value], result: Value
) -> Value:
    """Data of which some entries are 0, as those of a statistic, or masked."""
    x, others = cases[k], tuple(case.uniform for case in cases)
    how = ("masked", id(which), others)
    ray = dataclasses.replace(x.ray, name=Moved(x.ray.name, how))
    result = dataclasses.replace(result, ray=ray)
    if not all(case.zero for case in cases if case is not x):
        return result
    mask = Value((which.astype(int) == k).astype(context.dtype))
    factor = _factors.scaled(context, reading(context, x), mask)
    return dataclasses.replace(result, factor=factor)


def _only(which: jax.Array) -> int | None:
    """The case that is always chosen, if it is known."""
    if is_traced(which):
        return None
    chosen = np.unique(np.asarray(which))
    return int(chosen[0]) if chosen.size == 1 else None


def _concatenate(context: Context, *operands: Value) -> list[Operand]:
    return [merged(context, operands, context.bind)]


def _pad(context: Context, x: Value, padding: Value) -> list[Operand]:
    return [merged(context, (x, padding), context.bind)]


def _update_slice(
    context: Context, x: Value, update: Value, *starts: Value
) -> list[Operand]:
    rest = constants_of(starts)
    return [merged(context, (x, update), lambda a, b: context.bind(a, b, *rest))]


def merged(
    context: Context,
    operands: Sequence[Value],
    function: Callable[..., list[jax.Array]],
) -> Value:
    """What a function that is linear in several arrays together makes of them."""
    data = any(x.is_data for x in operands)
    if data:
        note(context, "bias", operands)
    offsets = [x.pending for x in operands]
    zeros = [jnp.zeros(x.shape, context.dtype) for x in operands]

    def joined(*paths: jax.Array) -> jax.Array:
        rest = iter(paths)
        parts = [None if x.is_constant else next(rest) for x in operands]
        return function(*map(_or, parts, zeros))[0]

    return Value(
        None if data else function(*(x.value for x in operands))[0],
        context.linear(
            joined, *(_mass.ordered(x.mass) for x in operands if not x.is_constant)
        ),
        function(*map(_or, offsets, zeros))[0] if _any(offsets) else None,
        all_leaves(operands),
    )


def _any(parts: Sequence[jax.Array | None]) -> bool:
    return any(part is not None for part in parts)


def _or(part: jax.Array | None, default: jax.Array) -> jax.Array:
    return default if part is None else part


# Products.


def _multiply(context: Context, x: Value, y: Value) -> list[Operand]:
    return [product(context, x, y)]


def product(context: Context, x: Value, y: Value) -> Value:
    """``x * y``, elementwise."""
    x, y = state(context, x, y), state(context, y, x)
    if y.is_data or x.is_constant:
        x, y = y, x
    if y.is_data:
        return context.shaped(_of_data(context, x, y))
    if x.is_data:
        note(context, "scale", [y])
    if y.zero and context.gates and is_bounded(x.bounds):
        context.steer(reading(context, x))
        return Value(jnp.zeros(context.out_shape, context.dtype), uniform=0.0)
    factor = y.offset if x.is_weight and y.is_weight else y.value
    mass = context.multiply(x.mass, context.mass(y))
    if x.is_weight and y.is_weight and x.offset is not None:
        mass = context.add(mass, context.multiply(context.edge(x.offset), y.mass))
    result = Value(
        None if x.is_data else x.value * y.value,
        mass,
        None if x.offset is None or factor is None else x.offset * factor,
        all_leaves((x, y)),
        ray=x.ray.multiple() if y.uniform is None else x.ray.times(y.uniform),
        bounds=products(x.bounds, _factors.bounds_of(y)),
        shifted=x.shifted,
        stem=_stem(x, y),
        terms=tuple(product(context, term, y) for term in _terms(x, y)),
        factor=_factor_of_product(context, x, y) if context.gates else None,
        multiple=(x, y) if context.gates else None,
        parts=tuple(part.scaled(y.uniform) for part in x.parts if y.uniform),
    )
    return context.shaped(result)


def _factor_of_product(context: Context, x: Value, y: Value) -> Factor | None:
    """What it still is as a factor."""
    if x.is_weight and y.is_weight:
        same = x.ray.name == y.ray.name
        factors = [reading(context, z) for z in (x, y)]
        return _factors.times(context, *factors) if same else None
    known = y.uniform is not None or not is_bounded(x.bounds)
    if x.factor is None and known:
        return None
    factor = reading(context, x)
    if y.is_constant:
        return _factors.scaled(context, factor, y)
    return _factors.weighted(context, factor, y) if factor.is_gate else None


def _of_data(context: Context, x: Value, y: Value) -> Value:
    """Data times data: paths times a gate, or the products of the masses."""
    if not context.gates:
        raise NoPathError(STATISTICS if x is y else PRODUCT)
    factors = [reading(context, z) for z in (x, y)]
    if (k := which_gates((x, y), factors)) is not None:
        return gated(context, (y, x)[k], factors[k], curve_of(context, (x, y)[k]))
    factor = _factors.times(context, *factors)
    x, y = context.settle(x), context.settle(y)
    return Value(
        None,
        context.multiply(x.mass, y.mass),
        leaves=all_leaves((x, y)),
        bounds=factor.bounds if factor.bounded else UNBOUNDED,
        shifted=factor.bounded and x.shifted and y.shifted,
        factor=factor,
    )


def which_gates(values: Sequence[Value], factors: Sequence[Factor]) -> int | None:
    """Which of two is a gate: of two that are, a shifted one, or one of one sign."""
    gates = [k for k in (0, 1) if factors[k].is_gate]
    if len(gates) == 2 and any(x.mixed for x in values):
        raise NoPathError(JOINED)
    for kinds in ([x.shifted for x in values], [x.one_sided for x in factors]):
        if len(gates) == 2 and len({*kinds}) == 2:
            gates = [kinds.index(True)]
    return gates[0] if len(gates) == 1 else None


def state(context: Context, x: Value, y: Value) -> Value:
    """``x``; as data, if it is zeros that meet a weight: where recurrences start."""
    if context.gates and x.zero and x.is_constant and x.shape and y.is_weight:
        return context.settle(x)
    return x


def _stem(x: Value, y: Value) -> Hashable:
    """That of a product with a weight or a constant."""
    if y.is_constant:
        return x.stem if x.is_data else x.root
    return y.root if x.is_data else None


def _terms(x: Value, y: Value) -> tuple[Value, ...]:
    return x.terms if x.is_weight and y.is_constant else ()


def _divide(context: Context, x: Value, y: Value) -> list[Operand]:
    if y.is_data:
        raise NoPathError(DIVISION)
    if y.is_weight:
        raise NoPathError(DIVISOR)
    return _multiply(context, x, inverse(y))


def inverse(x: Value) -> Value:
    """The inverse of a constant."""
    value = evaluated(lambda value: 1 / value, x.value)
    return Value(value, uniform=1 / x.uniform if x.uniform else None)


def _power(context: Context, x: Value) -> list[Operand]:
    return _raised(context, x, context.params.get("y", 2))


def _power_of(context: Context, x: Value, y: Value) -> list[Operand]:
    if not y.is_constant:
        raise NoPathError(POWER if y.is_data else NONLINEAR)
    return _raised(context, x, y.uniform)


def _raised(context: Context, x: Value, exponent: float | None) -> list[Operand]:
    """The product of as many equal weights."""
    if x.is_data:
        raise NoPathError(STATISTICS if exponent == 2 else POWER)
    if exponent is None or not float(exponent).is_integer():
        raise NoPathError(NONLINEAR)
    if exponent < 1:
        raise NoPathError(DIVISOR)
    factors = itertools.repeat(x, int(exponent))
    return [functools.reduce(functools.partial(product, context), factors)]


# The table.


ROUNDING = ("convert_element_type", "reduce_precision")
"""The primitives that change how numbers are held."""

MOVES = frozenset([*IDENTITIES, *ROUNDING, *MOVING.split()])
"""The primitives that leave a uniform array uniform."""

RULES = rules(
    [
        (_identity, "reduce_precision"),
        (_converted, "convert_element_type"),
        (_moving, MOVING),
        (_summing, "cumsum reduce_sum reduce_window_sum"),
        (_pad, "pad"),
        (_negated, "neg"),
        (_select, "select_n"),
        (_concatenate, "concatenate stack"),
        (_update_slice, "dynamic_update_slice"),
        (_multiply, "mul"),
        (_divide, "div"),
        (_power, "integer_pow square"),
        (_power_of, "pow"),
    ]
)
