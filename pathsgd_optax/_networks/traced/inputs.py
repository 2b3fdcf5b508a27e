"""What functions of the inputs alone make: input units of mass 1, integers, masks.

No weight has entered yet, so whatever is computed of inputs and constants is a new
array of inputs. Only what is known of single entries is followed, while they move:
those that are known to be 0 have no mass, and those known to be k look up row k.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from pathsgd_optax._networks.traced.context import RESHAPING, Context
from pathsgd_optax._networks.traced.curves import evaluated as evaluated_as_function
from pathsgd_optax._networks.traced.known import (
    MOVED,
    avals_of,
    followed,
    is_free,
)
from pathsgd_optax._networks.traced.reasons import DIVIDED, INTEGERS, SCALED, WRITTEN
from pathsgd_optax._networks.traced.values import (
    Inputs,
    NoPathError,
    Operand,
    Value,
    is_traced,
)


IDENTITIES = frozenset(
    "copy device_put name optimization_barrier reshard sharding_constraint "
    "stop_gradient".split()
)
"""The primitives that return their operands."""

BINARY = frozenset(
    "convert_element_type cummax cummin cumprod max min mul reduce_max reduce_min "
    "reduce_precision reduce_prod sort".split()
)
"""The primitives that make zeros and ones of zeros and ones, besides moves."""

SCALING = frozenset(["add", "add_any", "div", "mul", "neg", "sub"])
"""The primitives that scale and shift, elementwise."""

PRODUCTS = frozenset(["conv_general_dilated", "div", "dot_general", "mul"])
"""The primitives that multiply. Of what the inputs make, masks alone multiply data."""

CHOOSING = {
    "dynamic_slice": slice(1, None),
    "gather": slice(1, None),
    "select_n": slice(0, 1),
}
"""The primitives by which integers choose, and which operands those are."""


def is_given(x: Operand) -> TypeGuard[Inputs | Value]:
    """Whether it depends on the inputs and on constants alone."""
    return isinstance(x, Inputs) or (isinstance(x, Value) and x.is_constant)


def given(context: Context, *operands: Any) -> list[Operand]:
    """The results of an operation on the inputs and on constants alone."""
    name = context.eqn.primitive.name
    if name in IDENTITIES:
        return list(operands)
    outputs = [v.aval for v in context.eqn.outvars]
    if _marks(name, operands):
        [aval] = outputs
        return [Value(jnp.zeros(aval.shape, aval.dtype), uniform=0.0)]
    binary = _makes_binary(name, operands)
    results = [
        _made(*known, binary or aval.dtype == bool)
        for known, aval in zip(followed(context, operands), outputs, strict=True)
    ]
    return [_with_sizes(context, operands, x) for x in results]


def scaled(
    context: Context, rule: Callable[..., list[Operand]], operands: Sequence[Any]
) -> Operand | None:
    """The paths of units that constants scale and shift, by the rule for data.

    What a scale and a bias of parameters follow is one affine unit with them, as
    BatchNorm is. All else takes it for new units.
    """
    name, avals = context.eqn.primitive.name, avals_of(context)
    places = [k for k, x in enumerate(operands) if isinstance(x, Inputs)]
    if len(places) != 1 or not jnp.issubdtype(avals[places[0]].dtype, jnp.floating):
        return None
    k, values = places[0], list(operands)
    known = operands[k].affine is not None
    followed = SCALING | RESHAPING if known else SCALING
    if name not in followed or (name, k) == ("div", 1):
        return None
    values[k] = operands[k].affine if known else units(context, operands[k], avals[k])
    [result] = rule(context, *values)
    return result


def entered(context: Context, operands: Sequence[Operand]) -> list[Operand]:
    """The operands, with what inputs make as data, and what chooses as it is."""
    name = context.eqn.primitive.name
    chosen_by = range(len(operands))[CHOOSING.get(name, slice(0))]
    data = any(isinstance(x, Value) and x.is_data for x in operands)
    return [
        x
        if k in chosen_by or not isinstance(x, Inputs)
        else _entered(context, x, k, data)
        for k, x in enumerate(operands)
    ]


def _entered(context: Context, x: Inputs, k: int, data: bool) -> Value:
    """Inputs as the sources of paths, or as a mask of data."""
    name, aval = context.eqn.primitive.name, avals_of(context)[k]
    if not jnp.issubdtype(aval.dtype, jnp.floating):
        writes = name.startswith(("scatter", "dynamic_update_slice"))
        raise NoPathError(WRITTEN if writes else INTEGERS)
    if not (data and name in PRODUCTS):
        is_scaled = x.affine is not None and name in SCALING and not data
        return x.affine if is_scaled else units(context, x, aval)
    if context.places and _is_look_up(context, x, k):
        return _shares(context, x, aval, data)
    if x.count is not None:
        return Value(jnp.full(aval.shape, x.count, context.dtype), uniform=x.count)
    if not x.binary:
        if context.gates and name != "div":
            return units(context, x, aval)
        raise NoPathError(DIVIDED if name == "div" else SCALED)
    return Value(live(context, x, aval))


def _is_look_up(context: Context, x: Inputs, k: int) -> bool:
    """Whether the k-th operand of a product chooses one row of the other one."""
    if x.choice is None or context.eqn.primitive.name != "dot_general":
        return False
    contracted, _ = context.params["dimension_numbers"]
    return tuple(contracted[k]) == (x.choice,)


def _shares(context: Context, x: Inputs, aval: Any, data: bool) -> Value:
    """What takes the mean of the masses of all rows, as a look-up does."""
    share = aval.shape[x.choice] ** (-1 / context.p)
    chosen = Value(jnp.full(aval.shape, share, context.dtype), uniform=share)
    return chosen if data else Value(None, context.mass(chosen))


def units(context: Context, x: Inputs, aval: Any) -> Value:
    """Inputs as the sources of paths."""
    return Value(None, context.mass(Value(live(context, x, aval))))


def live(context: Context, x: Inputs, aval: Any) -> jax.Array:
    """1 where an entry isn't known to be 0."""
    if x.free is None:
        return jnp.ones(aval.shape, context.dtype)
    return jnp.asarray(x.free | (x.value != 0), context.dtype)


