"""What a scan carries from step to step, and its other operands.

A carry has one structure, which is found by steps from shapes alone: zeros become data,
once data is added to them; bounds that grow with each step are none.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from pathsgd_optax._networks.traced import mass as _mass
from pathsgd_optax._networks.traced.bounds import UNBOUNDED, hull
from pathsgd_optax._networks.traced.context import Context
from pathsgd_optax._networks.traced.inputs import is_binary, is_given, units
from pathsgd_optax._networks.traced.known import parts
from pathsgd_optax._networks.traced.mass import Mass
from pathsgd_optax._networks.traced.rays import Ray
from pathsgd_optax._networks.traced.rules.factors import bounds_of
from pathsgd_optax._networks.traced.values import (
    Inputs,
    NoPathError,
    Operand,
    Uses,
    Value,
)


CARRIED = Ray(name="carried")
"""The ray of all that a scan carries, between two steps: a carry has one structure."""

Step: TypeAlias = Callable[..., tuple[list[Operand], list[Operand]]]
"""``step(context, operands)``: what is carried on, and a row of each stack."""


Body: TypeAlias = Callable[[Context, Sequence[Operand]], list[Operand]]
"""The results of a step: what is carried on, then a row of each stack."""


class Operands(NamedTuple):
    """The operands of a scan, or what they are in one step."""

    constants: list[Operand]
    carry: list[Operand]
    rows: list[Operand]


def stable(context: Context, step: Step, operands: Operands) -> list[Operand]:
    """The carry as what it is after a step: zeros become data, once data is added.

    If a step doesn't take constants, such as a ReLU of weights times zeros, it may take
    data from the start, which is what it gets later.
    """
    carry = [like(context, x, x) for x in operands.carry]
    try:
        if context.gates:
            carry = _started(
                context, carry, _closed(context.quiet(), step, operands, carry)
            )
        return _closed(context, step, operands, carry)
    except ValueError:
        data = [_as_data(context, x) if isinstance(x, Value) else x for x in carry]
        if _structure(data) == _structure(carry):
            raise
        with contextlib.suppress(ValueError):
            return _closed(context, step, operands, data)
        raise


def _started(
    context: Context, carry: list[Operand], later: list[Operand]
) -> list[Operand]:
    """The carry, with what becomes data as data: a gate is no path through zeros."""
    return [
        _as_data(context, x).within(*hull([bounds_of(x), y.bounds]))
        if isinstance(y, Value) and y.is_data and isinstance(x, Value)
        else x
        for x, y in zip(carry, later, strict=True)
    ]


def _closed(
    context: Context, step: Step, operands: Operands, carry: list[Operand]
) -> list[Operand]:
    """The carry, joined with what it is after steps until that changes nothing."""
    quiet = dataclasses.replace(context, tape=None)
    first = jax.tree.map(lambda x: x[0], operands.rows)

    def stepped(context: Context, carry: list[Operand], rows: list[Operand]) -> Any:
        return step(context, operands._replace(carry=carry, rows=rows))

    while True:
        trial = dataclasses.replace(quiet, uses=Uses())
        once = functools.partial(stepped, trial)
        after, _ = jax.eval_shape(once, each(sealed, carry), first)
        joined = [
            _widened(x, like(context, x, y)) for x, y in zip(carry, after, strict=True)
        ]
        if _structure(joined) == _structure(carry):
            context.uses.update(trial.uses)
            return joined
        carry = joined


def _as_data(context: Context, x: Value) -> Value:
    """A floating constant as paths from a unit that is always 1."""
    if not x.is_constant:
        return x
    floating = jnp.issubdtype(x.value.dtype, jnp.floating)
    return context.settle(x) if floating else x


def _structure(carry: list[Operand]) -> Any:
    return jax.tree.structure(each(sealed, carry))


def like(context: Context, x: Operand, other: Operand) -> Operand:
    """``x``, as what ``other`` is if that is more, so that a scan can carry both."""
    if is_given(x) and is_given(other):
        return _given_like(x, other)
    if isinstance(x, Inputs) and isinstance(other, Value):
        x = units(context, x, other)
    if isinstance(other, Inputs) and isinstance(x, Value):
        other = units(context, other, x)
    if not (isinstance(x, Value) and isinstance(other, Value)):
        raise NoPathError("it carries a comparison, or an order, of values on paths.")
    both = [z for z in (x, other) if z.is_data]
    kinds, ends = {z.shifted for z in both}, (x, other)
    if not x.is_data:
        x = context.settle(x)
    offset = x.offset
    if offset is None and any(z.offset is not None for z in both):
        offset = jnp.zeros(x.shape, context.dtype)
    return Value(
        None,
        x.mass,
        None if offset is None else jnp.broadcast_to(offset, x.shape),
        leaves=x.leaves | other.leaves,
        ray=CARRIED,
        bounds=hull([*map(bounds_of, ends)]),
        shifted=True in kinds,
        mixed=len(kinds) > 1 or any(z.mixed for z in both),
    )


def _widened(before: Operand, x: Operand) -> Operand:
    """What is carried, of no bounds where those of data still change."""
    if not (isinstance(x, Value) and isinstance(before, Value) and before.is_data):
        return x
    pairs = zip(before.bounds, x.bounds, UNBOUNDED, strict=True)
    return x.within(*(new if new == old else none for old, new, none in pairs))


def _given_like(x: Inputs | Value, other: Inputs | Value) -> Operand:
    """``x``, as an array of which the inputs have a say in some entries."""
    if isinstance(x, Value) and isinstance(other, Value):
        floating = jnp.issubdtype(x.value.dtype, jnp.floating)
        same = floating and x.uniform == other.uniform
        return Value(
            x.value,
            uniform=x.uniform if same else None,
            ray=CARRIED,
            random=max(x.random, other.random),
        )
    binary = is_binary(x) and is_binary(other)
    known = [z for z in (x, other) if z.value is not None]
    if not known:
        return Inputs(binary=binary)
    [[free], [value]] = parts([x], [known[0].value])
    return Inputs(jnp.asarray(free), jnp.asarray(value), binary)


# What operands are inside of a scan.


def renamed(x: Operand) -> Operand:
    """The same array, of no known multiples."""
    return x.renamed() if isinstance(x, Value) else x


def alone(x: Operand) -> Operand:
    """The same array, without what it is made of."""
    if isinstance(x, Inputs):
        return dataclasses.replace(x, affine=None)
    if not isinstance(x, Value):
        return x
    return dataclasses.replace(
        x, terms=(), factor=None, centred=None, multiple=None, parts=()
    )


def repeated(x: Operand, length: int) -> Operand:
    """A constant of a scan, which each of its steps uses."""
    if not isinstance(x, Value):
        return x
    leaves = frozenset((leaf, times * length) for leaf, times in x.leaves)
    return dataclasses.replace(x, leaves=leaves)


# Masses among operands.


def masses(operands: Sequence[Operand]) -> list[Mass]:
    """The masses of those that have some."""
    return [x.mass for x in operands if isinstance(x, Value) and x.mass is not None]


def each(
    function: Callable[[Mass], Mass], operands: Sequence[Operand]
) -> list[Operand]:
    """The operands, with the function's results as their masses."""
    return with_masses(operands, map(function, masses(operands)))


def with_masses(operands: Sequence[Operand], masses: Iterable[Mass]) -> list[Operand]:
    """The operands, with these masses in the place of theirs."""
    rest = iter(masses)
    return [
        dataclasses.replace(x, mass=next(rest))
        if isinstance(x, Value) and x.mass is not None
        else x
        for x in operands
    ]


def sealed(x: Mass) -> Mass:
    """A mass as each step has it: without a node, and with a mantissa near 1."""
    return dataclasses.replace(_mass.normalized(x), node=None)
