"""Which entries lead to ends, from operation to operation.

A mask tells it of an array: it is None if no entry does, and True if all do.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from pathsgd_optax._networks.traced import mass as _mass
from pathsgd_optax._networks.traced.mass import Mass


Mask: TypeAlias = Any  # jax.Array | bool | None
"""1 for the entries that lead to ends, and 0 for others; or one word for all."""


class Course(Protocol):
    """What paths do inside of an operation, if they leave it for known ends."""

    sources: Sequence[Mask]

    def steer(self, sources: Sequence[bool]) -> list[bool]:
        """Which results lead to what does nothing but steer, if these sources do."""

    def ended(self) -> list[Mass]:
        """The masses of the paths that end inside."""

    def pull(
        self, paths: Sequence[Mass], steering: Sequence[Mass]
    ) -> tuple[Sequence[Mass], Sequence[Mass | None]]:
        """The slopes of the sources, and those of what does nothing but steer."""


Inside: TypeAlias = Callable[[Sequence[Mask]], Course]
"""From the masks of an operation's results to the course of its paths."""


class End(NamedTuple):
    """A value where paths end, and the slope that it has for it."""

    value: Mass
    slope: Mass


class Ends(NamedTuple):
    """Where paths end.

    Args:
      outputs: those that were given.
      norms: at normalisations.
      gates: of what does nothing but steer gates.
      given: of what does nothing but steer gates elsewhere.
      reached: what leads to the former two, by nodes: in all entries, or in some.
      steering: the nodes of what parameters lead to that don't, or not all of them.
      courses: those of the operations that have an inside, by their numbers.
    """

    outputs: list[End]
    norms: list[End]
    gates: list[End]
    given: list[End]
    reached: dict[int | None, Mask]
    steering: set[int | None]
    courses: dict[int, Course]

    def closed(self, x: Mass) -> Mask:
        """The entries from which no way leads back to what does nothing but steer."""
        return self.reached.get(x.node) if x.node in self.steering else True

    @property
    def ended(self) -> list[Mass]:
        """The masses of the paths that have ended, but for those that were given."""
        own = [_mass.inner(*end) for end in (*self.norms, *self.gates)]
        return [*own, *(x for course in self.courses.values() for x in course.ended())]


def leading(
    function: Callable[..., jax.Array], sources: Sequence[Mass], mask: Mask
) -> list[Mask]:
    """The entries of the sources that lead to these entries of a function of them."""
    with jax.ensure_compile_time_eval():
        result, pull = jax.vjp(function, *map(_structure, sources))
        led = pull(jnp.ones_like(result) if mask is True else mask)
        return [simplified(jnp.minimum(part, 1)) for part in led]


def _structure(x: Mass) -> jax.Array:
    """1 in every entry that paths may lead to; those of constants are known."""
    fixed = x.node is None and not isinstance(x.mantissa, jax.core.Tracer)
    ones = jnp.ones_like(x.mantissa, shape=x.shape)
    return jnp.where(x.mantissa != 0, ones, 0) if fixed else ones


def simplified(mask: Mask) -> Mask:
    """One word, if all entries are known to be alike."""
    if mask is None or mask is True or isinstance(mask, jax.core.Tracer):
        return mask
    entries = np.asarray(mask)
    if entries.all():
        return True
    return mask if entries.any() else None


def nowhere(mask: Mask) -> bool:
    """Whether no entry leads to ends."""
    return mask is None


def either(x: Mask, y: Mask) -> Mask:
    """Where one of both is 1."""
    if x is True or y is True:
        return True
    if x is None or y is None:
        return y if x is None else x
    with jax.ensure_compile_time_eval():
        return simplified(jnp.maximum(x, y))


def unreached(x: Mass, mask: Mask) -> Mass:
    """A slope, without those of entries that lead to ends."""
    if mask is None:
        return x
    return dataclasses.replace(x, mantissa=x.mantissa * (1 - mask))
