"""What an array of a traced network is to its paths.

An array is data (it depends on the inputs), a weight (on parameters only) or a
constant. Paths enter data at the inputs; through a weight that is added they enter
from a unit whose value is always 1, as through a bias.

A constant that is added is kept apart, with its sign, while the sum is only moved or
multiplied, because what is added next may belong to the same edge: BatchNorm subtracts
``mean`` and adds ``bias`` at the end, and ``bias - mean * scale`` is one edge.
"""

import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from pathsgd_optax import _mass
from pathsgd_optax._mass import Mass, aligned


_RAYS = itertools.count()


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
      ray: a name that it shares with its multiples, and its sign among them.
    """

    value: Any  # jax.Array | None, as the others: rules know which they have got
    mass: Any = None  # Mass | None
    offset: Any = None  # jax.Array | None
    leaves: frozenset[tuple[int, int]] = dataclasses.field(
        default=frozenset(), metadata={"static": True}
    )
    uniform: float | None = dataclasses.field(default=None, metadata={"static": True})
    ray: tuple[int, int] = dataclasses.field(
        default_factory=lambda: (next(_RAYS), 1), metadata={"static": True}
    )

    @property
    def zero(self) -> bool:
        """Whether all entries are known to be 0."""
        return self.uniform == 0

    @property
    def is_infinite(self) -> bool:
        """Whether all entries are known to be infinite, as where a maximum begins."""
        return self.uniform is not None and math.isinf(self.uniform)

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
        return (self.value if self.mass is None else self.mass.mantissa).shape

    @property
    def pending(self) -> jax.Array | None:
        """The constant part that has not become a mass."""
        if self.is_constant:
            return None if self.zero or self.is_infinite else self.value
        return self.offset

    def is_multiple_of(self, other: "Value") -> bool:
        """Whether it is known to be ``other`` times something, entry by entry."""
        return self.zero or self.ray[0] == other.ray[0]

    def renamed(self) -> "Value":
        """The same array, of no known multiples."""
        return dataclasses.replace(self, ray=(next(_RAYS), 1))

    def map(self, function: Callable[[jax.Array], jax.Array]) -> "Value":
        """Applies a linear function, with coefficients 0 and 1, to each part."""
        value, offset, mass = (self.value, self.offset, self.mass)
        return dataclasses.replace(
            self,
            value=None if value is None else function(value),
            offset=None if offset is None else function(offset),
            mass=None if mass is None else mass._replace(mantissa=function(mass[0])),
            ray=(next(_RAYS), 1),
        )


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Indices:
    """Integers that depend on the inputs: good only to look weights up."""


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Where ``operand`` is positive, or negative."""

    operand: Value
    positive: bool


Operand: TypeAlias = Value | Indices | Comparison


class NoPathError(Exception):
    """An operation without path semantics; its place is added by the interpreter."""


class Uses:
    """How often, and as what, each parameter joins the data."""

    def __init__(self) -> None:
        self.times: dict[int, int] = defaultdict(int)
        self.roles: dict[int, set[str]] = defaultdict(set)

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


@dataclasses.dataclass(frozen=True)
class Context:
    """What a rule knows besides its operands.

    Args:
      p: order of the norm.
      dtype: dtype of the masses, and of weights and offsets.
      gammas: whether derivatives are taken with respect to masses, not to weights.
      uses: the record of the parameters' uses.
      eqn: the equation that the rule is applied to.
      callers: the equations that have called the one that it is in, outermost first.
    """

    p: float
    dtype: jnp.dtype
    gammas: bool
    uses: Uses
    eqn: Any = None  # JaxprEqn, but for the whole program
    callers: tuple[JaxprEqn, ...] = ()

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
        results = self.eqn.primitive.bind(*arrays, **(self.params | changed))
        return results if self.eqn.primitive.multiple_results else [results]

    def mass(self, x: Value) -> Mass:
        """The masses of all paths to ``x``, its constant part included."""
        pending = x.pending
        if x.is_constant:
            return _mass.mass(x.value.astype(self.dtype), self.p)
        return x.mass if pending is None else _mass.add(x.mass, self.edge(pending))

    def edge(self, weight: jax.Array, carrier: Mass | None = None) -> Mass:
        """The mass of an edge with this weight, and the gammas of ``carrier``."""
        edge = _mass.ordered_mass(weight, self.p)
        if not self.gammas or carrier is None:
            return edge
        slope = jnp.broadcast_to(aligned(carrier, edge.exponent), weight.shape)
        return edge._replace(mantissa=_mass.with_slope_of(edge.mantissa, slope))

    def settle(self, x: Value) -> Value:
        """``x`` with its constant part as paths."""
        return dataclasses.replace(x, mass=self.mass(x), offset=None, uniform=None)

    def shaped(self, x: Value) -> Value:
        """``x`` broadcast to the shape of the result."""
        if x.shape == self.out_shape and _shaped_alike(x):
            return x
        return x.map(lambda part: jnp.broadcast_to(part, self.out_shape))


def _shaped_alike(x: Value) -> bool:
    parts = [part for part in (x.value, x.offset) if part is not None]
    return all(part.shape == x.shape for part in parts)
