"""The first steps of a scan, as long as they carry something else than later ones.

Zeros meet weights and gates otherwise than data do, and so does a state that is a
parameter. So these steps are run by themselves, as those of a loop in Python are.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from pathsgd_optax._networks.traced.bounds import hull
from pathsgd_optax._networks.traced.carries import Body, Operands, Step, each, sealed
from pathsgd_optax._networks.traced.context import Context
from pathsgd_optax._networks.traced.inputs import is_given, units
from pathsgd_optax._networks.traced.known import evaluated, parts
from pathsgd_optax._networks.traced.loops import Loop, stacked
from pathsgd_optax._networks.traced.rules.factors import range_of
from pathsgd_optax._networks.traced.rules.primitives import merged
from pathsgd_optax._networks.traced.values import Inputs, Operand, Value


MOST = 2
"""The most steps that are run by themselves."""


def starts(
    context: Context, body: Body, step: Step, operands: Operands, loop: Loop
) -> tuple[list[list[Operand]], Operands, Loop]:
    """The rows that the first steps write, and what is left to do."""
    written: list[list[Operand]] = []
    while (
        loop.length
        and len(written) < MOST
        and _differs(context, step, operands, loop.length)
    ):
        rows = [_cut(context, x, loop.row(0)) for x in operands.rows]
        results = body(context, [*operands.constants, *operands.carry, *rows])
        count = len(operands.carry)
        written.append(results[count:])
        rest = loop.rows(slice(1, loop.length))
        rows = [_cut(context, x, rest) for x in operands.rows]
        operands = Operands(operands.constants, results[:count], rows)
        loop = loop._replace(length=loop.length - 1)
    return written, operands, loop


def _differs(context: Context, step: Step, operands: Operands, length: int) -> bool:
    """Whether a step carries on something else than it got, and could be run alone."""
    if not operands.carry:
        return False
    rows = each(functools.partial(stacked, length=length), operands.rows)
    first = jax.tree.map(lambda x: x[0], rows)
    once = functools.partial(step, context.quiet())
    now = Operands(*(each(sealed, x) for x in (*operands[:2], first)))
    try:
        after, outs = jax.eval_shape(once, now)
    except ValueError:
        return False
    plain = all(isinstance(x, Inputs | Value) for x in (*after, *outs, *operands.rows))
    return plain and [*map(_kind, after)] != [*map(_kind, operands.carry)]


def _kind(x: Operand) -> Any:
    """What tells apart how operations read it."""
    if not isinstance(x, Value):
        return type(x)
    if not x.is_data:
        return x.is_weight
    return x.bounds, x.shifted, x.mixed, x.offset is None


def _cut(context: Context, x: Operand, where: int | slice) -> Operand:
    """Some rows, or one of them."""

    def some(array: jax.Array) -> jax.Array:
        return array[where]

    if isinstance(x, Value) and not x.is_constant:
        return context.moved(some, x, ("row", str(where)))
    if isinstance(x, Value):
        return dataclasses.replace(x, value=evaluated(some, x.value))
    if not isinstance(x, Inputs) or x.free is None:
        return x
    free, value = evaluated(some, x.free), evaluated(some, x.value)
    return dataclasses.replace(x, free=free, value=value)


# What all steps have written.


def put_together(
    context: Context, first: list[list[Operand]], outs: list[Operand], loop: Loop
) -> list[Operand]:
    """The stacks of rows that the first steps and the others have written."""
    avals = [v.aval for v in context.eqn.outvars][-len(first[0]) :] if first[0] else []
    columns = [*zip(*first, strict=True)]
    stacks = [[x] for x in outs] or [[] for _ in columns]
    return [
        _stack(context, column, stack, loop, aval)
        for column, stack, aval in zip(columns, stacks, avals, strict=True)
    ]


def _stack(
    context: Context,
    rows: Sequence[Any],
    stack: Sequence[Any],
    loop: Loop,
    aval: Any,
) -> Operand:
    """Rows, and a stack of those that later steps have written."""
    one = jax.ShapeDtypeStruct(aval.shape[1:], aval.dtype)
    rest = jax.ShapeDtypeStruct((loop.length - len(rows), *aval.shape[1:]), aval.dtype)
    avals = [one] * len(rows) + [rest] * len(stack)

    def joined(*arrays: jax.Array) -> jax.Array:
        parts = [x[None] for x in arrays[: len(rows)]] + [*arrays[len(rows) :]]
        return jnp.concatenate(parts[::-1] if loop.reverse else parts)

    operands = [*rows, *stack]
    if all(map(is_given, operands)):
        frees, values = parts(operands, avals)
        free, value = evaluated(joined, *frees), evaluated(joined, *values)
        inputs = any(isinstance(x, Inputs) for x in operands)
        return Inputs(free, value) if inputs else Value(value)
    operands = [
        units(context, x, aval) if isinstance(x, Inputs) else x
        for x, aval in zip(operands, avals, strict=True)
    ]
    result = merged(context, operands, lambda *arrays: [joined(*arrays)])
    low, high = hull([*map(range_of, operands)])
    kinds = {x.shifted for x in operands if x.is_data}
    mixed = len(kinds) > 1 or any(x.mixed for x in operands)
    if not result.is_data:
        return result
    return dataclasses.replace(
        result.within(low, high), shifted=True in kinds, mixed=mixed
    )
