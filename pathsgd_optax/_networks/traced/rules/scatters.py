"""Scatters: entries of an array are replaced, added to, multiplied or pooled."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from pathsgd_optax._networks.traced.context import Context
from pathsgd_optax._networks.traced.reasons import (
    CLIPPED,
    COINCIDING,
    NONLINEAR,
    PRODUCT,
)
from pathsgd_optax._networks.traced.rules.operands import (
    all_leaves,
    constants_of,
    note,
    rules,
)
from pathsgd_optax._networks.traced.rules.primitives import merged, negative, product
from pathsgd_optax._networks.traced.values import NoPathError, Operand, Value


PLACES = ("dimension_numbers", "indices_are_sorted", "unique_indices", "mode")
"""The parameters that say where a scatter writes."""

Scatter = Callable[..., jax.Array]
"""``scatter(x, indices, updates, **places)``, of `jax.lax`."""


def _at(
    scatter: Scatter, context: Context, indices: Value
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The function of an array and of its updates."""
    [where] = constants_of([indices])
    places = {name: context.params[name] for name in PLACES}
    return lambda x, updates: scatter(x, where, updates, **places)


def _scattered(
    scatter: Scatter, context: Context, x: Value, indices: Value, updates: Value
) -> list[Operand]:
    write = _at(scatter, context, indices)
    return [merged(context, (x, updates), lambda a, b: [write(a, b)])]


def _subtracted(
    context: Context, x: Value, indices: Value, updates: Value
) -> list[Operand]:
    return _scattered(lax.scatter_add, context, x, indices, negative(updates))


def _multiplied(
    context: Context, x: Value, indices: Value, updates: Value
) -> list[Operand]:
    """A product by an array that is 1 elsewhere."""
    ones = Value(jnp.ones(x.shape, context.dtype))
    if updates.is_constant:
        write = _at(lax.scatter_mul, context, indices)
        return [product(context, x, Value(write(ones.value, updates.value)))]
    if updates.is_data:
        raise NoPathError(PRODUCT)
    if not context.params["unique_indices"]:
        raise NoPathError(COINCIDING)
    write = _at(lax.scatter, context, indices)
    factor = merged(context, (ones, updates), lambda a, b: [write(a, b)])
    return [product(context, x, factor)]


def _pooled(
    side: int, context: Context, x: Value, indices: Value, updates: Value
) -> list[Operand]:
    """The largest of several values has the paths of all."""
    add = _at(lax.scatter_add, context, indices)
    operands = (x, updates)
    if not any(z.is_data for z in operands):
        raise NoPathError(NONLINEAR)
    if not all(z.zero or z.is_mask(side) for z in operands if z.is_constant):
        raise NoPathError(CLIPPED)
    note(context, "bias", operands)
    paths = [context.unmasked(z, side) for z in operands if not z.is_constant]

    def total(*masses: jax.Array) -> jax.Array:
        rest = iter(masses)
        parts = [
            jnp.zeros(z.shape, context.dtype) if z.is_constant else next(rest)
            for z in operands
        ]
        return add(*parts)

    mass = context.linear(total, *map(context.mass, paths))
    return [Value(None, mass, leaves=all_leaves(paths))]


RULES = rules(
    [
        (functools.partial(_scattered, lax.scatter), "scatter"),
        (functools.partial(_scattered, lax.scatter_add), "scatter-add"),
        (_subtracted, "scatter-sub"),
        (_multiplied, "scatter-mul"),
        (functools.partial(_pooled, 1), "scatter-max"),
        (functools.partial(_pooled, -1), "scatter-min"),
    ]
)
