"""Scans of a traced network: `lax.scan` on path values.

Its first steps are run by themselves, as long as what they carry is of another kind
than what later ones do: zeros, or a parameter. Forwards, a scan keeps what it carried
into each step; backwards, see `ScanCourse`.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

from jax.extend.core import Jaxpr, JaxprEqn

from pathsgd_optax._networks.traced.carries import (
    Body,
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
from pathsgd_optax._networks.traced.courses import Scan, ScanCourse
from pathsgd_optax._networks.traced.loops import Loop, run, stacked, unstacked
from pathsgd_optax._networks.traced.mass import Mass
from pathsgd_optax._networks.traced.starts import put_together, starts
from pathsgd_optax._networks.traced.values import Operand


def scan(context: Context, body: Body, operands: Operands) -> list[Operand]:
    """The results of a scan with this body."""
    loop = Loop(*(context.params[name] for name in Loop._fields))
    operands = Operands(*([*map(alone, part)] for part in operands))
    step = functools.partial(_step, body)
    if not context.gates:
        return _scanned(context, step, operands, loop)
    first, operands, rest = starts(context, body, step, operands, loop)
    results = _scanned(context, step, operands, rest) if rest.length else []
    if not first:
        return results
    count = len(operands.carry)
    after, outs = results[:count] or operands.carry, results[count:]
    return [*after, *put_together(context, first, outs, loop)]


def _scanned(
    context: Context, step: Step, operands: Operands, loop: Loop
) -> list[Operand]:
    """The results of a scan all of whose steps are alike."""
    operands = Operands(
        [repeated(x, loop.length) for x in operands.constants],
        operands.carry,
        each(functools.partial(stacked, length=loop.length), operands.rows),
    )
    operands = operands._replace(carry=stable(context, step, operands))
    after, stacks, before = _forward(context, step, operands, loop)
    results = [*map(renamed, after), *each(unstacked, stacks)]
    if context.tape is None:
        return results
    course = functools.partial(ScanCourse, Scan(context, step, operands, before, loop))
    sources = masses([*itertools.chain(*operands)])
    made = context.tape.record(masses(results), sources, layer=True, inside=course)
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


def _forward(
    context: Context, step: Step, operands: Operands, loop: Loop
) -> tuple[list[Operand], list[Operand], list[Operand]]:
    """What is carried in the end, the stacks, and what was carried into each step."""

    def scanned(carry: list[Operand], rows: list[Operand]) -> Any:
        now = operands._replace(carry=carry, rows=rows)
        after, outs = step(context.quiet(), now)
        return each(sealed, after), (
            each(_without_node, outs),
            carry if context.tape is not None else [],
        )

    carry = each(sealed, operands.carry)
    after, (stacks, before) = run(
        scanned, carry, operands.rows, operands.constants, loop
    )
    return after, stacks, before


def _without_node(x: Mass) -> Mass:
    return dataclasses.replace(x, node=None)
