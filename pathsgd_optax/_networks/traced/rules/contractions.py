"""Convolutions and matrix products: of data by weights, constants, gates and data."""

import dataclasses
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from pathsgd_optax._networks.traced import mass as _mass
from pathsgd_optax._networks.traced.bounds import products
from pathsgd_optax._networks.traced.context import Context, is_number
from pathsgd_optax._networks.traced.mass import Mass
from pathsgd_optax._networks.traced.rays import Moved
from pathsgd_optax._networks.traced.reasons import PRODUCT
from pathsgd_optax._networks.traced.rules import factors as _factors
from pathsgd_optax._networks.traced.rules.factors import reading
from pathsgd_optax._networks.traced.rules.operands import (
    all_leaves,
    constants_of,
    note,
    rules,
)
from pathsgd_optax._networks.traced.rules.primitives import (
    how_moved,
    state,
    which_gates,
)
from pathsgd_optax._networks.traced.values import Factor, NoPathError, Operand, Value


def _contract(context: Context, x: Value, y: Value, *rest: Value) -> list[Operand]:
    """A convolution or a matrix product; ``rest`` tells of which groups."""
    groups = constants_of(rest)
    if x.is_data and y.is_data and not context.gates:
        raise NoPathError(PRODUCT)
    if x.is_data and y.is_data:
        x, y = _weighed(context, x, y)
    x, y = state(context, x, y), state(context, y, x)
    data = x.is_data or y.is_data
    if data:
        note(context, "weight", (x, y))

    def bind(x: jax.Array, y: jax.Array, **precision: Any) -> list[jax.Array]:
        dtype = context.dtype
        return context.bind(x, y, *groups, preferred_element_type=dtype, **precision)

    value = None if data else bind(x.value, y.value)[0]
    mass = _contracted(context, bind, x, y)
    factor = None
    if context.gates:
        factor = _sum_of_squares(context, x, y) or _mixed_gate(context, bind, x, y)
    result = Value(value, mass, leaves=all_leaves((x, y)), factor=factor)
    shifted = factor is not None and (x.shifted or y.shifted)
    result = dataclasses.replace(result, shifted=shifted)
    return [_of_sums(context, bind, result, x, y) if context.gates else result]


def _of_sums(
    context: Context,
    bind: Callable[..., list[jax.Array]],
    result: Value,
    x: Value,
    y: Value,
) -> Value:
    """A product with the same number in all entries: a sum, as of squares."""
    (data, other), k = ((x, y), 0) if x.is_data else ((y, x), 1)
    number = other.uniform if other.is_constant else None
    if not number or context.eqn.primitive.name != "dot_general":
        return result
    ray = data.ray.summed(how_moved(context, k)).times(number)
    result = dataclasses.replace(result, ray=ray)
    square = data.factor
    if square is None or not square.degrees or not is_number(square.size):
        return result
    count = math.prod(data.shape[axis] for axis in _contracted_axes(context)[k])
    ones = jnp.ones(other.shape, context.dtype)

    def mean(part: jax.Array) -> jax.Array:
        return bind(*((part, ones) if k == 0 else (ones, part)))[0] / count

    factor = dataclasses.replace(
        square,
        size=square.size * abs(number) * count,
        bounds=products(square.bounds, (number * count,) * 2),
        reduced=True,
        mean=None if square.mean is None else _mass.sum_by(mean, square.mean),
    )
    return dataclasses.replace(result, factor=factor)


def _contracted_axes(context: Context) -> tuple[Sequence[int], Sequence[int]]:
    """Those of both operands of a product that it sums over."""
    axes: tuple[Sequence[int], Sequence[int]] = context.params["dimension_numbers"][0]
    return axes


def _mixed_gate(
    context: Context, bind: Callable[..., list[jax.Array]], x: Value, y: Value
) -> Factor | None:
    """What a gate is whose entries constants mix."""
    data, constant = (x, y) if y.is_constant else (y, x)
    if not (data.is_data and constant.is_constant):
        return None
    gate = reading(context, data)
    if not gate.is_gate or gate.weight is not None:
        return None
    size = _factors.full(context, gate.size, data.shape)
    sizes = (size if z is data else jnp.abs(z.value) for z in (x, y))
    bounds = (-math.inf, math.inf)
    return dataclasses.replace(
        gate, size=bind(*sizes)[0], degrees=frozenset(), bounds=bounds, mean=None
    )


def _sum_of_squares(context: Context, x: Value, y: Value) -> Factor | None:
    """What a contraction of an array with itself is, if it is entry by entry."""
    if context.eqn.primitive.name != "dot_general" or not _are_same(context, x, y):
        return None
    square = reading(context, x)
    count = math.prod(x.shape[axis] for axis in _contracted_axes(context)[0])
    if not is_number(square.size) or square.mean is None:
        return None

    def mean(part: jax.Array) -> jax.Array:
        return context.bind(part, jnp.ones(y.shape, part.dtype))[0] / count

    return dataclasses.replace(
        square,
        size=square.size**2 * count,
        degrees=frozenset((name, 2 * degree) for name, degree in square.degrees),
        bounds=(0.0, math.inf),
        reduced=True,
        mean=_mass.sum_by(mean, square.mean),
        value=None,
    )


def _are_same(context: Context, x: Value, y: Value) -> bool:
    """Whether a product multiplies each entry of an array by itself."""
    contracted, batch = context.params["dimension_numbers"]
    axes = [[*batch[side], *contracted[side]] for side in (0, 1)]
    shapes = [[z.shape[axis] for axis in axes[side]] for side, z in enumerate((x, y))]
    whole = math.prod(x.shape) == math.prod(y.shape) == math.prod(shapes[0])
    ordered = all(found == sorted(found) for found in axes)
    if not whole:
        return False
    if axes[0] == axes[1] and x.ray.name == y.ray.name:
        return True
    same = _in_order(x.ray.name) == _in_order(y.ray.name)
    return same and ordered and shapes[0] == shapes[1]


def _in_order(name: Hashable) -> Hashable:
    """The name of the array whose entries are the same ones in the same order."""
    while isinstance(name, Moved) and _keeps_order(name.how):
        name = name.name
    return name


def _keeps_order(how: Any) -> bool:
    return isinstance(how, tuple) and how[0] in (
        "broadcast_in_dim",
        "reshape",
        "squeeze",
    )


def _contracted(
    context: Context, bind: Callable[..., list[jax.Array]], x: Value, y: Value
) -> Mass:
    first, second = (x, y) if x.is_data else (y, x)

    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        ordered = (a, b) if first is x else (b, a)
        return bind(*ordered, precision=lax.Precision.HIGHEST)[0]

    return context.contract(product, context.mass(first), context.mass(second))


def _weighed(context: Context, x: Value, y: Value) -> tuple[Value, ...]:
    """Both, of which a gate is a constant of its size."""
    values, factors = (x, y), [reading(context, z) for z in (x, y)]
    if (gate := which_gates(values, factors)) is None:
        return values
    context.steer(factors[gate])
    size = Value(_factors.full(context, factors[gate].size, values[gate].shape))
    return (size, y) if gate == 0 else (x, size)


RULES = rules([(_contract, "conv_general_dilated dot_general ragged_dot_general")])
