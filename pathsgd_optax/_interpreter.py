"""Runs a jaxpr on path values: the equations, the functions they call, the scans."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from pathsgd_optax._mass import Mass, aligned
from pathsgd_optax._places import place
from pathsgd_optax._rules import CALLS, all_constant, apply_rule
from pathsgd_optax._values import Context, Indices, NoPathError, Operand, Uses, Value


CARRIED = (-1, 1)
"""The ray of all that a scan carries, between two steps: a carry has one structure."""


def interpret(
    context: Context, jaxpr: Jaxpr, arguments: Sequence[Operand]
) -> list[Operand]:
    """The results of a jaxpr on path values, constants first among its arguments."""
    variables = [*jaxpr.constvars, *jaxpr.invars]
    values = dict(zip(variables, arguments, strict=True))

    def read(atom: Any) -> Operand:
        return _literal(atom) if isinstance(atom, Literal) else values[atom]

    for eqn in _live(jaxpr):
        results = _evaluate(context, eqn, [read(atom) for atom in eqn.invars])
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def constant(array: Any) -> Value:
    """What depends neither on the inputs nor on parameters."""
    uniform = None
    if isinstance(array, np.ndarray | jax.Array) and not _is_traced(array):
        uniform = _uniform(array)
    known = array if isinstance(array, jax.Array) else jnp.asarray(array)
    return Value(known, uniform=uniform)


def _is_traced(array: Any) -> bool:
    return isinstance(array, jax.core.Tracer)


def _uniform(array: np.ndarray | jax.Array) -> float | None:
    """The number that all entries of a floating array are, if there is one."""
    if array.size == 0 or not jnp.issubdtype(array.dtype, jnp.floating):
        return None
    entries = np.ravel(array)
    return float(entries[0]) if np.all(entries == entries[0]) else None


def _literal(atom: Literal) -> Value:
    aval: Any = atom.aval
    uniform = float(atom.val) if jnp.ndim(atom.val) == 0 else None
    return Value(jnp.asarray(atom.val, aval.dtype), uniform=uniform)


def _live(jaxpr: Jaxpr) -> list[JaxprEqn]:
    """The equations that the results depend on."""
    needed = {atom for atom in jaxpr.outvars if not isinstance(atom, Literal)}
    kept = []
    for eqn in reversed(jaxpr.eqns):
        if not needed.isdisjoint(eqn.outvars):
            kept.append(eqn)
            needed.update(v for v in eqn.invars if not isinstance(v, Literal))
    return kept[::-1]


def _evaluate(
    context: Context, eqn: JaxprEqn, operands: Sequence[Operand]
) -> list[Operand]:
    callers = (
        context.callers if context.eqn is None else (*context.callers, context.eqn)
    )
    context = dataclasses.replace(context, eqn=eqn, callers=callers)
    if eqn.primitive.name in CALLS:
        jaxpr, constants = _called(eqn)
        return interpret(context, jaxpr, [*map(constant, constants), *operands])
    try:
        if eqn.primitive.name == "scan" and not all_constant(operands):
            return _scan(context, operands)
        return apply_rule(context, operands)
    except NoPathError as error:
        where = f"{eqn.primitive.name}{place((*context.callers, eqn))}"
        raise ValueError(f"{where} has no path semantics: {error}") from None


def _called(eqn: JaxprEqn) -> tuple[Jaxpr, Sequence[Any]]:
    for param in eqn.params.values():
        if isinstance(param, ClosedJaxpr):
            return param.jaxpr, param.consts
        if isinstance(param, Jaxpr):
            return param, ()
    raise NotImplementedError(f"{eqn.primitive} without a jaxpr")


# Scans.


def _scan(context: Context, operands: Sequence[Operand]) -> list[Operand]:
    params, length = context.params, context.params["length"]
    jaxpr, closed = _called(context.eqn)
    constants, carry, rows = _parted(operands, context.eqn, jaxpr)
    constants = [*map(constant, closed), *(_repeated(x, length) for x in constants)]
    rows = [_stack(x, length) for x in rows]

    def body(context: Context, carry: list[Operand], rows: list[Operand]) -> Any:
        arguments = [*constants, *map(_renamed, carry), *rows]
        results = interpret(context, jaxpr, arguments)
        after = zip(results, carry, strict=False)
        return [_like(context, *pair) for pair in after], results[len(carry) :]

    carry = _stable(context, body, carry, rows)
    quiet = dataclasses.replace(context, uses=Uses())
    after, stacks = lax.scan(
        functools.partial(body, quiet),
        carry,
        rows,
        length,
        params["reverse"],
        params["unroll"],
    )
    return [*map(_renamed, after), *map(_unstack, stacks)]


def _parted(
    operands: Sequence[Operand], eqn: JaxprEqn, body: Jaxpr
) -> tuple[list[Operand], list[Operand], list[Operand]]:
    """Constants, carry and rows, told apart by the axis that only rows lose.

    What a scan's parameters say of it differs between versions of JAX.
    """
    rows = sum(map(_is_row, eqn.invars, body.invars))
    carried = len(eqn.outvars) - sum(map(_is_row, eqn.outvars, body.outvars))
    ends = (len(operands) - rows - carried, len(operands) - rows)
    return (
        list(operands[: ends[0]]),
        list(operands[slice(*ends)]),
        list(operands[ends[1] :]),
    )


def _is_row(outer: Any, inner: Any) -> bool:
    return len(outer.aval.shape) > len(inner.aval.shape)


def _stable(
    context: Context, body: Any, carry: Sequence[Operand], rows: Sequence[Operand]
) -> list[Operand]:
    """The carry as what it is after a step: zeros become data, once data is added."""
    carry = [_like(context, x, x) for x in carry]
    first = jax.tree.map(lambda x: x[0], rows)
    while True:
        trial = dataclasses.replace(context, uses=Uses())
        after, _ = jax.eval_shape(functools.partial(body, trial), carry, first)
        joined = [_like(context, *pair) for pair in zip(carry, after, strict=True)]
        if _structure(joined) == _structure(carry):
            context.uses.update(trial.uses)
            return joined
        carry = joined


def _structure(tree: Any) -> Any:
    return jax.tree.structure(tree)


def _like(context: Context, x: Operand, other: Operand) -> Operand:
    """``x``, as data if ``other`` isn't a constant, so that a scan can carry both."""
    if isinstance(x, Indices) and isinstance(other, Indices):
        return x
    if not (isinstance(x, Value) and isinstance(other, Value)):
        raise NoPathError(
            "it carries integers or comparisons that depend on the inputs."
        )
    if x.is_constant and other.is_constant:
        return Value(x.value, ray=CARRIED)
    return Value(None, context.mass(x), None, x.leaves | other.leaves, ray=CARRIED)


def _renamed(x: Operand) -> Operand:
    return x.renamed() if isinstance(x, Value) else x


def _repeated(x: Operand, length: int) -> Operand:
    if not isinstance(x, Value):
        return x
    leaves = frozenset((leaf, times * length) for leaf, times in x.leaves)
    return dataclasses.replace(x, leaves=leaves)


def _stack(x: Operand, length: int) -> Operand:
    """What a scan reads row by row, with exponents for each row."""
    if not isinstance(x, Value) or x.mass is None:
        return x
    mantissa, *exponents = x.mass
    repeated = [jnp.broadcast_to(exponent, (length,)) for exponent in exponents]
    return dataclasses.replace(x, mass=Mass(mantissa, *repeated))


def _unstack(x: Operand) -> Operand:
    """What a scan wrote row by row, with one exponent."""
    if not isinstance(x, Value) or x.mass is None:
        return x
    order = jnp.max(x.mass.order)
    exponent = lax.max(order, jnp.min(x.mass.exponent))
    rows = x.mass.exponent.reshape(-1, *[1] * (x.mass.mantissa.ndim - 1))
    mantissa = aligned(x.mass._replace(exponent=rows), exponent)
    return dataclasses.replace(x, mass=Mass(mantissa, exponent, order))
