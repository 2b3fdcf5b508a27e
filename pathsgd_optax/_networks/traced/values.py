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
from collections import defaultdict
from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple, TypeAlias

import jax
from jax.extend.core import JaxprEqn

from pathsgd_optax._networks.traced.bounds import (
    UNBOUNDED,
    Bounds,
    hull,
    is_bounded,
    largest,
    products,
    sums,
)
from pathsgd_optax._networks.traced.curves import Curve, total
from pathsgd_optax._networks.traced.rays import Ray, Step
from pathsgd_optax._networks.traced.reasons import EXPONENTIAL, STATISTIC


OUTPUT, NORM, GATE = "output", "norm", "gate"
"""Where paths end: at the network's outputs, at a normalisation, or at a gate."""

MASK = 1e4
"""The least size of a negative constant that keeps an entry from being the largest."""

NO_EDGE = 1e8
"""The least size of a constant that marks an entry, wherever it is added."""


class Debt(NamedTuple):
    """A reason to refuse what it becomes a part of, unless a normalisation follows.

    It stands among the parameters that paths run through, and so goes where they go.

    Args:
      of: what is to be normalised: the name of an array, or an equation.
      reason: what is wrong otherwise.
    """

    of: Hashable
    reason: str


class Normalised(NamedTuple):
    """The name of an array that was divided by a root of its second moment."""

    base: Hashable
    number: int


class Exponential(NamedTuple):
    """The name of an exponential, as the terms of a softmax are: that of its base."""

    function: str
    ray: Ray


def _is_exponential(name: Hashable) -> bool:
    return isinstance(name, Exponential)


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
        that one use of the array uses it; and debts.
      uniform: the number that all entries are known to be, if there is one.
      ray: what it is a multiple of.
      random: whether it is a constant that is made of random numbers.
      bounds: between which numbers clipping keeps the entries of data.
      shifted: whether it is bounded, and not 0 where what is bounded is.
      mixed: whether bounded values that are shifted and others were joined in it.
      stem: what names the weight that it is a product of with constants, or, of data,
        the one that it was multiplied by last.
      terms: the weights that it is the sum of, or, of data, what weights were added to,
        and these.
      factor: what else it is, as a factor, if it has been squared, summed, or bounded.
      centred: what it was before its mean was taken away.
      multiple: the data that it is a multiple of, and by which weight or constant.
      parts: what it is the sum of, if that is more than itself.
    """

    value: Any  # jax.Array | None, as the others: rules know which they have got
    mass: Any = None  # Mass | None
    offset: Any = None  # jax.Array | None
    leaves: frozenset[tuple[Any, int]] = dataclasses.field(
        default=frozenset(), metadata={"static": True}
    )
    uniform: float | None = dataclasses.field(default=None, metadata={"static": True})
    ray: Ray = dataclasses.field(default_factory=Ray, metadata={"static": True})
    random: Randomness = dataclasses.field(
        default=Randomness.NONE, metadata={"static": True}
    )
    bounds: Bounds = dataclasses.field(default=UNBOUNDED, metadata={"static": True})
    shifted: bool = dataclasses.field(default=False, metadata={"static": True})
    mixed: bool = dataclasses.field(default=False, metadata={"static": True})
    stem: Hashable = dataclasses.field(default=None, metadata={"static": True})
    terms: tuple["Value", ...] = ()
    factor: Any = None  # Factor | None
    centred: Any = None  # Value | None
    multiple: Any = None  # tuple[Value, Value] | None
    parts: tuple["Part", ...] = ()

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

    @property
    def summed(self) -> tuple["Part", ...]:
        """The arrays that it is the sum of, but for constants, with their signs."""
        if self.parts and all(part.is_exact for part in self.parts):
            return self.parts
        return (Part(self, (self.ray.above,) * 2, (self.ray.below,) * 2),)

    def renamed(self) -> "Value":
        """The same array, of no known multiples."""
        return dataclasses.replace(self, ray=Ray())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """A multiple of an array z, by a factor that may depend on data.

    Args:
      of: an array on the ray of z.
      above: the bounds of the factor where z is positive.
      below: the same where z is negative.
      curve: the factor as a function of another array, if it is one.
    """

    of: Value
    above: Bounds = dataclasses.field(metadata={"static": True})
    below: Bounds = dataclasses.field(metadata={"static": True})
    curve: Curve | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def is_exact(self) -> bool:
        """Whether the factor is a number on either side."""
        return self.above[0] == self.above[1] and self.below[0] == self.below[1]

    @property
    def size(self) -> float:
        """The largest size of the factor."""
        return largest(hull([self.above, self.below]))

    @property
    def number(self) -> float | None:
        """The factor, if it is the same number everywhere."""
        return self.above[0] if len({*self.above, *self.below}) == 1 else None

    def times(self, above: Bounds, below: Bounds, curve: Curve | None = None) -> "Part":
        """The multiple by another factor."""
        above, below = products(self.above, above), products(self.below, below)
        known = None
        if curve is not None and self.number is not None:
            known = curve.scaled(self.number)
        return Part(self.of, above, below, known)

    def scaled(self, number: float) -> "Part":
        """The multiple by a number."""
        part = self.times((number, number), (number, number))
        known = None if self.curve is None else self.curve.scaled(number)
        return dataclasses.replace(part, curve=known)

    @property
    def expanded(self) -> tuple["Part", ...]:
        """What the array is the sum of, times the factor."""
        unit = self.of.ray.above
        if not self.of.parts or not unit or unit != self.of.ray.below:
            return (self,)
        if self.number is not None:
            return tuple(part.scaled(self.number / unit) for part in self.of.parts)
        factor = products(hull([self.above, self.below]), (1 / unit, 1 / unit))
        return tuple(part.times(factor, factor) for part in self.of.parts)

    def plus(self, other: "Part") -> "Part":
        """The sum of two multiples of one array."""
        of = self.of if self.of.ray.slope else other.of
        curve = total(self.curve, other.curve, self.number, other.number)
        if curve is not None:
            return Part(of, curve.bounds, curve.bounds, curve)
        above, below = sums(self.above, other.above), sums(self.below, other.below)
        return Part(of, above, below)


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
      choice: the axis along which one entry is 1, and the others are 0.
      count: the number that all entries are where the inputs are 1, if these have been
        summed: how many a mask leaves at most.
    """

    free: Any = None  # np.ndarray | jax.Array | None
    value: Any = None  # jax.Array | None
    binary: bool = dataclasses.field(default=False, metadata={"static": True})
    affine: Any = None  # Value | None
    choice: int | None = dataclasses.field(default=None, metadata={"static": True})
    count: float | None = dataclasses.field(default=None, metadata={"static": True})


