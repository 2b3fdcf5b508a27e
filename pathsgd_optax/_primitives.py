"""What JAX's own primitives do to paths, a rule for each."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from pathsgd_optax import _mass
from pathsgd_optax._mass import Mass
from pathsgd_optax._operands import all_leaves, constants_of, note, rules
from pathsgd_optax._program import once
from pathsgd_optax._reasons import (
    CLIPPED,
    COMPARISON,
    COMPLEX,
    DIVISION,
    DIVISOR,
    INTEGERS,
    NONLINEAR,
    PADDED,
    POWER,
    PRODUCT,
    ROUNDED,
    STATISTICS,
)
from pathsgd_optax._values import Comparison, Context, NoPathError, Operand, Value


# Linear operations of one operand.


def _identity(context: Context, *operands: Value) -> list[Operand]:
    return list(operands)


def _converted(context: Context, x: Value | Comparison) -> list[Operand]:
    if isinstance(x, Comparison):
        return [x]
    dtype = context.params["new_dtype"]
    if not jnp.issubdtype(dtype, jnp.floating):
        is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
        raise NoPathError(COMPLEX if is_complex else ROUNDED)
    return [x]


def _moving(context: Context, x: Value, *rest: Value) -> list[Operand]:
    """Entries move, or repeat; ``rest`` tells where."""
    constants = constants_of(rest)
    return [
        context.map(functools.partial(_nth_result, context, constants, k), x)
        for k in range(len(context.eqn.outvars))
    ]


def _nth_result(
    context: Context, constants: Sequence[jax.Array], k: int, part: jax.Array
) -> jax.Array:
    return context.bind(part, *constants)[k]


def _summing(context: Context, x: Value) -> list[Operand]:
    return _moving(context, context.settle(x))


def _pad(context: Context, x: Value, padding: Value) -> list[Operand]:
    if not padding.zero:
        raise NoPathError(PADDED)
    return _moving(context, x, padding)


def _negated(context: Context, x: Value) -> list[Operand]:
    return [negative(x)]


def negative(x: Value) -> Value:
    """``-x``."""
    number, sign = x.ray
    return dataclasses.replace(
        x,
        value=None if x.value is None else -x.value,
        offset=None if x.offset is None else -x.offset,
        uniform=None if x.uniform is None else -x.uniform,
        ray=(number, -sign),
    )


# Positively homogeneous operations.


def _absolute(context: Context, x: Value) -> list[Operand]:
    value = None if x.is_data else context.bind(x.value)[0]
    return [dataclasses.replace(context.settle(x), value=value)]


def _extremum(
    which: Callable[..., jax.Array], context: Context, x: Value, y: Value
) -> list[Operand]:
    """Of 0 and a value, a ReLU; of a value's multiples, leaky; of others, pooling."""
    if not (x.is_data or y.is_data):
        raise NoPathError(NONLINEAR)
    if not all(z.zero or z.is_infinite for z in (x, y) if z.is_constant):
        raise NoPathError(CLIPPED)
    note(context, "bias", (x, y))
    paths = [context.settle(z) for z in (x, y) if not z.is_constant]
    combined = context.add
    if x.is_data and y.is_multiple_of(x):
        combined = functools.partial(_of_multiples, which, context)
    mass = functools.reduce(combined, (z.mass for z in paths))
    return [context.shaped(Value(None, mass, leaves=all_leaves(paths)))]


def _of_multiples(
    which: Callable[..., jax.Array], context: Context, x: Mass, y: Mass
) -> Mass:
    """Of the masses of a value's multiples those that are chosen."""
    (one, other), _ = _mass.align(x, y)
    chosen = lax.stop_gradient(which(one, other))
    return context.linear(lambda a, b: jnp.where(chosen, a, b), x, y)


def _clamp(context: Context, *operands: Value) -> list[Operand]:
    raise NoPathError(CLIPPED)


def _compare(above: bool, context: Context, x: Value, y: Value) -> list[Operand]:
    if x.zero:
        x, y, above = y, x, not above
    if not y.zero:
        raise NoPathError(COMPARISON)
    if x.is_weight:
        raise NoPathError(NONLINEAR)
    return [Comparison(x, above == (x.ray[1] > 0))]


def _select(context: Context, which: Operand, *cases: Value) -> list[Operand]:
    """By a constant, a sum of parts; by the sign of a value, one of its multiples."""
    if not isinstance(which, Comparison):
        [constant] = constants_of([which])
        return [merged(context, cases, functools.partial(context.bind, constant))]
    if len(cases) != 2 or not all(x.is_multiple_of(which.operand) for x in cases):
        raise NoPathError(COMPARISON)
    other, chosen = cases if which.positive else cases[::-1]
    return [context.settle(other if chosen.zero else chosen)]


# Sums.


def _concatenate(context: Context, *operands: Value) -> list[Operand]:
    return [merged(context, operands, context.bind)]


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


