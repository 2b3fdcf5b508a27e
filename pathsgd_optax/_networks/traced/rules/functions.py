"""Equations, of which those that make activations are read by the values they have.

All that is computed of one array, entry by entry, is a function of it. Where its steps
have paths without gates, it has those; where it is a size, as of the terms of a
softmax, it stays one; else it is an activation.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from pathsgd_optax._networks.traced.context import Context
from pathsgd_optax._networks.traced.curves import GRID, Curve, evaluated
from pathsgd_optax._networks.traced.places import place
from pathsgd_optax._networks.traced.rays import Step
from pathsgd_optax._networks.traced.reasons import GATES
from pathsgd_optax._networks.traced.rules import pieces
from pathsgd_optax._networks.traced.rules.activations import activated
from pathsgd_optax._networks.traced.rules.factors import curve_of
from pathsgd_optax._networks.traced.rules.registry import apply_rule, needs_gates
from pathsgd_optax._networks.traced.values import (
    Factor,
    NoPathError,
    Operand,
    Refused,
    Value,
)


SIZES = frozenset("cbrt div exp exp2 integer_pow mul pow rsqrt sqrt".split())
"""The primitives that may make a size of data."""


def evaluate(context: Context, operands: Sequence[Operand]) -> list[Operand]:
    """The results of an equation."""
    curve = _composed(context, operands) if context.gates else None
    if curve is None:
        check_refused(operands)
        return (
            _applied(context, operands)
            if context.gates
            else apply_rule(context, operands)
        )
    keeps = _is_plain(context, operands)
    curve = dataclasses.replace(curve, plain=curve.plain and keeps)
    read = curve.plain or (keeps and _is_on_one_ray(operands))
    result = _by_rule(context, operands) if read else _read(context, operands, curve)
    context.curves[id(result)] = (result, curve)
    return [result]


def _applied(context: Context, operands: Sequence[Operand]) -> list[Operand]:
    """The results; of what was joined before, its parts."""
    if (parts := pieces.split(context, operands)) is not None:
        return parts
    results = apply_rule(context, operands)
    pieces.joined(context, operands, results)
    return results


def check_refused(operands: Sequence[Operand]) -> None:
    """Raises if one of them has been refused before."""
    for x in operands:
        if isinstance(x, Refused):
            raise x.error if x.error else NoPathError(x.reason)


def refusal(context: Context, reason: str) -> ValueError:
    """That an operation has no path semantics, and what to do."""
    name = context.eqn.primitive.name
    where = f"{name}{place((*context.callers, context.eqn))}"
    advice = "" if context.gates or not needs_gates(name, reason) else GATES
    return ValueError(f"{where} has no path semantics: {reason}{advice}")


def _composed(context: Context, operands: Sequence[Any]) -> Curve | None:
    """The result as a function of the one array that all of it is made of."""
    name = context.eqn.primitive.name
    curves = [_curve(context, x) for x in operands]
    roots = {id(curve.root): curve.root for curve in curves if curve is not None}
    if len(roots) != 1 or name in context.custom or len(context.eqn.outvars) != 1:
        return None
    pairs = zip(operands, curves, strict=True)
    samples = [_number(x) if curve is None else curve.samples for x, curve in pairs]
    if any(x is None for x in samples):
        return None
    found = evaluated(name, context.params, samples)
    plain = all(curve.plain for curve in curves if curve is not None)
    [root] = roots.values()
    return None if found is None else Curve(root, found, plain)


def _curve(context: Context, x: Any) -> Curve | None:
    """What an operand is as a function; data of itself, if it is no statistic."""
    if (known := curve_of(context, x)) is not None:
        return known
    if not (isinstance(x, Value) and x.is_data):
        return None
    return Curve(x, GRID) if x.factor is None or not x.factor.degrees else None


def _number(x: Any) -> float | None:
    """The number that all entries of a constant are."""
    return x.uniform if isinstance(x, Value) and x.is_constant else None


def _is_plain(context: Context, operands: Sequence[Operand]) -> bool:
    """Whether the equation has paths in a network without gates."""
    if any(isinstance(x, Refused) for x in operands):
        return False
    try:
        apply_rule(dataclasses.replace(context.quiet(), gates=False), operands)
    except NoPathError:
        return False
    return True


def _is_on_one_ray(operands: Sequence[Operand]) -> bool:
    """Whether it makes multiples of what is a multiple of itself."""
    rays = {x.ray.name for x in operands if isinstance(x, Value) and x.is_data}
    return len(rays) == 1 and all(isinstance(x, Value | Step) for x in operands)


def _read(context: Context, operands: Sequence[Operand], curve: Curve) -> Operand:
    """The result: an activation, if it is no size."""
    if _is_floating(context) and not _is_size(context, operands):
        if (result := activated(context, curve)) is not None:
            return result
    return _by_rule(context, operands)


def _by_rule(context: Context, operands: Sequence[Operand]) -> Operand:
    """The result, or what is wrong with it, if it is used."""
    try:
        check_refused(operands)
        return apply_rule(context, operands)[0]
    except NoPathError as error:
        return Refused(str(error), refusal(context, str(error)))
    except ValueError as error:
        return Refused(str(error), error)


def _is_floating(context: Context) -> bool:
    return jnp.issubdtype(context.eqn.outvars[0].aval.dtype, jnp.floating)


def _is_size(context: Context, operands: Sequence[Operand]) -> bool:
    """Whether the result is a factor, which has no paths until it is used as data."""
    factors = any(isinstance(x, Factor) for x in operands)
    if not factors and context.eqn.primitive.name not in SIZES:
        return False
    if any(isinstance(x, Refused) for x in operands):
        return False
    try:
        return isinstance(apply_rule(context.quiet(), operands)[0], Factor)
    except NoPathError:
        return False
