"""Updates that are as long as the weights they move: trust ratios.

Lengths are taken of coordinates that no rescaling changes, ``w * sqrt(gamma)``. As a
constant factor of an array's gamma cancels, it is of no account how many paths there
are, or how many positions share a kernel.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pathsgd_optax._networks.layered.contract import sum_of_squares
from pathsgd_optax._networks.network import Factors
from pathsgd_optax._numerics.meshes import partitioned
from pathsgd_optax._numerics.scaled import (
    Scaled,
    exponent_of,
    magnitude,
    scale_by_power_of_two,
)
from pathsgd_optax._optimizers.updates import Roots, is_hidden
from pathsgd_optax._vocabulary import Params


SHORTEST = 0.1
"""Of arrays of zeros, and of short ones: the least size of their entries.

It is a part of the mean size of all entries, each entry's being that of its array.
"""


class Stretch(NamedTuple):
    """From an update to one of another length: ``x * 2**-old * factor * 2**new``."""

    old: jax.Array  # shape=(), dtype=int32
    factor: jax.Array  # shape=()
    new: jax.Array  # shape=(), dtype=int32

    def __call__(self, x: jax.Array) -> jax.Array:
        """The update, of that length."""
        unit = scale_by_power_of_two(x.astype(self.factor.dtype), -self.old)
        return scale_by_power_of_two(unit * self.factor, self.new).astype(x.dtype)


def as_long_as(params: Params, updates: optax.Updates, roots: Roots) -> optax.Updates:
    """The updates, as long as the params, array by array; without factors, as they are.

    Args:
      params: the weights, in coordinates that no rescaling changes.
      updates: what is to be added to them.
      roots: the factors that these coordinates come by.
    """
    leaves = jax.tree.leaves(updates, is_leaf=is_hidden)
    structure: Any = jax.tree.structure(updates, is_leaf=is_hidden)
    factors = structure.flatten_up_to(roots)
    pairs = zip(leaves, factors, strict=True)
    places = [k for k, (leaf, f) in enumerate(pairs) if f and not is_hidden(leaf)]
    if not places:
        return updates
    weights = structure.flatten_up_to(params)
    chosen = [[tree[k] for k in places] for tree in (leaves, weights, factors)]
    for k, stretch in zip(places, partitioned(_stretches, *chosen), strict=True):
        leaves[k] = stretch(leaves[k])
    return jax.tree.unflatten(structure, leaves)


def _stretches(
    updates: list[jax.Array], params: list[jax.Array], factors: list[Factors]
) -> list[Stretch]:
    dtype = factors[0][0].dtype
    given, lengths = ([_length(x.astype(dtype)) for x in y] for y in (updates, params))
    exponent = jnp.max(jnp.array([x.exponent for x in lengths]))
    shares = [scale_by_power_of_two(x.mantissa, x.exponent - exponent) for x in lengths]
    wanted = _wanted(jnp.array(shares), [x.size for x in params])
    return [
        _stretch(length, Scaled(mantissa, exponent))
        for length, mantissa in zip(given, wanted, strict=True)
    ]


def _wanted(lengths: jax.Array, counts: list[int]) -> jax.Array:
    """These lengths, but those of arrays whose entries are too small."""
    roots = jnp.array([math.sqrt(count) for count in counts], lengths.dtype)
    mean = jnp.sum(lengths * roots) / max(sum(counts), 1)
    return jnp.maximum(lengths, SHORTEST * mean * roots)


def _stretch(given: Scaled, wanted: Scaled) -> Stretch:
    """None where nothing has a length: a network of zeros has to start, too."""
    some = (given.mantissa != 0) & (wanted.mantissa != 0)
    factor = wanted.mantissa / jnp.where(some, given.mantissa, 1)
    exponent = jnp.where(some, wanted.exponent, given.exponent)
    return Stretch(given.exponent, jnp.where(some, factor, 1), exponent)


def _length(x: jax.Array) -> Scaled:
    """Whatever the size of the entries, whose squares may be out of range."""
    exponent = exponent_of(jnp.max(magnitude(x), initial=0))
    squares = sum_of_squares(scale_by_power_of_two(x, -exponent))
    some = squares != 0
    return Scaled(jnp.where(some, jnp.sqrt(jnp.where(some, squares, 1)), 0), exponent)