def _add(context: Context, x: Value, y: Value) -> list[Operand]:
    if y.is_data:
        x, y = y, x
    offsets = [part for part in (x.pending, y.pending) if part is not None]
    if x.is_data and y.is_weight:
        context.uses.add("bias", y)
        if offsets:
            return [_shifted(context, x, y)]
        y = dataclasses.replace(y, mass=_mass.ordered(y.mass))
    masses = [z.mass for z in (x, y) if z.mass is not None]
    added = context.add
    if context.tape is not None and x.is_data and y.is_data:
        added = functools.partial(context.linear, lambda a, b: once(a + b))
    mass = functools.reduce(added, masses)
    total = Value(
        None if x.is_data else x.value + y.value,
        mass,
        functools.reduce(jnp.add, offsets) if offsets else None,
        all_leaves((x, y)),
    )
    return [context.shaped(total)]


def _shifted(context: Context, x: Value, bias: Value) -> Value:
    """Data plus a weight that makes one edge with the constant added before."""
    shift = bias.value if x.offset is None else bias.value + x.offset
    mass = context.add(x.mass, context.edge(shift, carrier=bias.mass))
    return context.shaped(Value(None, mass, leaves=all_leaves((x, bias))))


def _subtract(context: Context, x: Value, y: Value) -> list[Operand]:
    return _add(context, x, negative(y))


# Products.


def _multiply(context: Context, x: Value, y: Value) -> list[Operand]:
    return [product(context, x, y)]


def product(context: Context, x: Value, y: Value) -> Value:
    """``x * y``, elementwise."""
    if y.is_data or x.is_constant:
        x, y = y, x
    if y.is_data:
        raise NoPathError(STATISTICS if x is y else PRODUCT)
    if x.is_data:
        note(context, "scale", [y])
    factor = y.offset if x.is_weight and y.is_weight else y.value
    mass = context.multiply(x.mass, context.mass(y))
    if x.is_weight and y.is_weight and x.offset is not None:
        mass = context.add(mass, context.multiply(context.edge(x.offset), y.mass))
    product = Value(
        None if x.is_data else x.value * y.value,
        mass,
        None if x.offset is None or factor is None else x.offset * factor,
        all_leaves((x, y)),
        ray=x.ray,
    )
    return context.shaped(product)


def _divide(context: Context, x: Value, y: Value) -> list[Operand]:
    if y.is_data:
        raise NoPathError(DIVISION)
    if y.is_weight:
        raise NoPathError(DIVISOR)
    return _multiply(context, x, Value(1 / y.value))


def _contract(context: Context, x: Value, y: Value, *rest: Value) -> list[Operand]:
    """A convolution or a matrix product; ``rest`` tells of which groups."""
    groups = constants_of(rest)
    if x.is_data and y.is_data:
        raise NoPathError(PRODUCT)
    data = x.is_data or y.is_data
    if data:
        note(context, "weight", (x, y))

    def bind(x: jax.Array, y: jax.Array, **precision: Any) -> list[jax.Array]:
        dtype = context.dtype
        return context.bind(x, y, *groups, preferred_element_type=dtype, **precision)

    value = None if data else bind(x.value, y.value)[0]
    mass = _contracted(context, bind, x, y)
    return [Value(value, mass, leaves=all_leaves((x, y)))]


def _contracted(
    context: Context, bind: Callable[..., list[jax.Array]], x: Value, y: Value
) -> Mass:
    first, second = (x, y) if x.is_data else (y, x)

    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        ordered = (a, b) if first is x else (b, a)
        return bind(*ordered, precision=lax.Precision.HIGHEST)[0]

    return context.bilinear(product, context.mass(first), context.mass(second))


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


# Look-ups.


def look_up(context: Context, table: Value) -> Value:
    """Rows that depend on the inputs: each is a weight of one of as many inputs."""
    numbers = context.params["dimension_numbers"]
    axes = numbers.start_index_map
    if numbers.collapsed_slice_dims != axes or numbers.operand_batching_dims:
        raise NoPathError(INTEGERS)
    note(context, "weight", [table])

    def looked_up(mass: jax.Array) -> jax.Array:
        total = jnp.sum(mass, axes)
        return lax.broadcast_in_dim(total, context.out_shape, numbers.offset_dims)

    mass = context.linear(looked_up, context.mass(table))
    return Value(None, mass, leaves=table.leaves)


# The table.


RULES = rules(
    [
        (
            _identity,
            "copy device_put name optimization_barrier reduce_precision "
            "sharding_constraint stop_gradient",
        ),
        (_converted, "convert_element_type"),
        (
            _moving,
            "broadcast_in_dim dynamic_slice gather reshape rev slice split squeeze "
            "tile transpose unstack",
        ),
        (_summing, "cumsum reduce_sum reduce_window_sum"),
        (_pad, "pad"),
        (_negated, "neg"),
        (_absolute, "abs"),
        (functools.partial(_extremum, jnp.greater_equal), "max"),
        (functools.partial(_extremum, jnp.less_equal), "min"),
        (_clamp, "clamp"),
        (_select, "select_n"),
        (_concatenate, "concatenate stack"),
        (_update_slice, "dynamic_update_slice"),
        (_add, "add add_any"),
        (_subtract, "sub"),
        (_multiply, "mul"),
        (_divide, "div"),
        (_contract, "conv_general_dilated dot_general ragged_dot_general"),
        (_power, "integer_pow square"),
        (_power_of, "pow"),
        (functools.partial(_compare, True), "gt ge"),
        (functools.partial(_compare, False), "lt le"),
    ]
)

MOVES = frozenset(
    name for name, rule in RULES.items() if rule in (_identity, _converted, _moving)
)
"""The primitives that leave a uniform array uniform."""
