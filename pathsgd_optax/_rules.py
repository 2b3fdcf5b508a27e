"""One path rule for each JAX primitive."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive

from pathsgd_optax import _mass
from pathsgd_optax._mass import Mass, aligned
from pathsgd_optax._reasons import (
    CLIPPED,
    COMPARISON,
    CONTROL,
    DIVISION,
    INDEXED,
    INTEGERS,
    NONLINEAR,
    PADDED,
    PRODUCT,
    RANDOM,
    ROUNDED,
    STATISTICS,
    UNKNOWN,
)
from pathsgd_optax._values import (
    Comparison,
    Context,
    Indices,
    NoPathError,
    Operand,
    Value,
)


Rule: TypeAlias = Callable[..., list[Operand]]

RULES: dict[str, Rule] = {}
"""From the name of a primitive to ``rule(context, *operands)``."""


def register_path_rule(
    primitive: Primitive, rule: Callable[..., jax.Array | Sequence[jax.Array]]
) -> None:
    r"""Tells what an operation does to path masses, for every network traced later.

    The mass of a value is the sum, over the paths that lead to it, of the products of
    their weights' :math:`|w_e|^p`. A rule must be linear in the masses together, for
    example the sum of them where the operation selects one of several values.

    Args:
      primitive: a JAX primitive without a rule; one of your own, or one of
        `jax.extend.core.primitives`.
      rule: ``rule(*operands, **params)`` gets, for each operand that depends on the
        inputs or on parameters, its non-negative masses, in the operand's shape, and
        the others as they are. It returns the masses of the result, or a sequence of
        them if there are several results. ``params`` are the primitive's.

    Raises:
      ValueError: if the primitive has a rule.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import pathsgd_optax as pathsgd
      >>> pathsgd.register_path_rule(  # a 1-Lipschitz function through 0
      ...     jax.extend.core.primitives.sin_p, lambda mass, **params: mass)
      >>> params = jnp.array([[3.0]])
      >>> network = pathsgd.trace_network(
      ...     lambda w, x: jnp.sin(x @ w), params, jnp.ones((1, 1)))
      >>> print(pathsgd.path_norm(network, params))
      3.0

    References:
      Neyshabur et al., `Geometry of Optimization and Implicit Regularization in Deep
      Learning <https://arxiv.org/abs/1705.03071>`_, 2017, equation (5).
    """
    if primitive.name in RULES:
        raise ValueError(
            f"the primitive {primitive.name} has a path rule; a second one would "
            "change networks that others trace. Define a primitive of your own."
        )
    RULES[primitive.name] = functools.partial(_custom, rule)


def apply_rule(context: Context, operands: Sequence[Operand]) -> list[Operand]:
    """The results of an equation."""
    name = context.eqn.primitive.name
    if name.startswith(("random_bits", "threefry", "rng_")):
        raise NoPathError(RANDOM)
    if any(isinstance(x, Indices) for x in operands):
        return _with_indices(context, *operands)
    if any(isinstance(x, Comparison) for x in operands) and name != "select_n":
        raise NoPathError(COMPARISON)
    if all(isinstance(x, Value) and x.is_constant for x in operands):
        return _constant(context, *operands)
    if name not in RULES:
        data = any(isinstance(x, Value) and x.is_data for x in operands)
        raise NoPathError(UNKNOWN if data else NONLINEAR)
    return RULES[name](context, *(_cast(context, x) for x in operands))


def _constant(context: Context, *operands: Any) -> list[Operand]:
    moved = RULES.get(context.eqn.primitive.name) in (_moving, _identity, _converted)
    uniform = operands[0].uniform if moved and len(operands) == 1 else None
    results = context.bind(*(x.value for x in operands))
    return [Value(result, uniform=uniform) for result in results]


def _custom(
    rule: Callable[..., Any], context: Context, *operands: Value
) -> list[Operand]:
    paths = [context.mass(x) for x in operands if not x.is_constant]
    exponent, order = _mass.common_exponent(*paths)
    rest = iter(paths)
    results = rule(
        *(
            x.value if x.is_constant else aligned(next(rest), exponent)
            for x in operands
        ),
        **context.params,
    )
    _note(context, "weight", operands)
    return [
        Value(None, Mass(result, exponent, order), leaves=_leaves(operands))
        for result in ([results] if isinstance(results, jax.Array) else results)
    ]


def _cast(context: Context, x: Operand) -> Operand:
    """Constants that meet paths get their dtype."""
    if isinstance(x, Value) and x.is_constant:
        if jnp.issubdtype(x.value.dtype, jnp.floating):
            return dataclasses.replace(x, value=x.value.astype(context.dtype))
    return x


def _constants(operands: Sequence[Any]) -> list[jax.Array]:
    if not all(x.is_constant for x in operands):
        raise NoPathError(INDEXED)
    return [x.value for x in operands]


def _leaves(operands: Sequence[Value]) -> frozenset[tuple[int, int]]:
    return frozenset().union(*(x.leaves for x in operands))


# Linear operations of one operand.


def _identity(context: Context, *operands: Value) -> list[Operand]:
    return list(operands)


def _converted(context: Context, x: Value) -> list[Operand]:
    if not jnp.issubdtype(context.params["new_dtype"], jnp.floating):
        raise NoPathError(ROUNDED)
    return [x]


def _moving(context: Context, x: Value, *rest: Value) -> list[Operand]:
    """Entries move, or repeat; ``rest`` tells where."""
    constants = _constants(rest)
    return [
        x.map(functools.partial(_nth_result, context, constants, k))
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
    return [_negative(x)]


def _negative(x: Value) -> Value:
    return dataclasses.replace(x.map(jnp.negative), mass=x.mass)


# Positively homogeneous operations.


def _homogeneous(context: Context, x: Value) -> list[Operand]:
    """What passes positive numbers on, such as abs and relu."""
    value = None if x.is_data else context.bind(x.value)[0]
    return [dataclasses.replace(context.settle(x), value=value)]


def _pooling(
    total: Callable[..., jax.Array], context: Context, x: Value
) -> list[Operand]:
    """The largest of several values has the paths of all."""
    mass = context.mass(x)
    mantissa = total(mass.mantissa, **context.params)
    value = None if x.is_data else context.bind(x.value)[0]
    return [Value(value, mass._replace(mantissa=mantissa), leaves=x.leaves)]


def _total(x: jax.Array, axes: Sequence[int], **_: Any) -> jax.Array:
    return jnp.sum(x, axes)


def _window_total(x: jax.Array, **window: Any) -> jax.Array:
    return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, **window)


def _extremum(context: Context, x: Value, y: Value) -> list[Operand]:
    """Of 0 and a value, it is a ReLU; of two values, pooling."""
    if not all(z.zero or z.is_infinite for z in (x, y) if z.is_constant):
        raise NoPathError(CLIPPED)
    value = None if x.is_data or y.is_data else context.bind(x.value, y.value)[0]
    paths = [context.settle(z) for z in (x, y) if not z.is_constant]
    mass = functools.reduce(_mass.add, [z.mass for z in paths])
    return [context.shaped(Value(value, mass, leaves=_leaves(paths)))]


def _clamp(context: Context, *operands: Value) -> list[Operand]:
    raise NoPathError(CLIPPED)


def _compare(above: bool, context: Context, x: Value, y: Value) -> list[Operand]:
    if y.zero:
        return [Comparison(x, above)]
    if x.zero:
        return [Comparison(y, not above)]
    raise NoPathError(COMPARISON)


def _select(context: Context, which: Operand, *cases: Value) -> list[Operand]:
    if not isinstance(which, Comparison):
        [constant] = _constants([which])
        return [_merged(context, cases, functools.partial(context.bind, constant))]
    if len(cases) != 2 or not any(x is which.operand for x in cases):
        raise NoPathError(COMPARISON)
    other, chosen = cases if which.positive else cases[::-1]
    return [context.settle(other if chosen.zero else chosen)]


# Sums.


def _concatenate(context: Context, *operands: Value) -> list[Operand]:
    return [_merged(context, operands, context.bind)]


def _update_slice(
    context: Context, x: Value, update: Value, *starts: Value
) -> list[Operand]:
    rest = _constants(starts)
    return [_merged(context, (x, update), lambda a, b: context.bind(a, b, *rest))]


def _scatter(
    context: Context, x: Value, indices: Value, updates: Value
) -> list[Operand]:
    [where] = _constants([indices])
    return [_merged(context, (x, updates), lambda a, b: context.bind(a, where, b))]


def _merged(
    context: Context,
    operands: Sequence[Value],
    function: Callable[..., list[jax.Array]],
) -> Value:
    """What a function that is linear in several arrays together makes of them."""
    data = any(x.is_data for x in operands)
    if data:
        _note(context, "bias", operands)
    masses = [x.mass for x in operands if x.mass is not None]
    exponent, order = _mass.common_exponent(*masses)
    parts = [None if x.mass is None else aligned(x.mass, exponent) for x in operands]
    offsets = [x.pending for x in operands]
    zeros = [jnp.zeros(x.shape, context.dtype) for x in operands]
    return Value(
        None if data else function(*(x.value for x in operands))[0],
        Mass(function(*map(_or, parts, zeros))[0], exponent, order),
        function(*map(_or, offsets, zeros))[0] if _any(offsets) else None,
        _leaves(operands),
    )


def _any(parts: Sequence[jax.Array | None]) -> bool:
    return any(part is not None for part in parts)


def _or(part: jax.Array | None, default: jax.Array) -> jax.Array:
    return default if part is None else part


def _note(context: Context, role: str, operands: Sequence[Value]) -> None:
    for x in operands:
        if x.is_weight:
            context.uses.add(role, x)


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
    total = Value(
        None if x.is_data else x.value + y.value,
        functools.reduce(_mass.add, masses),
        functools.reduce(jnp.add, offsets) if offsets else None,
        _leaves((x, y)),
    )
    return [context.shaped(total)]


def _shifted(context: Context, x: Value, bias: Value) -> Value:
    """Data plus a weight that makes one edge with the constant added before."""
    shift = bias.value if x.offset is None else bias.value + x.offset
    mass = _mass.add(x.mass, context.edge(shift, carrier=bias.mass))
    return context.shaped(Value(None, mass, leaves=_leaves((x, bias))))


def _subtract(context: Context, x: Value, y: Value) -> list[Operand]:
    return _add(context, x, _negative(y))


# Products.


def _multiply(context: Context, x: Value, y: Value) -> list[Operand]:
    if y.is_data or x.is_constant:
        x, y = y, x
    if y.is_data:
        raise NoPathError(STATISTICS if x is y else PRODUCT)
    if x.is_data:
        _note(context, "scale", [y])
    factor = y.offset if x.is_weight and y.is_weight else y.value
    mass = _mass.multiply(x.mass, context.mass(y))
    if x.is_weight and y.is_weight and x.offset is not None:
        mass = _mass.add(mass, _mass.multiply(context.edge(x.offset), y.mass))
    product = Value(
        None if x.is_data else x.value * y.value,
        mass,
        None if x.offset is None or factor is None else x.offset * factor,
        _leaves((x, y)),
    )
    return [context.shaped(product)]


def _divide(context: Context, x: Value, y: Value) -> list[Operand]:
    if y.is_data:
        raise NoPathError(DIVISION)
    if y.is_weight:
        raise NoPathError(NONLINEAR)
    return _multiply(context, x, Value(1 / y.value))


def _contract(context: Context, x: Value, y: Value) -> list[Operand]:
    """A convolution or a matrix product."""
    if x.is_data and y.is_data:
        raise NoPathError(PRODUCT)
    data = x.is_data or y.is_data
    if data:
        _note(context, "weight", (x, y))
    bind = functools.partial(context.bind, preferred_element_type=context.dtype)
    mass = _contracted(
        functools.partial(bind, precision=lax.Precision.HIGHEST),
        context.mass(x),
        context.mass(y),
        scaled=0 if x.is_data else 1,
    )
    value = None if data else bind(x.value, y.value)[0]
    return [Value(value, mass, leaves=_leaves((x, y)))]


def _contracted(
    bind: Callable[..., list[jax.Array]], x: Mass, y: Mass, scaled: int
) -> Mass:
    """An operand's magnitude is taken out of the result, as XLA fuses that."""
    [mantissa] = bind(x.mantissa, y.mantissa)
    inverse, exponent, order = _mass.unit((x, y)[scaled])
    other = (y, x)[scaled]
    return Mass(mantissa * inverse, exponent + other.exponent, order + other.order)


