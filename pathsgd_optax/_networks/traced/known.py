"""What is known of single entries of what the inputs make, while these move.

Entries are known where the inputs have no say in them, as in padding; above all, which
are 0.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pathsgd_optax._networks.traced.context import Context
from pathsgd_optax._networks.traced.values import Inputs, Value, is_traced


MOVING = (
    "broadcast_in_dim dynamic_slice gather reshape rev slice split squeeze tile "
    "transpose unstack"
)
"""The primitives that return entries of their operand."""

MOVED = {
    **dict.fromkeys(MOVING.split(), slice(0, 1)),
    **dict.fromkeys("concatenate pad stack".split(), slice(None)),
    "dynamic_update_slice": slice(0, 2),
    "scatter": slice(0, 3, 2),
    "select_n": slice(1, None),
}
"""The primitives that move entries, and which of their operands those are of."""

ELEMENTWISE = frozenset(
    "abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp "
    "convert_element_type cos cosh div eq erf exp exp2 expm1 floor ge gt integer_pow "
    "le log log1p logistic lt max min mul ne neg not or pow reduce_precision rem round "
    "rsqrt select_n sign sin sinh sqrt square sub tan tanh xor".split()
)
"""The primitives whose entries are known where those of their operands are."""

SUMMING = {
    **dict.fromkeys(["conv_general_dilated", "dot_general"], slice(None)),
    **dict.fromkeys(["cumsum", "reduce_sum", "reduce_window_sum"], slice(None)),
    "scatter-add": slice(0, 3, 2),
}
"""The primitives that sum entries or products of them, and which operands' they are."""

PADDING = frozenset(["conv_general_dilated", "reduce_window_sum"])
"""Those whose windows may lie where there are no entries."""

Known = tuple[Any, Any]
"""Where the inputs have a say, and the entries where they have none."""


def followed(context: Context, operands: Sequence[Any]) -> list[Known]:
    """What is known of the entries of the results."""
    name = context.eqn.primitive.name
    if name in MOVED:
        moved = range(len(operands))[MOVED[name]]
        places = [x for k, x in enumerate(operands) if k not in moved]
        if all(isinstance(x, Value) for x in places):
            return _moved(context, operands, MOVED[name])
    if name in ELEMENTWISE:
        return [_elementwise(context, operands)]
    if name in SUMMING:
        return [_summed(context, operands)]
    return [(None, None)] * len(context.eqn.outvars)


def _moved(context: Context, operands: Sequence[Any], where: slice) -> list[Known]:
    if all(is_free(x) for x in operands[where]):
        return [(None, None)] * len(context.eqn.outvars)

    def bind(parts: Sequence[Any]) -> list[jax.Array]:
        arrays = [x.value for x in operands]
        arrays[where] = parts[where]
        return evaluated(context.bind, *arrays)

    return list(zip(*map(bind, parts(operands, avals_of(context))), strict=True))


def _elementwise(context: Context, operands: Sequence[Any]) -> Known:
    absorbing = context.eqn.primitive.name in ("and", "mul")
    factors = [x for x in operands if absorbing and not (is_free(x) or _is_live(x))]
    if any(map(is_free, operands)) and not factors:
        return None, None
    frees, values = parts(operands, avals_of(context))
    free, value = _any(context, frees), evaluated(context.bind, *values)[0]
    if not factors:
        return free, value
    dead = _any(context, map(_known_zero, frees, values))
    free = evaluated(lambda free, dead: free & ~dead, free, dead)
    zero = np.zeros((), value.dtype)
    return free, evaluated(lambda dead, x: jnp.where(dead, zero, x), dead, value)


def _summed(context: Context, operands: Sequence[Any]) -> Known:
    """Sums of nothing but zeros are 0, as where a window lies in the padding."""
    name, avals = context.eqn.primitive.name, avals_of(context)
    summed = range(len(operands))[SUMMING[name]]
    arrays = [x.value for x in operands]
    for k in summed:
        arrays[k] = _nonzero(operands[k], avals[k])
    if any(array is None or is_traced(array) for array in arrays):
        return None, None
    if name not in PADDING and all(arrays[k].all() for k in summed):
        return None, None
    for k in summed:
        arrays[k] = arrays[k].astype(np.float32)
    [terms] = _bind_known(context, arrays)
    [aval] = [v.aval for v in context.eqn.outvars]
    return terms > 0, np.zeros(aval.shape, aval.dtype)


def _bind_known(context: Context, arrays: Sequence[Any]) -> list[jax.Array]:
    """The primitive itself, of other dtypes."""
    dtypes = {"preferred_element_type"} & context.params.keys()
    bind = functools.partial(context.bind, **dict.fromkeys(dtypes))
    results: list[jax.Array] = evaluated(bind, *arrays)
    return results


def _nonzero(x: Inputs | Value, aval: Any) -> Any:
    """Where an entry isn't known to be 0; None if that isn't known yet."""
    if is_free(x):
        return np.ones(aval.shape, bool)
    free = x.free if isinstance(x, Inputs) else np.zeros((), bool)
    if is_traced(x.value) or is_traced(free):
        return None
    return (np.asarray(x.value) != 0) | np.asarray(free)


def is_free(x: Inputs | Value) -> bool:
    return isinstance(x, Inputs) and x.free is None


def _is_live(x: Inputs | Value) -> bool:
    """Whether all entries are known not to be 0."""
    return isinstance(x, Value) and x.uniform not in (None, 0)


def _known_zero(free: Any, value: Any) -> Any:
    zero = np.zeros((), value.dtype)
    return evaluated(lambda free, value: ~free & (value == zero), free, value)


def _any(context: Context, masks: Any) -> Any:
    """Where any of the masks is true, in the shape of the result."""

    def join(x: Any, y: Any) -> Any:
        return evaluated(lambda x, y: jnp.logical_or(x, y), x, y)

    mask = functools.reduce(join, masks)
    return evaluated(lambda mask: jnp.broadcast_to(mask, context.out_shape), mask)


def parts(operands: Sequence[Any], avals: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Where the inputs have a say in each operand, and its entries elsewhere."""
    frees = [
        x.free if isinstance(x, Inputs) else np.zeros(aval.shape, bool)
        for x, aval in zip(operands, avals, strict=True)
    ]
    values = [x.value for x in operands]
    for k, aval in enumerate(avals):
        if frees[k] is None:
            frees[k] = np.ones(aval.shape, bool)
            values[k] = np.zeros(aval.shape, aval.dtype)
    return frees, values


def evaluated(function: Callable[..., Any], *arrays: Any) -> Any:
    """Evaluates it at once, if all arrays are known when the network is traced."""
    if any(map(is_traced, arrays)):
        return function(*arrays)
    with jax.ensure_compile_time_eval():
        return function(*arrays)


def avals_of(context: Context) -> list[Any]:
    return [v.aval for v in context.eqn.invars]
