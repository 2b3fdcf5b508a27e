"""What the inputs choose: rows of a table, entries of data, one of several arrays.

A look-up multiplies by a one-hot vector of as many inputs as there are places to look
at. So it has the paths of all these places, as a maximum has those of all its operands.
Where an index is known, whatever the inputs are, it has those of one place. In networks
that normalise or gate it has the mean of the paths of all places, because there the
size of what is looked up counts: one of them is chosen, as by a softmax.
"""

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pathsgd_optax._networks.traced.context import Context
from pathsgd_optax._networks.traced.known import evaluated, parts
from pathsgd_optax._networks.traced.rules.operands import Rule, all_leaves, note
from pathsgd_optax._networks.traced.values import Inputs, Operand, Value, is_traced


Pattern = tuple[bool, ...]
"""Which coordinates of a place the inputs have a say in."""

ANY_ORDER = {"indices_are_sorted": False, "unique_indices": False}
"""What is no longer known of indices, once some of them are 0 instead."""


def gather(context: Context, x: Value, indices: Inputs) -> list[Operand]:
    """Windows of ``x``, whose places are the rows of ``indices``."""
    numbers, sizes = (context.params[k] for k in ("dimension_numbers", "slice_sizes"))
    offsets, shape = numbers.offset_dims, context.out_shape
    [free], [starts] = parts([indices], [context.eqn.invars[1].aval])

    def pick(table: jax.Array, pattern: Pattern) -> jax.Array:
        if all(pattern) and not numbers.operand_batching_dims:
            row = lax.squeeze(table, numbers.collapsed_slice_dims)
            return lax.broadcast_in_dim(row, shape, offsets)
        known = jnp.where(np.broadcast_to(pattern, starts.shape), 0, starts)
        return context.bind(table, known, **ANY_ORDER)[0]

    def spread(mask: jax.Array) -> jax.Array:
        rows = [k for k in range(len(shape)) if k not in offsets]
        return lax.broadcast_in_dim(mask, shape, rows)

    windows = [(axis, sizes[axis]) for axis in numbers.start_index_map]
    return [_look_up(context, x, windows, _patterns(free), pick, spread)]


def dynamic_slice(context: Context, x: Value, *places: Any) -> list[Operand]:
    """A window of ``x``, at one place."""
    frees, starts = parts(places, [v.aval for v in context.eqn.invars[1:]])
    free = evaluated(lambda *frees: jnp.stack(frees), *frees)

    def pick(table: jax.Array, pattern: Pattern) -> jax.Array:
        chosen = zip(pattern, starts, strict=True)
        return context.bind(table, *(0 * x if any_ else x for any_, x in chosen))[0]

    def spread(mask: jax.Array) -> jax.Array:
        return mask

    windows = list(enumerate(context.params["slice_sizes"]))
    return [_look_up(context, x, windows, _patterns(free), pick, spread)]


def select(context: Context, which: Inputs, *cases: Value) -> list[Operand]:
    """One of several values: the paths of all that it may be, in each entry."""
    note(context, "bias" if any(x.is_data for x in cases) else "weight", cases)
    [free], [known] = parts([which], [context.eqn.invars[0].aval])
    known = known.astype(np.int32)
    masks = [(free | (known == k)).astype(context.dtype) for k in range(len(cases))]
    pairs = zip(cases, masks, strict=True)
    possible = [_masked(context, *pair) for pair in pairs if not pair[0].is_no_edge]
    if len(possible) == 1:
        return [*possible]
    masses = [context.mass(x) for x in possible]
    leaves = all_leaves(possible)
    return [Value(None, functools.reduce(context.add, masses), leaves=leaves)]


def _masked(context: Context, x: Value, mask: jax.Array) -> Value:
    """A value times zeros and ones: a multiple of it."""
    masked = context.map(lambda part: part * mask.astype(part.dtype), x)
    if not x.is_data:
        masked = dataclasses.replace(context.settle(masked), value=None)
    return dataclasses.replace(masked, ray=x.ray.multiple())


def _look_up(
    context: Context,
    x: Value,
    windows: Sequence[tuple[int, int]],
    patterns: Sequence[tuple[Pattern, jax.Array | None]],
    pick: Callable[[jax.Array, Pattern], jax.Array],
    spread: Callable[[jax.Array], jax.Array],
) -> Value:
    """The sum over all places of windows of ``x``, given by axes and sizes."""

    def function(mantissa: jax.Array) -> jax.Array:
        found = []
        for pattern, mask in patterns:
            chosen = [pair for pair, any_ in zip(windows, pattern, strict=True) if any_]
            part = pick(_over_places(mantissa, chosen), pattern)
            if context.places:
                part = part / _places(mantissa.shape, chosen)
            found.append(
                part if mask is None else part * spread(mask).astype(part.dtype)
            )
        return functools.reduce(operator.add, found)

    note(context, "weight", [x])
    return Value(None, context.linear(function, context.mass(x)), leaves=x.leaves)


def _places(shape: Sequence[int], windows: Sequence[tuple[int, int]]) -> int:
    """How many windows of these sizes there are."""
    return math.prod(shape[axis] - size + 1 for axis, size in windows)


def _over_places(x: jax.Array, windows: Sequence[tuple[int, int]]) -> jax.Array:
    """The sum of all windows of these sizes along these axes."""
    x = jnp.sum(x, [axis for axis, size in windows if size == 1], keepdims=True)
    for axis, size in windows:
        if 1 < size < x.shape[axis]:
            shape = [1] * x.ndim
            shape[axis] = x.shape[axis] - size + 1
            zero = np.zeros((), x.dtype)
            x = lax.reduce_window(x, zero, lax.add, shape, [1] * x.ndim, "VALID")
    return x


def _patterns(free: Any) -> list[tuple[Pattern, Any]]:
    """What the inputs have a say in, with where this is so, if not everywhere."""
    if is_traced(free):
        found = list(itertools.product((False, True), repeat=free.shape[-1]))
    else:
        rows = np.asarray(free).reshape(-1, free.shape[-1]).tolist()
        found = sorted(set(map(tuple, rows)))
    if len(found) == 1:
        return [(found[0], None)]
    alike = [free == np.broadcast_to(pattern, free.shape) for pattern in found]
    return [(found[k], jnp.all(alike[k], -1)) for k in range(len(found))]


LOOK_UPS: dict[str, Rule] = {
    "dynamic_slice": dynamic_slice,
    "gather": gather,
    "select_n": select,
}
"""What is done where the inputs choose."""