def _power(context: Context, x: Value) -> list[Operand]:
    if x.is_weight:
        raise NoPathError(NONLINEAR)
    raise NoPathError(STATISTICS if context.params.get("y", 2) == 2 else UNKNOWN)


def _control(context: Context, *operands: Operand) -> list[Operand]:
    raise NoPathError(CONTROL)


# Integers.


def _with_indices(context: Context, *operands: Operand) -> list[Operand]:
    """What is computed with integers that depend on the inputs."""
    floating = [jnp.issubdtype(v.aval.dtype, jnp.floating) for v in context.eqn.outvars]
    if not any(floating):
        return [Indices() for _ in floating]
    if context.eqn.primitive.name != "gather" or not isinstance(operands[0], Value):
        raise NoPathError(INTEGERS)
    return [_look_up(context, operands[0])]


def _look_up(context: Context, table: Value) -> Value:
    """Rows that depend on the inputs: each is a weight of one of as many inputs."""
    numbers = context.params["dimension_numbers"]
    axes = numbers.start_index_map
    if numbers.collapsed_slice_dims != axes or numbers.operand_batching_dims:
        raise NoPathError(INTEGERS)
    _note(context, "weight", [table])
    mass = context.mass(table)
    total = jnp.sum(mass.mantissa, axes)
    mantissa = lax.broadcast_in_dim(total, context.out_shape, numbers.offset_dims)
    return Value(None, mass._replace(mantissa=mantissa), leaves=table.leaves)


