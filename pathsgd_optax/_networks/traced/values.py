"""What an array of a traced network is to its paths.

An array is data (it depends on the inputs), a weight (on parameters only) or a
constant. Paths enter data at the inputs; through a weight that is added they enter
from a unit whose value is always 1, as through a bias.

A constant that is added is kept apart, with its sign, while the sum is only moved or
multiplied, because what is added next may belong to the same edge: BatchNorm subtracts
``mean`` and adds ``bias`` at the end, and ``bias - mean * scale`` is one edge.
"""

import dataclasses
import enum
import math
from collections import defaultdict
from collections.abc import Hashable
from typing import Any, TypeAlias

import jax
from jax.extend.core import JaxprEqn

from pathsgd_optax._networks.traced.rays import Ray, Step


UNBOUNDED = (-math.inf, math.inf)
"""The bounds of what is not clipped."""

MASK = 1e4
"""The least size of a negative constant that keeps an entry from being the largest."""

NO_EDGE = 1e8
"""The least size of a constant that marks an entry, wherever it is added."""


class Randomness(enum.IntEnum):
    """What a constant is made of, among what is drawn when the program runs."""

    NONE = 0
    NUMBERS = 1
    CHOICES = 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """A floating array, or an integer one that no input changes.

    Args:
      value: the array itself; None for data.
      mass: the masses of the paths that lead to its entries; None for constants.
      offset: a constant part that has not become a mass.
      leaves: the parameters that its paths run through, each with the number of times
        that one use of the array uses it.
      uniform: the number that all entries are known to be, if there is one.
      ray: what it is a multiple of.
      random: whether it is a constant that is made of random numbers.
      bounds: between which numbers clipping keeps the entries of data.
      stem: what names the weight that it is a product of with constants, or, of data,
        the one that it was multiplied by last.
      terms: the weights that it is the sum of, or, of data, what weights were added to,
        and these.
    """

    value: Any  # jax.Array | None, as the others: rules know which they have got
    mass: Any = None  # Mass | None
    offset: Any = None  # jax.Array | None
    leaves: frozenset[tuple[int, int]] = dataclasses.field(
        default=frozenset(), metadata={"static": True}
    )
    uniform: float | None = dataclasses.field(default=None, metadata={"static": True})
    ray: Ray = dataclasses.field(default_factory=Ray, metadata={"static": True})
    random: Randomness = dataclasses.field(
        default=Randomness.NONE, metadata={"static": True}
    )
    bounds: tuple[float, float] = dataclasses.field(
        default=UNBOUNDED, metadata={"static": True}
    )
    stem: Hashable = dataclasses.field(default=None, metadata={"static": True})
    terms: tuple["Value", ...] = ()

    @property
    def zero(self) -> bool:
        """Whether all entries are known to be 0."""
        return self.uniform == 0

    def is_mask(self, side: int) -> bool:
        """Whether it is known to be below all data, or above if ``side`` is -1."""
        return self.uniform is not None and side * self.uniform <= -MASK

    @property
    def is_no_edge(self) -> bool:
        """Whether it is a constant that marks all entries, or 0."""
        if self.uniform is None or not self.is_constant:
            return False
        return self.zero or self.is_mask(1) or abs(self.uniform) >= NO_EDGE

    @property
    def is_data(self) -> bool:
        """Whether it depends on the inputs."""
        return self.value is None

    @property
    def is_constant(self) -> bool:
        """Whether it depends neither on the inputs nor on parameters."""
        return self.mass is None

    @property
    def is_weight(self) -> bool:
        """Whether it depends on parameters, but not on the inputs."""
        return not (self.is_data or self.is_constant)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return (self.value if self.mass is None else self.mass).shape

    @property
    def pending(self) -> jax.Array | None:
        """The constant part that has not become a mass."""
        if self.is_constant:
            return None if self.zero else self.value
        return self.offset

    @property
    def size(self) -> float:
        """The largest size of the entries, as far as clipping tells."""
        return max(map(abs, self.bounds))

    def within(self, low: float, high: float) -> "Value":
        """The same data, whose entries are known to be between two numbers."""
        return dataclasses.replace(self, bounds=(low, high))

    @property
    def root(self) -> Hashable:
        """The name that a weight shares with its products with constants."""
        return self.ray.name if self.stem is None else self.stem

    @property
    def summands(self) -> tuple["Value", ...]:
        """What it is the sum of."""
        return self.terms or (self,)

    def renamed(self) -> "Value":
        """The same array, of no known multiples."""
        return dataclasses.replace(self, ray=Ray())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Inputs:
    """An array that is made of the inputs and of constants alone.

    Floating entries are input units. Integers look up, and say where.

    Args:
      free: where the inputs have a say; None for everywhere.
      value: the array itself, where they have none; None if that is nowhere.
      binary: whether all entries are known to be 0 or 1.
      affine: the paths of units that constants scale and shift, if that is all it is.
    """

    free: Any = None  # np.ndarray | jax.Array | None
    value: Any = None  # jax.Array | None
    binary: bool = dataclasses.field(default=False, metadata={"static": True})
    affine: Any = None  # Value | None


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Refused:
    """A result without path semantics, which matters only where it is used."""

    reason: str


Operand: TypeAlias = Value | Inputs | Step | Refused


def is_traced(array: Any) -> bool:
    """Whether the numbers are known only when the program runs."""
    return isinstance(array, jax.core.Tracer)


class NoPathError(Exception):
    """An operation without path semantics; its place is added by the interpreter."""


class Uses:
    """How often, and as what, each parameter joins the data, and what is drawn."""

    def __init__(self) -> None:
        self.times: dict[int, int] = defaultdict(int)
        self.roles: dict[int, set[str]] = defaultdict(set)
        self.draws: list[tuple[JaxprEqn, ...]] = []

    def add(self, role: str, value: Value) -> None:
        """Notes the use of a weight."""
        for leaf, times in value.leaves:
            self.times[leaf] += times
            self.roles[leaf].add(role)

    def update(self, other: "Uses") -> None:
        """Adds what another one has noted."""
        for leaf, times in other.times.items():
            self.times[leaf] += times
            self.roles[leaf] |= other.roles[leaf]
        self.draws += other.draws
