"""How the steps of a scan follow one another, and what they read and write by rows."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from pathsgd_optax._networks.traced import mass as _mass
from pathsgd_optax._networks.traced.mass import Mass
from pathsgd_optax._numerics.meshes import alike


class Loop(NamedTuple):
    """So many steps, from the first row on or from the last one."""

    length: int
    reverse: bool
    unroll: int | bool

    def row(self, step: int) -> int:
        """The row that a step reads and writes."""
        return self.length - 1 - step if self.reverse else step

    def rows(self, steps: slice) -> slice:
        """Those of several steps."""
        if not self.reverse:
            return steps
        return slice(self.length - steps.stop, self.length - steps.start)

    def backwards(self) -> "Loop":
        """From the last step to the first one."""
        return self._replace(reverse=not self.reverse)


def run(
    step: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    rows: Any,
    constants: Any,
    loop: Loop,
) -> Any:
    """`lax.scan`, whose carry varies from the start over what it will vary over."""
    carry, rows, _ = alike((carry, rows, constants))

    def alike_step(carry: Any, row: Any) -> tuple[Any, Any]:
        after, out = step(carry, row)
        return alike((carry, after))[1], out

    return lax.scan(alike_step, carry, rows, **loop._asdict())


# Masses with rows.


def stacked(x: Mass, length: int) -> Mass:
    """What a scan reads row by row, with exponents for each row."""
    return dataclasses.replace(x, exponent=jnp.broadcast_to(x.exponent, (length,)))


def with_rows(x: Mass) -> Mass:
    """What a scan wrote row by row, with an exponent that broadcasts to its rows."""
    rows = x.exponent.reshape(-1, *[1] * (x.mantissa.ndim - 1))
    return dataclasses.replace(x, exponent=rows, node=None)


def unstacked(x: Mass) -> Mass:
    """What a scan wrote row by row, with one exponent."""
    return _mass.collapsed(with_rows(x))


def joined(stretches: Sequence[Sequence[Mass]], loop: Loop) -> list[Mass]:
    """The rows that scans over several stretches wrote, the last steps' first."""
    order = stretches if loop.reverse else [*stretches][::-1]
    return [_concatenated(parts) for parts in zip(*order, strict=True)]


def _concatenated(parts: Sequence[Mass]) -> Mass:
    parts = [*map(with_rows, parts)]
    if len(parts) == 1:
        return parts[0]
    return Mass(
        jnp.concatenate([x.mantissa for x in parts]),
        jnp.concatenate([x.exponent for x in parts]),
        slack=max(x.slack for x in parts),
    )
