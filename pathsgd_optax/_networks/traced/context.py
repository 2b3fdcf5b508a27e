"""What rules know besides their operands, and all that they may do to masses."""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from pathsgd_optax._networks.traced import mass as _mass
from pathsgd_optax._networks.traced.bounds import UNBOUNDED
from pathsgd_optax._networks.traced.curves import Curve
from pathsgd_optax._networks.traced.mass import Mass
from pathsgd_optax._networks.traced.rays import Ray
from pathsgd_optax._networks.traced.reach import End
from pathsgd_optax._networks.traced.tape import Pull, Tape
from pathsgd_optax._networks.traced.values import (
    GATE,
    MASK,
    NO_EDGE,
    NORM,
    Debt,
    Factor,
    Logits,
    Uses,
    Value,
    is_traced,
)
from pathsgd_optax._numerics.meshes import alike


SHARDINGS = ("out_sharding", "sharding")
"""The parameters of primitives that tell how results are sharded, where traced."""


RESHAPING = frozenset("broadcast_in_dim reshape squeeze transpose".split())
"""The primitives that keep all entries, in another shape."""

PARTS = frozenset("dynamic_slice gather scan slice split unstack".split())
"""The primitives that may take some of the entries, and leave others."""


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
      gates: whether normalisations end paths, and gates multiply them.
      places: how many places the outputs have, if sizes count: look-ups have the mean
        of the paths of what they may find then, and outputs that over their places.
      custom: the rules of `register_path_rule`, as they were when it was traced.
      mixing: what equations owe that mix the examples of a batch, by their identities.
      curves: what operands are as functions of one array, by their identities.
      joined: what operands were joined of, by their identities: how, and of which.
    """

    p: float
    dtype: jnp.dtype
    tape: Tape | None
    uses: Uses
    eqn: Any = None  # JaxprEqn, but for the whole program
    callers: tuple[JaxprEqn, ...] = ()
    gates: bool = False
    places: int = 0
    custom: Mapping[str, Callable[..., Any]] = dataclasses.field(default_factory=dict)
    mixing: Mapping[int, Debt] = dataclasses.field(default_factory=dict)
    curves: dict[int, tuple[Any, Curve]] = dataclasses.field(default_factory=dict)
    joined: dict[int, tuple[Any, JaxprEqn, list[Any]]] = dataclasses.field(
        default_factory=dict
    )

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
        return self._recorded(result, masses, pull, function)

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
            slack, gain = slope.slack + _mass.SLOPE_SLACK, _mass.gain(product)
            of_data, of_weight = transpose(slope.mantissa)
            leaving = _mass.of_product(of_data, slope, y)
            return [
                _mass.settled(_mass.freed(leaving, gain, slack), gain),
                _mass.of_product(of_weight, slope, x),
            ]

        result = _mass.settled(_mass.freed(product, unit), unit)
        if self.tape is None:
            return result
        made = self.tape.record([result], (x, y), pull, layer=True, function=function)
        return self.tape.unit(*made)

    def multiply(self, x: Mass, y: Mass) -> Mass:
        """``x * y``, elementwise."""
        x = _mass.in_range(x, y)
        mantissa, transpose = self._linearized(operator.mul, (x.mantissa, y.mantissa))

        def pull(slopes: list[Mass]) -> list[Mass]:
            slope = _mass.in_range(slopes[0], x, y)
            of_data, of_weight = transpose(slope.mantissa)
            return [
                _mass.of_product(of_data, slope, y),
                _mass.of_product(of_weight, slope, x),
            ]

        product = _mass.of_product(mantissa, x, y)
        return self._recorded(product, (x, y), pull, operator.mul)

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
        parts = alike(parts)
        if not self.gates:
            return jax.vjp(function, *parts)
        # No paths run through most statistics: most of these are never transposed.
        return function(*parts), lambda slope: jax.vjp(function, *parts)[1](slope)

    def _recorded(
        self,
        result: Mass,
        sources: Sequence[Mass],
        pull: Pull,
        function: Callable[..., jax.Array],
    ) -> Mass:
        if self.tape is None:
            return result
        partial = self.eqn is not None and self.eqn.primitive.name in PARTS
        made = self.tape.record(
            [result], sources, pull, function=function, partial=partial
        )
        return made[0]

    def quiet(self) -> "Context":
        """The same one, that records nothing."""
        return dataclasses.replace(self, tape=None, uses=Uses())

    # Where paths end besides the outputs.

    def normalise(self, x: Value, mean: Mass) -> None:
        """Ends the paths to ``x``, in units of the mean of their masses."""
        self.uses.end(NORM, x.leaves)
        if self.tape is not None:
            slope = _mass.times_number(_mass.inverse(mean), self.share)
            self.tape.normalised(self.settle(x).mass, slope)

    def steer(self, factor: Factor) -> None:
        """Ends the paths of what steers a gate that is used."""
        for logits in factor.logits:
            self.uses.end(GATE, logits.value.leaves)
            if self.tape is not None:
                mass = logits.value.mass
                unit = jnp.asarray(logits.unit * self.share, self.dtype)
                if (offset := logits.value.offset) is not None:
                    unit = jnp.where(offset <= -MASK, 0, unit)
                unit = jnp.broadcast_to(unit, mass.shape)
                self.tape.steered(mass, _mass.mass(unit, 1.0))

    def output(self, x: Mass) -> End:
        """The end of the paths to the outputs."""
        return End(x, _mass.times_number(_mass.ones_like(x), self.share))

    @property
    def share(self) -> float:
        """What ends count, so that outputs count as the mean over their places."""
        return 1 / max(self.places, 1)

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
        power = _mass.mass_of_constant if carrier is None else _mass.mass
        edge = _mass.ordered(power(weight, self.p))
        if self.tape is None or carrier is None:
            return edge

        def pull(slopes: list[Mass]) -> list[Mass]:
            [part] = transpose(slopes[0].mantissa)
            return [_mass.of_sum(part, slopes[0].exponent, slopes)]

        broadcast = functools.partial(jnp.broadcast_to, shape=weight.shape)
        transpose = jax.linear_transpose(broadcast, carrier.mantissa)
        return self._recorded(edge, [carrier], pull, broadcast)

    def settle(self, x: Value) -> Value:
        """``x`` with its constant part as paths."""
        if x.is_constant:
            return Value(None, self.edge(edges(x.value.astype(self.dtype))))
        if x.offset is None:
            return x
        return dataclasses.replace(x, mass=self.mass(x), offset=None, parts=())

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
        mass = self.stretched(x.mass, abs(ray.slope / (x.ray.slope or 1)))
        bounds = (
            0.0 if ray.below <= 0 <= ray.above else -math.inf,
            0.0 if ray.above <= 0 <= ray.below else math.inf,
        )
        sides = (above / (x.ray.above or 1), below / (x.ray.below or 1))
        ratios = (min(sides), max(sides))
        parts = tuple(part.times(ratios, ratios) for part in x.parts)
        return Value(None, mass, leaves=x.leaves, ray=ray, bounds=bounds, parts=parts)

    def stretched(self, x: Mass, ratio: float) -> Mass:
        """The mass of what is this number times larger."""
        if ratio == 0:
            return self.linear(jnp.zeros_like, x)
        if ratio == 1:
            return x
        factor = jnp.asarray(ratio, self.dtype)
        return self.multiply(x, _mass.mass(factor, self.p))

    def map(self, function: Callable[[jax.Array], jax.Array], x: Value) -> Value:
        """Applies a linear function, with coefficients 0 and 1, to each part."""
        return dataclasses.replace(
            x,
            value=None if x.value is None else function(x.value),
            offset=None if x.offset is None else function(x.offset),
            mass=None if x.mass is None else self.linear(function, x.mass),
            ray=Ray(),
            bounds=UNBOUNDED,
            shifted=False,
            mixed=False,
            stem=None,
            terms=(),
            factor=None,
            centred=None,
            multiple=None,
            parts=(),
        )

    def moved(
        self, function: Callable[[jax.Array], jax.Array], x: Value, how: Hashable
    ) -> Value:
        """Moves entries, or repeats them; ``how`` names where to."""
        terms = x.terms if x.is_weight else ()
        parts = () if all(part.is_exact for part in x.parts) else x.parts
        again = functools.partial(self.moved, function, how=how)
        result = self.map(function, x)
        if self.tape is not None and x.mass is not None and _is_whole(how):
            self.tape.moved(result.mass, before=x.mass)
        return dataclasses.replace(
            result,
            ray=x.ray.moved(how),
            bounds=x.bounds,
            shifted=x.shifted,
            mixed=x.mixed,
            stem=None if x.stem is None else (x.stem, how),
            terms=tuple(map(again, terms)),
            factor=None
            if x.factor is None
            else self.moved_factor(function, x.factor, how, x.shape),
            centred=None if x.centred is None else again(x.centred),
            parts=tuple(dataclasses.replace(part, of=again(part.of)) for part in parts),
        )

    def moved_factor(
        self,
        function: Callable[[jax.Array], jax.Array],
        x: Factor,
        how: Hashable,
        shape: Sequence[int],
    ) -> Factor:
        """Moves the entries of a factor; those that are left behind steer nothing.

        But each entry of a softmax is steered by all of its logits.
        """

        def moved(array: Any) -> Any:
            return array if array is None or is_number(array) else function(array)

        def steering(logits: Logits) -> Logits:
            if _is_whole(how) or logits.value.shape != tuple(shape):
                return logits
            if x.axes and _divides(function, shape, x.axes):
                return logits
            value = self.moved(function, logits.value, how)
            return Logits(value, moved(logits.unit))

        return dataclasses.replace(
            x,
            size=moved(x.size),
            axes=x.axes if _keeps_axes(how) else (),
            logits=tuple(map(steering, x.logits)),
            mean=None if x.mean is None else _mass.sum_by(function, x.mean),
            weight=None if x.weight is None else self.moved(function, x.weight, how),
            value=moved(x.value),
        )

    def shaped(self, x: Value) -> Value:
        """``x`` broadcast to the shape of the result."""
        if x.shape == self.out_shape and _shaped_alike(x):
            return x
        broadcast = functools.partial(jnp.broadcast_to, shape=self.out_shape)
        if x.is_data and x.shape == self.out_shape:
            return dataclasses.replace(x, offset=broadcast(x.offset))
        return self.moved(broadcast, x, ("broadcast_in_dim", self.out_shape))


def _is_whole(how: Hashable) -> bool:
    """Whether it keeps all entries."""
    return isinstance(how, tuple) and how[0] in RESHAPING


def _keeps_axes(how: Hashable) -> bool:
    """Whether entries stay along the axes that they were on."""
    return isinstance(how, tuple) and how[0] in ("broadcast_in_dim", "slice", "split")


def _divides(
    function: Callable[[jax.Array], jax.Array],
    shape: Sequence[int],
    axes: tuple[int, ...],
) -> bool:
    """Whether it keeps some of the entries along these axes, and leaves others."""
    with jax.ensure_compile_time_eval():
        result, pull = jax.vjp(function, jnp.ones(shape))
        [kept] = pull(jnp.ones_like(result))
    return is_traced(kept) or bool(np.any(np.ptp(kept, axis=axes)))


def is_number(size: Any) -> bool:
    """Whether a size is that of all entries."""
    return isinstance(size, float | int)


def _shaped_alike(x: Value) -> bool:
    parts = [part for part in (x.value, x.offset) if part is not None]
    return all(part.shape == x.shape for part in parts)


def edges(constant: jax.Array) -> jax.Array:
    """The weights of the edges that an added constant makes.

    It is a product because XLA computes those, unlike choices, before it repeats them
    along an axis.
    """
    is_edge = jnp.maximum(jnp.sign(NO_EDGE - jnp.abs(constant)), 0)
    return jnp.clip(constant, -NO_EDGE, NO_EDGE) * is_edge
