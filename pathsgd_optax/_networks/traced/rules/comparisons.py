"""Comparisons with 0 and what is made of them: ReLUs, in all their forms.

Whatever stays on the ray of an array has its paths; see `Ray`. A maximum of arrays that
are no multiples of one another has the paths of all, as pooling has.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pathsgd_optax._networks.traced import mass as _mass
from pathsgd_optax._networks.traced.context import Context
from pathsgd_optax._networks.traced.known import MOVING
from pathsgd_optax._networks.traced.mass import Mass
from pathsgd_optax._networks.traced.rays import Moved, Ray, Step
from pathsgd_optax._networks.traced.reasons import CLIPPED, COMPARISON, NONLINEAR
from pathsgd_optax._networks.traced.rules.operands import all_leaves, note, rules
from pathsgd_optax._networks.traced.rules.primitives import how_moved
from pathsgd_optax._networks.traced.values import NO_EDGE, NoPathError, Operand, Value


ELEMENTWISE = frozenset(
    "abs add and convert_element_type div eq ge gt integer_pow le lt max min mul ne "
    "neg not or select_n sign square sub xor".split()
)
"""The primitives that make numbers of numbers, and so steps of steps."""

Sides = tuple[float, float]
"""Numbers for where a value is positive, and for where it is negative."""


# Maxima; ``side`` is 1 for them, and -1 for minima.


def _extremum(side: int, context: Context, x: Value, y: Value) -> list[Operand]:
    return [_extreme(side, context, x, y)]


def _extreme(side: int, context: Context, x: Value, y: Value) -> Value:
    """Of 0 and a value, a ReLU; of a value's multiples, leaky; of others, pooling."""
    if not (x.is_data or y.is_data):
        return _statistic(context, x, y)
    if x.is_constant or y.is_constant:
        data, constant = (y, x) if x.is_constant else (x, y)
        cut = _cut(side, context, data, constant)
        return context.shaped(dataclasses.replace(cut, factor=data.factor))
    note(context, "bias", (x, y))
    x, y = (context.unmasked(z, side) for z in (x, y))
    return context.shaped(_larger(side, context, x, y))


def _statistic(context: Context, x: Value, y: Value) -> Value:
    """A statistic of parameters, which a constant keeps from being 0."""
    weight = y if x.is_constant else x
    if not (context.gates and weight.factor and (x.is_constant or y.is_constant)):
        raise NoPathError(NONLINEAR)
    value = context.bind(x.value, y.value)[0]
    return dataclasses.replace(weight, value=value)


def _cut(side: int, context: Context, x: Value, constant: Value) -> Value:
    if constant.is_mask(side):
        return x
    number = constant.uniform
    if number is None or constant.is_mask(-side) or (number and not context.gates):
        raise NoPathError(CLIPPED)
    largest = max if side == 1 else min
    low, high = (largest(bound, number) for bound in x.bounds)
    shifted = x.shifted or x.offset is not None
    x = context.unmasked(x, side)
    if number == 0:
        slopes = _larger_slopes(side, (x.ray.above, x.ray.below), (0.0, 0.0))
        cut = context.bent(x, *slopes)
    else:
        x = context.settle(x)
        cut = Value(None, x.mass, leaves=x.leaves)
    return dataclasses.replace(cut, bounds=(low, high), shifted=shifted)


def _larger_slopes(side: int, x: Sides, y: Sides) -> Sides:
    largest, smallest = (max, min) if side == 1 else (min, max)
    return largest(x[0], y[0]), smallest(x[1], y[1])


def _larger(side: int, context: Context, x: Value, y: Value) -> Value:
    if x.is_data and y.is_data and x.ray.name == y.ray.name:
        slopes = _larger_slopes(side, *((z.ray.above, z.ray.below) for z in (x, y)))
        return context.bent(max(x, y, key=_steepness), *slopes)
    leaves = all_leaves((x, y))
    if x.is_data and y.is_data and x.ray.is_related_to(y.ray):
        mass = _steeper(context, x.mass, y.mass)
        return Value(None, mass, leaves=leaves, ray=x.ray.multiple())
    return Value(None, context.add(x.mass, y.mass), leaves=leaves)


def _steepness(x: Value) -> float:
    return abs(x.ray.slope)


def _steeper(context: Context, x: Mass, y: Mass) -> Mass:
    """Of the masses of a value's multiples the larger ones."""
    (one, other), _ = _mass.align(x, y)
    chosen = lax.stop_gradient(one >= other)
    return context.linear(lambda a, b: jnp.where(chosen, a, b), x, y)


def _clamp(context: Context, low: Value, x: Value, high: Value) -> list[Operand]:
    if not x.is_data:
        raise NoPathError(NONLINEAR)
    raised = _extreme(1, context, x, low)
    return [_extreme(-1, context, raised, high)]


def _absolute(context: Context, x: Value) -> list[Operand]:
    if x.is_data:
        bent = context.bent(x, abs(x.ray.above), -abs(x.ray.below))
        most = max(map(abs, x.bounds))
        return [dataclasses.replace(bent, factor=x.factor).within(0.0, most)]
    return [Value(context.bind(x.value)[0], context.mass(x), leaves=x.leaves)]


# Comparisons.


def _sign(context: Context, x: Value) -> list[Operand]:
    if x.is_weight:
        raise NoPathError(NONLINEAR)
    above, below = map(float, map(np.sign, _signs(x)))
    return [Step(x.ray.name, above, below)]


def _signs(x: Value) -> Sides:
    """What data is up to a positive factor."""
    return x.ray.above, -x.ray.below


