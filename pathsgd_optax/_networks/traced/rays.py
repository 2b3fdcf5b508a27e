"""Which arrays are multiples of one another, where they are positive and elsewhere.

``x``, ``-x``, ``abs(x)``, ``maximum(x, 0)`` and ``where(x > 0, x, 0.1 * x)`` are all on
the ray of ``x``, with a slope on either side of 0. So their sums, maxima and products
with ``x > 0`` are, too.
"""

import dataclasses
import functools
import itertools
from collections.abc import Hashable, Iterator
from typing import NamedTuple

import jax


_NAMES = itertools.count()


class Moved(NamedTuple):
    """The name of an array whose entries are those of another one, in other places."""

    name: Hashable
    how: Hashable


class Summed(NamedTuple):
    """The name of an array of sums, or of largest entries, of another one."""

    name: Hashable
    how: Hashable


def lineage(name: Hashable) -> Iterator[Hashable]:
    """The array itself, what it is summed of, what that is summed of..., unmoved."""
    while True:
        while isinstance(name, Moved):
            name = name.name
        yield name
        if not isinstance(name, Summed):
            return
        name = name.name


@dataclasses.dataclass(frozen=True)
class Ray:
    """``above * z`` where an array z is positive, ``below * z`` where it is negative.

    Args:
      name: the name of z.
      above: the factor where z is positive.
      below: the factor where z is negative.
      others: the names of arrays of which z is a multiple, by an unknown factor.
    """

    name: Hashable = dataclasses.field(default_factory=functools.partial(next, _NAMES))
    above: float = 1.0
    below: float = 1.0
    others: frozenset[Hashable] = frozenset()

    @property
    def slope(self) -> float:
        """The factor that paths count: the steeper one, which no sign changes."""
        return max(self.above, self.below, key=abs)

    def times(self, factor: float) -> "Ray":
        """That of the product with a number."""
        return self.bent(self.above * factor, self.below * factor)

    def bent(self, above: float, below: float) -> "Ray":
        """The same one, with other slopes."""
        return dataclasses.replace(self, above=above, below=below)

    def multiple(self) -> "Ray":
        """That of an unknown multiple."""
        return Ray(others=self.others | {self.name})

    def moved(self, how: Hashable) -> "Ray":
        """That of the entries in other places, which ``how`` tells."""
        others = frozenset(Moved(name, how) for name in self.others)
        return dataclasses.replace(self, name=Moved(self.name, how), others=others)

    def summed(self, how: Hashable) -> "Ray":
        """That of sums, or of the largest, of the entries."""
        return Ray(name=Summed(self.name, (how, self.above, self.below)))

    def centred(self, other: "Ray") -> "Ray":
        """That of the same array, of which some of its sums were taken."""
        return Ray(name=Moved(self.name, ("centred", other)))

    @property
    def bases(self) -> frozenset[Hashable]:
        """What it has the size of, up to a factor: itself, and what it multiplies."""
        return frozenset(next(lineage(name)) for name in (self.name, *self.others))

    def is_related_to(self, other: "Ray") -> bool:
        """Whether one is a multiple of the other, by whatever factor."""
        return self.name in other.others or other.name in self.others


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Step:
    """A number where an array is positive, and one where it is negative.

    Args:
      name: the array's name.
      above: the number where it is positive.
      below: the number where it is negative.
    """

    name: Hashable
    above: float
    below: float