def _made(free: Any, value: Any, binary: bool) -> Operand:
    if free is None or is_traced(free):
        return Inputs(free, value, binary)
    free = np.asarray(free)
    if free.all():
        return Inputs(binary=binary)
    return Inputs(free, value, binary) if free.any() else Value(value)


def _with_sizes(context: Context, operands: Sequence[Any], x: Operand) -> Operand:
    """A result, with what is known of the size of its entries, or of their sum."""
    if not (context.gates and isinstance(x, Inputs) and x.free is None):
        return x
    choice, count = _choice(context, operands), _counted(context, operands)
    return dataclasses.replace(x, choice=choice, count=count)


def _choice(context: Context, operands: Sequence[Any]) -> int | None:
    """The axis along which an array of one_hot chooses."""
    if context.eqn.primitive.name == "convert_element_type":
        return getattr(operands[0], "choice", None)
    if context.eqn.primitive.name != "eq":
        return None
    pairs = [*zip(operands, avals_of(context), strict=True)]
    shapes = [aval.shape for x, aval in pairs if isinstance(x, Inputs)]
    rows = [x.value for x, _ in pairs if isinstance(x, Value)]
    if len(rows) != 1 or is_traced(rows[0]):
        return None
    [shape], [row] = shapes, rows
    axes = [k for k, size in enumerate(row.shape) if size == row.size and shape[k] == 1]
    distinct = np.unique(np.asarray(row)).size == row.size
    return axes[0] if len(axes) == 1 and distinct else None


def _counted(context: Context, operands: Sequence[Any]) -> float | None:
    """What sums of inputs are, and what is made of these, where all inputs are 1.

    What is 0 then, as what a mean is taken from, is of no size that this would tell.
    """
    name, counts = context.eqn.primitive.name, [*map(_count, operands)]
    if name == "reduce_sum" and is_free(operands[0]):
        [summed], [total] = avals_of(context), [v.aval for v in context.eqn.outvars]
        return (counts[0] or 1.0) * summed.size / max(total.size, 1)
    if all(count is None for count in counts):
        return None
    if name in RESHAPING and len(operands) == 1:
        return counts[0]
    numbers = [_number(*pair) for pair in zip(operands, counts, strict=True)]
    if any(number is None for number in numbers):
        return None
    found = evaluated_as_function(name, context.params, numbers)
    if found is None or found.dtype == bool:
        return None
    return float(found) if 0 < found < np.inf else None


def _count(x: Inputs | Value) -> float | None:
    return x.count if isinstance(x, Inputs) else None


def _number(x: Inputs | Value, count: float | None) -> Any:
    """The number that an operand is, where all inputs are 1."""
    if isinstance(x, Value):
        return x.uniform
    return np.float64(count or 1.0) if x.free is None else None


def _makes_binary(name: str, operands: Sequence[Any]) -> bool:
    if name in MOVED:
        return all(map(is_binary, operands[MOVED[name]]))
    if name == "sub":  # 1 - mask
        return getattr(operands[0], "uniform", None) == 1 and is_binary(operands[1])
    return name in BINARY and all(map(is_binary, operands))


def _marks(name: str, operands: Sequence[Any]) -> bool:
    """Whether it makes 0, and what marks entries where it is added to them."""
    if name == "select_n":
        cases = [x for x in operands[1:] if isinstance(x, Value)]
        marks = all(x.zero or x.is_mask(1) for x in cases)
        return marks and len(cases) == len(operands) - 1
    masks = [x for x in operands if is_binary(x)]
    rest = [x for x in operands if isinstance(x, Value) and x.is_mask(1)]
    return name == "mul" and len(masks) == len(rest) == 1


def is_binary(x: Inputs | Value) -> bool:
    """Whether all entries are known to be 0 or 1."""
    if isinstance(x, Inputs):
        return x.binary
    if is_traced(x.value) or jnp.issubdtype(x.value.dtype, jax.dtypes.prng_key):
        return False
    return bool(np.isin(x.value, (0, 1)).all())
