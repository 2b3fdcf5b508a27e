"""The registry of path rules, and how an equation finds its own."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive

from pathsgd_optax._networks.traced.bounds import UNBOUNDED, hull
from pathsgd_optax._networks.traced.context import Context
from pathsgd_optax._networks.traced.inputs import (
    IDENTITIES,
    entered,
    given,
    is_given,
    scaled,
)
from pathsgd_optax._networks.traced.known import evaluated
from pathsgd_optax._networks.traced.rays import Step
from pathsgd_optax._networks.traced.reasons import (
    DEVICES,
    NONLINEAR,
    ORDER,
    READ_WITH_GATES,
    ROOT,
    SPECTRUM,
    UNKNOWN,
)
from pathsgd_optax._networks.traced.rules import (
    comparisons as _comparisons,
    contractions as _contractions,
    pooling as _pooling,
    primitives as _primitives,
    scatters as _scatters,
    solves as _solves,
    sums as _sums,
)
from pathsgd_optax._networks.traced.rules.comparisons import stepped
from pathsgd_optax._networks.traced.rules.factored import as_paths, factored
from pathsgd_optax._networks.traced.rules.factors import range_of
from pathsgd_optax._networks.traced.rules.gates import GATES
from pathsgd_optax._networks.traced.rules.lookups import LOOK_UPS
from pathsgd_optax._networks.traced.rules.operands import Rule, all_leaves, note
from pathsgd_optax._networks.traced.rules.primitives import MOVES
from pathsgd_optax._networks.traced.rules.randomness import (
    DRAWS,
    check_randomness,
    randomness,
)
from pathsgd_optax._networks.traced.rules.softmaxes import in_parts
from pathsgd_optax._networks.traced.values import (
    Factor,
    Inputs,
    Logarithm,
    NoPathError,
    Operand,
    Refused,
    Value,
    Weighed,
    is_traced,
)
from pathsgd_optax._vocabulary import described


RULES: dict[str, Rule] = {
    **_primitives.RULES,
    **_contractions.RULES,
    **_comparisons.RULES,
    **_sums.RULES,
    **_pooling.RULES,
    **_scatters.RULES,
    **_solves.RULES,
}
"""The package's own rules, by the names of their primitives."""

CALLS = frozenset(
    "checkpoint closed_call composite core_call custom_jvp_call custom_vjp_call "
    "custom_vmap_call jit linear_call pjit remat remat2".split()
)
"""The primitives that do nothing but call a function."""

CONTROL_FLOW = frozenset(["cond", "scan", "while"])
"""The primitives that decide which functions they call, or how often."""

CUSTOM: dict[str, Rule] = {}
"""The rules of `register_path_rule`, by the names of their primitives.

A network keeps those that it was traced with.
"""

PLACEMENTS = frozenset(["reshard", "sharding_constraint"])
"""The primitives that tell on which devices an array is."""

CHOICES = frozenset(
    "approx_top_k concatenate cummax cummin dynamic_slice dynamic_update_slice gather "
    "pad reduce_max reduce_min reduce_window_max reduce_window_min scatter select_n "
    "sort stack top_k".split()
)
"""The primitives of whose results each entry is one of the operands'."""

COMPARISONS = frozenset("eq ge gt le lt ne".split())
"""The primitives that choose, where they are no part of a ReLU."""

ROOTS = frozenset(["cbrt", "rsqrt", "sqrt"])
"""The primitives by which a weight is normalised."""

SMALL = 2**12
"""The most entries of a constant that is computed when the network is traced."""


