"""Runs a jaxpr on path values: the equations, the functions they call, the scans."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from pathsgd_optax._places import place
from pathsgd_optax._rules import CALLS, all_constant, apply_rule
from pathsgd_optax._scans import parted, scan
from pathsgd_optax._values import Context, NoPathError, Operand, Value


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


def _scan(context: Context, operands: Sequence[Operand]) -> list[Operand]:
    jaxpr, closed = _called(context.eqn)
    constants = [*map(constant, closed)]

    def body(context: Context, arguments: Sequence[Operand]) -> list[Operand]:
        return interpret(context, jaxpr, [*constants, *arguments])

    return scan(context, body, parted(operands, context.eqn, jaxpr))


def _called(eqn: JaxprEqn) -> tuple[Jaxpr, Sequence[Any]]:
    for param in eqn.params.values():
        if isinstance(param, ClosedJaxpr):
            return param.jaxpr, param.consts
        if isinstance(param, Jaxpr):
            return param, ()
    raise NotImplementedError(f"{eqn.primitive} without a jaxpr")
