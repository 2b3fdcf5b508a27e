"""Scans of a traced network: `lax.scan` on path values, and its reverse pass.

Forwards, a scan keeps what it carried into each step. Backwards, another one runs each
step again, on a tape of its own, and carries the slopes.
"""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Jaxpr, JaxprEqn

from pathsgd_optax._networks.traced import mass as _mass
from pathsgd_optax._networks.traced.carries import (
    Operands,
    Step,
    alone,
    each,
    like,
    masses,
    renamed,
    repeated,
    sealed,
    stable,
    with_masses,
)
from pathsgd_optax._networks.traced.context import Context
from pathsgd_optax._networks.traced.mass import Mass
from pathsgd_optax._networks.traced.tape import End, Ends, Tape
from pathsgd_optax._networks.traced.values import Operand, Uses, is_traced
from pathsgd_optax._numerics.meshes import alike


Body: TypeAlias = Callable[[Context, Sequence[Operand]], list[Operand]]
"""The results of a step: what is carried on, then a row of each stack."""


def scan(context: Context, body: Body, operands: Operands) -> list[Operand]:
    """The results of a scan with this body."""
    length = context.params["length"]
    operands = Operands(*([*map(alone, part)] for part in operands))
    operands = Operands(
        [repeated(x, length) for x in operands.constants],
        operands.carry,
        each(functools.partial(_stacked, length=length), operands.rows),
    )
    step = functools.partial(_step, body)
    operands = operands._replace(carry=stable(context, step, operands))
    after, stacks, before, inside = _forward(context, step, operands)
    results = [*map(renamed, after), *each(_unstacked, stacks)]
    if context.tape is None:
        return results
    pull = functools.partial(_backward, context, step, operands, before, inside)
    sources = masses([*itertools.chain(*operands)])
    reach = inside.reach if any(inside.steers) else None
    made = context.tape.record(masses(results), sources, pull, layer=True, reach=reach)
    return with_masses(results, made)


def parted(operands: Sequence[Operand], eqn: JaxprEqn, body: Jaxpr) -> Operands:
    """Constants, carry and rows, told apart by the axis that only rows lose.

    What a scan's parameters say of it differs between versions of JAX.
    """
    rows = sum(map(_is_row, eqn.invars, body.invars))
    carried = len(eqn.outvars) - sum(map(_is_row, eqn.outvars, body.outvars))
    ends = (len(operands) - rows - carried, len(operands) - rows)
    return Operands(
        list(operands[: ends[0]]),
        list(operands[slice(*ends)]),
        list(operands[ends[1] :]),
    )


def _is_row(outer: Any, inner: Any) -> bool:
    return len(outer.aval.shape) > len(inner.aval.shape)


# One step, and all of them.


def _step(
    body: Body, context: Context, operands: Operands
) -> tuple[list[Operand], list[Operand]]:
    """What is carried on, in the form of what was carried, and the rows."""
    constants, carry, rows = operands
    results = body(context, [*constants, *map(renamed, carry), *rows])
    pairs = zip(results, carry, strict=False)
    rows = [*map(alone, results[len(carry) :])]
    return [like(context, *pair) for pair in pairs], rows


class _Inside(NamedTuple):
    """What is known of the masses among the operands, in one step.

    Args:
      reach: which entries of each lead to the results.
      steers: whether some of them do nothing but steer gates.
    """

    reach: list[Any]
    steers: list[bool]


def _forward(
    context: Context, step: Step, operands: Operands
) -> tuple[list[Operand], list[Operand], list[Operand], _Inside]:
    """What is carried in the end, the stacks, and what was carried into each step."""
    keep, inside = context.tape is not None, [_Inside([], [])]

    def scanned(carry: list[Operand], rows: list[Operand]) -> Any:
        now = operands._replace(carry=carry, rows=rows)
        after, outs, ended, inside[0] = _observed(context, step, now)
        return each(sealed, after), (outs, carry if keep else [], ended)

    carry = each(sealed, operands.carry)
    course, constants = _course(context), operands.constants
    after, (stacks, before, ended) = _run(
        scanned, carry, operands.rows, constants, course
    )
    if context.tape is not None:
        context.tape.elsewhere += [_mass.total(_unstacked(x)) for x in ended]
    return after, stacks, before, inside[0]


def _observed(
    context: Context, step: Step, operands: Operands
) -> tuple[list[Operand], list[Operand], list[Mass], _Inside]:
    """What a step carries on, its rows, and the masses of the paths that end in it."""
    if context.tape is None or not context.gates:
        return *step(context.quiet(), operands), [], _Inside([], [])
    tape = Tape()
    operands = Operands(*(each(tape.leaf, part) for part in operands))
    after, outs = step(dataclasses.replace(context.quiet(), tape=tape), operands)
    going = [End(x, _mass.ones_like(x)) for x in masses(after + outs)]
    ends = tape.ends(going)
    ended = tape.ended(ends, outputs=len(going))
    after, outs = (each(_without_node, part) for part in (after, outs))
    total = [sealed(_mass.total_of(ended))] if ended else []
    return after, outs, total, _inside(operands, ends, context.params["length"])


def _inside(operands: Operands, ends: Ends, length: int) -> _Inside:
    """What the ends of a step's paths tell of its operands."""
    parts = [masses(part) for part in operands]
    reach = [[ends.reached.get(x.node) for x in part] for part in parts]
    with jax.ensure_compile_time_eval():
        reach[2] = [
            x if x is None or x is True else jnp.broadcast_to(x, (length, *x.shape))
            for x in reach[2]
        ]
    # What is only known inside of a step is not known outside.
    known = [True if is_traced(x) else x for x in itertools.chain(*reach)]
    return _Inside(known, [x.node in ends.steering for x in itertools.chain(*parts)])