class Logits(NamedTuple):
    """What steers a gate, where its paths end.

    Args:
      value: the paths.
      unit: the slope that they have for it: a number, if it is one for all entries.
    """

    value: Value
    unit: Any = 1.0  # jax.Array | float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Factor:
    """What multiplies paths: it has a size, but no paths of its own.

    It is a gate if its size doesn't depend on the size of the data. Else it is a
    statistic, which scales as powers of the data do.

    Args:
      size: the size of the entries where the data is of size 1; a number, if all are
        alike.
      degrees: the arrays with whose size it scales, by their names, and which powers.
      bounds: between which numbers the entries are known to be.
      reduced: whether it is made of several entries of an array.
      axes: those that were summed over, to it or to the sum that it is a part of.
      logits: what steers it.
      mean: of a statistic, the mean of the masses that it is made of.
      weight: the weight that it was multiplied by.
      value: the array itself, if only parameters steer it.
      related: the arrays with which it changes, by their names.
    """

    size: Any = 1.0  # jax.Array | float
    degrees: frozenset[tuple[Hashable, float]] = dataclasses.field(
        default=frozenset(), metadata={"static": True}
    )
    bounds: Bounds = dataclasses.field(default=UNBOUNDED, metadata={"static": True})
    reduced: bool = dataclasses.field(default=False, metadata={"static": True})
    axes: tuple[int, ...] = dataclasses.field(default=(), metadata={"static": True})
    logits: tuple[Logits, ...] = ()
    mean: Any = None  # Mass | None
    weight: Any = None  # Value | None
    value: Any = None  # jax.Array | None
    related: frozenset[Hashable] = dataclasses.field(
        default=frozenset(), metadata={"static": True}
    )

    @property
    def bounded(self) -> bool:
        """Whether the entries are known to be between two numbers."""
        return is_bounded(self.bounds)

    @property
    def is_gate(self) -> bool:
        """Whether its size doesn't depend on the size of the data."""
        return self.bounded or not self.degrees

    @property
    def is_exponential(self) -> bool:
        """Whether it is one of a softmax' terms, or their sum."""
        names = [name for name, _ in self.degrees]
        return bool(names) and all(map(_is_exponential, names))

    @property
    def reason(self) -> str:
        """What is wrong where it does something else than to divide."""
        names = [name for name, _ in self.degrees]
        return EXPONENTIAL if any(map(_is_exponential, names)) else STATISTIC

    @property
    def one_sided(self) -> bool:
        """Whether it has one sign."""
        return self.bounds[0] >= 0 or self.bounds[1] <= 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Logarithm:
    """The logarithm of a statistic, plus data."""

    of: Factor
    plus: Value | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Weighed:
    """Data times a statistic, by whose sum it is to be divided."""

    value: Value
    factor: Factor


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Refused:
    """A result without path semantics, which matters only where it is used.

    Args:
      reason: what is wrong.
      error: what is raised then, if it is wrong already.
    """

    reason: str
    error: ValueError | None = None


Operand: TypeAlias = Value | Factor | Inputs | Step | Refused | Logarithm | Weighed


def is_traced(array: Any) -> bool:
    """Whether the numbers are known only when the program runs."""
    return isinstance(array, jax.core.Tracer)


class NoPathError(Exception):
    """An operation without path semantics; its place is added by the interpreter."""


class Uses:
    """What each parameter does, and how often, where its paths end, what is drawn."""

    def __init__(self) -> None:
        self.times: dict[Any, int] = defaultdict(int)
        self.roles: dict[Any, set[str]] = defaultdict(set)
        self.ends: dict[Any, set[str]] = defaultdict(set)
        self.draws: list[tuple[JaxprEqn, ...]] = []

    def add(self, role: str, value: Value) -> None:
        """Notes the use of a weight."""
        for leaf, times in value.leaves:
            self.times[leaf] += times
            self.roles[leaf].add(role)

    def end(self, where: str, leaves: Iterable[tuple[Any, int]]) -> None:
        """Notes where paths through these leaves end."""
        for leaf, _ in leaves:
            self.ends[leaf].add(where)

    @property
    def debts(self) -> list[Debt]:
        """What ends, and should have been normalised before."""
        return [leaf for leaf in self.ends if isinstance(leaf, Debt)]

    def update(self, other: "Uses") -> None:
        """Adds what another one has noted."""
        for leaf, times in other.times.items():
            self.times[leaf] += times
            self.roles[leaf] |= other.roles[leaf]
        for leaf, ends in other.ends.items():
            self.ends[leaf] |= ends
        self.draws += other.draws
