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
import functools
import math
import operator
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from pathsgd_optax import _mass
from pathsgd_optax._mass import Mass
from pathsgd_optax._meshes import alike
from pathsgd_optax._rays import Ray, Step
from pathsgd_optax._tape import Pull, Tape


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


SHARDINGS = ("out_sharding", "sharding")
"""The parameters of primitives that tell how results are sharded, where traced."""


@dataclasses.dataclass(frozen=True)
class Context:
    """What a rule knows besides its operands, and what it may do to masses.

    Args:
      p: order of the norm.
      dtype: dtype of the masses, and of weights and offsets.
      tape: the operations for the reverse pass, if slopes are taken by masses; None if
        JAX takes them, by weights.
      uses: the record of the parameters' uses.
      eqn: the equation that the rule is applied to.
      callers: the equations that have called the one that it is in, outermost first.
      gates: whether clipping by constants, and products with what is clipped, have
        paths.
      custom: the rules of `register_path_rule`, as they were when it was traced.
    """

    p: float
    dtype: jnp.dtype
    tape: Tape | None
    uses: Uses
    eqn: Any = None  # JaxprEqn, but for the whole program
    callers: tuple[JaxprEqn, ...] = ()
    gates: bool = False
    custom: Mapping[str, Callable[..., Any]] = dataclasses.field(default_factory=dict)

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of the primitive."""
        return self.eqn.params

    @property
    def out_shape(self) -> tuple[int, ...]:
        """The shape of the first result."""
        return self.eqn.outvars[0].aval.shape

    def bind(self, *arrays: jax.Array, **changed: Any) -> list[jax.Array]:
        """Applies the primitive itself."""
        anywhere = {name: None for name in SHARDINGS if name in self.params}
        params = self.params | anywhere | changed
        results = self.eqn.primitive.bind(*alike(arrays), **params)
        return results if self.eqn.primitive.multiple_results else [results]

    # All that may be done to masses: it is recorded, with its slopes.

    def linear(self, function: Callable[..., jax.Array], *masses: Mass) -> Mass:
        """``function`` of the mantissas, which is linear in all of them together.

        Its coefficients are of moderate size.
        """
        parts, exponent = _mass.align(*masses)
        mantissa, transpose = self._linearized(function, parts)

        def pull(slopes: list[Mass]) -> list[Mass]:
            parts = transpose(slopes[0].mantissa)
            return [_mass.of_sum(part, slopes[0].exponent, slopes) for part in parts]

        result = _mass.of_sum(mantissa, exponent, masses)
        return self._recorded(result, masses, pull)

    def contract(self, function: Callable[..., jax.Array], x: Mass, y: Mass) -> Mass:
        """``function`` of the mantissas, which sums products of both.

        The result is freed of its magnitude. Backwards, slopes gain about as much, and
        are freed of the same.
        """
        x = _mass.in_range(x, y)
        mantissa, transpose = self._linearized(function, (x.mantissa, y.mantissa))
        product = _mass.of_product(mantissa, x, y)
        unit = _mass.unit(product)

        def pull(slopes: list[Mass]) -> list[Mass]:
            slope = _mass.in_range(slopes[0], x, y)
            slack = slope.slack + _mass.SLOPE_SLACK
            of_data, of_weight = transpose(slope.mantissa)
            leaving = _mass.of_product(of_data, slope, y)
            return [
                _mass.settled(_mass.freed(leaving, unit, slack), unit),
                _mass.slope_of_weight(of_weight, slope, x),
            ]

        result = _mass.settled(_mass.freed(product, unit), unit)
        if self.tape is None:
            return result
        return self.tape.unit(*self.tape.record([result], (x, y), pull, layer=True))

    def multiply(self, x: Mass, y: Mass) -> Mass:
        """``x * y``, elementwise."""
        x = _mass.in_range(x, y)
        mantissa, transpose = self._linearized(operator.mul, (x.mantissa, y.mantissa))

        def pull(slopes: list[Mass]) -> list[Mass]:
            slope = _mass.in_range(slopes[0], x, y)
            of_data, of_weight = transpose(slope.mantissa)
            return [
                _mass.of_product(of_data, slope, y),
                _mass.slope_of_weight(of_weight, slope, x),
            ]

        return self._recorded(_mass.of_product(mantissa, x, y), (x, y), pull)

    def add(self, x: Mass, y: Mass) -> Mass:
        """``x + y``, elementwise."""
        return self.linear(operator.add, x, y)

    def shift(self, x: Mass, edge: Mass) -> Mass:
        """``x`` with a bias, which belongs to the same unit."""
        result = self.add(x, edge)
        return result if self.tape is None else self.tape.unit(result, before=x)

    def _linearized(
        self, function: Callable[..., jax.Array], parts: Sequence[jax.Array]
    ) -> tuple[jax.Array, Any]:
        if self.tape is None:
            return function(*parts), None
        return jax.vjp(function, *alike(parts))

    def _recorded(self, result: Mass, sources: Sequence[Mass], pull: Pull) -> Mass:
        if self.tape is None:
            return result
        return self.tape.record([result], sources, pull)[0]

    # What values are made of.

    def ones(self, shape: Sequence[int]) -> Mass:
        """The masses of input units, where paths begin."""
        return _mass.of_exponent(jnp.ones(shape, self.dtype), 0)

    def leaf(self, weight: jax.Array) -> Mass:
        """The mass of a parameter, which is to have slopes."""
        mass = _mass.mass(weight, self.p)
        return mass if self.tape is None else self.tape.leaf(mass)

    def mass(self, x: Value) -> Mass:
        """The masses of all paths to ``x``, its constant part included."""
        if x.is_constant:
            return _mass.mass_of_constant(x.value.astype(self.dtype), self.p)
        if x.offset is None:
            return x.mass
        return self.shift(x.mass, self.edge(edges(x.offset)))

    def edge(self, weight: jax.Array, carrier: Mass | None = None) -> Mass:
        """The mass of an edge with this weight, and the slopes of ``carrier``."""
        edge = _mass.ordered(_mass.mass_of_constant(weight, self.p))
        if self.tape is None or carrier is None:
            return edge

        def pull(slopes: list[Mass]) -> list[Mass]:
            [part] = transpose(slopes[0].mantissa)
            return [_mass.of_sum(part, slopes[0].exponent, slopes)]

        broadcast = functools.partial(jnp.broadcast_to, shape=weight.shape)
        transpose = jax.linear_transpose(broadcast, carrier.mantissa)
        return self._recorded(edge, [carrier], pull)

    def settle(self, x: Value) -> Value:
        """``x`` with its constant part as paths."""
        if x.is_constant:
            return Value(None, self.edge(edges(x.value.astype(self.dtype))))
        return dataclasses.replace(x, mass=self.mass(x), offset=None)

    def unmasked(self, x: Value, side: int = 1, least: float = MASK) -> Value:
        """``x`` as paths, but for entries that constants keep from being the largest.

        From being the smallest, if ``side`` is -1.
        """
        if x.offset is None:
            return x
        masked = side * x.offset <= -least
        mass = self.linear(lambda part: jnp.where(masked, 0, part), x.mass)
        offset = jnp.where(masked, 0, x.offset)
        return self.settle(dataclasses.replace(x, mass=mass, offset=offset))

    def ends(self, x: Value) -> Mass:
        """The masses of outputs, of which masked ones have none."""
        return self.mass(self.unmasked(x, least=NO_EDGE))

    def bent(self, x: Value, above: float, below: float) -> Value:
        """What has these slopes on the ray of the data ``x``."""
        x, ray = self.settle(x), x.ray.bent(above, below)
        ratio = abs(ray.slope / (x.ray.slope or 1))
        if ratio == 0:
            mass = self.linear(jnp.zeros_like, x.mass)
        elif ratio == 1:
            mass = x.mass
        else:
            factor = jnp.asarray(ratio, self.dtype)
            mass = self.multiply(x.mass, _mass.mass(factor, self.p))
        return Value(None, mass, leaves=x.leaves, ray=ray)

    def map(self, function: Callable[[jax.Array], jax.Array], x: Value) -> Value:
        """Applies a linear function, with coefficients 0 and 1, to each part."""
        return dataclasses.replace(
            x,
            value=None if x.value is None else function(x.value),
            offset=None if x.offset is None else function(x.offset),
            mass=None if x.mass is None else self.linear(function, x.mass),
            ray=Ray(),
            bounds=UNBOUNDED,
            stem=None,
            terms=(),
        )

    def moved(
        self, function: Callable[[jax.Array], jax.Array], x: Value, how: Hashable
    ) -> Value:
        """Moves entries, or repeats them; ``how`` names where to."""
        terms = x.terms if x.is_weight else ()
        return dataclasses.replace(
            self.map(function, x),
            ray=x.ray.moved(how),
            bounds=x.bounds,
            stem=None if x.stem is None else (x.stem, how),
            terms=tuple(self.moved(function, term, how) for term in terms),
        )

    def shaped(self, x: Value) -> Value:
        """``x`` broadcast to the shape of the result."""
        if x.shape == self.out_shape and _shaped_alike(x):
            return x
        broadcast = functools.partial(jnp.broadcast_to, shape=self.out_shape)
        return self.moved(broadcast, x, ("broadcast", self.out_shape))


def _shaped_alike(x: Value) -> bool:
    parts = [part for part in (x.value, x.offset) if part is not None]
    return all(part.shape == x.shape for part in parts)


def edges(constant: jax.Array) -> jax.Array:
    """The weights of the edges that an added constant makes."""
    return jnp.where(jnp.abs(constant) >= NO_EDGE, 0, constant)