def register_path_rule(
    primitive: Primitive, rule: Callable[..., jax.Array | Sequence[jax.Array]]
) -> None:
    r"""Tells what an operation does to path masses, for every network traced later.

    The mass of a value is the sum, over the paths that lead to it, of the products of
    their weights' :math:`|w_e|^p`. A rule must be linear in the masses together, for
    example the sum of them where the operation selects one of several values.

    Args:
      primitive: a JAX primitive that the package has no rule for; one of your own, or
        one of `jax.extend.core.primitives`. A rule registered before is replaced.
      rule: ``rule(*operands, **params)`` gets, for each operand that depends on the
        inputs or on parameters, its non-negative masses, in the operand's shape, and
        the others as they are. It returns the masses of the result, or a sequence of
        them if there are several results. ``params`` are the primitive's.

    Raises:
      ValueError: if the package has a rule for the primitive, or it is none.

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
    if not isinstance(primitive, Primitive) or not callable(rule):
        raise ValueError(
            "register_path_rule takes a primitive, such as those of "
            "jax.extend.core.primitives, and a function, but got "
            f"{described(primitive)} and {described(rule)}."
        )
    name = primitive.name
    if name in {*RULES, *IDENTITIES, *CALLS, *CONTROL_FLOW} or name.startswith(DRAWS):
        raise ValueError(
            f"the primitive {name} has a path rule of the package's, and another one "
            "would change networks that others trace. Define a primitive of your own."
        )
    CUSTOM[name] = functools.partial(_custom, rule)


def apply_rule(context: Context, operands: Sequence[Operand]) -> list[Operand]:
    """The results of an equation."""
    name = context.eqn.primitive.name
    if not all_constant(operands):
        check_randomness(context, operands)
    if name == "shard_map":
        raise NoPathError(DEVICES)
    if name in PLACEMENTS:
        return list(operands)
    if all_constant(operands):
        return _constant(context, *operands)
    if all(map(is_given, operands)):
        return _given(context, *operands)
    if name in IDENTITIES:
        return list(operands)
    if any(isinstance(x, Step) for x in operands):
        try:
            return _within(context, operands, stepped(context, *operands))
        except NoPathError:
            if not context.gates:
                raise
        operands = [Inputs(binary=True) if isinstance(x, Step) else x for x in operands]
    operands = [_cast(context, x) for x in operands]
    if any(isinstance(x, Logarithm | Weighed) for x in operands):
        return in_parts(context, *operands)
    if any(isinstance(x, Factor) for x in operands):
        results = factored(context, *operands)
        if results is not None:
            return results
        operands = as_paths(context, operands)
    operands = entered(context, operands)
    if any(isinstance(x, Inputs) for x in operands):
        return _within(context, operands, LOOK_UPS[name](context, *operands))
    return _within(context, operands, _by_rule(context, operands))


def _within(
    context: Context, operands: Sequence[Operand], results: list[Operand]
) -> list[Operand]:
    """The results, within the bounds of what they are chosen from."""
    if not context.gates or context.eqn.primitive.name not in CHOICES:
        return results
    cases = [x for x in operands if isinstance(x, Value) and _is_floating(x)]
    low, high = hull([*map(range_of, cases)])
    kinds = {x.shifted for x in cases if x.is_data}
    mixed = len(kinds) > 1 or any(x.mixed for x in cases)
    return [
        dataclasses.replace(x.within(low, high), shifted=True in kinds, mixed=mixed)
        if isinstance(x, Value) and x.is_data and x.bounds == UNBOUNDED
        else x
        for x in results
    ]


def _is_floating(x: Value) -> bool:
    return not x.is_constant or jnp.issubdtype(x.value.dtype, jnp.floating)


def _by_rule(context: Context, operands: Sequence[Operand]) -> list[Operand]:
    """The results of an operation on paths."""
    name = context.eqn.primitive.name
    gates = GATES if context.gates else {}
    rule: Rule | None = context.custom.get(name) or gates.get(name) or RULES.get(name)
    if rule is None:
        raise NoPathError(_unknown(name, operands))
    if not context.gates:
        return rule(context, *operands)
    try:
        return [_chosen(x) for x in rule(context, *operands)]
    except NoPathError:
        if name not in COMPARISONS:
            raise
        return [Inputs(binary=True)]


def _chosen(x: Operand) -> Operand:
    """The order of data as integers that choose."""
    return Inputs() if isinstance(x, Refused) and x.reason == ORDER else x


def _given(context: Context, *operands: Any) -> list[Operand]:
    """What the inputs and constants make, with its paths where it scales and shifts."""
    results = given(context, *operands)
    rule = RULES.get(context.eqn.primitive.name)
    if rule is None:
        return results
    affine = scaled(context, rule, [_cast(context, x) for x in operands])
    return [
        dataclasses.replace(x, affine=affine) if isinstance(x, Inputs) else x
        for x in results
    ]


def _unknown(name: str, operands: Sequence[Operand]) -> str:
    """What is wrong with an operation that has no rule."""
    if name == "fft":
        return SPECTRUM
    if name in ("argmax", "argmin"):
        return ORDER
    if any(isinstance(x, Value) and x.is_data for x in operands):
        return UNKNOWN
    return ROOT if name in ROOTS else NONLINEAR


def needs_gates(name: str, reason: str) -> bool:
    """Whether an operation that is refused may have paths in a network with gates."""
    return reason in READ_WITH_GATES or (reason == UNKNOWN and name in GATES)


def all_constant(operands: Sequence[Operand]) -> bool:
    """Whether nothing depends on the inputs or on parameters."""
    return all(map(_is_constant, operands))


def _is_constant(x: Operand) -> TypeGuard[Value]:
    return isinstance(x, Value) and x.is_constant


def constant(array: Any) -> Value:
    """What depends neither on the inputs nor on parameters."""
    if is_traced(array):
        return Value(array)
    with jax.ensure_compile_time_eval():
        return Value(jnp.asarray(array), uniform=_uniform(array))


def _uniform(array: np.ndarray | jax.Array) -> float | None:
    """The number that all entries of an array are, if there is one."""
    kinds = (jnp.floating, jnp.integer)
    if array.size == 0 or not any(jnp.issubdtype(array.dtype, x) for x in kinds):
        return None
    entries = np.ravel(array)
    return float(entries[0]) if np.all(entries == entries[0]) else None


def _constant(context: Context, *operands: Any) -> list[Operand]:
    random = randomness(context, operands)
    results = _computed(context, *operands)
    return [dataclasses.replace(result, random=random) for result in results]


def _computed(context: Context, *operands: Any) -> list[Value]:
    """Constants, at once, if all is known and small: they may decide on the paths."""
    eqn, arrays = context.eqn, [x.value for x in operands]
    small = all(_is_small(v.aval) for v in eqn.outvars)
    if small and not eqn.effects and not any(map(is_traced, arrays)):
        with jax.ensure_compile_time_eval():
            return [constant(result) for result in context.bind(*arrays)]
    moved = eqn.primitive.name in MOVES and len(operands) == 1
    uniform = operands[0].uniform if moved else None
    return [Value(result, uniform=uniform) for result in context.bind(*arrays)]


def _is_small(aval: Any) -> bool:
    """Whether it is computed at once: rows of integers may be what one_hot compares."""
    is_row = max(aval.shape, default=1) == aval.size
    return aval.size <= SMALL or (is_row and jnp.issubdtype(aval.dtype, jnp.integer))


def _cast(context: Context, x: Operand) -> Operand:
    """Constants that meet paths get their dtype."""
    if _is_constant(x):
        if jnp.issubdtype(x.value.dtype, jnp.floating):
            value = evaluated(lambda array: array.astype(context.dtype), x.value)
            return dataclasses.replace(x, value=value)
    return x


def _custom(
    rule: Callable[..., Any], context: Context, *operands: Value
) -> list[Operand]:
    paths = [context.mass(x) for x in operands if not x.is_constant]

    def nth_result(k: int, *masses: jax.Array) -> jax.Array:
        rest = iter(masses)
        arrays = (x.value if x.is_constant else next(rest) for x in operands)
        results = rule(*arrays, **context.params)
        return results if isinstance(results, jax.Array) else results[k]

    values: list[Any] = [None] * len(context.eqn.outvars)
    if any(x.is_data for x in operands):
        note(context, "weight", operands)
    else:
        values = context.bind(*(x.value for x in operands))
    return [
        Value(
            value,
            context.linear(functools.partial(nth_result, k), *paths),
            leaves=all_leaves(operands),
        )
        for k, value in enumerate(values)
    ]