def _backward(
    context: Context,
    step: Step,
    operands: Operands,
    before: list[Operand],
    inside: _Inside,
    slopes: list[Mass],
) -> list[Mass | None]:
    """The slopes of constants, carry and rows; then of what of these steers."""
    carried = len(masses(before))
    constants = masses(operands.constants)

    def scanned(state: tuple[list[Mass], list[Mass]], saved: Any) -> Any:
        leaving, totals = state
        carry, rows, stacks = saved
        now = Operands(operands.constants, carry, rows)
        found = _slopes_of_step(context, step, now, inside, leaving + stacks)
        added = functools.partial(_mass.sum_by, operator.add)
        totals = [sealed(added(*x)) for x in zip(totals, found[0], strict=True)]
        return ([sealed(x) for x in found[1]], totals), found[2]

    course, steering = _course(context), _chosen(constants, inside, 0)
    (leaving, totals), rows = _run(
        scanned,
        (
            [sealed(x) for x in slopes[:carried]],
            [_mass.zeros_like(x) for x in (*constants, *steering)],
        ),
        (
            before,
            operands.rows,
            [_stacked(x, course["length"]) for x in slopes[carried:]],
        ),
        operands.constants,
        course | {"reverse": not course["reverse"]},
    )
    return _in_order(totals, leaving, [*map(_with_rows, rows)], len(constants), inside)


def _chosen(masses: Sequence[Any], inside: _Inside, start: int) -> list[Any]:
    """Those that steer, of operands from the place ``start`` on."""
    steers = inside.steers[start : start + len(masses)] or [False] * len(masses)
    return [*itertools.compress(masses, steers)]


def _in_order(
    totals: list[Mass],
    leaving: list[Mass],
    rows: list[Mass],
    count: int,
    inside: _Inside,
) -> list[Mass | None]:
    """The slopes of all operands, and, if there are any, those of what steers."""
    first, last = totals[:count], count + len(leaving)
    row_count = len(inside.steers) - last if inside.steers else len(rows)
    paths = [*first, *leaving, *rows[:row_count]]
    if not any(inside.steers):
        return [*paths]
    rest = {"constants": iter(totals[count:]), "rows": iter(rows[row_count:])}
    steering: list[Mass | None] = []
    for k, steers in enumerate(inside.steers):
        is_carry = count <= k < last
        source = rest["constants" if k < count else "rows"]
        steering.append(next(source) if steers and not is_carry else None)
    return [*paths, *steering]


def _slopes_of_step(
    context: Context,
    step: Step,
    operands: Operands,
    inside: _Inside,
    slopes: Sequence[Mass],
) -> list[list[Mass]]:
    """The slopes of constants, carry and rows, from those of a step's results.

    Those of constants and rows that steer follow them; with the carry's, they are one.
    """
    tape = Tape(context.tape.damping if context.tape else None)
    operands = Operands(*(each(tape.leaf, part) for part in operands))
    context = dataclasses.replace(context, uses=Uses(), tape=tape)
    after, outs = step(context, operands)
    going = [*map(End, masses(after + outs), slopes)]
    parts, start = [], 0
    leaves = [masses(part) for part in operands]
    paths, steering = tape.slopes_apart(
        tape.ends(going), [*itertools.chain(*leaves)], final=False
    )
    for k, part in enumerate(leaves):
        where = slice(start, start + len(part))
        found, others = paths[where], steering[where]
        if k == 1:
            parts.append([*map(_added, found, others)])
        else:
            zeros = map(_or_zeros, others, part)
            parts.append(found + _chosen([*zeros], inside, start))
        start += len(part)
    return [[*map(_mass.collapsed, part)] for part in parts]


def _added(x: Mass, y: Mass | None) -> Mass:
    return x if y is None else _mass.sum_by(operator.add, x, y)


def _or_zeros(x: Mass | None, like: Mass) -> Mass:
    return _mass.zeros_like(like) if x is None else x


def _run(
    step: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    rows: Any,
    constants: list[Operand],
    course: dict[str, Any],
) -> Any:
    """`lax.scan`, whose carry varies from the start over what it will vary over."""
    carry, rows, _ = alike((carry, rows, constants))

    def alike_step(carry: Any, row: Any) -> tuple[Any, Any]:
        after, out = step(carry, row)
        return alike((carry, after))[1], out

    return lax.scan(alike_step, carry, rows, **course)


def _course(context: Context) -> dict[str, Any]:
    return {name: context.params[name] for name in ("length", "reverse", "unroll")}


def _without_node(x: Mass) -> Mass:
    return dataclasses.replace(x, node=None)


def _stacked(x: Mass, length: int) -> Mass:
    """What a scan reads row by row, with exponents for each row."""
    return dataclasses.replace(x, exponent=jnp.broadcast_to(x.exponent, (length,)))


def _with_rows(x: Mass) -> Mass:
    """What a scan wrote row by row, with an exponent that broadcasts to its rows."""
    rows = x.exponent.reshape(-1, *[1] * (x.mantissa.ndim - 1))
    return dataclasses.replace(x, exponent=rows, node=None)


def _unstacked(x: Mass) -> Mass:
    """What a scan wrote row by row, with one exponent."""
    return _mass.collapsed(_with_rows(x))
