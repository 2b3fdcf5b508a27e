"""Softmaxes that are computed in parts.

Of logarithms: ``exp(x - logsumexp(x))``, where what is taken from x divides later. And
of values that are weighed before they are divided: ``(exp(x) @ v) / exp(x).sum()``.
"""

from collections.abc import Callable, Sequence
from typing import Any

from pathsgd_optax._networks.traced.context import Context
from pathsgd_optax._networks.traced.known import MOVING
from pathsgd_optax._networks.traced.reasons import EXPONENTIAL, LOGARITHM
from pathsgd_optax._networks.traced.rules import (
    contractions as _contractions,
    factors as _factors,
    primitives as _primitives,
    sums as _sums,
)
from pathsgd_optax._networks.traced.rules.factored import FACTORED
from pathsgd_optax._networks.traced.rules.factors import gated
from pathsgd_optax._networks.traced.rules.gates import divided, exponential, times
from pathsgd_optax._networks.traced.rules.primitives import negative
from pathsgd_optax._networks.traced.rules.sums import add
from pathsgd_optax._networks.traced.values import (
    Factor,
    Logarithm,
    NoPathError,
    Operand,
    Value,
    Weighed,
)


LINEAR = frozenset(
    f"cumsum convert_element_type dot_general mul neg reduce_sum {MOVING}".split()
)
"""The primitives that do to a weighed value what they do to the value."""

RULES = {**_primitives.RULES, **_contractions.RULES, **_sums.RULES}
"""The rules for what they do to the value."""


def in_parts(context: Context, *operands: Any) -> list[Operand]:
    """The results of an operation on a part of a softmax."""
    if any(isinstance(x, Logarithm) for x in operands):
        return [_logarithmic(context, *operands)]
    return [_weighed(context, *operands)]


# Logarithms.


def _logarithmic(context: Context, *operands: Any) -> Operand:
    name = context.eqn.primitive.name
    match operands:
        case [x] if name == "exp" and x.plus is None:
            return x.of
        case [x] if name == "exp":
            return times(context, exponential(context, x.plus), x.of)
        case [x] if name == "neg":
            return _negative(context, x)
        case [x] if name in (*MOVING.split(), "convert_element_type"):
            return _moved(context, x)
        case [x, y] if name in ("add", "add_any"):
            return _sum(context, x, y)
        case [Logarithm() as x, y] if name == "sub":
            return _sum(context, x, negative(y))
        case [x, y] if name == "sub":
            return _sum(context, x, _negative(context, y))
    raise NoPathError(LOGARITHM)


def _negative(context: Context, x: Logarithm) -> Logarithm:
    plus = None if x.plus is None else negative(x.plus)
    return Logarithm(_factors.power(context, x.of, -1.0), plus)


def _moved(context: Context, x: Logarithm) -> Logarithm:
    name = context.eqn.primitive.name
    found: Any = FACTORED[name](context, x.of)
    plus: Any = None if x.plus is None else RULES[name](context, x.plus)[0]
    return Logarithm(found[0], plus)


def _sum(context: Context, x: Any, y: Any) -> Logarithm:
    """With data; two logarithms have no sum."""
    x, y = (x, y) if isinstance(x, Logarithm) else (y, x)
    if not isinstance(y, Value) or y.is_weight:
        raise NoPathError(LOGARITHM)
    of = _factors.broadcast(context, x.of)
    if x.plus is None:
        return Logarithm(of, None if y.zero else context.shaped(y))
    plus: Any = add(context, x.plus, y)[0]
    return Logarithm(of, plus)


# What is weighed.


def _weighed(context: Context, *operands: Any) -> Operand:
    name = context.eqn.primitive.name
    if any(isinstance(x, Factor) for x in operands) and name in ("mul", "div"):
        return _finished(context, divided if name == "div" else times, *operands)
    factors = {x.factor.degrees: x.factor for x in operands if isinstance(x, Weighed)}
    values = [x.value if isinstance(x, Weighed) else x for x in operands]
    others = [x for x in operands if not isinstance(x, Weighed)]
    is_sum = name in ("add", "add_any") and not others
    if len(factors) > 1 or not (is_sum or (name in LINEAR and _are_fixed(others))):
        raise NoPathError(EXPONENTIAL)
    [factor] = factors.values()
    value: Any = RULES[name](context, *values)[0]
    return Weighed(value, factor)


def _are_fixed(operands: Sequence[Any]) -> bool:
    """Whether none of them depends on data."""
    return all(isinstance(x, Value) and not x.is_data for x in operands)


def _finished(
    context: Context, operation: Callable[..., Operand], x: Any, y: Any
) -> Operand:
    """The product with what makes its weights shares."""
    x, y = (x, y) if isinstance(x, Weighed) else (y, x)
    share = operation(context, x.factor, y) if isinstance(x, Weighed) else None
    if not (isinstance(share, Factor) and share.is_gate):
        raise NoPathError(EXPONENTIAL)
    return context.shaped(gated(context, x.value, share))
