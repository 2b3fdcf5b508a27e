"""Runs a jaxpr on path values: the equations, the functions they call, the scans."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from pathsgd_optax._networks.traced.carries import Operands
from pathsgd_optax._networks.traced.context import Context
from pathsgd_optax._networks.traced.inputs import given, is_given
from pathsgd_optax._networks.traced.reasons import CONTROL
from pathsgd_optax._networks.traced.rules.functions import (
    check_refused,
    evaluate,
    refusal,
)
from pathsgd_optax._networks.traced.rules.registry import (
    CALLS,
    all_constant,
    constant,
)
from pathsgd_optax._networks.traced.scans import parted, scan
from pathsgd_optax._networks.traced.values import (
    Inputs,
    NoPathError,
    Operand,
    Value,
    is_traced,
)


MOST_STEPS = 100
"""The most steps of a while loop that are traced one by one."""


def interpret(
    context: Context, jaxpr: Jaxpr, arguments: Sequence[Operand]
) -> list[Operand]:
    """The results of a jaxpr on path values, constants first among its arguments."""
    variables = [*jaxpr.constvars, *jaxpr.invars]
    values = dict(zip(variables, arguments, strict=True))

    def read(atom: Any) -> Operand:
        return _literal(atom) if isinstance(atom, Literal) else values[atom]

    for eqn in live(jaxpr):
        results = _evaluate(context, eqn, [read(atom) for atom in eqn.invars])
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _literal(atom: Literal) -> Value:
    aval: Any = atom.aval
    return constant(np.asarray(atom.val, aval.dtype))


def is_literal(atom: Any) -> bool:
    """Whether it is a number that stands in the program."""
    return isinstance(atom, Literal)


def live(jaxpr: Jaxpr) -> list[JaxprEqn]:
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
    flow = FLOWS.get(eqn.primitive.name)
    try:
        if flow is not None and not all_constant(operands):
            check_refused(operands)
            return flow(context, operands)
        return _owing(context, evaluate(context, operands))
    except NoPathError as error:
        raise refusal(context, str(error)) from None


def _owing(context: Context, results: Sequence[Operand]) -> list[Operand]:
    """The results, with what they owe if they mix examples."""
    if id(context.eqn) not in context.mixing:
        return list(results)
    debt = frozenset([(context.mixing[id(context.eqn)], 1)])
    return [
        dataclasses.replace(x, leaves=x.leaves | debt) if isinstance(x, Value) else x
        for x in results
    ]


def _called(eqn: JaxprEqn) -> tuple[Jaxpr, Sequence[Any]]:
    for param in eqn.params.values():
        if isinstance(param, ClosedJaxpr):
            return param.jaxpr, param.consts
        if isinstance(param, Jaxpr):
            return param, ()
    raise NotImplementedError(f"{eqn.primitive} without a jaxpr")


def _call(
    context: Context, function: ClosedJaxpr, arguments: Sequence[Operand]
) -> list[Operand]:
    constants = map(constant, function.consts)
    return interpret(context, function.jaxpr, [*constants, *arguments])


# Control flow.


def _conditional(context: Context, operands: Sequence[Operand]) -> list[Operand]:
    """The branch that is taken."""
    if isinstance(operands[0], Inputs) and all(map(is_given, operands)):
        return given(context, *operands)
    branches = context.params["branches"]
    index = min(max(_known(operands[0]), 0), len(branches) - 1)
    return _call(context, branches[index], operands[1:])


def _loop(context: Context, operands: Sequence[Operand]) -> list[Operand]:
    """Step after step, for as long as the condition is known to hold."""
    params = context.params
    ends = (params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"])
    first, second = operands[: ends[0]], operands[slice(*ends)]
    carry = list(operands[ends[1] :])
    for _ in range(MOST_STEPS):
        [going] = _call(context, params["cond_jaxpr"], [*first, *carry])
        if isinstance(going, Inputs) and all(map(is_given, operands)):
            return given(context, *operands)
        if not _known(going):
            return carry
        carry = _call(context, params["body_jaxpr"], [*second, *carry])
    raise NoPathError(CONTROL)


def _scan(context: Context, operands: Sequence[Operand]) -> list[Operand]:
    """What each step hands on as it is, such as weights, is no carry."""
    jaxpr, closed = _called(context.eqn)
    first = [*map(constant, closed)]
    constants, carry, rows = parted(operands, context.eqn, jaxpr)
    carried = jaxpr.invars[len(constants) :][: len(carry)]
    kept = [x is y for x, y in zip(carried, jaxpr.outvars, strict=False)]
    moves = [not same for same in kept]
    fixed = list(itertools.compress(carry, kept))

    def body(context: Context, arguments: Sequence[Operand]) -> list[Operand]:
        ends = (len(constants), len(constants) + len(fixed))
        rest = _inserted(kept, arguments[slice(*ends)], arguments[ends[1] :])
        results = interpret(context, jaxpr, [*first, *arguments[: ends[0]], *rest])
        return [*itertools.compress(results, moves), *results[len(moves) :]]

    moving = list(itertools.compress(carry, moves))
    results = scan(context, body, Operands([*constants, *fixed], moving, rows))
    return _inserted(kept, fixed, results)


def _inserted(
    kept: Sequence[bool], fixed: Sequence[Operand], others: Sequence[Operand]
) -> list[Operand]:
    """Both in one order, in which ``kept`` marks the fixed ones."""
    first, last = iter(fixed), iter(others)
    return [*(next(first if same else last) for same in kept), *last]


def _known(x: Operand) -> int:
    """A number that is known when the network is traced."""
    if not (isinstance(x, Value) and x.is_constant) or is_traced(x.value):
        raise NoPathError(CONTROL)
    return int(x.value)


FLOWS = {"cond": _conditional, "scan": _scan, "while": _loop}
"""From the name of a primitive to what it calls, and how often."""
