"""Sums of multiples of arrays, by factors of which only bounds are known.

``h + z * (c - h)`` with a gate z is h times ``1 - z``, plus c times z: paths count the
largest size of the factor that an array has in all, not that of each of its uses.
"""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Sequence

from pathsgd_optax._networks.traced.bounds import Bounds, hull
from pathsgd_optax._networks.traced.context import Context
from pathsgd_optax._networks.traced.curves import Curve
from pathsgd_optax._networks.traced.mass import Mass
from pathsgd_optax._networks.traced.rays import Ray
from pathsgd_optax._networks.traced.values import Part, Value


MOST = 4
"""The most parts that a sum is kept as."""


def times(x: Value, bounds: Bounds, curve: Curve | None = None) -> tuple[Part, ...]:
    """The parts of a multiple, by a factor between these bounds."""
    return tuple(part.times(bounds, bounds, curve) for part in x.summed)


def bent(x: Value, above: Bounds, below: Bounds) -> tuple[Part, ...]:
    """Those of a multiple, by a factor that has bounds on either side of 0."""
    if x.parts:
        return times(x, hull([above, below]))
    [part] = x.summed
    sides = (above if x.ray.above >= 0 else below, below if x.ray.below >= 0 else above)
    return (part.times(*sides),)


def added(context: Context, total: Value, x: Value, y: Value) -> Value:
    """The sum of two data, whose paths go on side by side, but for common parts.

    These are arrays that either is a sum of; or what such an array is a sum of.
    """
    for first, second in itertools.product(_levels(x), _levels(y)):
        parts, meets = _joined([*first, *second])
        if meets:
            return _of_parts(context, total, parts, (x, y))
    parts, _ = _joined([*x.summed, *y.summed])
    return dataclasses.replace(total, parts=parts if len(parts) <= MOST else ())


def _levels(x: Value) -> list[tuple[Part, ...]]:
    """What it is the sum of, and what those arrays are."""
    parts = tuple(itertools.chain(*(part.expanded for part in x.summed)))
    return [x.summed, parts] if len(parts) <= MOST else [x.summed]


def _joined(parts: Sequence[Part]) -> tuple[tuple[Part, ...], bool]:
    """One part for each array, and whether a factor meets another one of its array."""
    found: dict[object, Part] = {}
    meets = False
    for part in parts:
        name = part.of.ray.name
        if (other := found.get(name)) is not None:
            meets |= not (part.is_exact and other.is_exact)
            part = other.plus(part)
        found[name] = part
    return tuple(found.values()), meets


def _of_parts(
    context: Context, total: Value, parts: tuple[Part, ...], terms: Sequence[Value]
) -> Value:
    """The sum with the masses of its parts, and what constants are added to these."""
    offsets = [x.offset for x in terms if x.parts and x.offset is not None]
    parts = tuple(part for part in parts if part.size) or parts[:1]
    ray = parts[0].of.ray.multiple() if len(parts) == 1 else Ray()
    return dataclasses.replace(
        total,
        parts=parts,
        mass=functools.reduce(context.add, (_mass_of(context, x) for x in parts)),
        offset=functools.reduce(operator.add, offsets) if offsets else None,
        ray=ray,
    )


def _mass_of(context: Context, x: Part) -> Mass:
    mass = context.settle(x.of).mass
    return context.stretched(mass, x.size / abs(x.of.ray.slope or 1))
