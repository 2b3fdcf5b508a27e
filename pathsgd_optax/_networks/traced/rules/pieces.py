"""Arrays that were joined and are split again: each part is what it was before.

An LSTM applies sigmoid to some columns of a product and tanh to others, joins what they
are, and takes the columns apart again: gates and units, each with their own bounds.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from pathsgd_optax._networks.traced.context import Context
from pathsgd_optax._networks.traced.values import Operand, Value, is_traced


Window = tuple[list[int], list[int]]
"""Where a part of an array starts, and where it ends, along each axis."""


def joined(
    context: Context, operands: Sequence[Operand], results: Sequence[Operand]
) -> None:
    """Notes what an array was joined of, if these are gates and others.

    And what it cumulates, if these are logarithms of gates.
    """
    [result, *_] = results
    if not (isinstance(result, Value) and result.is_data):
        return
    if result.mixed or (
        context.eqn.primitive.name == "cumsum" and result.bounds[1] == 0
    ):
        context.joined[id(result)] = (result, context.eqn, [*operands])


def split(context: Context, operands: Sequence[Operand]) -> list[Operand] | None:
    """The parts of an array that was joined, if each lies within one operand."""
    if not operands or id(operands[0]) not in context.joined:
        return None
    parts = [
        _part(context, operands[0], window) for window in _windows(context, operands)
    ]
    if not parts or any(part is None for part in parts):
        return None
    return [part for part in parts if part is not None]


def cumulated(context: Context, x: Value) -> Value | None:
    """What it cumulates, if these are logarithms of gates."""
    if id(x) not in context.joined:
        return None
    _, eqn, [terms, *_] = context.joined[id(x)]
    found = eqn.primitive.name == "cumsum" and isinstance(terms, Value)
    return terms if found else None


def _windows(context: Context, operands: Sequence[Any]) -> list[Window]:
    """What a primitive takes of its first operand, for each result."""
    params, shape = context.params, [*operands[0].shape]
    match context.eqn.primitive.name:
        case "slice" if set(params["strides"] or [1]) == {1}:
            return [([*params["start_indices"]], [*params["limit_indices"]])]
        case "split":
            axis, ends = params["axis"], np.cumsum(params["sizes"]).tolist()
            return [
                (
                    [0] * axis + [end - size] + [0] * (len(shape) - axis - 1),
                    [*shape[:axis], end, *shape[axis + 1 :]],
                )
                for size, end in zip(params["sizes"], ends, strict=True)
            ]
    return []


def _part(context: Context, x: Any, window: Window) -> Value | None:
    """A window of an array, as one of the operand that it lies in."""
    starts, ends = window
    if id(x) not in context.joined:
        return _sliced(context, x, window)
    _, eqn, operands = context.joined[id(x)]
    if eqn.primitive.name == "select_n":
        return _chosen(context, operands, window)
    if eqn.primitive.name == "stack":
        return _level(context, operands, eqn.params["axis"], window)
    if eqn.primitive.name != "concatenate":
        return None
    axis, before = eqn.params["dimension"], 0
    avals: list[Any] = [v.aval for v in eqn.invars]
    for operand, aval in zip(operands, avals, strict=True):
        after = before + aval.shape[axis]
        if before <= starts[axis] and ends[axis] <= after:
            inner = [*starts], [*ends]
            inner[0][axis] -= before
            inner[1][axis] -= before
            return _part(context, operand, inner)
        before = after
    return None


def _level(
    context: Context, operands: Sequence[Any], axis: int, window: Window
) -> Value | None:
    """That of a stack, if it is of one of its levels."""
    (k, end), inner = (side[axis] for side in window), [[*side] for side in window]
    for side in inner:
        del side[axis]
    part = _part(context, operands[k], (inner[0], inner[1])) if end == k + 1 else None
    if part is None:
        return None
    how = ("broadcast_in_dim", axis)
    return context.moved(lambda x: jnp.expand_dims(x, axis), part, how)


def _chosen(context: Context, operands: Sequence[Any], window: Window) -> Value | None:
    """That of a choice that a constant makes, the same in all entries of it."""
    which, *cases = operands
    if not (isinstance(which, Value) and which.is_constant) or is_traced(which.value):
        return None
    places = tuple(map(slice, *window))
    chosen = np.unique(np.asarray(which.value)[places])
    if chosen.size != 1:
        return None
    return _part(context, cases[int(chosen[0])], window)


def _sliced(context: Context, x: Any, window: Window) -> Value | None:
    if not (isinstance(x, Value) and x.is_data):
        return None
    starts, ends = window
    if not any(starts) and ends == [*x.shape]:
        return x
    how = ("slice", 0, str(window))
    return context.moved(lambda part: lax.slice(part, starts, ends), x, how)