# The rules.


def _register(rule: Rule, names: str) -> None:
    RULES.update(dict.fromkeys(names.split(), rule))


_register(
    _identity,
    "copy device_put name optimization_barrier reduce_precision sharding_constraint "
    "stop_gradient",
)
_register(_converted, "convert_element_type")
_register(
    _moving,
    "broadcast_in_dim dynamic_slice gather reshape rev slice split squeeze tile "
    "transpose",
)
_register(_summing, "cumsum reduce_sum reduce_window_sum")
_register(_pad, "pad")
_register(_negated, "neg")
_register(_homogeneous, "abs")
_register(_extremum, "max min")
_register(_clamp, "clamp")
_register(_select, "select_n")
_register(_concatenate, "concatenate")
_register(_update_slice, "dynamic_update_slice")
_register(_scatter, "scatter scatter-add")
_register(_add, "add add_any")
_register(_subtract, "sub")
_register(_multiply, "mul")
_register(_divide, "div")
_register(_contract, "conv_general_dilated dot_general")
_register(_power, "square integer_pow")
_register(_control, "cond while")
_register(functools.partial(_compare, True), "gt ge")
_register(functools.partial(_compare, False), "lt le")
_register(functools.partial(_pooling, _total), "reduce_max reduce_min")
_register(
    functools.partial(_pooling, _window_total), "reduce_window_max reduce_window_min"
)
_register(functools.partial(_pooling, lax.cumsum), "cummax cummin")
