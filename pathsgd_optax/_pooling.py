"""Pooling: the largest, or the k-th largest, of several values has the paths of all."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Literal

from pathsgd_optax._operands import constants_of, rules
from pathsgd_optax._reasons import CLIPPED, NONLINEAR, ORDER, PRODUCT, UNKNOWN
from pathsgd_optax._values import Context, NoPathError, Operand, Refused, Value


Total = Callable[..., jax.Array]
"""``total(x, **params)``: the sum of what a primitive with these parameters pools."""


def _pooled(context: Context, x: Value, total: Callable[..., jax.Array]) -> Value:
    if x.is_weight:
        raise NoPathError(NONLINEAR)
    return Value(None, context.linear(total, context.mass(x)), leaves=x.leaves)


def _pooling(total: Total, context: Context, x: Value) -> list[Operand]:
    return [_pooled(context, x, functools.partial(total, **context.params))]


def _total(x: jax.Array, axes: Sequence[int], **_: Any) -> jax.Array:
    return jnp.sum(x, axes)


def _window_total(x: jax.Array, **window: Any) -> jax.Array:
    return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, **window)


# Sorting: each of the results may be any of the entries.


def _sorted(context: Context, *operands: Value) -> list[Operand]:
    """By constants, moves; by data, of which each result is one."""
    keys = operands[: context.params["num_keys"]]
    if all(x.is_constant for x in keys):
        return [*keys, *(_permuted(context, keys, x) for x in operands[len(keys) :])]
    axis = context.params["dimension"]
    return [
        Refused(ORDER) if x.is_constant else _any_along(context, axis, k, x)
        for k, x in enumerate(operands)
    ]


def _permuted(context: Context, keys: Sequence[Value], x: Value) -> Value:
    if x.is_constant:
        return Value(context.bind(*(key.value for key in keys), x.value)[-1])
    arrays = constants_of(keys)
    return context.map(lambda part: context.bind(*arrays, part)[-1], x)


def _largest(axis: str, context: Context, x: Value) -> list[Operand]:
    found = _any_along(context, context.params[axis], 0, x)
    return [found, Refused(ORDER)]


def _any_along(context: Context, axis: int, k: int, x: Value) -> Value:
    """The k-th result, each entry of which may be any along an axis."""
    shape = context.eqn.outvars[k].aval.shape

    def total(mass: jax.Array) -> jax.Array:
        return jnp.broadcast_to(jnp.sum(mass, axis, keepdims=True), shape)

    return _pooled(context, x, total)


# Reductions by a function of the user's.


def _reduced(total: Total, context: Context, *operands: Value) -> list[Operand]:
    """A sum or a maximum, if that is what the function is."""
    if len(operands) != 2:
        raise NoPathError(UNKNOWN)
    x, start = operands
    summed = functools.partial(total, **context.params)
    match _operation(context.params["jaxpr"]):
        case "add" if start.zero:
            return [context.map(summed, context.settle(x))]
        case "max" | "min" if start.zero or start.is_infinite:
            return [_pooled(context, x, summed)]
        case "max" | "min":
            raise NoPathError(CLIPPED)
        case "mul":
            raise NoPathError(PRODUCT)
    raise NoPathError(UNKNOWN)


def _operation(function: Any) -> str:
    """The one operation on both arguments that a function is."""
    jaxpr = getattr(function, "jaxpr", function)
    if len(jaxpr.eqns) != 1:
        return ""
    [eqn] = jaxpr.eqns
    arguments = [x for x in eqn.invars if not isinstance(x, Literal)]
    return str(eqn.primitive) if {*arguments} == {*jaxpr.invars} else ""


def _dimensions_total(x: jax.Array, dimensions: Sequence[int], **_: Any) -> jax.Array:
    return jnp.sum(x, dimensions)


def _any_window_total(
    x: jax.Array, jaxpr: Any, consts: Any, **window: Any
) -> jax.Array:
    return _window_total(x, **window)


# The table.


RULES = rules(
    [
        (functools.partial(_pooling, _total), "reduce_max reduce_min"),
        (
            functools.partial(_pooling, _window_total),
            "reduce_window_max reduce_window_min",
        ),
        (functools.partial(_pooling, lax.cumsum), "cummax cummin"),
        (_sorted, "sort"),
        (functools.partial(_largest, "axis"), "top_k"),
        (functools.partial(_largest, "reduction_dimension"), "approx_top_k"),
        (functools.partial(_reduced, _dimensions_total), "reduce"),
        (functools.partial(_reduced, _any_window_total), "reduce_window"),
    ]
)
