"""Pooling: the largest, or the k-th largest, of several values has the paths of all."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Literal

from pathsgd_optax._networks.traced.bounds import is_bounded
from pathsgd_optax._networks.traced.context import Context, is_number
from pathsgd_optax._networks.traced.reasons import (
    CLIPPED,
    NONLINEAR,
    ORDER,
    PRODUCT,
    UNKNOWN,
)
from pathsgd_optax._networks.traced.rules.factors import reading
from pathsgd_optax._networks.traced.rules.operands import constants_of, rules
from pathsgd_optax._networks.traced.rules.primitives import how_moved
from pathsgd_optax._networks.traced.values import (
    Factor,
    NoPathError,
    Operand,
    Refused,
    Value,
)


SIDES = {"max": 1, "min": -1}
"""The side of 0 that is chosen."""

Total = Callable[..., jax.Array]
"""``total(x, **params)``: the sum of what a primitive with these parameters pools."""


def _pooled(
    context: Context, x: Value, total: Callable[..., jax.Array], side: int = 0
) -> Value:
    if x.is_weight:
        raise NoPathError(NONLINEAR)
    if side:
        x = context.unmasked(x, side)
    ray = x.ray.summed(how_moved(context, 0))
    mass = context.linear(total, context.mass(x))
    return Value(None, mass, leaves=x.leaves, ray=ray, factor=_any_gate(context, x))


def _any_gate(context: Context, x: Value) -> Factor | None:
    """The gate that any of the entries are, if all are alike."""
    if not (context.gates and is_bounded(x.bounds)):
        return None
    gate = reading(context, x)
    return gate if is_number(gate.size) else None


def _pooling(side: int, total: Total, context: Context, x: Value) -> list[Operand]:
    """The sum of what is pooled; ``side`` is 1 for maxima and -1 for minima."""
    return [_pooled(context, x, functools.partial(total, **context.params), side)]


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
        case "max" | "min" as name:
            side = SIDES[name]
            if not (start.zero or start.is_mask(side)):
                raise NoPathError(CLIPPED)
            return [_pooled(context, x, summed, side)]
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


TOTALS: dict[str, Total] = {
    "reduce_": _total,
    "reduce_window_": _window_total,
    "cum": lax.cumsum,
}
"""How poolings of several kinds sum."""

RULES = rules(
    [
        *(
            (functools.partial(_pooling, side, total), f"{kind}{name}")
            for name, side in SIDES.items()
            for kind, total in TOTALS.items()
        ),
        (_sorted, "sort"),
        (functools.partial(_largest, "axis"), "top_k"),
        (functools.partial(_largest, "reduction_dimension"), "approx_top_k"),
        (functools.partial(_reduced, _dimensions_total), "reduce"),
        (functools.partial(_reduced, _any_window_total), "reduce_window"),
    ]
)
