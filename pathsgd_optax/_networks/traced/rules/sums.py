"""Addition: of paths, and of the weights and constants that make one edge together.

What a constant and a weight add to data is one edge, if the constant was added first:
BatchNorm's ``(x - mean) * s + b`` has one of weight ``b - mean * s``. It is the same in
any other order, such as ``x * s + (b - mean * s)``: a constant times the weight that
the data was multiplied by is a constant that was added before.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from pathsgd_optax._networks.traced import mass as _mass, multiples as _multiples
from pathsgd_optax._networks.traced.bounds import UNBOUNDED, sums
from pathsgd_optax._networks.traced.context import Context, edges
from pathsgd_optax._networks.traced.rays import Ray, lineage
from pathsgd_optax._networks.traced.rules import factors as _factors
from pathsgd_optax._networks.traced.rules.factors import base
from pathsgd_optax._networks.traced.rules.operands import all_leaves, note, rules
from pathsgd_optax._networks.traced.rules.primitives import negative
from pathsgd_optax._networks.traced.values import (
    Debt,
    Factor,
    Normalised,
    Operand,
    Value,
)
from pathsgd_optax._numerics.program import once


def add(context: Context, x: Value, y: Value) -> list[Operand]:
    """``x + y``."""
    if y.is_data:
        x, y = y, x
    if y.zero:
        return [context.shaped(x)]
    if x.is_data and y.is_weight:
        biased = _biased(context, x, y)
        return [context.shaped(dataclasses.replace(biased, ray=_ray_of_sum(x, y)))]
    if x.is_data and y.is_data and x.ray.name == y.ray.name:
        return [context.shaped(_of_one_ray(context, x, y))]
    total = _total(context, x, y)
    if context.gates:
        total = _followed(context, total, x, y)
    if x.is_weight and y.is_weight:
        total = dataclasses.replace(total, terms=(*x.summands, *y.summands))
    elif x.is_data and y.is_constant:
        bounds = sums(x.bounds, _factors.bounds_of(y))
        ray = _ray_of_sum(x, y)
        total = dataclasses.replace(
            total, ray=ray, bounds=bounds, shifted=bounds != UNBOUNDED, stem=x.stem
        )
    return [context.shaped(total)]


def _followed(context: Context, total: Value, x: Value, y: Value) -> Value:
    """A sum, with what normalisations and gates have to know of it."""
    if x.is_data and y.is_data:
        total = _multiples.added(context, total, x, y)
    if y.is_constant:
        if x.factor is None:
            return total
        return dataclasses.replace(total, factor=_factors.shifted(context, x.factor, y))
    if x.factor is not None and y.factor is not None:
        bounds = sums(x.bounds, y.bounds)
        factor = _factor_of_sum(context, x, y)
        return dataclasses.replace(total, factor=factor, bounds=bounds)
    for before, mean in ((x, y), (y, x)):
        if base(before) in list(lineage(mean.ray.name))[1:]:
            ray, centred = before.ray.centred(mean.ray), before.centred or before
            return dataclasses.replace(total, ray=ray, centred=centred)
    return total


def _factor_of_sum(context: Context, x: Value, y: Value) -> Factor | None:
    alike = _factors.are_alike(x.factor, y.factor)
    return _factors.plus(context, x.factor, y.factor) if alike else None


def _ray_of_sum(x: Value, y: Value) -> Ray:
    """That of data plus the same thing, whenever that is computed."""
    return Ray(name=(x.ray, y.ray if y.uniform is None else y.uniform))


def subtract(context: Context, x: Value, y: Value) -> list[Operand]:
    """``x - y``; of statistics, it is at most the first."""
    [result] = add(context, x, negative(y))
    if not isinstance(result, Value) or x.factor is None or y.factor is None:
        return [result]
    factor = _factors.difference(context, x.factor, y.factor)
    return [dataclasses.replace(result, factor=factor)]


def _total(context: Context, x: Value, y: Value) -> Value:
    """The sum of two values whose paths go on side by side."""
    offsets = [part for part in (x.pending, y.pending) if part is not None]
    masses = [z.mass for z in (x, y) if z.mass is not None]
    added = context.add
    if context.tape is not None and x.is_data and y.is_data:
        added = functools.partial(context.linear, lambda a, b: once(a + b))
    return Value(
        None if x.is_data else x.value + y.value,
        functools.reduce(added, masses),
        functools.reduce(jnp.add, offsets) if offsets else None,
        _paid(x, y),
    )


def _paid(x: Value, y: Value) -> frozenset[tuple[Any, int]]:
    """What both are made of, without the means that normalised values lack."""
    names = {*x.ray.bases, *y.ray.bases}
    paid = {name.base for name in names if isinstance(name, Normalised)}
    return frozenset(
        (leaf, times)
        for leaf, times in all_leaves((x, y))
        if not (isinstance(leaf, Debt) and leaf.of in paid)
    )


def _of_one_ray(context: Context, x: Value, y: Value) -> Value:
    """The sum of two multiples of one value."""
    above, below = x.ray.above + y.ray.above, x.ray.below + y.ray.below
    return context.bent(x if x.ray.slope else y, above, below)


def _biased(context: Context, x: Value, y: Value) -> Value:
    """Data plus a weight."""
    scaled, *biases = x.summands
    shifts = [term for term in y.summands if term.stem == scaled.stem is not None]
    if not shifts:
        note(context, "bias", [y])
        return _with_terms(_with_biases(context, x, [y]), (scaled, *biases, y))
    others = [term for term in y.summands if term not in shifts]
    note(context, "bias", others)
    offset = functools.reduce(jnp.add, (term.value for term in shifts))
    if scaled.offset is not None:
        offset = scaled.offset + offset
    scaled = context.shaped(dataclasses.replace(scaled, offset=offset))
    biases = [*biases, *others]
    return _with_terms(_with_biases(context, scaled, biases), (scaled, *biases))


def _with_terms(x: Value, terms: tuple[Value, ...]) -> Value:
    """``x`` as a sum, if what may be added belongs to one of its terms."""
    if terms[0].stem is None or len(terms) == 1:
        return x
    return dataclasses.replace(x, terms=terms)


def _with_biases(context: Context, x: Value, biases: Sequence[Value]) -> Value:
    for bias in biases:
        x = _with_bias(context, x, bias)
    return x


def _with_bias(context: Context, x: Value, bias: Value) -> Value:
    """Data plus a weight, which makes one edge with the constant added before."""
    if x.offset is None and bias.offset is None:
        edge = _mass.ordered(bias.mass)
    else:
        shift = bias.value if x.offset is None else bias.value + edges(x.offset)
        edge = context.edge(shift, carrier=bias.mass)
    return Value(None, context.shift(x.mass, edge), leaves=all_leaves((x, bias)))


RULES = rules([(add, "add add_any"), (subtract, "sub")])