def _compare(
    holds: Callable[[float, float], bool], context: Context, x: Value, y: Value
) -> list[Operand]:
    """Data with 0, with a multiple of its own, or with what marks entries."""
    if not (x.is_data or y.is_data):
        raise NoPathError(NONLINEAR)
    data = x if x.is_data else y
    above, below = map(holds, *(_compared(z, data) for z in (x, y)))
    return [Step(data.ray.name, float(above), float(below))]


def _finite(context: Context, x: Value) -> list[Operand]:
    if x.is_weight:
        raise NoPathError(NONLINEAR)
    return [Step(x.ray.name, 1.0, 1.0)]


def _compared(x: Value, data: Value) -> Sides:
    if x.is_data and x.ray.name == data.ray.name:
        return _signs(x)
    number = x.uniform if x.is_constant else None
    if number is None or 0 < abs(number) < NO_EDGE:
        raise NoPathError(COMPARISON)
    return number, number


# What is computed with the results of comparisons.


def stepped(context: Context, *operands: Any) -> list[Operand]:
    """The results of an operation on steps."""
    name = context.eqn.primitive.name
    if name in MOVING.split() and len(operands) == 1:
        [step] = operands
        return [
            dataclasses.replace(step, name=Moved(step.name, how_moved(context, k)))
            for k in range(len(context.eqn.outvars))
        ]
    if name == "select_n" and isinstance(operands[0], Step):
        return [_selected(context, *operands)]
    if name == "mul" and any(isinstance(x, Value) and x.is_data for x in operands):
        return [_switched(context, *operands)]
    if name not in ELEMENTWISE:
        return _of_constants(context, operands)
    return [_computed(context, operands)]


def _of_constants(context: Context, operands: Sequence[Any]) -> list[Operand]:
    """Where steps are the same on either side, as where nan or inf is looked for."""
    arrays = [
        jnp.full(v.aval.shape, x.above, v.aval.dtype)
        if isinstance(x, Step)
        else x.value
        for x, v in zip(operands, context.eqn.invars, strict=True)
        if not isinstance(x, Step) or x.above == x.below
    ]
    if len(arrays) != len(operands) or any(x is None for x in arrays):
        raise NoPathError(COMPARISON)
    return [Value(result) for result in context.bind(*arrays)]


def _selected(context: Context, which: Step, *cases: Any) -> Operand:
    """Of a value's multiples, one on either side of 0; or one of two numbers."""
    sides = [cases[int(which.above)], cases[int(which.below)]]
    data = [x for x in sides if isinstance(x, Value) and x.is_data]
    if not data:
        above, below = (_number(x, which.name, k) for k, x in enumerate(sides))
        return Step(which.name, above, below)
    slopes = [_slope(x, which.name, k) for k, x in enumerate(sides)]
    if None in slopes:
        return _of_unknown_slope(context, which, sides, slopes)
    above, below = (slope or 0.0 for slope in slopes)
    return context.bent(max(data, key=_steepness), above, below)


def _of_unknown_slope(
    context: Context, which: Step, sides: Sequence[Value], slopes: Sequence[Any]
) -> Value:
    """That of the positive side, or of the other one if that is 0."""
    k = 0 if slopes[0] != 0 else 1
    chosen = context.settle(sides[k])
    if slopes[k] is not None:
        chosen = context.bent(chosen, slopes[k], slopes[k])
    ray = Ray(others=frozenset([which.name]))
    return Value(None, chosen.mass, leaves=chosen.leaves, ray=ray)


def _switched(context: Context, x: Any, y: Any) -> Value:
    """Data times a step on its ray."""
    data, step = (y, x) if isinstance(x, Step) else (x, y)
    ray = data.ray
    if ray.name == step.name:
        return context.bent(data, ray.above * step.above, ray.below * step.below)
    if step.name not in ray.others:
        raise NoPathError(COMPARISON)
    factor = step.above or step.below
    scaled = context.bent(data, ray.above * factor, ray.below * factor)
    return dataclasses.replace(scaled, ray=ray.multiple())


def _computed(context: Context, operands: Sequence[Any]) -> Step:
    """What an elementwise operation makes of the numbers on either side."""
    [name, *others] = {x.name for x in operands if isinstance(x, Step)}
    if others:
        raise NoPathError(COMPARISON)
    dtypes = [v.aval.dtype for v in context.eqn.invars]

    def result(side: int) -> float:
        numbers = [_number(x, name, side) for x in operands]
        with jax.ensure_compile_time_eval():
            arrays = map(jnp.asarray, numbers, dtypes)
            return float(context.bind(*arrays)[0])

    return Step(name, result(0), result(1))


def _number(x: Any, name: Any, side: int) -> float:
    """The number that ``x`` is, above or below."""
    if isinstance(x, Step) and x.name == name:
        return (x.above, x.below)[side]
    if isinstance(x, Value) and x.is_constant and x.uniform is not None:
        return x.uniform
    raise NoPathError(COMPARISON)


def _slope(x: Any, name: Any, side: int) -> float | None:
    """The slope of ``x`` on a ray, above or below; None if that isn't known."""
    if isinstance(x, Value) and x.is_data:
        if x.ray.name == name:
            return (x.ray.above, x.ray.below)[side]
        if name in x.ray.others:
            return None
    elif _number(x, name, side) == 0:
        return 0.0
    raise NoPathError(COMPARISON)


# The table.


RULES = rules(
    [
        (functools.partial(_extremum, 1), "max"),
        (functools.partial(_extremum, -1), "min"),
        (_clamp, "clamp"),
        (_absolute, "abs"),
        (_sign, "sign"),
        (_finite, "is_finite"),
        *(
            (functools.partial(_compare, getattr(operator, name)), name)
            for name in ("gt", "ge", "lt", "le", "eq", "ne")
        ),
    ]
)
