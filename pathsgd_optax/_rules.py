"""One path rule for each JAX primitive."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive

from pathsgd_optax import _mass
from pathsgd_optax._mass import Mass, aligned
from pathsgd_optax._values import Comparison, Context, Indices, NoPathError, Operand, Value


Rule: TypeAlias = Callable[..., list[Operand]]

RULES: dict[str, Rule] = {}
"""From the name of a primitive to ``rule(context, *operands)``."""

HOMOGENEOUS = (
    "Paths need operations that a positive factor passes through, such as relu, "
    "leaky_relu, abs, max-pooling and sums. If a softmax or a sigmoid ends the "
    "network, leave it to the loss and return the logits. If you know what the "
    "operation does to path masses, tell register_path_rule."
)
PRODUCT = (
    "it multiplies two values that depend on the inputs (as attention and gates do), "
    "but a path runs through one of them. " + HOMOGENEOUS
)
STATISTICS = (
    "it squares a value that depends on the inputs, as statistics of the data do: "
    "LayerNorm, GroupNorm, or BatchNorm in training mode. Run BatchNorm on its running "
    "averages: train=False or use_running_average=True, or model.eval() in nnx."
)
RANDOM = (
    "it draws random numbers: dropout is active. Switch it off for the trace: "
    "deterministic=True or train=False, or model.eval() in nnx."
)
INTEGERS = (
    "the inputs are integers, which may only look up the rows of an embedding. "
    "Convert them to a floating dtype before, if each is an input unit."
)
NONLINEAR = (
    "a parameter enters it, and it isn't linear. Paths need weights that are products "
    "and sums of parameters; pass what isn't trained, such as running averages, as "
    "`constants`. "
)
CLIPPED = (
    "it clips at a constant that is not 0, as relu6 and hard_tanh do, which rescaling "
    "moves. Use relu. "
)


def apply_rule(context: Context, operands: Sequence[Operand]) -> list[Operand]:
    """The results of an equation."""
    name = context.eqn.primitive.name
    if name.startswith(("random_bits", "threefry", "rng_")):
        raise NoPathError(RANDOM)
    if any(isinstance(x, Indices) for x in operands):
        return _with_indices(context, *operands)
    if any(isinstance(x, Comparison) for x in operands) and name != "select_n":
        raise NoPathError("it computes with a comparison. " + HOMOGENEOUS)
    if all(isinstance(x, Value) and x.is_constant for x in operands):
        return _constant(context, *operands)
    if name not in RULES:
        weights_only = not any(x.is_data for x in operands)
        raise NoPathError((NONLINEAR if weights_only else "") + HOMOGENEOUS)
    return RULES[name](context, *(_cast(context, x) for x in operands))


def _constant(context: Context, *operands: Value) -> list[Operand]:
    moved = RULES.get(context.eqn.primitive.name) in (_moving, _identity)
    zero = moved and all(x.zero for x in operands)
    results = context.bind(*(x.value for x in operands))
    return [Value(result, zero=zero) for result in results]


def _cast(context: Context, x: Operand) -> Operand:
    """Constants that meet paths get their dtype."""
    if isinstance(x, Value) and x.is_constant:
        if jnp.issubdtype(x.value.dtype, jnp.floating):
            return dataclasses.replace(x, value=x.value.astype(context.dtype))
    return x


def _constants(operands: Sequence[Value]) -> list[jax.Array]:
    if not all(x.is_constant for x in operands):
        raise NoPathError("what it computes with must not depend on the inputs.")
    return [x.value for x in operands]


def _leaves(operands: Sequence[Value]) -> frozenset[tuple[int, int]]:
    return frozenset().union(*(x.leaves for x in operands))


# Linear operations of one operand.


def _identity(context: Context, *operands: Value) -> list[Operand]:
    return list(operands)


def _converted(context: Context, x: Value) -> list[Operand]:
    if not jnp.issubdtype(context.params["new_dtype"], jnp.floating):
        raise NoPathError("it makes integers of a floating value. " + HOMOGENEOUS)
    return [x]


def _moving(context: Context, x: Value, *rest: Value) -> list[Operand]:
    """Entries move, or repeat; ``rest`` tells where."""
    constants = _constants(rest)
    return [
        x.map(lambda part, k=k: context.bind(part, *constants)[k])
        for k in range(len(context.eqn.outvars))
    ]


def _summing(context: Context, x: Value) -> list[Operand]:
    return _moving(context, context.settle(x))


def _pad(context: Context, x: Value, padding: Value) -> list[Operand]:
    if not padding.zero:
        raise NoPathError("it pads with something else than 0.")
    return _moving(context, x, padding)


def _negated(context: Context, x: Value) -> list[Operand]:
    mass = x.mass
    return [dataclasses.replace(x.map(jnp.negative), mass=mass)]


# Positively homogeneous operations.


def _homogeneous(context: Context, x: Value) -> list[Operand]:
    """What passes positive numbers on, such as abs and relu."""
    value = None if x.is_data else context.bind(x.value)[0]
    return [dataclasses.replace(context.settle(x), value=value)]


def _pooling(sum_p: Primitive, context: Context, x: Value) -> list[Operand]:
    """The largest of several values has the paths of all."""
    mass = context.mass(x)
    mantissa = sum_p.bind(mass.mantissa, **context.params)
    value = None if x.is_data else context.bind(x.value)[0]
    return [Value(value, mass._replace(mantissa=mantissa), leaves=x.leaves)]


def _extremum(context: Context, x: Value, y: Value) -> list[Operand]:
    """Of 0 and a value, it is a ReLU; of two values, pooling."""
    if not all(z.zero for z in (x, y) if z.is_constant):
        raise NoPathError(CLIPPED + HOMOGENEOUS)
    value = None if x.is_data or y.is_data else context.bind(x.value, y.value)[0]
    paths = [context.settle(z) for z in (x, y) if not z.is_constant]
    mass = functools.reduce(_mass.add, [z.mass for z in paths])
    return [context.shaped(Value(value, mass, leaves=_leaves(paths)))]


def _clamp(context: Context, *operands: Value) -> list[Operand]:
    raise NoPathError(CLIPPED + HOMOGENEOUS)


def _compare(above: bool, context: Context, x: Value, y: Value) -> list[Operand]:
    if y.zero:
        return [Comparison(x, above)]
    if x.zero:
        return [Comparison(y, not above)]
    raise NoPathError("it compares with something else than 0. " + HOMOGENEOUS)


def _select(context: Context, which: Operand, *cases: Value) -> list[Operand]:
    if isinstance(which, Value):
        return [_merged(context, cases, functools.partial(context.bind, which.value))]
    if len(cases) != 2 or not any(x is which.operand for x in cases):
        raise NoPathError(
            "it selects by the sign of another value (as gates do). " + HOMOGENEOUS
        )
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
    pending = any(part is not None for part in offsets)
    zeros = [jnp.zeros(x.shape, context.dtype) for x in operands]
    fill = lambda parts: [z if p is None else p for p, z in zip(parts, zeros)]
    return Value(
        None if data else function(*(x.value for x in operands))[0],
        Mass(function(*fill(parts))[0], exponent, order),
        function(*fill(offsets))[0] if pending else None,
        _leaves(operands),
    )


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
    return _add(context, x, *_negated(context, y))


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
        raise NoPathError("it divides by a value that depends on the inputs. ")
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
    """The magnitude of an operand is taken out of the result, with which XLA fuses it."""
    [mantissa] = bind(x.mantissa, y.mantissa)
    inverse, exponent, order = _mass.unit((x, y)[scaled])
    other = (y, x)[scaled]
    return Mass(mantissa * inverse, exponent + other.exponent, order + other.order)


def _square(context: Context, x: Value, **_: Any) -> list[Operand]:
    raise NoPathError(STATISTICS if x.is_data else NONLINEAR)


# Integers.


def _with_indices(context: Context, *operands: Operand) -> list[Operand]:
    """What is computed with integers that depend on the inputs."""
    floating = [
        jnp.issubdtype(v.aval.dtype, jnp.floating) for v in context.eqn.outvars
    ]
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


# The registry.


def register_path_rule(
    primitive: Primitive, rule: Callable[..., jax.Array | Sequence[jax.Array]]
) -> None:
    if primitive.name in RULES:
        raise ValueError(
            f"the primitive {primitive.name} has a path rule already. A rule is for "
            "everyone who traces a network; define a primitive of your own."
        )
    RULES[primitive.name] = functools.partial(_custom, rule)


def _custom(
    rule: Callable[..., Any], context: Context, *operands: Value
) -> list[Operand]:
    paths = [x for x in operands if not x.is_constant]
    exponent, order = _mass.common_exponent(*map(context.mass, paths))
    arrays = [
        x.value if x.is_constant else aligned(context.mass(x), exponent)
        for x in operands
    ]
    results = rule(*arrays, **context.params)
    results = [results] if isinstance(results, jax.Array) else list(results)
    for x in paths:
        context.uses.add("weight", x) if x.is_weight else None
    return [
        Value(None, Mass(result, exponent, order), leaves=_leaves(operands))
        for result in results
    ]




def _register(rule: Rule, names: str) -> None:
    RULES.update(dict.fromkeys(names.split(), rule))


_register(_identity, "copy name optimization_barrier reduce_precision reshard "
          "sharding_constraint stop_gradient")
_register(_converted, "convert_element_type")
_register(_moving, "broadcast_in_dim dynamic_slice expand_dims gather reshape rev slice split "
          "squeeze transpose")
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
_register(_square, "square integer_pow")
_register(functools.partial(_compare, True), "gt ge")
_register(functools.partial(_compare, False), "lt le")
for sum_p, names in {
    lax.reduce_sum_p: "reduce_max reduce_min",
    lax.reduce_window_sum_p: "reduce_window_max reduce_window_min",
    lax.cumsum_p: "cummax cummin",
}.items():
    _register(functools.partial(_pooling, sum_p), names)
